"""A server does the same with uvloop and without."""

from __future__ import annotations

import shutil
import signal
import socket

import pytest

from tests.net.serving import AS_MODULE, WITHOUT_UVLOOP, ServerProcess, ask, command, eventually, read_all


@pytest.mark.parametrize("launcher", [AS_MODULE, WITHOUT_UVLOOP], ids=["uvloop", "asyncio"])
def test_reads_writes_limits_and_the_end(filled, tmp_path, launcher):
    data = shutil.copytree(filled[0], tmp_path / "data")
    settings = {"max_clients": 4, "stall_timeout_s": 1, "durability": "os"}
    with ServerProcess(data, launcher=launcher, metrics=True, **settings) as server:
        with server.client() as client, server.connect() as deaf, server.connect() as half:
            half.sendall(b"PIN")
            with client.pipeline() as pipe:
                for n in range(500):
                    pipe.set(f"new:{n}", n)
                    pipe.incr("n")
                    pipe.get(f"key:{n % 300}")
            assert [b"value %d" % (n % 300) for n in range(500)] == pipe.results[2::3]
            assert [*range(1, 501)] == pipe.results[1::3]
            assert 9 == client.vsearch("disk", filled[1][9], k=1)[0].id
            with server.binary_client() as binary, server.connect() as extra:
                assert b"value 9" == binary.get(b"key:9")
                assert b"-ERR max number of clients reached\r\n" == read_all(extra)
            client.set("large", b"x" * (1 << 20))
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
            deaf.sendall(command("GET", "large") * 200)
            assert b"" == read_all(half)
            server.wait_for("it does not take its replies")
            assert len(read_all(deaf)) < 200 << 20
            assert 200 == server.get("/readyz")[0]
        with server.connect() as sock:
            requests = command("SKEG.VINDEX.CONSOLIDATE", "disk") + command("SET", "last", 1)
            assert b"+OK\r\n" == ask(sock, command("SET", "last", 0), until=5)
            sock.sendall(requests)
            with server.client() as client:
                eventually(lambda: b"cmd=skeg.vindex.consolidate" in client.execute("CLIENT", "LIST")
                           or client.get("last") == b"1")  # fmt: skip
            server.process.send_signal(signal.SIGTERM)
            assert b"+OK\r\n+OK\r\n" == read_all(sock)
        assert 0 == server.wait()
    with ServerProcess(data, "--mode", "serve", "--processes", "2", launcher=launcher) as server:
        with server.client() as one, server.client() as other:
            assert [803] * 2 == [one.dbsize(), other.dbsize()]
            assert b"1" == one.get("last")
            assert 2 == len({client.info()["process_id"] for client in (one, other)})
        assert 0 == server.stop()
