"""Payloads of replies: exact bytes, and what a client makes of them."""

from __future__ import annotations

import struct
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skeg.errors import ProtocolError
from skeg.net.binary import replies as rp
from skeg.net.binary.frames import Code, FrameParser
from skeg.net.limits import Limits

U64 = st.integers(0, 2**64 - 1)
F32 = st.floats(width=32, allow_nan=False)
FIGURES = st.builds(rp.Figures, U64, U64, U64, U64)
ROWS = st.builds(
    rp.IndexRow,
    st.text(max_size=6).filter(str.isprintable),
    st.integers(0, 2**32 - 1),
    st.integers(0, 255),
    st.integers(0, 255),
    U64,
)

DECODERS = [
    rp.decode_value, rp.decode_flag, rp.decode_values, rp.decode_flags, rp.decode_vector, rp.decode_hits,
    rp.decode_indexes, rp.decode_stats, rp.decode_shards, rp.decode_hello, rp.decode_err,
]  # fmt: skip


def only_frame(data):
    (frame,) = FrameParser(Limits()).feed(data)
    return frame


# Bytes


def test_frames_byte_for_byte():
    head = "4b5601c0 00000000 0100000000000000"
    assert bytes.fromhex(f"{head} 07000000 00000000 03000000 626172") == rp.ok(1, 1, rp.encode_value(b"bar"))
    assert bytes.fromhex(f"{head} 01000000 00000000 01") == rp.ok(1, 1, rp.encode_flag(True))
    assert bytes.fromhex(f"{head} 00000000 00000000") == rp.ok(1, 1)
    missing = bytes.fromhex("4b5602c1 00000000 ffffffffffffffff 0f000000 00000000 01 0d") + b"key not found"
    assert missing == rp.err(2, 2**64 - 1, Code.NOT_FOUND, "key not found")


def test_payloads_byte_for_byte():
    figures = rp.Figures(1, 2, 3, 4)
    stats = "0100000000000000 0200000000000000 0300000000000000 0400000000000000"
    rows = [rp.IndexRow("w", 4, 1, 1, 9), rp.IndexRow("é", 3, 0, 0, 0), rp.IndexRow("v", 2, 5, 0, 1)]
    expected = {
        "00": rp.encode_flag(False),
        "02000000 00 02000000 7631 01": rp.encode_values([b"v1", None]),
        "00000000": rp.encode_values([]),
        "03000000 01 00 01": rp.encode_flags([True, False, True]),
        "01000000 0700000000000000 0000803f": rp.encode_hits([7], [1.0]),
        "03000000"
        "0100 76 02000000 05 00 0100000000000000"
        "0100 77 04000000 01 01 0900000000000000"
        "0200 c3a9 03000000 00 00 0000000000000000": rp.encode_indexes(rows),
        stats: rp.encode_stats(figures),
        f"02000000 00000000 {stats} 01000000 {stats}": rp.encode_shards([figures, figures]),
        "02 3f": rp.encode_hello(2, 0x3F),
    }
    assert [bytes.fromhex(text) for text in expected] == [*expected.values()]


# Round trips


@given(value=st.binary(max_size=20), behind=st.binary(max_size=3))
def test_values_come_back(value, behind):
    assert value == rp.decode_value(rp.encode_value(value) + behind)


@given(values=st.lists(st.none() | st.binary(max_size=5), max_size=5), behind=st.binary(max_size=3))
def test_lists_of_values_come_back(values, behind):
    assert values == rp.decode_values(rp.encode_values(values) + behind)


@given(flags=st.lists(st.booleans(), max_size=9))
def test_flags_come_back(flags):
    assert flags == rp.decode_flags(rp.encode_flags(flags))
    assert flags == [rp.decode_flag(rp.encode_flag(flag)) for flag in flags]


@given(hits=st.lists(st.tuples(U64, F32), max_size=5))
def test_hits_come_back_from_lists_and_from_arrays(hits):
    ids, scores = [i for i, _ in hits], [score for _, score in hits]
    payload = rp.encode_hits(ids, scores)
    assert struct.pack("<I", len(hits)) + b"".join(struct.pack("<Qf", *hit) for hit in hits) == payload
    assert payload == rp.encode_hits(np.array(ids, np.uint64), np.array(scores, np.float32))
    found_ids, found_scores = rp.decode_hits(payload)
    assert (np.uint64, np.float32) == (found_ids.dtype, found_scores.dtype)
    assert (ids, scores) == (found_ids.tolist(), found_scores.tolist())


