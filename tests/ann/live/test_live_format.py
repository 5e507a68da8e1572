"""The log of an index as bytes: what is written comes back, and damage is never taken for something written."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skeg import CorruptError, FormatError, VersionTooNewError
from skeg.ann.filters.payload import PAYLOAD_BYTES_MAX
from skeg.ann.live import format as fmt
from skeg.ann.live.log import LogReader, log_name
from skeg.ann.live.state import CHUNK_ROWS
from skeg.ann.params import DIM_MAX
from skeg.binary import checksum

UID = bytes(range(16))
HEADER = fmt.LogHeader(2, UID, 3, 7)
PLACE = fmt.place_of(UID, 3)


def put(ids, vectors, payloads=()):
    return fmt.PUT, fmt.pack_put(np.array(ids, np.uint64), np.array(vectors, np.float32), payloads)


def delete(ids):
    return fmt.DELETE, fmt.pack_delete(np.array(ids, np.uint64))


RECORDS = [
    put([1, 2], [[1, 2], [3, 4]]),
    delete([1]),
    put([3], [[0.5, -1]], [b"\x01a=1"]),
    delete([2, 9]),
]


def log(records=RECORDS, *, synced=True, header=HEADER, spare=0):
    """Bytes of a log; of each record whether all before it was durable when it was written."""
    data = fmt.pack_header(header)
    durable = fmt.HEADER_BYTES
    for number, (type_, body) in enumerate(records):
        record = fmt.pack_record(type_, header.first_seq + number, body, PLACE, len(data), durable)
        data += record
        durable = len(data) if synced else durable
    return data + bytes(spare)


def plain(record):
    if isinstance(record, fmt.DeleteRecord):
        return record.ids.tolist()
    return record.ids.tolist(), record.vectors.tolist(), list(record.payloads)


@pytest.fixture
def read(tmp_path):
    """Reads a log given as bytes."""

    def read(data, wanted=HEADER):
        path = tmp_path / log_name(wanted.number)
        path.write_bytes(data)
        reader = LogReader(tmp_path, wanted)
        try:
            return [plain(record) for record in reader.records()]
        finally:
            reader.close()

    return read


WRITTEN = [([1, 2], [[1, 2], [3, 4]], []), [1], ([3], [[0.5, -1]], [b"\x01a=1"]), [2, 9]]


def test_what_is_written_is_read(read):
    for spare in (0, 8, 100):
        assert WRITTEN == read(log(spare=spare))
        assert WRITTEN == read(log(spare=spare, synced=False))
    assert [] == read(log([]))


@given(
    dim=st.integers(1, 5),
    ids=st.lists(st.integers(0, 2**64 - 2), min_size=1, max_size=5, unique=True),
    payloads=st.none() | st.lists(st.binary(max_size=9), min_size=5, max_size=5),
    base=st.sampled_from([64, 4096, 1 << 32]),
)
def test_a_put_comes_back(dim, ids, payloads, base):
    vectors = np.arange(len(ids) * dim, dtype=np.float32).reshape(-1, dim)
    some = payloads[: len(ids)] if payloads else []
    body = fmt.pack_put(np.array(ids, np.uint64), vectors, some)
    data = memoryview(fmt.pack_record(fmt.PUT, 5, body, PLACE, base, base))
    head = fmt.read_record(data, 0, base, PLACE)
    assert (fmt.PUT, 5, base, len(data)) == (head.type, head.seq, head.durable, head.end)
    record = fmt.unpack_body(data, head, dim)
    assert (ids, vectors.tolist()) == (record.ids.tolist(), record.vectors.tolist())
    assert (some if any(some) else []) == record.payloads


# The layout does not change


def test_the_bytes_of_a_header():
    fields = b"SKEGLIVE" + struct.pack("<II", 1, 2) + UID + struct.pack("<QQQ", 3, 7, 0)
    assert fields + struct.pack("<Q", checksum(fields)) == fmt.pack_header(HEADER)
    assert "744ac4e0e60255f0" == fmt.pack_header(HEADER)[-8:].hex()
    assert fmt.HEADER_BYTES == len(fmt.pack_header(HEADER))


def test_the_bytes_of_a_put():
    type_, body = put([1, 2], [[1, 2], [3, 4]], [b"ab", b""])
    ids, vectors = struct.pack("<QQ", 1, 2), struct.pack("<4f", 1, 2, 3, 4)
    expected = struct.pack("<II", 2, 2) + ids + vectors + struct.pack("<II", 2, 0) + b"ab"
    assert expected == b"".join(body)
    record = fmt.pack_record(type_, 9, body, PLACE, 64, 48)
    head = struct.pack("<IIQQ", len(expected), 1, 9, 48)
    total = checksum(head + expected) ^ int.from_bytes(UID[:8], "little") ^ 3 << 40 ^ 64
    assert struct.pack("<Q", total) + head + expected + bytes(6) == record
    assert "b275460baf1b7654" == record[:8].hex()


def test_the_bytes_of_a_delete():
    type_, body = delete([5, 2**64 - 2])
    expected = struct.pack("<IIQQ", 2, 0, 5, 2**64 - 2)
    assert expected == b"".join(body)
    record = fmt.pack_record(type_, 9, body, PLACE, 64, 64)
    assert struct.pack("<IIQQ", len(expected), 2, 9, 64) + expected == record[8:]
    assert "39c926895f750094" == record[:8].hex()


# What is not a log of this index


@pytest.mark.parametrize(
    "wanted",
    [fmt.LogHeader(3, UID, 3, 7), fmt.LogHeader(2, bytes(16), 3, 7), fmt.LogHeader(2, UID, 4, 7)],
    ids=["dimension", "id", "number"],
)
def test_a_log_of_another_index_is_refused(read, wanted):
    with pytest.raises(FormatError, match="log of another index"):
        read(log(), wanted)


def test_a_newer_version_and_another_file_are_refused(read):
    newer = bytearray(log())
    newer[8] = 2
    newer[56:64] = struct.pack("<Q", checksum(bytes(newer[:56])))
    with pytest.raises(VersionTooNewError, match="at most 1, found 2"):
        read(bytes(newer))
    with pytest.raises(FormatError, match="not a log"):
        read(b"SKEGFILE" + log()[8:])
    for short in (b"", log()[:63]):
        with pytest.raises(CorruptError, match="cut short"):
            read(short)


def test_a_record_of_another_place_is_none(read):
    """Bytes of an older log in space that a new one was given, or of the same log elsewhere, are not its records."""
    whole = log()
    other = fmt.place_of(UID, 4)
    stranger = fmt.pack_record(*_args(RECORDS[0], 7), other, 64, 64)
    assert [] == read(whole[:64] + stranger)
    second = whole[len(log(RECORDS[:1])) :]
    assert [] == read(whole[:64] + second)


def _args(record, seq):
    return record[0], seq, record[1]


# Damage


def prefixes():
    return [WRITTEN[:n] for n in range(len(WRITTEN) + 1)]


@pytest.mark.parametrize("synced", [False, True])
@pytest.mark.parametrize("spare", [0, 64])
def test_a_log_that_is_cut_short_has_the_first_records(read, synced, spare):
    whole = log(synced=synced)
    ends = [len(log(RECORDS[:n])) for n in range(len(RECORDS) + 1)]
    for cut in range(fmt.HEADER_BYTES, len(whole) + 1):
        expected = WRITTEN[: sum(end <= cut for end in ends[1:])]
        found = read(whole[:cut] + bytes(spare))
        # Where the padding was cut off, zeros may stand for it.
        assert found in ([expected] if not spare else prefixes())
        assert len(found) >= len(expected)


def test_no_flipped_bit_gives_other_records(read):
    whole = log(synced=False, spare=16)
    for bit in range(8 * len(whole)):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        try:
            found = read(bytes(data))
        except (CorruptError, FormatError):
            assert bit < 8 * fmt.HEADER_BYTES  # of records that no later one calls durable, the rest is torn
        else:
            assert bit >= 8 * fmt.HEADER_BYTES
            assert found == WRITTEN if bit >= 8 * len(log()) else found in prefixes()[:-1]


def test_a_flipped_bit_in_what_was_durable_is_noticed(read):
    whole = log()
    last = len(log(RECORDS[:-1]))
    for bit in range(8 * fmt.HEADER_BYTES, 8 * last):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptError, match=r"damaged record: the one at \d+ says that it was durable"):
            read(bytes(data))


def test_a_number_out_of_order_is_noticed(read):
    records = [RECORDS[0], RECORDS[1]]
    data = log(records[:1])
    data += fmt.pack_record(*_args(RECORDS[1], HEADER.first_seq + 2), PLACE, len(data), 64)
    with pytest.raises(CorruptError, match="can't be"):
        read(data)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        bytes(7),
        struct.pack("<II", 1, 0),
        struct.pack("<IIB", 0, 0, 1),
        struct.pack("<IIQ", 2, 0, 1),
        struct.pack("<IIQ", 2**32 - 1, 0, 1),
        struct.pack("<III", 1, 0, 1),
        struct.pack("<IIQff", 1, 5, 1, 0, 0),
        struct.pack("<IIQffI", 1, 5, 1, 0, 0, 4) + b"abcde",
        struct.pack("<IIQffI", 1, 5, 1, 0, 0, 2**32 - 1) + b"abcde",
        struct.pack("<IIQf", 1, 0, 1, 0),
        struct.pack("<IIQ", 1, 4, 1) + b"abcd",
    ],
    ids=lambda body: body.hex() or "empty",
)
@pytest.mark.parametrize("type_", [fmt.PUT, fmt.DELETE])
def test_a_sound_record_that_says_what_can_not_be_is_damage(read, body, type_):
    data = log([(type_, [body])])
    with pytest.raises(CorruptError, match="can't be"):
        read(data)


def test_the_largest_record_is_one_that_is_read():
    a_row = 8 + 4 * DIM_MAX + 4 + PAYLOAD_BYTES_MAX
    assert 8 + CHUNK_ROWS * a_row <= fmt.BODY_BYTES_MAX < 2**32
