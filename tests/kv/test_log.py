"""The end of the log: what reaches the disk, in which order, and what is left when the disk or a person says no."""

from __future__ import annotations

import errno
import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from skeg.errors import StorageError
from skeg.kv import format as fmt
from skeg.kv.entries import KeyHash
from skeg.kv.log import Log, Round
from skeg.kv.options import Durability
from skeg.kv.scan import Walk, scan_plain
from skeg.kv.segments import CLOSED, Folder, Segment
from tests.kv.simdisk import SHORT, SimDisk, SimOps, failure, newest

NONE, OS, SYNC = Durability
SHARD_ID = b"s" * 16
SALT = 0x5A17
SHARD = Path("/shard")
KEYS = KeyHash(1)


class Hooked(SimOps):
    """File operations that call `before` with each verb; it may raise, or do something in the meantime."""

    before: Callable[[str], None] | None = None

    def begin(self, verb: str, number: int = 0) -> bool:
        if self.before is not None:
            self.before(verb)
        return super().begin(verb, number)

    def fail(self, verb: str, error: BaseException, *, after: int = 0, times: int = 1) -> None:
        """Let calls of one verb fail, after the first few of them."""
        seen = 0

        def before(called: str) -> None:
            nonlocal seen
            seen += called == verb
            if called == verb and after < seen <= after + times:
                raise error

        self.before = before


class Bench:
    """A log on a disk in memory."""

    def __init__(self, segment_bytes: int = 1024) -> None:
        self.files = Hooked(SimDisk())
        self.files.mkdir(SHARD)
        self.files.sync_dir("/")
        self.segment_bytes = segment_bytes
        self.folder = Folder(SHARD, self.files, SHARD_ID, SALT)
        self.committed: list[Round] = []
        self.taken_back: list[Round] = []
        self.lock = threading.Lock()
        self.log = Log(
            self.folder,
            self.lock,
            segment=None,
            next_segment=1,
            next_seq=1,
            segment_bytes=segment_bytes,
            committed=self.committed.append,
            take_back=self.taken_back.append,
        )
        self.forget_calls()

    def forget_calls(self) -> None:
        self.files.journal.clear()
        self.files.calls.clear()

    def stage(self, key: bytes, nbytes: int = 0, level: Durability = SYNC, **counts: int) -> Round:
        with self.lock:
            size = fmt.record_bytes(len(key), nbytes)
            segment, offset = self.log.reserve(size)
            record = fmt.pack_record(
                segment.place, offset, fmt.VALUE, self.log.next_seq, key, bytes(nbytes), segment.durable
            )
            return self.log.stage(record, self.log.next_seq, level, **counts)

    def put(self, key: bytes, nbytes: int = 0, level: Durability = SYNC) -> None:
        self.log.commit(self.stage(key, nbytes, level))

    def told(self) -> list[str]:
        """What was done to the disk since the calls were last forgotten, in words."""
        names = {number: int(name[:10]) for name, number in self.files.disk.nodes[1].names.items()}
        words = []
        for verb, number, *details in self.files.journal:
            name = int(details[0][:10]) if verb == "create" else names.get(number)
            where = f" at {details[0]}" if verb == "write" else f" to {details[0]}" if verb == "resize" else ""
            words.append("sync folder" if verb == "sync_dir" else f"{verb} {name}{where}")
        return words

    def records(self, disk: SimDisk | None = None) -> dict[int, list[tuple[int, bytes, int]]]:
        """For each segment on the disk, number, key and field *durable* (bytes) of its whole records."""
        found: dict[int, list[tuple[int, bytes, int]]] = {}
        for path, data in (disk or self.files.disk).walk():
            if data is None or not path.endswith(".log"):
                continue
            number = int(Path(path).stem)
            place = fmt.place_of(SALT, number)
            walk = Walk(place, False, 0)
            rows = found[number] = []
            for offset in scan_plain(data[64:], 64, walk, KEYS).entries.offset.tolist():
                head = fmt.unpack_head(data, offset * 8)
                key = data[offset * 8 + 24 :][: head.klen]
                rows.append((head.seq, key, head.durable * 8))
        return found

    def keys(self, disk: SimDisk | None = None) -> list[bytes]:
        return [key for rows in self.records(disk).values() for _, key, _ in rows]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def full() -> OSError:
    return failure(errno.ENOSPC)