@given(rows=st.lists(ROWS, max_size=4), figures=st.lists(FIGURES, max_size=3), kinds=st.integers(0, 255))
def test_figures_come_back(rows, figures, kinds):
    by_name = sorted(rows, key=lambda row: (row.name.encode(), row[1:]))
    assert by_name == rp.decode_indexes(rp.encode_indexes(rows))
    assert [*enumerate(figures)] == rp.decode_shards(rp.encode_shards(figures))
    assert figures == [rp.decode_stats(rp.encode_stats(shard)) for shard in figures]
    assert (2, kinds) == rp.decode_hello(rp.encode_hello(2, kinds))


@given(code=st.sampled_from(Code), text=st.text(max_size=400))
def test_errors_come_back_as_far_as_they_fit(code, text):
    whole = text.encode(errors="replace")
    found_code, found = rp.decode_err(only_frame(rp.err(1, 1, code, text)).payload)
    sent = found.encode()
    assert code == found_code
    assert whole.startswith(sent)
    assert min(len(whole), 252) <= len(sent) <= 255


def test_a_text_is_cut_between_characters():
    payload = only_frame(rp.err(1, 1, Code.INTERNAL, "x" + "é" * 200)).payload
    assert b"\3\xff" + ("x" + "é" * 127).encode() == payload
    payload = only_frame(rp.err(1, 1, Code.INTERNAL, "é" * 200)).payload
    assert b"\3\xfe" + ("é" * 127).encode() == payload


# Limits


def test_replies_that_no_reader_takes_are_not_made():
    longest = bytes(16_777_212)
    assert 24 + 16_777_216 == len(rp.ok(1, 1, rp.encode_value(longest)))
    text = r"reply too large: 16777217 bytes \(max 16777216\)"
    for make in (
        lambda: rp.encode_value(longest + b"x"),
        lambda: rp.encode_values([longest[5:], None]),
        lambda: rp.ok(1, 1, longest + b"12345"),
    ):
        with pytest.raises(ProtocolError, match=text):
            make()


def test_a_reply_that_is_too_long_takes_no_memory():
    value = bytes(1 << 20)
    tracemalloc.start()
    with pytest.raises(ProtocolError, match="reply too large"):
        rp.encode_values([value] * 17)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 16


# Replies that are none

BAD = [
    (rp.decode_value, b"\1\0\0"), (rp.decode_value, b"\2\0\0\0a"), (rp.decode_value, b"\xff\xff\xff\xff"),
    (rp.decode_flag, b""), (rp.decode_values, b""), (rp.decode_values, b"\1\0\0\0"),
    (rp.decode_values, b"\1\0\0\0\0\1\0\0\0"), (rp.decode_values, b"\2\0\0\0\0\1\0\0\0a"),
    (rp.decode_flags, b"\2\0\0\0\1"), (rp.decode_vector, b"\3\0\0\0abc"), (rp.decode_hits, b"\1\0\0\0" + bytes(11)),
    (rp.decode_indexes, b"\1\0\0\0\1"), (rp.decode_indexes, b"\1\0\0\0\1\0"),
    (rp.decode_indexes, b"\1\0\0\0\1\0v" + bytes(13)), (rp.decode_stats, bytes(31)),
    (rp.decode_shards, b"\1\0\0\0" + bytes(35)), (rp.decode_hello, b"\2"), (rp.decode_err, b"\1"),
    (rp.decode_err, b"\1\2a"),
]  # fmt: skip


@pytest.mark.parametrize(("decode", "payload"), BAD)
def test_short_replies_are_refused(decode, payload):
    with pytest.raises(ProtocolError, match="reply: expected"):
        decode(payload)


@pytest.mark.parametrize("decode", DECODERS)
def test_counts_of_replies_take_no_memory(decode):
    tracemalloc.start()
    with pytest.raises(ProtocolError):
        decode(b"\xff\xff\xff\xff") if decode not in {rp.decode_flag, rp.decode_hello} else decode(b"")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16_384


@given(decode=st.sampled_from(DECODERS), payload=st.binary(max_size=60))
def test_random_replies_are_read_or_refused(decode, payload):
    try:
        decode(payload)
    except ProtocolError:
        return
