"""Fields of rows that are added one after another, in memory.

One thread appends, any number read meanwhile, without a lock. A column only ever grows: the writer fills places that
no reader looks at, then raises the count; where an array is full it makes a longer copy and leaves the old one to
those who read it. A reader takes the count first and the arrays after it, so they hold at least as much. Rows that
were appended completely before a search began are seen completely; later ones are kept out by the length of the mask.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from skeg.ann.filters.column import DTYPES, AnyColumn, FieldColumns, Key, Postings
from skeg.ann.filters.evaluate import Mask
from skeg.ann.filters.interval import Interval
from skeg.ann.filters.literal import KIND_OF, Kind, Scalar, Typed

_FIRST_CAPACITY = 8


class _Pairs:
    """Values and rows that grow together, rows ascending."""

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self._arrays: tuple[npt.NDArray[Any], npt.NDArray[np.uint32]]
        self._arrays = np.empty(_FIRST_CAPACITY, dtype), np.empty(_FIRST_CAPACITY, np.uint32)
        self._count = 0

    def append(self, value: Any, row: int) -> None:
        values, rows = self._arrays
        count = self._count
        if count == len(rows):
            values, rows = (np.concatenate([array, np.empty_like(array)]) for array in (values, rows))
            self._arrays = values, rows
        values[count] = value
        rows[count] = row
        self._count = count + 1

    def below(self, n: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint32]]:
        """Values and rows of the rows below n."""
        count = self._count  # before the arrays, see above
        values, rows = self._arrays
        if count and rows[count - 1] >= n:
            count = int(np.searchsorted(rows[:count], np.uint32(n)))
        return values[:count], rows[:count]


class _Numbers:
    """A column of ints, floats or bools."""

    def __init__(self, kind: Kind) -> None:
        self._pairs = _Pairs(DTYPES[kind])

    def append(self, value: Any, row: int) -> None:
        self._pairs.append(value, row)

    def select_equal(self, mask: Mask, value: Typed) -> None:
        values, rows = self._pairs.below(len(mask))
        mask[rows[values == value]] = True

    def select_range(self, mask: Mask, within: Interval) -> None:
        values, rows = self._pairs.below(len(mask))
        inside = np.ones(len(rows), np.bool_)
        if within.low is not None:
            inside &= values > within.low if within.low_open else values >= within.low
        if within.high is not None:
            inside &= values < within.high if within.high_open else values <= within.high
        mask[rows[inside]] = True

    def select_all(self, mask: Mask) -> None:
        mask[self._pairs.below(len(mask))[1]] = True

    def postings(self, n: int) -> Postings:
        values, rows = self._pairs.below(n)
        return Postings(values, np.arange(len(rows)), rows)


class _Strings:
    """A column of strings: each distinct one has a code, in order of appearance."""

    def __init__(self) -> None:
        self._codes: dict[bytes, int] = {}
        self._strings: list[bytes] = []
        self._pairs = _Pairs(np.uint32)
        self._by_string: tuple[list[int], npt.NDArray[np.int64]] = [], np.empty(0, np.int64)  # codes in that order

    def append(self, value: Any, row: int) -> None:
        data = value.encode()
        code = self._codes.get(data)
        if code is None:
            code = len(self._strings)
            self._strings.append(data)
            self._codes[data] = code
        self._pairs.append(code, row)

    def select_equal(self, mask: Mask, value: Typed) -> None:
        assert isinstance(value, bytes)
        code = self._codes.get(value)
        if code is not None:
            codes, rows = self._pairs.below(len(mask))
            mask[rows[codes == code]] = True

    def select_range(self, mask: Mask, within: Interval) -> None:
        codes, rows = self._pairs.below(len(mask))
        mask[rows[self._inside(within)[codes]]] = True

    def select_all(self, mask: Mask) -> None:
        mask[self._pairs.below(len(mask))[1]] = True

    def postings(self, n: int) -> Postings:
        codes, rows = self._pairs.below(n)
        return Postings(self._strings[:], codes.astype(np.int64), rows)

    def _inside(self, within: Interval) -> npt.NDArray[np.bool_]:
        """For each code, whether its string is in the range."""
        strings = self._strings
        codes, ordered = self._by_string
        if len(codes) < len(strings):
            # The old ones are in order already, which makes this sort much like a merge.
            codes = sorted([*codes, *range(len(codes), len(strings))], key=strings.__getitem__)
            ordered = np.array(codes, np.int64)
            self._by_string = codes, ordered
        first, last = 0, len(codes)
        if within.low is not None:
            first = (bisect_right if within.low_open else bisect_left)(codes, within.low, key=strings.__getitem__)
        if within.high is not None:
            last = (bisect_left if within.high_open else bisect_right)(codes, within.high, key=strings.__getitem__)
        inside = np.zeros(len(codes), np.bool_)
        inside[ordered[first:last]] = True
        return inside


class GrowingColumns(FieldColumns):
    """Fields of rows in memory; one thread appends while others search, see the module."""

    def __init__(self) -> None:
        self._columns: dict[Key, _Numbers | _Strings] = {}

    def append(self, row: int, fields: Mapping[str, Sequence[Scalar]]) -> None:
        """Add the values of one row.

        Parameters
        ----------
        row : int
            Above all rows before it, below 2**32. Rows without fields may be left out.
        fields : mapping of str to sequence
            Values of each field, as `skeg.ann.filters.payload.fields_of` gives them.
        """
        for field, values in fields.items():
            for value in values:
                key = (field, KIND_OF[type(value)])
                column = self._columns.get(key)
                if column is None:
                    column = self._columns[key] = _Strings() if key[1] == "str" else _Numbers(key[1])
                column.append(value, row)

    def find(self, field: str, kind: Kind) -> AnyColumn | None:
        """Return the column of one kind of one field, None if there is none."""
        return self._columns.get((field, kind))

    def kinds(self) -> dict[str, set[Kind]]:
        """Return the kinds of values of every field."""
        union: dict[str, set[Kind]] = {}
        for field, kind in self.column_keys():
            union.setdefault(field, set()).add(kind)
        return union

    def column_keys(self) -> list[Key]:
        """Return field and kind of every column."""
        return list(self._columns.copy())  # a copy, as the writer may add a column during the loop
