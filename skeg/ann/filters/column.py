"""A column: the values of one kind of one field, sorted, each with the rows that have it.

Sorted values make equality and ranges binary searches, and the rows of any range one slice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import Any, NamedTuple, Protocol

import attrs
import numpy as np
import numpy.typing as npt

from skeg.ann.filters.blobs import Blobs
from skeg.ann.filters.evaluate import Mask
from skeg.ann.filters.interval import Interval, interval_of
from skeg.ann.filters.literal import KINDS, Kind, Literal, Typed
from skeg.ann.filters.nodes import Range

Key = tuple[str, Kind]
"""Field and kind of a column."""

Values = npt.NDArray[Any] | Blobs
"""Values of one kind: int64, float64, uint8 (bools) or strings in UTF-8."""

DTYPES: dict[Kind, type[np.generic]] = {"int": np.int64, "float": np.float64, "bool": np.uint8}
"""Arrays of values; strings are `Blobs`."""


class Postings(NamedTuple):
    """Pairs of value and row, for merging: ``rows[i]`` (uint32) has the value ``values[codes[i]]``.

    Neither sorted nor free of repeats.
    """

    values: npt.NDArray[Any] | list[bytes]
    codes: npt.NDArray[np.int64]
    rows: npt.NDArray[np.uint32]


class AnyColumn(Protocol):
    """What a search asks of the column of one kind of one field; values and bounds are of its kind."""

    def select_equal(self, mask: Mask, value: Typed) -> None:
        """Set the rows that have the value."""

    def select_range(self, mask: Mask, within: Interval) -> None:
        """Set the rows that have a value in the range."""

    def select_all(self, mask: Mask) -> None:
        """Set the rows that have any value."""

    def postings(self, n: int) -> Postings:
        """Return the pairs of value and row of the rows below n."""


@attrs.frozen(eq=False)
class Column:
    """A sorted column.

    values : m distinct values, ascending (strings by their bytes). starts : (m + 1,) int64; rows of value i are
    ``rows[starts[i] : starts[i + 1]]``, ascending. rows : (any,) uint32, all below `n`. Starts have to ascend within
    rows; values out of order give wrong answers, but no crash.
    """

    values: Values
    starts: npt.NDArray[np.int64]
    rows: npt.NDArray[np.uint32]
    n: int

    def select_equal(self, mask: Mask, value: Typed) -> None:
        """Set the rows that have the value.

        Parameters
        ----------
        mask : ndarray (any,) bool
            Bytes of matching rows become True; rows beyond its length are left out.
        value : int, float or bytes
            Of the column's kind.
        """
        self.select(mask, self._find(value, "left"), self._find(value, "right"))

    def select_range(self, mask: Mask, within: Interval) -> None:
        """Set the rows that have a value in the range, as `select_equal`."""
        first = 0 if within.low is None else self._find(within.low, "right" if within.low_open else "left")
        last = (
            len(self.values)
            if within.high is None
            else self._find(within.high, "left" if within.high_open else "right")
        )
        self.select(mask, first, last)

    def select_all(self, mask: Mask) -> None:
        """Set the rows that have any value, as `select_equal`."""
        self.select(mask, 0, len(self.values))

    def select(self, mask: Mask, first: int, last: int) -> None:
        """Set the rows of the values ``first`` to ``last - 1``; none if that is reversed."""
        if first < last:
            rows = self.rows[self.starts[first] : self.starts[last]]
            mask[rows if self.n <= len(mask) else rows[rows < len(mask)]] = True

    def postings(self, n: int) -> Postings:
        """Return the pairs of value and row of the rows below n."""
        rows = self.rows[self.starts[0] : self.starts[-1]]
        codes = np.repeat(np.arange(len(self.values)), np.diff(self.starts))
        if n < self.n:
            codes, rows = codes[rows < n], rows[rows < n]
        return Postings(self.values.tolist() if isinstance(self.values, Blobs) else self.values, codes, rows)

    def _find(self, value: Typed, side: Any) -> int:
        if isinstance(self.values, Blobs):
            return (bisect_left if side == "left" else bisect_right)(self.values, value)
        return int(np.searchsorted(self.values, self.values.dtype.type(value), side))


class FieldColumns(ABC):
    """Conditions on fields as searches of columns; where the columns come from is left to subclasses."""

    @abstractmethod
    def find(self, field: str, kind: Kind) -> AnyColumn | None:
        """Return the column of one kind of one field, None if there is none."""

    @abstractmethod
    def kinds(self) -> Mapping[str, AbstractSet[Kind]]:
        """Return the kinds of values of every field."""

    @abstractmethod
    def column_keys(self) -> list[Key]:
        """Return field and kind of every column."""

    def select_equal(self, mask: Mask, field: str, literal: Literal) -> None:
        """Set the rows that have a value of a field equal to a literal.

        Parameters
        ----------
        mask : ndarray (n,) bool
            Bytes of matching rows become True; rows from n on are left out.
        field : str
            Name of the field.
        literal : Literal
            What to compare with.

        Raises
        ------
        CorruptError
            The column is in a file that is damaged.
        """
        for kind in KINDS:
            value = literal.as_kind(kind)
            column = None if value is None else self.find(field, kind)
            if column is not None and value is not None:
                column.select_equal(mask, value)

    def select_range(self, mask: Mask, within: Range) -> None:
        """Set the rows that have a value in a range, as `select_equal`."""
        for kind in KINDS:
            interval = interval_of(within, kind)
            column = None if interval is None else self.find(within.field, kind)
            if column is not None and interval is not None:
                column.select_range(mask, interval)

    def select_exists(self, mask: Mask, field: str) -> None:
        """Set the rows that have a value of a field, as `select_equal`."""
        for kind in KINDS:
            column = self.find(field, kind)
            if column is not None:
                column.select_all(mask)
