"""skeg.files: what is written is whole or absent, leftovers go, one writer at a time."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time

import pytest

from skeg import files
from skeg.errors import LockedError, StorageError
from skeg.files import (
    BuildFolder,
    OutputFile,
    WriterLock,
    atomic_output,
    atomic_write_bytes,
    fsync_dir,
    preallocate,
)

DEAD_PID = 999_999_999  # above every system's limit

NAMES = ["index", "my index", "вектор-索引-ü", ".hidden", "n" * 200, "n" * 255, "ü" * 127, "索" * 85, "a.building-1-x"]


def no_space(*_):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def read_only(*_, **__):
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


def tree(folder):
    """Everything below a folder: relative path -> contents (None for a folder)."""
    found = sorted(folder.rglob("*"))
    return {str(p.relative_to(folder)): None if p.is_dir() else p.read_bytes() for p in found}


def build(target, content=b"new", **options):
    with BuildFolder(target, **options) as folder:
        (folder.path / "sub").mkdir()
        (folder.path / "sub" / "file").write_bytes(content)
        folder.publish()


def leftover(target, *, state="building", pid=DEAD_PID, host=None):
    """Make what a process that died left behind."""
    tag = files._host_tag() if host is None else host
    path = target.with_name(f"{files._stem(target.name)}.{state}-{pid}-{tag}0123abcd")
    path.mkdir()
    (path / "file").write_bytes(b"old")
    return path


# OutputFile and atomic_write_bytes


def test_an_output_file_is_written_whole_whatever_the_system_takes_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_write", lambda fd, data: os.write(fd, data[:3]))
    file = OutputFile(tmp_path / "a")
    file.seek(2)
    file.write(b"0123456789")
    file.write(memoryview(b"abcd")[::1])
    file.seek(0)
    file.write(b"")
    file.write(b"xy")
    file.sync()
    file.close()
    file.close()
    assert b"xy0123456789abcd" == (tmp_path / "a").read_bytes()


@pytest.mark.parametrize("name", ["taken", "missing/a", "taken/a", "n" * 256])
def test_an_output_file_that_cannot_be_made_names_path_and_reason(tmp_path, name):
    (tmp_path / "taken").write_bytes(b"x")
    with pytest.raises(StorageError, match="can't create: ") as caught:
        OutputFile(tmp_path / name)
    assert str(tmp_path / name) == caught.value.path
    assert {"taken": b"x"} == tree(tmp_path)


@pytest.mark.parametrize("name", [*NAMES, "../x/file"])
@pytest.mark.parametrize("before", [None, b"", b"old"])
def test_an_atomic_write_makes_or_replaces_the_whole_file(tmp_path, name, before):
    folder = tmp_path / "x"
    folder.mkdir()
    if before is not None:
        (folder / name).write_bytes(before)
    atomic_write_bytes(folder / name, b"new")
    assert {os.path.basename(name): b"new"} == tree(folder)


@pytest.mark.parametrize("step", ["_write", "fsync_file", "replace", "interrupt"])
def test_an_atomic_write_that_fails_leaves_the_old_file_alone(tmp_path, monkeypatch, step):
    def interrupt(*_):
        raise KeyboardInterrupt

    (tmp_path / "a").write_bytes(b"old")
    if step == "replace":
        monkeypatch.setattr(os, "replace", no_space)
    elif step == "interrupt":
        monkeypatch.setattr(files, "_write", interrupt)
    else:
        monkeypatch.setattr(files, step, no_space)
    expected = KeyboardInterrupt if step == "interrupt" else StorageError
    with pytest.raises(expected) as caught:
        atomic_write_bytes(tmp_path / "a", b"new")
    if step != "interrupt":
        doing = "sync" if step == "fsync_file" else "write"
        assert f"{tmp_path / 'a'}: can't {doing}: {os.strerror(errno.ENOSPC)}" == str(caught.value)
    assert {"a": b"old"} == tree(tmp_path)


def test_a_file_under_way_has_its_name_only_when_the_block_ends(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    with atomic_output(tmp_path / "a") as file:
        file.write(b"**part")
        file.seek(0)
        file.write(b"a ")
        assert b"old" == (tmp_path / "a").read_bytes()
    assert {"a": b"a part"} == tree(tmp_path)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_file_whose_block_fails_never_appears(tmp_path, error):
    def write():
        with atomic_output(tmp_path / "a") as file:
            file.write(b"part")
            raise error

    with pytest.raises(error):
        write()
    assert {} == tree(tmp_path)


def test_an_atomic_write_removes_what_a_dead_process_left(tmp_path):
    leftover(tmp_path / "a")
    atomic_write_bytes(tmp_path / "a", b"new")
    assert {"a": b"new"} == tree(tmp_path)


def test_a_written_file_has_the_permissions_that_the_user_asked_for(tmp_path):
    """Temporary files of the standard library are private; an index may be read by others."""
    mask = os.umask(0o027)
    try:
        atomic_write_bytes(tmp_path / "a", b"")
        build(tmp_path / "b")
    finally:
        os.umask(mask)
    assert 0o640 == (tmp_path / "a").stat().st_mode & 0o777
    assert 0o750 == (tmp_path / "b").stat().st_mode & 0o777


def test_contents_reach_the_disk_before_the_name(tmp_path, monkeypatch):
    calls = []
    for module, name in ((files, "fsync_file"), (files, "fsync_dir"), (os, "replace"), (os, "rename")):
        original = getattr(module, name)
        monkeypatch.setattr(
            module, name, lambda *a, _name=name, _original=original: (calls.append(_name), _original(*a))[1]
        )
    atomic_write_bytes(tmp_path / "a", b"new")
    assert ["fsync_file", "replace", "fsync_dir", "fsync_file"] == calls
    calls.clear()
    build(tmp_path / "b")
    # one file and two folders inside, the rename, the parent
    assert ["fsync_dir", "fsync_file", "fsync_file", "fsync_dir", "fsync_file"] == calls[:5]
    assert ["rename", "fsync_dir", "fsync_file"] == calls[5:]


def test_syncing_a_folder_that_is_missing_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="missing: can't sync the folder"):
        fsync_dir(tmp_path / "missing")


@pytest.mark.parametrize("with_call", [True, False])
def test_preallocate_gives_space_and_keeps_contents(tmp_path, monkeypatch, with_call):
    if not with_call:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    with open(tmp_path / "a", "w+b", buffering=0) as file:
        preallocate(file.fileno(), 0)
        assert 0 == os.stat(file.fileno()).st_size
        file.write(b"abc")
        preallocate(file.fileno(), (1 << 20) + 5)
        assert (1 << 20) + 5 == os.stat(file.fileno()).st_size
        assert os.stat(file.fileno()).st_blocks * 512 > 1 << 20
        preallocate(file.fileno(), 2)
    assert b"abc".ljust((1 << 20) + 5, b"\0") == (tmp_path / "a").read_bytes()


# BuildFolder


@pytest.mark.parametrize("name", NAMES)
def test_a_build_appears_whole_under_any_name(tmp_path, name):
    target = tmp_path / name
    with BuildFolder(target) as folder:
        assert target.parent == folder.path.parent
        assert target != folder.path
        assert not target.exists()
        (folder.path / "file").write_bytes(b"new")
        folder.publish()
        assert target == folder.path
    assert {name: None, f"{name}/file": b"new"} == tree(tmp_path)


def test_relative_paths_are_pinned_when_the_build_begins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with BuildFolder("index/") as folder:
        monkeypatch.chdir(tmp_path / "elsewhere")
        folder.publish()
    assert {"elsewhere", "index"} == set(tree(tmp_path))


def test_a_parent_may_be_a_symlink_and_dots_go_where_the_system_says(tmp_path):
    (tmp_path / "real" / "deep").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "real" / "deep")
    build(tmp_path / "link" / "a")
    build(tmp_path / "link" / ".." / "b")
    assert (tmp_path / "real" / "deep" / "a" / "sub" / "file").exists()
    assert (tmp_path / "real" / "b" / "sub" / "file").exists()


@pytest.mark.parametrize("target", ["", ".", "..", "/", "a/.."])
def test_a_target_without_a_name_of_its_own_is_refused(tmp_path, monkeypatch, target):
    monkeypatch.chdir(tmp_path)
    for replace in (False, True):
        with pytest.raises(StorageError, match="does not end in a name"):
            build(target, replace=replace)
    assert {} == tree(tmp_path)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_build_that_fails_leaves_nothing(tmp_path, error):
    def fail():
        with BuildFolder(tmp_path / "index") as folder:
            (folder.path / "file").write_bytes(b"x")
            raise error

    with pytest.raises(error):
        fail()
    assert {} == tree(tmp_path)


def test_a_build_that_is_not_published_leaves_nothing(tmp_path):
    with BuildFolder(tmp_path / "index") as folder:
        (folder.path / "file").write_bytes(b"x")
    assert {} == tree(tmp_path)


@pytest.mark.parametrize("kind", ["folder", "file", "dangling link"])
def test_an_existing_target_is_refused_before_any_work(tmp_path, kind):
    target = tmp_path / "index"
    {"folder": target.mkdir, "file": target.touch, "dangling link": lambda: target.symlink_to("nowhere")}[kind]()
    with pytest.raises(StorageError, match="already exists") as caught:
        BuildFolder(target).__enter__()
    assert str(target) == caught.value.path
    assert ["index"] == os.listdir(tmp_path)


def test_a_target_that_appears_during_the_build_is_not_replaced(tmp_path):
    with BuildFolder(tmp_path / "index") as folder:
        (tmp_path / "index").mkdir()
        with pytest.raises(StorageError, match="already exists"):
            folder.publish()
    assert {"index": None} == tree(tmp_path)


@pytest.mark.parametrize("kind", ["absent", "folder", "file", "link"])
def test_replace_takes_the_place_of_whatever_was_there(tmp_path, kind):
    target = tmp_path / "index"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    if kind == "folder":
        build(target, b"old")
    elif kind == "file":
        target.touch()
    elif kind == "link":
        target.symlink_to(elsewhere)
    build(target, replace=True)
    assert {"elsewhere", "elsewhere/kept", "index", "index/sub", "index/sub/file"} == set(tree(tmp_path))
    assert b"new" == (target / "sub" / "file").read_bytes()


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("failing", [1, 2])
def test_a_replacement_that_fails_keeps_the_old_folder(tmp_path, monkeypatch, error, failing):
    """Either of the two renames fails, or an interrupt comes after it."""
    target = tmp_path / "index"
    build(target, b"old")
    rename, calls = os.rename, []

    def break_once(old, new):
        calls.append(new)
        if len(calls) != failing:
            return rename(old, new)
        if error is KeyboardInterrupt and failing == 1:
            rename(old, new)
        raise error

    monkeypatch.setattr(os, "rename", break_once)
    with pytest.raises((StorageError, KeyboardInterrupt)):
        build(target, replace=True)
    assert {"index": None, "index/sub": None, "index/sub/file": b"old"} == tree(tmp_path)


def test_a_crash_in_mid_replacement_is_mended_by_the_next_build(tmp_path):
    target = tmp_path / "index"
    leftover(target, state="replaced")
    leftover(target)
    with pytest.raises(StorageError, match="already exists"):
        build(target)
    assert {"index": None, "index/file": b"old"} == tree(tmp_path)
    leftover(target, state="replaced")  # the crash came after the second rename
    build(target, replace=True)
    assert {"index": None, "index/sub": None, "index/sub/file": b"new"} == tree(tmp_path)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pid", [DEAD_PID, os.getpid()], ids=["dead", "own"])
def test_what_a_dead_process_left_is_removed_by_the_next_build(tmp_path, name, pid):
    """Our own pid too: after a restart, a container's first process has the number of the one that died."""
    leftover(tmp_path / name, pid=pid)
    build(tmp_path / name)
    assert {name, f"{name}/sub", f"{name}/sub/file"} == set(tree(tmp_path))


