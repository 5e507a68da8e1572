"""SIGTERM and Ctrl-C: what has arrived is answered, what was acknowledged is there, and the end comes."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import threading

import numpy as np
import pytest

from skeg.net.clients.resp import connect
from tests.net.serving import ServerProcess, command, eventually, read_all


@pytest.fixture
def data(filled, tmp_path):
    return shutil.copytree(filled[0], tmp_path / "data")


def arrived(client):
    """Bytes that the server has read so far."""
    return int(client.info("stats")["total_net_input_bytes"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_requests_that_have_arrived_are_answered(data, number):
    """Behind a consolidation that is under way when the signal comes, with clients that are idle or half-way."""
    query = np.eye(64, dtype=np.float32)[0].tobytes()
    with ServerProcess(data, durability="none") as server, server.client() as client:
        client.vindex_create("large", 64, backend="disk", kind="f32")
        vectors = np.random.default_rng(1).standard_normal((4000, 64)).astype(np.float32)
        for first in range(0, 4000, 500):
            client.vmset("large", [(n, vectors[n], None) for n in range(first, first + 500)])
        requests = [command("SKEG.VINDEX.CONSOLIDATE", "large")]
        requests += [command("SET", f"new:{n}", n) for n in range(50)]
        requests += [command("INCR", "counter") for _ in range(50)]
        requests += [command("SKEG.VSET", "large", 4000, query), command("SKEG.VSEARCH", "large", 1, 0, query)]
        expected = b"+OK\r\n" * 51 + b"".join(b":%d\r\n" % n for n in range(1, 51))
        expected += b"+OK\r\n" + command(4000, "1")
        with server.connect() as busy, server.connect() as half, server.connect("binary") as idle:
            half.sendall(b"*2\r\n$3\r\nGET\r\n$5\r\nke")
            before = arrived(client)
            busy.sendall(b"".join(requests))
            eventually(lambda: arrived(client) >= before + len(b"".join(requests)))
            server.process.send_signal(number)
            assert (expected, b"", b"") == (read_all(busy), read_all(half), read_all(idle))
        assert 0 == server.wait()
    assert "stopped" in server.lines[-1]
    with ServerProcess(data) as server, server.client() as client:
        assert [b"%d" % n for n in range(50)] == client.mget([f"new:{n}" for n in range(50)])
        assert (b"50", 351) == (client.get("counter"), client.dbsize())
        assert [4000, 1.0] == [*client.vsearch("large", query, k=1)[0][:2]]
        assert "large" in {row["name"] for row in client.vindex_list()}


def test_what_was_acknowledged_is_there_whatever_its_durability(data):
    """The end commits what nobody has waited for, while clients go on sending."""
    acknowledged = {}

    def write(level, sock):
        count = 0
        with contextlib.suppress(OSError), sock, sock.makefile("rb") as replies:
            sock.sendall(command("SKEG.DURABILITY", level))
            assert b"+OK\r\n" == replies.readline()
            while True:
                sock.sendall(b"".join(command("SET", f"{level}:{n}", n) for n in range(count, count + 20)))
                for _ in range(20):
                    if replies.readline() != b"+OK\r\n":
                        return
                    count += 1
                    acknowledged[level] = count

    with ServerProcess(data) as server:
        levels = ("sync", "os", "none")
        threads = [threading.Thread(target=write, args=(level, server.connect())) for level in levels]
        for thread in threads:
            thread.start()
        eventually(lambda: len(acknowledged) == 3 and min(acknowledged.values()) > 300)
        assert 0 == server.stop()
        for thread in threads:
            thread.join()
    with ServerProcess(data) as server, server.client() as client:
        for level, count in acknowledged.items():
            assert [b"%d" % n for n in range(count)] == client.mget([f"{level}:{n}" for n in range(count)])


def test_a_client_that_never_reads_does_not_keep_it(data):
    """It gets some time to take its replies, and others what they asked for."""
    value = b"v" * (1 << 20)
    with ServerProcess(data, drain_timeout_s=1) as server, server.client() as client:
        client.set("large", value)
        with server.connect() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
            deaf.sendall(command("GET", "large") * 60)
            eventually(lambda: b"cmd=get" in client.execute("CLIENT", "LIST"))
            server.process.send_signal(signal.SIGTERM)
            server.process.send_signal(signal.SIGTERM)  # who is impatient is not served worse
            assert 0 == server.wait()
            assert len(read_all(deaf)) < 60 << 20
    with ServerProcess(data) as server, server.client() as client:
        assert value == client.get("large")


def test_a_client_that_reads_late_gets_everything(data):
    """Replies that wait for their client when the signal comes are not cut off."""
    value = b"v" * (1 << 20)
    with ServerProcess(data, drain_timeout_s=60) as server, server.client() as client:
        client.set("large", value)
        with server.connect() as late:
            late.sendall(command("GET", "large") * 40)
            eventually(lambda: b"cmd=get" in client.execute("CLIENT", "LIST"))
            server.process.send_signal(signal.SIGTERM)
            server.wait_for("stopping")
            assert 40 * (b"$1048576\r\n%b\r\n" % value) == read_all(late)
        assert 0 == server.wait()


def test_nobody_is_let_in_afterwards(data):
    with ServerProcess(data) as server:
        assert 0 == server.stop()
        with pytest.raises(ConnectionError):
            connect(port=server.ports["resp"])
