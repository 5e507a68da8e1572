"""Codes of what an index is made of, which depend on the version of the protocol."""

from __future__ import annotations

NO_CODE = 255
"""Stands in lists for a kind that the version of the request has no code for."""

# Version 1 once called product quantization 3: nobody who asks for that may get tq1.
_KINDS = {
    1: ("f32", "int8", "binary"),
    2: ("f32", "int8", "binary", "tq1", "tq2", "tq4"),
}
_BACKENDS = ("flat", "disk")


def kind_of_byte(version: int, byte: int) -> str | None:
    """The kind that a code asks for, or None."""
    kinds = _KINDS[version]
    return kinds[byte] if byte < len(kinds) else None


def byte_of_kind(version: int, kind: str) -> int:
    """The code of a kind, or `NO_CODE`."""
    kinds = _KINDS[version]
    return kinds.index(kind) if kind in kinds else NO_CODE


def backend_of_byte(byte: int) -> str | None:
    """The backend that a code asks for, or None."""
    return _BACKENDS[byte] if byte < len(_BACKENDS) else None


def byte_of_backend(backend: str) -> int:
    """The code of a backend."""
    return _BACKENDS.index(backend)


def kinds_mask() -> int:
    """What `NativeHello` answers: a bit for each code of version 2."""
    return (1 << len(_KINDS[2])) - 1
