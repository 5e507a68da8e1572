"""What a server answers over the binary protocol, without sockets."""

from __future__ import annotations

import struct

import pytest

from skeg.net.binary import requests as rq
from skeg.net.binary.frames import HEADER, HEADER_BYTES, Code, Flags, Op, pack_frame
from skeg.net.binary.requests import encode_request


def floats(*numbers):
    return struct.pack(f"<{len(numbers)}f", *numbers)


def frame(request, number=1, version=1, flags=0):
    op, payload = encode_request(request)
    return pack_frame(version, op, number, payload, flags)


def answers(talk, *requests, **how):
    """What one connection is told: op and payload for each request, None for nothing."""

    async def work(sessions):
        connection, wire = sessions.open("binary")
        told = [await sessions.ask(connection, wire, request) for request in requests]
        return told, wire.is_closed

    told, is_closed = talk(work, **how)
    return [parsed(reply) if reply else None for reply in told], is_closed


def parsed(reply):
    magic, _, op, flags, _, length, reserved = HEADER.unpack_from(reply)
    assert (0x564B, 0, 0, HEADER_BYTES + length) == (magic, flags, reserved, len(reply))
    payload = reply[HEADER_BYTES:]
    return (payload[0], payload[2:].decode()) if op == Op.ERR else payload


def told(talk, *requests, **how):
    return answers(talk, *[request if isinstance(request, bytes) else frame(request) for request in requests], **how)[0]


def test_the_frames_of_the_specification(talk):
    def raw(text):
        return bytes.fromhex(text.replace(" ", ""))

    async def work(sessions):
        connection, wire = sessions.open("binary")
        return [
            await sessions.ask(connection, wire, request)
            for request in (
                raw("4b56 01 80 00000000 2a00000000000000 00000000 00000000"),
                raw("4b56 01 01 00000000 0100000000000000 05000000 00000000 0300 666f6f"),
                raw("4b56 01 02 02000000 0200000000000000 0c000000 00000000 0300 03000000 666f6f 626172"),
                raw("4b56 01 01 00000000 0100000000000000 05000000 00000000 0300 666f6f"),
                raw("4b56 01 04 00000000 0400000000000000 0b000000 00000000 02000000 0300 666f6f 0000"),
            )
        ]

    assert [
        raw("4b56 01 c0 00000000 2a00000000000000 00000000 00000000"),
        raw("4b56 01 c1 00000000 0100000000000000 0f000000 00000000 01 0d") + b"key not found",
        b"",
        raw("4b56 01 c0 00000000 0100000000000000 07000000 00000000 03000000 626172"),
        raw("4b56 01 c0 00000000 0400000000000000 0d000000 00000000 02000000 00 03000000 626172 01"),
    ] == talk(work)


def test_keys_and_values(talk):
    assert [
        b"", b"\1\0\0\0" + b"1", b"\1", b"\0", b"\1", b"\0", b"", b"\2\0\0\0\1\0", b"\2\0\0\0\0\1\0\0\0x\1", b"",
        (Code.NOT_FOUND, "key not found"),
    ] == told(
        talk, rq.Set(b"a", b"1"), rq.Get(b"a"), rq.Exists(b"a"), rq.Exists(b"b"), rq.Del(b"a"), rq.Del(b"a"),
        rq.Mset([(b"m", b"x"), (b"n", b"y")]), rq.Mexists([b"m", b"none"]), rq.Mget([b"m", b"none"]), rq.Flush(),
        rq.Get(b"a"),
    )  # fmt: skip


def test_requests_about_many_keys(talk):
    keys = [b"k%d" % i for i in range(3000)]
    found = told(
        talk,
        rq.Mset([(key, key[1:]) for key in keys]),
        rq.Mexists([*keys, b"none"]),
        rq.Mget([*keys, b"none"]),
        rq.Get(b"k2999"),
    )
    flags = struct.pack("<I", 3001)
    values = flags + b"".join(b"\0" + struct.pack("<I", len(key) - 1) + key[1:] for key in keys) + b"\1"
    assert [b"", flags + b"\1" * 3000 + b"\0", values, b"\4\0\0\x002999"] == found
    many = pack_frame(1, Op.MGET, 1, struct.pack("<I", 2**18 + 1) + bytes(2 * (2**18 + 1)))
    assert [(Code.INVALID_REQUEST, "invalid payload: mget of 262145 keys, at most 262144")] == told(talk, many)


def test_conditions_of_a_set(talk):
    missed = (Code.NOT_FOUND, "condition of the set not met")
    found, _ = answers(
        talk,
        frame(rq.Set(b"a", b"1"), flags=Flags.SET_XX),
        frame(rq.Set(b"a", b"1"), flags=Flags.SET_NX),
        frame(rq.Set(b"a", b"2"), flags=Flags.SET_NX),
        frame(rq.Set(b"a", b"3"), flags=Flags.SET_XX),
        frame(rq.Get(b"a")),
    )
    assert [missed, b"", missed, b"", b"\1\0\0\x003"] == found


