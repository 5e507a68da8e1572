"""Data of the original skeg, assembled here by hand: what counts is imported, and nothing that is damaged."""

from __future__ import annotations

import os
import random
import struct
import sys
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skeg.errors import CorruptError, FormatError, StorageError
from skeg.kv import original
from skeg.kv.format import KEY_BYTES_MAX
from skeg.kv.kernels.crc32c import crc32c, slices
from skeg.kv.original import crc32c_plain, import_original
from skeg.kv.store import Store

# Records that the original has written; the rest of their 128 bytes is zeros.
HELLO = "c8523159 2a00000000000000 05000000 05000000 00 68656c6c6f 776f726c64"
TOMBSTONE = "90329dc4 6300000000000000 01000000 00000000 01 6b"
BATCH_OF_3 = "3126c276 6400000000000000 00000000 04000000 05 03000000"

TABLES = slices(np.array(original._TABLE, np.uint32))


class Memory:
    """What an import needs of a store, in memory."""

    def __init__(self):
        self.pairs = {}
        self.batches = []

    def set_many(self, pairs):
        self.batches.append(sum(len(key) + len(value) for key, value in pairs))
        self.pairs.update(pairs)


def crc(data):
    """CRC-32C a bit at a time."""
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = state >> 1 ^ (0x82F63B78 if state & 1 else 0)
    return state ^ 0xFFFFFFFF


def record(kind, timestamp, key=b"", value=b"", *, padding=b"\0"):
    body = struct.pack("<QIIB", timestamp, len(key), len(value), kind) + key + value
    # Of large ones by the kernel, which is tested on its own.
    total = crc(body) if len(body) < 1000 else int(crc32c(np.frombuffer(body, np.uint8), 0, len(body), TABLES))
    data = struct.pack("<I", total) + body
    return data + padding * (-len(data) % 128)


def put(timestamp, key, value=b"v"):
    return record(0, timestamp, key, value)


def tombstone(timestamp, key):
    return record(1, timestamp, key)


def batch(timestamp, n):
    return record(5, timestamp, b"", struct.pack("<I", n))


@pytest.fixture
def folder(tmp_path):
    """Writes a data folder: of each shard its segments by id."""

    def make(*shards):
        for number, segments in enumerate(shards):
            shard = tmp_path / f"shard-{number}"
            shard.mkdir(exist_ok=True)
            for segment, data in segments.items():
                (shard / f"{segment:010}.seg").write_bytes(data)
        return tmp_path

    return make


def imported(source, unfinished=()):
    """The pairs; what was cut short has to be these problems, as (segment, offset, words of the message)."""
    store = Memory()
    result = import_original(store, source)
    assert len(store.pairs) == result.pairs
    assert [place[:2] for place in unfinished] == [(os.path.basename(p.path), p.offset) for p in result.unfinished]
    for (*_, words), problem in zip(unfinished, result.unfinished, strict=True):
        assert words in str(problem)
    return store.pairs


def refused(source, kind=CorruptError):
    """The error, as (name of its file, offset, message); nothing may have been set before it."""
    store = Memory()
    with pytest.raises(StorageError) as caught:
        import_original(store, source)
    assert (kind, []) == (type(caught.value), store.batches)
    return os.path.basename(caught.value.path), caught.value.offset, str(caught.value)


# --- records


@pytest.mark.parametrize(
    ("known", "written"),
    [(HELLO, put(42, b"hello", b"world")), (TOMBSTONE, tombstone(99, b"k")), (BATCH_OF_3, batch(100, 3))],
)
def test_the_tests_write_records_as_the_original_does(known, written):
    assert bytes.fromhex(known).ljust(128, b"\0") == written


def test_records_of_the_original_are_read(folder):
    data = b"".join(bytes.fromhex(known).ljust(128, b"\0") for known in (HELLO, TOMBSTONE, BATCH_OF_3))
    members = put(101, b"a") + tombstone(102, b"hello") + put(103, b"k")
    assert {b"a": b"v", b"k": b"v"} == imported(folder({0: data + members}))


