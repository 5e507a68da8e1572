"""Compaction: what it keeps and drops, while others write, while the disk fails, and wherever it is cut off."""

from __future__ import annotations

import errno
import itertools
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from skeg.errors import CorruptError, StorageError
from skeg.kv import compaction
from skeg.kv import format as fmt
from skeg.kv.compaction import Compaction, choose, closed, read_entries, write_hints
from skeg.kv.options import Durability
from skeg.kv.retirement import purge
from skeg.kv.segments import CLOSED, Segment
from skeg.kv.store import Store, open_store
from tests.kv.simdisk import SimDisk, SimOps, failure, newest, oldest, replay
from tests.kv.test_recovery import (
    HINT,
    LOG,
    compacted,
    counted,
    counted_slowly,
    crash,
    disk_of,
    flipped,
    hint,
    read,
    segment,
    segments_of,
    shard_of,
    without,
)
from tests.kv.workloads import LONG, PATH, Options, State, contents, new_store, open_on

NONE, OS, SYNC = Durability
OPTIONS = Options()


class Faulty(SimOps):
    """File operations of which the calls of one verb fail for a while, with one error."""

    failing: tuple[str, OSError] | None = None

    def begin(self, verb: str, number: int = 0) -> bool:
        if self.failing is not None and verb == self.failing[0]:
            raise self.failing[1]
        return super().begin(verb, number)


def rest() -> None:
    """Nobody waits."""


class Bench:
    """A store with closed segments, most of which hold something dead, beside what it should contain."""

    def __init__(self, mask: int = 2**64 - 1) -> None:
        self.files = Faulty(new_store(OPTIONS))
        self.mask = mask
        self.store = open_store(PATH, options=OPTIONS.store(), files=self.files, hash_mask=mask)
        self.shard = shard_of(self.store)
        self.state: State = {}
        for i in range(12):
            self.set(b"%d" % (i % 8), LONG + b"%d" % i)
        self.set_many({b"b%d" % i: b"batched %d" % i for i in range(6)})
        self.set(b"large", 8 * LONG)
        self.delete(b"1")
        self.delete(b"b4")
        for i in range(3):
            self.set(b"end %d" % i, LONG)

    def set(self, key: bytes, value: bytes, level: Durability = SYNC) -> None:
        self.store.set(key, value, durability=level)
        self.state[key] = value

    def set_many(self, items: State, level: Durability = SYNC) -> None:
        self.store.set_many(items, durability=level)
        self.state |= items

    def delete(self, key: bytes, level: Durability = SYNC) -> None:
        assert (key in self.state) == self.store.delete(key, durability=level)
        self.state.pop(key, None)

    def closed(self) -> list[Segment]:
        with self.shard.lock:
            return closed(self.shard)

    def run(self, pause: Callable[[], None] = rest, sources: list[Segment] | None = None) -> int:
        sources = self.closed() if sources is None else sources
        with self.shard.compacting:
            return Compaction(self.shard, sources, pause).run()

    def failing_round(self) -> None:
        """Whatever is staged is not written, as the disk is full."""
        self.files.failing = "pwrite", failure(errno.ENOSPC)
        with pytest.raises(StorageError, match="No space"):
            self.store.sync()
        self.files.failing = None

    def check(self) -> None:
        """All is as it should be, here, after a kill, with and without hints, and after a power cut."""
        self.store.sync()
        assert self.state == contents(self.store)
        assert counted_slowly(self.store) == counted(self.store)
        assert [] == self.store.verify()
        images = [self.files.disk, without(self.files.disk, ".hint"), self.files.disk.power_loss(oldest)]
        for disk in images:
            again = open_store(PATH, options=OPTIONS.store(), files=SimOps(disk.copy()), hash_mask=self.mask)
            assert self.state == contents(again)
            assert [] == again.verify()
            assert counted(self.store) == counted(again)


@pytest.fixture(autouse=True)
def small_steps(monkeypatch):
    """So small that every step comes several times."""
    monkeypatch.setattr(compaction, "_SLICE_BYTES", 256)
    monkeypatch.setattr(compaction, "_AT_A_TIME", 3)


# What is kept


