"""The calls to the disk: whole reads and writes whatever the system does, and the system's own on a real folder."""

from __future__ import annotations

import errno
import os
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skeg.errors import LockedError
from skeg.fileops import SYSTEM, File, read_all, write_all


class Reluctant:
    """A file in memory that does a little at a time: each turn is a number of bytes, or an error to raise."""

    def __init__(self, data: bytes = b"", turns: list | None = None) -> None:
        self.data = bytearray(data)
        self.turns = turns or []
        self.calls: list[tuple[int, int]] = []

    def _turn(self, length: int, offset: int) -> int:
        self.calls.append((length, offset))
        turn = self.turns.pop(0) if self.turns else length
        if isinstance(turn, OSError):
            raise turn
        return min(turn, length)

    def pread(self, length: int, offset: int) -> bytes:
        return bytes(self.data[offset : offset + self._turn(length, offset)])

    def pwrite(self, data, offset: int) -> int:
        taken = self._turn(len(data), offset)
        self.data.extend(bytes(max(0, offset + taken - len(self.data))))
        self.data[offset : offset + taken] = data[:taken]
        return taken


def interrupted() -> InterruptedError:
    return InterruptedError(errno.EINTR, "interrupted")


turns = st.lists(st.integers(1, 5) | st.builds(interrupted), max_size=12)


@given(data=st.binary(max_size=30), offset=st.integers(0, 9), turns=turns)
def test_all_is_written_however_little_is_taken_at_a_time(data, offset, turns):
    file = Reluctant(b"x" * 9, turns)
    write_all(file, data, offset)
    assert (b"x" * 9)[:offset] + data + (b"x" * 9)[offset + len(data) :] == bytes(file.data)


@given(data=st.binary(max_size=30), offset=st.integers(0, 35), length=st.integers(0, 40), turns=turns)
def test_all_is_read_however_little_comes_at_a_time(data, offset, length, turns):
    assert data[offset : offset + length] == read_all(Reluctant(data, turns), length, offset)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_is_written(kind):
    file = Reluctant(turns=[1, 2])
    write_all(file, kind(b"0123456789"), 0)
    assert b"0123456789" == bytes(file.data)


def test_nothing_is_written_for_nothing():
    file = Reluctant()
    write_all(file, b"", 5)
    assert [] == file.calls


@pytest.mark.parametrize("taken", [0, -1])
def test_a_system_that_takes_nothing_is_an_error_and_no_endless_loop(taken):
    file = Reluctant(turns=[3, taken])
    with pytest.raises(OSError, match="wrote nothing"):
        write_all(file, b"0123456789", 0)
    assert 2 == len(file.calls)


def test_the_end_of_a_file_ends_reading():
    file = Reluctant(b"0123456789", [4, 4])
    assert b"23456789" == read_all(file, 100, 2)
    assert [(100, 2), (96, 6), (92, 10)] == file.calls
    assert b"" == read_all(Reluctant(b"0"), 5, 1)


def test_a_read_that_is_whole_takes_one_call():
    file = Reluctant(b"0123456789")
    assert b"345" == read_all(file, 3, 3)
    assert [(3, 3)] == file.calls


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EAGAIN])
def test_other_errors_are_the_callers(code):
    with pytest.raises(OSError, match="no") as caught:
        write_all(Reluctant(turns=[2, OSError(code, "no")]), b"0123", 0)
    assert code == caught.value.errno
    with pytest.raises(OSError, match="no") as caught:
        read_all(Reluctant(b"0123", [2, OSError(code, "no")]), 4, 0)
    assert code == caught.value.errno


def test_no_call_is_for_more_than_a_gigabyte():
    """Linux takes at most 2 GiB - 4 KiB in a call, others fail beyond 2 GiB."""
    file = Reluctant(turns=[2**40])
    file.pread = lambda length, offset: file.calls.append((length, offset)) or b""
    assert b"" == read_all(file, 5 << 30, 7)
    assert [(1 << 30, 7)] == file.calls


# The system


def test_a_file_is_written_read_cut_and_extended(tmp_path):
    file = SYSTEM.open(tmp_path / "f", create=True)
    assert 5 == file.pwrite(b"hello", 3)
    assert 8 == file.size()
    assert b"\0\0\0hello" == file.pread(100, 0)
    file.truncate(4)
    file.truncate(6)
    file.sync()
    assert b"\0\0\0h\0\0" == (tmp_path / "f").read_bytes()
    file.close()
    file.close()


def test_reserved_space_reads_as_zeros(tmp_path):
    file = SYSTEM.open(tmp_path / "f", create=True)
    file.pwrite(b"abc", 0)
    file.allocate(3, 10_000)
    if hasattr(os, "posix_fallocate"):
        assert b"abc" + bytes(10_000) == (tmp_path / "f").read_bytes()
    file.allocate(0, 3)
    assert b"abc" == file.pread(3, 0)