# What is done, in which order


def test_nothing_is_written_before_the_first_record(bench):
    bench.log.sync()
    assert [] == bench.files.calls
    assert {} == bench.records()


def test_a_new_segment_has_a_durable_header_and_name_before_its_first_record(bench):
    bench.put(b"a")
    assert [
        "create 1",
        "write 1 at 0",
        "sync 1",
        "sync folder",
        "resize 1 to 1024",
        "write 1 at 64",
        "sync 1",
    ] == bench.told()
    assert {1: [(1, b"a", 0)]} == bench.records()


def test_a_segment_is_whole_and_durable_before_the_next_is_made(bench):
    bench.put(b"a", 500)
    bench.stage(b"b", 300)
    round_ = bench.stage(b"c", 500)
    bench.forget_calls()
    bench.log.commit(round_)
    assert [
        "write 1 at 592",
        "resize 1 to 920",
        "sync 1",
        "create 2",
        "write 2 at 0",
        "sync 2",
        "sync folder",
        "resize 2 to 1024",
        "write 2 at 64",
        "sync 2",
    ] == bench.told()
    header = bench.folder.read_header(2)
    assert (2, 1, 920, 3) == (header.segment, header.previous, header.previous_bytes, header.first_seq)
    assert [CLOSED, 64 + 528] == [segment.committed for segment in bench.folder]


def test_the_segment_before_is_synced_though_nobody_asked_for_more_than_os(bench):
    """Otherwise a later one could survive a power cut that it does not."""
    bench.put(b"a", 900, OS)
    bench.forget_calls()
    bench.put(b"b", 900, OS)
    assert ["resize 1 to 992", "sync 1", "create 2"] == bench.told()[:3]
    assert "sync 2" == bench.told()[4]
    assert "write 2 at 64" == bench.told()[-1]


@pytest.mark.parametrize(("level", "syncs"), [(NONE, 0), (OS, 0), (SYNC, 1)])
def test_a_round_is_one_write_and_one_sync_at_most(bench, level, syncs):
    bench.put(b"first")
    bench.forget_calls()
    before = bench.log.syncs, bench.log.commits
    rounds = {bench.stage(b"%d" % i, 8, level) for i in range(10)}
    bench.log.commit(rounds.pop())
    assert set() == rounds
    assert ["write 1 at 96", "sync 1"][: 1 + syncs] == bench.told()
    assert (before[0] + syncs, before[1] + 1) == (bench.log.syncs, bench.log.commits)
    assert 11 == len(bench.records()[1])


@pytest.mark.parametrize("others", [NONE, OS])
def test_the_strongest_level_of_a_round_is_that_of_all(bench, others):
    bench.put(b"first")
    bench.stage(b"a", 0, others)
    bench.stage(b"b", 0, SYNC)
    round_ = bench.stage(b"c", 0, others)
    bench.log.commit(round_)
    assert bench.log.committed_seq == bench.log.durable_seq == 4
    assert [b"first", b"a", b"b", b"c"] == bench.keys(bench.files.disk.power_loss(lambda _: 0))


def test_what_is_at_os_level_is_not_durable_until_a_sync(bench):
    bench.put(b"a")
    bench.put(b"b", 0, OS)
    assert (2, 1, True) == (bench.log.committed_seq, bench.log.durable_seq, bench.log.unsynced)
    assert [b"a"] == bench.keys(bench.files.disk.power_loss(lambda _: 0))
    assert [b"a", b"b"] == bench.keys()
    bench.forget_calls()
    bench.log.sync()
    assert ["sync 1"] == bench.told()
    assert (2, 2, False) == (bench.log.committed_seq, bench.log.durable_seq, bench.log.unsynced)
    bench.log.sync()
    assert ["sync 1"] == bench.told()