def test_exactly_the_live_records_are_copied():
    bench = Bench()
    live = {key: bench.shard.index.find(bench.shard.keys.hash(key)) for key in bench.state}
    sources = bench.closed()
    ids = {source.id for source in sources}
    copied = {key for key, location in live.items() if location >> fmt.SEGMENT_SHIFT in ids}
    before = sum(source.end for source in sources)
    dead = sum(source.dead + source.tombstones for source in sources)
    reclaimed = bench.run()
    (output,) = (s for s in bench.shard.folder if s.compacted)
    data = bench.shard.read(output, 0, output.end)
    found = []
    at = 64 + fmt.record_bytes(0, 4 * len(ids))
    while at < len(data):
        head = fmt.unpack_head(data, at)
        found.append((head.kind, data[at + 24 : at + 24 + head.klen]))
        at += fmt.record_bytes(head.klen, head.vlen)
    assert {fmt.VALUE} == {kind for kind, _ in found}
    assert sorted(copied) == sorted(key for _, key in found)
    assert sorted(ids) == sorted(fmt.unpack_lineage(data[64 + 24 :][: 4 * len(ids)]))
    assert before - output.end == reclaimed
    assert (0, 0) == (output.dead, output.tombstones)
    assert dead > 0
    bench.check()


def test_a_copy_is_the_same_record_for_another_place():
    bench = Bench()
    records = {}
    for when in ("before", "after"):
        for key in bench.state:
            number, offset, nbytes = fmt.unpack_location(bench.shard.index.find(bench.shard.keys.hash(key)))
            data = bench.shard.read(bench.shard.folder[number], offset, nbytes)
            records[when, key] = data[8:]
        if when == "before":
            bench.run()
    for key in bench.state:
        assert records["before", key] == records["after", key]


@pytest.mark.parametrize("mask", [2**64 - 1, 0x3, 0])
def test_keys_that_share_a_hash_are_copied_each(mask):
    bench = Bench(mask)
    bench.run()
    bench.check()
    assert [] == [s.id for s in segments_of(bench.store) if s.dead and s.compacted]


def test_sources_without_anything_live_leave_only_the_highest_id():
    """The output stays until there is a higher one: an id that was given must not be given again."""
    store, files = open_on(new_store(OPTIONS), OPTIONS)
    for i in range(6):
        store.set(b"a", LONG + b"%d" % i)
    shard = shard_of(store)
    with shard.lock:
        sources = closed(shard)
    total = sum(source.end for source in sources)
    assert total == Compaction(shard, sources, rest).run()
    number = shard.log.segment.id
    assert [LOG.format(number), LOG.format(number + 1)] == sorted(
        path for path in files.disk.image() if path.endswith((".log", ".hint"))
    )
    shard.log.close_segment()
    store.set(b"b", b"2")
    assert store.stats()["seq"] == 7
    store.compact()
    assert LOG.format(number + 1) not in files.disk.image()
    assert {b"a": LONG + b"5", b"b": b"2"} == read(files.disk)


def test_an_output_without_records_does_not_end_the_numbers():
    """A crash, or a scan that still reads, leaves it; what comes after has numbers as ever."""
    store, files = open_on(new_store(OPTIONS), OPTIONS)
    store.set(b"a", LONG)
    scan = store.scan()
    next(scan)
    store.delete(b"a")
    store.compact()
    again, _ = open_on(files.disk.copy(), OPTIONS)
    assert {} == contents(again)
    for i in range(5):
        again.set(b"%d" % i, b"1")
    assert again.stats()["seq"] < 20
    scan.close()


# Tombstones

T = (b"k", None, 5, 64)
OLD, NEW, OTHER = (b"k", b"old", 2, 64), (b"k", b"new", 7, 64), (b"x", b"x", 3, 64)
ACTIVE = {LOG.format(9): segment(9, (b"active", b"1", 90, 64), first_seq=90)}


def tombstones_of(disk: SimDisk, source: int) -> tuple[int, SimDisk]:
    """Compact one segment; how many tombstones are kept, and the disk afterwards."""
    store, files = open_on(disk, OPTIONS)
    shard = shard_of(store)
    Compaction(shard, [shard.folder[source]], rest).run()
    kept = sum(s.tombstones for s in shard.folder if s.id > 9) // fmt.TOMBSTONE_BYTES
    return kept, files.disk


