"""The log's byte layout, against bytes put together by hand, and a store as the first version wrote it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from skeg.errors import CorruptError, FormatError, StorageError, VersionTooNewError
from skeg.kv import format as fmt
from skeg.kv import opening
from skeg.kv.hints import pack_hint, unpack_hint
from skeg.kv.manifest import pack_manifest, unpack_manifest
from skeg.kv.options import StoreOptions
from skeg.kv.store import open_store
from tests.kv.make_golden import EXPECTED, MANIFEST, NAME

SALT, SEGMENT, OFFSET = 0xA5A5_0123_4567_89AB, 7, 64
PLACE = fmt.place_of(SALT, SEGMENT)
MEMBER = 2**32 - 1
SHARD_ID = bytes(range(16))
GOLDEN_SHARD = MANIFEST.shard_id(0)
GOLDEN = Path(__file__).parent / "golden" / NAME

keys = st.binary(max_size=40)
values = st.binary(max_size=100)
seqs = st.integers(0, 2**48 - 1)
offsets = st.integers(8, 2**26 - 1).map(lambda n: n * 8)


def by_hand(
    kind: int, seq: int, key: bytes, value: bytes, durable: int = 64, offset: int = OFFSET, place: int = SALT
) -> bytes:
    """A record of segment 7; `durable` is in bytes."""
    body = struct.pack("<IIQ", durable // 8, kind << 30 | len(value), seq << 16 | len(key)) + key + value
    record = struct.pack("<Q", xxh3_64_intdigest(body) ^ place ^ 7 << 32 ^ offset // 8) + body
    return record + b"\0" * (-len(record) % 8)


def flips(data: bytes, stop: int | None = None):
    """The data with one bit changed, for each bit of its first bytes."""
    for bit in range(8 * (len(data) if stop is None else stop)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        yield bytes(changed)


def read(data: bytes, place: int = PLACE, offset: int = OFFSET) -> fmt.RecordHead | None:
    return fmt.read_record(memoryview(data), 0, place, offset)


# Headers


def header_by_hand(version: int = 1, segment: int = 7, shard_id: bytes = SHARD_ID) -> bytes:
    data = struct.pack("<8sII16sQIIQ", b"SKEGLOG\0", version, segment, shard_id, 99, 6, 1, 512)
    return data + struct.pack("<Q", xxh3_64_intdigest(data))


def unpack_header(data: bytes) -> fmt.SegmentHeader:
    return fmt.unpack_header(data, "p", shard_id=SHARD_ID, segment=7)


def test_a_header_has_these_bytes():
    assert header_by_hand() == fmt.pack_header(fmt.SegmentHeader(7, SHARD_ID, 99, 6, fmt.COMPACTED, 512))
    assert len(header_by_hand()) == fmt.HEADER_BYTES == 64


@given(
    segment=st.integers(1, fmt.SEGMENT_MAX),
    shard_id=st.binary(min_size=16, max_size=16),
    first_seq=seqs,
    previous=st.integers(0, fmt.SEGMENT_MAX),
    flags=st.integers(0, 2**32 - 1),
    previous_bytes=st.integers(0, 2**64 - 1),
)
def test_a_header_of_any_fields_is_read_as_it_was_written(segment, shard_id, **others):
    header = fmt.SegmentHeader(segment=segment, shard_id=shard_id, **others)
    assert header == fmt.unpack_header(fmt.pack_header(header), "p", shard_id=shard_id, segment=segment)


def test_a_header_with_any_bit_changed_is_refused():
    for changed in flips(header_by_hand()):
        with pytest.raises((CorruptError, FormatError)) as caught:
            unpack_header(changed)
        assert caught.value.path == "p"
        assert caught.value.offset is not None


@pytest.mark.parametrize("length", range(64))
def test_a_header_cut_anywhere_is_refused(length):
    with pytest.raises(CorruptError, match=f"cut short: expected 64 bytes, found {length} bytes"):
        unpack_header(header_by_hand()[:length])


@pytest.mark.parametrize(
    ("data", "error", "match"),
    [
        (header_by_hand(version=2), VersionTooNewError, "newer version: expected at most 1, found 2"),
        (header_by_hand(shard_id=b"x" * 16), FormatError, "another shard"),
        (header_by_hand(segment=8), FormatError, "under another name: expected id 7, found id 8"),
        (b"SKEGHINT" + header_by_hand()[8:], FormatError, "not a log segment"),
    ],
)
def test_a_sound_header_of_something_else_is_refused(data, error, match):
    with pytest.raises(error, match=match):
        unpack_header(data)


def test_a_newer_version_is_named_whatever_else_is_strange():
    """Its other fields may mean other things."""
    with pytest.raises(VersionTooNewError):
        unpack_header(header_by_hand(version=2, segment=8, shard_id=b"x" * 16))


# Records


@pytest.mark.parametrize(
    ("kind", "seq", "key", "value"),
    [
        (1, 0, b"", b""),
        (1, 42, b"hello", b"world"),
        (1, 2**48 - 1, b"k" * 65_535, b"v"),
        (1, 5, b"\0\xff", bytes(9)),
        (2, 99, struct.pack("<QI", 2**64 - 1, 2**32 - 1), b""),
    ],
)
def test_a_record_has_these_bytes(kind, seq, key, value):
    expected = by_hand(kind, seq, key, value, durable=128)
    assert expected == fmt.pack_record(PLACE, OFFSET, kind, seq, key, value, 128)
    assert len(expected) == fmt.record_bytes(len(key), len(value))
    assert (128 // 8, kind, len(value), seq, len(key)) == read(expected)[1:]


def test_the_bytes_of_one_record():
    """Written out, so that a change of the layout can't go unseen by changing both sides."""
    expected = "88920a8fa4d38aa4 0800000003000040 0200030000000000 616278797a000000"
    assert bytes.fromhex(expected) == fmt.pack_record(0, 64, fmt.VALUE, 3, b"ab", b"xyz", 64)