def test_records_take_what_they_need_of_128_bytes_and_padding_is_not_looked_at(folder):
    sizes = [0, 1, 106, 107, 108, 234, 235, 236, 1000]
    records = [record(0, n, b"k%03d" % n, bytes(n), padding=b"\xff") for n in sizes]
    assert [128, 128, 256, 256, 256, 384, 384, 384, 1152] == list(map(len, records))
    assert {b"k%03d" % n: bytes(n) for n in sizes} == imported(folder({0: b"".join(records)}))
    for value, nbytes in [(b"", 128), (bytes(107), 128), (bytes(108), 256)]:
        assert nbytes == len(put(1, b"", value))
        assert {b"": value} == imported(folder({0: put(1, b"", value)}))


@pytest.mark.kernels
@given(data=st.binary(max_size=64), start=st.integers(0, 9), rest=st.integers(0, 9))
def test_forms_of_crc32c_agree(data, start, rest):
    stop = max(start, len(data) - rest)
    data = data.ljust(stop, b"x")
    expected = crc(data[start:stop])
    assert expected == crc32c_plain(data, start, stop)
    assert expected == int(crc32c(np.frombuffer(data, np.uint8), start, stop, TABLES))


@pytest.mark.kernels
def test_crc32c_of_the_digits_is_the_published_one():
    digits = b"123456789"
    assert 0xE3069283 == crc(digits) == crc32c_plain(digits, 0, 9)
    assert 0xE3069283 == int(crc32c(np.frombuffer(digits, np.uint8), 0, 9, TABLES))
    assert 0xDAEDA3E9 == crc32c_plain(bytes(17), 0, 17)


# --- which record counts


def test_the_highest_timestamp_counts_wherever_it_stands(folder):
    segments = {
        0: put(9, b"a", b"new") + put(1, b"b", b"old") + put(2, b"c", b"old") + tombstone(8, b"d"),
        1: put(3, b"a", b"old") + tombstone(4, b"b") + put(7, b"c", b"new"),
        2: tombstone(5, b"c") + put(6, b"d", b"old") + put(3, b"a", b"old"),
    }
    assert {b"a": b"new", b"c": b"new"} == imported(folder(segments))


def test_timestamps_of_64_bits_are_numbers(folder):
    times = [2**64 - 1, 1, 2**63, 2**32, 255, 256]
    assert {b"k": b"%d" % (2**64 - 1)} == imported(folder({0: b"".join(put(t, b"k", b"%d" % t) for t in times)}))


def test_copies_of_one_timestamp_are_one_record(folder):
    """As a crash in a compaction leaves them."""
    first = put(5, b"k", b"kept") + tombstone(6, b"gone")
    assert {b"k": b"kept"} == imported(folder({0: first, 1: first, 2: first}))


def test_ids_are_numbers_of_any_size_in_any_spelling(folder):
    source = folder({9: put(1, b"a"), 65_535: put(2, b"a", b"2"), 65_536: put(3, b"a", b"3"), 12_345_678_901: b"torn"})
    (source / "shard-0" / "7.seg").write_bytes(put(9, b"seven"))
    unfinished = [("12345678901.seg", 0, "cut short")]
    assert {b"a": b"3", b"seven": b"v"} == imported(source, unfinished)


def test_other_files_are_not_looked_at(folder):
    source = folder({0: put(1, b"a")})
    for name in (
        "index.snapshot",
        "index.snapshot.tmp",
        "x.seg",
        "0000000001.seg.tmp",
        ".skeg.lock",
        "vindexes.registry",
    ):
        (source / "shard-0" / name).write_bytes(b"\xff" * 50)
    (source / "shard-0" / "vindex-v").mkdir()
    (source / "auth.kdb").write_bytes(b"")
    (source / "shard-x").mkdir()
    assert {b"a": b"v"} == imported(source) == imported(source / "shard-0")


def test_what_stands_before_a_tenant_s_keys_and_vectors_payloads_is_kept(folder):
    tenant = (7).to_bytes(16, "little")
    keys = [tenant + b"name", tenant + b"\0vp" + b"index" + (3).to_bytes(8, "little")]
    assert dict.fromkeys(keys, b"v") == imported(folder({0: put(1, keys[0]) + put(2, keys[1])}))


# --- shards


def test_all_shards_are_read_or_one(folder):
    source = folder({0: put(5, b"a")}, {3: put(1, b"b") + put(2, b"c"), 4: tombstone(3, b"c")}, {}, {0: b""})
    assert {b"a": b"v", b"b": b"v"} == imported(source)
    assert {b"b": b"v"} == imported(str(source / "shard-1"))


def test_eleven_shards_are_in_the_order_of_numbers(folder):
    source = folder(*({0: put(1, b"%d" % i)} for i in range(11)))
    assert {b"%d" % i: b"v" for i in range(11)} == imported(source)


