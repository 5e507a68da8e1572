"""skeg.binary: alignment, checksums, records, canonical JSON."""

from __future__ import annotations

import itertools
import json
from typing import NamedTuple

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from skeg.binary import Checksum, Record, align_up, canonical_json, checksum
from skeg.errors import ParameterError


class Point(NamedTuple):
    tag: bytes
    x: int
    y: int


POINT = Record(Point, "<2sHI8x", 16)


@given(st.integers(0, 2**70), st.integers(1, 4096))
def test_align_up_is_the_next_multiple(value, alignment):
    aligned = align_up(value, alignment)
    assert 0 == aligned % alignment
    assert value <= aligned < value + alignment


def test_checksum_is_xxh3_with_seed_zero():
    """Pinned values: another function would make every file unreadable."""
    assert 0x2D06800538D394C2 == checksum(b"")
    assert 0x2D06800538D394C2 == Checksum().value
    assert xxhash.xxh3_64_intdigest(b"skeg", seed=0) == checksum(b"skeg")


@given(st.binary(max_size=600), st.lists(st.integers(0, 600), max_size=5))
def test_checksum_does_not_depend_on_the_pieces(data, cuts):
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[a:b] for a, b in itertools.pairwise(edges)]
    state = Checksum()
    for piece in pieces:
        state.update(memoryview(piece))
    assert checksum(data) == state.value
    assert checksum(data) == checksum(*pieces)


def test_a_record_is_little_endian_and_pads_with_zeros():
    assert b"ab\x01\x02\x04\x03\x02\x01" + bytes(8) == POINT.pack(Point(b"ab", 0x0201, 0x01020304))
    assert 16 == POINT.size


@given(st.binary(min_size=2, max_size=2), st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1), st.integers(0, 9))
def test_a_record_reads_back(tag, x, y, offset):
    point = Point(tag, x, y)
    assert point == POINT.unpack(bytes(offset) + POINT.pack(point), offset)


@pytest.mark.parametrize(("layout", "size"), [("<2sHI", 16), ("=2sHI8x", 16)])
def test_a_record_of_another_size_or_byte_order_is_our_mistake(layout, size):
    with pytest.raises(AssertionError):
        Record(Point, layout, size)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), JSON, max_size=4))
def test_json_reads_back_and_has_one_form(value):
    try:
        text = canonical_json("meta", value)
    except ParameterError:
        assert "\\ud" in json.dumps(value)  # half of a surrogate pair has no UTF-8
        return
    assert value == json.loads(text)
    assert text == canonical_json("meta", dict(reversed(value.items())))


def test_json_is_compact_sorted_utf8():
    assert '{"a":[1,2.5,null],"ü":"é"}'.encode() == canonical_json("meta", {"ü": "é", "a": (1, 2.5, None)})


@pytest.mark.parametrize(
    "value", [{"a": float("nan")}, {"a": float("inf")}, {"a": b"x"}, {"a": {1, 2}}, {"a": "\ud800"}]
)
def test_what_json_cannot_say_is_refused_by_name(value):
    with pytest.raises(ParameterError, match=r"meta=.*expected values that JSON can express"):
        canonical_json("meta", value)
