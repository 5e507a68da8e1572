"""skeg.mapped: read-only views over a mapped file, their lifetime, and file-backed temporaries."""

from __future__ import annotations

import errno
import gc
import mmap
import os

import numpy as np
import pytest

from skeg import mapped
from skeg.errors import ClosedError, CorruptError, StorageError
from skeg.mapped import MappedFile, scratch_array


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "data"
    path.write_bytes(bytes(range(64)))
    return path


def test_a_view_is_the_bytes_of_the_file(path):
    with MappedFile(path) as file:
        view = file.view("<u4", (3, 2), 8)
        assert np.frombuffer(path.read_bytes(), "<u4", 6, 8).reshape(3, 2).tolist() == view.tolist()
        assert not view.flags.writeable
        assert view.flags.aligned
        assert 64 == file.nbytes
        assert bytes([5, 6]) == file.read(5, 2)


@pytest.mark.parametrize("shape", [(), (2,), (2, 0), (0,), (0, 3), (1, 2, 2)])
@pytest.mark.parametrize("offset", [0, 8, 64])
def test_any_shape_that_fits_can_be_viewed(path, shape, offset):
    with MappedFile(path) as file:
        if offset == 64 and 0 not in shape:
            with pytest.raises(CorruptError, match="ends too early"):
                file.view("u1", shape, offset)
        else:
            view = file.view("u1", shape, offset)
            assert shape == view.shape
            assert not view.flags.writeable


@pytest.mark.parametrize(
    ("dtype", "shape", "offset"),
    [
        ("u1", (65,), 0),
        ("u1", (1,), 64),
        ("u8", (8,), 8),
        ("u1", (1,), -1),
        ("u1", (2**62, 2**62), 0),
        ("u1", (0,), 65),
    ],
)
def test_a_view_that_leaves_the_file_is_refused(path, dtype, shape, offset):
    with MappedFile(path) as file:
        with pytest.raises(CorruptError, match="the file ends too early") as caught:
            file.view(dtype, shape, offset)
        assert (str(path), offset) == (caught.value.path, caught.value.offset)


def test_an_unaligned_view_is_refused(path):
    """Compiled code takes alignment for granted."""
    with MappedFile(path) as file, pytest.raises(CorruptError, match="not aligned: expected a multiple of 4, found 6"):
        file.view("f4", (1,), 6)


def test_a_read_beyond_the_end_is_refused(path):
    with MappedFile(path) as file, pytest.raises(CorruptError, match="expected 2 bytes, found 1 bytes"):
        file.read(63, 2)


def test_an_empty_file_has_empty_views(tmp_path):
    (tmp_path / "empty").touch()
    with MappedFile(tmp_path / "empty") as file:
        assert b"" == file.read(0, 0)
        assert (0, 4) == file.view("f4", (0, 4), 0).shape
        file.advise("willneed")
        with pytest.raises(CorruptError, match="ends too early"):
            file.view("u1", (1,), 0)


@pytest.mark.parametrize("name", ["missing", "folder", "pipe", "data/below"])
def test_what_cannot_be_mapped_is_a_storage_error(path, name):
    (path.parent / "folder").mkdir()
    os.mkfifo(path.parent / "pipe")
    with pytest.raises(StorageError, match=name) as caught:
        MappedFile(path.parent / name)
    assert str(path.parent / name) == caught.value.path


def test_nothing_comes_out_of_a_closed_file(path):
    file = MappedFile(path)
    file.close()
    file.close()
    assert file.closed
    for use in (lambda: file.view("u1", (1,), 0), lambda: file.read(0, 1), lambda: file.advise("random")):
        with pytest.raises(ClosedError, match="was closed"):
            use()


def maps_of(path):
    with open("/proc/self/maps") if os.path.exists("/proc/self/maps") else open(os.devnull) as maps:
        return [line for line in maps if str(path) in line]


def test_views_outlive_the_file_and_the_map_goes_with_the_last(path):
    file = MappedFile(path)
    views = [file.view("u1", (64,), 0), file.view("u1", (4,), 4)[1:]]
    file.close()
    assert list(range(64)) == views[0].tolist()
    del views[0]
    assert [5, 6, 7] == views[0].tolist()
    del views[0]
    gc.collect()
    assert [] == maps_of(path)


def test_a_closed_file_without_views_is_unmapped_at_once(path):
    file = MappedFile(path)
    file.view("u1", (64,), 0)
    file.close()
    assert [] == maps_of(path)


@pytest.mark.parametrize("advice", ["normal", "random", "sequential", "willneed", "dontneed", "hugepage"])
def test_advice_changes_nothing_but_speed(path, advice, monkeypatch):
    with MappedFile(path) as file:
        file.advise(advice)
        file.advise(advice, 5, 7)
        file.advise(advice, 64)
        monkeypatch.delattr(mmap, f"MADV_{advice.upper()}", raising=False)  # a system without it
        file.advise(advice)
        assert 63 == file.view("u1", (64,), 0)[63]
        with pytest.raises(CorruptError, match="ends too early"):
            file.advise(advice, 60, 5)


def test_advice_that_the_system_does_not_take_is_no_error(path, monkeypatch):
    monkeypatch.setattr(mmap, "MADV_RANDOM", 9999)
    with MappedFile(path) as file:
        file.advise("random")
        assert 63 == file.view("u1", (64,), 0)[63]


def test_a_scratch_array_is_zeroed_writable_and_leaves_no_file(tmp_path):
    array = scratch_array(tmp_path, (100, 3), "f4")
    assert not array.any()
    array[:] = np.arange(300).reshape(100, 3)
    assert 299 == array[99, 2]
    assert array.flags.c_contiguous
    assert array.flags.aligned
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0)])
def test_an_empty_scratch_array_needs_no_disk(tmp_path, shape):
    assert shape == scratch_array(tmp_path / "missing", shape, "f4").shape


def test_a_scratch_array_needs_a_folder(tmp_path):
    with pytest.raises(StorageError, match="missing: can't reserve 12 bytes of scratch space"):
        scratch_array(tmp_path / "missing", (3,), "f4")


def test_a_full_disk_is_noticed_when_the_scratch_array_is_made(tmp_path, monkeypatch):
    """Later it would be a signal that ends the process."""

    def full(descriptor, size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(mapped, "preallocate", full)
    with pytest.raises(StorageError, match=os.strerror(errno.ENOSPC)):
        scratch_array(tmp_path, (3,), "f4")
    assert [] == list(tmp_path.iterdir())


def test_more_scratch_than_the_disk_holds_is_refused(tmp_path):
    with pytest.raises(StorageError, match="can't reserve"):
        scratch_array(tmp_path, (1 << 50,), "f8")
    assert [] == list(tmp_path.iterdir())
