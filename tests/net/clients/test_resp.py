from __future__ import annotations

import contextlib
import inspect
import socket
import threading

import numpy as np
import pytest

from skeg.errors import NotConnected, ParameterError, ProtocolError, ServerError, VectorError
from skeg.net.clients.resp import RespClient, connect
from skeg.net.clients.types import Hit
from skeg.net.resp.encode import encode, encode_command
from tests.net.clients.fake import CLOSE, SILENCE, FakeServer

HELLO = (encode_command(["HELLO", 3]), encode({b"proto": 3}, 3))
VECTOR = np.array([1.0, 2.0], "<f4")


def cmd(*args):
    return encode_command(args)


@contextlib.contextmanager
def served(*connections, timeout=5.0):
    """A client whose server follows a script."""
    with FakeServer(*connections) as server, RespClient("127.0.0.1", server.port, timeout) as client:
        yield client


def answer(call, request, data):
    """Result of a call of a client whose server gets a request and gives a reply."""
    with served([(request, data)]) as client:
        return call(client)


def reply(value, version=3):
    return encode(value, version)


OK = b"+OK\r\n"

CALLS = [
    (lambda c: c.ping(), ["PING"], b"+PONG\r\n", b"PONG"),
    (lambda c: c.ping(b"x"), ["PING", "x"], reply(b"x"), b"x"),
    (lambda c: c.echo("\u00e9"), ["ECHO", "\u00e9"], reply("\u00e9"), b"\xc3\xa9"),
    (lambda c: c.get(b"k"), ["GET", "k"], reply(b"v"), b"v"),
    (lambda c: c.get(b"k"), ["GET", "k"], reply(None), None),
    (lambda c: c.get(b"k"), ["GET", "k"], reply(None, 2), None),
    (lambda c: c.set("k", b"\r\n"), ["SET", "k", b"\r\n"], OK, None),
    (lambda c: c.delete(b"a", b"b"), ["DEL", "a", "b"], b":1\r\n", 1),
    (lambda c: c.exists(b"a", b"a"), ["EXISTS", "a", "a"], b":2\r\n", 2),
    (lambda c: c.mget([b"a", b"b"]), ["MGET", "a", "b"], reply([b"1", None]), [b"1", None]),
    (lambda c: c.mset({b"a": b"1", b"b": b"2"}), ["MSET", "a", "1", "b", "2"], OK, None),
    (lambda c: c.append(b"k", b"v"), ["APPEND", "k", "v"], b":9\r\n", 9),
    (lambda c: c.incr(b"k"), ["INCR", "k"], b":1\r\n", 1),
    (lambda c: c.decr(b"k"), ["DECR", "k"], b":-1\r\n", -1),
    (lambda c: c.incrby(b"k", -5), ["INCRBY", "k", -5], b":-5\r\n", -5),
    (lambda c: c.decrby(b"k", 5), ["DECRBY", "k", 5], b":-5\r\n", -5),
    (
        lambda c: c.scan(7, match="a*", count=3),
        ["SCAN", 7, "MATCH", "a*", "COUNT", 3],
        reply([b"9", [b"a"]]),
        (9, [b"a"]),
    ),
    (lambda c: c.select(0), ["SELECT", 0], OK, None),
    (lambda c: c.durability(), ["SKEG.DURABILITY"], reply(b"sync"), "sync"),
    (lambda c: c.durability("os"), ["SKEG.DURABILITY", "os"], OK, "os"),
    (lambda c: c.dbsize(), ["DBSIZE"], b":3\r\n", 3),
    (lambda c: c.info("keys"), ["INFO", "keys"], reply(b"# Keys\r\na:1:2\r\n\r\nb:\r\n"), {"a": "1:2", "b": ""}),
    (lambda c: c.skeg_stats(), ["SKEG.STATS"], reply(b"x"), "x"),
    (lambda c: c.skeg_shards(), ["SKEG.SHARDS"], reply(b"x"), "x"),
    (lambda c: c.skeg_whoami(), ["SKEG.WHOAMI"], reply(b"x"), "x"),
    (lambda c: c.skeg_auth("u", "p"), ["SKEG.AUTH", "u", "p"], reply(b"x"), "x"),
    (lambda c: c.vindex_create("n", 2), ["SKEG.VINDEX.CREATE", "n", 2, "f32", "flat"], OK, None),
    (lambda c: c.vindex_create("n", 2, backend="disk"), ["SKEG.VINDEX.CREATE", "n", 2, "int8", "disk"], OK, None),
    (
        lambda c: c.vindex_create("n", 2, backend="disk", kind="tq2"),
        ["SKEG.VINDEX.CREATE", "n", 2, "tq2", "disk"],
        OK,
        None,
    ),
    (lambda c: c.vindex_drop("n"), ["SKEG.VINDEX.DROP", "n"], OK, None),
    (lambda c: c.vindex_consolidate("n"), ["SKEG.VINDEX.CONSOLIDATE", "n"], OK, None),
    (
        lambda c: c.vindex_list(),
        ["SKEG.VINDEX.LIST"],
        reply(b"name=a dim=2 kind=f32 backend=flat n_vectors=7\n"),
        [{"name": "a", "dim": "2", "kind": "f32", "backend": "flat", "n_vectors": "7"}],
    ),
    (lambda c: c.vindex_list(), ["SKEG.VINDEX.LIST"], reply(b""), []),
    (lambda c: c.vset("n", 1, VECTOR), ["SKEG.VSET", "n", 1, VECTOR.tobytes()], OK, None),
    (
        lambda c: c.vset("n", 1, iter([1, 2.0]), payload=b""),
        ["SKEG.VSET", "n", 1, VECTOR.tobytes(), "PAYLOAD", ""],
        OK,
        None,
    ),
    (
        lambda c: c.vmset("n", [(1, VECTOR.astype(np.float64), b"p"), (2, VECTOR.tobytes(), None)]),
        ["SKEG.VMSET", "n", 1, VECTOR.tobytes(), "p", 2, VECTOR.tobytes(), ""],
        b":2\r\n",
        2,
    ),
    (lambda c: c.vdel("n", 2**64 - 2), ["SKEG.VDEL", "n", 2**64 - 2], b":1\r\n", 1),
    (lambda c: c.vget("n", 1), ["SKEG.VGET", "n", 1], reply(None), None),
    (lambda c: c.vget("n", 1).tolist(), ["SKEG.VGET", "n", 1], reply(VECTOR.tobytes()), [1.0, 2.0]),
    (
        lambda c: c.vsearch("n", [1.0, 2.0]),
        ["SKEG.VSEARCH", "n", 10, 0, VECTOR.tobytes()],
        encode([b"7", 1.0, b"%d" % (2**64 - 2), 0.5], 3),
        [Hit(7, 1.0), Hit(2**64 - 2, 0.5)],
    ),
    (
        lambda c: c.vsearch("n", VECTOR, k=1, l_search=50, with_payload=True, filter="a = 1"),
        ["SKEG.VSEARCH", "n", 1, 50, VECTOR.tobytes(), "WITHPAYLOAD", "FILTER", "a = 1"],
        encode([b"7", 1.0, b"p", b"8", 0.5, None], 2),
        [Hit(7, 1.0, b"p"), Hit(8, 0.5, None)],
    ),
    (lambda c: c.vsearch("n", VECTOR), ["SKEG.VSEARCH", "n", 10, 0, VECTOR.tobytes()], b"*0\r\n", []),
    (
        lambda c: c.vsearch_many("n", [VECTOR, VECTOR], k=1),
        ["SKEG.VSEARCH", "n", 1, 0, VECTOR.tobytes() * 2, "BATCH", 2],
        b"*2\r\n" + encode([b"7", 0.5], 3) + b"*0\r\n",
        [[Hit(7, 0.5)], []],
    ),
    (lambda c: c.subject_erase(b"p"), ["SKEG.SUBJECT.ERASE", "p"], b":2\r\n", 2),
    (lambda c: c.tenant_erase("t"), ["SKEG.TENANT.ERASE", "t"], reply([1, 2]), (1, 2)),
    (lambda c: c.tenant_delete("t"), ["SKEG.TENANT.DELETE", "t"], reply([1, 2, 3]), (1, 2, 3)),
    (lambda c: c.reclaim(), ["SKEG.RECLAIM"], b":5\r\n", 5),
    (lambda c: c.quota_set("t", None, 5), ["SKEG.QUOTA.SET", "t", "*", 5], OK, None),
    (lambda c: c.quota_get("t"), ["SKEG.QUOTA.GET", "t"], reply([b"*", b"5"]), (None, 5)),
    (lambda c: c.qos_set("t", 1, None, 3), ["SKEG.QOS.SET", "t", 1, "*", 3], OK, None),
    (lambda c: c.qos_get("t"), ["SKEG.QOS.GET", "t"], reply([1, b"*", 3]), (1, None, 3)),
    (lambda c: c.execute("STRLEN", b"k"), ["STRLEN", "k"], b":1\r\n", 1),
]


