"""Opening a shard: which record counts, what is a torn tail and what is damage, and what is tidied up."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from skeg.errors import CorruptError, FormatError, StorageError, VersionTooNewError
from skeg.kv import format as fmt
from skeg.kv import opening, recovery
from skeg.kv.batches import Batch, Packer
from skeg.kv.entries import KeyHash
from skeg.kv.hints import Hint, pack_hint, unpack_hint
from skeg.kv.manifest import Manifest, pack_manifest
from skeg.kv.options import Durability
from skeg.kv.scan import Walk, scan_by_kernel, scan_plain
from skeg.kv.segments import Segment
from skeg.kv.shard import Shard
from skeg.kv.store import Store, open_store
from tests.kv.simdisk import SimDisk, SimOps, newest, oldest
from tests.kv.workloads import (
    LONG,
    PATH,
    WORKLOADS,
    Options,
    Session,
    State,
    contents,
    new_store,
    open_on,
    random_call,
)

MANIFEST = Manifest(1, bytes(range(16)), 7, 0xA5A5)
KEYS = KeyHash(MANIFEST.hash_seed)
OPTIONS = Options()
LOG = f"{PATH}/shard-0/{{:010d}}.log"
HINT = f"{PATH}/shard-0/{{:010d}}.hint"
_, OS, SYNC = Durability


@pytest.fixture(autouse=True)
def no_second_look(monkeypatch):
    """Nobody writes beside the readers of these tests, so that what is wrong does not pass."""
    monkeypatch.setattr(opening, "_READER_ATTEMPTS", 1)


# A record to be written: key, value (None: a tombstone), number, and what it says of durability (bytes).
Row = tuple[bytes, bytes | None, int, int]


def record(number: int, at: int, row: Row) -> bytes:
    key, value, seq, durable = row
    place = fmt.place_of(MANIFEST.shard_salt(0), number)
    if value is None:
        return fmt.pack_record(place, at, fmt.TOMBSTONE, seq, KEYS.tombstone_key(key), b"", durable)
    return fmt.pack_record(place, at, fmt.VALUE, seq, key, value, durable)


def segment(number: int, *rows: Row, previous: int = 0, previous_bytes: int = 0, first_seq: int = 1) -> bytes:
    """A segment of the log."""
    header = fmt.SegmentHeader(number, MANIFEST.shard_id(0), first_seq, previous, 0, previous_bytes)
    data = fmt.pack_header(header)
    for row in rows:
        data += record(number, len(data), row)
    return data


def compacted(number: int, sources: list[int], *rows: Row) -> bytes:
    """A segment made by compaction."""
    body = fmt.pack_lineage(fmt.place_of(MANIFEST.shard_salt(0), number), sources)
    for row in rows:
        body += record(number, fmt.HEADER_BYTES + len(body), row)
    first = min((seq for *_, seq, _ in rows), default=1)
    header = fmt.SegmentHeader(number, MANIFEST.shard_id(0), first, 0, fmt.COMPACTED, fmt.HEADER_BYTES + len(body))
    return fmt.pack_header(header) + body


def hint(number: int, data: bytes, end: int | None = None) -> bytes:
    """The hint of a segment, up to some place in it."""
    end = len(data) if end is None else end
    header = fmt.unpack_header(data, "p", shard_id=MANIFEST.shard_id(0), segment=number)
    walk = Walk(fmt.place_of(MANIFEST.shard_salt(0), number), bool(header.flags), header.first_seq - 1)
    scan = scan_plain(data[fmt.HEADER_BYTES : end], fmt.HEADER_BYTES, walk, KEYS)
    assert scan.end == end
    return pack_hint(Hint(number, end, scan.last_seq, scan.overhead, scan.entries.newest()), MANIFEST.shard_id(0))


def disk_of(files: dict[str, bytes]) -> SimDisk:
    """A disk with a store of these files, all durable."""
    ops = SimOps(SimDisk())
    ops.mkdir(PATH)
    ops.mkdir(f"{PATH}/shard-0")
    for path, data in {f"{PATH}/manifest.json": pack_manifest(MANIFEST), **files}.items():
        ops.open(path, create=True).pwrite(data, 0)
    return ops.disk.power_loss(newest)


def change(disk: SimDisk, path: str, data: bytes) -> SimDisk:
    """A copy of a disk on which a file holds something else."""
    copy = disk.copy()
    node: Any = copy.nodes[copy.find(path)]
    node.data, node.durable = bytearray(data), data
    node.unsynced.clear()
    return copy


def without(disk: SimDisk, *suffixes: str) -> SimDisk:
    """A copy of a disk without some files."""
    ops = SimOps(disk.copy())
    for path, data in list(disk.walk()):
        if data is not None and path.endswith(suffixes):
            ops.unlink(path)
    return ops.disk


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


def read(disk: SimDisk, **changes: Any) -> State:
    """What a reader sees, who changes nothing."""
    store, files = open_on(disk, OPTIONS, mode="r", **changes)
    found = contents(store)
    store.close()
    assert [] == files.journal
    return found


def crash(disk: SimDisk, **changes: Any) -> tuple[State, SimDisk]:
    """What a writer sees, and the disk when it is killed at once."""
    store, files = open_on(disk.copy(), OPTIONS, **changes)
    return contents(store), files.disk.copy()


def shard_of(store: Store) -> Shard:
    return store._parts.shards[0]


# Which record counts


@given(
    rows=st.lists(st.tuples(st.sampled_from([b"", b"a", b"b", b"c"]), st.none() | st.binary(max_size=9)), max_size=12),
    where=st.lists(st.integers(0, 3), min_size=12, max_size=12),
    order=st.randoms(use_true_random=False),
    hinted=st.sets(st.integers(0, 3)),
)
@settings(max_examples=60)
def test_the_highest_number_counts_whatever_the_order_of_files(rows, where, order, hinted):
    """Copies keep their numbers, and stand in any file and any order."""
    numbered = [(key, value, seq, 64) for seq, (key, value) in enumerate(rows, 1)]
    expected = {key: value for key, value, *_ in numbered}
    order.shuffle(numbered)
    files = {}
    for number in range(4):
        data = compacted(number + 5, [], *(row for row, w in zip(numbered, where, strict=False) if w == number))
        files[LOG.format(number + 5)] = data
        if number in hinted:
            files[HINT.format(number + 5)] = hint(number + 5, data)
    disk = disk_of(files)
    live = {key: value for key, value in expected.items() if value is not None}
    assert live == read(disk)
    store, _ = open_on(disk, OPTIONS)
    assert live == contents(store)
    assert len(rows) == store.stats()["seq"]


def test_copies_of_one_record_in_several_files_are_one_record():
    rows = [(b"a", b"1", 5, 64), (b"b", None, 7, 64)]
    files = {LOG.format(number): compacted(number, [], *rows, (b"b", b"old", 6, 64)) for number in (2, 3, 4)}
    store, _ = open_on(disk_of(files), OPTIONS)
    assert {b"a": b"1"} == contents(store)
    assert 1 == len(shard_of(store).index)


def test_numbers_go_on_behind_the_highest_that_was_ever_begun():
    """A segment that is begun has a number, though its first record was lost."""
    files = {
        LOG.format(1): segment(1, (b"a", b"1", 3, 64)),
        LOG.format(2): segment(2, previous=1, previous_bytes=96, first_seq=90),
    }
    store, _ = open_on(disk_of(files), OPTIONS)
    assert 89 == store.stats()["seq"]
    store.set(b"b", b"2")
    assert 90 == store.stats()["seq"]


def test_ids_of_segments_are_not_used_again():
    files = {LOG.format(3): compacted(3, [9, 5], (b"a", b"1", 1, 64))}
    store, disk = open_on(disk_of(files), OPTIONS)
    store.set(b"b", b"2")
    assert LOG.format(10) in disk.disk.image()


def test_recovery_can_be_repeated_at_any_time():
    torn = segment(1, (b"a", b"1", 1, 64), (b"b", b"2", 2, 96))[:-3]
    files = {LOG.format(1): torn, LOG.format(2) + ".tmp": b"x", LOG.format(7): b"", HINT.format(1): b"bad"}
    disk = disk_of(files)
    first, once = crash(disk)
    second, twice = crash(once)
    assert {b"a": b"1"} == first == second
    assert once.image() == twice.image()
    store, ops = open_on(twice.copy(), OPTIONS)
    assert [] == [verb for verb, *_ in ops.journal if verb not in {"sync", "sync_dir", "create"}]
    assert {"sync"} >= {verb for verb, *_ in ops.journal if verb != "sync_dir"}
    store.close()


# Torn tails and damage

A, B, C = (b"a", b"1" * 8, 1, 64), (b"b", b"2" * 8, 2, 64), (b"c", b"3" * 8, 3, 64)
A_END, B_END = 64 + 40, 64 + 80


@pytest.mark.parametrize("length", range(A_END, B_END))
def test_a_record_that_is_not_whole_at_the_end_is_cut_off_by_writers_only(length):
    data = segment(1, A, B)[:length]
    disk = disk_of({LOG.format(1): data})
    assert {b"a": A[1]} == read(disk)
    found, left = crash(disk)
    assert {b"a": A[1]} == found
    # Durably, so that nothing is written behind it.
    kept = left.power_loss(oldest).image()[LOG.format(1)]
    assert data[:A_END] == kept or (data[:A_END] + bytes(length - A_END) == data == kept)
    again, _ = crash(left.power_loss(oldest))
    assert again == found


@pytest.mark.parametrize("at", range(A_END, B_END))
def test_any_damage_of_the_last_record_is_a_torn_tail_unless_its_bytes_were_durable(at):
    """Nobody can tell a write that was cut off from damage, if no later record says more."""
    torn = flipped(segment(1, A, B), at)
    assert {b"a": A[1]} == read(disk_of({LOG.format(1): torn}))


@pytest.mark.parametrize(
    ("durable", "seq", "is_damage"),
    [
        (A_END, 3, False),
        (A_END + 8, 3, True),
        (B_END, 3, True),
        (1 << 30, 3, True),
        # Left by a write that failed: its number is used up, and what it says is of then.
        (B_END, 1, False),
        # A member of a batch says nothing.
        (fmt.MEMBER * 8, 3, False),
    ],
)
@pytest.mark.parametrize("gap", ["flipped", "zeros", "later"])
def test_a_later_record_that_says_that_the_bytes_were_durable_makes_it_damage(durable, seq, is_damage, gap):
    data = segment(1, A, B)
    between = b""
    if gap == "later":
        between = record(1, B_END, (b"x", b"", 9, A_END))[:-1] + b"\1"
    data += between
    data += record(1, len(data), (b"c", b"3", seq, durable))
    data = flipped(data, A_END + 30) if gap != "zeros" else data[:A_END] + bytes(40) + data[B_END:]
    disk = disk_of({LOG.format(1): data})
    if not is_damage:
        assert {b"a": A[1]} == read(disk) == crash(disk)[0]
        return
    for mode in ("r", "rw"):
        with pytest.raises(CorruptError, match="record does not match its checksum") as caught:
            open_on(disk.copy(), OPTIONS, mode=mode)
        assert (LOG.format(1), A_END) == (caught.value.path, caught.value.offset)


def test_a_batch_is_a_witness_too():
    data = flipped(segment(1, A, B), A_END + 30)
    place = fmt.place_of(MANIFEST.shard_salt(0), 1)
    data += Packer(KEYS).pack(Batch.of({b"c": b"3", b"d": b"4"}), place, len(data), 3, B_END).data
    with pytest.raises(CorruptError, match="does not match its checksum"):
        read(disk_of({LOG.format(1): data}))


def test_refusing_to_open_changes_nothing():
    data = flipped(segment(1, A, B, (b"c", b"3", 3, B_END)), A_END)
    disk = disk_of({LOG.format(1): data, LOG.format(2) + ".tmp": b"x", HINT.format(1): b"bad"})
    store_image = disk.image()
    ops = SimOps(disk)
    with pytest.raises(CorruptError):
        open_store(PATH, options=OPTIONS.store(), files=ops)
    assert store_image == {path: data for path, data in disk.image().items() if not path.endswith("/lock")}


def two_segments(first: bytes, *rows: Row, length: int | None = None) -> dict[str, bytes]:
    length = len(first) if length is None else length
    rows = rows or ((b"z", b"9", 9, 64),)
    return {LOG.format(1): first, LOG.format(2): segment(2, *rows, previous=1, previous_bytes=length, first_seq=9)}


@pytest.mark.parametrize("at", [64, A_END, B_END, B_END + 39])
def test_any_damage_before_the_newest_segment_is_damage(at):
    disk = disk_of(two_segments(flipped(segment(1, A, B, C), at)))
    with pytest.raises(CorruptError, match="does not match its checksum") as caught:
        read(disk)
    assert (LOG.format(1), 64 + (at - 64) // 40 * 40) == (caught.value.path, caught.value.offset)


@pytest.mark.parametrize("length", [A_END, B_END - 1, 64])
def test_a_segment_shorter_than_its_successor_says_is_damage(length):
    """Also when it ends with a whole record."""
    data = segment(1, A, B)
    disk = disk_of(two_segments(data[:length], length=len(data)))
    with pytest.raises(CorruptError, match="the file is cut short") as caught:
        read(disk)
    assert (LOG.format(1), length) == (caught.value.path, caught.value.offset)


def test_zeros_within_a_closed_segment_are_damage():
    data = segment(1, A)
    with pytest.raises(CorruptError, match="does not match its checksum"):
        read(disk_of(two_segments(data + bytes(40), length=len(data) + 40)))


def test_space_reserved_behind_a_closed_segment_is_no_damage():
    """A process killed in a rotation may have left it, or a file system that lost the cut."""
    data = segment(1, A)
    assert {b"a": A[1], b"z": b"9"} == read(disk_of(two_segments(data + bytes(400), length=len(data))))


@pytest.mark.parametrize("length", [len(compacted(5, [1], A)) - n for n in (1, 40, 72)])
def test_a_compacted_segment_cut_short_is_damage(length):
    disk = disk_of({LOG.format(5): compacted(5, [1], A)[:length]})
    with pytest.raises(CorruptError, match=r"cut short|lineage") as caught:
        read(disk)
    assert LOG.format(5) == caught.value.path


@pytest.mark.parametrize("at", range(64, 64 + 32, 5))
def test_a_damaged_lineage_is_damage(at):
    with pytest.raises(CorruptError, match="lineage of a compacted segment is damaged") as caught:
        read(disk_of({LOG.format(5): flipped(compacted(5, [1], A), at)}))
    assert (LOG.format(5), 64) == (caught.value.path, caught.value.offset)


def test_a_segment_that_is_gone_though_its_hint_is_there_is_damage():
    one, two = segment(1, A), segment(2, previous=1, previous_bytes=A_END, first_seq=9)
    disk = disk_of({HINT.format(1): hint(1, one), LOG.format(2): two})
    for mode in ("r", "rw"):
        with pytest.raises(CorruptError, match="the segment is missing, though its hint is there") as caught:
            open_on(disk.copy(), OPTIONS, mode=mode)
        assert LOG.format(1) == caught.value.path


# Headers


@pytest.mark.parametrize("at", range(0, 64, 7))
@pytest.mark.parametrize("active", [True, False])
def test_a_damaged_header_before_records_is_damage(at, active):
    data = flipped(segment(1, A, B), at)
    disk = disk_of({LOG.format(1): data} if active else two_segments(data))
    for mode in ("r", "rw"):
        with pytest.raises((CorruptError, FormatError)) as caught:
            open_on(disk.copy(), OPTIONS, mode=mode)
        assert LOG.format(1) == caught.value.path


@pytest.mark.parametrize("length", [0, 1, 40, 63, 64])
@pytest.mark.parametrize("kind", ["zeros", "cut", "garbage"])
def test_a_file_whose_header_was_never_finished_is_removed_by_writers(length, kind):
    begun = segment(2, previous=1, previous_bytes=A_END, first_seq=9)
    data = {"zeros": bytes(length), "cut": begun[: min(length, 63)], "garbage": b"\xee" * length}[kind]
    disk = disk_of({LOG.format(1): segment(1, A), LOG.format(2): data})
    assert {b"a": A[1]} == read(disk)
    found, left = crash(disk)
    assert {b"a": A[1]} == found
    assert LOG.format(2) not in left.image()
    store, ops = open_on(disk, OPTIONS)
    store.set(b"b", b"2")
    assert {b"a": A[1], b"b": b"2"} == contents(open_on(ops.disk.power_loss(oldest), OPTIONS)[0])


def test_a_header_without_its_records_is_not_a_leftover_if_they_are_in_a_hint():
    data = segment(1, A)
    with pytest.raises(CorruptError, match=r"header|cut short"):
        read(disk_of({LOG.format(1): data[:60], HINT.format(1): hint(1, data)}))


def test_a_segment_of_a_newer_version_is_not_touched():
    data = bytearray(segment(1, A))
    data[8] = 2
    data[56:64] = struct.pack("<Q", xxh3_64_intdigest(bytes(data[:56])))
    for changes in ({}, {"salvage": True}):
        disk = disk_of({LOG.format(1): bytes(data)})
        with pytest.raises(VersionTooNewError):
            open_on(disk, OPTIONS, **changes)
        assert bytes(data) == disk.image()[LOG.format(1)]


# What compaction leaves


def test_segments_that_are_replaced_do_not_count_and_go():
    """Also those whose values are newer than anything: their successor would not lack them otherwise."""
    sources = two_segments(segment(1, (b"a", b"old", 1, 64), (b"gone", b"1", 2, 64)), (b"b", b"2", 9, 64))
    output = compacted(3, [1], (b"a", b"old", 1, 64))
    disk = disk_of(sources | {LOG.format(3): output, HINT.format(1): b"any", HINT.format(3): hint(3, output)})
    assert {b"a": b"old", b"b": b"2"} == read(disk)
    found, left = crash(disk)
    assert {b"a": b"old", b"b": b"2"} == found
    assert {LOG.format(2), LOG.format(3), HINT.format(3)} == {p for p in left.image() if p.endswith(("log", "hint"))}


def test_damage_of_a_replaced_segment_does_not_matter():
    output = compacted(3, [1, 2], A)
    files = {LOG.format(1): flipped(segment(1, A, B), 70), HINT.format(2): b"hint without a segment"}
    disk = disk_of(files | {LOG.format(3): output})
    assert {b"a": A[1]} == read(disk) == crash(disk)[0]
    assert [LOG.format(3)] == [path for path in crash(disk)[1].image() if "shard-0/" in path]


def test_an_output_that_was_replaced_still_speaks_for_its_own_sources():
    files = {
        LOG.format(1): segment(1, A, B),
        LOG.format(2): compacted(2, [1], A, B),
        LOG.format(3): compacted(3, [2], B),
    }
    assert {b"b": B[1]} == read(disk_of(files))


def test_unfinished_files_are_left_by_readers_and_removed_by_writers():
    names = [LOG.format(2) + ".tmp", HINT.format(1) + ".tmp"]
    disk = disk_of({LOG.format(1): segment(1, A), **dict.fromkeys(names, b"x"), f"{PATH}/shard-0/notes.tmp": b"y"})
    assert {b"a": A[1]} == read(disk)
    found, left = crash(disk)
    assert {b"a": A[1]} == found
    assert [f"{PATH}/shard-0/notes.tmp"] == [path for path in left.image() if path.endswith(".tmp")]


@pytest.mark.parametrize("engine", [scan_plain, scan_by_kernel])
def test_an_empty_output_ends_no_numbers(engine, monkeypatch):
    monkeypatch.setattr(recovery, "engine_for", lambda _: engine)
    files = {LOG.format(1): segment(1, A), LOG.format(2): compacted(2, [1])}
    store, _ = open_on(disk_of(files), OPTIONS)
    assert {} == contents(store)
    for i in range(20):
        store.set(b"%d" % i, LONG)
    assert store.stats()["seq"] < 100


# Hints


def hinted_store() -> tuple[SimDisk, State]:
    """Several segments with hints, the last one going on behind its hint."""
    session = Session(SimOps(new_store(OPTIONS)), OPTIONS, {})
    rng = random.Random(3)
    for _ in range(80):
        session.run(random_call(rng))
    session.store.close()
    session.open()
    session.store.set(b"last", b"behind the hint")
    return session.files.disk.copy(), session.state | {b"last": b"behind the hint"}


def test_a_hint_is_used_as_far_as_it_goes():
    disk, expected = hinted_store()
    store, _ = open_on(disk.copy(), OPTIONS)
    assert expected == contents(store)
    assert fmt.record_bytes(4, 15) == store.stats()["recovered_bytes"]
    plain, _ = open_on(without(disk, ".hint"), OPTIONS)
    assert expected == contents(plain)
    assert plain.stats()["recovered_bytes"] > 5 * store.stats()["recovered_bytes"]


@pytest.mark.parametrize("damage", ["empty", "flipped", "of another segment", "of another store", "zeros", "newer"])
def test_a_hint_that_is_not_sound_is_as_good_as_none(damage):
    disk, expected = hinted_store()
    hints = [path for path in disk.image() if path.endswith(".hint")]
    for path in hints:
        data = disk.image()[path]
        assert data is not None
        other = disk.image()[next(p for p in hints if p != path)]
        number = int(Path(path).stem)
        manifest = open_on(disk.copy(), OPTIONS, mode="r")[0].manifest
        sound = unpack_hint(data, path, shard_id=manifest.shard_id(0), segment=number)
        new = {
            "empty": b"",
            "flipped": flipped(data, len(data) // 2),
            "of another segment": other,
            "of another store": pack_hint(sound, b"x" * 16),
            "zeros": bytes(len(data)),
            "newer": data[:8] + b"\2" + data[9:],
        }[damage]
        broken = change(disk, path, new or b"")
        assert expected == read(broken)
        assert expected == crash(broken)[0]


def test_each_hint_that_is_lost_is_made_up_for():
    disk, expected = hinted_store()
    for path in disk.image():
        if path.endswith(".hint"):
            assert expected == read(without(disk, path))


def test_a_segment_shorter_than_its_hint_is_damage():
    data = segment(1, A, B)
    disk = disk_of({LOG.format(1): data[:A_END], HINT.format(1): hint(1, data)})
    with pytest.raises(CorruptError, match="the file is cut short") as caught:
        read(disk)
    assert (LOG.format(1), A_END) == (caught.value.path, caught.value.offset)
    store, _ = open_on(disk, OPTIONS, salvage=True)
    assert [(A_END, B_END - A_END)] == [(lost["offset"], lost["nbytes"]) for lost in store.stats()["dropped"]]
    assert {b"a": A[1]} == contents(store)


def test_a_damaged_record_that_a_hint_vouches_for_is_an_error_when_it_is_read():
    data = segment(1, A, B)
    disk = disk_of({LOG.format(1): flipped(data, B_END - 10), HINT.format(1): hint(1, data)})
    store, _ = open_on(disk, OPTIONS)
    assert store.get(b"a") == A[1]
    with pytest.raises(CorruptError, match="does not match its checksum") as caught:
        store.get(b"b")
    assert (LOG.format(1), A_END) == (caught.value.path, caught.value.offset)
    assert [A_END] == [problem.offset for problem in store.verify()]


# Salvage


def pieces() -> Iterator[tuple[str, dict[str, bytes], State, list[tuple[str, int]]]]:
    """Damaged stores: a name, the files, what is whole, where damage is reported."""
    first = segment(1, A, B, C)
    whole = {b"a": A[1], b"b": B[1], b"c": C[1], b"z": b"9"}

    def but(*names: bytes) -> State:
        return {key: value for key, value in whole.items() if key not in names}

    yield "a record", two_segments(flipped(first, A_END + 30)), but(b"b"), [(LOG.format(1), A_END)]
    yield "the first", two_segments(flipped(first, 64)), but(b"a"), [(LOG.format(1), 64)]
    yield "the last", two_segments(flipped(first, len(first) - 1)), but(b"c"), [(LOG.format(1), B_END)]
    yield "a header", two_segments(flipped(first, 40)), whole, [(LOG.format(1), 56)]
    yield "the magic", two_segments(flipped(first, 3)), whole, [(LOG.format(1), 0)]
    files = two_segments(first)
    yield "the newest header", files | {LOG.format(2): flipped(files[LOG.format(2)], 20)}, whole, [(LOG.format(2), 56)]
    yield "cut short", two_segments(first[:-50], length=len(first)), but(b"b", b"c"), [(LOG.format(1), len(first) - 50)]
    output = compacted(3, [1], A, B, C, (b"z", b"9", 9, 64))
    lineage = {LOG.format(3): flipped(output, 64 + 24)}
    yield "a lineage", lineage, whole, [(LOG.format(3), 64)]
    yield "a lineage with a hint", lineage | {HINT.format(3): hint(3, output)}, whole, [(LOG.format(3), 64)]
    yield "a missing segment", files | {HINT.format(9): b"?"}, whole, [(LOG.format(9), 0)]
    mixed = segment(1, A, B, (b"a", None, 3, 64), (*C[:2], 4, 64))
    yield "beside a tombstone", two_segments(flipped(mixed, A_END + 30)), but(b"a", b"b"), [(LOG.format(1), A_END)]
    witness = segment(1, A, B, (b"c", C[1], 3, B_END))
    yield "the active", {LOG.format(1): flipped(witness, A_END)}, but(b"b", b"z"), [(LOG.format(1), A_END)]
    older = {LOG.format(1): first} | two_segments(first, (b"a", None, 9, 64), (b"z", b"9", 10, 64))
    older[LOG.format(1)] = flipped(first, B_END + 30)
    yield "where an older value is", older, but(b"a", b"c"), [(LOG.format(1), B_END)]


@pytest.mark.parametrize(("files", "whole", "places"), [p[1:] for p in pieces()], ids=[p[0] for p in pieces()])
def test_salvage_keeps_what_is_whole_and_says_what_is_lost_and_mends_the_store(files, whole, places):
    disk = disk_of(files)
    with pytest.raises(StorageError):
        read(disk)
    store, ops = open_on(disk.copy(), OPTIONS, salvage=True)
    assert whole == contents(store)
    dropped = store.stats()["dropped"]
    assert places == [(lost["path"], lost["offset"]) for lost in dropped][: len(places)]
    assert {path for path, _ in places} == {lost["path"] for lost in dropped}
    assert all(lost["problem"] and lost["nbytes"] >= 0 for lost in dropped)
    assert [] == store.verify()
    store.set(b"new", b"written after")
    # From now on it is a store as any other, at the next start too, and after a power cut.
    for left in (ops.disk.copy(), ops.disk.power_loss(oldest)):
        assert whole | {b"new": b"written after"} == read(left)
        again, _ = open_on(left, OPTIONS)
        assert ([], []) == (again.stats()["dropped"], again.verify())
    # Nothing that was damaged is thrown away.
    image = ops.disk.image()
    for path in {path for path, _ in places} & files.keys():
        assert files[path] == image[path + ".damaged"]
        assert path not in image


def test_salvage_of_a_sound_store_is_opening_it():
    disk, expected = hinted_store()
    plain, one = open_on(disk.copy(), OPTIONS)
    salvaged, other = open_on(disk.copy(), OPTIONS, salvage=True)
    assert expected == contents(plain) == contents(salvaged)
    assert [] == salvaged.stats()["dropped"]
    assert one.journal == other.journal


def test_a_torn_tail_is_nothing_to_salvage():
    disk = disk_of({LOG.format(1): segment(1, A, B)[:-1]})
    store, _ = open_on(disk, OPTIONS, salvage=True)
    assert ([], {b"a": A[1]}) == (store.stats()["dropped"], contents(store))


# Counters


def counted(store: Store) -> dict[int, tuple[int, int, int]]:
    """For each segment: bytes of records, live bytes, and bytes that belong to no key."""
    return {segment.id: (segment.end, segment.live, segment.overhead) for segment in segments_of(store)}


def segments_of(store: Store) -> list[Segment]:
    """Segments with records, but for those that only wait for the end of a scan to be removed."""
    shard = shard_of(store)
    return [s for s in shard.folder if s.end > fmt.HEADER_BYTES and s not in shard.retired | shard.spent]


def counted_slowly(store: Store) -> dict[int, tuple[int, int, int]]:
    """The same from the files and the index."""
    shard = shard_of(store)
    found = {}
    for segment in segments_of(store):
        data = shard.read(segment, fmt.HEADER_BYTES, segment.end - fmt.HEADER_BYTES)
        live = overhead = at = 0
        while at < len(data):
            head = fmt.unpack_head(data, at)
            nbytes = fmt.record_bytes(head.klen, head.vlen)
            if head.kind == fmt.BATCH:
                nbytes = fmt.RECORD_BYTES
            overhead += nbytes if head.kind in {fmt.BATCH, fmt.LINEAGE} else 0
            if head.kind == fmt.VALUE:
                location = fmt.pack_location(segment.id, fmt.HEADER_BYTES + at, nbytes)
                key = data[at + fmt.RECORD_BYTES :][: head.klen]
                live += nbytes if location in shard.index.find_all(shard.keys.hash(key)) else 0
            at += nbytes
        found[segment.id] = segment.end, live, overhead
    return found


@pytest.mark.parametrize("seed", range(12))
def test_what_a_writer_counts_is_what_recovery_counts_is_what_there_is(seed):
    rng = random.Random(seed)
    session = Session(SimOps(new_store(OPTIONS)), OPTIONS, {})
    for _ in range(rng.randrange(20, 120)):
        session.run(random_call(rng))
    session.store.sync()
    running = counted(session.store)
    assert counted_slowly(session.store) == running
    for disk in (session.files.disk.copy(), without(session.files.disk, ".hint")):
        store, _ = open_on(disk, OPTIONS)
        assert running == counted(store) == counted_slowly(store)
        assert session.state == contents(store)
        for segment in segments_of(store):
            assert segment.dead >= 0
            assert segment.tombstones >= 0


def test_tombstones_and_what_they_killed_are_counted():
    rows = [(b"a", b"1" * 8, 1, 64), (b"a", None, 2, 64), (b"b", b"2", 3, 64), (b"c", None, 4, 64)]
    store, _ = open_on(disk_of({LOG.format(1): segment(1, *rows)}), OPTIONS)
    found = shard_of(store).folder[1]
    assert (40, 80, 32, 0) == (found.dead, found.tombstones, found.live, found.overhead)
    stats = store.stats()
    assert (40, 80, 32) == (stats["reclaimable_bytes"], stats["tombstone_bytes"], stats["live_bytes"])


# Large records


@pytest.mark.parametrize("nbytes", [fmt.LARGE_BYTES - 32, fmt.LARGE_BYTES - 25, 65_536, 70_000, 200_000])
def test_records_whose_size_their_location_does_not_tell(nbytes):
    options = Options(segment_bytes=256 << 10)
    disk = new_store(options)
    state = {b"%d" % i: bytes([i]) * (nbytes + i * 8) for i in range(3)}
    store, files = open_on(disk, options)
    store.set(b"0", b"short")
    for key, value in state.items():
        store.set(key, value)
    assert state == contents(store)
    running = counted(store)
    assert counted_slowly(store) == running
    for left in (files.disk.copy(), without(files.disk, ".hint")):
        again, _ = open_on(left, options)
        assert (state, running) == (contents(again), counted(again))
        again.set(b"1", b"small now")
        assert again.delete(b"2")
        assert counted_slowly(again) == counted(again)
        again.compact()
        assert {b"0": state[b"0"], b"1": b"small now"} == contents(again)
        assert counted_slowly(again) == counted(again)
    store.close()
    hinted, _ = open_on(files.disk, options)
    assert (state, 0) == (contents(hinted), hinted.stats()["recovered_bytes"])


def test_a_large_batch():
    options = Options(segment_bytes=1 << 20)
    store, files = open_on(new_store(options), options)
    state = {b"%d" % i: bytes([i]) * 66_000 for i in range(5)} | {b"small": b"1"}
    store.set_many(state)
    assert state == contents(store) == contents(open_on(files.disk.copy(), options)[0])


# Many keys


@pytest.mark.parametrize("mask", [2**64 - 1, 0xFF])
def test_keys_that_share_their_hash_are_told_apart_by_recovery(mask):
    files = SimOps(new_store(OPTIONS))
    options = OPTIONS.store(segment_bytes=4096)
    store = open_store(PATH, options=options, files=files, hash_mask=mask)
    expected = {b"%d" % i: b"%d" % (i * i) for i in range(500)}
    store.set_many(expected)
    for i in range(0, 500, 3):
        store.delete(b"%d" % i)
        del expected[b"%d" % i]
    for i in range(0, 500, 6):
        store.set(b"%d" % i, b"back")
        expected[b"%d" % i] = b"back"
    again = open_store(PATH, options=options, files=SimOps(files.disk.copy()), hash_mask=mask)
    assert expected == contents(again)
    assert [] == again.verify()


def test_more_keys_than_one_group_of_the_sort_holds(monkeypatch):
    monkeypatch.setattr(recovery, "_GROUP_ROWS", 16)
    store, files = open_on(new_store(OPTIONS), Options(segment_bytes=4096))
    expected = {}
    for i in range(600):
        store.set(b"%d" % (i % 350), b"%d" % i, durability=OS)
        expected[b"%d" % (i % 350)] = b"%d" % i
    assert expected == contents(open_on(files.disk.copy(), OPTIONS)[0])


@pytest.mark.parametrize("engine", [scan_plain, scan_by_kernel])
@pytest.mark.parametrize("name", WORKLOADS)
def test_readers_and_writers_see_the_same_after_every_workload(name, engine, monkeypatch):
    monkeypatch.setattr(recovery, "engine_for", lambda _: engine)
    session = Session(SimOps(new_store(OPTIONS)), OPTIONS, {})
    for what in WORKLOADS[name]:
        session.run(what)
    session.store.sync()
    disk = session.files.disk.copy()
    assert session.state == read(disk) == crash(disk)[0] == read(without(disk, ".hint"))
