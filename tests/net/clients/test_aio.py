from __future__ import annotations

import asyncio
import socket

import numpy as np
import pytest

from skeg.errors import NotConnected, ProtocolError, ServerError
from skeg.net.clients.aio import AsyncClient
from skeg.net.clients.types import Hit
from skeg.net.resp.encode import encode, encode_command
from tests.net.clients.fake import CLOSE, SILENCE, FakeServer

cmd = encode_command
HELLO = (cmd(["HELLO", 3]), encode({b"proto": 3}, 3))
VECTOR = np.array([1.0, 2.0], "<f4")


def run(use, *connections, timeout=5.0, **login):
    """Result of what a coroutine does with a client whose server follows a script."""

    async def main(port):
        async with await AsyncClient.connect("127.0.0.1", port, timeout=timeout, **login) as client:
            return await use(client)

    with FakeServer(*connections) as server:
        return asyncio.run(main(server.port))


CALLS = [
    (lambda c: c.execute("STRLEN", b"k"), ["STRLEN", "k"], b":1\r\n", 1),
    (lambda c: c.ping(), ["PING"], b"+PONG\r\n", b"PONG"),
    (lambda c: c.info(), ["INFO"], encode(b"a:1\r\n", 3), {"a": "1"}),
    (lambda c: c.get(b"k"), ["GET", "k"], b"_\r\n", None),
    (lambda c: c.set(b"k", b"v"), ["SET", "k", "v"], b"+OK\r\n", None),
    (lambda c: c.delete(b"a", b"b"), ["DEL", "a", "b"], b":2\r\n", 2),
    (lambda c: c.mget([b"a"]), ["MGET", "a"], encode([b"1"], 3), [b"1"]),
    (lambda c: c.mset({b"a": b"1"}), ["MSET", "a", "1"], b"+OK\r\n", None),
    (lambda c: c.vset("n", 1, VECTOR), ["SKEG.VSET", "n", 1, VECTOR.tobytes()], b"+OK\r\n", None),
    (lambda c: c.vmset("n", [(1, VECTOR, b"p")]), ["SKEG.VMSET", "n", 1, VECTOR.tobytes(), "p"], b":1\r\n", 1),
    (lambda c: c.vget("n", 1), ["SKEG.VGET", "n", 1], b"_\r\n", None),
    (lambda c: c.vdel("n", 1), ["SKEG.VDEL", "n", 1], b":1\r\n", 1),
    (
        lambda c: c.vsearch("n", VECTOR, k=1, filter="a = 1"),
        ["SKEG.VSEARCH", "n", 1, 0, VECTOR.tobytes(), "FILTER", "a = 1"],
        encode([b"7", 0.5], 3),
        [Hit(7, 0.5)],
    ),
]


@pytest.mark.parametrize(("call", "args", "data", "result"), CALLS)
def test_what_methods_send_and_return(call, args, data, result):
    assert result == run(call, [HELLO, (cmd(args), data)])


def test_calls_of_many_tasks_go_out_together_and_come_back_in_order():
    requests = b"".join(cmd(["GET", i]) for i in range(100))
    replies = b"".join(encode(b"%d" % i, 3) for i in range(100))

    async def use(client):
        return await asyncio.gather(*(client.get(str(i)) for i in range(100)))

    assert [b"%d" % i for i in range(100)] == run(use, [HELLO, (requests, replies)])


def test_a_task_that_is_cancelled_does_not_take_the_reply_of_another():
    async def use(client):
        first = asyncio.create_task(client.get("a"))
        second = asyncio.create_task(client.get("b"))
        await asyncio.sleep(0)
        first.cancel()
        assert b"2" == await second

    run(use, [HELLO, (cmd(["GET", "a"]) + cmd(["GET", "b"]), b"$1\r\n1\r\n$1\r\n2\r\n")])


def test_errors_of_the_server_leave_the_connection_usable():
    async def use(client):
        with pytest.raises(ServerError, match="ERR no"):
            await client.get("a")
        return await client.ping()

    assert b"PONG" == run(use, [HELLO, (cmd(["GET", "a"]), b"-ERR no\r\n"), (cmd(["PING"]), b"+PONG\r\n")])


