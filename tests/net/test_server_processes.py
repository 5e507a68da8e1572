"""Several processes behind one port."""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections import Counter

import pytest

from skeg.errors import NotConnected
from tests.net.serving import ServerProcess, eventually


@pytest.fixture
def server(filled):
    with ServerProcess(filled[0], "--mode", "serve", "--processes", "2", metrics=True) as server:
        yield server


def pid_of(client):
    return int(client.info("server")["process_id"])


def workers(server):
    """Processes that the log tells of."""
    return [int(pid) for pid in re.findall(r"process started number=\d+ pid=(\d+)", "".join(server.lines))]


def is_running(pid):
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        os.kill(pid, 0)
        return True
    return False


def test_connections_are_dealt_out_and_counted_together(server, filled):
    """Both processes answer the same; whichever is asked tells the sums."""
    vectors = filled[1]
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(server.client()) for _ in range(8)]
        others = [stack.enter_context(server.binary_client()) for _ in range(4)]
        pids = Counter(map(pid_of, clients))
        assert ({*workers(server)}, [4, 4]) == ({*pids}, [*pids.values()])
        assert server.process.pid not in pids
        for n, client in enumerate(clients):
            assert b"value %d" % n == client.get(f"key:{n}")
            assert [n, n] == [client.vsearch(name, vectors[n], k=1)[0].id for name in ("flat", "disk")]
        for n, client in enumerate(others):
            assert b"value %d" % n == client.get(b"key:%d" % n)
            assert n == client.vsearch("disk", vectors[n], k=1)[0].id

        def sums():
            seen = [server.get("/metrics")[1] for _ in range(2)]  # of one process and of the other
            wanted = [r'skeg_ops_total\{op="get"\} 12\n', r'skeg_ops_total\{op="vsearch"\} 20\n',
                      r"skeg_connections 12\n"]  # fmt: skip
            return all(re.search(pattern, text) for text in seen for pattern in wanted)

        eventually(sums)


def test_a_process_that_dies_is_replaced(server):
    """Clients of the other notice nothing; those of the dead one connect again."""
    with server.client() as one, server.client() as other:
        dead, alive = pid_of(one), pid_of(other)
        os.kill(dead, signal.SIGKILL)

        def try_again():
            with contextlib.suppress(NotConnected):  # one that was dealt to the process while it died
                return one.get("key:2")

        assert b"value 2" == eventually(try_again)
        assert b"value 1" == other.get("key:1")
        assert alive == pid_of(other)
        assert f"pid={dead}" in server.wait_for("process died")
        eventually(lambda: len(workers(server)) == 3)
        with server.client() as third, server.client() as fourth:
            assert {alive, workers(server)[2]} == {pid_of(third), pid_of(fourth)}
        # Idle clients don't keep them.
        assert 0 == server.stop()
    assert [] == [pid for pid in workers(server) if is_running(pid)]


def test_while_a_process_is_missing_the_others_get_all_connections(filled):
    """Here it stays missing: nobody waits for it, and neither does the end."""
    never = "import skeg.net.serve.processes as p; p.RESTART_S = 3600.0; from skeg.cli import main; main()"
    with ServerProcess(filled[0], "--mode", "serve", "--processes", "3", launcher=("-c", never)) as server:
        with server.client() as client:
            dead = pid_of(client)
            os.kill(dead, signal.SIGKILL)
            server.wait_for("process died")
        alive = {*workers(server)} - {dead}
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(server.client()) for _ in range(6)]
            assert [3, 3] == [*Counter(map(pid_of, clients)).values()]
            assert alive == {*map(pid_of, clients)}
        assert 0 == server.stop()
        assert [] == [pid for pid in alive if is_running(pid)]


def test_a_signal_to_the_whole_group(server):
    """As a terminal sends it: no process takes the place of one that was told to end."""
    for pid in [*workers(server), server.process.pid]:
        os.kill(pid, signal.SIGINT)
    assert 0 == server.wait()
    assert [] == [pid for pid in workers(server) if is_running(pid)]


def test_processes_end_when_nobody_looks_after_them(server):
    with server.client() as client:
        pid_of(client)
        assert -signal.SIGKILL == server.stop(signal.SIGKILL)
        assert 2 == "".join(server.lines).count("stopped")