@pytest.mark.parametrize("flag", [Flags.COMPRESSED_LZ4, Flags.CONTINUATION])
def test_what_would_be_misread_is_refused(talk, flag):
    (found,), _ = answers(talk, frame(rq.Set(b"a", b"1"), flags=flag))
    assert (Code.INVALID_REQUEST, "frames that are compressed or continued are not supported") == found


def test_no_reply_is_for_writes_that_succeed(talk):
    found, _ = answers(
        talk,
        frame(rq.Set(b"a", b"1"), flags=Flags.NO_REPLY),
        frame(rq.Del(b"a"), flags=Flags.NO_REPLY),
        frame(rq.Vset("none", 1, floats(1)), flags=Flags.NO_REPLY),
        frame(rq.Get(b"a"), flags=Flags.NO_REPLY),
        frame(rq.Ping(), flags=Flags.NO_REPLY),
    )
    assert [
        None,
        None,
        (Code.INTERNAL, "storage error: vindex 'none' not found"),
        (Code.NOT_FOUND, "key not found"),
        b"",
    ] == found


@pytest.mark.parametrize("version", [1, 2])
def test_vectors(talk, version):
    e1, e2 = floats(1, 0), floats(0, 1)
    requests = [
        rq.VindexCreate("v", 2, 1, 1), rq.Vset("v", 7, e1), rq.Vset("v", 2**64 - 2, e2), rq.Vsearch("v", 1, e1),
        rq.Vsearch("v", 9, e2, 50), rq.Vsearch("v", 0, e2), rq.Vget("v", 7), rq.Vget("v", 8), rq.Vdel("v", 7),
        rq.Vdel("v", 7), rq.VindexList(), rq.VindexDrop("v"), rq.VindexList(),
    ]  # fmt: skip
    found, _ = answers(talk, *(frame(request, version=version) for request in requests))
    first, second = struct.pack("<Qf", 7, 1), struct.pack("<Qf", 2**64 - 2, 1)
    assert [
        b"", b"", b"", b"\1\0\0\0" + first, b"\2\0\0\0" + second + struct.pack("<Qf", 7, 0), b"\0\0\0\0",
        b"\x08\0\0\0" + e1, (Code.NOT_FOUND, "vector not found"), b"\1", b"\0",
        b"\1\0\0\0\1\0v\2\0\0\0\1\1\1\0\0\0\0\0\0\0", b"", b"\0\0\0\0",
    ] == found  # fmt: skip


@pytest.mark.parametrize(
    ("request_", "version", "code", "text"),
    [
        (rq.VindexCreate("v", 2, 3, 1), 1, Code.INVALID_REQUEST, "unknown vindex kind 3"),
        (rq.VindexCreate("v", 2, 6, 1), 2, Code.INVALID_REQUEST, "unknown vindex kind 6"),
        (rq.VindexCreate("v", 2, 0, 2), 1, Code.INVALID_REQUEST, "unknown vindex backend 2"),
        (rq.VindexCreate("v", 0, 0, 1), 1, Code.INTERNAL, "storage error: vindex dim must be positive"),
        (rq.VindexCreate("../../v", 2, 0, 1), 1, Code.INTERNAL, "storage error: name="),
        (rq.VindexCreate("", 2, 0, 1), 1, Code.INTERNAL, "storage error: name="),
        (rq.VindexDrop("../../v"), 1, Code.INTERNAL, "storage error: "),
        (rq.VindexDrop("none"), 1, Code.INTERNAL, "storage error: vindex 'none' not found"),
        (rq.Vsearch("none", 1, floats(1)), 1, Code.INTERNAL, "storage error: vindex 'none' not found"),
        (rq.Vsearch("v", 1, floats(1)), 1, Code.INTERNAL, "storage error: vindex 'v' dim 2 but query has 1"),
        (rq.Vset("v", 1, floats(1)), 1, Code.INTERNAL, "storage error: vindex 'v' dim 2 but vector has 1"),
        (rq.Vset("v", 1, floats(1, float("nan"))), 1, Code.INTERNAL, "storage error: vectors, row 0"),
        (rq.Vset("v", 2**64 - 1, floats(1, 1)), 1, Code.INVALID_REQUEST, "id must be at most"),
        (rq.NativeHello(), 1, Code.INVALID_REQUEST, "native hello requires protocol version 2"),
        (rq.Auth(b"x"), 2, Code.INVALID_REQUEST, "AUTH <password> called without any password configured"),
    ],
)
def test_errors(talk, request_, version, code, text):
    found, is_closed = answers(talk, frame(rq.VindexCreate("v", 2, 0, 1)), frame(request_, version=version))
    assert code == found[1][0]
    assert found[1][1].startswith(text)
    assert not is_closed