@pytest.mark.parametrize(
    ("elsewhere", "kept"),
    [
        ([OLD], 1),
        ([OTHER, OLD], 1),
        ([OTHER], 0),
        ([NEW], 0),
        ([(b"k", None, 2, 64)], 0),
        ([(b"k", b"same", 5, 64)], 0),
        ([], 0),
    ],
)
@pytest.mark.parametrize("hinted", [True, False])
def test_a_tombstone_is_kept_while_an_older_value_is_elsewhere(elsewhere, kept, hinted):
    other = compacted(2, [], *elsewhere)
    files = {LOG.format(2): other, LOG.format(5): compacted(5, [], T, (b"y", b"y", 6, 64))}
    if hinted:
        files[HINT.format(2)] = hint(2, other)
    found, disk = tombstones_of(disk_of(files | ACTIVE), 5)
    assert kept == found
    expected = {b"y": b"y", b"active": b"1"} | {key: value for key, value, seq, _ in elsewhere if value and seq > 5}
    if (b"x", b"x", 3, 64) in elsewhere:
        expected[b"x"] = b"x"
    if elsewhere != [(b"k", b"same", 5, 64)]:
        assert expected == read(disk) == read(without(disk, ".hint"))


def test_a_tombstone_is_kept_for_an_older_value_in_the_segment_that_is_written_to():
    """That segment may be an old one: those after it were compacted, and the store was opened again."""
    files = {LOG.format(1): segment(1, OLD, OTHER), LOG.format(5): compacted(5, [2], T, (b"y", b"y", 6, 64))}
    kept, disk = tombstones_of(disk_of(files), 5)
    assert {b"x": b"x", b"y": b"y"} == read(disk) == read(without(disk, ".hint"))
    assert kept <= 1


def test_an_older_value_in_the_same_run_needs_no_tombstone():
    store, files = open_on(
        disk_of({LOG.format(2): compacted(2, [], OLD), LOG.format(5): compacted(5, [], T)} | ACTIVE), OPTIONS
    )
    shard = shard_of(store)
    Compaction(shard, [shard.folder[2], shard.folder[5]], rest).run()
    assert 0 == store.stats()["tombstone_bytes"]
    assert {b"active": b"1"} == read(files.disk)


def test_of_several_tombstones_the_newest_is_kept():
    rows = [(b"k", None, seq, 64) for seq in (4, 6, 5)]
    disk = disk_of({LOG.format(2): compacted(2, [], OLD), LOG.format(5): compacted(5, [], *rows)} | ACTIVE)
    kept, disk = tombstones_of(disk, 5)
    assert 1 == kept
    assert {b"active": b"1"} == read(disk)


@pytest.mark.parametrize("mask", [2**64 - 1, 0])
def test_a_tombstone_of_another_key_with_the_same_hash_is_not_needed(mask):
    """The check tells them apart."""
    files = SimOps(disk_of(ACTIVE))
    store = open_store(PATH, options=OPTIONS.store(segment_bytes=256), files=files, hash_mask=mask)
    store.set(b"a", LONG)
    store.set(b"b", LONG)
    store.delete(b"a")
    store.compact()
    assert {b"active": b"1", b"b": LONG} == contents(store)
    assert 0 == store.stats()["tombstone_bytes"]


@pytest.mark.parametrize("seed", range(6))
def test_deleted_keys_never_come_back_whatever_is_compacted_in_which_order(seed):
    rng = random.Random(seed)
    store, files = open_on(new_store(OPTIONS), OPTIONS)
    state: State = {}
    for _ in range(150):
        key = b"%d" % rng.randrange(6)
        if rng.random() < 0.5:
            state.pop(key, None)
            store.delete(key, durability=OS)
        else:
            state[key] = rng.choice([b"1", LONG])
            store.set(key, state[key], durability=OS)
        shard = shard_of(store)
        with shard.lock:
            there = closed(shard)
        if there and rng.random() < 0.3:
            Compaction(shard, rng.sample(there, rng.randint(1, len(there))), rest).run()
            assert state == contents(store)
            assert counted_slowly(store) == counted(store)
        if rng.random() < 0.1:
            store.sync()
            disk = files.disk if rng.random() < 0.5 else without(files.disk, ".hint")
            store, files = open_on(disk.copy(), OPTIONS)
            assert state == contents(store)


