"""Where a build keeps its large work arrays: in anonymous memory, or in temporary files beside the index."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from skeg.ann.arrays import aligned_zeros
from skeg.ann.params import GraphParams
from skeg.ann.vamana import slots_for
from skeg.checks import as_positive_int
from skeg.errors import ParameterError
from skeg.files import AnyPath
from skeg.mapped import scratch_array

BASE_BYTES = 224 << 20
"""What the interpreter, NumPy, Numba, compiled kernels and the sample take: 200 MB measured, and some room."""

BYTES_A_ROW = 96
"""Scales, sums, norms, factors, orders, tags and cells of one row during a build, in all."""

IN_FILES_FROM = 256 << 20
"""Codes of this size and more go to files even without a limit: they are read seldom, the page cache can drop them."""


class BuildMemory:
    """Hands out the large arrays of one build under its memory limit.

    Parameters
    ----------
    folder : path
        Where temporary files go; they have no name, so nothing is left behind.
    n : int
        Rows.
    code_bytes : int
        Bytes of all codes together.
    params : GraphParams
    threads : int
    limit : int or None
        Bytes of anonymous memory to stay under.

    Raises
    ------
    ParameterError
        The limit is below what can't be moved to files.
    """

    def __init__(
        self, folder: AnyPath, n: int, code_bytes: int, params: GraphParams, threads: int, limit: int | None
    ) -> None:
        self._folder = folder
        least = BASE_BYTES + n * BYTES_A_ROW + n * threads
        everything = least + code_bytes + 2 * n * slots_for(params.max_degree) * 4
        if limit is not None and as_positive_int("memory_limit", limit) < least:
            raise ParameterError("memory_limit", limit, f"at least {least} bytes for {n} vectors")
        self._all_in_files = limit is not None and limit < everything

    def array(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """A zeroed array, aligned to cache lines.

        Raises
        ------
        StorageError
            No room on the disk for a temporary file.
        """
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        if size > 0 and (self._all_in_files or (size >= IN_FILES_FROM and np.dtype(dtype) == np.uint8)):
            return scratch_array(self._folder, shape, dtype)
        return aligned_zeros(shape, dtype)
