from __future__ import annotations

import errno
import struct
import tracemalloc

import numpy as np
import pytest

from skeg.ann import writers
from skeg.ann.sources import open_source
from skeg.ann.writers import write_fbin, write_npy
from skeg.errors import ParameterError, StorageError, VectorError


def sample(n, dim, dtype="<f4"):
    return np.random.default_rng(1).integers(0, 100, (n, dim)).astype(dtype)


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
@pytest.mark.parametrize("n", [0, 1, 9, 10, 12_345])
def test_npy_has_the_bytes_of_numpy(dtype, n, tmp_path):
    rows = sample(n, 3, dtype)
    assert n == write_npy(tmp_path / "ours.npy", rows, dtype=dtype)
    np.save(tmp_path / "numpys.npy", rows)
    assert (tmp_path / "numpys.npy").read_bytes() == (tmp_path / "ours.npy").read_bytes()


@pytest.mark.parametrize("dtype", ["f2", "f8", "u1", "i8"])
def test_fbin_is_a_header_and_float32_rows(dtype, tmp_path):
    rows = sample(11, 4, dtype)
    assert 11 == write_fbin(tmp_path / "a.fbin", rows)
    assert struct.pack("<II", 11, 4) + rows.astype("<f4").tobytes() == (tmp_path / "a.fbin").read_bytes()


@pytest.mark.parametrize("write", [write_npy, write_fbin])
def test_blocks_of_unknown_number_become_one_file(write, tmp_path):
    path = tmp_path / f"a.{write.__name__[6:]}"
    parts = [sample(n, 3) + i for i, n in enumerate((4, 0, 5000, 1))]
    assert 5005 == write(path, iter(parts))
    with open_source(path) as source:
        np.testing.assert_array_equal(np.concatenate(parts), source.take(np.arange(5005)))


def test_files_are_converted_into_each_other(tmp_path):
    write_npy(tmp_path / "a.npy", sample(5, 3))
    write_fbin(tmp_path / "b.fbin", tmp_path / "a.npy")
    write_npy(tmp_path / "c.npy", tmp_path / "b.fbin")
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "c.npy").read_bytes()


@pytest.mark.parametrize("write", [write_npy, write_fbin])
def test_no_rows_need_a_dimension(write, tmp_path):
    assert 0 == write(tmp_path / "a.npy", iter([]), dim=7)
    with pytest.raises(VectorError, match="dim"):
        write(tmp_path / "b.npy", iter([]))


@pytest.mark.parametrize("write", [write_npy, write_fbin])
def test_another_dimension_than_promised_is_refused(write, tmp_path):
    with pytest.raises(VectorError, match="expected dimension 4, found dimension 3"):
        write(tmp_path / "a.npy", sample(2, 3), dim=4)
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("dtype", [int, bool, complex, "longdouble", "S4", object])
def test_npy_of_another_dtype_is_refused(dtype, tmp_path):
    with pytest.raises(ParameterError, match="float16, float32 or float64"):
        write_npy(tmp_path / "a.npy", sample(2, 3), dtype=dtype)


def test_a_value_beyond_the_dtype_is_refused_by_row(tmp_path):
    rows = np.zeros((6, 2))
    rows[4, 1] = 1e5
    with pytest.raises(VectorError, match=r"row 4: .*float16, found 100000\.0"):
        write_npy(tmp_path / "a.npy", rows, dtype=np.float16)
    with pytest.raises(VectorError, match="row 4"):
        write_npy(tmp_path / "a.npy", (rows * 10).astype(int), dtype=np.float16)
    assert [] == list(tmp_path.iterdir())


def test_infinity_and_nan_are_written_as_they_are(tmp_path):
    rows = np.array([[np.inf, -np.inf, np.nan]])
    write_npy(tmp_path / "a.npy", rows, dtype=np.float16)
    np.testing.assert_array_equal(rows, np.load(tmp_path / "a.npy"))


@pytest.mark.parametrize("write", [write_npy, write_fbin])
def test_an_error_leaves_the_old_file_and_nothing_else(write, tmp_path):
    def failing():
        yield sample(3, 2)
        raise RuntimeError("the source broke")

    path = tmp_path / "a.npy"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError, match="the source broke"):
        write(path, failing())
    assert b"old" == path.read_bytes()
    assert [path] == list(tmp_path.iterdir())
    write(path, sample(3, 2))
    assert [path] == list(tmp_path.iterdir())


def test_a_full_disk_is_a_storage_error_and_leaves_nothing(tmp_path, monkeypatch):
    def full(self, data):
        raise StorageError(self.path, "can't write: no space") from OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr("skeg.files.OutputFile.write", full)
    with pytest.raises(StorageError, match=r"a\.npy.*no space"):
        write_npy(tmp_path / "a.npy", sample(3, 2))
    assert [] == list(tmp_path.iterdir())


def test_a_missing_folder_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="gone"):
        write_npy(tmp_path / "gone" / "a.npy", sample(3, 2))


def test_more_rows_than_fbin_can_count_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(writers, "_FBIN_ROWS_MAX", 4)
    assert 4 == write_fbin(tmp_path / "a.fbin", iter([sample(4, 1)]))
    with pytest.raises(VectorError, match="at most 4 rows"):
        write_fbin(tmp_path / "b.fbin", iter([sample(5, 1)]))


def test_writing_takes_constant_memory(tmp_path):
    """50 MB in blocks of 0.5 MB stay below 16 MB."""
    tracemalloc.start()
    write_npy(tmp_path / "a.npy", (np.zeros((1000, 128), np.float32) for _ in range(100)))
    write_fbin(tmp_path / "a.fbin", tmp_path / "a.npy")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16_000_000
