"""From worker threads back to the thread of the event loop."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from skeg.errors import SkegError

Done = Callable[[Any], None]
"""Called on the thread of the loop with a result, or with the exception that came instead."""


_log = logging.getLogger("skeg.server")


def outcome(function: Callable[[], Any]) -> Any:
    """What a function returns, or the `failure` that it ends with."""
    try:
        return function()
    except Exception as error:  # noqa: BLE001 - the request is answered, and the thread goes on
        return failure(error)


def failure(error: Exception) -> SkegError:
    """An exception as an answer to a request; a mistake of ours is logged and becomes a `SkegError`."""
    if isinstance(error, SkegError):
        return error
    _log.error("request failed", exc_info=error)
    return SkegError("internal error; the log of the server tells more")


class Completions:
    """Results on their way to the loop; it is woken once for all that are there.

    Parameters
    ----------
    wake : callable
        Has the loop call its argument soon, from any thread (``loop.call_soon_threadsafe``).
    """

    def __init__(self, wake: Callable[[Callable[[], None]], Any]) -> None:
        self._wake = wake
        self._waiting: deque[tuple[Done, Any]] = deque()
        self._is_woken = False

    def post(self, results: list[tuple[Done, Any]]) -> None:
        """Deliver results, in order; from any thread."""
        self._waiting.extend(results)
        # Appended first and looked at later than the flag is cleared: nothing is left behind. Two wake-ups do no harm.
        if not self._is_woken:
            self._is_woken = True
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
                self._wake(self._deliver)

    def _deliver(self) -> None:
        self._is_woken = False
        deliver([self._waiting.popleft() for _ in range(len(self._waiting))])


def deliver(results: list[tuple[Done, Any]]) -> None:
    """Deliver results now; on the thread of the loop."""
    for done, result in results:
        try:
            done(result)
        except Exception:  # noqa: BLE001 - a mistake of ours costs one reply, not those behind it
            _log.exception("reply failed")
