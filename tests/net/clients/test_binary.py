"""The binary client against servers that follow a script, byte for byte."""

from __future__ import annotations

import contextlib
import inspect
import socket
import struct
import threading
import time

import numpy as np
import pytest

from skeg.errors import NotConnected, ParameterError, ProtocolError, ServerError, VectorError
from skeg.net.binary import replies, requests
from skeg.net.binary.frames import Code, Flags, Op, pack_frame
from skeg.net.clients.binary import BinaryClient, client
from skeg.net.clients.types import Hit, VectorBackend, VectorKind, VectorKindV2
from tests.net.clients.fake import CLOSE, SILENCE, FakeServer

VECTOR = struct.pack("<2f", 1, 2)


@contextlib.contextmanager
def served(*connections, timeout=5.0, version=1, password=None):
    """A client whose server follows a script."""
    with (
        FakeServer(*connections) as server,
        BinaryClient("127.0.0.1", server.port, timeout=timeout, version=version, password=password) as it,
    ):
        yield it


def ask(request, number=1, *, flags=0, version=1):
    op, payload = requests.encode_request(request)
    return pack_frame(version, op, number, payload, flags)


def ok(payload=b"", number=1, *, version=1):
    return replies.ok(version, number, payload)


def err(code=Code.INTERNAL, text="storage error: x", number=1, *, version=1):
    return replies.err(version, number, code, text)


NOT_FOUND = err(Code.NOT_FOUND, "key not found")

FIGURES = replies.Figures(1, 2, 3, 4)
STATS = {"cache_bytes": 1, "cache_evictions": 2, "n_keys": 3, "cache_budget": 4}
ROWS = [replies.IndexRow("v", 2, 1, 0, 9), replies.IndexRow("w", 3, 0, 1, 0)]
HITS = replies.encode_hits([7, 2**64 - 2], [1.0, 0.1])

CALLS = [
    (lambda c: c.ping(), requests.Ping(), ok(), None),
    (lambda c: c.get(b"k"), requests.Get(b"k"), ok(replies.encode_value(b"v")), b"v"),
    (lambda c: c.get(b""), requests.Get(b""), ok(replies.encode_value(b"")), b""),
    (lambda c: c.get(b"k"), requests.Get(b"k"), NOT_FOUND, None),
    (lambda c: c.set(b"k", b"v"), requests.Set(b"k", b"v"), ok(), None),
    (lambda c: c.delete(b"k"), requests.Del(b"k"), ok(b"\1"), True),
    (lambda c: c.delete(b"k"), requests.Del(b"k"), ok(b"\0"), False),
    (lambda c: c.delete(b"k"), requests.Del(b"k"), NOT_FOUND, False),
    (lambda c: c.exists(b"k"), requests.Exists(b"k"), ok(b"\1"), True),
    (
        lambda c: c.mget(iter([b"a", b"b"])),
        requests.Mget([b"a", b"b"]),
        ok(replies.encode_values([b"1", None])),
        [b"1", None],
    ),
    (lambda c: c.mset({b"a": b"1", b"b": b""}), requests.Mset([(b"a", b"1"), (b"b", b"")]), ok(), None),
    (lambda c: c.flush(), requests.Flush(), ok(), None),
    (lambda c: c.stats(), requests.Stats(), ok(replies.encode_stats(FIGURES)), STATS),
    (lambda c: c.shards(), requests.Shards(), ok(replies.encode_shards([FIGURES])), [{"shard_id": 0, **STATS}]),
    (lambda c: c.vindex_create("v", 4), requests.VindexCreate("v", 4, 1, 0), ok(), None),
    (lambda c: c.vindex_create("v", 4, "F32", "Disk"), requests.VindexCreate("v", 4, 0, 1), ok(), None),
    (lambda c: c.vindex_create("v", 4, "pq"), requests.VindexCreate("v", 4, 3, 0), ok(), None),
    (
        lambda c: c.vindex_create("v", 4, VectorKind.BINARY, VectorBackend.DISK_VAMANA),
        requests.VindexCreate("v", 4, 2, 1),
        ok(),
        None,
    ),
    (lambda c: c.vindex_drop("é"), requests.VindexDrop("é"), ok(), None),
    (
        lambda c: c.vindex_list(),
        requests.VindexList(),
        ok(replies.encode_indexes(ROWS)),
        [
            {"name": "v", "dim": 2, "kind": 1, "backend": 0, "n_vectors": 9},
            {"name": "w", "dim": 3, "kind": 0, "backend": 1, "n_vectors": 0},
        ],
    ),
    (lambda c: c.vset("v", 7, [1, 2]), requests.Vset("v", 7, VECTOR), ok(), None),
    (lambda c: c.vset("v", 7, VECTOR), requests.Vset("v", 7, VECTOR), ok(), None),
    (lambda c: c.vset("v", 7, np.array([1, 2], np.float64)), requests.Vset("v", 7, VECTOR), ok(), None),
    (lambda c: c.vset("v", 7, (x for x in (1, 2))), requests.Vset("v", 7, VECTOR), ok(), None),
    (lambda c: c.vget("v", 7), requests.Vget("v", 7), ok(replies.encode_value(VECTOR)), [1.0, 2.0]),
    (lambda c: c.vget("v", 7), requests.Vget("v", 7), err(Code.NOT_FOUND, "vector not found"), None),
    (lambda c: c.vdel("v", 7), requests.Vdel("v", 7), ok(b"\1"), True),
    (lambda c: c.vdel("v", 7), requests.Vdel("v", 7), NOT_FOUND, False),
    (
        lambda c: c.vsearch("v", [1, 2]),
        requests.Vsearch("v", 10, VECTOR, 0),
        ok(HITS),
        [Hit(7, 1.0, None), Hit(2**64 - 2, float(np.float32(0.1)), None)],
    ),
    (
        lambda c: c.vsearch("v", VECTOR, 3, 50),
        requests.Vsearch("v", 3, VECTOR, 50),
        ok(replies.encode_hits([], [])),
        [],
    ),
]

