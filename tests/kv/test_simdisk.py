"""The simulated disk: it does what the system's file operations do, and loses what a power cut may lose."""

from __future__ import annotations

import errno
import itertools
import math
import os
import random

import pytest

from skeg.errors import LockedError
from skeg.fileops import FileOps, write_all
from tests.kv.simdisk import (
    GARBAGE,
    SECTOR,
    SHORT,
    SimDisk,
    SimOps,
    failure,
    newest,
    oldest,
    power_losses,
    replay,
)


def states(ops):
    """All states that a power cut may leave, each as path -> contents."""
    found = list(power_losses(ops.disk, random.Random(1), exhaustive=math.inf))
    images = [tuple(sorted(disk.image().items())) for disk in found]
    return {dict(image).__repr__(): dict(image) for image in images}.values()


def durable_file(data=b"", path="/f"):
    """Operations on a disk with one file, all of it durable, and the open file."""
    ops = SimOps(SimDisk())
    file = ops.open(path, create=True)
    if data:
        file.pwrite(data, 0)
    file.sync()
    ops.sync_dir("/")
    return ops, file


def contents(ops, path="/f"):
    return {image.get(path) for image in states(ops)}


# Contents


def test_a_synced_file_with_a_synced_name_is_there_in_every_state():
    ops, _ = durable_file(b"abc")
    assert [{"/f": b"abc"}] == list(states(ops))


def test_sync_alone_does_not_keep_the_name():
    ops = SimOps(SimDisk())
    file = ops.open("/f", create=True)
    file.pwrite(b"abc", 0)
    file.sync()
    assert {None, b"abc"} == contents(ops)


def test_the_name_alone_does_not_keep_the_contents():
    ops = SimOps(SimDisk())
    ops.open("/f", create=True).pwrite(b"abc", 0)
    ops.sync_dir("/")
    assert {b"", b"abc", bytes(3), GARBAGE[:3]} == contents(ops)


def test_a_new_sector_may_hold_bytes_of_another_file():
    ops, _ = durable_file(b"old file")
    ops.open("/g", create=True).pwrite(b"abc", 0)
    assert {None, b"", b"abc", bytes(3), GARBAGE[:3], b"old"} == contents(ops, "/g")


def test_sectors_of_one_write_are_kept_or_lost_one_by_one():
    ops, file = durable_file(b"." * (3 * SECTOR))
    file.pwrite(b"x" * (3 * SECTOR), 0)
    old, new = b"." * SECTOR, b"x" * SECTOR
    assert {b"".join(parts) for parts in itertools.product([old, new], repeat=3)} == contents(ops)


def test_a_sector_may_hold_what_was_in_between():
    ops, file = durable_file(b"1")
    file.pwrite(b"2", 0)
    file.pwrite(b"3", 0)
    assert {b"1", b"2", b"3"} == contents(ops)


def test_size_and_contents_are_lost_apart():
    ops, file = durable_file(b"ab")
    file.pwrite(b"cd", 2)
    assert {b"ab", b"ab\0\0", b"abcd"} == contents(ops)
    ops, file = durable_file(b"abcd")
    file.truncate(2)
    assert {b"ab", b"abcd", b"ab\0\0"} == contents(ops)
    file.sync()
    assert {b"ab"} == contents(ops)


def test_allocated_space_holds_zeros_once_it_is_synced():
    ops, file = durable_file()
    file.allocate(0, 3)
    assert {b"", bytes(3), GARBAGE[:3]} == contents(ops)
    file.sync()
    file.pwrite(b"abc", 0)
    assert {bytes(3), b"abc"} == contents(ops)


# Names


def test_each_change_of_a_name_is_kept_or_lost_alone():
    ops, _ = durable_file(b"1", "/a")
    ops.open("/b", create=True).sync()
    ops.unlink("/a")
    assert {(), ("/a",), ("/b",), ("/a", "/b")} == {tuple(image) for image in states(ops)}


def test_a_rename_leaves_the_old_contents_or_the_new():
    ops, _ = durable_file(b"old", "/f")
    file = ops.open("/f.tmp", create=True)
    file.pwrite(b"new", 0)
    file.sync()
    ops.rename("/f.tmp", "/f")
    expected = [{"/f": b"new"}, {"/f": b"old"}, {"/f": b"old", "/f.tmp": b"new"}]
    assert expected == sorted(states(ops), key=lambda image: (len(image), image["/f"]))
    ops.sync_dir("/")
    assert [{"/f": b"new"}] == list(states(ops))


