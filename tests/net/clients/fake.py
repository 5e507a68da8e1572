"""A server that says what it was told to, to check what clients send and what they make of the replies."""

from __future__ import annotations

import contextlib
import socket
import threading

CLOSE = object()
"""Instead of a reply: close the connection."""

SILENCE = object()
"""Instead of a reply: none, until the client goes."""


class FakeServer:
    """Each argument is a connection: a list of (what has to arrive, what is sent then); b"" waits for nothing.

    Leaving the ``with`` block checks that exactly this was sent, over exactly so many connections.
    """

    def __init__(self, *connections):
        self._connections = connections
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(10)
        self.port = self._socket.getsockname()[1]
        self._problems = []
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, kind, error, trace):
        self._thread.join(20)
        self._socket.close()
        if kind is None:
            assert [] == self._problems

    def _serve(self):
        try:
            for steps in self._connections:
                connection, _ = self._socket.accept()
                with connection:
                    connection.settimeout(10)
                    self._talk(connection, steps)
        except OSError as error:
            self._problems.append(f"waited for the client: {error}")
        # Whoever comes now has not to be answered.
        self._socket.close()

    def _talk(self, connection, steps):
        for expected, reply in steps:
            found = b""
            while len(found) < len(expected) and (data := connection.recv(len(expected) - len(found))):
                found += data
            if found != expected:
                self._problems.append(f"expected {expected!r}, found {found!r}")
                return
            if reply is CLOSE:
                return
            if reply is SILENCE:
                break
            connection.sendall(reply)
        with contextlib.suppress(ConnectionResetError):
            extra = connection.recv(1000)
            if extra:
                self._problems.append(f"expected the end of the connection, found {extra!r}")