def test_a_missing_shard_is_an_error(folder):
    source = folder({0: put(1, b"a")}, {}, {0: put(1, b"b")})
    (source / "shard-1").rename(source / "shard-01")
    assert "no shard-1" in refused(source)[2]
    (source / "shard-0").rename(source / "shard-1")
    assert "no shard-0" in refused(source)[2]


@pytest.mark.parametrize("here", [put(1, b"k", b"1"), tombstone(9, b"k")])
def test_a_key_of_two_shards_is_an_error_unless_it_is_deleted_in_both(folder, here):
    """Their timestamps can't be compared."""
    source = folder({0: put(1, b"a") + here}, {}, {1: put(2, b"b") + put(7, b"k", b"2")})
    name, offset, message = refused(source)
    assert ("0000000000.seg", 128) == (name, offset)
    assert "0000000001.seg, offset 128" in message
    assert {b"b": b"v", b"k": b"2"} == imported(source / "shard-2")
    folder({}, {}, {1: put(2, b"b") + put(7, b"k", b"2") + tombstone(8, b"k")})
    if here == tombstone(9, b"k"):
        assert {b"a": b"v", b"b": b"v"} == imported(source)
    else:
        assert ("0000000000.seg", 128) == refused(source)[:2]


def test_folders_without_shards_or_segments_are_refused(tmp_path):
    assert "not data of the original" in refused(tmp_path, FormatError)[2]
    (tmp_path / "notes.txt").write_text("no data")
    (tmp_path / "x.seg").write_text("no data")
    assert "not data of the original" in refused(tmp_path, FormatError)[2]
    assert "not a folder" in refused(tmp_path / "notes.txt", FormatError)[2]
    assert "absent: can't read" in refused(tmp_path / "absent", StorageError)[2]


def test_shards_without_records_have_no_pairs(folder):
    assert {} == imported(folder({}, {0: b""}))
    assert {} == imported(folder({0: tombstone(1, b"k")}, {}))


# --- batches


BEFORE = put(1, b"before")
MEMBERS = [put(11, b"a", b"1"), tombstone(12, b"before"), put(13, b"a", b"3")]


def test_a_whole_batch_is_applied(folder):
    data = BEFORE + batch(10, 3) + b"".join(MEMBERS) + put(14, b"after")
    assert {b"a": b"3", b"after": b"v"} == imported(folder({0: data}))
    assert {b"before": b"v", b"after": b"v"} == imported(folder({0: BEFORE + batch(10, 0) + put(14, b"after")}))


@pytest.mark.parametrize("left", range(3))
def test_a_batch_cut_short_at_the_end_is_left_out_as_a_whole(folder, left):
    data = BEFORE + batch(10, 3) + b"".join(MEMBERS[:left])
    words = f"after {left} of 3 records at the end of the log, left out"
    assert {b"before": b"v"} == imported(folder({0: data}), [("0000000000.seg", 128, words)])
    torn = [("0000000000.seg", len(data), "record cut short"), ("0000000000.seg", 128, words)]
    assert {b"before": b"v"} == imported(folder({0: data + MEMBERS[left][:100]}), torn)


def test_what_follows_a_batch_cut_short_is_kept_together_with_it(folder):
    """The original has gone on writing after the crash; its own recovery then loses acknowledged writes."""
    words = "after 2 of 9 records before other writes, kept"
    rest = batch(10, 9) + MEMBERS[0] + put(14, b"acknowledged")
    expected = {b"before": b"v", b"a": b"1", b"acknowledged": b"v", b"b": b"v"}
    source = folder({0: BEFORE + rest + batch(20, 1) + put(21, b"b")})
    assert expected == imported(source, [("0000000000.seg", 128, words)])
    source = folder({0: BEFORE + rest, 1: put(21, b"b")})
    assert expected == imported(source, [("0000000000.seg", 128, words)])


def test_of_one_timestamp_twice_what_was_written_later_counts(folder):
    """The clock of the original may go back to that of a batch that was cut short."""
    data = batch(10, 9) + put(11, b"k", b"cut short") + put(11, b"k", b"acknowledged") + batch(20, 1) + put(21, b"b")
    pairs = imported(folder({0: data}), [("0000000000.seg", 0, "after 2 of 9")])
    assert {b"k": b"acknowledged", b"b": b"v"} == pairs