def test_a_sync_of_records_that_nobody_waited_for_writes_them(bench):
    bench.stage(b"a", 0, NONE)
    assert bench.log.unsynced
    assert [] == bench.told()
    bench.log.sync()
    assert [b"a"] == bench.keys(bench.files.disk.power_loss(lambda _: 0))


def test_records_say_how_far_their_segment_was_durable(bench):
    """The newest record of a round can't vouch for the others of it."""
    bench.put(b"a")
    bench.put(b"b", 0, OS)
    bench.put(b"c", 0, OS)
    bench.put(b"d")
    bench.stage(b"e")
    bench.put(b"f")
    bench.put(b"g")
    assert [0, 96, 96, 96, 192, 192, 256] == [durable for *_, durable in bench.records()[1]]


def test_space_is_reserved_ahead_up_to_the_size_of_a_segment():
    bench = Bench(segment_bytes=1 << 20)
    bench.put(b"a")
    assert 88 + 8 + (64 << 10) == len(bench.files.disk.nodes[2].data)
    bench.forget_calls()
    for i in range(20):
        bench.put(b"%d" % i, 1000)
    assert [] == [word for word in bench.told() if "resize" in word]
    bench.put(b"b", 300_000)
    end = bench.log.segment.end
    assert f"resize 1 to {end + end // 2}" in bench.told()
    bench.put(b"c", 600_000)
    assert f"resize 1 to {1 << 20}" in bench.told()
    assert set() == set(bench.files.disk.nodes[2].data[bench.log.segment.end :]) - {0}


def test_no_space_to_reserve_is_no_failure(bench):
    bench.put(b"a")
    bench.files.fail("allocate", full(), times=99)
    bench.put(b"b", 900)
    bench.put(b"c", 900)
    assert [b"a", b"b", b"c"] == bench.keys()


def test_reserved_space_is_given_back(bench):
    bench.log.trim()
    bench.put(b"a")
    bench.log.trim()
    assert 96 == bench.folder.size(bench.log.segment)
    bench.forget_calls()
    bench.log.trim()
    assert [] == bench.told()
    bench.put(b"b")
    assert [b"a", b"b"] == bench.keys()


# Segments


def test_a_record_that_does_not_fit_begins_a_segment_and_a_larger_one_has_it_alone(bench):
    for i, nbytes in enumerate([600, 600, 5000, 10, 10]):
        bench.put(b"%d" % i, nbytes)
    assert [[1], [2], [3], [4, 5]] == [[seq for seq, *_ in rows] for rows in bench.records().values()]
    assert [0, 1, 2, 3] == [segment.header.previous for segment in bench.folder]


def test_a_segment_may_be_filled_to_the_last_byte():
    bench = Bench(segment_bytes=64 + 3 * 32)
    for i in range(6):
        bench.put(b"%d" % i)
    assert {1: 3, 2: 3} == {number: len(rows) for number, rows in bench.records().items()}
    assert [160, 160] == [segment.end for segment in bench.folder]


def test_a_round_over_many_segments(bench):
    rounds = {bench.stage(b"%d" % i, 600, OS) for i in range(9)}
    closed = []
    bench.log.on_closed = lambda: closed.append(True)
    bench.log.commit(rounds.pop())
    assert [b"%d" % i for i in range(9)] == bench.keys()
    assert 8 == len(closed)
    assert [CLOSED] * 8 == [segment.committed for segment in bench.folder][:8]
    assert bench.log.segment.end == bench.log.segment.committed


def test_more_segments_in_a_round_than_files_may_be_open():
    bench = Bench(segment_bytes=256)
    bench.folder._max_open = 4
    round_ = [bench.stage(b"%d" % i, 200, NONE) for i in range(30)][-1]
    bench.log.commit(round_)
    assert 30 == len(bench.keys())


