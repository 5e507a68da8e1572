"""Syncs by a thread without the interpreter, beside the same in Python."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import struct
import threading

import pytest

from skeg.net.engine import syncs
from tests.net.serving import eventually

pytestmark = pytest.mark.kernels

WAYS = [syncs.serve_slowly, *([syncs.serve_natively] if syncs.IS_NATIVE else [])]
WORD = struct.Struct("=i")


@contextlib.contextmanager
def serving(serve):
    """What answers descriptors, and at the end how many they were."""
    ours, theirs = socket.socketpair()
    ours.settimeout(60)
    told = []
    with theirs:
        thread = threading.Thread(target=lambda: told.append(serve(theirs)), daemon=True)
        thread.start()

        def ask(*descriptors):
            ours.sendall(b"".join(map(WORD.pack, descriptors)))
            return [WORD.unpack(ours.recv(WORD.size))[0] for _ in descriptors]

        with ours:
            yield ask, told, thread
        thread.join(60)
        assert not thread.is_alive()


@pytest.mark.parametrize("serve", WAYS)
def test_every_file_is_answered_in_turn_with_the_number_of_its_error(serve, tmp_path):
    end, other_end = os.pipe()
    with (tmp_path / "file").open("wb", buffering=0) as file, serving(serve) as (ask, told, _):
        file.write(b"some")
        good = file.fileno()
        assert [0] == ask(good)
        assert [0, errno.EINVAL, errno.EBADF, 0] == ask(good, end, 1 << 30, good)
        assert [0] * 100 == ask(*[good] * 100)
    assert [105] == told
    os.close(end)
    os.close(other_end)


@pytest.mark.parametrize("serve", WAYS)
def test_it_ends_without_anything_to_do(serve):
    with serving(serve) as (_, told, _):
        pass
    assert [0] == told


@pytest.mark.parametrize("serve", WAYS)
def test_signals_do_not_end_it(serve, tmp_path):
    seen = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: seen.append(number))
    try:
        with (tmp_path / "file").open("wb") as file, serving(serve) as (ask, told, thread):
            for count in range(1, 6):
                signal.pthread_kill(thread.ident, signal.SIGUSR1)
                eventually(lambda count=count: len(seen) == count)
                assert [0] == ask(file.fileno())
        assert [5] == told
    finally:
        signal.signal(signal.SIGUSR1, before)