def test_a_rename_of_unsynced_contents_may_leave_nothing():
    ops, _ = durable_file(b"old", "/f")
    ops.open("/f.tmp", create=True).pwrite(b"new", 0)
    ops.rename("/f.tmp", "/f")
    ops.sync_dir("/")
    assert b"" in contents(ops)


def test_two_renames_leave_one_name():
    ops, _ = durable_file(b"1", "/a")
    ops.rename("/a", "/b")
    ops.rename("/b", "/c")
    assert {("/a",), ("/b",), ("/c",)} == {tuple(image) for image in states(ops)}


def test_a_folder_is_lost_with_all_that_is_in_it():
    ops = SimOps(SimDisk())
    ops.mkdir("/d")
    ops.open("/d/f", create=True)
    ops.sync_dir("/d")
    assert {(), ("/d", "/d/f")} == {tuple(image) for image in states(ops)}


# States


def test_oldest_and_newest_are_among_the_samples():
    ops, file = durable_file(b"." * (8 * SECTOR))
    file.pwrite(b"x" * (8 * SECTOR), 0)
    images = [disk.image()["/f"] for disk in power_losses(ops.disk, random.Random(1), exhaustive=64, samples=16)]
    assert 16 == len(images)
    assert b"." * (8 * SECTOR) == images[0] == ops.disk.power_loss(oldest).image()["/f"]
    assert b"x" * (8 * SECTOR) == images[1] == ops.disk.power_loss(newest).image()["/f"]
    assert len(set(images)) > 8


def test_what_is_left_after_a_power_cut_is_durable():
    ops, file = durable_file(b"1")
    file.pwrite(b"2", 0)
    (left,) = {disk.image()["/f"] for disk in power_losses(ops.disk.power_loss(newest), random.Random(1))}
    assert b"2" == left


def test_a_killed_process_leaves_what_is_not_yet_durable():
    ops, file = durable_file(b"1")
    file.pwrite(b"2", 0)
    killed = SimOps(ops.disk.copy())
    assert b"2" == killed.open("/f").pread(9, 0)
    assert {b"1", b"2"} == contents(killed)


def test_a_copy_shares_nothing():
    ops, file = durable_file(b"1")
    copy = ops.disk.copy()
    file.pwrite(b"2", 0)
    ops.open("/g", create=True)
    file.sync()
    ops.sync_dir("/")
    assert {"/f": b"1"} == copy.image() == copy.power_loss(oldest).image()


def test_the_journal_leads_through_every_moment():
    ops = SimOps(SimDisk())
    moments = [(ops.disk.image(), sorted(map(repr, states(ops))))]
    file = ops.open("/f", create=True)
    steps = [
        lambda: file.pwrite(b"abc", 0),
        file.sync,
        lambda: ops.rename("/f", "/g"),
        lambda: ops.sync_dir("/"),
        lambda: ops.unlink("/g"),
    ]
    moments.append((ops.disk.image(), sorted(map(repr, states(ops)))))
    for step in steps:
        step()
        moments.append((ops.disk.image(), sorted(map(repr, states(ops)))))
    replayed = [(disk.image(), sorted(map(repr, states(SimOps(disk))))) for disk in replay(SimDisk(), ops.journal)]
    assert moments == replayed


# Failures


def test_the_planned_call_fails_and_changes_nothing():
    for fault in (errno.EIO, errno.ENOSPC, errno.EINTR):
        ops, file = durable_file(b"1")
        ops.faults = {len(ops.calls) + 2: fault}
        file.pwrite(b"2", 0)
        with pytest.raises(OSError, match=os.strerror(fault)) as raised:
            file.pwrite(b"3", 0)
        assert fault == raised.value.errno
        assert b"2" == file.pread(9, 0)


def test_a_short_write_takes_half_and_a_short_read_gives_half():
    ops, file = durable_file()
    ops.faults = {len(ops.calls) + 1: SHORT, len(ops.calls) + 2: SHORT}
    assert 3 == file.pwrite(b"abcdef", 0)
    write_all(file, b"abcdef", 0)
    assert b"abcdef" == file.pread(6, 0)
    ops.faults = {len(ops.calls) + 1: SHORT}
    assert b"abc" == file.pread(6, 0)


