"""skeg: vector search in Python and Numba, over memory-mapped files, and a crash-safe key-value store.

`skeg.ann` holds the indexes, `skeg.kv` the store, and `skeg.open` opens a `Database` of both in one folder, which
`skeg.net` serves to clients such as those of `skeg.connect`. Each is loaded on first use, so `import skeg` costs little
and does not load Numba. Every error that skeg raises on purpose is a `SkegError`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from skeg.errors import (
    ClosedError,
    CorruptError,
    ExistsError,
    FilterError,
    FormatError,
    LockedError,
    MissingExtraError,
    NotConnected,
    NotFoundError,
    ParameterError,
    ProtocolError,
    ReadOnlyError,
    ServerError,
    SkegError,
    StorageError,
    ValueTypeError,
    VectorError,
    VersionTooNewError,
)

if TYPE_CHECKING:
    from skeg import ann, kv, net
    from skeg.database import Database
    from skeg.database import open_database as open  # noqa: A004 - what opening a database is called
    from skeg.net import (
        BinaryClient,
        Hit,
        RespClient,
        VectorBackend,
        VectorKind,
        VectorKindV2,
        client,
        connect,
    )

__version__ = "0.1.0"

__all__ = [
    "BinaryClient",
    "ClosedError",
    "CorruptError",
    "Database",
    "ExistsError",
    "FilterError",
    "FormatError",
    "Hit",
    "LockedError",
    "MissingExtraError",
    "NotConnected",
    "NotFoundError",
    "ParameterError",
    "ProtocolError",
    "ReadOnlyError",
    "RespClient",
    "ServerError",
    "SkegError",
    "StorageError",
    "ValueTypeError",
    "VectorBackend",
    "VectorError",
    "VectorKind",
    "VectorKindV2",
    "VersionTooNewError",
    "__version__",
    "ann",
    "client",
    "connect",
    "kv",
    "net",
    "open",
]

_LOADED_ON_FIRST_USE = {
    "ann": ("skeg.ann", None),
    "kv": ("skeg.kv", None),
    "net": ("skeg.net", None),
    "Database": ("skeg.database", "Database"),
    "open": ("skeg.database", "open_database"),
    "BinaryClient": ("skeg.net", "BinaryClient"),
    "Hit": ("skeg.net", "Hit"),
    "RespClient": ("skeg.net", "RespClient"),
    "VectorBackend": ("skeg.net", "VectorBackend"),
    "VectorKind": ("skeg.net", "VectorKind"),
    "VectorKindV2": ("skeg.net", "VectorKindV2"),
    "client": ("skeg.net", "client"),
    "connect": ("skeg.net", "connect"),
}


def __getattr__(name: str) -> Any:
    if name in _LOADED_ON_FIRST_USE:
        module, member = _LOADED_ON_FIRST_USE[name]
        loaded = import_module(module)
        return loaded if member is None else getattr(loaded, member)
    msg = f"module 'skeg' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LOADED_ON_FIRST_USE})