DURABLE = [
    (lambda c: c.set(b"k", b"v", durable=True), requests.Set(b"k", b"v"), ok()),
    (lambda c: c.mset({b"k": b"v"}, durable=True), requests.Mset([(b"k", b"v")]), ok()),
    (lambda c: c.delete(b"k", durable=True), requests.Del(b"k"), ok(b"\1")),
    (lambda c: c.vset("v", 7, VECTOR, durable=True), requests.Vset("v", 7, VECTOR), ok()),
    (lambda c: c.vdel("v", 7, durable=True), requests.Vdel("v", 7), ok(b"\1")),
]

READS = [
    (lambda c: c.ping(), requests.Ping(), b""),
    (lambda c: c.get(b"k"), requests.Get(b"k"), replies.encode_value(b"v")),
    (lambda c: c.exists(b"k"), requests.Exists(b"k"), b"\1"),
    (lambda c: c.mget([b"k"]), requests.Mget([b"k"]), replies.encode_values([None])),
    (lambda c: c.vget("v", 1), requests.Vget("v", 1), replies.encode_value(VECTOR)),
    (lambda c: c.vsearch("v", VECTOR), requests.Vsearch("v", 10, VECTOR, 0), replies.encode_hits([1], [1.0])),
    (lambda c: c.vindex_list(), requests.VindexList(), replies.encode_indexes([])),
    (lambda c: c.stats(), requests.Stats(), replies.encode_stats(FIGURES)),
    (lambda c: c.shards(), requests.Shards(), replies.encode_shards([])),
]

WRITES = [
    (lambda c: c.set(b"k", b"v"), requests.Set(b"k", b"v")),
    (lambda c: c.mset({b"k": b"v"}), requests.Mset([(b"k", b"v")])),
    (lambda c: c.delete(b"k"), requests.Del(b"k")),
    (lambda c: c.vset("v", 1, VECTOR), requests.Vset("v", 1, VECTOR)),
    (lambda c: c.vdel("v", 1), requests.Vdel("v", 1)),
    (lambda c: c.vindex_create("v", 2), requests.VindexCreate("v", 2, 1, 0)),
    (lambda c: c.vindex_drop("v"), requests.VindexDrop("v")),
    (lambda c: c.flush(), requests.Flush()),
]


# Requests and results


@pytest.mark.parametrize(("call", "request_", "data", "result"), CALLS)
def test_calls_send_requests_and_return_what_replies_say(call, request_, data, result):
    with served([(ask(request_), data)]) as it:
        found = call(it)
    assert (type(result), result) == (type(found), found)


@pytest.mark.parametrize(("call", "request_", "data"), DURABLE)
def test_writes_may_ask_to_be_durable(call, request_, data):
    with served([(ask(request_, flags=Flags.WAIT_DURABLE), data)]) as it:
        call(it)


