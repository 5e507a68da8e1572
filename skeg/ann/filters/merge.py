"""Put the fields and payloads of several parts of an index together, under new row numbers, without dropped rows.

The work is NumPy's, in calls that are long enough to let searches on other threads run in between; Python loops over
columns and distinct strings only. A value whose rows are all dropped is not in the result, nor are the bytes of their
payloads: what was erased is gone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from skeg.ann.filters.blobs import Blobs, offsets_of
from skeg.ann.filters.column import DTYPES, Column, FieldColumns, Key, Postings
from skeg.ann.filters.columns import key_order
from skeg.ann.filters.literal import Kind

NewRows = npt.NDArray[np.int64]
"""New row of every old row of a part, -1 for one that is dropped; no two old rows have the same."""

_BLOCK_BYTES = 1 << 18
"""Payload bytes put together at a time; their positions, 16 bytes for each, should stay in cache."""


def merge_columns(parts: Sequence[tuple[FieldColumns, NewRows]], n: int) -> dict[Key, Column]:
    """Return the fields of several parts as columns of one.

    Parameters
    ----------
    parts : sequence of (FieldColumns, ndarray (m,) int64)
        The fields of a part, and the new row of each of its rows 0 to m - 1, -1 to drop it; later rows are dropped.
    n : int
        Number of new rows, at most 2**32.

    Returns
    -------
    dict of (field, kind) to Column
        What `skeg.ann.filters.columns.write_columns` takes; the same for any order of the parts.

    Raises
    ------
    CorruptError
        A part is in a file that is damaged.
    """
    keys = sorted({key for columns, _ in parts for key in columns.column_keys()}, key=key_order)
    merged = {}
    for key in keys:
        found = [(columns.find(*key), new_rows) for columns, new_rows in parts]
        postings = [(column.postings(len(new_rows)), new_rows) for column, new_rows in found if column is not None]
        column = _merged(key[1], postings, n)
        if len(column.values):
            merged[key] = column
    return merged


def _merged(kind: Kind, parts: Sequence[tuple[Postings, NewRows]], n: int) -> Column:
    firsts = np.cumsum([0, *(len(postings.values) for postings, _ in parts)])
    codes, rows = [], []
    for (postings, new_rows), first in zip(parts, firsts.tolist(), strict=False):
        targets = new_rows[postings.rows]
        kept = targets >= 0
        codes.append(postings.codes[kept] + first)
        rows.append(targets[kept])
    distinct, ranks = _distinct(kind, [postings.values for postings, _ in parts])
    # A pair is one number, so that sorting and dropping repeats is quick: ranks are below 2**31, rows below 2**32.
    pairs = np.unique((ranks[np.concatenate(codes)] << 32) | np.concatenate(rows))
    used, counts = np.unique(pairs >> 32, return_counts=True)
    values = Blobs.of([distinct[i] for i in used.tolist()]) if isinstance(distinct, list) else distinct[used]
    return Column(values, offsets_of(counts), (pairs & 0xFFFFFFFF).astype(np.uint32), n)


def _distinct(kind: Kind, parts: Sequence[npt.NDArray[Any] | list[bytes]]) -> tuple[Any, npt.NDArray[np.int64]]:
    """Values of all parts in order and without repeats, and the place there of each value of each part."""
    if kind == "str":
        together = [value for values in parts for value in values]
        ordered = list(dict.fromkeys(sorted(together)))  # parts are in order mostly, which makes this sort a merge
        rank = {value: i for i, value in enumerate(ordered)}
        return ordered, np.fromiter(map(rank.__getitem__, together), np.int64, len(together))
    numbers = np.concatenate([np.empty(0, DTYPES[kind]), *parts])
    if kind == "float":
        numbers += 0.0  # of -0.0 and 0.0, which are equal, keep one
    return np.unique(numbers, return_inverse=True)


def merge_payloads(
    parts: Sequence[tuple[Blobs, NewRows]], n: int
) -> tuple[npt.NDArray[np.int64], Iterator[npt.NDArray[np.uint8]]]:
    """Return the payloads of several parts as one run of bytes.

    Parameters
    ----------
    parts : sequence of (Blobs, ndarray (m,) int64)
        The payloads of a part, sound ones, and the new row of each of its rows 0 to m - 1, -1 to drop it. A list of
        payloads in memory becomes `Blobs` by `Blobs.of`.
    n : int
        Number of new rows; those that no part fills have an empty payload.

    Returns
    -------
    offsets : ndarray (n + 1,) int64
        Where the payload of each new row starts, and where the last ends.
    blocks : iterator of ndarray (bytes,) uint8
        The bytes, in blocks of 256 KiB, or of one payload if that is longer.
    """
    lengths = np.zeros(n, np.int64)
    part_of = np.full(n, -1, np.int32)
    sources = np.zeros(n, np.int64)
    for number, (blobs, new_rows) in enumerate(parts):
        old = np.flatnonzero(new_rows >= 0)
        new = new_rows[old]
        part_of[new] = number
        sources[new] = blobs.offsets[old]
        lengths[new] = blobs.offsets[old + 1] - blobs.offsets[old]
    offsets = offsets_of(lengths)
    return offsets, _payload_blocks([blobs.data for blobs, _ in parts], part_of, sources, offsets)


def _payload_blocks(
    data: Sequence[npt.NDArray[np.uint8]],
    part_of: npt.NDArray[np.int32],
    sources: npt.NDArray[np.int64],
    offsets: npt.NDArray[np.int64],
) -> Iterator[npt.NDArray[np.uint8]]:
    """The bytes of new rows, of which `part_of` and `sources` say where they are and `offsets` where they go."""
    n = len(part_of)
    first = 0
    while first < n:
        last = max(first + 1, int(np.searchsorted(offsets, offsets[first] + _BLOCK_BYTES, "right")) - 1)
        block = np.empty(int(offsets[last] - offsets[first]), np.uint8)
        lengths = np.diff(offsets[first : last + 1])
        for number in np.unique(part_of[first:last]).tolist():
            rows = np.flatnonzero((part_of[first:last] == number) & (lengths > 0))
            starts = offsets_of(lengths[rows])
            steps = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths[rows])
            targets = np.repeat(offsets[first + rows] - offsets[first], lengths[rows]) + steps
            block[targets] = data[number][np.repeat(sources[first + rows], lengths[rows]) + steps]
        yield block
        first = last