# --- damage


@pytest.mark.parametrize("last", [put(3, b"last", b"x" * 200), tombstone(3, b"a"), batch(3, 1)])
def test_a_last_record_cut_anywhere_is_left_out(folder, last):
    good = put(1, b"a") + put(2, b"b")
    for end in range(1, len(last)):
        unfinished = [("0000000001.seg", 256, "record cut short at the end of the log, left out")]
        assert {b"a": b"v", b"b": b"v"} == imported(folder({0: b"", 1: good + last[:end]}), unfinished)
    assert {b"a": b"v", b"b": b"v"} == imported(folder({0: b"", 1: good}))


def test_a_tail_of_zeros_or_of_anything_is_left_out(folder):
    for tail in (
        bytes(4),
        bytes(128),
        bytes(1000),
        random.Random(1).randbytes(100_000),
        put(9, b"c")[:20] + bytes(500),
    ):
        unfinished = [("0000000000.seg", 128, "left out")]
        assert {b"a": b"v"} == imported(folder({0: put(1, b"a") + tail}), unfinished)


def test_every_flipped_bit_in_the_middle_is_noticed(folder):
    records = [put(1, b"a"), put(2, b"key", b"value"), put(3, b"c")]
    for position in range(21 + 8):
        for bit in range(8):
            damaged = bytearray(records[1])
            damaged[position] ^= 1 << bit
            name, offset, message = refused(folder({0: records[0] + damaged + records[2]}))
            assert ("0000000000.seg", 128) == (name, offset)
            assert "whole one follows at 256" in message


@pytest.mark.parametrize("zeros", [1, 127, 128, 1_000, 1_900])
def test_bytes_lost_in_the_middle_are_noticed(folder, zeros):
    """Whole records stand behind them, at places of records."""
    value = b"x" * 1000
    whole = put(1, b"a") + put(2, b"b", value) + put(3, b"c", value) + tombstone(4, b"a")
    assert {b"b": value, b"c": value} == imported(folder({0: whole}))
    for damaged in (whole[:200] + bytes(zeros) + whole[200 + zeros :], whole[:200] + whole[200 + 128 :]):
        assert ("0000000000.seg", 128) == refused(folder({0: damaged}))[:2]


@pytest.mark.parametrize("tail", [b"x", put(9, b"c")[:-1], bytes(128)])
def test_a_torn_tail_before_another_segment_is_damage(folder, tail):
    source = folder({0: put(1, b"a") + tail, 1: put(2, b"b")}, {0: put(3, b"c")})
    name, offset, message = refused(source)
    assert ("0000000000.seg", 128) == (name, offset)
    assert "newer segments follow" in message
    assert {b"c": b"v"} == imported(source / "shard-1")


@pytest.mark.parametrize("kind", [2, 3, 4, 6, 255])
def test_records_of_other_kinds_are_refused(folder, kind):
    name, offset, message = refused(folder({0: put(1, b"a") + record(kind, 2, b"k", b"v")}), FormatError)
    assert ("0000000000.seg", 128) == (name, offset)
    assert f"expected 0, 1 or 5, found {kind}" in message


@pytest.mark.parametrize("wrong", [record(5, 1), record(5, 1, b"k", bytes(4)), record(5, 1, b"", bytes(8))])
def test_batches_that_contradict_themselves_are_corrupt(folder, wrong):
    assert ("0000000000.seg", 0) == refused(folder({0: wrong}))[:2]


# --- sizes


def test_a_key_too_long_for_a_store_is_named_if_it_counts(folder):
    fits, too_long = b"k" * KEY_BYTES_MAX, b"k" * (KEY_BYTES_MAX + 1)
    good = put(1, fits) + put(2, b"a")
    source = folder({0: good + put(3, too_long)}, {0: put(1, b"b")})
    name, offset, message = refused(source, FormatError)
    assert ("0000000000.seg", len(good)) == (name, offset)
    assert "key too large for a store: expected at most 65535 bytes, found 65536 bytes" in message
    folder({1: tombstone(4, too_long)})
    assert {fits: b"v", b"a": b"v", b"b": b"v"} == imported(source)


def test_a_value_too_large_for_a_store_is_named(folder, monkeypatch):
    monkeypatch.setattr(original, "VALUE_BYTES_MAX", 100)
    source = folder({0: put(1, b"a", bytes(100)) + put(2, b"b", bytes(101)) + put(3, b"c")})
    name, offset, message = refused(source, FormatError)
    assert ("0000000000.seg", 128) == (name, offset)
    assert "value too large" in message