def test_version_2_is_spoken_with_its_kinds():
    create = requests.VindexCreate("v", 4, 4, 0)
    steps = [
        (ask(requests.NativeHello(), 1, version=2), ok(b"\2\x17", 1, version=2)),
        (ask(requests.NativeHello(), 2, version=2), ok(b"\2\x17", 2, version=2)),
        (ask(requests.NativeHello(), 3, version=2), ok(b"\2\x17", 3, version=2)),
        (ask(create, 4, version=2), ok(b"", 4, version=2)),
        (ask(create, 5, version=2), ok(b"", 5, version=2)),
    ]
    with served(steps, version=2) as it:
        assert (2, 0b010111) == it.native_hello()
        assert it.supports_kind("tq2")
        assert not it.supports_kind(VectorKindV2.TQ1)
        it.vindex_create("v", 4, "tq2")
        it.vindex_create("v", 4, VectorKindV2.TQ2)
        assert 2 == it.version


def test_hits_come_as_arrays():
    with served([(ask(requests.Vsearch("v", 2, VECTOR, 0)), ok(HITS))]) as it:
        ids, scores = it.vsearch("v", VECTOR, 2, arrays=True)
    assert (np.uint64, np.float32) == (ids.dtype, scores.dtype)
    assert ([7, 2**64 - 2], [np.float32(1), np.float32(0.1)]) == (ids.tolist(), [*scores])


def test_nothing_is_asked_about_no_keys():
    with served([]) as it:
        assert [] == it.mget([])
        it.mset({})


def test_replies_may_come_in_pieces():
    value = bytes(range(256)) * 1000
    reply = ok(replies.encode_value(value))
    steps = [(ask(requests.Get(b"k")), reply[:1]), *((b"", reply[a:b]) for a, b in ((1, 24), (24, 30), (30, None)))]
    with served(steps) as it:
        assert value == it.get(b"k")


def test_requests_are_numbered_from_1():
    steps = [(ask(requests.Ping(), number), ok(b"", number)) for number in (1, 2, 3)]
    with served(steps) as it:
        for _ in steps:
            it.ping()


# Errors of the server


@pytest.mark.parametrize(
    ("code", "name"), [(1, "NOT_FOUND"), (2, "INVALID_REQUEST"), (3, "INTERNAL"), (0, "0x00"), (0xFE, "0xFE")]
)
def test_errors_have_the_name_of_their_code(code, name):
    steps = [(ask(requests.Set(b"k", b"v")), err(code, "no")), (ask(requests.Ping(), 2), ok(b"", 2))]
    with served(steps) as it:
        with pytest.raises(ServerError) as caught:
            it.set(b"k", b"v")
        assert ("no", name) == (caught.value.message, caught.value.code)
        it.ping()


def test_only_not_found_means_none():
    with served([(ask(requests.Get(b"k")), err())]) as it, pytest.raises(ServerError, match="storage error"):
        it.get(b"k")


# Passwords


def test_the_password_is_given_on_every_connection():
    auth = requests.Auth("pässword".encode())
    first = [(ask(auth), ok()), (ask(requests.Ping(), 2), CLOSE)]
    second = [(ask(auth, 3), ok(b"", 3)), (ask(requests.Ping(), 4), ok(b"", 4))]
    with served(first, second, password="pässword") as it:
        it.ping()


def test_a_wrong_password_is_an_error_of_connecting():
    text = "invalid username-password pair or user is disabled."
    steps = [(ask(requests.Auth(b"x")), err(Code.INVALID_REQUEST, text))]
    with FakeServer(steps) as server, pytest.raises(ServerError, match="invalid username-password pair"):
        BinaryClient.connect("127.0.0.1", server.port, password="x")


# Broken connections


@pytest.mark.parametrize(("call", "request_", "data"), READS)
def test_a_read_is_repeated_once_on_a_new_connection(call, request_, data):
    with served([(ask(request_), CLOSE)], [(ask(request_, 2), ok(data, 2))]) as it:
        call(it)
    with served([(ask(request_), CLOSE)], [(ask(request_, 2), CLOSE)]) as it, pytest.raises(NotConnected):
        call(it)


def test_a_read_is_repeated_when_half_of_its_reply_came():
    reply = ok(replies.encode_value(b"value"))
    half = [(ask(requests.Get(b"k")), reply[:30]), (b"", CLOSE)]
    with served(half, [(ask(requests.Get(b"k"), 2), ok(replies.encode_value(b"new"), 2))]) as it:
        assert b"new" == it.get(b"k")


