"""What a parsed filter is: a tree of conditions on fields. `str` of a node is a filter that parses to an equal node."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import attrs

from skeg.ann.filters.literal import Literal
from skeg.ann.filters.words import is_utf8, spelled_field
from skeg.errors import ParameterError


def _as_field(value: Any) -> str:
    if not isinstance(value, str) or not value or not is_utf8(value):
        raise ParameterError("field", value, "a name that is not empty, in Unicode")
    return value


def _at_least(count: int) -> Any:
    """An attrs validator of the number of items."""

    def check(_: Any, attribute: attrs.Attribute[Any], items: tuple[Any, ...]) -> None:
        if len(items) < count:
            raise ParameterError(attribute.name, items, f"at least {count}")

    return check


@attrs.frozen
class Equals:
    """Some value of the field equals the literal."""

    field: str = attrs.field(converter=_as_field)
    literal: Literal

    def __str__(self) -> str:
        return f"{spelled_field(self.field)} = {self.literal}"


@attrs.frozen
class In:
    """Some value of the field equals one of the literals, of which there is at least one."""

    field: str = attrs.field(converter=_as_field)
    literals: tuple[Literal, ...] = attrs.field(converter=tuple[Literal, ...], validator=_at_least(1))

    def __str__(self) -> str:
        return f"{spelled_field(self.field)} IN ({_listed(self.literals)})"


@attrs.frozen
class Range:
    """Some value of the field lies between two ends (both belong to the range), or on one side of one end.

    low, high : None for no end. low_open, high_open : whether the end itself is outside, as for ``<`` and ``>``;
    the grammar has no range with two ends of which one is open, and `ParameterError` is raised for it.
    """

    field: str = attrs.field(converter=_as_field)
    low: Literal | None = None
    low_open: bool = False
    high: Literal | None = None
    high_open: bool = False

    def __attrs_post_init__(self) -> None:
        ends = (self.low is not None) + (self.high is not None)
        is_open = self.low_open or self.high_open
        misplaced = (self.low_open and self.low is None) or (self.high_open and self.high is None)
        if ends == 0 or misplaced or (ends == 2 and is_open):
            raise ParameterError(
                "range", attrs.astuple(self, recurse=False), "one end, or two that belong to the range"
            )

    def __str__(self) -> str:
        field = spelled_field(self.field)
        if self.high is None:
            return f"{field} {'>' if self.low_open else '>='} {self.low}"
        if self.low is None:
            return f"{field} {'<' if self.high_open else '<='} {self.high}"
        return f"{field} BETWEEN {self.low} AND {self.high}"


@attrs.frozen
class Exists:
    """The field has a value."""

    field: str = attrs.field(converter=_as_field)

    def __str__(self) -> str:
        return f"{spelled_field(self.field)} EXISTS"


@attrs.frozen
class Not:
    """All rows but those of the item."""

    item: Node

    def __str__(self) -> str:
        # These two forms cost no level of nesting, so what was parsed can always be parsed again.
        if isinstance(self.item, Equals):
            return f"{spelled_field(self.item.field)} != {self.item.literal}"
        if isinstance(self.item, In):
            return f"{spelled_field(self.item.field)} NOT IN ({_listed(self.item.literals)})"
        return f"NOT {_bracketed(self.item, And | Or)}"


@attrs.frozen
class And:
    """Rows of all items, of which there are at least two."""

    items: tuple[Node, ...] = attrs.field(converter=tuple["Node", ...], validator=_at_least(2))

    def __str__(self) -> str:
        return " AND ".join(_bracketed(item, And | Or) for item in self.items)


@attrs.frozen
class Or:
    """Rows of any item, of which there are at least two."""

    items: tuple[Node, ...] = attrs.field(converter=tuple["Node", ...], validator=_at_least(2))

    def __str__(self) -> str:
        return " OR ".join(_bracketed(item, Or) for item in self.items)


Node: TypeAlias = And | Or | Not | Equals | In | Range | Exists


def _listed(literals: Iterable[Literal]) -> str:
    return ", ".join(map(str, literals))


def _bracketed(item: Node, weaker: Any) -> str:
    return f"({item})" if isinstance(item, weaker) else str(item)
