"""Checks of keys and values, once, where they come from callers."""

from __future__ import annotations

from typing import Any

from skeg.checks import as_int
from skeg.errors import ParameterError
from skeg.kv import format as fmt


def as_key(key: Any) -> bytes:
    """Return a key as bytes, or raise `ParameterError`."""
    return _as_bytes("key", key, fmt.KEY_BYTES_MAX)


def as_value(value: Any) -> bytes:
    """Return a value as bytes, or raise `ParameterError`."""
    return _as_bytes("value", value, fmt.VALUE_BYTES_MAX)


def as_keys(keys: Any) -> list[bytes]:
    """Return keys as a list of bytes, or raise `ParameterError`."""
    try:
        wanted = list(keys)
    except TypeError as error:
        raise ParameterError("keys", keys, "an iterable of bytes") from error
    if set(map(type, wanted)) - {bytes} or max(map(len, wanted), default=0) > fmt.KEY_BYTES_MAX:
        return [as_key(key) for key in wanted]
    return wanted


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


def _as_bytes(parameter: str, value: Any, limit: int) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise ParameterError(parameter, value, "bytes")
    nbytes = value.nbytes if isinstance(value, memoryview) else len(value)
    if nbytes > limit:
        raise ParameterError(parameter, f"{nbytes} bytes", f"at most {limit} bytes")
    return bytes(value)


def as_delta(value: Any) -> int:
    """Return an int of 64 bits, or raise `ParameterError`."""
    return as_int("delta", value, -(2**63), 2**63 - 1)