def test_what_others_are_making_is_left_alone(tmp_path):
    kept = [
        leftover(tmp_path / "index", pid=os.getppid()),
        leftover(tmp_path / "index", host="0" * 8 if files._host_tag() != "0" * 8 else "1" * 8),
        leftover(tmp_path / "index2"),
        leftover(tmp_path / ("n" * 250)),
    ]
    build(tmp_path / "index")
    build(tmp_path / ("n" * 249))
    assert all((path / "file").exists() for path in kept)


def test_another_build_of_this_process_is_left_alone(tmp_path):
    with BuildFolder(tmp_path / "index") as first:
        with BuildFolder(tmp_path / "index") as second:
            assert first.path != second.path
            assert first.path.exists()
            second.publish()
        with pytest.raises(StorageError, match="already exists"):
            first.publish()
    assert ["index"] == os.listdir(tmp_path)


def test_a_process_that_is_killed_leaves_what_the_next_build_removes(tmp_path):
    code = """
import os, signal, sys
from skeg.files import BuildFolder
with BuildFolder(sys.argv[1]) as folder:
    (folder.path / "file").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "index")], check=False)
    assert 1 == len(os.listdir(tmp_path))
    build(tmp_path / "index")
    assert ["index"] == os.listdir(tmp_path)


def test_a_process_of_another_user_counts_as_running(monkeypatch):
    def not_allowed(pid, number):
        raise PermissionError

    monkeypatch.setattr(os, "kill", not_allowed)
    assert files._is_running(os.getppid())


@pytest.mark.parametrize("name", ["missing/index", "file/index", "n" * 256])
def test_a_place_where_nothing_can_be_made_is_refused_before_any_work(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="can't make the folder: ") as caught:
        BuildFolder(tmp_path / name).__enter__()
    assert str(tmp_path / name) == caught.value.path
    assert {"file": b""} == tree(tmp_path)


@pytest.mark.parametrize("call", ["mkdir", "rename"])
def test_a_disk_that_refuses_is_named_with_its_reason(tmp_path, monkeypatch, call):
    monkeypatch.setattr(os, call, read_only)
    with pytest.raises(StorageError, match=rf"index: can't .*: {os.strerror(errno.EROFS)}"):
        build(tmp_path / "index")
    assert {} == tree(tmp_path)


def test_a_current_folder_that_is_gone_is_a_storage_error(tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(StorageError, match="index: can't find"):
        BuildFolder("index")


# WriterLock


def test_the_second_writer_is_told_who_the_first_is(tmp_path):
    path = tmp_path / "lock"
    with WriterLock(path):
        with pytest.raises(LockedError, match=rf"already open for writing: pid {os.getpid()} on host \S+$") as caught:
            WriterLock(path).acquire()
        assert str(path) == caught.value.path
    with WriterLock(path) as lock:
        lock.release()
        lock.release()
        WriterLock(path).acquire()


def test_another_process_holds_the_lock_until_it_dies(tmp_path):
    path = tmp_path / "lock"
    code = "import sys, time; from skeg.files import WriterLock; WriterLock(sys.argv[1]).acquire(); time.sleep(60)"
    code = code.replace("WriterLock(sys.argv[1]).acquire()", "lock = WriterLock(sys.argv[1]); lock.acquire()")
    process = subprocess.Popen([sys.executable, "-c", code, str(path)])
    try:
        while not (path.exists() and path.read_bytes().endswith(b"\n")):
            assert process.poll() is None
            time.sleep(0.01)
        with pytest.raises(LockedError, match=f"pid {process.pid} on host"):
            WriterLock(path).acquire()
    finally:
        process.kill()
        process.wait()
    with WriterLock(path):
        assert path.read_text().startswith(f"pid {os.getpid()} ")


def test_a_lock_that_is_given_back_is_free_though_a_child_has_a_copy(tmp_path):
    lock = WriterLock(tmp_path / "lock")
    lock.acquire()
    copy = os.dup(lock._descriptor)  # as a child has it, until it comes to close it
    try:
        lock.release()
        with WriterLock(tmp_path / "lock"):
            pass
    finally:
        os.close(copy)


def test_a_child_that_lets_go_of_its_copy_frees_nothing(tmp_path, monkeypatch):
    lock = WriterLock(tmp_path / "lock")
    lock.acquire()
    copy = os.dup(lock._descriptor)  # the parent's
    try:
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: -1)
            lock.release()
        with pytest.raises(LockedError):
            WriterLock(tmp_path / "lock").acquire()
    finally:
        os.close(copy)


def test_a_writer_that_has_not_signed_yet_is_unknown(tmp_path, monkeypatch):
    path = tmp_path / "lock"
    with WriterLock(path):
        os.truncate(path, 0)
        with pytest.raises(LockedError, match=r"already open for writing: unknown$"):
            WriterLock(path).acquire()


@pytest.mark.parametrize("name", ["missing/lock", "folder"])
def test_a_lock_file_that_cannot_be_opened_is_a_storage_error(tmp_path, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="can't lock: ") as caught:
        WriterLock(tmp_path / name).acquire()
    assert not isinstance(caught.value, LockedError)


def test_a_lock_that_cannot_be_signed_is_given_back(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", no_space)
        with pytest.raises(StorageError, match=os.strerror(errno.ENOSPC)):
            WriterLock(tmp_path / "lock").acquire()
    with WriterLock(tmp_path / "lock"):
        pass
