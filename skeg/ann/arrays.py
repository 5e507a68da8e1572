"""Arrays that start at a cache line."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

CODE_LINE = 64
"""Bytes of a cache line; code rows are whole lines."""


def aligned_zeros(shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Zeroed array whose first byte lies at a multiple of 64."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    room = np.zeros(size + CODE_LINE, np.uint8)
    start = -room.ctypes.data % CODE_LINE
    return room[start : start + size].view(dtype).reshape(shape)