@pytest.mark.parametrize(("call", "args", "data", "result"), CALLS)
def test_what_methods_send_and_return(call, args, data, result):
    assert result == answer(call, cmd(*args), data)


def test_arrays_of_hits():
    hits = encode([b"%d" % (2**64 - 2), float(np.float32(0.1))], 3)
    ids, scores = answer(
        lambda c: c.vsearch("n", VECTOR, arrays=True), cmd("SKEG.VSEARCH", "n", 10, 0, VECTOR.tobytes()), hits
    )
    assert ([2**64 - 2], np.uint64) == (ids.tolist(), ids.dtype)
    assert ([np.float32(0.1)], np.float32) == (list(scores), scores.dtype)


def test_arrays_of_hits_of_many_queries():
    request = cmd("SKEG.VSEARCH", "n", 10, 0, VECTOR.tobytes(), "FILTER", "a = 1", "BATCH", 1)
    found = answer(
        lambda c: c.vsearch_many("n", VECTOR[None], filter="a = 1", arrays=True),
        request,
        b"*1\r\n" + encode([b"5", 1.0], 2),
    )
    assert [([5], [1.0])] == [(ids.tolist(), scores.tolist()) for ids, scores in found]


BAD_CALLS = [
    (lambda c: c.delete(), ParameterError),
    (lambda c: c.exists(), ParameterError),
    (lambda c: c.execute(), ParameterError),
    (lambda c: c.incrby(b"k", 2**63), ParameterError),
    (lambda c: c.hello(4), ParameterError),
    (lambda c: c.durability("never"), ParameterError),
    (lambda c: c.vset("n", -1, VECTOR), ParameterError),
    (lambda c: c.vset("n", 2**64 - 1, VECTOR), ParameterError),
    (lambda c: c.vset("n", 1, ["x"]), VectorError),
    (lambda c: c.vset("n", 1, [[1.0]]), VectorError),
    (lambda c: c.vsearch_many("n", VECTOR), VectorError),
    (lambda c: c.vsearch_many("n", np.empty((0, 2))), VectorError),
    (lambda c: c.vsearch("n", VECTOR, k=-1), ParameterError),
    (lambda c: c.vsearch("n", VECTOR, arrays=True, with_payload=True), ParameterError),
    (lambda c: next(c.scan_iter("a", prefix="b")), ParameterError),
]


