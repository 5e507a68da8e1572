"""The log of an index on disks that are full, that fail, and that forget."""

from __future__ import annotations

import errno
import itertools
import random
from pathlib import Path

import numpy as np
import pytest

from skeg import CorruptError, StorageError
from skeg.ann.live import format as fmt
from skeg.ann.live.log import RESERVE_BYTES, UNFINISHED, LogReader, LogWriter, log_name, log_numbers
from tests.kv.simdisk import SHORT, SimDisk, SimOps, newest, power_losses, replay

FOLDER = Path("/")
HEADER = fmt.LogHeader(1, bytes(range(16)), 1, 1)
PATH = f"/{log_name(1)}"


def stage(log, *ids):
    for i in ids:
        log.stage(fmt.DELETE, fmt.pack_delete(np.array([i], np.uint64)))


def read(disk):
    """Ids that the records of a disk's log name."""
    reader = LogReader(FOLDER, HEADER, SimOps(disk))
    found = [int(record.ids[0]) for record in reader.records()]
    return found, reader.end


def resumed(disk, **options):
    """The log of a disk, gone on with where reading ends."""
    found, (end, next_seq) = read(disk)
    ops = SimOps(disk.copy(), **options)
    return found, LogWriter(FOLDER, HEADER, ops, end=end, next_seq=next_seq), ops


@pytest.fixture
def ops():
    return SimOps(SimDisk())


@pytest.fixture
def log(ops):
    return LogWriter(FOLDER, HEADER, ops)


def size(ops):
    return len(ops.disk.image()[PATH])


def fail_next(ops, verb, *faults):
    """The next calls of a kind go wrong, each in its way."""
    left = list(faults)

    class Faults(dict):
        def get(self, *_):
            return left.pop(0) if left and ops.calls[-1] == verb else 0

    ops.faults = Faults()


def test_what_was_written_is_read_again(ops, log):
    stage(log, 5, 6)
    assert log._durable < log.nbytes
    log.write()
    stage(log, 7)
    log.write()
    assert ([5, 6, 7], (log.nbytes, 4)) == read(ops.disk)
    log.sync()
    assert log._durable == log.nbytes
    assert [5, 6, 7] == read(ops.disk.power_loss(newest))[0]


def test_a_reader_goes_on_where_it_ended(ops, log):
    reader = LogReader(FOLDER, HEADER, ops)
    for i in range(3):
        assert [] == list(reader.records())
        stage(log, i)
        assert [] == list(reader.records())
        log.write()
        assert [i] == [int(record.ids[0]) for record in reader.records()]


def test_names_of_logs():
    assert "log-000012.skl" == log_name(12)
    names = [log_name(1_234_567), log_name(3), "log-3.skl", "log-000004.skl.new", "blog-000005.skl", log_name(2)]
    assert [2, 3, 1_234_567] == log_numbers(names)


# Full disks


def test_a_full_disk_takes_back_what_does_not_fit(ops, log):
    stage(log, 1)
    log.write()
    mark = log.mark()
    ops.space = size(ops)
    fail_next(ops, "pwrite", errno.ENOSPC)
    stage(log, 2, 3)
    with pytest.raises(StorageError, match="can't write the log"):
        log.write()
    log.back(mark)
    assert [1] == read(ops.disk)[0]
    stage(log, 4)
    log.write()
    log.sync()
    assert [1, 4] == read(ops.disk)[0]


def test_what_did_not_fit_can_be_written_later(ops, log):
    fail_next(ops, "pwrite", errno.ENOSPC)
    stage(log, 1)
    with pytest.raises(StorageError, match="can't write"):
        log.write()
    assert log.staged_bytes > 0
    ops.faults = {}
    log.write()
    assert [1] == read(ops.disk)[0]