def test_native_hello(talk):
    (found,), _ = answers(talk, frame(rq.NativeHello(), version=2))
    assert b"\2\x3f" == found


def test_a_payload_that_can_not_be_leaves_the_connection_usable(talk):
    found, is_closed = answers(talk, pack_frame(1, Op.GET, 1, b"\5\0a"), pack_frame(1, Op.OK, 1, b""), frame(rq.Ping()))
    assert (Code.INVALID_REQUEST, "invalid payload: key payload truncated") == found[0]
    assert (Code.INVALID_REQUEST, "op Ok not implemented") == found[1]
    assert b"" == found[2]
    assert not is_closed


def test_a_header_that_can_not_be_ends_the_connection_without_a_word(talk):
    found, is_closed = answers(talk, frame(rq.Ping()) + b"x" * HEADER_BYTES, frame(rq.Ping()))
    assert ([b"", None], True) == (found, is_closed)


def test_the_password_comes_first(talk):
    refused = (Code.INVALID_REQUEST, "Authentication required.")
    found, _ = answers(
        talk, frame(rq.Get(b"a")), frame(rq.Ping()), frame(rq.NativeHello(), version=2),
        frame(rq.Auth(b"wrong"), version=2), frame(rq.Auth(b"secret"), version=2), frame(rq.Ping()), password=b"secret",
    )  # fmt: skip
    assert [refused, refused, b"\2\x3f"] == found[:3]
    assert found[3][1].startswith("invalid username-password pair")
    assert [b"", b""] == found[4:]


@pytest.mark.parametrize("size", [None, 1, 30, 16_384, 16_500])
@pytest.mark.parametrize("is_right", [True, False])
def test_what_comes_with_the_password_may_be_large(talk, size, is_right):
    requests = [frame(rq.Auth(b"secret" if is_right else b"wrong"), version=2), frame(rq.Set(b"a", b"x" * 100_000))]
    requests += [frame(rq.Set(b"b", b"y")), frame(rq.Get(b"b"))]
    data = b"".join(requests)

    async def work(sessions):
        connection, wire = sessions.open("binary")
        for place in range(0, len(data), size or len(data)):
            connection.data_received(data[place : place + (size or len(data))])
        await sessions.settle(connection)
        return bytes(wire.written), wire.is_closed, connection.session.pending

    written, is_closed, pending = talk(work, password=b"secret")
    if is_right:
        assert (pack_frame(2, Op.OK, 1, b""), False, 0) == (written[:HEADER_BYTES], is_closed, pending)
        assert written.endswith(b"\1\0\0\0y")
    else:
        assert is_closed
        assert parsed(written)[0] == Code.INVALID_REQUEST


def test_serve_mode_refuses_writes(talk):
    told(talk, rq.Set(b"a", b"1"))
    refused = (Code.INTERNAL, "storage error: server is in serve mode (read-only)")
    writes = [rq.Set(b"a", b"2"), rq.Del(b"a"), rq.Mset([(b"a", b"2")]), rq.VindexCreate("v", 2, 0, 1)]
    writes += [rq.VindexDrop("v"), rq.Vset("v", 1, floats(1)), rq.Vdel("v", 1)]
    assert [refused] * len(writes) == told(talk, *writes, mode="r")
    assert [b"\1\0\0\x001"] == told(talk, rq.Get(b"a"), mode="r")


def test_a_reply_longer_than_readers_take_is_an_error(talk):
    big = bytes(9 << 20)
    found, _ = answers(
        talk,
        frame(rq.Set(b"a", big)),
        frame(rq.Mget([b"a", b"a"])),
        frame(rq.Mget([b"a"] * 4)),
        frame(rq.Get(b"a")),
    )
    assert b"" == found[0]
    assert [Code.INTERNAL] * 2 == [found[1][0], found[2][0]]
    assert 4 + len(big) == len(found[3])


@pytest.mark.parametrize("patience_s", [0.0, 60.0])
def test_a_pipeline_with_levels_of_durability(talk, patience_s):
    async def work(sessions):
        connection, wire = sessions.open("binary")
        data = b"".join(
            frame(rq.Set(b"k%d" % i, b"%d" % i), number=i, flags=Flags.WAIT_DURABLE * (i % 3 == 0)) for i in range(50)
        )
        return await sessions.ask(connection, wire, data + frame(rq.Get(b"k49"), number=99))

    found = talk(work, durability="none", patience_s=patience_s)
    numbers = [HEADER.unpack_from(found, place)[4] for place in range(0, 51 * HEADER_BYTES, HEADER_BYTES)]
    assert [*range(50), 99] == numbers
    assert found.endswith(b"\2\0\0\x0049")