def test_a_file_that_exists_is_not_made_again(tmp_path):
    (tmp_path / "f").write_bytes(b"old")
    with pytest.raises(FileExistsError):
        SYSTEM.open(tmp_path / "f", create=True)
    assert b"old" == (tmp_path / "f").read_bytes()
    with pytest.raises(FileNotFoundError):
        SYSTEM.open(tmp_path / "other", write=True)
    assert ["f"] == SYSTEM.listdir(tmp_path)


def test_a_file_opened_for_reading_is_not_written(tmp_path):
    (tmp_path / "f").write_bytes(b"old")
    file = SYSTEM.open(tmp_path / "f")
    with pytest.raises(OSError, match="Bad file descriptor"):
        file.pwrite(b"new", 0)
    writer = SYSTEM.open(tmp_path / "f", write=True)
    writer.pwrite(b"new", 0)
    assert b"new" == file.pread(9, 0)


def test_a_file_closes_with_its_last_reference(tmp_path):
    file = SYSTEM.open(tmp_path / "f", create=True)
    descriptor = file._descriptor
    os.fstat(descriptor)
    del file
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)


def test_a_descriptor_is_not_inherited(tmp_path):
    file = SYSTEM.open(tmp_path / "f", create=True)
    assert not os.get_inheritable(file._descriptor)


def test_a_removed_file_is_still_read_by_who_has_it_open(tmp_path):
    (tmp_path / "f").write_bytes(b"still here")
    file = SYSTEM.open(tmp_path / "f")
    SYSTEM.unlink(tmp_path / "f")
    assert b"still here" == read_all(file, 99, 0)


def test_names_are_made_changed_and_removed(tmp_path):
    SYSTEM.mkdir(tmp_path / "d")
    SYSTEM.open(tmp_path / "d" / "a", create=True).pwrite(b"a", 0)
    SYSTEM.open(tmp_path / "d" / "b", create=True).pwrite(b"b", 0)
    SYSTEM.rename(tmp_path / "d" / "a", tmp_path / "d" / "b")
    SYSTEM.sync_dir(tmp_path / "d")
    assert ["b"] == SYSTEM.listdir(tmp_path / "d")
    assert b"a" == (tmp_path / "d" / "b").read_bytes()
    SYSTEM.unlink(tmp_path / "d" / "b")
    assert [] == SYSTEM.listdir(str(tmp_path / "d"))
    with pytest.raises(FileExistsError):
        SYSTEM.mkdir(tmp_path / "d")


@pytest.mark.parametrize("verb", ["listdir", "unlink", "sync_dir", "open"])
def test_what_is_missing_is_an_operating_system_error(tmp_path, verb):
    with pytest.raises(OSError, match="No such file"):
        getattr(SYSTEM, verb)(tmp_path / "missing")


def test_a_sync_is_the_cheapest_that_keeps_the_contents(tmp_path, monkeypatch):
    if sys.platform == "linux":
        synced = []
        monkeypatch.setattr(os, "fdatasync", synced.append)
        file = SYSTEM.open(tmp_path / "f", create=True)
        file.sync()
        assert [file._descriptor] == synced


def test_a_lock_is_held_once(tmp_path):
    lock = SYSTEM.lock(tmp_path / "lock")
    with pytest.raises(LockedError, match=str(os.getpid())):
        SYSTEM.lock(tmp_path / "lock")
    lock.release()
    SYSTEM.lock(tmp_path / "lock").release()


def test_a_file_never_opened_is_closed_quietly():
    File(-1).close()


@pytest.mark.parametrize("code", [None, errno.EOPNOTSUPP, errno.ENOSYS])
def test_writing_through_writes_whatever_the_system_can_do(tmp_path, monkeypatch, code):
    """Where one call can't do both, two do; an error of another kind is one."""
    synced = []
    monkeypatch.setattr(os, "fdatasync", synced.append, raising=False)
    if code is not None:
        monkeypatch.setattr(os, "pwritev", fails_with(code), raising=False)
    file = SYSTEM.open(tmp_path / "file", create=True)
    write_all(file, b"0123", 0, through=True)
    write_all(file, b"45", 4, through=True)
    assert b"012345" == read_all(file, 10, 0)
    if sys.platform == "linux":
        assert (0 if code is None else 2) == len(synced)
    file.close()


def test_writing_through_names_other_errors(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "pwritev", fails_with(errno.EIO), raising=False)
    monkeypatch.setattr(os, "RWF_DSYNC", 2, raising=False)
    file = SYSTEM.open(tmp_path / "file", create=True)
    with pytest.raises(OSError, match="injected"):
        file.write_through(b"0123", 0)
    file.close()


def fails_with(code):
    def fail(*_):
        raise OSError(code, "injected")

    return fail
