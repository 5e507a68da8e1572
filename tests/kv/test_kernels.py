"""XXH3 in Numba, and the scan of a segment beside its slow twin, on segments with everything wrong that can be."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from skeg.kv import format as fmt
from skeg.kv.format import BATCH, LINEAGE, MEMBER, TOMBSTONE, VALUE, pack_record
from skeg.kv.kernels import BAD_CHECKSUM, BAD_FIELD, END_OF_DATA, FULL, STALE, record
from skeg.kv.kernels.scan import scan_records
from skeg.kv.kernels.xxh3 import secret_words, xxh3_64

pytestmark = pytest.mark.kernels

SEEDS = [0, 1, 2**32 - 1, 2**32, 2**63, 2**64 - 1, 0x0123456789ABCDEF, 0xFEDCBA9876543210]
HASH_SEED = 0xC0FFEE1234567890
CHECK_SEED = HASH_SEED ^ 0x9E3779B97F4A7C15
SECRETS = np.stack([secret_words(seed) for seed in (0, HASH_SEED, CHECK_SEED)])
PLACE = fmt.place_of(0xA5A5A5A55A5A5A5A, 7)
ALL_BITS = 2**64 - 1
HEADER = bytes(fmt.HEADER_BYTES)
START = len(HEADER)


class Result(NamedTuple):
    """What a scan gives, and its columns put together."""

    entries: list[tuple[int, ...]]
    offset: int
    reason: int
    seq: int


class RefusedError(Exception):
    """Why a record is not accepted."""

    @property
    def reason(self) -> int:
        return int(self.args[0])


def check_record(
    data: bytes, at: int, base: int, end: int, kinds: set[int], membership: set[bool]
) -> tuple[fmt.RecordHead, int]:
    """Head and size of the record at ``data[at]``, if all is well with it; the order is that of the contract."""
    if end - at < fmt.RECORD_BYTES:
        raise RefusedError(END_OF_DATA)
    head = fmt.unpack_head(data, at)
    in_range = {
        LINEAGE: head.klen == 0 and head.vlen % 4 == 0,
        VALUE: head.vlen <= fmt.VALUE_BYTES_MAX,
        TOMBSTONE: head.klen == fmt.TOMBSTONE_KEY.size and head.vlen == 0,
        BATCH: head.klen == 0 and head.vlen >= fmt.RECORD_BYTES and head.vlen % fmt.ALIGNMENT == 0,
    }
    if head.kind not in kinds or (head.durable == MEMBER) not in membership or not in_range[head.kind]:
        raise RefusedError(BAD_FIELD)
    size = fmt.record_bytes(head.klen, head.vlen)
    if at + size > end:
        raise RefusedError(END_OF_DATA)
    if fmt.read_record(memoryview(data)[:end], at, PLACE, base + at) is None:
        raise RefusedError(BAD_CHECKSUM)
    return head, size


def entry_of(data: bytes, at: int, base: int, head: fmt.RecordHead, mask: int) -> tuple[int, ...]:
    key = data[at + fmt.RECORD_BYTES :][: head.klen]
    place = (base + at) // 8
    if head.kind == TOMBSTONE:
        key_hash, check = fmt.TOMBSTONE_KEY.unpack(key)
        return (key_hash, head.seq, check, place, 0)
    key_hash, check = xxh3_64_intdigest(key, HASH_SEED) & mask or 1, xxh3_64_intdigest(key, CHECK_SEED) % 2**32
    return (key_hash, head.seq, check, place, fmt.record_bytes(head.klen, head.vlen) // 8)


def members_of(data: bytes, at: int, end: int, base: int, seq: int, mask: int) -> list[tuple[int, ...]]:
    entries: list[tuple[int, ...]] = []
    while at < end:
        try:
            head, size = check_record(data, at, base, end, {VALUE, TOMBSTONE}, {True})
        except RefusedError as refused:
            raise RefusedError(BAD_FIELD if refused.reason == END_OF_DATA else refused.reason) from None
        if not entries and head.seq != seq:
            raise RefusedError(BAD_FIELD)
        if entries and head.seq <= entries[-1][1]:
            raise RefusedError(STALE)
        entries.append(entry_of(data, at, base, head, mask))
        at += size
    return entries


def next_entries(
    data: bytes, at: int, base: int, seq: int, compacted: bool, mask: int
) -> tuple[list[tuple[int, ...]], int]:
    """Entries of the record at ``data[at]``, and its size."""
    if not compacted:
        kinds, membership = {VALUE, TOMBSTONE, BATCH}, {False}
    else:
        kinds, membership = {VALUE, TOMBSTONE} if base + at > START else {LINEAGE}, {False, True}
    head, size = check_record(data, at, base, len(data), kinds, membership)
    if not compacted and head.seq <= seq:
        raise RefusedError(STALE)
    if head.kind == BATCH:
        return members_of(data, at + fmt.RECORD_BYTES, at + size, base, head.seq, mask), size
    return [entry_of(data, at, base, head, mask)] if head.kind != LINEAGE else [], size


def scan_twin(
    data: bytes, base: int, start: int, compacted: bool, seq: int, capacity: int, mask: int = ALL_BITS
) -> Result:
    """`scan_records`, slowly."""
    entries: list[tuple[int, ...]] = []
    at = start - base
    while True:
        try:
            new, size = next_entries(data, at, base, seq, compacted, mask)
        except RefusedError as refused:
            return Result(entries, base + at, refused.reason, seq)
        if len(entries) + len(new) > capacity:
            return Result(entries, base + at, FULL, seq)
        entries += new
        at += size
        seq = max([seq, *(entry[1] for entry in new)])


def scan_compiled(
    data: bytes, base: int, start: int, compacted: bool, seq: int, capacity: int, mask: int = ALL_BITS
) -> Result:
    """`scan_records`, its columns of exactly this capacity."""
    dtypes = (np.uint64, np.uint64, np.uint32, np.uint32, np.uint32)
    columns = tuple(np.full(capacity, 0xEE, dtype) for dtype in dtypes)
    array = np.frombuffer(data, np.uint8)
    numbers = np.uint64(PLACE), compacted, np.uint64(seq), np.uint64(mask)
    count, offset, reason, last = scan_records(array, base, start, *numbers, SECRETS, columns)
    entries = zip(*(column[:count].tolist() for column in columns), strict=True)
    return Result(list(entries), int(offset), int(reason), int(last))


def room(data: bytes) -> int:
    return len(data) // fmt.RECORD_BYTES


def both(data: bytes, compacted: bool = False, seq: int = 0) -> Result:
    """The result of the kernel, which is the twin's."""
    result = scan_compiled(data, 0, START, compacted, seq, room(data))
    assert scan_twin(data, 0, START, compacted, seq, room(data)) == result
    return result


