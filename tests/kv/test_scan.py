"""Walking segments: both engines say the same of any bytes, and what is behind damage is found."""

from __future__ import annotations

import sys

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import skeg.jit
from skeg.kv import format as fmt
from skeg.kv.entries import COLUMNS, Entries, KeyHash
from skeg.kv.scan import (
    KERNEL_BYTES,
    Scan,
    Walk,
    engine_for,
    entries_of,
    scan_by_kernel,
    scan_plain,
    whole_records_after,
)

PLACE = fmt.place_of(0x1234_5678_9ABC_DEF0, 3)
KEYS = KeyHash(0xFEED)
MASKED = KeyHash(0xFEED, 3)
START = fmt.HEADER_BYTES
MEMBER = fmt.MEMBER * 8

# What is written: kind, key, value (for a batch: what its members are), and how far the number is from the one before.
members = st.lists(st.tuples(st.binary(max_size=9), st.binary(max_size=20) | st.none()), min_size=1, max_size=3)
written = st.lists(
    st.tuples(st.just(fmt.VALUE), st.binary(max_size=20), st.binary(max_size=40))
    | st.tuples(st.just(fmt.TOMBSTONE), st.binary(max_size=20), st.just(b""))
    | st.tuples(st.just(fmt.BATCH), st.just(b""), members),
    max_size=6,
)


def pack(kind: int, seq: int, key: bytes, value: bytes | None, at: int, durable: int = START) -> bytes:
    """A record of a key; a tombstone if it has no value."""
    if kind == fmt.TOMBSTONE or value is None:
        return fmt.pack_record(PLACE, at, fmt.TOMBSTONE, seq, KEYS.tombstone_key(key), b"", durable)
    return fmt.pack_record(PLACE, at, kind, seq, key, value, durable)


