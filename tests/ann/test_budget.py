"""BuildMemory: what of a build lies in memory and what in files."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

from skeg import ParameterError, StorageError, mapped
from skeg.ann import budget
from skeg.ann.budget import BASE_BYTES, BYTES_A_ROW, BuildMemory
from skeg.ann.params import GraphParams
from skeg.ann.vamana import slots_for

N = 1000
CODES = 64_000
PARAMS = GraphParams(max_degree=8)
LEAST = BASE_BYTES + N * (BYTES_A_ROW + 2)
EVERYTHING = LEAST + CODES + 2 * N * slots_for(8) * 4


@pytest.fixture
def in_files(monkeypatch):
    """Shapes of the arrays that were put in files."""
    shapes = []
    original = budget.scratch_array
    monkeypatch.setattr(budget, "scratch_array", lambda *args: shapes.append(args[1]) or original(*args))
    return shapes


def memory(folder, limit):
    return BuildMemory(folder, N, CODES, PARAMS, 2, limit)


@pytest.mark.parametrize("limit", [None, LEAST, EVERYTHING])
def test_arrays_are_zeroed_writable_and_start_at_a_cache_line(tmp_path, limit):
    for shape, dtype in (((N, 64), np.uint8), ((N * 10,), np.uint32), ((0, 64), np.uint8), ((3,), np.float32)):
        array = memory(tmp_path, limit).array(shape, dtype)
        assert (shape, dtype) == (array.shape, array.dtype)
        assert not array.any()
        assert 0 == array.ctypes.data % 64 or array.size == 0
        array[...] = 1
        assert array.all()
    assert [] == os.listdir(tmp_path)


@pytest.mark.parametrize(("limit", "expected"), [(None, 0), (EVERYTHING, 0), (EVERYTHING - 1, 1), (LEAST, 1)])
def test_files_are_used_where_memory_does_not_do(tmp_path, in_files, limit, expected):
    array = memory(tmp_path, limit).array((N, 64), np.uint8)
    assert expected == len(in_files)
    assert array.shape == (N, 64)


def test_large_codes_go_to_files_even_without_a_limit(tmp_path, in_files, monkeypatch):
    monkeypatch.setattr(budget, "IN_FILES_FROM", N * 64)
    given = memory(tmp_path, None)
    given.array((N, 64), np.uint8)
    given.array((N, 63), np.uint8)
    given.array((N, 64), np.uint32)
    assert [(N, 64)] == in_files


def test_a_limit_below_what_must_be_in_memory_is_refused(tmp_path):
    with pytest.raises(ParameterError, match=f"memory_limit={LEAST - 1}: expected at least {LEAST} bytes for {N} vec"):
        memory(tmp_path, LEAST - 1)


@pytest.mark.parametrize("limit", [0, -1, 1.5e9, "1G", True])
def test_a_limit_is_a_positive_integer(tmp_path, limit):
    with pytest.raises(ParameterError, match="memory_limit"):
        memory(tmp_path, limit)


def test_a_full_disk_is_an_error_here_and_not_a_crash_later(tmp_path, monkeypatch):
    def no_space(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(mapped, "preallocate", no_space)
    with pytest.raises(StorageError, match=os.strerror(errno.ENOSPC)):
        memory(tmp_path, LEAST).array((N, 64), np.uint8)
    assert [] == os.listdir(tmp_path)
