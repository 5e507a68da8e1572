"""The error of a filter that can't be read, or that compares a field with something it can't be compared with."""

from __future__ import annotations

from typing import Any

import numpy as np

from skeg.errors import ParameterError


class FilterError(ParameterError):
    """A filter can't be read (`position` says where) or does not fit the types of a field (`field` says which).

    Parameters
    ----------
    text : str
        The filter; for an error of types, the condition that does not fit.
    expected : str
        What could have stood there.
    found : str
        What stood there.
    position : int, optional
        Character of `text`, from 0; its length for the end.
    field : str, optional
        The field whose values have other types.
    """

    def __init__(
        self, text: str, expected: str, found: str, position: int | None = None, field: str | None = None
    ) -> None:
        super().__init__("filter", text, expected)
        self.text = text
        self.found = found
        self.position = position
        self.field = field

    def __str__(self) -> str:
        place = f"position {self.position}" if self.field is None else f"field {self.field!r}"
        return f"filter, {place}: expected {self.expected}, found {self.found}"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.text, self.expected, self.found, self.position, self.field)


def shortened(text: str, characters: int = 40) -> str:
    """Return `text`, or its first characters and dots when it is long."""
    return text if len(text) <= characters else text[:characters] + "..."


def brief(value: Any) -> Any:
    """Return what an error shows of a value: a large one must not fill the screen, or be too long to print at all."""
    if isinstance(value, str):
        return shortened(value)
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an int of {value.bit_length()} bits"
    return value if isinstance(value, (bool, int, float, np.generic)) else type(value).__name__