def lay_out(pieces, at: int, seq: int) -> tuple[list[bytes], list[tuple[int, ...]]]:
    """Records from an offset on, and the rows that they should give."""
    records, rows = [], []
    for kind, key, value in pieces:
        start = at
        items = value if kind == fmt.BATCH else [(key, value if kind == fmt.VALUE else None)]
        inner = b""
        for name, content in items:
            seq += 1
            here = at + (fmt.RECORD_BYTES if kind == fmt.BATCH else 0) + len(inner)
            inner += pack(fmt.VALUE, seq, name, content, here, MEMBER if kind == fmt.BATCH else START)
            size = 0 if content is None else fmt.record_bytes(len(name), len(content)) // 8
            rows.append((KEYS.hash(name), seq, KEYS.check(name), here // 8, size))
        if kind == fmt.BATCH:
            inner = fmt.pack_batch(PLACE, start, seq - len(items) + 1, inner, START)
        records.append(inner)
        at = start + len(inner)
    return records, rows


def told(scan: Scan) -> tuple:
    """Everything that a scan says, comparable."""
    columns = [getattr(scan.entries, name) for name in COLUMNS]
    assert list(COLUMNS.values()) == [column.dtype for column in columns]
    return list(zip(*(column.tolist() for column in columns), strict=True)), scan.end, scan.last_seq, scan.overhead


def both(data: bytes, base: int, walk: Walk, keys: KeyHash = KEYS) -> tuple:
    """What both engines say."""
    plain = told(scan_plain(data, base, walk, keys))
    assert plain == told(scan_by_kernel(data, base, walk, keys))
    return plain


@given(pieces=written, base=st.integers(8, 1000).map(lambda n: n * 8), seq=st.integers(0, 2**48 - 20))
@example(pieces=[], base=START, seq=9)
def test_whole_records_give_their_rows_wherever_the_walk_begins(pieces, base, seq):
    records, rows = lay_out(pieces, base, seq)
    data = b"".join(records)
    overhead = sum(fmt.RECORD_BYTES for kind, *_ in pieces if kind == fmt.BATCH)
    assert (rows, base + len(data), seq + len(rows), overhead) == both(data, base, Walk(PLACE, False, seq))
    # From each record on it is the rest.
    if records:
        first = len(lay_out(pieces[:1], base, seq)[1])
        part = both(b"".join(records[1:]), base + len(records[0]), Walk(PLACE, False, seq + first))
        assert (rows[first:], base + len(data), seq + len(rows)) == part[:3]


@given(pieces=written, cut=st.integers(0, 2**16 - 1))
def test_a_segment_cut_anywhere_gives_the_records_before_the_cut(pieces, cut):
    records, rows = lay_out(pieces, START, 0)
    data = b"".join(records)
    data = data[: cut * len(data) >> 16]
    end = START
    for record in records:
        if end + len(record) > START + len(data):
            break
        end += len(record)
    found, stopped, *_ = both(data, START, Walk(PLACE, False, 0))
    assert end == stopped
    assert [row for row in rows if row[3] * 8 < end] == found


@given(pieces=written, where=st.integers(0, 2**16 - 1), bit=st.integers(0, 7))
def test_a_changed_bit_ends_the_walk_before_its_record(pieces, where, bit):
    records, rows = lay_out(pieces, START, 0)
    data = bytearray().join(records)
    if data:
        data[where * len(data) >> 16] ^= 1 << bit
    end = START
    for record in records:
        if bytes(data[end - START : end - START + len(record)]) != record:
            break
        end += len(record)
    found, stopped, *_ = both(bytes(data), START, Walk(PLACE, False, 0))
    assert end == stopped
    assert [row for row in rows if row[3] * 8 < end] == found


@given(pieces=written, last_seq=st.integers(0, 12))
def test_what_is_not_newer_than_what_is_known_ends_the_walk(pieces, last_seq):
    records, _ = lay_out(pieces, START, 0)
    data = b"".join(records)
    found = both(data, START, Walk(PLACE, False, last_seq))
    assert found[1] == (START if last_seq else START + len(data))
    assert found[2] >= last_seq


@given(pieces=written, shift=st.sampled_from([-16, -8, 8, 16, 64]))
def test_moved_bytes_are_not_records(pieces, shift):
    data = b"".join(lay_out(pieces, START + 64, 0)[0])
    assert ([], START + 64 + shift, 0, 0) == both(data, START + 64 + shift, Walk(PLACE, False, 0))


@given(
    parts=st.lists(
        st.sampled_from(["value", "tombstone", "member", "batch", "lineage", "zeros", "garbage"]), max_size=6
    ),
    compacted=st.booleans(),
    base=st.sampled_from([START, START + 8, 4096]),
    last_seq=st.integers(0, 3),
    seqs=st.lists(st.integers(1, 9), min_size=6, max_size=6),
)
@settings(max_examples=300)
def test_records_that_may_not_be_there_are_refused_by_both_engines(parts, compacted, base, last_seq, seqs):
    data = b""
    for part, seq in zip(parts, seqs, strict=False):
        at = base + len(data)
        match part:
            case "value":
                data += pack(fmt.VALUE, seq, b"key", b"value", at)
            case "tombstone":
                data += pack(fmt.TOMBSTONE, seq, b"key", b"", at)
            case "member":
                data += pack(fmt.VALUE, seq, b"key", b"value", at, MEMBER)
            case "batch":
                inner = pack(fmt.VALUE, seq, b"in", b"a batch", at + 24, MEMBER)
                data += fmt.pack_batch(PLACE, at, seq, inner, START)
            case "lineage":
                data += fmt.pack_record(PLACE, at, fmt.LINEAGE, 0, b"", bytes(4 * seq), 0)
            case "zeros":
                data += bytes(8 * seq)
            case "garbage":
                data += bytes(range(8 * seq))
    walk = Walk(PLACE, compacted, last_seq)
    rows, end, seq, overhead = both(data, base, walk, MASKED)
    assert base <= end <= base + len(data)
    assert max([last_seq, *(row[1] for row in rows)]) == seq
    assert end - base == overhead + sum(8 * row[4] or fmt.TOMBSTONE_BYTES for row in rows)
    if compacted and base == START and parts[:1] != ["lineage"]:
        assert end == base


def test_a_compacted_segment_holds_copies_in_any_order():
    data = fmt.pack_lineage(PLACE, [1, 2])
    rows = []
    for seq, key, durable in [(9, b"a", START), (5, b"b", MEMBER), (9, b"a", START)]:
        at = START + len(data)
        data += pack(fmt.VALUE, seq, key, b"copy", at, durable)
        rows.append((KEYS.hash(key), seq, KEYS.check(key), at // 8, 4))
    assert (rows, START + len(data), 9, 32) == both(data, START, Walk(PLACE, True, 4))
    assert ([], START, 4, 0) == both(data, START, Walk(PLACE, False, 4))


@pytest.mark.parametrize("nbytes", [65_535, 65_536, 200_000])
def test_large_records(nbytes):
    pieces = [(fmt.VALUE, b"k" * 65_535, b""), (fmt.VALUE, b"", b"v" * nbytes), (fmt.VALUE, b"after", b"")]
    records, rows = lay_out(pieces, START, 0)
    assert (rows, START + sum(map(len, records)), 3, 0) == both(b"".join(records), START, Walk(PLACE, False, 0))


# What is behind damage


DAMAGES = {
    "flip": lambda data: bytes(byte ^ 1 for byte in data[:1]) + data[1:],
    "zero": lambda data: bytes(len(data[:16])) + data[16:],
    "insert": lambda data: b"inserted" + data,
    "cut": lambda data: data[:40],
}


def found_slowly(data: bytes, base: int, start: int) -> list[tuple[int, fmt.RecordHead]]:
    """Records from ``data[start:]`` on, by trying every place."""
    view = memoryview(data)
    places = range(-(-start // 8) * 8, len(data), 8)
    heads = [(base + at, fmt.read_record(view, at, PLACE, base + at)) for at in places]
    return [(at, head) for at, head in heads if head is not None and head.kind != fmt.LINEAGE]


@given(
    pieces=written,
    base=st.sampled_from([START, 4096]),
    damage=st.lists(st.tuples(st.integers(0, 2**16 - 1), st.sampled_from(sorted(DAMAGES))), max_size=3),
    start=st.integers(0, 60),
    junk=st.binary(max_size=40),
)
@settings(max_examples=200)
def test_every_whole_record_behind_a_place_is_found(pieces, base, damage, start, junk):
    data = bytearray().join(lay_out(pieces, base, 0)[0]) + junk
    for where, what in damage:
        at = where * len(data) >> 16
        data = data[:at] + DAMAGES[what](data[at:])
    walk = Walk(PLACE, False, 0)
    assert found_slowly(bytes(data), base, start) == list(whole_records_after(bytes(data), base, start, walk))


@pytest.mark.parametrize("length", range(48))
def test_few_bytes_hold_no_record_or_just_one(length):
    data = pack(fmt.VALUE, 1, b"", b"", START) + pack(fmt.VALUE, 2, b"", b"", START + 24)
    found = list(whole_records_after(data[:length], START, 0, Walk(PLACE, False, 0)))
    assert [START][: length // 24] == [at for at, _ in found]


def test_the_members_of_a_batch_are_found_beside_it():
    records, rows = lay_out([(fmt.BATCH, b"", [(b"a", b"1"), (b"b", None)])], START, 0)
    whole = list(whole_records_after(records[0], START, 0, Walk(PLACE, False, 0)))
    assert [fmt.BATCH, fmt.VALUE, fmt.TOMBSTONE] == [head.kind for _, head in whole]
    found = entries_of(records[0], START, whole, KEYS)
    assert rows == list(zip(*(getattr(found, name).tolist() for name in COLUMNS), strict=True))


def test_a_batch_whose_last_member_is_damaged_still_has_its_first():
    records, rows = lay_out([(fmt.BATCH, b"", [(b"a", b"1"), (b"b", b"2")])], START, 0)
    data = records[0][:-8] + bytes(8)
    assert ([], START, 0, 0) == both(data, START, Walk(PLACE, False, 0))
    whole = list(whole_records_after(data, START, 0, Walk(PLACE, False, 0)))
    assert rows[:1] == [(KEYS.hash(b"a"), head.seq, KEYS.check(b"a"), at // 8, 4) for at, head in whole]


def test_no_rows_of_no_records():
    assert len(entries_of(b"", START, [], KEYS)) == len(Entries.of_rows([])) == 0


# Which engine


def test_numba_is_loaded_for_much_only(monkeypatch):
    monkeypatch.setattr(skeg.jit, "JIT_DISABLED", False)
    monkeypatch.delitem(sys.modules, "skeg.kv.kernels.scan", raising=False)
    assert [scan_plain, scan_plain] == [engine_for(0), engine_for(KERNEL_BYTES - 1)]
    assert "skeg.kv.kernels.scan" not in sys.modules
    assert scan_by_kernel is engine_for(KERNEL_BYTES)


def test_kernels_that_are_there_are_used(monkeypatch):
    monkeypatch.setattr(skeg.jit, "JIT_DISABLED", False)
    monkeypatch.setitem(sys.modules, "skeg.kv.kernels.scan", None)
    assert scan_by_kernel is engine_for(0)


@pytest.mark.parametrize("nbytes", [0, KERNEL_BYTES, 2**40])
def test_without_a_compiler_the_plain_engine_does_it(monkeypatch, nbytes):
    monkeypatch.setattr(skeg.jit, "JIT_DISABLED", True)
    assert scan_plain is engine_for(nbytes)