class Piece(NamedTuple):
    """A record to be written; `value` holds pieces when it is a batch. `step`: how far its number is from the last."""

    kind: int
    key: bytes
    value: Any
    step: int = 1
    is_member: bool = False


def lay_out(pieces: list[Piece], offset: int, seq: int) -> tuple[list[bytes], int]:
    """The records from an offset on, and the last sequence number."""
    records: list[bytes] = []
    for piece in pieces:
        value = piece.value
        number = last = max(0, seq + piece.step)
        if isinstance(value, list):
            # The first member has the number of the batch unless its own step is not 1.
            members, last = lay_out(value, offset + fmt.RECORD_BYTES, number - 1)
            value, last = b"".join(members), last if members else number
        durable = MEMBER * 8 if piece.is_member else START
        records.append(pack_record(PLACE, offset, piece.kind, number, piece.key, value, durable))
        offset += len(records[-1])
        seq = last
    return records, seq


def segment(*pieces: Piece) -> bytes:
    return HEADER + b"".join(lay_out(list(pieces), START, 0)[0])


def put(key: bytes, value: bytes = b"", step: int = 1) -> Piece:
    return Piece(VALUE, key, value, step)


def dead(key_hash: int, check: int) -> Piece:
    return Piece(TOMBSTONE, fmt.TOMBSTONE_KEY.pack(key_hash, check), b"")