def test_pairs_arrive_in_batches_of_a_mebibyte_or_of_one_pair(folder):
    sizes = [10, 400_000, 500_000, 3 << 20, 30, 40]
    segments = {i: put(i, b"%d" % i, bytes(n)) for i, n in enumerate(sizes)}
    store = Memory()
    assert 6 == import_original(store, folder(segments)).pairs
    assert [900_013, (3 << 20) + 1, 72] == store.batches
    assert {b"%d" % i: n for i, n in enumerate(sizes)} == {key: len(value) for key, value in store.pairs.items()}


def test_memory_does_not_grow_with_the_values(folder):
    class Forgetful(Memory):
        def set_many(self, pairs):
            self.batches.append(len(pairs))

    source = folder({i: b"".join(put(j, b"%d/%d" % (i, j), bytes(50_000)) for j in range(50)) for i in range(10)})
    store = Forgetful()
    tracemalloc.start()
    try:
        assert 500 == import_original(store, source).pairs == sum(store.batches)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20


def test_with_and_without_the_kernel_it_is_the_same(folder, monkeypatch):
    """Little data does not wait for Numba to load; with the JIT disabled the kernel would be slower."""
    source = folder({0: put(1, b"a", b"1") + put(2, b"b", bytes(300)) + put(3, b"a", b"2")})
    expected = {b"a": b"2", b"b": bytes(300)}
    assert expected == imported(source)
    monkeypatch.delitem(sys.modules, "skeg.kv.kernels.crc32c")
    assert crc32c_plain is original._crc_for(original.KERNEL_BYTES - 1)
    assert crc32c_plain is not original._crc_for(original.KERNEL_BYTES)
    monkeypatch.setattr("skeg.jit.JIT_DISABLED", True)
    assert crc32c_plain is original._crc_for(original.KERNEL_BYTES)
    assert expected == imported(source)


def test_a_file_that_changes_meanwhile_is_noticed(folder):
    """Batches before the change were set."""
    source = folder({0: put(1, b"a", bytes(1 << 20)), 1: put(2, b"b"), 2: put(3, b"c")})

    class Changing(Memory):
        def set_many(self, pairs):
            super().set_many(pairs)
            folder({2: put(3, b"c")[:60]})

    store = Changing()
    with pytest.raises(CorruptError, match=r"0000000002\.seg, offset 0: record changed"):
        import_original(store, source)
    assert {b"a"} == store.pairs.keys()


def test_a_store_has_the_pairs_and_keeps_its_own(folder, tmp_path):
    rng = random.Random(5)
    pairs, data = {}, {0: b"", 1: b"", 2: b""}
    for time in range(1, 600):
        key, value = b"%d" % rng.randrange(200), rng.randbytes(rng.randrange(300))
        segment = rng.randrange(3)
        if rng.random() < 0.3:
            data[segment] += tombstone(time, key)
            pairs.pop(key, None)
        else:
            data[segment] += put(time, key, value)
            pairs[key] = value
    source = folder(data)
    with Store.open(tmp_path / "store", shards=2) as store:
        store.set(b"own", b"stays")
        assert len(pairs) == import_original(store, source).pairs
        assert pairs | {b"own": b"stays"} == dict(store.scan())


def random_log(rng):
    """Records of few keys with unique timestamps in random order, in segments; the pairs that they leave."""
    times = rng.sample(range(1000), 40)
    latest, segments = {}, {}
    for time in times:
        key = b"%d" % rng.randrange(12)
        dead = rng.random() < 0.3
        data = tombstone(time, key) if dead else put(time, key, b"%d" % time * rng.randrange(1, 60))
        latest[key] = max(latest.get(key, (-1, b"")), (time, data))
        number = rng.randrange(5)
        segments[number] = segments.get(number, b"") + data
    return segments, {key: data for key, (_, data) in latest.items() if data[20] == 0}


@pytest.mark.parametrize("seed", range(20))
def test_random_logs_leave_the_newest_of_each_key(folder, seed):
    segments, newest = random_log(random.Random(seed))
    pairs = imported(folder(segments))
    assert newest.keys() == pairs.keys()
    for key, value in pairs.items():
        assert newest[key][21 : 21 + len(key + value)] == key + value
