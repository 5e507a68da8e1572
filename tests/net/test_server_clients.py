"""Clients against a server that runs: redis-py, and all that ours can do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import redis

from skeg.errors import ClosedError, NotConnected, ServerError
from skeg.net.clients.aio import AsyncClient
from skeg.net.clients.pool import ConnectionPool
from skeg.net.clients.types import Hit
from tests.net.serving import PATIENCE_S, ServerProcess, eventually

E = np.eye(8, dtype=np.float32)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with ServerProcess(tmp_path_factory.mktemp("clients") / "data", "--durability", "os") as server:
        yield server


@pytest.fixture
def client(server):
    with server.client() as client:
        client.delete(*client.scan_iter(), b"nothing")
        for row in client.vindex_list():
            client.vindex_drop(row["name"])
        yield client


# --- redis-py


@pytest.mark.parametrize("protocol", ["2", "3"])
def test_what_redis_py_has_to_find(client, server, protocol):
    """The checks of tests/compat, with the parser that is installed here."""
    script = Path(__file__).parents[1] / "compat" / "redis_session.py"
    parser = "hiredis" if "Hiredis" in redis.connection.DefaultParser.__name__ else "pure"
    port = str(server.ports["resp"])
    done = subprocess.run(
        [sys.executable, script, port, protocol, parser], capture_output=True, text=True, timeout=120, check=False
    )
    assert 0 == done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("protocol", [2, 3])
def test_connections_of_redis_py(client, server, protocol):
    """A pool hands them on; each keeps its name."""
    pool = redis.ConnectionPool(port=server.ports["resp"], protocol=protocol, max_connections=3, socket_timeout=60)
    with contextlib.closing(redis.Redis(connection_pool=pool)) as r:
        assert r.client_setname("first")
        assert r.client_getname() in {"first", b"first"}
        assert r.set("k", "v")
        with r.pipeline(transaction=False) as pipe:
            for n in range(1000):
                pipe.incr("n").get("k").mset({f"m:{n}": n})
            results = pipe.execute()
        assert [*range(1, 1001)] == results[::3]
        assert ({b"v"}, {True}) == ({*results[1::3]}, {*results[2::3]})
        assert {b"m:%d" % n for n in range(1000)} == {*r.scan_iter("m:*", count=30)}
        with pytest.raises(redis.ResponseError, match="want name dim kind backend"):
            r.execute_command("SKEG.VINDEX.CREATE", "x")
    pool.disconnect()


# --- ours


def test_keys_with_the_client_of_resp(client):
    client.set("k", "v")
    client.mset({"a": "1", "b": b"\x00\r\n", "": ""})
    assert [b"v", b"1", b"\x00\r\n", None, b""] == client.mget(["k", "a", "b", "nothing", ""])
    assert [b"v", None] == [client.get("k"), client.get(memoryview(b"nothing"))]
    assert (3, 4, 2) == (client.exists("k", "k", "a", "nothing"), client.dbsize(), client.delete("k", "b", "nothing"))
    assert [1, 11, 8, 7] == [client.incr("n"), client.incrby("n", 10), client.decrby("n", 3), client.decr("n")]
    assert [2, 3] == [client.append("a", "2"), client.append("a", b"\xff")]
    assert {b"a", b"", b"n"} == {*client.scan_iter()} == {*client.scan(count=100)[1]}
    assert [[b"a"], [b"n"]] == [[*client.scan_iter("[a-m]*")], [*client.scan_iter(prefix="n")]]
    with pytest.raises(ServerError, match="not an integer"):
        client.incr("a")


def test_vectors_with_the_client_of_resp(client):
    client.vindex_create("v", 8, backend="disk", kind="f32")
    with pytest.raises(ServerError, match="already exists"):
        client.vindex_create("v", 8)
    client.vset("v", 1, E[1], payload="color=red")
    client.vset("v", 2, E[2].tobytes())
    assert 2 == client.vmset("v", [(3, [*E[3]], b"color=blue"), (4, E[1] + E[4], None)])
    assert [Hit(1, 1.0), Hit(4, pytest.approx(0.5**0.5))] == client.vsearch("v", E[1], k=2)
    found = client.vsearch("v", E[1], k=9, with_payload=True, filter="color EXISTS")
    assert [Hit(1, 1.0, b"color=red"), Hit(3, 0.0, b"color=blue")] == found
    ids, scores = client.vsearch("v", E[2], k=1, l_search=50, arrays=True)
    assert ([2], [1.0]) == (ids.tolist(), scores.tolist())
    assert [[3], [2]] == [[hit.id for hit in hits] for hits in client.vsearch_many("v", E[[3, 2]], k=1)]
    client.vindex_consolidate("v")
    np.testing.assert_array_equal(E[3], client.vget("v", 3))
    assert [1, 0, None] == [client.vdel("v", 3), client.vdel("v", 3), client.vget("v", 3)]
    expected = {"name": "v", "dim": "8", "kind": "f32", "backend": "disk", "n_vectors": "3"}
    assert [expected] == client.vindex_list()
    client.vindex_drop("v")
    with pytest.raises(ServerError, match="vindex 'v' not found"):
        client.vsearch("v", E[1])


def test_the_rest_of_the_client_of_resp(client, server):
    assert (3, b"PONG", b"hi", b"\xff") == (client.version, client.ping(), client.ping("hi"), client.echo(b"\xff"))
    client.select(0)
    assert ["os", "sync", "sync"] == [client.durability(), client.durability("sync"), client.durability()]
    assert str(server.process.pid) == client.info("server")["process_id"]
    assert client.info()["mode"] == "rw"
    assert "single-tenant" in client.skeg_whoami()
    assert "cache_bytes=" in client.skeg_stats()
    assert client.skeg_shards().startswith("shard=0 ")
    assert 3 == client.hello(3, setname="me")[b"proto"]
    client.hello(2)
    assert (2, b"me") == (client.version, client.execute("CLIENT", "GETNAME"))
    assert b"OK" == client.execute("SET", "k", 1.5)
    for refused in (
        lambda: client.select(1), lambda: client.skeg_auth("a", "b"), lambda: client.subject_erase("p"),
        lambda: client.tenant_erase("t"), lambda: client.tenant_delete("t"), client.reclaim,
        lambda: client.quota_set("t", 1, 1), lambda: client.quota_get("t"), lambda: client.qos_set("t", 1, 1, 1),
        lambda: client.qos_get("t"), lambda: client.execute("NONSENSE"),
    ):  # fmt: skip
        with pytest.raises(ServerError):
            refused()
    assert b"PONG" == client.ping()


def test_a_pipeline_of_more_than_both_sides_hold(client):
    """Large requests and large replies: neither side waits for the other."""
    value = b"x" * 100_000
    with client.pipeline() as pipe:
        for n in range(300):
            pipe.set(f"k:{n}", value)
            pipe.get(f"k:{n}")
            pipe.incr("n")
        pipe.incr("k:1")
    assert [None, value, 1] == pipe.results[:3]
    assert [None, value, 300] == pipe.results[-4:-1]
    assert "not an integer" in str(pipe.results[-1])


@pytest.mark.parametrize("version", [1, 2])
def test_everything_over_the_binary_protocol(client, server, version):
    with server.binary_client(version=version) as binary:
        binary.ping()
        binary.set(b"k", b"v", durable=True)
        binary.set(b"silent", b"s", no_reply=True)
        binary.mset({b"a": b"1", b"": b""}, durable=True)
        assert [b"v", b"s", None, b"1", b""] == binary.mget([b"k", b"silent", b"nothing", b"a", b""])
        assert [b"v", None] == [binary.get(b"k"), binary.get(b"nothing")]
        assert [True, False] == [binary.exists(b"k"), binary.exists(b"nothing")]
        assert [True, False] == [binary.delete(b"k"), binary.delete(b"k", durable=True)]
        binary.vindex_create("v", 8, "tq4" if version == 2 else "int8", "disk")
        for n in range(5):
            binary.vset("v", n, E[n], durable=n == 4)
        assert [3, [2, 1.0]] == [binary.vsearch("v", E[3], k=1)[0].id, [*binary.vsearch("v", E[2], 1, 50)[0]][:2]]
        assert [[1], 1] == [a.tolist() if a.dtype == np.uint64 else len(a)
                            for a in binary.vsearch("v", E[1], k=1, arrays=True)]  # fmt: skip
        assert E[3].tolist() == binary.vget("v", 3)
        assert [True, False, None] == [binary.vdel("v", 3), binary.vdel("v", 3, durable=True), binary.vget("v", 3)]
        (row,) = binary.vindex_list()
        assert ("v", 8, 1, 4) == (row["name"], row["dim"], row["backend"], row["n_vectors"])
        binary.flush()
        assert (3, 3) == (binary.stats()["n_keys"], sum(shard["n_keys"] for shard in binary.shards()))
        if version == 2:
            assert 2 == binary.native_hello()[0]
            assert binary.supports_kind("tq4")
        binary.vindex_drop("v")
        with pytest.raises(ServerError, match="vindex 'v' not found"):
            binary.vsearch("v", E[1])
        assert [b"1", None] == [client.get("a"), client.get("k")]


def test_the_client_for_asyncio(client, server):
    """Commands of many tasks go out together; each gets its own reply."""

    async def work():
        async with await AsyncClient.connect(port=server.ports["resp"], timeout=PATIENCE_S) as aio:
            await aio.set("k", "v")
            await aio.mset({f"k:{n}": str(n) for n in range(500)})
            found = await asyncio.gather(*[aio.get(f"k:{n}") for n in range(500)])
            assert [b"%d" % n for n in range(500)] == found
            assert [*range(1, 201)] == await asyncio.gather(*[aio.execute("INCR", "n") for _ in range(200)])
            assert [b"v", None] == await aio.mget(["k", "nothing"])
            assert (2, b"PONG", "rw") == (await aio.delete("k", "k:1"), await aio.ping(), (await aio.info())["mode"])
            await aio.execute("SKEG.VINDEX.CREATE", "v", 8, "f32", "flat")
            await aio.vset("v", 1, E[1], payload="p=1")
            assert 2 == await aio.vmset("v", [(2, E[2], None), (3, E[3], b"p=3")])
            found = await asyncio.gather(*[aio.vsearch("v", E[n], k=1, with_payload=True) for n in (1, 2, 3)])
            assert [[Hit(1, 1.0, b"p=1")], [Hit(2, 1.0)], [Hit(3, 1.0, b"p=3")]] == found
            ids, _ = await aio.vsearch("v", E[3], k=5, filter="p = 3", arrays=True)
            assert [3] == ids.tolist()
            np.testing.assert_array_equal(E[2], await aio.vget("v", 2))
            assert [1, 0, None] == [await aio.vdel("v", 2), await aio.vdel("v", 2), await aio.vget("v", 2)]
            with pytest.raises(ServerError, match="unknown command"):
                await aio.execute("NONSENSE")
        with pytest.raises(NotConnected):
            await aio.ping()

    asyncio.run(work())


def test_a_pool_lends_to_threads(client, server):
    with ConnectionPool(server.client, size=3, timeout=PATIENCE_S) as pool:

        def work():
            for _ in range(50):
                with pool.client() as mine:
                    mine.incr("n")

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with pool.client() as mine:
            assert b"400" == mine.get("n")
            eventually(lambda: int(mine.info("clients")["connected_clients"]) <= 3 + 1)
    with pytest.raises(ClosedError), pool.client():
        pass


def test_clients_connect_again_to_a_server_that_was_restarted(tmp_path):
    """With their password and choices; while it is away they say so."""
    (tmp_path / "password").write_text("s3cret")
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        port, binary_port = (sock.getsockname()[1] for sock in (one, other))
    options = ["--password-file", str(tmp_path / "password"), "--binary-port", str(binary_port)]

    def start():
        return ServerProcess(tmp_path / "data", *options, port=port)

    with contextlib.ExitStack() as stack:
        with start() as server:
            resp = stack.enter_context(server.client(password="s3cret", protocol=3))
            resp.durability("none")
            resp.execute("CLIENT", "SETNAME", "me")
            binary = stack.enter_context(server.binary_client(password="s3cret"))
            pool = stack.enter_context(ConnectionPool(lambda: server.client(password="s3cret"), size=1))
            with pool.client() as mine:
                mine.set("k", "v")
            assert b"v" == binary.get(b"k")
            runner = stack.enter_context(asyncio.Runner())
            aio = runner.run(AsyncClient.connect(port=port, password="s3cret", timeout=PATIENCE_S))
            assert b"v" == runner.run(aio.get("k"))
        for call in (lambda: resp.set("k", "w"), lambda: binary.set(b"k", b"w"), lambda: runner.run(aio.set("k", "w"))):
            with pytest.raises(NotConnected):
                call()
        with pytest.raises(NotConnected), pool.client() as mine:
            mine.get("k")
        with start():
            resp.set("k", "x")
            assert ("none", b"me", 3) == (resp.durability(), resp.execute("CLIENT", "GETNAME"), resp.version)
            assert b"x" == binary.get(b"k")
            runner.run(aio.set("k", "y"))
            with pool.client() as mine:
                assert b"y" == mine.get("k")
            runner.run(aio.close())
