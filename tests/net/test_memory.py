"""Memory that threads of a server have freed."""

from __future__ import annotations

from tests.indexes import run_python

SCRIPT = """
import threading
from skeg.net.serve.memory import share_heaps

share_heaps()
turn = threading.Barrier(9)

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

def work():
    for size in (1 << 18, 1 << 20, 3 << 20, 12 << 20, 1 << 20):
        some = [b"x" * size for _ in range(6)]
        del some
    turn.wait()
    turn.wait()

before = resident()
for _ in range(8):
    threading.Thread(target=work).start()
turn.wait()
print(resident() - before)
turn.wait()
"""


def test_threads_keep_little_of_what_they_have_freed():
    """Left to itself the C library keeps 260 MiB here."""
    assert int(run_python(SCRIPT)) < 100 << 20
