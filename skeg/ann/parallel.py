"""Run kernels on ordinary threads: they release the GIL, so threads scale, and Ctrl-C is seen between two calls."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Self

from skeg.checks import as_int

POLL_S = 0.05
"""How long the calling thread sleeps between two looks for Ctrl-C."""


def available_cpus() -> int:
    """Number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def thread_count(threads: int | None) -> int:
    """``threads`` checked, or one for each available processor."""
    return available_cpus() if threads is None else as_int("threads", threads, 1, 1024)


class Workers:
    """A fixed set of threads that share out numbered pieces of work.

    Pieces are taken in order, each by the next free thread, so a caller whose pieces write to separate places gets the
    same result from any number of threads.

    Parameters
    ----------
    threads : int
        How many pieces run at a time; with 1 they run on the calling thread.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="skeg") if threads > 1 else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def run(self, n_pieces: int, work: Callable[[int, int], None], done: Callable[[], None] | None = None) -> None:
        """Call ``work(piece, worker)`` for every piece; ``done()`` is called on the calling thread now and then.

        An exception stops the handing out of pieces and is raised here, as is KeyboardInterrupt. Of several it is that
        of the first piece: what a caller is told does not depend on the threads either.
        """
        if self._pool is None or n_pieces == 1:
            for piece in range(n_pieces):
                work(piece, 0)
                if done is not None:
                    done()
            return
        state = _Handout(n_pieces, work)
        futures: set[Future[None]] = {self._pool.submit(state.run, w) for w in range(min(self.threads, n_pieces))}
        try:
            pending = futures
            while pending:
                _, pending = wait(pending, timeout=POLL_S)
                if done is not None and not state.failures:
                    done()
        finally:
            state.stop()
            wait(futures)
        if state.failures:
            raise state.failures[min(state.failures)]


_shared: dict[tuple[int, int], Workers] = {}


def shared_workers(threads: int) -> Workers:
    """Workers that live as long as the process, for calls too short to start threads; a forked child gets its own."""
    key = (os.getpid(), threads)
    workers = _shared.get(key)
    if workers is None:
        workers = _shared.setdefault(key, Workers(threads))
    return workers


class _Handout:
    """Hands out piece numbers to threads until they are used up or `stop` is called."""

    def __init__(self, n_pieces: int, work: Callable[[int, int], None]) -> None:
        self._next = 0
        self._end = n_pieces
        self._work = work
        self._lock = threading.Lock()
        self.failures: dict[int, BaseException] = {}

    def stop(self) -> None:
        with self._lock:
            self._end = self._next

    def run(self, worker: int) -> None:
        while True:
            with self._lock:
                piece = self._next
                if piece >= self._end:
                    return
                self._next += 1
            try:
                self._work(piece, worker)
            except BaseException as error:  # noqa: BLE001 - raised by the thread that handed out the pieces
                self.failures[piece] = error
                self.stop()
                return


def spans(total: int, size: int) -> list[tuple[int, int]]:
    """Consecutive (start, stop) of at most ``size`` that cover ``range(total)``."""
    return [(start, min(start + size, total)) for start in range(0, total, size)]
