"""A blocking TCP connection that is closed by whatever goes wrong on it, so that nobody reads another's reply."""

from __future__ import annotations

import contextlib
import select
import socket

from skeg.checks import as_int, as_number
from skeg.errors import NotConnected

RECEIVE_BYTES = 64 << 10
"""Bytes that one call of `Link.recv` returns at most."""


class Link:
    """Connect at once.

    Parameters
    ----------
    host : str
        Name or address.
    port : int
        Of TCP.
    timeout_s : float or None
        Seconds in which a connection has to be made, bytes be taken, or bytes come; None waits as long as it takes.

    Raises
    ------
    NotConnected
        Nobody listens there, or does not answer in time.
    """

    def __init__(self, host: str, port: int, timeout_s: float | None = None) -> None:
        as_int("port", port, 0, 65_535)
        if timeout_s is not None:
            as_number("timeout", timeout_s, 0.001)
        self._peer = f"{host}:{port}"
        self._timeout_s = timeout_s
        try:
            self._socket = socket.create_connection((host, port), timeout_s)
        except OSError as error:
            raise NotConnected(f"{self._peer}: can't connect: {self._reason(error)}") from error
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._poll = select.poll()
        self._poll.register(self._socket, select.POLLIN)
        self.closed = False

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send all bytes.

        Parameters
        ----------
        data : bytes-like

        Raises
        ------
        NotConnected
            The connection is gone, and how many of the bytes arrived is unknown; it is closed.
        """
        self._check_open()
        try:
            self._socket.sendall(data)
        except OSError as error:
            raise self._broken("can't send", error) from error

    def recv(self) -> bytes:
        """Wait for bytes.

        Returns
        -------
        bytes
            At least one.

        Raises
        ------
        NotConnected
            The peer has closed the connection, or none came in time; it is closed.
        """
        self._check_open()
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except OSError as error:
            raise self._broken("no reply", error) from error
        if not data:
            self.close()
            raise NotConnected(f"{self._peer}: the server closed the connection")
        return data

    def is_quiet(self) -> bool:
        """Whether the connection is open and nothing has arrived, as it is between a reply and the next request.

        One that the server has closed meanwhile is not, nor one on which it sent what nobody asked for.
        """
        return not self.closed and not self._poll.poll(0)

    def close(self) -> None:
        """Close the connection, if it is open."""
        self.closed = True
        with contextlib.suppress(OSError):
            self._socket.close()

    def _check_open(self) -> None:
        if self.closed:
            raise NotConnected(f"{self._peer}: the connection was closed")

    def _broken(self, what: str, error: OSError) -> NotConnected:
        self.close()
        return NotConnected(f"{self._peer}: {what}: {self._reason(error)}")

    def _reason(self, error: OSError) -> str:
        if isinstance(error, TimeoutError):
            return f"nothing happened for {self._timeout_s} s"
        return str(error.strerror or error)