def test_compacting_all_ends_with_nothing_wasted():
    bench = Bench()
    for key in list(bench.state)[::2]:
        bench.delete(key)
    reclaimed = bench.store.compact()
    stats = bench.store.stats()
    assert (0, 0) == (stats["reclaimable_bytes"], stats["tombstone_bytes"])
    assert reclaimed > 0
    assert 0 == bench.store.compact()
    bench.check()
    assert not any(segment.dead for segment in segments_of(bench.store))


# While others write


def test_writes_at_every_step():
    """At each pause of a run every kind of write happens; the last value counts and the counters stay right."""
    total = itertools.count()
    Bench().run(lambda: next(total) and None)
    pauses = next(total)
    assert pauses > 10
    for at in range(pauses):
        bench, calls = Bench(), itertools.count()

        def pause(bench=bench, calls=calls, at=at):
            if next(calls) == at:
                bench.set(b"0", b"overwritten")
                bench.delete(b"2")
                bench.set(b"2", b"deleted and back")
                bench.delete(b"3")
                bench.set_many({b"b0": b"1", b"b1": LONG, b"new": b"2"})
                bench.store.append(b"5", b" and more")
                bench.state[b"5"] += b" and more"
                bench.set(b"large", b"small")

        bench.run(pause)
        bench.check()


def stage_changes(bench: Bench, level: Durability) -> State:
    """Stage every kind of change, which nobody waits for; what the store holds if they are committed."""
    with bench.shard.lock:
        bench.shard.set(b"0", b"staged", level)
        bench.shard.set_many({b"b0": b"staged", b"5": LONG + LONG, b"never": b"1"}, level)
        bench.shard.delete(b"6", level)
        bench.shard.delete(b"b2", level)
        bench.shard.set(b"large", b"staged", level)
    changed = {b"0": b"staged", b"b0": b"staged", b"5": LONG + LONG, b"never": b"1", b"large": b"staged"}
    return {key: value for key, value in (bench.state | changed).items() if key not in {b"6", b"b2"}}


@pytest.mark.parametrize("level", [NONE, OS])
def test_rounds_that_fail_at_every_step(level):
    """Something is staged before a run or at one pause, and fails at a later one or after it: old values are back.

    Unless the run has written it before it could fail.
    """
    total = itertools.count()
    Bench().run(lambda: next(total) and None)
    pauses = next(total)
    outcomes = set()
    for staged, failed in itertools.combinations(range(-1, pauses + 1), 2):
        bench = Bench()
        turns = itertools.count(-1)
        after: dict[str, State] = {}

        def turn(bench=bench, turns=turns, staged=staged, failed=failed, after=after):
            now = next(turns)
            if now == staged:
                after["committed"] = stage_changes(bench, level)
            if now == failed and bench.shard.log.staging.extents:
                bench.failing_round()
                del after["committed"]

        turn()
        bench.run(turn)
        while next(turns) < pauses - 1:
            pass
        turn()
        outcomes.add("committed" in after)
        bench.state = after.get("committed", bench.state)
        assert bench.state == contents(bench.store)
        assert counted_slowly(bench.store) == counted(bench.store)
        if (staged + failed) % 7 == 0:
            bench.check()
    assert {True, False} == outcomes


def test_a_record_that_a_failed_round_gives_back_is_copied():
    """It did not count when the run began to look, and counts when the run goes on."""
    bench = Bench()
    with bench.shard.lock:
        bench.shard.set(b"0", b"fails", OS)
        bench.shard.delete(b"2", OS)
    calls = itertools.count()

    def pause():
        if next(calls) == 0:
            bench.failing_round()

    bench.run(pause)
    bench.check()


def test_what_superseded_the_sources_is_durable_before_they_go():
    bench = Bench()
    bench.set(b"0", b"newer", NONE)
    bench.delete(b"2", OS)
    bench.run()
    assert bench.state == read(bench.files.disk.power_loss(oldest))


