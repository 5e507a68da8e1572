"""`Engine`: a database, and the threads on which requests are executed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from skeg.ann.parallel import available_cpus
from skeg.database import Database
from skeg.errors import ParameterError
from skeg.kv import AsyncStore
from skeg.net.engine.changes import Changes
from skeg.net.engine.completions import Completions, Done, outcome
from skeg.net.engine.keys import Keys
from skeg.net.engine.quick import Rooms
from skeg.net.engine.searches import SearchPool
from skeg.net.engine.syncs import Syncs
from skeg.net.metrics import Metrics
from skeg.net.settings import ServerSettings

_OTHER_THREADS = 4
"""Threads for what is rare and may take some time: creating and dropping indexes, figures."""

QUEUE_MAX = 4096
"""Searches, or changes of vectors, that wait at a time; connections that want more are not read meanwhile."""

QUEUE_BYTES = 64 << 20
"""Bytes of them, from which on that holds too."""

COMMIT_S = 0.0005
"""Seconds of a commit that the loop waits for instead of leaving it to a thread. With 50 connections that set keys, the
loop takes 23 us for each if a thread commits and 18 if it does so itself, which pays if the disk takes 0.3 ms or less.
With one that takes 0.15, and 0.24 beside a load on the same two processors, there are 1.1 to 1.2 times as many durable
SETs a second (29 November 2026). Twice 0.24, so that on a day on which the disk is slower nothing changes."""


def worker_count(settings: ServerSettings) -> int:
    """Threads that search in each process: as many as the settings name, else the process's part of the processors."""
    return settings.workers or max(available_cpus() // settings.processes, 1)


class Traffic(Protocol):
    """What is known of the connections."""

    buffered_bytes: int
    input_bytes: int
    output_bytes: int
    accepted: int
    rejected: int

    @property
    def count(self) -> int:
        """Connections now."""

    def clients(self) -> list[str]:
        """A line about each connection."""


class Engine:
    """What all connections of a process share.

    Parameters
    ----------
    database : Database
        Open; `close` closes it.
    settings : ServerSettings
    metrics : Metrics
    loop : asyncio.AbstractEventLoop
        On the thread of which everything is called.
    """

    def __init__(
        self,
        database: Database,
        settings: ServerSettings,
        metrics: Metrics,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.database = database
        self.settings = settings
        self.metrics = metrics
        self.durability = settings.default_durability
        self.max_reply_bytes = settings.max_reply_bytes
        self.is_read_only = database.mode == "r"
        self.workers = worker_count(settings)
        self._store = AsyncStore(database.kv, patience_s=COMMIT_S)
        self._loop = loop
        self._completions = Completions(loop.call_soon_threadsafe)
        self._syncs = Syncs(loop)
        self.keys = Keys(self._store, metrics)
        self.searches = SearchPool(
            self.workers, self._completions, metrics.batch_size, is_at_once=settings.workers is None
        )
        self.rooms = Rooms()
        self.changes = Changes(self._completions, self._syncs)
        self._others = ThreadPoolExecutor(_OTHER_THREADS, thread_name_prefix="skeg-other")
        # What takes minutes, one after the other: it must not keep the others from those threads.
        self._long = ThreadPoolExecutor(1, thread_name_prefix="skeg-long")
        # Set by whoever has the connections.
        self.traffic: Traffic

    @property
    def is_full(self) -> bool:
        """Whether so much waits that nobody may add to it."""
        searches, changes = self.searches, self.changes
        if not searches.depth and not changes.depth:
            return False
        is_long = searches.depth >= QUEUE_MAX or changes.depth >= QUEUE_MAX
        return is_long or searches.nbytes + changes.nbytes >= QUEUE_BYTES

    def flush(self) -> None:
        """Execute together what was asked for since the last time, but changes; at the end of a tick."""
        self.keys.run()
        self.searches.flush()

    @property
    def is_to_flush(self) -> bool:
        """Whether searches or changes wait for being begun."""
        return self.searches.depth > 0 or self.changes.is_ready

    def create_index(self, name: str, dim: int, kind: str | None, backend: str) -> None:
        """Make an index as `Database.create_index` does, unless there are so many that no more may be made."""
        count, most = len(self.database.indexes()), self.settings.max_indexes
        if count >= most:
            raise ParameterError("number of indexes", count, f"fewer than {most} to make another (setting max_indexes)")
        self.database.create_index(name, dim, kind=kind, backend=backend)

    def run(self, function: Callable[[], Any], done: Done, *, is_long: bool = False) -> None:
        """Call a function on another thread; ``done`` gets its result or the `SkegError` that it raised."""
        (self._long if is_long else self._others).submit(lambda: self._completions.post([(done, outcome(function))]))

    async def close(self) -> None:
        """Finish what was begun, commit and close the database."""
        await self.changes.end()
        self._syncs.close()
        await self._loop.run_in_executor(None, self._close)

    def _close(self) -> None:
        self.searches.close()
        self._others.shutdown()
        self._long.shutdown()
        self._store.close()
        self.database.close()