@pytest.mark.parametrize(("call", "error"), BAD_CALLS)
def test_wrong_arguments_are_refused_before_anything_is_sent(call, error):
    with served([]) as client, pytest.raises(error):
        call(client)


@pytest.mark.parametrize(
    ("call", "args", "data"),
    [
        (lambda c: c.get(b"k"), ["GET", "k"], b":1\r\n"),
        (lambda c: c.set(b"k", b"v"), ["SET", "k", "v"], b"+QUEUED\r\n"),
        (lambda c: c.incr(b"k"), ["INCR", "k"], b"#t\r\n"),
        (lambda c: c.incr(b"k"), ["INCR", "k"], b"+1\r\n"),
        (lambda c: c.mget([b"k"]), ["MGET", "k"], b"*1\r\n:1\r\n"),
        (lambda c: c.mget([b"k"]), ["MGET", "k"], b"+OK\r\n"),
        (lambda c: c.skeg_stats(), ["SKEG.STATS"], b"$1\r\n\xff\r\n"),
        (lambda c: c.scan(), ["SCAN", 0], b"*1\r\n:0\r\n"),
        (lambda c: c.tenant_erase("t"), ["SKEG.TENANT.ERASE", "t"], b"*1\r\n:0\r\n"),
        (lambda c: c.vsearch("n", VECTOR), ["SKEG.VSEARCH", "n", 10, 0, VECTOR.tobytes()], b"*2\r\n+x\r\n+y\r\n"),
        (lambda c: c.vsearch("n", VECTOR), ["SKEG.VSEARCH", "n", 10, 0, VECTOR.tobytes()], b"*1\r\n+1\r\n"),
    ],
)
def test_replies_that_a_command_does_not_have_are_protocol_errors(call, args, data):
    with pytest.raises(ProtocolError, match=f"{args[0]}: unexpected reply"):
        answer(call, cmd(*args), data)


