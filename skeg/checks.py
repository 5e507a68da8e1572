"""Checks of what callers pass in, converted once at the boundary.

Functions named ``as_*`` return the value in the one form that the rest of skeg works with; functions named
``check_*`` return nothing. Both raise `ParameterError` for a scalar and `VectorError` for an array.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skeg.errors import ParameterError, VectorError

Vectors = NDArray[np.float32]
Ids = NDArray[np.uint64]

# Never a stored id: it fills the rows of results that have fewer than k hits.
RESERVED_ID = 2**64 - 1
_LARGEST_INT = 2**63 - 1

# Elements looked at together by `check_finite`: the temporary takes a byte for each.
_BLOCK_ELEMENTS = 1 << 20


def as_int(parameter: str, value: Any, low: int | None = None, high: int | None = None) -> int:
    """Return `value` as an int in ``low..high`` (inclusive, None = no limit); a bool is not an int, a NumPy int is."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or (low is not None and number < low) or (high is not None and number > high):
        raise ParameterError(parameter, value, "an integer" + _range_text(low, high))
    return number


def as_positive_int(parameter: str, value: Any) -> int:
    """Return `value` as an int of at least 1."""
    return as_int(parameter, value, 1)


def as_number(parameter: str, value: Any, low: float | None = None, high: float | None = None) -> float:
    """Return `value` as a finite float in ``low..high`` (inclusive, None = no limit)."""
    number = math.nan
    if not isinstance(value, bool) and isinstance(value, Real):
        try:
            number = float(value)
        except OverflowError:  # an int beyond the floats
            number = math.inf
    if not math.isfinite(number) or (low is not None and number < low) or (high is not None and number > high):
        raise ParameterError(parameter, value, "a finite number" + _range_text(low, high))
    return number


def as_choice(parameter: str, value: Any, choices: Iterable[str]) -> str:
    """Return `value`, which must be one of the strings `choices`."""
    allowed = tuple(choices)
    if not isinstance(value, str) or value not in allowed:
        raise ParameterError(parameter, value, "one of " + ", ".join(map(repr, allowed)))
    return value


def as_real_array(x: Any, what: str) -> NDArray[Any]:
    """Return array-like `x` as an array of real numbers of whatever dtype and shape it has, copied only if need be.

    Raises
    ------
    VectorError
        It is no array, or holds something else than real numbers; the message calls it `what`.
    """
    array = _from_any(x, what)
    kind = array.dtype.kind
    # Number types that other packages register, such as bfloat16, have the kind of raw bytes but a type of their own.
    if kind not in "fiub" and (kind != "V" or array.dtype.type is np.void):
        raise VectorError(what, expected="real numbers", found=f"dtype {array.dtype} ({type(x).__name__})")
    return array


def as_vectors(x: Any, dim: int | None = None, *, what: str = "vectors") -> Vectors:
    """Return many vectors as one array; values that are not finite pass, see `check_finite`.

    Parameters
    ----------
    x : array_like (n, dim)
        Any real dtype; also what NumPy can take through ``__array__``, DLPack or the buffer protocol. It is
        not copied when it already has the form of the result.
    dim : int, optional
        Dimension that the vectors must have.
    what : str
        Name of the array in messages.

    Returns
    -------
    ndarray (n, dim) float32
        C-contiguous and aligned. A value beyond float32 becomes infinite.

    Raises
    ------
    VectorError
        `x` is no array of real numbers, or has another shape.
    """
    array = as_real_array(x, what)
    if array.ndim != 2 or array.shape[1] == 0 or dim not in (None, array.shape[1]):
        expected = "shape (n, dim) with dim of at least 1" if dim is None else f"shape (n, {dim})"
        raise VectorError(what, expected=expected, found=f"shape {array.shape}")
    return _as_float32(array)


def as_queries(x: Any, dim: int, *, what: str = "queries") -> tuple[Vectors, bool]:
    """Return one query or many as an array of many, and whether it was one.

    Parameters
    ----------
    x : array_like (dim,) or (n, dim)
        As for `as_vectors`.
    dim : int
        Dimension of the index.

    Returns
    -------
    queries : ndarray (n, dim) float32
        C-contiguous and aligned; n = 1 for one query.
    was_single : bool
        True if `x` had the shape (dim,).
    """
    array = as_real_array(x, what)
    if array.ndim not in (1, 2) or array.shape[-1] != dim:
        raise VectorError(what, expected=f"shape ({dim},) or (n, {dim})", found=f"shape {array.shape}")
    return _as_float32(array).reshape(-1, dim), array.ndim == 1


