"""What the connections of a process share: ticks, counts and limits."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from skeg.net.engine.engine import Engine
from skeg.net.engine.figures import publish
from skeg.net.serve.memory import EVERY_S, give_back
from skeg.net.settings import ServerSettings

if TYPE_CHECKING:
    from skeg.net.serve.connection import Connection

FULL_S = 0.002
"""Seconds that a connection waits before it looks again whether the engine takes more."""

SWEEP_S = 1.0
"""Seconds between looks for connections that have been silent for too long."""


COMPLAIN_S = 1.0
"""Seconds between lines of the log about connections that were refused; metrics count all of them."""


class Hub:
    """See the module.

    Parameters
    ----------
    loop : asyncio.AbstractEventLoop
    engine : Engine
    settings : ServerSettings
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, engine: Engine, settings: ServerSettings) -> None:
        self.engine = engine
        self.log = logging.getLogger("skeg.server")
        self.connections: set[Connection] = set()
        self.time = loop.time
        self.buffered_bytes = 0
        self.buffered_max = settings.max_buffered_bytes
        self.input_bytes = 0
        self.output_bytes = 0
        self.accepted = 0
        self.rejected = 0
        self._loop = loop
        self._settings = settings
        self._ready: list[Connection] = []
        self._is_scheduled = False
        self._give_back_at = loop.time() + EVERY_S
        self._complain_at = loop.time()
        self._sweeper = loop.call_later(SWEEP_S, self._sweep)

    # --- connections

    def add(self, connection: Connection) -> bool:
        """Whether there is room for one more."""
        if len(self.connections) >= self._settings.max_clients:
            self.rejected += 1
            if self.time() >= self._complain_at:
                self._complain_at = self.time() + COMPLAIN_S
                self.log.warning("connection refused: too many clients", extra={"peer": connection.peer})
            return False
        self.accepted += 1
        self.connections.add(connection)
        self.log.debug("connection accepted", extra={"peer": connection.peer})
        return True

    def remove(self, connection: Connection) -> None:
        """A connection is gone."""
        self.connections.discard(connection)
        self.log.debug("connection closed", extra={"peer": connection.peer})

    @property
    def fair_share(self) -> int:
        """Bytes of an unfinished request below which nobody is to blame for the memory that all take together."""
        return self.buffered_max // max(16, len(self.connections))

    @property
    def count(self) -> int:
        """Connections now."""
        return len(self.connections)

    def clients(self) -> list[str]:
        """A line about each connection, as CLIENT LIST shows it."""
        now = self.time()
        return [
            f"addr={c.peer} age={int(now - c.opened)} idle={int(now - c.last_heard)} {c.session.describe()}"
            for c in self.connections
        ]

    # --- ticks

    def begin(self, connection: Connection) -> None:
        """Begin what a connection has asked for. What can be answered at once is sent at the end of the tick.

        So replies to all who asked at about the same time go out together: to wake a process that waits for one takes
        as long as several requests, and while it is awake it need not be woken for the others.
        """
        session = connection.session
        try:
            session.advance()
        except Exception:  # a mistake of ours costs one connection
            self.log.exception("request failed", extra={"peer": connection.peer})
            session.fail()
            connection.abort()
        if session.is_in_batch or session.out:
            self.queue(connection)
        else:
            session.end_tick()
            if not self._is_scheduled and self.engine.is_to_flush:
                self._schedule()

    def queue_later(self, connection: Connection) -> None:
        """Look at a connection in the next tick; when the engine is full, only after it had time to do something."""
        if self.engine.is_full:
            self._loop.call_later(FULL_S, self.queue, connection)
        else:
            self.queue(connection)

    def queue(self, connection: Connection) -> None:
        """Look at a connection in the next tick."""
        if connection.is_queued:
            return
        connection.is_queued = True
        self._ready.append(connection)
        if not self._is_scheduled:
            self._schedule()

    def _schedule(self) -> None:
        self._is_scheduled = True
        self._loop.call_soon(self._tick)

    def _tick(self) -> None:
        """Execute together what was begun since the last tick, and answer."""
        self._is_scheduled = False
        ready, self._ready = self._ready, []
        try:
            self.engine.flush()
        except Exception:  # a mistake of ours costs the connections of this tick, which would wait forever
            self.log.exception("requests failed")
            for connection in ready:
                connection.is_queued = False
                connection.session.fail()
                connection.abort()
            ready = []
        for connection in ready:
            connection.is_queued = False
            session = connection.session
            session.end_tick()
            if session.inbox:
                self.begin(connection)
            if not connection.is_read:
                connection.read_on()
        # Nobody's answer waits for what changes take.
        self.engine.changes.flush()

    # --- silence

    def _sweep(self) -> None:
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)
        now = self.time()
        publish(self.engine)
        if now >= self._give_back_at:
            self._give_back_at = now + EVERY_S
            self.engine.run(give_back, lambda _: None)
        for connection in [*self.connections]:
            connection.look(now)
            reason = self._too_silent(connection, now)
            if reason:
                self.log.info("connection closed: %s", reason, extra={"peer": connection.peer})
                connection.abort()

    def _too_silent(self, connection: Connection, now: float) -> str:
        """Why a connection must go, if it must."""
        stall, idle = self._settings.stall_timeout_s, self._settings.idle_timeout_s
        session = connection.session
        if stall and connection.stalled is not None and now - connection.stalled > stall:
            return "it does not take its replies"
        quiet = now - connection.last_heard
        if stall and session.pending and quiet > stall:
            return "the rest of a request did not come"
        if stall and not session.gate.is_passed and now - connection.opened > stall:
            return "no password was given"
        if idle and quiet > idle and not session.slots and not session.inbox:
            return "idle"
        return ""

    # --- the end

    def drain(self) -> None:
        """Take no further requests."""
        for connection in [*self.connections]:
            connection.drain()

    def close(self) -> None:
        """Close what is left."""
        self._sweeper.cancel()
        for connection in [*self.connections]:
            connection.abort()