def test_a_full_disk_leaves_the_sources():
    """And no unfinished file; later it works."""
    bench = Bench()
    before = {path: data for path, data in bench.files.disk.image().items() if path.endswith(".log")}
    bench.files.failing = "pwrite", failure(errno.ENOSPC)
    with pytest.raises(StorageError, match="No space"):
        bench.run()
    bench.files.failing = None
    assert before == {p: d for p, d in bench.files.disk.image().items() if p.endswith((".log", ".tmp"))}
    assert counted_slowly(bench.store) == counted(bench.store)
    bench.set(b"0", b"writing goes on")
    bench.run()
    bench.check()


def test_no_space_for_the_hint_of_an_output_loses_nothing(monkeypatch):
    bench = Bench()
    with monkeypatch.context() as patch:

        def refuse(*_):
            raise StorageError("hint", "no space")

        patch.setattr(bench.shard.folder, "write_hint", refuse)
        with pytest.raises(StorageError, match="no space"):
            bench.run()
    assert bench.state == contents(bench.store)
    assert [] == bench.store.verify()
    assert counted_slowly(bench.store) == counted(bench.store)
    bench.store.compact()
    bench.check()
    assert not any(segment.dead for segment in segments_of(bench.store))


@pytest.mark.parametrize("verb", ["rename", "sync_dir"])
def test_an_output_that_may_or_may_not_have_its_name_ends_writing(verb):
    """Nobody knows which files the next start will find; all of them have the same contents."""
    bench = Bench()
    bench.files.failing = verb, failure(errno.EIO)
    with pytest.raises(StorageError, match=r"publish|sync the folder"):
        bench.run()
    bench.files.failing = None
    with pytest.raises(StorageError, match="no longer written to"):
        bench.store.set(b"a", b"1")
    assert bench.state == contents(bench.store)
    for pick in (oldest, newest):
        assert bench.state == read(bench.files.disk.power_loss(pick))


def test_a_run_that_is_ended_leaves_a_sound_store():
    """At each of its pauses, as when the store is closed meanwhile."""

    class EndedError(Exception):
        pass

    total = itertools.count()
    Bench().run(lambda: next(total) and None)
    for at in range(next(total)):
        bench, calls = Bench(), itertools.count()

        def pause(calls=calls, at=at):
            if next(calls) == at:
                raise EndedError

        with pytest.raises(EndedError):
            bench.run(pause)
        bench.set(b"after", b"1")
        assert bench.state == contents(bench.store)
        assert not any(path.endswith(".tmp") for path in bench.files.disk.image() if at < 10)
        for disk in (bench.files.disk, bench.files.disk.power_loss(oldest)):
            assert bench.state == crash(disk)[0]
        bench.store.compact()
        assert bench.state == contents(bench.store) == read(bench.files.disk)
        again, _ = open_on(bench.files.disk.copy(), OPTIONS)
        assert [] == again.verify()


# Order of file operations


def told(files: SimOps, since: int) -> list[str]:
    """What was done to the disk, in words."""
    names: dict[int, str] = {}
    words = []
    for i, (verb, number, *details) in enumerate(files.journal):
        if verb == "create":
            names[details[1]] = details[0]
            name = details[0]
        elif verb == "rename":
            for key, value in names.items():
                if value == details[0]:
                    names[key] = details[1]
            name = details[1]
        else:
            name = details[0] if verb == "unlink" else names.get(number, "folder")
        if i >= since:
            words.append(f"{verb} {name.lstrip('0')}")
    return [word for word, _ in itertools.groupby(words)]


def test_files_are_made_and_removed_in_an_order_that_is_safe_to_cut_off_anywhere():
    store, files = open_on(new_store(OPTIONS), OPTIONS)
    for i in range(4):
        store.set(b"%d" % (i % 3), LONG + b"%d" % i)
    shard = shard_of(store)
    store.set(b"0", b"newest", durability=OS)
    with shard.lock:
        sources = closed(shard)
    write_hints(shard, rest)
    assert [1] == [source.id for source in sources]
    start = len(files.journal)
    Compaction(shard, sources, rest).run()
    assert [
        "sync 2.log",
        "create 3.log.tmp",
        "write 3.log.tmp",
        "sync 3.log.tmp",
        "rename 3.log",
        "sync_dir folder",
        "create 3.hint.tmp",
        "write 3.hint.tmp",
        "sync 3.hint.tmp",
        "rename 3.hint",
        "unlink 1.hint",
        "unlink 1.log",
        "sync_dir folder",
    ] == told(files, start)