@pytest.mark.parametrize(("call", "request_"), WRITES)
def test_a_write_whose_fate_is_unknown_is_not_repeated(call, request_):
    with served([(ask(request_), CLOSE)], [(ask(requests.Ping(), 2), ok(b"", 2))]) as it:
        with pytest.raises(NotConnected):
            call(it)
        it.ping()


def test_a_connection_that_was_closed_meanwhile_is_made_anew_before_a_write():
    first = [(ask(requests.Ping()), ok()), (b"", CLOSE)]
    with served(first, [(ask(requests.Set(b"k", b"v"), 2), ok(b"", 2))]) as it:
        it.ping()
        wait_for_something(it)
        it.set(b"k", b"v")


def test_a_reply_that_does_not_come_in_time_closes_the_connection():
    with served([(ask(requests.Ping()), SILENCE)], [(ask(requests.Ping(), 2), ok(b"", 2))], timeout=0.05) as it:
        with pytest.raises(NotConnected, match=r"nothing happened for 0\.05 s"):
            it.ping()
        it._channel._peer = (*it._channel._peer[:2], 5.0)
        it.ping()


def test_nobody_listens():
    with FakeServer() as server:
        pass
    with pytest.raises(NotConnected, match="can't connect"):
        client("127.0.0.1", server.port)


def test_a_closed_client_stays_closed():
    with served([]) as it:
        assert not it.closed
        it.close()
        it.close()
        assert it.closed
        with pytest.raises(NotConnected, match="the client was closed"):
            it.ping()


# Replies that are none

NONSENSE = [
    ok(b"", 2),
    err(number=2),
    err(number=0),
    ok(version=2),
    pack_frame(1, Op.PING, 1, b""),
    pack_frame(1, Op.CONTINUED, 1, b""),
    ok() + ok(),
    ok() + ok(b"", 2),
    b"-ERR not the binary protocol\r\n",
    pack_frame(1, Op.OK, 1, b"")[:16] + b"\xff\xff\xff\xff" + bytes(4),
]


@pytest.mark.parametrize("data", NONSENSE, ids=range(len(NONSENSE)))
def test_what_is_not_the_reply_closes_the_connection(data):
    with served([(ask(requests.Ping()), data)], [(ask(requests.Ping(), 2), ok(b"", 2))]) as it:
        with pytest.raises(ProtocolError):
            it.ping()
        it.ping()


def test_a_payload_that_is_too_short_is_an_error():
    with served([(ask(requests.Get(b"k")), ok(b"\5\0\0\0abc"))]) as it, pytest.raises(ProtocolError, match="reply"):
        it.get(b"k")


def test_a_connection_on_which_something_came_unasked_is_not_used():
    with socket.create_server(("127.0.0.1", 0)) as server, BinaryClient("127.0.0.1", server.getsockname()[1]) as it:
        accepted, _ = server.accept()
        with accepted:
            thread = threading.Thread(target=lambda: (accepted.recv(100), accepted.sendall(ok())))
            thread.start()
            it.ping()
            thread.join()
            accepted.sendall(ok(replies.encode_value(b"stray"), 2))
            wait_for_something(it)
            thread = threading.Thread(target=answer_next, args=(server, ok(replies.encode_value(b"v"), 2)))
            thread.start()
            assert b"v" == it.get(b"k")
            thread.join()


def wait_for_something(it):
    while it._channel._link.is_quiet():
        time.sleep(0.001)


def answer_next(server, data):
    connection, _ = server.accept()
    with connection:
        connection.recv(100)
        connection.sendall(data)


# Requests without reply


def quiet(number, key=b"k"):
    return ask(requests.Set(key, b"v"), number, flags=Flags.NO_REPLY)


def test_a_set_may_want_no_reply():
    durable = ask(requests.Set(b"k", b"v"), 2, flags=Flags.NO_REPLY | Flags.WAIT_DURABLE)
    with served([(quiet(1) + durable, b""), (ask(requests.Ping(), 3), ok(b"", 3))]) as it:
        it.set(b"k", b"v", no_reply=True)
        it.set(b"k", b"v", no_reply=True, durable=True)
        it.ping()


def test_refusals_of_what_wanted_no_reply_are_passed_over():
    refusals = err(number=2) + err(number=3)
    steps = [
        (ask(requests.Ping()), ok()),
        (quiet(2) + quiet(3), b""),
        (ask(requests.Get(b"k"), 4), refusals + ok(replies.encode_value(b"v"), 4)),
        (ask(requests.Ping(), 5), ok(b"", 5)),
    ]
    with served(steps) as it:
        it.ping()
        it.set(b"k", b"v", no_reply=True)
        it.set(b"k", b"v", no_reply=True)
        assert b"v" == it.get(b"k")
        it.ping()


