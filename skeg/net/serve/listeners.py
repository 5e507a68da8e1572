"""Listening sockets."""

from __future__ import annotations

import socket
from collections.abc import Mapping

import attrs

from skeg.errors import StorageError
from skeg.net.settings import ServerSettings

BACKLOG = 1024

PROTOCOLS = ("resp", "binary", "metrics")


def listen(settings: ServerSettings) -> dict[str, socket.socket]:
    """Bind the ports of a server, by protocol; they take connections from now on.

    Raises
    ------
    StorageError
        A port is taken, or the address is not of this machine.
    """
    ports = {"resp": settings.port, "binary": settings.binary_port, "metrics": settings.metrics_port}
    sockets: dict[str, socket.socket] = {}
    try:
        for protocol in PROTOCOLS:
            port = ports[protocol]
            if port is not None:
                sockets[protocol] = _bind(settings.addr, port)
    except BaseException:
        for sock in sockets.values():
            sock.close()
        raise
    return sockets


def with_ports(settings: ServerSettings, sockets: Mapping[str, socket.socket]) -> ServerSettings:
    """The settings with the ports that sockets are bound to, for those that were to be any."""
    ports = {protocol: sock.getsockname()[1] for protocol, sock in sockets.items()}
    return attrs.evolve(
        settings, port=ports.get("resp"), binary_port=ports.get("binary"), metrics_port=ports.get("metrics")
    )


def _bind(addr: str, port: int) -> socket.socket:
    place = f"{addr}:{port}"
    try:
        found = socket.getaddrinfo(addr, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, number, _, address = found[0]
        sock = socket.socket(family, kind, number)
    except OSError as error:
        raise StorageError(place, f"can't listen: {error.strerror or error}") from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise StorageError(place, f"can't listen: {error.strerror or error}") from error
    return sock


def place_of(sock: socket.socket) -> str:
    """Where a socket listens, as ``host:port``."""
    host, port = sock.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