@pytest.mark.parametrize("name", ["write", "commit"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_records_that_were_taken_back_do_not_come_again(ops, log, code, name):
    """Two whole records of four had been written when the disk was full; the next one takes the place of the first."""
    mark = log.mark()
    stage(log, 1, 2, 3, 4)
    fail_next(ops, "pwrite", SHORT, code)
    with pytest.raises(StorageError, match="can't write"):
        getattr(log, name)()
    ops.faults = {}
    log.back(mark)
    assert [] == read(ops.disk)[0]
    stage(log, 5)
    log.write()
    assert [5] == read(ops.disk)[0]
    log.sync()
    for disk in power_losses(ops.disk, random.Random(1)):
        assert [5] == read(disk)[0]


def test_without_room_to_spare_records_are_still_written(ops, log):
    ops.space = size(ops) + 1000
    stage(log, 1)
    log.write()
    assert [1] == read(ops.disk)[0]


@pytest.mark.parametrize("before", ["nothing", "synced", "written"])
def test_what_is_committed_survives_a_power_cut(ops, log, before):
    """So does what was written before it, and the file of a log that was reserved ahead of its end."""
    if before != "nothing":
        stage(log, 1)
        log.write()
    if before == "synced":
        log.sync()
    stage(log, 2, 3)
    log.commit()
    expected = [2, 3] if before == "nothing" else [1, 2, 3]
    for disk in power_losses(ops.disk, random.Random(1)):
        assert expected == read(disk)[0]
    changes = len(ops.journal)
    log.commit()
    assert changes == len(ops.journal)


# Failures that do not pass


@pytest.mark.parametrize(("verb", "code"), [("sync", errno.EIO), ("pwrite", errno.EIO)])
def test_a_commit_that_fails_ends_writing(ops, log, verb, code):
    stage(log, 1)
    fail_next(ops, verb, code)
    with pytest.raises(StorageError, match="can't write the log"):
        log.commit()
    ops.faults = {}
    with pytest.raises(StorageError, match="open the index again"):
        log.commit()
    assert [] == read(ops.disk)[0]


@pytest.mark.parametrize(("verb", "code"), [("sync", errno.EIO), ("sync", errno.ENOSPC), ("pwrite", errno.EIO)])
def test_after_a_failure_that_does_not_pass_nothing_is_written(ops, log, verb, code):
    stage(log, 1)
    log.write()
    log.sync()
    stage(log, 2)
    fail_next(ops, verb, code)
    with pytest.raises(StorageError, match=r"can't (write|sync) the log"):
        log.close()
    ops.faults = {}
    before = len(ops.journal)
    for call in (log.write, log.sync, lambda: stage(log, 3)):
        with pytest.raises(StorageError, match="open the index again"):
            call()
    log.close()
    assert before == len(ops.journal)
    assert [1] == read(ops.disk)[0][:1]


def test_a_log_that_can_not_be_made_is_not_there(ops):
    """Whatever fails, a log has its header or is not there, and can be made again."""
    LogWriter(FOLDER, HEADER, ops)
    calls = len(ops.calls)
    for number in range(1, calls + 1):
        again = SimOps(SimDisk(), faults={number: errno.ENOSPC})
        try:
            LogWriter(FOLDER, HEADER, again)
        except StorageError:
            names = set(again.disk.image())
            assert names <= {PATH}
            assert PATH not in names or [] == read(again.disk)[0]
        again.faults = {}
        log = LogWriter(FOLDER, HEADER, again)
        stage(log, 1)
        log.write()
        assert [1] == read(again.disk)[0]


def test_a_power_cut_leaves_a_new_log_with_its_header_or_none(ops):
    LogWriter(FOLDER, HEADER, ops)
    rng = random.Random(1)
    for disk in replay(SimDisk(), ops.journal):
        for left in power_losses(disk, rng):
            names = set(left.image())
            assert names <= {PATH, PATH + UNFINISHED}
            assert PATH not in names or [] == read(left)[0]


def test_a_log_that_was_not_finished_is_in_nobodys_way():
    ops = SimOps(SimDisk())
    ops.open(PATH + UNFINISHED, create=True)
    stage(log := LogWriter(FOLDER, HEADER, ops), 1)
    log.write()
    assert {PATH} == set(ops.disk.image())
    assert [1] == read(ops.disk)[0]


# What a crash leaves


def test_whatever_a_power_cut_leaves_has_what_was_synced(ops, log):
    """And of the rest only the first records, in order; all that is added afterwards is there."""
    synced = {}  # changes of the disk: records that were synced by then
    for i in range(1, 7):
        stage(log, i)
        log.write()
        if i % 2 == 0:
            log.sync()
            synced[len(ops.journal)] = i
    rng = random.Random(1)
    for number, disk in enumerate(replay(SimDisk(), ops.journal)):
        sure = max((i for at, i in synced.items() if at <= number), default=0)
        for left in power_losses(disk, rng, samples=8):
            if PATH not in left.image():
                assert sure == 0
                continue
            found, log, again = resumed(left)
            assert list(range(1, len(found) + 1)) == found
            assert sure <= len(found)
            stage(log, 99)
            log.write()
            log.sync()
            assert [*found, 99] == read(again.disk)[0]
            assert [*found, 99] == read(again.disk.power_loss(newest))[0]


def test_a_torn_end_is_cut_off(ops, log):
    stage(log, 1, 2)
    log.write()
    whole = log.nbytes
    for cut in range(fmt.HEADER_BYTES, whole):
        disk = ops.disk.copy()
        data = disk.nodes[disk.find(PATH)].data
        data[cut:whole] = bytes(whole - cut)
        found, log, again = resumed(disk)
        assert found == [1, 2][: len(found)]  # where its padding was cut off, zeros stand for it
        assert log.nbytes == size(again)
        stage(log, 3)
        log.write()
        assert [*found, 3] == read(again.disk)[0]


def test_damage_to_what_was_durable_is_not_cut_off(ops, log):
    for i in (1, 2):
        stage(log, i)
        log.write()
        log.sync()
    disk = ops.disk.copy()
    disk.nodes[disk.find(PATH)].data[fmt.HEADER_BYTES + 40] ^= 1
    with pytest.raises(CorruptError, match="damaged record"):
        read(disk)


def test_a_record_that_is_written_while_it_is_read_is_not_damage(ops, log):
    """The reader meets the place of a record before it is written, and then the one after it, written later."""
    stage(log, 1)
    log.write()
    log.sync()
    first = log.nbytes
    stage(log, 2)
    log.write()
    log.sync()
    reader = LogReader(FOLDER, HEADER, ops)
    real, calls = reader._read, itertools.count()

    def early(offset, length):
        data = real(offset, length)
        at = first - offset
        return data if next(calls) else bytes(at) + data[at:]

    reader._read = early
    assert [1, 2] == [int(record.ids[0]) for record in reader.records()]


# Space


def test_space_is_reserved_ahead_and_given_back_at_the_end(ops, log):
    stage(log, 1)
    log.write()
    assert size(ops) >= RESERVE_BYTES
    before = ops.calls.count("allocate")
    for i in range(100):
        stage(log, i)
        log.write()
    assert before == ops.calls.count("allocate")
    log.close()
    assert log.nbytes == size(ops)
    assert 101 == len(read(ops.disk)[0])


def test_closing_writes_and_syncs_what_is_left(ops, log):
    stage(log, 1)
    log.close()
    assert [1] == read(ops.disk.power_loss(newest))[0]


def test_abandoning_writes_nothing(ops, log):
    stage(log, 1)
    before = len(ops.journal)
    log.abandon()
    assert before == len(ops.journal)
    assert [] == read(ops.disk)[0]
