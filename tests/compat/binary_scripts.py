"""Conversations in the binary protocol: all operations, payloads cut short everywhere, bad frames, vectors."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from tests.bench.harness import net_wire as wire
from tests.bench.harness.net_wire import frame, named, vsearch_payload, vset_payload
from tests.compat.reasons import CODED, FIRST, LISTED, NAMES, OFFERED, ONE_WAY, VECTOR_2D, VECTORS, VERSION_2, Made


def made() -> Iterator[Made]:
    ping = frame(wire.OP_PING, 42)
    yield "ping", (ping, frame(wire.OP_PING, 2**64 - 1, b"ignored"), ping + ping), None
    yield "a frame in three pieces", (ping[:5], ping[5:23], ping[23:]), None
    yield "set and get", (
        frame(wire.OP_GET, 1, named("foo")), frame(wire.OP_SET, 2, _pair("foo", b"bar")),
        frame(wire.OP_GET, 3, named("foo") + b"more"), frame(wire.OP_MGET, 4, _count("foo", "x", "foo")),
        frame(wire.OP_DEL, 5, named("foo")), frame(wire.OP_DEL, 6, named("foo")),
    ), None  # fmt: skip
    silent = (frame(wire.OP_SET, 1, _pair("a", b"1"), flags=2), frame(wire.OP_GET, 2, named("a")))
    yield "set without a reply", (*silent, frame(wire.OP_DEL, 3, named("a"))), None
    yield "delete without a reply", (*silent, frame(wire.OP_DEL, 3, named("a"), flags=2)), ONE_WAY
    yield "no keys", (frame(wire.OP_MGET, 1, _count()),), None
    yield (
        "empty key and value",
        (frame(wire.OP_SET, 1, _pair("", b"")), frame(wire.OP_GET, 2, named("")), frame(wire.OP_DEL, 3, named(""))),
        None,
    )
    for op, payload in (
        (wire.OP_GET, b""), (wire.OP_GET, b"\x05"), (wire.OP_GET, b"\x05\x00foo"), (wire.OP_DEL, b"\x05\x00foo"),
        (wire.OP_SET, b"\x00"), (wire.OP_SET, b"\x03\x00\x09\x00\x00\x00foob"), (wire.OP_MGET, b"\x01\x00"),
        (wire.OP_MGET, struct.pack("<I", 2**32 - 1)), (wire.OP_MGET, struct.pack("<IHH", 2, 0, 9)),
        (wire.OP_MGET, struct.pack("<IHB", 1, 5, 0)), (wire.OP_MGET, struct.pack("<IH", 1, 5)),
        (wire.OP_VINDEX_CREATE, b""), (wire.OP_VINDEX_CREATE, b"\x05\x00v"),
        (wire.OP_VINDEX_CREATE, named("v") + b"\x04"), (wire.OP_VINDEX_CREATE, named("v") + struct.pack("<I", 4)),
        (wire.OP_VINDEX_CREATE, named("v") + struct.pack("<IB", 4, 0)),
        (wire.OP_VINDEX_CREATE, b"\x01\x00\xff" + struct.pack("<IBB", 4, 0, 0)), (wire.OP_VINDEX_DROP, b"\x01"),
        (wire.OP_VINDEX_DROP, named("none")), (wire.OP_VSET, named("v")),
        (wire.OP_VSET, named("v") + struct.pack("<Q", 1)),
        (wire.OP_VSET, named("v") + struct.pack("<QI", 1, 4) + b"abc"),
        (wire.OP_VSET, vset_payload("none", 1, FIRST)), (wire.OP_VGET, named("v") + b"\x01"),
        (wire.OP_VGET, named("none") + struct.pack("<Q", 1)), (wire.OP_VDEL, named("v")),
        (wire.OP_VDEL, named("none") + struct.pack("<Q", 1)), (wire.OP_VSEARCH, named("v") + b"\x01"),
        (wire.OP_VSEARCH, named("v") + struct.pack("<II", 1, 2**32 - 1)),
        (wire.OP_VSEARCH, vsearch_payload("none", 1, 0, FIRST)),
        (wire.OP_VSEARCH, vsearch_payload("none", 1, 0, FIRST)[:-4]),
    ):  # fmt: skip
        yield f"op {op:#04x} with {payload!r}", (frame(op, 7, payload), ping), None
    for op in (0xC0, 0xC1, 0xC2):
        yield f"op {op:#04x}, a reply", (frame(op, 1), ping), None
    for op in (0x05, 0x06, 0x07, 0x82):
        yield f"op {op:#04x}", (frame(op, 1), ping), OFFERED
    for op in (0x00, 0x08, 0x17, 0x7F, 0xBF, 0xFF):
        yield f"op {op:#04x}, unknown", (ping, frame(op, 1), ping), None
    yield "greeting in version 1", (frame(0x84, 1), ping), VERSION_2
    yield "version 2", (frame(wire.OP_PING, 1, version=2), ping), VERSION_2
    yield "version 3", (ping, frame(wire.OP_PING, 1, version=3), ping), None
    yield "wrong magic", (ping, b"XX" + ping[2:], ping), None
    yield "an unknown flag", (ping, frame(wire.OP_PING, 1, flags=0x100), ping), None
    yield "too long", (ping, wire.HEADER.pack(wire.MAGIC, 1, wire.OP_GET, 0, 1, 16 * 2**20 + 1, 0)), None
    yield "reserved bytes", (wire.HEADER.pack(wire.MAGIC, 1, wire.OP_PING, 0, 1, 0, 77),), None
    for flag in (0x01, 0x04, 0x08, 0x40, 0x80):
        meant = "the flag for keys that exist is heeded" if flag == 0x80 else None
        requests = (frame(wire.OP_SET, 1, _pair("f", b"1"), flags=flag), frame(wire.OP_DEL, 2, named("f")))
        yield f"set with flag {flag:#04x}", requests, meant
    yield from _binary_vectors(ping)


def _binary_vectors(ping: bytes) -> Iterator[Made]:
    drop = frame(wire.OP_VINDEX_DROP, 99, named("b"))
    for backend in (0, 1):
        for kind in (0, 1, 2):
            yield f"vectors, kind {kind}, backend {backend}", (
                _create("b", 4, kind, backend),
                *[frame(wire.OP_VSET, 10 + n, vset_payload("b", n, vector)) for n, vector in enumerate(VECTORS)],
                frame(wire.OP_VSEARCH, 20, vsearch_payload("b", 3, 0, FIRST)),
                frame(wire.OP_VSEARCH, 21, vsearch_payload("b", 9, 50, FIRST)),
                frame(wire.OP_VSEARCH, 22, vsearch_payload("b", 2, 0, FIRST)[:-4]),
                frame(wire.OP_VGET, 23, named("b") + struct.pack("<Q", 1)),
                frame(wire.OP_VGET, 24, named("b") + struct.pack("<Q", 77)),
                frame(wire.OP_VDEL, 25, named("b") + struct.pack("<Q", 1)),
                frame(wire.OP_VDEL, 26, named("b") + struct.pack("<Q", 1)),
                frame(wire.OP_VSEARCH, 27, vsearch_payload("b", 2, 0, FIRST)), drop, drop,
            ), None  # fmt: skip
            listed = (_create("b", 4, kind, backend), frame(0x16, 2), drop)
            yield f"listing kind {kind}, backend {backend}", listed, LISTED if kind != backend else None
    yield "kind 3 of version 1", (_create("b", 4, 3, 0), drop), "a kind that clients of version 1 mean otherwise"
    yield "kind 9", (_create("b", 4, 9, 0), ping), CODED
    yield "backend 9", (_create("b", 4, 0, 9), ping), CODED
    yield "no dimensions", (_create("b", 0, 0, 0), ping), None
    yield "created twice", (_create("b", 4, 0, 0), _create("b", 4, 0, 0), drop), None
    yield "another dimension", (
        _create("b", 4, 0, 0), frame(wire.OP_VSET, 2, vset_payload("b", 1, VECTOR_2D)),
        frame(wire.OP_VSEARCH, 3, vsearch_payload("b", 1, 0, VECTOR_2D)), drop,
    ), None  # fmt: skip
    for name in ("a b", "a::b"):
        yield f"the name {name!r}", (_create(name, 4, 0, 0), frame(wire.OP_VINDEX_DROP, 2, named(name))), NAMES
    yield "statistics", (frame(0x81, 0x8181818181818181), frame(0x83, 0x8383838383838383)), None


def _pair(key: str, value: bytes) -> bytes:
    raw = key.encode()
    return struct.pack("<HI", len(raw), len(value)) + raw + value


def _count(*keys: str) -> bytes:
    return struct.pack("<I", len(keys)) + b"".join(map(named, keys))


def _create(name: str, dim: int, kind: int, backend: int) -> bytes:
    return frame(wire.OP_VINDEX_CREATE, 1, named(name) + struct.pack("<IBB", dim, kind, backend))
