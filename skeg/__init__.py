"""skeg: vector search in Python and Numba, over memory-mapped files, and a crash-safe key-value store.

`skeg.ann` holds the indexes, `skeg.kv` the store. Each is loaded on first use, so `import skeg` costs little and does
not load Numba. Every error that skeg raises on purpose is a `SkegError`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from skeg.errors import (
    ClosedError,
    CorruptError,
    FilterError,
    FormatError,
    LockedError,
    MissingExtraError,
    NotFoundError,
    ParameterError,
    ReadOnlyError,
    SkegError,
    StorageError,
    ValueTypeError,
    VectorError,
    VersionTooNewError,
)

if TYPE_CHECKING:
    from skeg import ann, kv

__version__ = "0.1.0"

__all__ = [
    "ClosedError",
    "CorruptError",
    "FilterError",
    "FormatError",
    "LockedError",
    "MissingExtraError",
    "NotFoundError",
    "ParameterError",
    "ReadOnlyError",
    "SkegError",
    "StorageError",
    "ValueTypeError",
    "VectorError",
    "VersionTooNewError",
    "__version__",
    "ann",
    "kv",
]

_LOADED_ON_FIRST_USE = ("ann", "kv")


def __getattr__(name: str) -> Any:
    if name in _LOADED_ON_FIRST_USE:
        return import_module(f"skeg.{name}")
    msg = f"module 'skeg' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LOADED_ON_FIRST_USE})
