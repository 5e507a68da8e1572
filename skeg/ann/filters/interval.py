"""Ranges between literals as ranges among the values of one kind: ints and floats are compared exactly."""

from __future__ import annotations

import math
from typing import NamedTuple

from skeg.ann.filters.literal import Kind, Literal, Typed
from skeg.ann.filters.nodes import Range
from skeg.ann.filters.words import INT_MAX, INT_MIN


class Interval(NamedTuple):
    """A range among the values of one kind; None is no bound, and an open bound does not belong to it."""

    low: Typed | None
    low_open: bool
    high: Typed | None
    high_open: bool


def interval_of(within: Range, kind: Kind) -> Interval | None:
    """Return a range as one among the values of a kind; None if no value of that kind is comparable with its ends."""
    low, high = within.low, within.high
    if kind == "bool" or not all(kind in end.kinds for end in (low, high) if end is not None):
        return None
    below, below_open = (None, False) if low is None else _bound(low, kind, is_open=within.low_open, upper=False)
    above, above_open = (None, False) if high is None else _bound(high, kind, is_open=within.high_open, upper=True)
    return Interval(below, below_open, above, above_open)


def _bound(end: Literal, kind: Kind, *, is_open: bool, upper: bool) -> tuple[Typed, bool]:
    """The bound among the values of a kind that lets in the same of them."""
    if kind == "str":
        assert end.text is not None
        return end.text.encode(), is_open
    assert end.number is not None
    if kind == "float":
        number = float(end.number)
        if number == end.number:
            return number, is_open
        # The nearest float is on one side of the int, and no float is between them.
        return number, (number > end.number) == upper
    if isinstance(end.number, float) and not end.number.is_integer():
        integer, is_open = (math.floor if upper else math.ceil)(end.number), False
    else:
        integer = int(end.number)
    if integer > INT_MAX:
        return INT_MAX, not upper
    if integer < INT_MIN:
        return INT_MIN, upper
    return integer, is_open
