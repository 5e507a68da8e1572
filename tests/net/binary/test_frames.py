"""Frames of the binary protocol: every way to cut a stream gives the same frames, and the same end."""

from __future__ import annotations

import random
import struct
import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skeg.net.binary.frames import Flags, Frame, FrameParser, Op, pack_frame
from skeg.net.limits import Limits

KNOWN_OPS = [*range(0x01, 0x08), *range(0x10, 0x17), *range(0x80, 0x86), *range(0xC0, 0xC3)]

SMALL = Limits(frame_bytes_max=100)

FRAMES = st.builds(
    Frame,
    st.sampled_from([1, 2]),
    st.sampled_from(KNOWN_OPS),
    st.integers(0, 255),
    st.integers(0, 2**64 - 1),
    st.binary(max_size=100),
)


def header(magic=0x564B, version=1, op=0x80, flags=0, request_id=1, length=0, reserved=0):
    return struct.pack("<HBBIQII", magic, version, op, flags, request_id, length, reserved)


def packed(frame):
    return pack_frame(frame.version, frame.op, frame.request_id, frame.payload, frame.flags)


def outcome(chunks, limits=SMALL):
    parser = FrameParser(limits)
    frames = [frame for chunk in chunks for frame in parser.feed(chunk)]
    return frames, parser.error, parser.pending


def twin(data, longest):
    """The same, by the table of the format: all of the stream at once, one field after another."""
    frames = []
    while len(data) >= 24:
        version, op = data[2], data[3]
        flags, request_id, length = (int.from_bytes(data[a:b], "little") for a, b in ((4, 8), (8, 16), (16, 20)))
        if data[:2] != b"KV":
            return frames, f"invalid magic: expected 0x564B, got 0x{data[1]:02X}{data[0]:02X}", 0
        if version not in {1, 2}:
            return frames, f"invalid version: expected 1 or 2, got {version}", 0
        if op not in KNOWN_OPS:
            return frames, f"unknown op code: 0x{op:02X}", 0
        if flags >= 256:
            return frames, f"invalid flags bits: 0x{flags:08X}", 0
        if length > longest:
            return frames, f"frame too large: {length} bytes (max {longest})", 0
        if len(data) < 24 + length:
            break
        frames.append((version, op, flags, request_id, data[24 : 24 + length]))
        data = data[24 + length :]
    return frames, None, len(data)


SESSION = b"".join([
    header(),
    header(op=0x01, length=5) + b"\x03\x00foo",
    header(version=2, op=0x02, flags=0x82, request_id=2**64 - 1, length=12) + b"\x03\x00\x03\x00\x00\x00foobar",
    header(op=0xC1, length=0, reserved=0xFFFFFFFF),
    header(op=0x12, length=100) + bytes(range(100)),
])  # fmt: skip


# Bytes


def test_examples_byte_for_byte():
    ping = bytes.fromhex("4b560180 00000000 2a00000000000000 00000000 00000000")
    assert ping == pack_frame(1, Op.PING, 42, b"")
    assert bytes.fromhex("4b5601c0 00000000 2a00000000000000 00000000 00000000") == pack_frame(1, Op.OK, 42, b"")
    get = bytes.fromhex("4b560101 00000000 0100000000000000 05000000 00000000 0300 666f6f")
    assert get == pack_frame(1, Op.GET, 1, b"\x03\x00foo")
    quiet = bytes.fromhex("4b560102 02000000 0200000000000000 0c000000 00000000 0300 03000000 666f6f 626172")
    assert quiet == pack_frame(1, Op.SET, 2, b"\x03\x00\x03\x00\x00\x00foobar", Flags.NO_REPLY)
    assert [
        (1, 0x80, 0, 42, b""), (1, 0x01, 0, 1, b"\x03\x00foo"), (1, 0x02, 2, 2, b"\x03\x00\x03\x00\x00\x00foobar"),
    ] == FrameParser(Limits()).feed(ping + get + quiet)  # fmt: skip


def test_ops_and_flags_have_their_numbers():
    assert KNOWN_OPS == sorted(map(int, Op))
    assert [1 << bit for bit in range(8)] == [*map(int, Flags)]
    assert ["Get", "Mexists", "VindexCreate", "NativeHello", "Continued"] == [
        op.label for op in (Op.GET, Op.MEXISTS, Op.VINDEX_CREATE, Op.NATIVE_HELLO, Op.CONTINUED)
    ]


@given(frame=FRAMES)
def test_a_frame_comes_back(frame):
    assert ([frame], None, 0) == outcome([packed(frame)])


# Chunks


def test_a_session_cut_in_two_anywhere_gives_the_same_frames():
    whole = outcome([SESSION])
    assert twin(SESSION, 100) == whole
    assert 5 == len(whole[0])
    for cut in range(len(SESSION) + 1):
        assert whole == outcome([SESSION[:cut], SESSION[cut:]]), cut


@pytest.mark.parametrize("size", [1, 2, 3, 7, 23, 24, 25, 26])
def test_a_session_in_small_chunks_gives_the_same_frames(size):
    assert outcome([SESSION]) == outcome(SESSION[at : at + size] for at in range(0, len(SESSION), size))