def batch(*members: Piece, step: int = 1) -> Piece:
    return Piece(BATCH, b"", [member._replace(is_member=True) for member in members], step)


SMALL = segment(put(b"a", b"1"), batch(put(b"b", b"22"), dead(5, 6), put(b"", b"")), put(b"c", bytes(9)), dead(7, 8))


# XXH3


@pytest.mark.parametrize("seed", SEEDS)
def test_every_length_up_to_1100_hashes_as_in_the_reference_implementation(seed, rng):
    data = rng.integers(0, 256, 1200, np.uint8)
    words = secret_words(seed)
    for n in range(1101):
        start = n % 91
        array = np.frombuffer(data[: start + n].tobytes(), np.uint8)
        assert xxh3_64_intdigest(array[start:], seed) == int(xxh3_64(array, start, n, words)), n


@pytest.mark.parametrize("n", [2048, 2049, 65_536, (1 << 20) + 3])
@pytest.mark.parametrize("fill", [0, 255, None])
def test_long_inputs_hash_as_in_the_reference_implementation(n, fill, rng):
    data = rng.bytes(n + 5) if fill is None else bytes([fill]) * (n + 5)
    seed = 2**64 - 1 - n
    found = xxh3_64(np.frombuffer(data, np.uint8), 5, n, secret_words(seed))
    assert xxh3_64_intdigest(data[5:], seed) == int(found)


@given(data=st.binary(max_size=600), seed=st.integers(0, 2**64 - 1), start=st.integers(0, 20))
@settings(max_examples=200)
def test_any_seed_and_any_bytes(data, seed, start):
    start = min(start, len(data))
    found = xxh3_64(np.frombuffer(data, np.uint8), start, len(data) - start, secret_words(seed))
    assert xxh3_64_intdigest(data[start:], seed) == int(found)


# What a scan accepts


def test_the_kernel_s_constants_are_those_of_the_layout():
    names = ("HEADER_BYTES", "RECORD_BYTES", "LINEAGE", "VALUE", "TOMBSTONE", "BATCH", "VALUE_BYTES_MAX", "MEMBER")
    assert [getattr(fmt, name) for name in names] == [getattr(record, name) for name in names]
    assert fmt.TOMBSTONE_KEY.size == record.TOMBSTONE_KEY_BYTES


def test_entries_stand_in_the_order_of_the_records():
    entries, offset, reason, seq = both(SMALL)
    names = [
        (xxh3_64_intdigest(k, HASH_SEED), xxh3_64_intdigest(k, CHECK_SEED) % 2**32) for k in (b"a", b"b", b"", b"c")
    ]
    assert [*names[:2], (5, 6), *names[2:], (7, 8)] == [(entry[0], entry[2]) for entry in entries]
    assert [1, 2, 3, 4, 5, 6] == [entry[1] for entry in entries]
    # A batch has a head before its members.
    assert [64, 96 + 24, 152, 192, 216, 256] == [entry[3] * 8 for entry in entries]
    assert [32, 32, 0, 24, 40, 0] == [entry[4] * 8 for entry in entries]
    assert (len(SMALL), END_OF_DATA, 6) == (offset, reason, seq)


@pytest.mark.parametrize("klen", [0, 1, 3, 8, 16, 17, 128, 129, 240, 241, 1025, fmt.KEY_BYTES_MAX])
def test_keys_of_every_size(klen):
    data = segment(put(b"k" * klen, b"v" * (klen % 7)), put(b"after"))
    assert (2, len(data), END_OF_DATA) == (len(both(data).entries), *both(data)[1:3])


def test_a_segment_without_records():
    assert ([], START, END_OF_DATA, 9) == both(HEADER, seq=9)


