"""Checks of keys and values, once, where they come from callers."""

from __future__ import annotations

from typing import Any

from skeg.checks import as_int
from skeg.errors import ParameterError
from skeg.kv import format as fmt


def as_key(key: Any) -> bytes:
    """Return a key as bytes, or raise `ParameterError`."""
    if not isinstance(key, bytes | bytearray | memoryview):
        raise ParameterError("key", key, "bytes")
    if len(key) > fmt.KEY_BYTES_MAX:
        raise ParameterError("key", f"{len(key)} bytes", f"at most {fmt.KEY_BYTES_MAX} bytes")
    return bytes(key)


def as_value(value: Any) -> bytes:
    """Return a value as bytes, or raise `ParameterError`."""
    if not isinstance(value, bytes | bytearray | memoryview):
        raise ParameterError("value", value, "bytes")
    if len(value) > fmt.VALUE_BYTES_MAX:
        raise ParameterError("value", f"{len(value)} bytes", f"at most {fmt.VALUE_BYTES_MAX} bytes")
    return bytes(value)


def as_items(pairs: Any) -> dict[bytes, bytes]:
    """Return pairs of keys and values as a dict, or raise `ParameterError`."""
    try:
        items = dict(pairs)
    except (TypeError, ValueError) as error:
        raise ParameterError("pairs", type(pairs).__name__, "pairs of bytes, or a dict of them") from error
    if (
        (set(map(type, items)) | set(map(type, items.values()))) - {bytes}
        or max(map(len, items), default=0) > fmt.KEY_BYTES_MAX
        or max(map(len, items.values()), default=0) > fmt.VALUE_BYTES_MAX
    ):
        items = {as_key(key): as_value(value) for key, value in items.items()}
    return items


def as_delta(value: Any) -> int:
    """Return an int of 64 bits, or raise `ParameterError`."""
    return as_int("delta", value, -(2**63), 2**63 - 1)