def test_an_error_of_the_server_leaves_the_connection_usable():
    steps = [(cmd("GET", "k"), b"-ERR no\r\n"), (cmd("PING"), b"+PONG\r\n")]
    with served(steps) as client:
        with pytest.raises(ServerError, match="ERR no") as caught:
            client.get(b"k")
        assert ("ERR", "no") == (caught.value.code, caught.value.message)
        assert b"PONG" == client.ping()


def test_connect_agrees_on_a_version():
    request = cmd("HELLO", 3, "AUTH", "default", "secret")
    with FakeServer([(request, HELLO[1])]) as server, connect(port=server.port, password="secret") as client:
        assert 3 == client.version
    with FakeServer([(cmd("HELLO", 2), b"*0\r\n")]) as server, connect(port=server.port, protocol=2) as client:
        assert 2 == client.version


def test_a_wrong_password_closes_the_connection():
    steps = [(cmd("HELLO", 3, "AUTH", "bob", "x"), b"-WRONGPASS no\r\n")]
    with FakeServer(steps) as server, pytest.raises(ServerError, match="WRONGPASS no"):
        connect(port=server.port, password="x", username="bob")


def test_hello_gives_a_name():
    steps = [(cmd("HELLO", 2, "SETNAME", "me"), b"*0\r\n"), (cmd("HELLO", 3, "SETNAME", "you"), b"*0\r\n")]
    with FakeServer(steps) as server, RespClient.connect("127.0.0.1", server.port) as client:
        assert 2 == client.version
        client.hello(2, setname="me")
        client.hello(client_name="you")
        assert 3 == client.version


def test_a_server_that_is_not_there():
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    with pytest.raises(NotConnected, match=f"127.0.0.1:{port}: can't connect"):
        RespClient("127.0.0.1", port)


def test_a_dead_connection_is_made_anew_with_all_choices_before_a_write():
    choices = [
        (cmd("AUTH", "secret"), OK),
        HELLO,
        (cmd("SELECT", 0), OK),
        (cmd("CLIENT", "SETNAME", "me"), OK),
        (cmd("SKEG.DURABILITY", "os"), OK),
    ]
    first = [choices[1], choices[0], choices[3], choices[2], (cmd("CLIENT", "ID"), b":1\r\n"), choices[4]]
    with (
        FakeServer(
            [*first, (cmd("SELECT", 1), b"-ERR no\r\n"), (cmd("GET", "k"), b"$-1\r\n"), (b"", CLOSE)],
            [
                (b"".join(request for request, _ in choices), b"".join(data for _, data in choices)),
                (cmd("INCR", "k"), b":1\r\n"),
            ],
        ) as server,
        connect(port=server.port) as client,
    ):
        client.execute("AUTH", "secret")
        client.execute("CLIENT", "SETNAME", "me")
        client.select(0)
        client.execute("CLIENT", "ID")
        client.durability("os")
        with pytest.raises(ServerError):
            client.select(1)
        client.get(b"k")
        wait_until_dead(client)
        assert 1 == client.incr(b"k")


