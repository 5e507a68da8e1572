"""The network: a server of RESP2, RESP3 and a binary protocol over a `skeg.Database`, and clients for it.

    connect(host)                     a client that speaks RESP
    client(host)                      one that speaks the binary protocol
    AsyncClient.connect(host)         one for asyncio
    ConnectionPool(factory)           clients for many threads
    run_server(path, settings)        serve the database in a folder, as `skeg serve` does

Each is loaded on first use: a client loads neither asyncio nor Numba, unless it needs it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skeg.net.clients.aio import AsyncClient
    from skeg.net.clients.binary import BinaryClient, client
    from skeg.net.clients.pool import ConnectionPool
    from skeg.net.clients.resp import RespClient, connect
    from skeg.net.clients.types import Hit, VectorBackend, VectorKind, VectorKindV2
    from skeg.net.serve.run import serve as run_server
    from skeg.net.settings import ServerSettings

__all__ = [
    "AsyncClient",
    "BinaryClient",
    "ConnectionPool",
    "Hit",
    "RespClient",
    "ServerSettings",
    "VectorBackend",
    "VectorKind",
    "VectorKindV2",
    "client",
    "connect",
    "run_server",
]

_LOADED_ON_FIRST_USE = {
    "AsyncClient": ("skeg.net.clients.aio", "AsyncClient"),
    "BinaryClient": ("skeg.net.clients.binary", "BinaryClient"),
    "ConnectionPool": ("skeg.net.clients.pool", "ConnectionPool"),
    "Hit": ("skeg.net.clients.types", "Hit"),
    "RespClient": ("skeg.net.clients.resp", "RespClient"),
    "ServerSettings": ("skeg.net.settings", "ServerSettings"),
    "VectorBackend": ("skeg.net.clients.types", "VectorBackend"),
    "VectorKind": ("skeg.net.clients.types", "VectorKind"),
    "VectorKindV2": ("skeg.net.clients.types", "VectorKindV2"),
    "client": ("skeg.net.clients.binary", "client"),
    "connect": ("skeg.net.clients.resp", "connect"),
    # `serve` is the package that it stands in.
    "run_server": ("skeg.net.serve.run", "serve"),
}


def __getattr__(name: str) -> Any:
    if name in _LOADED_ON_FIRST_USE:
        module, member = _LOADED_ON_FIRST_USE[name]
        return getattr(import_module(module), member)
    msg = f"module 'skeg.net' has no attribute {name!r}"
    raise AttributeError(msg)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LOADED_ON_FIRST_USE})
