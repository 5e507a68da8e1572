"""How errors about filters and payloads show what they are about: shortened."""

from __future__ import annotations

from typing import Any

import numpy as np


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