def test_reset_forgets_choices():
    with (
        FakeServer([HELLO, (cmd("RESET"), b"+RESET\r\n"), (b"", CLOSE)], [(cmd("PING"), b"+PONG\r\n")]) as server,
        connect(port=server.port) as client,
    ):
        client.execute("RESET")
        assert 2 == client.version
        wait_until_dead(client)
        client.ping()


def test_a_new_connection_that_is_refused_what_the_old_one_had_says_so():
    script = [HELLO, (b"", CLOSE)], [(HELLO[0], b"-NOAUTH no\r\n")]
    with FakeServer(*script) as server, connect(port=server.port) as client:
        wait_until_dead(client)
        with pytest.raises(ServerError, match="NOAUTH no"):
            client.ping()


def test_a_read_whose_reply_is_lost_is_repeated_once():
    get = cmd("GET", "k")
    with served([(get, CLOSE)], [(get, b"$1\r\nv\r\n")]) as client:
        assert b"v" == client.get(b"k")


def test_a_read_whose_reply_is_lost_twice_fails():
    get = cmd("GET", "k")
    lost = pytest.raises(NotConnected, match="the server closed the connection")
    with served([(get, CLOSE)], [(get, CLOSE)]) as client, lost:
        client.get(b"k")


def test_a_write_whose_reply_is_lost_is_not_repeated():
    request = cmd("INCR", "k")
    with served([(request, CLOSE)], [(cmd("GET", "k"), b"$1\r\n1\r\n")]) as client:
        with pytest.raises(NotConnected):
            client.incr(b"k")
        assert b"1" == client.get(b"k")


def test_the_end_in_the_middle_of_a_reply():
    with served([(cmd("INCR", "k"), b":1"), (b"", CLOSE)]) as client, pytest.raises(NotConnected):
        client.incr(b"k")


def test_a_reply_that_comes_too_late_is_never_taken_for_another():
    with served([(cmd("GET", "a"), SILENCE)], [(cmd("GET", "b"), b"$1\r\nb\r\n")], timeout=0.1) as client:
        with pytest.raises(NotConnected, match=r"nothing happened for 0\.1 s"):
            client.get(b"a")
        assert b"b" == client.get(b"b")


@pytest.mark.parametrize(
    ("data", "problem"),
    [(b"HTTP/1.1 400\r\n", "unknown type marker: 0x48"), (b"+OK\r\n+OK\r\n", "expected 1 replies, found 2")],
)
def test_what_is_no_reply_closes_the_connection(data, problem):
    with served([(cmd("PING"), data)], [(cmd("PING"), b"+PONG\r\n")]) as client:
        with pytest.raises(ProtocolError, match=problem):
            client.ping()
        assert b"PONG" == client.ping()


def test_pushes_are_not_replies():
    assert b"PONG" == answer(lambda c: c.ping(), cmd("PING"), b">1\r\n+x\r\n+PONG\r\n")


def test_a_closed_client_stays_closed():
    with FakeServer([]) as server:
        client = RespClient("127.0.0.1", server.port)
        client.close()
        client.close()
        assert client.closed
        with pytest.raises(NotConnected, match="the client was closed"):
            client.ping()


