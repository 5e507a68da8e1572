"""Numbers as they are written on the wire."""

from __future__ import annotations

import re

_UNSIGNED = re.compile(rb"\+?[0-9]+")
_SIGNED = re.compile(rb"[+-]?[0-9]+")

U32_MAX = 2**32 - 1
U64_MAX = 2**64 - 1
I64_MIN, I64_MAX = -(2**63), 2**63 - 1

# Longer ones can't fit 64 bits, but for leading zeros that nobody writes.
_DIGITS_MAX = 64


def unsigned(data: bytes, high: int = U64_MAX) -> int | None:
    """The number up to ``high`` that a text spells, or None; unlike `int` it takes no blanks, underscores or signs."""
    if len(data) > _DIGITS_MAX or not _UNSIGNED.fullmatch(data):
        return None
    number = int(data)
    return number if number <= high else None


def signed(data: bytes) -> int | None:
    """The number of 64 bits that a text spells, or None."""
    if len(data) > _DIGITS_MAX or not _SIGNED.fullmatch(data):
        return None
    number = int(data)
    return number if I64_MIN <= number <= I64_MAX else None
