"""Literals of a filter, and what they are in each kind of value: ints and floats are compared exactly.

A literal stands for one thing, or for two where a word alone does not tell: an unquoted ``true`` is the bool and
also the string "true", as a payload in text form has no bools. A literal of a number is compared with ints and floats
by their exact values (2**53 + 1 differs from the float 2**53), one of a string with strings; neither with the other.
"""

from __future__ import annotations

import math
from typing import Any

import attrs

from skeg.ann.filters.brief import brief, shortened
from skeg.ann.filters.words import INT_MAX, INT_MIN, is_utf8, keyword, spelled_string, typed
from skeg.errors import ParameterError

Kind = str
"""One of `KINDS`."""

KINDS: tuple[Kind, ...] = ("int", "float", "bool", "str")
"""The types of values; each field has a column for every kind that its values have."""

Scalar = bool | int | float | str
"""One value of a field."""

KIND_OF: dict[type, Kind] = {int: "int", float: "float", bool: "bool", str: "str"}

Typed = int | float | bytes
"""A value as columns of its kind compare it: strings by their bytes in UTF-8, bools as 0 and 1."""


@attrs.frozen
class Literal:
    """A value in a filter; made by `of_word`, `of_string` or `of_value`.

    number : int of 64 bits or finite float, compared with numbers.
    text : str, compared with strings.
    truth : bool, compared with bools; together with `text`, the word as it was written.
    """

    number: int | float | None = None
    text: str | None = None
    truth: bool | None = None

    @classmethod
    def of_word(cls, word: str) -> Literal:
        """What an unquoted word of a filter stands for."""
        value = typed(word)
        if not isinstance(value, str):
            return cls(number=value)
        capitals = keyword(word)
        return cls(text=word, truth=capitals == "TRUE" if capitals in {"TRUE", "FALSE"} else None)

    @classmethod
    def of_string(cls, text: str) -> Literal:
        """What a quoted string stands for: itself."""
        return cls(text=text)

    @classmethod
    def of_value(cls, value: Any) -> Literal:
        """The literal that matches a Python value; a bool also matches its word, ``true`` or ``false``.

        Raises
        ------
        ParameterError
            Not a bool, int of 64 bits, finite float or str that UTF-8 can express.
        """
        if isinstance(value, bool):
            return cls.of_word(str(value).lower())
        if isinstance(value, int) and INT_MIN <= value <= INT_MAX:
            return cls(number=int(value))
        if isinstance(value, float) and math.isfinite(value):
            return cls(number=float(value))
        if isinstance(value, str) and is_utf8(value):
            return cls(text=value)
        raise ParameterError("literal", brief(value), "a bool, int of 64 bits, finite float or str")

    @property
    def kinds(self) -> frozenset[Kind]:
        """Kinds of the values that it can be compared with."""
        held = {"bool": self.truth, "str": self.text, "int": self.number, "float": self.number}
        return frozenset(kind for kind, value in held.items() if value is not None)

    def as_kind(self, kind: Kind) -> Typed | None:
        """Return the one value of a kind that equals the literal, None if there is none."""
        if kind == "str":
            return None if self.text is None else self.text.encode()
        if kind == "bool":
            return self.truth
        if self.number is None:
            return None
        if kind == "float":
            number = float(self.number)
            return number if number == self.number else None
        if isinstance(self.number, int):
            return self.number
        return int(self.number) if self.number.is_integer() and INT_MIN <= self.number <= INT_MAX else None

    def describe(self) -> str:
        """Return what an error message calls it."""
        if self.truth is not None:
            return str(self)
        return f"the number {self}" if self.text is None else f"the string {shortened(self.text)!r}"

    def __str__(self) -> str:
        """The literal as a filter spells it."""
        if self.text is None:
            return repr(self.number)
        return spelled_string(self.text) if self.truth is None else self.text