def test_closing_a_segment_makes_it_durable(bench):
    bench.log.close_segment()
    assert len(bench.folder) == 0
    bench.put(b"a", 0, OS)
    bench.stage(b"b", 0, NONE)
    bench.log.close_segment()
    assert [b"a", b"b"] == bench.keys(bench.files.disk.power_loss(lambda _: 0))
    assert [CLOSED, 0] == [segment.committed for segment in bench.folder]
    bench.log.close_segment()
    assert 2 == len(bench.folder)
    bench.put(b"c")
    assert (1, 128) == bench.folder.read_header(2)[3::2]


def test_segment_ids_go_past_16_bits_and_end(bench):
    bench.log.next_segment = 65_535
    for i in range(3):
        bench.put(b"%d" % i, 900)
    assert [65_535, 65_536, 65_537] == list(bench.records())
    bench.log.next_segment = fmt.SEGMENT_MAX
    bench.put(b"last", 900)
    with pytest.raises(StorageError, match="all 33554431 segment ids are used"):
        bench.stage(b"beyond", 900)
    assert b"last" == bench.keys()[-1]


def test_staged_records_are_read_from_memory(bench):
    bench.put(b"a")
    rounds = [bench.stage(b"%d" % i, 300) for i in range(5)]
    places = [(extent.segment, offset) for extent in rounds[0].extents for offset in extent.offsets]
    for i, (segment, offset) in enumerate(places):
        data, round_ = bench.log.staged(segment, offset, fmt.record_bytes(1, 300))
        assert b"%d" % i + bytes(300) == data[24:325]
        assert round_ is rounds[0]


# Group commit


def test_what_is_staged_during_a_commit_is_the_next_round(bench):
    bench.put(b"first")
    late: list[Round] = []

    def before(verb: str) -> None:
        if verb == "sync" and not late:
            late.extend(bench.stage(b"late %d" % i) for i in range(3))

    bench.files.before = before
    round_ = bench.stage(b"a")
    bench.forget_calls()
    bench.log.commit(round_)
    assert (True, False) == (round_.done, late[0].done)
    assert [b"first", b"a"] == bench.keys()
    bench.log.commit(late[0])
    assert ["write 1 at 96", "sync 1", "write 1 at 128", "sync 1"] == bench.told()
    assert 5 == len(bench.keys())


def test_many_threads_share_commits_and_each_returns_when_its_own_is_durable():
    bench = Bench(segment_bytes=4096)
    gate = threading.Barrier(8)
    lost = []

    def write(thread: int) -> None:
        gate.wait()
        for i in range(20):
            round_ = bench.stage(b"%d %d" % (thread, i), 50)
            seq = round_.last_seq
            bench.log.commit(round_)
            if not round_.done or bench.log.durable_seq < seq:
                lost.append(seq)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [] == lost
    found = [seq for rows in bench.records(bench.files.disk.power_loss(lambda _: 0)).values() for seq, *_ in rows]
    assert list(range(1, 161)) == found
    assert bench.log.commits <= 160


# Interruptions


@pytest.mark.parametrize("verb", ["create", "pwrite", "sync", "sync_dir", "allocate", "truncate", "unlink"])
@pytest.mark.parametrize("nth", range(3))
def test_an_interrupted_commit_is_done_again_by_the_next(verb, nth):
    """Ctrl-C in any call to the disk: the same bytes go to the same place."""
    bench = Bench(segment_bytes=256)
    bench.put(b"first", 100)
    round_ = [bench.stage(b"%d" % i, 100, SYNC) for i in range(4)][-1]
    bench.files.fail(verb, KeyboardInterrupt(), after=nth)
    try:
        bench.log.commit(round_)
        interrupted = False
    except KeyboardInterrupt:
        interrupted = True
        assert not round_.done
        assert bench.log.durable_seq == 1
    bench.files.before = None
    assert interrupted or nth == 2
    bench.put(b"after")
    assert (True, None) == (round_.done, round_.error)
    assert [b"first", b"0", b"1", b"2", b"3", b"after"] == bench.keys(bench.files.disk.power_loss(lambda _: 0))
    assert [] == bench.taken_back
    assert [1, 5, 6] == [told.last_seq for told in bench.committed]
    assert bench.log.stopped is None
    assert bench.log.durable_seq == 6


