"""The background thread of a store: hints, compaction, and the writing of what was acknowledged before it was durable.

It sleeps until it is woken and is not started before: an idle store wakes nobody.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from skeg.kv.compaction import Compaction, choose, write_hints
from skeg.kv.retirement import purge
from skeg.kv.shard import Shard

# What was acknowledged below `SYNC` is on stable storage after this long.
_SYNC_AFTER_S = 0.5

# Pairs in batches after which the kernels are loaded: at half a microsecond saved for each, a million pay for it.
_KERNEL_PAIRS = 20_000

# How little to rest while they are loaded, an eighth of the time worked: callers wait 0.9 ms at the 99th percentile
# instead of 5, and loading takes 0.7 s instead of 0.3, compiling 14 s instead of 4 (28 November 2026).
_LOADING_BACKLOG = 8

# Work this long without a rest: a caller that needs the interpreter waits no longer for it.
_WORK_S = 0.0005

_logger = logging.getLogger("skeg")


class _StoppedError(Exception):
    """The store is being closed."""


class Pace:
    """Rests between slices of work, as long as was worked before, or less with a larger backlog.

    Parameters
    ----------
    stop : Event
        Ends the work when it is set.
    """

    def __init__(self, stop: threading.Event) -> None:
        self.backlog = 1
        self._stop = stop
        self._resumed = time.perf_counter()

    def __call__(self) -> None:
        """Rest, if it is time to. Raises when the store is being closed."""
        if self.rest():
            raise _StoppedError

    def rest(self) -> bool:
        """Rest, if it is time to; whether the store is being closed."""
        worked = time.perf_counter() - self._resumed
        if worked < _WORK_S:
            return False
        stopped = self._stop.wait(worked / self.backlog)
        self._resumed = time.perf_counter()
        return stopped


@contextmanager
def resting(pace: Pace) -> Iterator[None]:
    """Let this thread rest between whatever functions it calls, such as those that import Numba, as `pace` says.

    For the length of the context, or until the store is being closed, it is the thread's profiler; where another one is
    at work, nobody rests.
    """
    if sys.getprofile() is not None:
        yield
        return

    def hook(*_: Any) -> None:
        if pace.rest():
            sys.setprofile(None)

    sys.setprofile(hook)
    try:
        yield
    finally:
        sys.setprofile(None)


class Maintenance:
    """Looks after shards in a thread of its own, and loads their kernels in another: that may take seconds.

    Parameters
    ----------
    shards : sequence of Shard
        What to look after.
    segment_bytes : int
        As in `StoreOptions`: what compaction writes at a time.
    """

    def __init__(self, shards: Sequence[Shard], segment_bytes: int) -> None:
        self.error: Exception | None = None
        # For statistics: compactions that ended, bytes that were moved, and segments that are being compacted.
        self.compactions = 0
        self.compacted_bytes = 0
        self.compacting = 0
        self._shards = shards
        self._segment_bytes = segment_bytes
        self._stop = threading.Event()
        self._wake = threading.Condition(threading.Lock())
        self._tidy = False
        self._pairs = 0
        self._has_kernels = False
        self._sync_at: float | None = None
        self._thread: threading.Thread | None = None
        self._loader: threading.Thread | None = None

    def tidy(self) -> None:
        """A segment was closed: see to its hint, and to compaction."""
        with self._wake:
            self._tidy = True
            self._start()

    def sync_soon(self) -> None:
        """Something was acknowledged below `SYNC`."""
        if self._sync_at is None:
            with self._wake:
                self._sync_at = time.monotonic() + _SYNC_AFTER_S
                self._start()

    def batch_written(self, pairs: int) -> None:
        """A batch was written: a store that is being filled deserves the kernels for that, once they are loaded."""
        self._pairs += pairs
        if self._pairs >= _KERNEL_PAIRS and self._loader is None and not self._has_kernels:
            self._load_soon()

    def use_kernels(self) -> None:
        """Load the kernels in the thread that asks for it, without rest."""
        for shard in self._shards:
            shard.use_kernels()
        self._has_kernels = True

    def stop(self) -> None:
        """End the threads; what is left undone is taken up again when the store is opened."""
        self._stop.set()
        with self._wake:
            threads = (self._thread, self._loader)
            self._thread = self._loader = None
            self._wake.notify_all()
        for thread in threads:
            if thread is not None:
                thread.join()

    def _start(self) -> None:
        self._thread = self._thread or self._started(self._run, "maintenance")
        self._wake.notify_all()

    def _load_soon(self) -> None:
        with self._wake:
            self._loader = self._loader or self._started(partial(self._attempt, self._load_kernels), "kernels")

    def _started(self, work: Callable[[], None], name: str) -> threading.Thread | None:
        if self._stop.is_set():
            return None
        thread = threading.Thread(target=work, name=f"skeg-kv-{name}", daemon=True)
        thread.start()
        return thread

    def _run(self) -> None:
        while not self._stop.is_set():
            with self._wake:
                while not (self._tidy or self._due() or self._stop.is_set()):
                    self._wake.wait(None if self._sync_at is None else max(0.0, self._sync_at - time.monotonic()))
                tidy, self._tidy = self._tidy, False
            self._sync_if_due()
            try:
                for shard in self._shards if tidy else ():
                    self._attempt(partial(self._tidy_shard, shard))
            except _StoppedError:
                return

    def _attempt(self, job: Callable[[], None]) -> None:
        """Do it; what goes wrong with one shard is no reason to neglect the others."""
        try:
            job()
        except _StoppedError:
            raise
        except Exception as error:  # noqa: BLE001 - without this thread the log would grow without bound
            self.error = error
            _logger.warning("background work on a key-value store failed: %s", error)

    def _load_kernels(self) -> None:
        pace = Pace(self._stop)
        pace.backlog = _LOADING_BACKLOG
        with resting(pace):
            self.use_kernels()

    def _sync_if_due(self) -> None:
        if self._due():
            self._sync_at = None
            for shard in self._shards:
                self._attempt(shard.log.sync)

    def _due(self) -> bool:
        return self._sync_at is not None and time.monotonic() >= self._sync_at

    def _tidy_shard(self, shard: Shard) -> None:
        with shard.compacting:
            pace = Pace(self._stop)

            def pause() -> None:
                self._sync_if_due()
                pace()

            purge(shard)
            write_hints(shard, pause)
            while True:
                with shard.lock:
                    sources = choose(shard, self._segment_bytes)
                if not sources:
                    return
                pace.backlog = self.compacting = len(sources)
                self.compacted_bytes += sum(source.end - source.dead for source in sources)
                try:
                    Compaction(shard, sources, pause).run()
                finally:
                    self.compacting = 0
                self.compactions += 1
