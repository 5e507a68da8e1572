"""Hints: their bytes, and that no damage of one goes unseen."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from skeg.errors import CorruptError
from skeg.kv.entries import COLUMNS, Entries
from skeg.kv.hints import HEADER_BYTES, ROW_BYTES, Hint, pack_hint, unpack_hint

SHARD_ID = bytes(range(16))
ROWS = [(1, 9, 2, 8, 4), (5, 2**48 - 1, 2**32 - 1, 2**26 - 1, 0), (2**64 - 1, 3, 0, 100, 2**26)]

u32s = st.integers(0, 2**32 - 1)
u64s = st.integers(0, 2**64 - 1)


def hint_of(rows, end=1000) -> Hint:
    return Hint(7, end, 2**48 - 1, 56, Entries.of_rows(rows))


def unpack(data: bytes) -> Hint:
    return unpack_hint(data, "p", shard_id=SHARD_ID, segment=7)


def rows_of(entries: Entries) -> list[tuple[int, ...]]:
    return list(zip(*(getattr(entries, name).tolist() for name in COLUMNS), strict=True))


def header(columns: bytes, rows: int, version: int = 1, segment: int = 7, magic: bytes = b"SKEGHINT") -> bytes:
    data = struct.pack("<8sII16sQQQQ", magic, version, segment, SHARD_ID, rows, 1000, 2**48 - 1, 56)
    data += struct.pack("<Q", xxh3_64_intdigest(columns))
    return data + struct.pack("<Q", xxh3_64_intdigest(data))


def columns_by_hand(rows) -> bytes:
    hashes, seqs, checks, offsets, sizes = zip(*rows, strict=True) if rows else [()] * 5
    n = len(rows)
    data = struct.pack(f"<{n}Q", *hashes) + struct.pack(f"<{n}Q", *seqs)
    for column in (checks, offsets, sizes):
        data += struct.pack(f"<{n}I", *column) + bytes(n % 2 * 4)
    return data


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_a_hint_has_these_bytes(count):
    columns = columns_by_hand(ROWS[:count])
    assert header(columns, count) + columns == pack_hint(hint_of(ROWS[:count]), SHARD_ID)
    assert len(header(b"", 0)) == HEADER_BYTES
    assert ROW_BYTES == 28


@given(
    rows=st.lists(st.tuples(u64s, u64s, u32s, u32s, u32s), max_size=20),
    segment=u32s,
    end=u64s,
    last_seq=u64s,
    overhead=u64s,
    shard_id=st.binary(min_size=16, max_size=16),
)
def test_any_hint_is_read_as_it_was_written(rows, segment, end, last_seq, overhead, shard_id):
    data = pack_hint(Hint(segment, end, last_seq, overhead, Entries.of_rows(rows)), shard_id)
    found = unpack_hint(data, "p", shard_id=shard_id, segment=segment)
    assert (segment, end, last_seq, overhead) == (found.segment, found.end, found.last_seq, found.overhead)
    assert rows == rows_of(found.entries)
    assert list(COLUMNS.values()) == [getattr(found.entries, name).dtype for name in COLUMNS]
    assert data == pack_hint(found, shard_id)


def test_any_bit_changed_is_noticed():
    data = pack_hint(hint_of(ROWS), SHARD_ID)
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptError) as caught:
            unpack(bytes(changed))
        assert caught.value.path == "p"


def test_a_hint_cut_anywhere_is_noticed():
    data = pack_hint(hint_of(ROWS), SHARD_ID)
    for length in range(len(data)):
        with pytest.raises(CorruptError):
            unpack(data[:length])


@pytest.mark.parametrize("more", [b"\0", bytes(8), b"x" * 28])
def test_bytes_behind_a_hint_are_noticed(more):
    with pytest.raises(CorruptError, match="does not match its checksum"):
        unpack(pack_hint(hint_of(ROWS), SHARD_ID) + more)


@pytest.mark.parametrize("change", [{"version": 2}, {"version": 0}, {"segment": 8}, {"magic": b"SKEGLOG\0"}])
def test_a_sound_file_that_is_not_this_hint_is_refused(change):
    columns = columns_by_hand(ROWS)
    with pytest.raises(CorruptError, match="not the hint of this segment"):
        unpack(header(columns, len(ROWS), **change) + columns)


def test_the_hint_of_another_store_is_refused():
    with pytest.raises(CorruptError, match="not the hint of this segment"):
        unpack(pack_hint(hint_of(ROWS), b"x" * 16))


def test_columns_in_any_memory_layout_give_the_same_bytes():
    table = np.array(ROWS, np.uint64)
    kinds = [np.dtype(kind).newbyteorder(">") for kind in COLUMNS.values()]
    strided = Entries(*(table[:, i].astype(kind) for i, kind in enumerate(kinds)))
    assert pack_hint(hint_of(ROWS), SHARD_ID) == pack_hint(Hint(7, 1000, 2**48 - 1, 56, strided), SHARD_ID)