def test_others_do_not_wait_for_a_leader_that_was_interrupted(bench):
    bench.put(b"first")
    waiting = bench.stage(b"waiting")
    started = threading.Event()
    follower = threading.Thread(target=lambda: (started.set(), bench.log.commit(waiting)))

    def before(verb: str) -> None:
        if verb == "pwrite" and not started.is_set():
            follower.start()
            started.wait()
            raise KeyboardInterrupt

    bench.files.before = before
    with pytest.raises(KeyboardInterrupt):
        bench.log.commit(waiting)
    follower.join(20)
    assert not follower.is_alive()
    assert [b"first", b"waiting"] == bench.keys()


# Failures that may pass


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_fails_a_round_and_takes_it_back(bench, code):
    bench.put(b"a")
    round_ = bench.stage(b"b", 40, SYNC, tombstones=40, overhead=8)
    bench.files.fail("pwrite", failure(code))
    bench.forget_calls()
    with pytest.raises(StorageError, match=f"/shard: can't write the log: {os.strerror(code)}"):
        bench.log.commit(round_)
    # What may have been written is removed, durably, and never comes back.
    assert ["resize 1 to 96", "sync 1"] == bench.told()
    assert [[], [round_]] == [bench.taken_back[0].extents, bench.taken_back[1:]]
    segment = bench.log.segment
    assert (96, 0, 0, 96) == (segment.end, segment.tombstones, segment.overhead, segment.reserved)
    assert bench.log.stopped is None
    bench.put(b"c")
    assert {1: [(1, b"a", 0), (3, b"c", 96)]} == bench.records()
    assert [1, 3] == [told.last_seq for told in bench.committed]


def test_numbers_of_failed_writes_are_not_used_again(bench):
    for i in range(5):
        bench.files.fail("pwrite", full())
        with pytest.raises(StorageError):
            bench.put(b"failed")
        bench.files.before = None
        bench.put(b"%d" % i)
    assert [2, 4, 6, 8, 10] == [seq for rows in bench.records().values() for seq, *_ in rows]


@pytest.mark.parametrize("written", [1, 2, 3, 4])
def test_a_failure_after_a_rotation_takes_back_both_sides(written):
    """A round over three segments; the write of one of them fails, or that of a header."""
    bench = Bench(segment_bytes=256)
    bench.put(b"a", 50)
    end = bench.log.segment.end
    rounds = [bench.stage(b"%d" % i, 100) for i in range(3)]
    bench.files.fail("pwrite", full(), after=written)
    with pytest.raises(StorageError, match="No space"):
        bench.log.commit(rounds[0])
    bench.files.before = None
    assert [b"a"] == bench.keys() == bench.keys(bench.files.disk.power_loss(newest))
    assert [b"a"] == bench.keys(bench.files.disk.power_loss(lambda _: 0))
    assert (1, end) == (len(bench.folder), bench.folder[1].end)
    assert bench.log.stopped is None
    bench.put(b"b", 100)
    bench.put(b"c", 100)
    assert [b"a", b"b", b"c"] == bench.keys(bench.files.disk.power_loss(lambda _: 0))
    check_chain(bench)


def check_chain(bench: Bench) -> None:
    """Each segment says how long the one before is, and it is that long."""
    headers = [bench.folder.read_header(number) for number in bench.records()]
    for before, header in itertools.pairwise(headers):
        assert before.segment == header.previous
        assert bench.folder[before.segment].end == header.previous_bytes
        assert bench.folder.size(bench.folder[before.segment]) == header.previous_bytes