def test_a_wrong_password():
    with pytest.raises(ServerError, match="WRONGPASS"):
        run(None, [(cmd(["HELLO", 3, "AUTH", "default", "x"]), b"-WRONGPASS no\r\n")], password="x")


def test_a_server_that_is_not_there():
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    with pytest.raises(NotConnected, match="can't connect"):
        asyncio.run(AsyncClient.connect("127.0.0.1", port))


def test_a_read_whose_reply_is_lost_is_repeated_on_a_connection_with_the_same_choices():
    choice = (cmd(["SELECT", 0]), b"+OK\r\n")

    async def use(client):
        await client.execute("SELECT", 0)
        return await asyncio.gather(client.get("a"), client.get("b"))

    gets = cmd(["GET", "a"]) + cmd(["GET", "b"])
    first, second = [HELLO, choice, (gets, CLOSE)], [HELLO, choice, (gets, b"$1\r\n1\r\n$1\r\n2\r\n")]
    assert [b"1", b"2"] == run(use, first, second)


def test_a_new_connection_that_is_refused_what_the_old_one_had_says_so():
    async def use(client):
        with pytest.raises(ServerError, match="NOAUTH no"):
            await client.get("a")

    run(use, [HELLO, (cmd(["GET", "a"]), CLOSE)], [(HELLO[0], b"-NOAUTH no\r\n")])


def test_a_write_whose_reply_is_lost_is_not_repeated():
    async def use(client):
        with pytest.raises(NotConnected, match="the server closed the connection"):
            await client.execute("INCR", "a")
        return await client.get("a")

    assert b"1" == run(use, [HELLO, (cmd(["INCR", "a"]), CLOSE)], [HELLO, (cmd(["GET", "a"]), b"$1\r\n1\r\n")])


def test_a_reply_that_comes_too_late_ends_the_connection_for_all():
    async def use(client):
        with pytest.raises(NotConnected, match=r"no reply for 0\.2 s"):
            await client.execute("INCR", "a")
        return await client.ping()

    assert b"PONG" == run(
        use, [HELLO, (cmd(["INCR", "a"]), SILENCE)], [HELLO, (cmd(["PING"]), b"+PONG\r\n")], timeout=0.2
    )


PING = (cmd(["PING"]), b"+PONG\r\n")


def test_what_is_no_reply_ends_the_connection():
    async def use(client):
        with pytest.raises(ProtocolError, match="unknown type marker: 0x48"):
            await client.ping()
        return await client.ping()

    assert b"PONG" == run(use, [HELLO, (cmd(["PING"]), b"HTTP/1.1 400\r\n")], [HELLO, PING])


def test_a_reply_that_nobody_asked_for_ends_the_connection():
    async def use(client):
        return [await client.ping(), await client.ping()]

    assert [b"PONG"] * 2 == run(use, [HELLO, (cmd(["PING"]), b"+PONG\r\n+X\r\n")], [HELLO, PING])


def test_pushes_are_not_replies():
    assert b"PONG" == run(lambda c: c.ping(), [HELLO, (cmd(["PING"]), b">1\r\n+x\r\n+PONG\r\n")])


def test_large_requests_wait_until_the_server_reads():
    value = bytes(3_000_000)

    async def use(client):
        await asyncio.gather(client.set("a", value), client.set("b", value))

    run(use, [HELLO, (cmd(["SET", "a", value]), b""), (cmd(["SET", "b", value]), b"+OK\r\n+OK\r\n")])


def test_closing_ends_what_waits():
    async def use(client):
        waiting = asyncio.create_task(client.execute("WAIT"))
        await asyncio.sleep(0.01)
        await client.close()
        with pytest.raises(NotConnected, match="the client was closed"):
            await waiting
        with pytest.raises(NotConnected, match="the client was closed"):
            await client.ping()
        assert client.closed

    run(use, [HELLO, (cmd(["WAIT"]), SILENCE)])
