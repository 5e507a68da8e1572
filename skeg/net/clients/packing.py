"""Vectors on the wire: little-endian float32, nothing around them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skeg.errors import VectorError

Vector = bytes | bytearray | memoryview | NDArray[Any] | Iterable[float]
"""Numbers, or the bytes that are sent."""

_FLOAT = np.dtype("<f4")


def pack_vector(vector: Vector, what: str = "vector") -> bytes:
    """Bytes of a vector.

    Raises
    ------
    VectorError
        It is not made of numbers, or has not one dimension.
    """
    if isinstance(vector, bytes | bytearray | memoryview):
        return bytes(vector)
    packed = _as_floats(vector, what)
    if packed.ndim != 1:
        raise VectorError(what, expected="one dimension", found=f"shape {packed.shape}")
    return packed.tobytes()


def pack_rows(rows: Any, what: str) -> tuple[bytes, int]:
    """Bytes of vectors of one dimension, and how many vectors they are.

    Raises
    ------
    VectorError
        They are no array of two dimensions, or none at all.
    """
    packed = _as_floats(rows, what)
    if packed.ndim != 2 or not len(packed):
        raise VectorError(what, expected="an array of shape (n, dim), n of at least 1", found=f"shape {packed.shape}")
    return packed.tobytes(), len(packed)


def unpack_vector(data: bytes) -> NDArray[np.float32]:
    """The vector that bytes are; may be written to."""
    return np.frombuffer(data, _FLOAT).astype(np.float32)


def _as_floats(numbers: Any, what: str) -> NDArray[np.float32]:
    if not hasattr(numbers, "__array__") and not hasattr(numbers, "__len__"):
        numbers = list(numbers)
    try:
        with np.errstate(over="ignore"):  # the server says which number is not finite
            return np.asarray(numbers, _FLOAT)
    except (TypeError, ValueError) as error:
        raise VectorError(what, expected="numbers", found=str(error)) from error