@pytest.mark.parametrize("nbytes", [40, 900])
def test_what_was_staged_during_a_failing_commit_fails_with_it(bench, nbytes):
    """It may build on what was taken back. In the same segment or in the next."""
    bench.put(b"a")
    late: list[Round] = []

    def before(verb: str) -> None:
        if verb == "pwrite" and not late:
            late.append(bench.stage(b"late", nbytes))
            raise full()

    bench.files.before = before
    round_ = bench.stage(b"b")
    for failed in (round_, *late, *late):
        with pytest.raises(StorageError, match="No space"):
            bench.log.commit(failed)
    with pytest.raises(StorageError, match="No space"):
        bench.log.commit(late[0])
    assert [*late, round_] == bench.taken_back
    bench.put(b"c", 900)
    bench.put(b"d")
    assert [b"a", b"c", b"d"] == bench.keys()
    check_chain(bench)


def test_the_first_commit_to_a_segment_fails_while_more_is_staged_for_it(bench):
    late: list[Round] = []

    def before(verb: str) -> None:
        if verb == "allocate" and not late:
            late.append(bench.stage(b"late"))
        if verb == "pwrite" and late:
            raise full()

    bench.files.before = before
    with pytest.raises(StorageError, match="No space"):
        bench.put(b"a")
    bench.files.before = None
    assert bench.log.stopped is None
    assert {} == bench.records()
    bench.put(b"b")
    assert [b"b"] == bench.keys()
    check_chain(bench)


def test_a_segment_begun_behind_records_that_fail_is_begun_anew(bench):
    """Its header was to say how long the one before is."""
    bench.put(b"a", 0)
    bench.stage(b"lost", 100, NONE)
    bench.files.fail("pwrite", full())
    with pytest.raises(StorageError, match="No space"):
        bench.log.close_segment()
    bench.files.before = None
    bench.put(b"b")
    bench.put(b"c", 900)
    assert [b"a", b"b", b"c"] == bench.keys()
    check_chain(bench)


def test_a_disk_that_stays_full_for_long_costs_nothing(bench):
    """Each attempt begins a segment: its header fits, its record does not."""
    bench.put(b"a", 900)
    bench.folder._max_open = 8
    for _ in range(30):
        bench.files.fail("pwrite", full(), after=1)
        with pytest.raises(StorageError, match="No space"):
            bench.put(b"b", 900)
    bench.files.before = None
    bench.put(b"c", 900)
    assert [b"a", b"c"] == bench.keys()
    assert len(bench.folder._opened) <= 3
    check_chain(bench)


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE])
def test_too_many_open_files_is_a_failure_that_passes(bench, code):
    bench.put(b"a", 900)
    bench.folder.close()
    bench.files.fail("open", failure(code))
    with pytest.raises(StorageError):
        bench.put(b"b", 900)
    bench.files.before = None
    bench.put(b"c", 900)
    assert [b"a", b"c"] == bench.keys()


def test_a_short_write_is_completed(bench):
    bench.put(b"a")
    bench.files.faults = {len(bench.files.calls) + n: SHORT for n in (1, 2, 3)}
    bench.put(b"b", 100)
    assert [b"a", b"b"] == bench.keys(bench.files.disk.power_loss(lambda _: 0))


# Failures that do not pass


def stopped(bench: Bench) -> None:
    """Nothing is written any more, however often one asks."""
    bench.files.before = None
    bench.forget_calls()
    for _ in range(3):
        with pytest.raises(StorageError, match="no longer written to, after a failure; open the store again"):
            bench.stage(b"never")
        with pytest.raises(StorageError, match="no longer written to"):
            bench.log.sync()
    assert [] == bench.files.calls


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EINTR])
def test_a_failed_sync_is_final_whatever_its_reason(bench, code):
    bench.put(b"a")
    durable = bench.log.durable_seq
    round_ = bench.stage(b"b")
    bench.files.fail("sync", failure(code))
    with pytest.raises(StorageError, match="can't write the log"):
        bench.log.commit(round_)
    assert (1, 1) == (bench.log.committed_seq, durable)
    assert round_ in bench.taken_back
    # Whether the bytes are on the disk is not known; nobody touches them, or says that they are.
    assert bench.files.calls.count("truncate") == 0
    stopped(bench)