def test_refusals_are_read_while_nothing_else_is_asked():
    count = 20_000
    steps = [(quiet(number), err(text="x" * 255, number=number)) for number in range(1, count + 1)]
    with served([*steps, (ask(requests.Ping(), count + 1), ok(b"", count + 1))]) as it:
        for _ in range(count):
            it.set(b"k", b"v", no_reply=True)
        it.ping()


@pytest.mark.parametrize("data", [err(number=1), err(number=4), ok(b"", 2)])
def test_other_replies_to_what_wanted_none_are_no_refusals(data):
    steps = [(ask(requests.Ping()), ok()), (quiet(2), b""), (ask(requests.Ping(), 3), data)]
    with served(steps) as it:
        it.ping()
        it.set(b"k", b"v", no_reply=True)
        with pytest.raises(ProtocolError, match="expected the reply to request"):
            it.ping()


def test_a_loss_of_what_wanted_no_reply_is_not_hidden_by_a_read():
    with served([(quiet(1) + ask(requests.Ping(), 2), CLOSE)], [(ask(requests.Ping(), 3), ok(b"", 3))]) as it:
        it.set(b"k", b"v", no_reply=True)
        with pytest.raises(NotConnected):
            it.ping()
        it.ping()


@pytest.mark.parametrize(("data", "error"), [(CLOSE, NotConnected), (ok(), ProtocolError)])
def test_an_end_after_what_wanted_no_reply_is_told_by_the_next_write(data, error):
    with served([(quiet(1), data)], [(ask(requests.Flush(), 2), ok(b"", 2))]) as it:
        it.set(b"k", b"v", no_reply=True)
        wait_for_something(it)
        with pytest.raises(error):
            it.flush()
        it.flush()


# Arguments


@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.get(bytes(65_536)),
        lambda c: c.set(b"k", bytes(16 << 20)),
        lambda c: c.vset("v", -1, VECTOR),
        lambda c: c.vset("v", 2**64 - 1, VECTOR),
        lambda c: c.vset("v", 1, b"abc"),
        lambda c: c.vsearch("v", VECTOR, -1),
        lambda c: c.vsearch("v", VECTOR, 2**32),
        lambda c: c.vsearch("v", VECTOR, 1, -1),
        lambda c: c.vindex_create("v", 2**32),
        lambda c: c.vindex_create("v", 2, "tq2"),
        lambda c: c.vindex_create("v", 2, "int8", "tape"),
        lambda c: c.vindex_create("v", 2, 256),
    ],
)
def test_what_can_not_be_sent_is_refused_at_once(call):
    with served([(ask(requests.Ping()), ok())]) as it:
        with pytest.raises(ParameterError):
            call(it)
        it.ping()


def test_vectors_are_numbers_of_one_dimension():
    with served([]) as it:
        for vector in ([[1.0]], ["x"]):
            with pytest.raises(VectorError):
                it.vset("v", 1, vector)


@pytest.mark.parametrize("version", [0, 3, "1"])
def test_other_versions_are_refused(version):
    with pytest.raises(ParameterError, match="version"):
        client(version=version)


def test_threads_take_turns():
    n = 50
    steps = [
        (ask(requests.Get(b"k"), number), ok(replies.encode_value(b"%d" % number), number))
        for number in range(1, 4 * n + 1)
    ]
    found = []
    with served(steps) as it:
        threads = [threading.Thread(target=lambda: found.extend(it.get(b"k") for _ in range(n))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [*range(1, 4 * n + 1)] == sorted(map(int, found))


def test_the_surface_is_that_of_the_published_client():
    """Methods with the parameters that callers may already use, in their order; ours come behind them."""
    published = {
        "connect": "host port timeout version", "close": "", "ping": "", "native_hello": "", "supports_kind": "kind",
        "get": "key", "set": "key value no_reply", "delete": "key", "mget": "keys",
        "vindex_create": "name dim kind backend", "vindex_drop": "name", "vindex_list": "", "stats": "", "shards": "",
        "vset": "name vec_id vector", "vget": "name vec_id", "vdel": "name vec_id", "vsearch": "name query k l_search",
    }  # fmt: skip
    for name, expected in published.items():
        names = [n for n in inspect.signature(getattr(BinaryClient, name)).parameters if n != "self"]
        assert expected.split() == names[: len(expected.split())], name
    assert ["addr", "port", "prefer_native", "version"] == [*inspect.signature(client).parameters][:4]