def test_masked_hashes_collide_and_are_never_zero():
    for mask in (0, 3, 255):
        found = scan_compiled(SMALL, 0, START, False, 0, room(SMALL), mask)
        assert scan_twin(SMALL, 0, START, False, 0, room(SMALL), mask) == found
        values = {entry[0] for entry in found.entries if entry[4]}
        assert 0 not in values
        assert max(values) <= max(mask, 1)


def test_a_compacted_segment_begins_with_its_lineage_and_no_other_has_one():
    lineage = Piece(LINEAGE, b"", bytes(8), step=50)
    first, second = segment(lineage, put(b"k", step=-9)), segment(put(b"k"), lineage)
    assert ([41], END_OF_DATA, 41) == ([entry[1] for entry in both(first, True).entries], *both(first, True)[2:])
    assert (START, BAD_FIELD) == both(first, False)[1:3]
    assert (START, BAD_FIELD) == both(second, True)[1:3]
    assert (START + 32, BAD_FIELD) == both(second, False)[1:3]
    assert (START + 32, BAD_FIELD) == both(segment(lineage, lineage), True)[1:3]
    assert (START, BAD_FIELD) == both(segment(lineage._replace(value=bytes(7))), True)[1:3]
    assert (START, BAD_FIELD) == both(segment(lineage._replace(key=b"k")), True)[1:3]


def test_a_compacted_segment_holds_copies_in_any_order_and_no_batches():
    copies = [put(b"a", step=9), put(b"b", step=-5)._replace(is_member=True), dead(7, 8)]
    data = segment(Piece(LINEAGE, b"", bytes(4), step=0), *copies, batch(put(b"c")))
    assert [9, 4, 5] == [entry[1] for entry in both(data, True).entries]
    assert (START + 32 + 32 + 32 + 40, BAD_FIELD, 9) == both(data, True)[1:]