def test_threads_take_turns():
    with served([(cmd("PING"), b"+PONG\r\n")] * 200) as client:
        found = []
        threads = [threading.Thread(target=lambda: found.extend(client.ping() for _ in range(50))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [b"PONG"] * 200 == found


def test_scan_iter_goes_on_until_the_cursor_is_0():
    steps = [
        (cmd("SCAN", 0, "MATCH", rb"a\*\[*", "COUNT", 5), reply([b"7", [b"a*[1"]])),
        (cmd("SCAN", 7, "MATCH", rb"a\*\[*", "COUNT", 5), reply([b"3", []])),
        (cmd("SCAN", 3, "MATCH", rb"a\*\[*", "COUNT", 5), reply([b"0", [b"a*[2"]])),
        (cmd("SCAN", 0, "MATCH", "x?"), reply([b"0", []])),
    ]
    with served(steps) as client:
        assert [b"a*[1", b"a*[2"] == list(client.scan_iter(prefix="a*[", count=5))
        assert [] == list(client.scan_iter("x?"))


def test_a_pipeline_sends_together_and_reads_in_order():
    requests = cmd("SET", "k", "v") + cmd("GET", "k") + cmd("NOPE") + cmd("DBSIZE")
    steps = [(requests, b"+OK\r\n$1\r\nv\r\n-ERR no\r\n:1\r\n"), (cmd("PING"), b"+PONG\r\n")]
    with served(steps) as client:
        with client.pipeline() as pipe:
            assert pipe.set(b"k", b"v") is None
            pipe.get(b"k")
            pipe.execute("NOPE")
            pipe.dbsize()
            assert 4 == len(pipe)
            none, value, error, size = pipe.send()
            assert (None, b"v", "no", 1) == (none, value, error.message, size)
            pipe.ping()
        assert [b"PONG"] == pipe.results[4:]


def test_a_pipeline_that_an_exception_leaves_sends_nothing():
    with served([]) as client:
        pipe = client.pipeline()
        with contextlib.suppress(RuntimeError), pipe:
            pipe.set(b"k", b"v")
            raise RuntimeError
        assert [] == pipe.results


def test_a_long_pipeline_reads_between():
    """Nobody waits for the other to read first: the second command is sent when the first is answered."""
    large = b"x" * 40_000
    steps = [(cmd("ECHO", large), reply(large)), (cmd("ECHO", large), reply(large))]
    with served(steps) as client:
        with client.pipeline() as pipe:
            pipe.echo(large)
            pipe.echo(large)
        assert [large, large] == pipe.results


def test_a_pipeline_of_reads_is_repeated():
    request = cmd("GET", "a") + cmd("GET", "b")
    with served([(request, b"$1\r\na\r\n"), (b"", CLOSE)], [(request, b"$1\r\na\r\n$1\r\nb\r\n")]) as client:
        with client.pipeline() as pipe:
            pipe.get(b"a")
            pipe.get(b"b")
        assert [b"a", b"b"] == pipe.results


def test_signatures_are_those_of_the_published_client():
    """Code that was written for it goes on to work: parameters of the same names, in the same order, first."""
    published = {
        "hello": ["version", "auth", "client_name", "setname"],
        "ping": ["message"],
        "echo": ["message"],
        "get": ["key"],
        "set": ["key", "value"],
        "delete": ["keys"],
        "exists": ["keys"],
        "mget": ["keys"],
        "append": ["key", "value"],
        "mset": ["pairs"],
        "incr": ["key"],
        "decr": ["key"],
        "incrby": ["key", "delta"],
        "decrby": ["key", "delta"],
        "select": ["db"],
        "skeg_auth": ["user", "password"],
        "vindex_create": ["name", "dim", "backend", "kind"],
        "vindex_drop": ["name"],
        "vindex_consolidate": ["name"],
        "vset": ["name", "vec_id", "vector", "payload"],
        "vmset": ["name", "items"],
        "vdel": ["name", "vec_id"],
        "vsearch": ["name", "query", "k", "l_search", "with_payload", "filter"],
        "subject_erase": ["prefix"],
        "tenant_erase": ["tenant"],
        "tenant_delete": ["tenant"],
        "quota_set": ["tenant", "max_vectors", "max_disk_bytes"],
        "quota_get": ["tenant"],
        "qos_set": ["tenant", "rate", "burst", "max_concurrent"],
        "qos_get": ["tenant"],
    }
    for name, parameters in published.items():
        found = [*inspect.signature(getattr(RespClient, name)).parameters][1:]
        assert parameters == found[: len(parameters)], name


def wait_until_dead(client):
    """The server closes the connection; that takes a moment to arrive."""
    assert client._channel._link._poll.poll(5000)