def test_a_crash_anywhere_leaves_the_same_contents():
    bench = Bench()
    write_hints(bench.shard, rest)
    start, before = len(bench.files.journal), bench.files.disk.copy()
    bench.run()
    rng = random.Random(1)
    for disk in replay(before, bench.files.journal[start:]):
        for left in (disk.copy(), disk.power_loss(oldest), disk.power_loss(newest), disk.power_loss(rng.randrange)):
            assert bench.state == read(left)
            found, after = crash(left)
            assert bench.state == found == read(after.power_loss(oldest))


# Damage


def live_and_dead(bench: Bench) -> tuple[tuple[Segment, int], tuple[Segment, int]]:
    """Segment and offset of a record that counts, and of one that does not, both closed."""
    shard = bench.shard
    indexed = {location for _, locations in shard.index.freeze().tables() for location in locations.tolist()}
    found = {}
    for source in bench.closed():
        entries = read_entries(shard, source, source.end, rest)
        for offset, size in zip(entries.offset.tolist(), entries.size.tolist(), strict=True):
            if size:
                location = fmt.pack_location(source.id, offset * 8, size * 8)
                found.setdefault(location in indexed, (source, offset * 8))
    return found[True], found[False]


def damage(bench: Bench, where: Segment, offset: int) -> None:
    node = bench.files.disk.nodes[bench.files.disk.find(where.path)]
    node.data[:] = flipped(bytes(node.data), offset + 25)


def test_a_damaged_record_that_counts_is_an_error_and_its_segment_stays():
    bench = Bench()
    (source, offset), _ = live_and_dead(bench)
    damage(bench, source, offset)
    logs = {path for path in bench.files.disk.image() if path.endswith(".log")}
    for _ in range(2):
        with pytest.raises(CorruptError, match="record does not match its checksum") as caught:
            bench.run()
        assert (str(source.path), offset) == (caught.value.path, caught.value.offset)
    with pytest.raises(CorruptError):
        bench.store.compact()
    assert logs <= {path for path in bench.files.disk.image() if path.endswith((".log", ".tmp"))}
    assert not any(path.endswith(".tmp") for path in bench.files.disk.image())
    with bench.shard.lock:
        assert source not in choose(bench.shard, 1 << 30)
    bench.set(b"writing", b"goes on")
    assert b"goes on" == bench.store.get(b"writing")
    assert counted(bench.store)[source.id] == counted_slowly(bench.store)[source.id]


def test_a_damaged_record_that_does_not_count_goes_with_its_segment():
    bench = Bench()
    _, (source, offset) = live_and_dead(bench)
    write_hints(bench.shard, rest)
    damage(bench, source, offset)
    bench.run()
    bench.check()
    assert source not in list(bench.shard.folder)


# Snapshots


def test_segments_that_a_scan_reads_stay_until_it_ends():
    bench = Bench()
    expected = dict(bench.state)
    scan = bench.store.scan()
    first = next(scan)
    sources = bench.closed()
    bench.set(b"0", b"later")
    bench.delete(b"2")
    bench.run(sources=sources)
    assert bench.shard.retired == set(sources)
    image = bench.files.disk.image()
    assert all(str(source.path) in image for source in sources)
    # They are not there for anybody else.
    assert bench.state == contents_of_index(bench)
    assert bench.state == read(bench.files.disk) == crash(bench.files.disk)[0]
    assert sum(source.end for source in sources) == bench.store.stats()["retired_bytes"]
    # Nothing that they stand for is compacted before they are gone.
    assert [] == [s.id for s in bench.closed() if s.compacted or s in sources]
    assert expected == dict([first, *scan])
    assert not any(str(source.path) in bench.files.disk.image() for source in sources)
    assert (set(), 0) == (bench.shard.retired, bench.store.stats()["retired_bytes"])
    bench.check()


def contents_of_index(bench: Bench) -> State:
    return {key: value for key in [*bench.state, b"2"] if (value := bench.store.get(key)) is not None}


def test_segments_go_with_the_last_of_several_scans():
    bench = Bench()
    scans = [bench.store.scan() for _ in range(3)]
    for scan in scans:
        next(scan)
    bench.run()
    for scan in scans:
        assert bench.shard.retired
        scan.close()
    assert not bench.shard.retired
    bench.check()