def test_bytes_from_the_middle_of_a_segment_on():
    copies = segment(Piece(LINEAGE, b"", bytes(8)), put(b"a"), put(b"b"))
    for data, compacted in ((SMALL, False), (copies, True)):
        whole = both(data, compacted)
        for base in (32, START, START + 32):
            start = max(base, START)
            part = scan_compiled(data[base:], base, start, compacted, start // 96, room(data))
            assert scan_twin(data[base:], base, start, compacted, start // 96, room(data)) == part
            assert ([entry for entry in whole.entries if entry[3] * 8 >= start], *whole[1:]) == part


# What it refuses


@pytest.mark.parametrize(
    ("reason", "piece"),
    [
        (STALE, put(b"k", step=0)),
        (STALE, batch(put(b"k"), step=0)),
        (STALE, batch(put(b"k"), put(b"l", step=0))),
        (BAD_FIELD, batch(put(b"k", step=2))),
        (BAD_FIELD, batch()),
        (BAD_FIELD, Piece(BATCH, b"k", [put(b"k")._replace(is_member=True)])),
        (BAD_FIELD, batch(put(b"k"), batch(put(b"l")))),
        (BAD_FIELD, batch(Piece(LINEAGE, b"", bytes(4)))),
        (BAD_FIELD, Piece(BATCH, b"", [put(b"k")])),
        (BAD_FIELD, put(b"k")._replace(is_member=True)),
        (BAD_FIELD, batch(put(b"k"))._replace(is_member=True)),
        (BAD_FIELD, Piece(TOMBSTONE, bytes(11), b"")),
        (BAD_FIELD, Piece(TOMBSTONE, bytes(13), b"")),
        (BAD_FIELD, Piece(TOMBSTONE, bytes(12), b"v")),
        (BAD_FIELD, batch(Piece(TOMBSTONE, bytes(12), b"v"))),
        (BAD_FIELD, Piece(BATCH, b"", bytes(23))),
        (BAD_FIELD, Piece(BATCH, b"", bytes(24))),
        (BAD_CHECKSUM, Piece(BATCH, b"", pack_record(PLACE, 0, VALUE, 2, b"k", b"", MEMBER * 8))),
    ],
)
def test_a_record_that_checks_out_but_makes_no_sense_is_refused(reason, piece):
    data = segment(put(b"first", b"v"), piece, put(b"never reached", step=5))
    assert (1, START + 32, reason, 1) == (len(both(data).entries), *both(data)[1:])


@pytest.mark.parametrize("left", [0, 1, 8, 16, 23, 24])
def test_a_last_member_that_reaches_past_its_batch(left):
    """The batch is whole by its own checksum; what its last member lacks lies behind it."""
    member, _ = lay_out([put(b"k" * 8, bytes(24))._replace(is_member=True)], START + 24, 0)
    whole = member[0] + pack_record(PLACE, START + 24 + len(member[0]), VALUE, 2, b"", bytes(64), MEMBER * 8)
    data = HEADER + pack_record(PLACE, START, BATCH, 1, b"", whole[: len(member[0]) + left], START) + whole[-64:]
    expected = 1 if left == 0 else 0
    assert (expected, BAD_FIELD) == (len(both(data).entries), both(data).reason)


def test_a_member_that_ends_with_the_padding_of_its_batch():
    members, _ = lay_out([put(b"k")._replace(is_member=True)], START + 24, 0)
    data = HEADER + pack_record(PLACE, START, BATCH, 1, b"", members[0][:-1], START)
    assert ([], START, BAD_FIELD, 0) == both(data)


def test_a_value_may_not_be_larger_than_the_limit():
    head = fmt.HEAD.pack(0, VALUE << 30 | fmt.VALUE_BYTES_MAX, 1 << 16)
    above = fmt.HEAD.pack(0, VALUE << 30 | fmt.VALUE_BYTES_MAX + 1, 1 << 16)
    assert (END_OF_DATA, BAD_FIELD) == (both(HEADER + bytes(8) + head).reason, both(HEADER + bytes(8) + above).reason)


@pytest.mark.parametrize("length", range(1, 8))
def test_padding_that_is_not_zero(length):
    data = bytearray(segment(put(b"k" * length, b""), put(b"l")))
    for i in range(START + 24 + length, START + 32):
        data[i] ^= 0x80
        assert ([], START, BAD_CHECKSUM, 0) == both(bytes(data))
        data[i] ^= 0x80


def test_a_record_of_another_place():
    records, _ = lay_out([put(b"a"), put(b"b")], START, 0)
    assert ([], START, BAD_CHECKSUM, 0) == both(HEADER + records[1] + records[0])


def test_every_truncation_keeps_the_records_before_it_and_batches_whole():
    ends = [START, 96, 216, 256, 296]
    whole = both(SMALL).entries
    for length in range(START, len(SMALL)):
        entries, offset, reason, _ = both(SMALL[:length])
        assert (max(end for end in ends if end <= length), END_OF_DATA) == (offset, reason)
        assert [entry for entry in whole if entry[3] * 8 < offset] == entries


def test_every_flipped_bit_is_seen_and_keeps_what_precedes_it():
    ends = [START, 96, 216, 256, 296]
    for i in range(START, len(SMALL)):
        data = bytearray(SMALL)
        data[i] ^= 1 << i % 8
        entries, offset, _, _ = both(bytes(data))
        assert max(end for end in ends if end <= i) == offset
        assert [entry for entry in both(SMALL).entries if entry[3] * 8 < offset] == entries


# Room


def test_a_scan_with_little_room_goes_on_where_it_stopped_and_splits_no_batch():
    for capacity in range(room(SMALL)):
        entries: list[tuple[int, ...]] = []
        offset, seq, reason = START, 0, FULL
        while reason == FULL:
            part = scan_compiled(SMALL, 0, offset, False, seq, capacity)
            assert scan_twin(SMALL, 0, offset, False, seq, capacity) == part
            if part.offset == offset:
                break
            entries += part.entries
            offset, reason, seq = part[1:]
        # The batch has three entries.
        expected = both(SMALL) if capacity >= 3 else Result([], START, FULL, 0)
        if 0 < capacity < 3:
            expected = Result(both(SMALL).entries[:1], START + 32, FULL, 1)
        assert expected == Result(entries, offset, reason, seq)


def test_a_bad_record_is_bad_even_where_there_is_no_room():
    assert BAD_FIELD == scan_compiled(segment(batch(put(b"k"), batch())), 0, START, False, 0, 0).reason


# Everything at once

STEPS = st.sampled_from([1, 1, 1, 1, 1, 1, 2, 7, 0, -1])
MEMBERSHIP = st.sampled_from([False] * 15 + [True])
LEAVES = st.one_of(
    st.builds(put, st.binary(max_size=20), st.binary(max_size=40), STEPS),
    st.builds(put, st.binary(max_size=20), st.builds(bytes, st.integers(200, 1300)), STEPS),
    st.builds(dead, st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1)),
    st.builds(Piece, st.integers(0, 3), st.binary(max_size=13), st.binary(max_size=32), STEPS, MEMBERSHIP),
)
BATCHES = st.lists(LEAVES, max_size=5).flatmap(lambda members: st.builds(lambda s: batch(*members, step=s), STEPS))
NESTED = st.builds(lambda inner, leaf: batch(leaf, inner), BATCHES, LEAVES)
PIECES = st.lists(st.one_of(LEAVES, LEAVES, BATCHES, BATCHES, NESTED), max_size=8)
# What happens to the bytes: its kind, and where and how much as parts of 2^16.
PARTS = st.integers(0, 2**16 - 1)
DAMAGES = st.lists(st.tuples(st.sampled_from(["flip", "cut", "zero", "swap", "copy"]), PARTS, PARTS), max_size=2)


def damage(records: list[bytes], kind: str, where: int, how: int) -> list[bytes]:
    """Records after an accident."""
    if kind == "swap" and len(records) > 1:
        i, j = where * len(records) >> 16, how * len(records) >> 16
        records[i], records[j] = records[j], records[i]
        return records
    data = bytearray(b"".join(records))
    at = where * len(data) >> 16
    if kind == "flip" and data:
        data[at] ^= 1 << how % 8
    elif kind == "cut":
        del data[at:]
    elif kind == "zero":
        data[at : at + 512] = bytes(len(data[at : at + 512]))
    elif kind == "copy":
        data[at:at] = data[at : at + (how & 127)]
    return [bytes(data)]


@given(pieces=PIECES, damages=DAMAGES, compacted=st.booleans(), capacity=st.integers(0, 12), seq=st.integers(0, 2))
@settings(max_examples=300)
@example(pieces=[], damages=[("zero", 0, 0)], compacted=True, capacity=1, seq=0)
def test_any_segment_with_any_damage_is_scanned_as_by_the_twin(pieces, damages, compacted, capacity, seq):
    records, _ = lay_out(pieces, START, seq)
    for accident in damages:
        records = damage(records, *accident)
    data = HEADER + b"".join(records)
    for n in (capacity, room(data)):
        assert scan_twin(data, 0, START, compacted, seq, n) == scan_compiled(data, 0, START, compacted, seq, n)


@given(tail=st.binary(max_size=200), compacted=st.booleans(), sized=st.booleans())
@settings(max_examples=200)
def test_bytes_that_nobody_wrote(tail, compacted, sized):
    """Fields of any value, also where the checksum holds."""
    if sized and len(tail) >= fmt.RECORD_BYTES:
        head = fmt.unpack_head(tail)
        body = tail[8 : fmt.RECORD_BYTES + head.klen + head.vlen]
        tail = (xxh3_64_intdigest(body) ^ PLACE ^ START >> 3).to_bytes(8, "little") + tail[8:]
    both(HEADER + tail, compacted)
