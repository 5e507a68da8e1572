"""A fixed number of clients, lent to one thread at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from skeg.checks import as_int, as_number
from skeg.errors import ClosedError, NotConnected, ProtocolError


class _Client(Protocol):
    @property
    def closed(self) -> bool: ...

    def close(self) -> None: ...


C = TypeVar("C", bound=_Client)


class ConnectionPool(Generic[C]):
    """Make clients when they are needed, and keep them for the next who needs one.

    Parameters
    ----------
    factory : callable
        Makes a connected client, such as ``lambda: connect("db.example", password=...)``.
    size : int
        Most clients at a time.
    timeout : float
        Seconds to wait for one when all are lent.
    """

    def __init__(self, factory: Callable[[], C], size: int = 8, timeout: float = 5.0) -> None:
        self._factory = factory
        self._size = as_int("size", size, 1)
        self._timeout = as_number("timeout", timeout, 0)
        self._changed = threading.Condition()
        self._idle: list[C] = []  # last used last: those that are rarely needed stay at the front
        self._made = 0
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def client(self) -> Iterator[C]:
        """Borrow a client for a ``with`` block.

        One that the block closed is not lent again, nor one whose connection broke in it.

        Yields
        ------
        client
            What the factory made.

        Raises
        ------
        NotConnected
            All clients are lent and none came back in time, or a new one can't connect.
        ClosedError
            The pool was closed.
        """
        client = self._take()
        is_good = False
        try:
            yield client
            is_good = True
        except (NotConnected, ProtocolError):
            raise
        except BaseException:
            is_good = True  # the block's own trouble, not the connection's
            raise
        finally:
            self._give_back(client, is_good=is_good)

    def close(self) -> None:
        """Close all clients: those that are lent when they come back."""
        with self._changed:
            self._closed = True
            idle, self._idle = self._idle, []
            self._made -= len(idle)
            self._changed.notify_all()
        for client in idle:
            client.close()

    def _take(self) -> C:
        deadline = time.monotonic() + self._timeout
        with self._changed:
            while not self._idle and self._made >= self._size and not self._closed:
                if not self._changed.wait(deadline - time.monotonic()):
                    raise NotConnected(f"none of {self._size} clients became free in {self._timeout} s")
            if self._closed:
                raise ClosedError("the pool was closed")
            if self._idle:
                return self._idle.pop()
            self._made += 1
        try:
            return self._factory()
        except BaseException:
            self._forget()
            raise

    def _give_back(self, client: C, *, is_good: bool) -> None:
        with self._changed:
            if is_good and not client.closed and not self._closed:
                self._idle.append(client)
                self._changed.notify()
                return
        self._forget()
        client.close()

    def _forget(self) -> None:
        with self._changed:
            self._made -= 1
            self._changed.notify()
