"""Metrics and health over HTTP, on asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

TIMEOUT_S = 10
"""Seconds that a request may take to arrive, and its response to be taken."""

WEB_MAX = 64
"""Connections at a time: a scrape and some probes need few, and others must not use up the files of the process."""


class Web(asyncio.Protocol):
    """One connection: one request, one response.

    Parameters
    ----------
    loop : asyncio.AbstractEventLoop
    answer : callable
        Given what has arrived, the response, or None if it is not a whole request yet.
    connections : set
        All of the process that are open; this one is among them while it is.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, answer: Callable[[bytes], bytes | None], connections: set[Web]
    ) -> None:
        self._loop = loop
        self._answer = answer
        self._connections = connections
        self._head = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for a request, but not for long."""
        self._transport = cast("asyncio.Transport", transport)
        self._timer = self._loop.call_later(TIMEOUT_S, self._transport.abort)
        if len(self._connections) >= WEB_MAX:
            self._transport.abort()
            return
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        """Respond once the request is there."""
        self._head += data
        response = self._answer(self._head)
        if response is not None:
            self._transport.write(response)
            self._transport.close()

    def connection_lost(self, _: Exception | None) -> None:
        """Forget it."""
        self._timer.cancel()
        self._connections.discard(self)