@given(kind=st.integers(0, 3), seq=seqs, key=keys, value=values, durable=offsets, offset=offsets)
def test_any_record_has_the_bytes_made_by_hand(kind, seq, key, value, durable, offset):
    expected = by_hand(kind, seq, key, value, durable, offset)
    assert expected == fmt.pack_record(PLACE, offset, kind, seq, key, value, durable)
    head = read(expected, offset=offset)
    assert (durable // 8, kind, len(value), seq, len(key)) == head[1:]
    assert value == fmt.value_of(expected, PLACE, offset, key)


def test_a_tombstone_takes_40_bytes_whatever_the_key():
    record = fmt.pack_record(PLACE, OFFSET, fmt.TOMBSTONE, 1, fmt.TOMBSTONE_KEY.pack(3, 4), b"", 64)
    assert by_hand(2, 1, bytes.fromhex("030000000000000004000000"), b"") == record
    assert len(record) == fmt.TOMBSTONE_BYTES == 40


def test_a_batch_is_a_record_around_whole_records():
    members = by_hand(1, 5, b"a", b"1", MEMBER * 8, OFFSET + 24) + by_hand(1, 6, b"bc", b"", MEMBER * 8, OFFSET + 56)
    batch = fmt.pack_batch(PLACE, OFFSET, 5, members, 64)
    assert by_hand(3, 5, b"", members, 64) == batch
    assert read(batch).kind == fmt.BATCH


@pytest.mark.parametrize("ids", [[], [1], [3, 1, 2], list(range(1, 100))])
def test_a_lineage_is_the_first_record_and_lists_ids(ids):
    value = struct.pack(f"<{len(ids)}I", *ids)
    assert by_hand(0, 0, b"", value, 0) == fmt.pack_lineage(PLACE, ids)
    assert tuple(ids) == fmt.unpack_lineage(value)


RECORDS = {
    "value": by_hand(1, 5, b"key", b"value"),
    "no padding": by_hand(1, 5, b"", bytes(8)),
    "empty": by_hand(1, 1, b"", b""),
    "tombstone": by_hand(2, 9, bytes(range(12)), b""),
    "batch": by_hand(3, 4, b"", by_hand(1, 4, b"k", b"v", MEMBER * 8, OFFSET + 24)),
    "lineage": by_hand(0, 0, b"", struct.pack("<2I", 3, 4), 0),
}


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_with_any_bit_changed_does_not_check_out(name):
    """The padding too."""
    assert read(RECORDS[name]) is not None
    assert [] == [changed for changed in flips(RECORDS[name]) if read(changed) is not None]


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_cut_anywhere_does_not_check_out(name):
    data = RECORDS[name]
    assert [] == [length for length in range(len(data)) if read(data[:length]) is not None]


def test_a_changed_value_is_an_error_and_never_another_value():
    data = RECORDS["value"]
    for changed in flips(data, stop=24 + len(b"keyvalue")):
        with pytest.raises(ValueError, match=r"^$"):
            fmt.value_of(changed, PLACE, OFFSET, b"key")


@pytest.mark.parametrize("length", range(24, 32))
def test_a_value_cut_short_is_an_error(length):
    with pytest.raises(ValueError, match=r"^$"):
        fmt.value_of(RECORDS["value"][:length], PLACE, OFFSET, b"key")


@given(key=keys, other=keys)
def test_only_the_key_of_a_record_has_its_value(key, other):
    record = by_hand(1, 1, key, b"v")
    assert (b"v" if other == key else None) == fmt.value_of(record, PLACE, OFFSET, other)


def test_a_key_and_the_start_of_its_value_are_not_another_key():
    assert fmt.value_of(by_hand(1, 1, b"ab", b"cd"), PLACE, OFFSET, b"abc") is None
    assert fmt.value_of(by_hand(1, 1, b"ab", b"cd"), PLACE, OFFSET, b"a") is None


@given(
    salt=st.integers(0, 2**64 - 1),
    segment=st.integers(1, fmt.SEGMENT_MAX),
    offset=offsets,
    other=st.tuples(st.integers(0, 2**64 - 1), st.integers(1, fmt.SEGMENT_MAX), offsets),
    moved=st.sampled_from(["salt", "segment", "offset", "segment and offset"]),
)
def test_bytes_that_were_moved_never_pass(salt, segment, offset, other, moved):
    record = fmt.pack_record(fmt.place_of(salt, segment), offset, fmt.VALUE, 1, b"k", b"v", 64)
    here = (
        other[0] if "salt" in moved else salt,
        other[1] if "segment" in moved else segment,
        other[2] if "offset" in moved else offset,
    )
    assume(here != (salt, segment, offset))
    assert read(record, fmt.place_of(*here[:2]), here[2]) is None
    with pytest.raises(ValueError, match=r"^$"):
        fmt.value_of(record, fmt.place_of(*here[:2]), here[2], b"k")


@given(kind=st.integers(0, 3), key=keys, value=values, offset=offsets, new_segment=st.integers(1, 99), new=offsets)
def test_a_moved_record_is_what_would_have_been_written_there(kind, key, value, offset, new_segment, new):
    record = fmt.pack_record(PLACE, offset, kind, 9, key, value, 64)
    there = fmt.place_of(SALT, new_segment)
    assert fmt.pack_record(there, new, kind, 9, key, value, 64) == fmt.move_record(record, PLACE, offset, there, new)


def test_a_damaged_record_is_not_moved():
    there = fmt.place_of(SALT, 8)
    assert {None} == {fmt.move_record(changed, PLACE, OFFSET, there, 128) for changed in flips(RECORDS["value"])}


@pytest.mark.parametrize("name", ["value", "empty", "batch"])
def test_reading_starts_anywhere_in_a_buffer(name):
    data = b"x" * 16 + RECORDS[name] + b"y" * 16
    assert read(RECORDS[name]) == fmt.read_record(memoryview(data), 16, PLACE, OFFSET)
    assert fmt.unpack_head(data, 16) == fmt.unpack_head(RECORDS[name])


@pytest.mark.parametrize(("total", "nbytes"), [(0, 24), (1, 32), (7, 32), (8, 32), (9, 40), (40, 64)])
def test_records_take_a_multiple_of_8_bytes(total, nbytes):
    assert {nbytes} == {fmt.record_bytes(klen, total - klen) for klen in range(total + 1)}


# Limits


def test_all_that_is_allowed_fits_into_its_field():
    assert fmt.KEY_BYTES_MAX <= 0xFFFF
    assert fmt.VALUE_BYTES_MAX <= fmt.VLEN_MASK
    assert fmt.BATCH_BYTES_MAX <= fmt.VLEN_MASK
    assert fmt.SEQ_MAX < 1 << 48
    assert fmt.SEGMENT_MAX < 1 << 32
    # A record may be the only one of a segment, at its start; others start below the size where a segment ends.
    largest = fmt.record_bytes(fmt.KEY_BYTES_MAX, fmt.VALUE_BYTES_MAX)
    assert fmt.SEGMENT_BYTES_MAX + largest < MEMBER * 8
    assert fmt.SEGMENT_BYTES_MAX <= (fmt.OFFSET_MASK + 1) * 8


def test_the_last_member_of_the_largest_batch_has_a_location():
    last = fmt.HEADER_BYTES + fmt.BATCH_BYTES_MAX - fmt.record_bytes(0, 0)
    assert (1, last, 24) == fmt.unpack_location(fmt.pack_location(1, last, 24))


@given(
    segment=st.integers(1, fmt.SEGMENT_MAX),
    offset=st.integers(8, fmt.OFFSET_MASK).map(lambda n: n * 8),
    nbytes=st.integers(3, 2**27).map(lambda n: n * 8) | st.sampled_from([65_512, 65_520, 65_528, 65_536, 65_544]),
)
def test_a_location_tells_segment_offset_and_size(segment, offset, nbytes):
    location = fmt.pack_location(segment, offset, nbytes)
    assert 0 < location < 2**64
    assert (segment, offset, nbytes if nbytes < fmt.LARGE_BYTES else 0) == fmt.unpack_location(location)
    assert segment == location >> fmt.SEGMENT_SHIFT


@given(a=st.tuples(st.integers(1, 99), offsets), b=st.tuples(st.integers(1, 99), offsets), size=st.integers(3, 2**27))
def test_locations_are_ordered_as_the_log_is(a, b, size):
    if a != b:
        assert (a < b) == (fmt.pack_location(*a, size * 8) < fmt.pack_location(*b, 24))


# A store as version 1 wrote it


def log_files() -> list[Path]:
    return sorted(GOLDEN.glob("shard-0/*.log"))


def segment_end(path: Path) -> int:
    """Where the records of a golden segment end; behind them is space that was reserved."""
    data, at = path.read_bytes(), 64
    while at + 24 <= len(data) and data[at : at + 24] != bytes(24):
        kind_vlen, seq_klen = struct.unpack_from("<IQ", data, at + 12)
        at += -(-(24 + (kind_vlen & 2**30 - 1) + (seq_klen & 0xFFFF)) // 8) * 8
    return at


def record_again(data: bytes, at: int, place: int) -> bytes:
    """The record at ``data[at:]``, taken apart by hand, as it is written today."""
    durable, kind_vlen, seq_klen = struct.unpack_from("<IIQ", data, at + 8)
    kind, vlen, seq, klen = kind_vlen >> 30, kind_vlen & 2**30 - 1, seq_klen >> 16, seq_klen & 0xFFFF
    key, value = data[at + 24 : at + 24 + klen], data[at + 24 + klen : at + 24 + klen + vlen]
    if kind != fmt.BATCH:
        return fmt.pack_record(place, at, kind, seq, key, value, durable * 8)
    members, inner = [], at + 24
    while inner < at + 24 + vlen:
        members.append(record_again(data, inner, place))
        inner += len(members[-1])
    return fmt.pack_batch(place, at, seq, b"".join(members), durable * 8)


def test_an_old_store_is_opened_and_holds_what_it_held():
    before = {path: path.read_bytes() for path in sorted(GOLDEN.rglob("*")) if path.is_file()}
    with open_store(GOLDEN, mode="r", options=StoreOptions(cache_bytes=0)) as store:
        assert EXPECTED == dict(store.scan())
        assert EXPECTED == {key: store.get(key) for key in EXPECTED}
        assert len(store) == len(EXPECTED)
        assert store.get(b"deleted") is None
        assert [] == store.verify()
    assert before == {path: path.read_bytes() for path in sorted(GOLDEN.rglob("*")) if path.is_file()}


def test_an_old_store_is_made_of_everything_that_a_store_may_have():
    headers = [fmt.unpack_header(p.read_bytes(), p, shard_id=GOLDEN_SHARD, segment=int(p.stem)) for p in log_files()]
    assert {0, fmt.COMPACTED} == {header.flags for header in headers}
    kinds = set()
    for path in log_files():
        data, at = path.read_bytes(), 64
        while at < segment_end(path):
            head = fmt.unpack_head(data, at)
            kinds.add(head.kind)
            at += fmt.record_bytes(head.klen, head.vlen)
    assert {fmt.LINEAGE, fmt.VALUE, fmt.TOMBSTONE, fmt.BATCH} == kinds
    hinted = {path.stem for path in GOLDEN.glob("shard-0/*.hint")}
    assert hinted < {path.stem for path in log_files()}
    assert sum(path.stat().st_size for path in GOLDEN.rglob("*.*")) < 20_000


def test_old_files_written_again_have_the_same_bytes():
    manifest = (GOLDEN / "manifest.json").read_bytes()
    assert MANIFEST == unpack_manifest(manifest, "p")
    assert manifest == pack_manifest(MANIFEST)
    for path in log_files():
        data, number = path.read_bytes(), int(path.stem)
        place = fmt.place_of(MANIFEST.shard_salt(0), number)
        again = fmt.pack_header(fmt.unpack_header(data, path, shard_id=GOLDEN_SHARD, segment=number))
        while len(again) < segment_end(path):
            again += record_again(data, len(again), place)
        assert data == again.ljust(len(data), b"\0")
    for path in GOLDEN.glob("shard-0/*.hint"):
        data = path.read_bytes()
        assert data == pack_hint(unpack_hint(data, path, shard_id=GOLDEN_SHARD, segment=int(path.stem)), GOLDEN_SHARD)


def test_old_hints_say_what_their_segments_say(tmp_path):
    """A store is the same without any hint."""
    copy = tmp_path / "store"
    for path in [GOLDEN / "manifest.json", *log_files()]:
        target = copy / path.relative_to(GOLDEN)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    with open_store(copy, mode="r", options=StoreOptions(cache_bytes=0)) as store:
        assert EXPECTED == dict(store.scan())


@pytest.mark.parametrize("mode", ["r", "rw"])
def test_segments_of_another_store_are_refused(tmp_path, mode, monkeypatch):
    monkeypatch.setattr(opening, "_READER_ATTEMPTS", 1)
    other = tmp_path / "store"
    open_store(other, options=StoreOptions(background=False)).close()
    (other / "shard-0" / log_files()[0].name).write_bytes(log_files()[0].read_bytes())
    with pytest.raises(StorageError, match="another shard"):
        open_store(other, mode=mode, options=StoreOptions(background=False))
