"""Which rows a filter keeps.

* ``field = v`` and IN: any of the row's values of the field equals v. A range: any of its values lies within.
* Numbers are compared with numbers, ints and floats by their exact values; strings with strings, by their bytes in
  UTF-8. Bools are matched by ``=`` and IN only.
* Each condition stands for itself: ``age > 10 AND age < 5`` keeps a row with the ages 4 and 12, BETWEEN does not.
* NOT keeps all other rows, also those without the field. ``!=`` and NOT IN are NOT of ``=`` and IN.
* No row has a value of a field that the index does not know. A range whose ends are reversed is empty.

All rows means live and deleted ones: whoever searches leaves out the deleted.

A field that has values, but none of a kind that its condition could match (``age >= "x"`` where all ages are
numbers) is a mistake rather than an empty answer. As an index has several parts, each with its own columns, this is
judged by `check_types` over all of them before any is evaluated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from typing import Protocol

import numpy as np
import numpy.typing as npt

from skeg.ann.filters.brief import shortened
from skeg.ann.filters.literal import KINDS, Kind, Literal
from skeg.ann.filters.nodes import And, Equals, Exists, In, Node, Not, Or, Range
from skeg.errors import FilterError

Mask = npt.NDArray[np.bool_]
"""One byte for each row, 1 where it is kept."""


class Columns(Protocol):
    """The fields of some rows. The ``select_*`` methods set bytes of a mask (n,), those of rows below n only."""

    def select_equal(self, mask: Mask, field: str, literal: Literal) -> None:
        """Set the rows that have a value of `field` equal to `literal`."""

    def select_range(self, mask: Mask, within: Range) -> None:
        """Set the rows that have a value in the range."""

    def select_exists(self, mask: Mask, field: str) -> None:
        """Set the rows that have a value of `field`."""

    def kinds(self) -> Mapping[str, AbstractSet[Kind]]:
        """Return the kinds of values of every field."""


def evaluate(node: Node, columns: Columns, n: int) -> Mask:
    """Return the rows that a filter keeps.

    Parameters
    ----------
    node : Node
        The filter, see `skeg.ann.filters.grammar.parse_filter`.
    columns : Columns
        Fields of rows 0 to n - 1; later rows are not looked at.
    n : int
        Number of rows.

    Returns
    -------
    ndarray (n,) bool
        True for the rows that match; a new array.

    Raises
    ------
    CorruptError
        The columns are in a file that is damaged.
    """
    match node:
        case Not():
            mask = evaluate(node.item, columns, n)
            return np.logical_not(mask, out=mask)
        case And():
            mask = evaluate(node.items[0], columns, n)
            for item in node.items[1:]:
                mask &= evaluate(item, columns, n)
            return mask
        case Or():
            mask = evaluate(node.items[0], columns, n)
            for item in node.items[1:]:
                mask |= evaluate(item, columns, n)
            return mask
    mask = np.zeros(n, np.bool_)
    match node:
        case Equals():
            columns.select_equal(mask, node.field, node.literal)
        case In():
            for literal in node.literals:
                columns.select_equal(mask, node.field, literal)
        case Range():
            columns.select_range(mask, node)
        case Exists():
            columns.select_exists(mask, node.field)
    return mask


def all_kinds(parts: Iterable[Columns]) -> dict[str, set[Kind]]:
    """Return the kinds of values that every field has in any of the parts of an index."""
    union: dict[str, set[Kind]] = {}
    for part in parts:
        for field, kinds in part.kinds().items():
            union.setdefault(field, set()).update(kinds)
    return union


def check_types(node: Node, kinds: Mapping[str, AbstractSet[Kind]]) -> None:
    """Refuse a condition that no value of its field could be compared with.

    Parameters
    ----------
    node : Node
        The filter.
    kinds : mapping of str to set of str
        Field -> kinds ("int", "float", "bool", "str") of its values in the whole index. Conditions on other fields
        pass: they keep no rows.

    Raises
    ------
    FilterError
        `field` is the field; the message says what it holds and what it was compared with.
    """
    match node:
        case Not():
            check_types(node.item, kinds)
        case And() | Or():
            for item in node.items:
                check_types(item, kinds)
        case Equals():
            _check(node, node.literal.kinds, node.literal.describe(), kinds)
        case In():
            for literal in node.literals:
                _check(node, literal.kinds, literal.describe(), kinds)
        case Range():
            ends = [end for end in (node.low, node.high) if end is not None]
            matched = frozenset[Kind].intersection(*(end.kinds for end in ends)) - {"bool"}
            among = "numbers" if "int" in matched else "strings" if matched else "numbers and strings"
            _check(node, matched, f"a range of {among} ({shortened(str(node), 80)})", kinds)


def _check(
    node: Equals | In | Range, matched: AbstractSet[Kind], found: str, kinds: Mapping[str, AbstractSet[Kind]]
) -> None:
    held = kinds.get(node.field)
    if held and not held & matched:
        names = " and ".join(kind for kind in KINDS if kind in held)
        expected = f"something comparable with the {names} values that it holds"
        raise FilterError(str(node), expected, found, field=node.field)