def test_an_empty_output_goes_after_its_sources():
    store, files = open_on(new_store(OPTIONS), OPTIONS)
    for i in range(6):
        store.set(b"a", LONG + b"%d" % i)
    shard = shard_of(store)
    scan = store.scan()
    next(scan)
    with shard.lock:
        sources = closed(shard)
    Compaction(shard, sources, rest).run()
    (spent,) = shard.spent
    shard.log.close_segment()
    store.set(b"b", b"1")
    assert str(spent.path) in files.disk.image()
    start = len(files.journal)
    scan.close()
    gone = [
        details[0] for verb, _, *details in files.journal[start:] if verb == "unlink" and details[0].endswith("log")
    ]
    assert sorted(source.path.name for source in sources) == sorted(gone[:-1])
    assert spent.path.name == gone[-1]
    last = max(i for i, (verb, *_) in enumerate(files.journal) if verb == "unlink")
    assert "sync_dir" in [verb for verb, *_ in files.journal[start:last]]
    for disk in replay_from(files, start):
        assert {b"a": LONG + b"5", b"b": b"1"} == read(disk.power_loss(oldest)) == read(disk.copy())


def replay_from(files: SimOps, start: int):
    """The disk after each change from one on, from the empty disk with the store's first state."""
    disks = replay(new_start(files), files.journal)
    return itertools.islice(disks, start, None)


def new_start(files: SimOps) -> SimDisk:
    """The disk before the journal: only possible as the store was new, so that nothing else is on it."""
    names = {details[0] for verb, _, *details in files.journal if verb == "create"}
    start = without(files.disk, *(".log", ".hint", ".tmp"))
    assert names
    return start.power_loss(newest)


def test_files_that_can_not_be_removed_are_removed_later():
    bench = Bench()
    sources = bench.closed()

    def pause():
        if any(path.endswith(".hint.tmp") for path in bench.files.disk.image()):
            bench.files.failing = "unlink", failure(errno.EIO)

    with pytest.raises(StorageError, match="can't remove segments"):
        bench.run(pause)
    bench.files.failing = None
    assert bench.shard.retired == set(sources)
    assert bench.state == read(bench.files.disk)
    bench.set(b"more", b"1")
    purge(bench.shard)
    assert not any(str(source.path) in bench.files.disk.image() for source in sources)
    bench.check()


# What is chosen


def filled(*parts: tuple[int, int]) -> Store:
    """A store whose segments 1, 2, ... have so many live and dead records; and an active one."""
    files = {}
    seq = itertools.count(1)
    kills = []
    for number, (live, dead) in enumerate(parts, 1):
        rows = [(b"%d live %d" % (number, i), LONG, next(seq), 64) for i in range(live)]
        rows += [(b"%d dead %d" % (number, i), LONG, next(seq), 64) for i in range(dead)]
        kills += [(b"%d dead %d" % (number, i), b"", 900 + len(kills) + i, 64) for i in range(dead)]
        files[LOG.format(number)] = compacted(number, [], *rows)
    kills = [(key, value, 900 + i, 64) for i, (key, value, *_) in enumerate(kills)]
    files[LOG.format(50)] = segment(50, *kills, first_seq=900)
    return open_on(disk_of(files), OPTIONS)[0]


def chosen(store: Store, limit: int = 1 << 30) -> list[int]:
    shard = shard_of(store)
    with shard.lock:
        return [segment.id for segment in choose(shard, limit)]


@pytest.mark.parametrize(
    ("parts", "ids"),
    [
        ([(1, 0), (5, 1)], []),
        ([(3, 2), (1, 2)], [2]),
        # The emptier first.
        ([(2, 3), (1, 6), (1, 2)], [2, 3, 1]),
        # Of equal ones the oldest first.
        ([(1, 2), (1, 2), (1, 2)], [1, 2, 3]),
        # Nothing to copy beats all.
        ([(1, 3), (1, 3), (0, 3)], [3, 1, 2]),
    ],
)
def test_what_is_emptier_and_older_is_compacted_first(parts, ids):
    assert ids == chosen(filled(*parts))


