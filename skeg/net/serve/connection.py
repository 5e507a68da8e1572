"""One socket of a client, between asyncio and a session."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any, cast

from skeg.net.serve.hub import Hub
from skeg.net.session import Session

INBOX_MAX = 1024
"""Requests that have arrived and not begun, after which a connection is not read."""

INBOX_BYTES = 4 << 20
"""Bytes of such requests, after which it is not read either."""

WRITE_BUFFER_BYTES = 1 << 20
"""Bytes that a client has not taken, after which nothing is executed for it."""

KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S = 60, 10


class Connection(asyncio.Protocol):
    """See the module; also what a session knows as its link.

    Parameters
    ----------
    hub : Hub
        What connections share.
    make : callable
        Makes the session, given this.
    """

    def __init__(self, hub: Hub, make: Callable[[Connection], Session]) -> None:
        self._hub = hub
        self.answered = hub.engine.metrics.answered
        self._make = make
        self.session: Session
        self.peer = ""
        self.is_queued = False
        self.opened = self.last_heard = hub.time()
        # Since when the client has not taken what was written.
        self.stalled: float | None = None
        self.counted = 0
        self._transport: asyncio.Transport
        self.is_read = True
        # Bytes of requests that arrived since the inbox was empty.
        self._waiting = 0
        # Bytes that were written, and those that the client had taken when it was looked at.
        self._written = self._taken = 0
        self._is_closed = False

    # --- asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet nobody; refuse who is too many."""
        self._transport = cast("asyncio.Transport", transport)
        self.session = self._make(self)
        self.peer = _name(transport.get_extra_info("peername"))
        if not self._hub.add(self):
            self._is_closed = True
            self._transport.write(self.session.FULL)
            self._transport.close()
            return
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        _keep_alive(transport.get_extra_info("socket"))

    def data_received(self, data: bytes) -> None:
        """Hand over what arrived, and look at it in this tick."""
        hub, session = self._hub, self.session
        if self._is_closed:
            return
        self.last_heard = hub.time()
        hub.input_bytes += len(data)
        session.receive(data)
        nbytes = len(data)
        if session.pending != self.counted:
            nbytes += self.counted - session.pending
            if not self._may_keep(session.pending):
                self.abort()
                return
        if session.inbox or session.is_ending:
            if not self.is_queued:
                hub.begin(self)
            if session.inbox:
                self._count_waiting(nbytes)
            else:
                self._waiting = 0

    def _may_keep(self, pending: int) -> bool:
        """Count the bytes of an unfinished request; whether there may be so many."""
        hub = self._hub
        hub.buffered_bytes += pending - self.counted
        self.counted = pending
        if hub.buffered_bytes <= hub.buffered_max or pending <= hub.fair_share:
            return True
        hub.log.warning("connection closed: too many bytes of unfinished requests", extra={"peer": self.peer})
        return False

    def _count_waiting(self, nbytes: int) -> None:
        """Note that so many more bytes are of requests that have not begun; read no further if they are too many."""
        self._waiting += nbytes
        if self.is_read and (len(self.session.inbox) > INBOX_MAX or self._waiting > INBOX_BYTES):
            self.is_read = False
            self._transport.pause_reading()

    def pause_writing(self) -> None:
        """The client does not take what it asked for."""
        self.stalled = self._hub.time()
        self.session.is_paused = True

    def resume_writing(self) -> None:
        """The client has taken it."""
        self.stalled = None
        self.session.is_paused = False
        self._hub.queue(self)

    def connection_lost(self, _: Exception | None) -> None:
        """Forget the connection; what it began goes on."""
        self._is_closed = True
        self._hub.buffered_bytes -= self.counted
        self.counted = 0
        self.session.inbox.clear()
        self.session.is_paused = True
        self._hub.remove(self)

    # --- what a session asks for

    def send(self, data: bytes) -> None:
        """Write to the client."""
        if not self._is_closed:
            self._hub.output_bytes += len(data)
            self._written += len(data)
            self._transport.write(data)

    def wake(self, _: Session) -> None:
        """Look at the session in the next tick, or a little later if it would find no room."""
        if not self.is_queued and not self._is_closed:
            self._hub.queue_later(self)

    def finish(self) -> None:
        """Close when everything that was written is out."""
        if not self._is_closed:
            self._is_closed = True
            self._transport.close()

    # --- what the server asks for

    def look(self, now: float) -> None:
        """Note whether the client takes what was written; now and then, as asyncio tells only if that is much."""
        left = self._transport.get_write_buffer_size()
        taken = self._written - left
        if not left or (taken != self._taken and not self.session.is_paused):
            self.stalled = None
        elif self.stalled is None:
            self.stalled = now
        self._taken = taken

    def read_on(self) -> None:
        """Read on, which had ended, if the requests that have arrived are begun."""
        if self._is_closed:
            return
        if not self.session.inbox:
            self._waiting = 0
        if len(self.session.inbox) <= INBOX_MAX // 2 and self._waiting <= INBOX_BYTES:
            self.is_read = True
            self._transport.resume_reading()

    def drain(self) -> None:
        """Take no further requests; close when those that have arrived are answered."""
        if not self._is_closed:
            self._transport.pause_reading()
            self.is_read = True
            self.session.is_ending = True
            self._hub.queue(self)

    def abort(self) -> None:
        """Close at once."""
        self._is_closed = True
        self._transport.abort()


def _name(peer: Any) -> str:
    return f"{peer[0]}:{peer[1]}" if isinstance(peer, tuple) else str(peer or "unix")


def _keep_alive(sock: Any) -> None:
    """Find out when the peer is gone without a word."""
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, seconds in (("TCP_KEEPIDLE", KEEPALIVE_IDLE_S), ("TCP_KEEPINTVL", KEEPALIVE_INTERVAL_S)):
        if hasattr(socket, option):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), seconds)
