"""Bytes in, bytes out: alignment, checksums, fixed-size records and canonical JSON of every skeg file.

Nothing here opens a file. All integers on disk are little-endian, and every checksum is XXH3 with 64 bits and
seed 0: it is as fast as memory, so that checking a whole index costs no more than reading it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from xxhash import xxh3_64

from skeg.errors import ParameterError

Bytes = bytes | bytearray | memoryview

T = TypeVar("T", bound=tuple[Any, ...])


def align_up(value: int, alignment: int) -> int:
    """Return the smallest multiple of `alignment` that is not below `value` (both in bytes, `value` >= 0)."""
    return -(-value // alignment) * alignment


class Checksum:
    """A running XXH3-64: feed it with `update`, read `value` at any time."""

    def __init__(self) -> None:
        self._state = xxh3_64()

    def update(self, data: Bytes) -> None:
        """Add the bytes of a contiguous buffer."""
        self._state.update(data)

    @property
    def value(self) -> int:
        """Checksum of everything added so far, 0 <= value < 2**64."""
        return self._state.intdigest()


def checksum(*buffers: Bytes) -> int:
    """Return the XXH3-64 of the given contiguous buffers, as if they were one."""
    state = Checksum()
    for data in buffers:
        state.update(data)
    return state.value


class Record(Generic[T]):
    """A fixed-size little-endian record: a NamedTuple on one side, bytes on the other.

    Parameters
    ----------
    kind : NamedTuple class
        One field for each value of `layout`, in order.
    layout : str
        A `struct` format; it starts with ``<``. Pad bytes (``x``) are written as zeros and not looked at when read.
    size : int
        Bytes that the record must take; a mismatch is our own mistake and fails at import.
    """

    def __init__(self, kind: Callable[..., T], layout: str, size: int) -> None:
        self._kind = kind
        self._struct = struct.Struct(layout)
        self.size = size
        assert layout.startswith("<"), f"{kind}: byte order not fixed"
        assert self._struct.size == size, f"{kind}: {self._struct.size} bytes, not {size}"

    def pack(self, record: T) -> bytes:
        """Return the `size` bytes of `record`."""
        return self._struct.pack(*record)

    def unpack(self, data: Bytes, offset: int = 0) -> T:
        """Read a record from ``data[offset : offset + size]``, which the caller knows to be there."""
        return self._kind(*self._struct.unpack_from(data, offset))


def canonical_json(parameter: str, value: dict[str, Any]) -> bytes:
    """Return the one UTF-8 JSON text of `value`: sorted keys, no spaces, no NaN or infinity.

    Raises
    ------
    ParameterError
        `value` holds something that JSON can't express; `parameter` names it in the message.
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
        return text.encode()
    except (TypeError, ValueError) as error:
        raise ParameterError(parameter, value, f"values that JSON can express ({error})") from error