def check_finite(vectors: Vectors, what: str, first_row: int = 0) -> None:
    """Refuse NaN and infinity, naming the first row that holds one.

    Parameters
    ----------
    vectors : ndarray (n, dim) float32
        Looked at a block at a time: the temporary memory does not grow with n.
    what : str
        Name of the array in messages.
    first_row : int
        Row number of ``vectors[0]`` in messages, for callers that stream.
    """
    n, dim = vectors.shape
    step = max(1, _BLOCK_ELEMENTS // max(1, dim))
    for start in range(0, n, step):
        finite = np.isfinite(vectors[start : start + step])
        if finite.all():
            continue
        row, column = divmod(int(finite.argmin()), dim)
        value = vectors[start + row, column]
        raise VectorError(
            what, expected="finite float32 numbers", found=f"{value} in column {column}", row=first_row + start + row
        )


def as_ids(ids: Any, n: int, *, what: str = "ids") -> Ids:
    """Return `n` ids as uint64; repeated ids pass, see `check_unique_ids`.

    Parameters
    ----------
    ids : array_like (n,)
        Integers of any dtype, 0 <= id < 2**64 - 1 (the largest value is reserved, see `RESERVED_ID`).

    Returns
    -------
    ndarray (n,) uint64
        C-contiguous and aligned; shares memory with `ids` when it already has that form.

    Raises
    ------
    VectorError
        Another shape, or an id that is negative, reserved, too large or no integer; names its row.
    """
    array = _from_any(ids, what)
    if array.shape != (n,):
        raise VectorError(what, expected=f"shape ({n},)", found=f"shape {array.shape}")
    if array.dtype.kind not in "iu":
        # NumPy makes float64 of Python ints on both sides of 2**63, so look at the items themselves.
        items = ids if isinstance(ids, (list, tuple)) else array
        return np.array([_as_id(item, row, what) for row, item in enumerate(items)], dtype=np.uint64)
    taken = array.astype(np.uint64, order="C", copy=not array.flags.aligned)
    # What is negative has become one of the largest.
    if n and np.maximum.reduce(taken) > _LARGEST_INT:
        if array.dtype.kind == "i":
            row = int((array < 0).argmax())
            _as_id(int(array[row]), row, what)
        if np.maximum.reduce(taken) == RESERVED_ID:
            row = int((taken == RESERVED_ID).argmax())
            _as_id(RESERVED_ID, row, what)
    return taken


def as_some_ids(ids: Any, *, what: str = "ids") -> tuple[Ids, bool]:
    """Return one id or many as an array (n,) uint64, and whether it was one; errors as `as_ids`."""
    is_single = (ids.ndim if isinstance(ids, np.ndarray) else np.ndim(ids)) == 0
    return as_ids([ids] if is_single else ids, 1 if is_single else len(ids), what=what), is_single


def check_unique_ids(ids: Ids, *, what: str = "ids") -> None:
    """Refuse ids of which two are equal, naming the first row that repeats an earlier one.

    Parameters
    ----------
    ids : ndarray (n,) uint64
        Ids in increasing order cost one pass; others a sorted copy.
    """
    if len(ids) < 2 or np.logical_and.reduce(ids[1:] > ids[:-1]):
        return
    ordered = np.sort(ids)
    if (ordered[1:] != ordered[:-1]).all():
        return
    order = np.argsort(ids, kind="stable")
    ordered = ids[order]
    row = int(order[1:][ordered[1:] == ordered[:-1]].min())
    earlier = int((ids == ids[row]).argmax())
    raise VectorError(what, expected="ids that differ", found=f"id {ids[row]}, which row {earlier} has too", row=row)


def _range_text(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f" from {low} to {high}"
    if low is not None:
        return f" of at least {low}"
    return "" if high is None else f" of at most {high}"


def _from_any(x: Any, what: str) -> NDArray[Any]:
    if type(x) is np.ndarray:
        return x
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        raise VectorError(what, expected="an array without masked values", found="masked values")
    try:
        if hasattr(x, "__dlpack__") and not hasattr(x, "__array__"):
            return np.from_dlpack(x)
        return np.asarray(x)
    except (TypeError, ValueError, RuntimeError, BufferError) as error:
        raise VectorError(what, expected="an array of numbers", found=f"{type(x).__name__} ({error})") from error


def _as_float32(array: NDArray[Any]) -> Vectors:
    flags = array.flags
    if array.dtype == np.float32 and flags.c_contiguous and flags.aligned:
        return array
    with np.errstate(all="ignore"):  # overflow becomes infinity, which `check_finite` reports with its row
        return array.astype(np.float32, order="C", subok=False)


def _as_id(item: Any, row: int, what: str) -> int:
    if isinstance(item, (bool, np.bool_)) or not hasattr(item, "__index__"):
        raise VectorError(what, expected="integers", found=f"{item} ({type(item).__name__})", row=row)
    value = operator.index(item)
    if not 0 <= value < RESERVED_ID:
        raise VectorError(what, expected=f"ids from 0 to {RESERVED_ID - 1}", found=str(value), row=row)
    return value