@pytest.mark.parametrize("verb", ["sync", "sync_dir"])
@pytest.mark.parametrize("after", [0, 1])
def test_a_failed_sync_in_a_rotation_is_final(bench, verb, after):
    bench.put(b"a", 900)
    if verb == "sync_dir" and after:
        bench.stage(b"between", 900)
    bench.files.fail(verb, failure(errno.EIO), after=after)
    with pytest.raises(StorageError, match="can't write the log"):
        bench.put(b"b", 900)
    assert [b"a"] == bench.keys()[:1]
    stopped(bench)


def test_a_failed_write_of_unknown_reason_is_final(bench):
    bench.put(b"a")
    bench.files.fail("pwrite", failure(errno.EIO))
    with pytest.raises(StorageError, match="can't write the log: Input/output error"):
        bench.put(b"b")
    stopped(bench)


@pytest.mark.parametrize("verb", ["truncate", "sync"])
def test_a_failure_that_can_not_be_cleaned_up_is_final(bench, verb):
    """A record that was reported to have failed must not come back."""
    bench.put(b"a")

    def before(called: str) -> None:
        if called == "pwrite":
            raise full()
        if called == verb:
            raise failure(errno.EIO)

    bench.files.before = before
    with pytest.raises(StorageError, match="No space"):
        bench.put(b"b")
    stopped(bench)


def test_all_who_wait_learn_of_a_failure(bench):
    bench.put(b"a")
    round_ = bench.stage(b"b")
    errors: list[StorageError] = []

    def wait() -> None:
        try:
            bench.log.commit(round_)
        except StorageError as error:
            errors.append(error)

    bench.files.fail("sync", failure(errno.EIO), times=99)
    threads = [threading.Thread(target=wait) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 6 == len(errors) == len({id(error) for error in errors})
    assert {"/shard"} == {error.path for error in errors}


def test_the_reason_of_a_failed_folder_sync_is_told(bench):
    """The system's `sync_dir` raises a `StorageError` with the reason in its text."""
    error = StorageError("/shard", "can't sync the folder: Input/output error")
    bench.files.fail("sync_dir", error)
    with pytest.raises(StorageError, match="Input/output error"):
        bench.put(b"a")


def test_an_undone_location_follows_its_copy(bench):
    old = [fmt.pack_location(3, offset, 32) for offset in (64, 96, 128)]
    other = fmt.pack_location(4, 64, 32)
    copies = np.array(old, np.uint64), np.array([7, 8, 9], np.uint64)
    seen: dict[Round, int] = {}
    with bench.lock:
        round_ = bench.log.staging
        round_.add_many(*(np.array(each, np.uint64) for each in ([1, 2, 3], [old[1], other, 0], [21, 22, 23])))
        bench.log.relocate({3}, *copies, seen)
        assert [8, other, 0] == list(round_.olds)
        # What was staged since is looked at by the next call.
        round_.add(4, old[2], 24)
        round_.add(5, old[0], 25)
        bench.log.relocate({3}, *copies, seen)
        assert [8, other, 0, 9, 7] == list(round_.olds)
        assert [21, 22, 23, 24, 25] == list(round_.news)


def test_a_segment_knows_nothing_of_its_durability_at_first():
    segment = Segment(fmt.SegmentHeader(1, SHARD_ID, 1, 0, 0, 0), SHARD / "x", SALT)
    assert (64, CLOSED, 64, 0) == (segment.end, segment.committed, segment.durable, segment.reserved)