def test_nothing_is_durable_after_a_failed_sync():
    ops, file = durable_file(b"1")
    file.pwrite(b"2", 0)
    ops.faults = {len(ops.calls) + 1: errno.EIO}
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        file.sync()
    file.sync()
    assert {b"1", b"2"} == contents(ops)


def test_a_full_disk_takes_what_fits_then_refuses():
    ops = SimOps(SimDisk(), space=5)
    file = ops.open("/f", create=True)
    assert 5 == file.pwrite(b"abcdefgh", 0)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        file.pwrite(b"f", 5)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        file.allocate(0, 6)
    assert 5 == file.pwrite(b"ABCDE", 0)
    ops.space = 8
    assert 3 == file.pwrite(b"fgh", 5)
    assert b"ABCDEfgh" == file.pread(9, 0)


def test_a_lock_is_had_by_one_and_ends_with_its_process():
    ops = SimOps(SimDisk())
    lock = ops.lock("/lock")
    with pytest.raises(LockedError):
        ops.lock("/lock")
    SimOps(ops.disk.copy()).lock("/lock")
    lock.release()
    ops.lock("/lock")


# The same as the system

NAMES = ["a", "b", "d", "d/a", "d/b", "e", "e/a", "a/x"]
VERBS = ["open", "open", "write", "create", "create", "mkdir", "rename", "unlink", "listdir", "sync_dir"]
FILE_VERBS = ["pread", "pwrite", "sync", "allocate", "truncate", "size", "close"]


class RealOps(FileOps):
    """The system, but for folders opened as files: nobody does that, and the simulation refuses."""

    def open(self, path, *, write=False, create=False):
        if os.path.isdir(path) and not create:
            raise failure(errno.EISDIR)
        return super().open(path, write=write, create=create)


def perform(ops, root, files, rng):
    """A random operation on open `files` or names below `root`; returns what it was and what came of it."""
    verb = rng.choice(VERBS + 2 * FILE_VERBS)
    name, other = rng.choice([pair for pair in itertools.product(NAMES, NAMES) if pair[0][:-1] == pair[1][:-1]])
    offset, length = rng.randrange(1500), rng.choice([0, 1, 7, 600])
    data = rng.randbytes(length)
    place = rng.randrange(16)
    if verb in FILE_VERBS and not files:
        return verb, "no file is open"
    try:
        match verb:
            case "open" | "write" | "create":
                result = files.append(ops.open(f"{root}/{name}", **({} if verb == "open" else {verb: True})))
            case "mkdir":
                result = ops.mkdir(f"{root}/{rng.choice('de')}")
            case "rename":
                result = ops.rename(f"{root}/{name}", f"{root}/{other}")
            case "unlink":
                result = ops.unlink(f"{root}/{name}")
            case "listdir":
                result = sorted(ops.listdir(f"{root}/{os.path.dirname(name)}"))
            case "sync_dir":
                result = ops.sync_dir(root)
            case "pread":
                result = files[place % len(files)].pread(length, offset)
            case "pwrite":
                result = files[place % len(files)].pwrite(rng.choice([bytes, memoryview])(data), offset)
            case "sync" | "size":
                result = getattr(files[place % len(files)], verb)()
            case "allocate":
                result = files[place % len(files)].allocate(offset, length or 1)
            case "truncate":
                result = files[place % len(files)].truncate(offset)
            case "close":
                result = files.pop(place % len(files)).close()
    except OSError as error:
        return verb, error.errno
    return verb, result


@pytest.mark.parametrize("seed", range(40))
def test_it_does_what_the_system_does(tmp_path, seed):
    simulated, real = SimOps(SimDisk()), RealOps()
    sim_files, real_files = [], []
    for turn in range(200):
        expected = perform(real, str(tmp_path), real_files, random.Random(f"{seed}-{turn}"))
        assert expected == perform(simulated, "", sim_files, random.Random(f"{seed}-{turn}"))
    found = sorted(tmp_path.rglob("*"))
    tree = {f"/{path.relative_to(tmp_path)}": None if path.is_dir() else path.read_bytes() for path in found}
    assert tree == simulated.disk.image()
    for file in real_files:
        file.close()
