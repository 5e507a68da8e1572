"""`Server`: one process that serves a database."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from skeg.database import Database
from skeg.net import http
from skeg.net.access import Access, Gate
from skeg.net.binary_commands import HANDLERS
from skeg.net.binary_session import BinarySession
from skeg.net.commands import TABLE
from skeg.net.engine.engine import Engine
from skeg.net.engine.figures import metrics_text
from skeg.net.limits import Limits
from skeg.net.metrics import Metrics
from skeg.net.resp_session import RespSession
from skeg.net.serve.connection import Connection
from skeg.net.serve.hub import Hub
from skeg.net.serve.listeners import place_of
from skeg.net.serve.web import Web
from skeg.net.settings import ServerSettings

SWITCH_S = 0.0001
"""Seconds after which a thread that waits for the interpreter gets it. Python's 5 ms would keep a finished search, or
a commit, waiting while the loop parses."""

WORDS_MAX = 1 << 18
"""Words of a command: parsing so many takes some 30 ms."""

DRAIN_STEP_S = 0.01


class Server:
    """Serves a database until it is told to stop.

    Parameters
    ----------
    database : Database
        Open and warm; closed at the end.
    settings : ServerSettings
    access : Access
    metrics : Metrics
    """

    def __init__(self, database: Database, settings: ServerSettings, access: Access, metrics: Metrics) -> None:
        self._database = database
        self._settings = settings
        self._access = access
        self._metrics = metrics
        self._log = logging.getLogger("skeg.server")
        self._limits = Limits(
            bulk_bytes_max=settings.max_request_bytes, request_bytes_max=settings.max_request_bytes, args_max=WORDS_MAX
        )
        self._operations = {name: number for number, name in enumerate(TABLE.operations)}
        self._numbers = 0
        self._webs: set[Web] = set()
        self._stopping: asyncio.Event
        self.hub: Hub
        self.engine: Engine

    async def run(self, sockets: Mapping[str, socket.socket], started: Callable[[], None]) -> None:
        """Serve on listening sockets until SIGTERM or SIGINT, then finish what was begun.

        Parameters
        ----------
        sockets : mapping
            Listening sockets by protocol.
        started : callable
            Called when connections are taken.
        """
        loop = asyncio.get_running_loop()
        self.open(loop)
        self._mind_signals(loop)
        servers = [await loop.create_server(self.protocol(name), sock=sock) for name, sock in sockets.items()]
        for name, sock in sockets.items():
            self._log.info("listening on %s (%s)", place_of(sock), name)
        started()
        await self._stopping.wait()
        for server in servers:
            server.close()
        await self._close()

    async def run_adopting(self, channel: socket.socket, started: Callable[[], None]) -> None:
        """Serve connections that another process accepts and sends over a channel, until it closes that or a signal."""
        loop = asyncio.get_running_loop()
        self.open(loop)
        self._mind_signals(loop)
        channel.setblocking(False)
        tasks: set[asyncio.Task[Any]] = set()

        def adopt() -> None:
            try:
                name, descriptors, _, _ = socket.recv_fds(channel, 16, 1)
            except BlockingIOError:
                return
            if not name:
                loop.remove_reader(channel)
                self._stopping.set()
            for descriptor in descriptors:
                sock = socket.socket(fileno=descriptor)
                sock.setblocking(False)
                task = loop.create_task(self._adopt(name.decode(), sock))
                tasks.add(task)
                task.add_done_callback(tasks.discard)

        loop.add_reader(channel, adopt)
        started()
        await self._stopping.wait()
        loop.remove_reader(channel)
        await self._close()

    async def _adopt(self, name: str, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):  # it was closed meanwhile
            await asyncio.get_running_loop().connect_accepted_socket(self.protocol(name), sock)

    def stop(self) -> None:
        """Have `run` end; from the thread of the loop."""
        self._stopping.set()

    # --- protocols

    def protocol(self, name: str) -> Callable[[], asyncio.Protocol]:
        """What makes the protocol of a connection."""
        if name == "metrics":
            return partial(Web, asyncio.get_running_loop(), self._web, self._webs)
        make = self._resp if name == "resp" else self._binary
        return partial(Connection, self.hub, make)

    def _resp(self, connection: Connection) -> RespSession:
        return RespSession(connection, self.engine, TABLE, self._gate(), self._number())

    def _binary(self, connection: Connection) -> BinarySession:
        return BinarySession(connection, self.engine, HANDLERS, self._operations, self._gate(), self._number())

    def _gate(self) -> Gate:
        return Gate(self._access, self._limits, self._metrics.auth_failure)

    def _number(self) -> int:
        self._numbers += 1
        return self._numbers

    def _web(self, head: bytes) -> bytes | None:
        return http.respond(head, lambda: metrics_text(self.engine), lambda: True, self._readiness)

    def _readiness(self) -> tuple[bool, str]:
        if self._stopping.is_set():
            return False, "stopping"
        return True, "ready"

    # --- start and end

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Be ready for connections; `run` does it."""
        self._stopping = asyncio.Event()
        self.engine = Engine(self._database, self._settings, self._metrics, loop)
        self.hub = Hub(loop, self.engine, self._settings)
        self.engine.traffic = self.hub

    def _mind_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        sys.setswitchinterval(SWITCH_S)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        # What is there now stays: no collection needs to look at it again.
        gc.collect()
        gc.freeze()

    async def _close(self) -> None:
        """Answer what has arrived, commit, close."""
        self._log.info("stopping")
        loop = asyncio.get_running_loop()
        end = loop.time() + self._settings.drain_timeout_s
        self.hub.drain()
        while self.hub.connections and loop.time() < end:  # noqa: ASYNC110 - sessions know no events
            await asyncio.sleep(DRAIN_STEP_S)
        self.hub.close()
        await self.engine.close()
        self._log.info("stopped")
