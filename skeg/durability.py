"""The levels of durability that every log of skeg knows."""

from __future__ import annotations

import enum
from typing import Any

from skeg.errors import ParameterError


class Durability(enum.IntEnum):
    """What an acknowledged write survives."""

    NONE = 0
    """Nothing yet: it is in the memory of this process, and reaches the disk within about a second."""
    OS = 1
    """The end of this process, however it ends; not a power cut within about a second."""
    SYNC = 2
    """Power loss too: it is on stable storage."""


def as_durability(parameter: str, value: Any) -> Durability:
    """Return `value`, which must be a `Durability`."""
    if not isinstance(value, Durability):
        raise ParameterError(parameter, value, "a skeg.kv.Durability")
    return value