def test_an_incomplete_frame_is_pending_and_nothing_else():
    parser = FrameParser(SMALL)
    assert 0 == parser.pending
    for count in range(len(SESSION[24:53])):
        assert count == parser.pending
        frames = parser.feed(SESSION[24 + count : 25 + count])
    assert [(1, 0x01, 0, 1, b"\x03\x00foo")] == frames
    assert 0 == parser.pending


def test_empty_chunks_change_nothing():
    assert outcome([SESSION]) == outcome([b"", SESSION[:30], b"", SESSION[30:], b""])


# What ends a stream

BAD = {
    "magic": (header(magic=0x4B56, version=9, op=0, flags=256), "invalid magic: expected 0x564B, got 0x4B56"),
    "version": (header(version=0, op=0, flags=256, length=101), "invalid version: expected 1 or 2, got 0"),
    "newer version": (header(version=3), "invalid version: expected 1 or 2, got 3"),
    "op": (header(op=0x08, flags=256, length=101), "unknown op code: 0x08"),
    "flags": (header(flags=0x100, length=101), "invalid flags bits: 0x00000100"),
    "all flags": (header(flags=2**32 - 1), "invalid flags bits: 0xFFFFFFFF"),
    "length": (header(length=101), "frame too large: 101 bytes (max 100)"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_the_first_field_that_is_wrong_ends_the_stream_wherever_it_is_cut(name):
    bad, error = BAD[name]
    stream = SESSION + bad + SESSION
    frames = outcome([SESSION])[0]
    for cut in range(len(stream) + 1):
        assert (frames, error) == outcome([stream[:cut], stream[cut:]])[:2], cut


@pytest.mark.parametrize("op", sorted(set(range(256)) - set(KNOWN_OPS)))
def test_no_other_op_is_known(op):
    assert ([], f"unknown op code: 0x{op:02X}") == outcome([header(op=op)])[:2]


def test_a_header_is_judged_when_it_is_whole():
    parser = FrameParser(SMALL)
    assert [] == parser.feed(b"GET / HTTP/1.1\r\nHost: x")
    assert parser.error is None
    assert [] == parser.feed(b"\r")
    assert "invalid magic: expected 0x564B, got 0x4547" == parser.error


def test_nothing_is_taken_after_an_error():
    parser = FrameParser(SMALL)
    parser.feed(header(op=0))
    assert [] == parser.feed(SESSION)
    assert 0 == parser.pending


def test_limits_may_change_between_chunks():
    parser = FrameParser(Limits(frame_bytes_max=10))
    assert 1 == len(parser.feed(header(length=10) + bytes(10)))
    parser.limits = SMALL
    assert 1 == len(parser.feed(header(length=100) + bytes(100)))
    parser.limits = Limits(frame_bytes_max=10)
    assert [] == parser.feed(header(length=11))
    assert "frame too large: 11 bytes (max 10)" == parser.error


def test_what_was_too_large_is_there_with_all_that_follows():
    parser = FrameParser(Limits(frame_bytes_max=10))
    assert 1 == len(parser.feed(header(length=1) + b"x" + header(length=11)[:5]))
    assert parser.refused is None
    assert [] == parser.feed(header(length=11)[5:] + b"some")
    assert (parser.limits, header(length=11) + b"some") == (parser.refused.limits, parser.refused.rest)
    parser = FrameParser(SMALL)
    parser.feed(header(op=0))
    assert parser.error
    assert parser.refused is None


def test_sixteen_mebibytes_are_the_longest_payload():
    for length, error in ((16_777_216, None), (16_777_217, "frame too large: 16777217 bytes (max 16777216)")):
        assert ([], error) == outcome([header(length=length)], Limits())[:2]


# Hostile input


def test_an_announced_payload_takes_no_memory():
    parser = FrameParser(Limits())
    tracemalloc.start()
    parser.feed(header(length=16 << 20) + b"x")
    parser.feed(b"y")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4096
    assert 26 == parser.pending


def test_a_large_payload_in_tiny_chunks_takes_little_more_than_itself():
    payload = random.Random(1).randbytes(1 << 18)
    data = header(op=0x02, length=len(payload)) + payload
    parser = FrameParser(Limits())
    tracemalloc.start()
    frames = [frame for at in range(0, len(data), 5) for frame in parser.feed(data[at : at + 5])]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [(1, 0x02, 0, 1, payload)] == frames
    assert peak < 3 * len(payload)


@given(data=st.binary(max_size=200), cut=st.integers(0, 200))
def test_random_bytes_end_as_the_twin_says(data, cut):
    assert twin(data, 100)[:2] == outcome([data[:cut], data[cut:]])[:2]


@given(
    frames=st.lists(FRAMES, max_size=4),
    changes=st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=4),
    cuts=st.lists(st.integers(0, 500), max_size=4),
)
def test_damaged_frames_end_as_the_twin_says(frames, changes, cuts):
    data = bytearray().join(map(packed, frames))
    for place, byte in changes:
        data[place : place + 1] = bytes([byte]) if place < len(data) else b""
    places = [0, *sorted(cuts), len(data)]
    chunks = [bytes(data[a:b]) for a, b in pairwise(places)]
    expected = twin(bytes(data), 100)
    found = outcome(chunks)
    assert expected[:2] == found[:2]
    assert expected[1] is not None or expected[2] == found[2]