def test_age_weighs_as_much_as_space():
    assert [1, 2] == chosen(filled((2, 3), *[(9, 0)] * 0, (2, 3)))
    store = filled((2, 4), (2, 5))
    shard = shard_of(store)
    scores = {}
    for s in (shard.folder[1], shard.folder[2]):
        size = s.end - fmt.HEADER_BYTES
        scores[s.id] = s.dead * (shard.log.next_segment - s.id) / (size + s.live)
    assert sorted(scores, key=lambda number: -scores[number]) == chosen(store)


def test_no_more_is_chosen_than_makes_one_output():
    store = filled((1, 2), (1, 2), (1, 2))
    nbytes = fmt.record_bytes(8, len(LONG))
    assert [1] == chosen(store, 1)
    assert [1] == chosen(store, 2 * nbytes - 1)
    assert [1, 2] == chosen(store, 2 * nbytes)
    assert [1, 2, 3] == chosen(store, 3 * nbytes)


def test_tombstones_that_are_needed_do_not_make_a_segment_worth_compacting():
    rows = [(b"%d" % i, None, 100 + i, 64) for i in range(8)]
    old = [(b"%d" % i, b"", 1 + i, 64) for i in range(8)]
    files = {LOG.format(1): compacted(1, [], *old, *((b"live %d" % i, LONG, 50 + i, 64) for i in range(20)))}
    store, _ = open_on(disk_of(files | {LOG.format(2): compacted(2, [], *rows)} | ACTIVE), OPTIONS)
    assert [] == chosen(store)


def test_only_closed_segments_are_compacted():
    bench = Bench()
    active = bench.shard.log.segment
    assert active not in bench.closed()
    assert {s.id for s in bench.closed()} == {s.id for s in bench.shard.folder} - {active.id}
    assert {CLOSED} == {s.committed for s in bench.closed()}
    bench.set(b"staged", b"s" * 600, NONE)
    assert active not in bench.closed()
    bench.store.sync()
    assert active in bench.closed()


def test_a_damaged_segment_is_not_chosen():
    store = filled((1, 2), (1, 2))
    shard_of(store).folder[1].damaged = True
    assert [2] == chosen(store)


# Hints of segments


def test_hints_are_written_once_for_closed_segments():
    bench = Bench()
    write_hints(bench.shard, rest)
    hints = {path for path in bench.files.disk.image() if path.endswith(".hint")}
    assert {HINT.format(s.id) for s in bench.closed()} == hints
    count = len(bench.files.journal)
    write_hints(bench.shard, rest)
    assert count == len(bench.files.journal)
    write_hints(bench.shard, rest, active=True)
    assert HINT.format(bench.shard.log.segment.id) in bench.files.disk.image()
    again, _ = open_on(bench.files.disk.copy(), OPTIONS)
    assert (bench.state, 0) == (contents(again), again.stats()["recovered_bytes"])


def test_the_hint_of_an_output_is_that_of_its_records():
    bench = Bench()
    bench.run()
    (output,) = (s for s in bench.shard.folder if s.compacted)
    found = read_entries(bench.shard, output, output.end, rest)
    bench.files.unlink(HINT.format(output.id))
    scanned = read_entries(bench.shard, output, output.end, rest)
    for name in ("hash", "check", "seq", "offset", "size"):
        np.testing.assert_array_equal(getattr(scanned, name), getattr(found, name))


def test_large_records_are_copied():
    options = Options(segment_bytes=256 << 10)
    store, files = open_on(new_store(options), options)
    state = {}
    for i in range(6):
        state[b"%d" % (i % 4)] = bytes([i]) * (60_000 + 10_000 * i)
        store.set(b"%d" % (i % 4), state[b"%d" % (i % 4)])
    for _ in range(2):
        store.compact()
        assert state == contents(store) == contents(open_on(files.disk.copy(), options)[0])
        assert counted_slowly(store) == counted(store)
    shard = shard_of(store)
    assert {fmt.unpack_location(location)[0] for location in shard.records.large} <= {s.id for s in shard.folder}


def test_the_paths_of_a_run_are_those_of_its_number():
    bench = Bench()
    run = Compaction(bench.shard, bench.closed(), rest)
    assert Path(LOG.format(run.number)) == run.path
    assert run.number == bench.shard.log.next_segment - 1
