"""Searches: quick ones at once, others on a few threads, where those of one index that wait are answered together.

To wake a thread and to be woken by it takes longer than a search of a graph in memory, and a batch of such searches is
no quicker than one after the other. So they are answered on the thread of the loop, a few for each connection at a
time: 117,659 x 384 on two processors, 8 connections that ask for one query at a time, 25,400 queries a second instead
of 15,400 with two threads, and a p99 of 0.5 ms instead of 0.9. When such searches take long again and again, as their
pages have to be read from the disk, threads answer for a while.

Which searches go together, and to which thread, is decided on the thread of the loop alone, so nothing is locked. Of
those that arrive while all threads are busy, one call takes as many as there are.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np

from skeg.ann.hits import Hits
from skeg.errors import SkegError
from skeg.net.engine.completions import Completions, Done, failure, outcome
from skeg.vector_index import VectorIndex

BATCH_MAX = 64
"""Queries of one call. More would not be quicker, and all of them wait for the last."""

QUICK_LIST_SIZE = 128
"""Longest list of a search that is quick."""

SLOW_S = 0.002
"""Seconds of a query that was not quick after all."""

SLOW_SHARE = 0.05
"""Share of the time of the loop that such queries may take: for the rest threads answer."""

SLOW_CREDIT_S = 0.02
"""Seconds that they may take in a row. Now and then one is slow because another process has the processor."""

BACKLOG_S = SLOW_CREDIT_S / SLOW_SHARE
"""Seconds of the loop of which so many are the share."""

SHARE_MIN = 4
"""Queries below which it is not worth while to wake another thread for a part of them."""


class Plan(NamedTuple):
    """What searches have in common that can be answered together."""

    target: VectorIndex
    k: int
    list_size: int | None

    @property
    def is_quick(self) -> bool:
        """Whether it takes some microseconds rather than milliseconds: walks of a graph with short lists do."""
        is_short = self.k <= QUICK_LIST_SIZE and (self.list_size or 0) <= QUICK_LIST_SIZE
        return is_short and self.target.backend == "disk" and len(self.target.fragments) == 1


Encode = Callable[[Hits], bytes]
"""Makes the reply of the hits, of one query or of many; called on the thread that searches."""

Quick = Callable[[Plan, bytes], bytes | None]
"""Answers one query, or leaves it to others; see `skeg.net.engine.quick`."""


class Search:
    """One request.

    Parameters
    ----------
    plan : Plan
    queries : bytes
        float32, of one query or of ``count``.
    encode : Encode
    done : callable
        Told the reply, or a `SkegError`.
    count : int, optional
        Number of queries; None for one that is answered as such.
    filter : str, optional
    with_payload : bool
    """

    __slots__ = ("count", "done", "encode", "filter", "plan", "queries", "with_payload")

    def __init__(
        self,
        plan: Plan,
        queries: bytes,
        encode: Encode,
        done: Done,
        *,
        count: int | None = None,
        filter: str | None = None,  # noqa: A002 - as for `Index.search`
        with_payload: bool = False,
    ) -> None:
        self.plan = plan
        self.queries = queries
        self.encode = encode
        self.done = done
        self.count = count
        self.filter = filter
        self.with_payload = with_payload


class SearchPool:
    """Threads that search; used on the thread of the loop alone.

    Parameters
    ----------
    workers : int
        Threads.
    is_at_once : bool
        Whether quick searches are answered on the thread of the loop.
    completions : Completions
        Where results go.
    batch_sizes : callable
        Told how many queries each call of a kernel had.
    """

    def __init__(
        self, workers: int, completions: Completions, batch_sizes: Callable[[int], None], *, is_at_once: bool
    ) -> None:
        self._completions = completions
        self._batch_sizes = batch_sizes
        # Searches that can be answered together by plan, the plan asked for first in front; others under themselves.
        self._queues: dict[Any, deque[Search]] = {}
        self._work: SimpleQueue[list[Search] | None] = SimpleQueue()
        self._idle = workers
        # When the slow queries so far would all have fitted into their share: a time to come means they did not.
        self._slow_until = 0.0 if is_at_once else math.inf
        self.depth = 0
        self.nbytes = 0  # of queries that wait
        self._threads: list[threading.Thread] = []

    def is_at_once(self, now: float) -> bool:
        """Whether `at_once` is to answer quick queries now, by `time.perf_counter`, rather than threads."""
        return self._slow_until - now <= BACKLOG_S

    def at_once(
        self, plan: Plan, queries: bytes, count: int | None, encode: Encode, quick: Quick | None = None
    ) -> bytes | SkegError:
        """The answer to a quick search, or why there is none; ``quick`` is tried first. Others as `Search`."""
        began = time.perf_counter()
        answer: bytes | SkegError
        try:
            answer = (quick(plan, queries) if quick is not None else None) or encode(_hits(plan, queries, count))
        except Exception as error:  # noqa: BLE001 - the request is answered, and the loop goes on
            answer = failure(error)
        took = time.perf_counter() - began
        if took > SLOW_S * (count or 1):
            self._slow_until = max(self._slow_until, began) + took / SLOW_SHARE
        self._batch_sizes(count or 1)
        return answer

    def submit(self, search: Search) -> None:
        """Queue a search that `flush` will hand to a thread."""
        is_plain = search.filter is None and not search.with_payload
        key: Any = search.plan if is_plain and search.count is None else search
        queue = self._queues.get(key)
        if queue is None:
            self._queues[key] = deque((search,))
        else:
            queue.append(search)
        self.depth += 1
        self.nbytes += len(search.queries)

    def flush(self) -> None:
        """Hand what is queued to the threads that have nothing to do."""
        if self._queues and not self._threads:
            self._start_threads()
        while self._idle and self._queues:
            searches = _take(self._queues, self._idle)
            self.depth -= len(searches)
            self.nbytes -= sum([len(search.queries) for search in searches])
            self._idle -= 1
            self._work.put(searches)

    def _start_threads(self) -> None:
        for number in range(self._idle):
            thread = threading.Thread(target=self._run, name=f"skeg-search-{number}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self) -> None:
        """End the threads once what they have was answered; from any thread, when nothing more is submitted."""
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while True:
            searches = self._work.get()
            if searches is None:
                return
            answers = _answer(searches)
            self._completions.post([(self._free, sum(search.count or 1 for search in searches)), *answers])

    def _free(self, n_queries: int) -> None:
        """A thread has answered so many queries and has nothing to do any more."""
        self._batch_sizes(n_queries)
        self._idle += 1
        self.flush()


def _take(queues: dict[Any, deque[Search]], shares: int) -> list[Search]:
    """The next searches that can be answered together: a share of those there are."""
    key, queue = next(iter(queues.items()))
    count = min(max(math.ceil(len(queue) / shares), SHARE_MIN), len(queue), BATCH_MAX)
    taken = [queue.popleft() for _ in range(count)]
    del queues[key]
    if queue:
        queues[key] = queue  # behind those of other plans
    return taken


def _answer(searches: list[Search]) -> list[tuple[Done, Any]]:
    """What to tell each of some searches."""
    if len(searches) > 1:
        together = outcome(lambda: _together(searches))
        if not isinstance(together, SkegError):
            return [(search.done, reply) for search, reply in zip(searches, together, strict=True)]
    # One of them can't be answered: the others can.
    return [(search.done, outcome(partial(_alone, search))) for search in searches]


def _together(searches: list[Search]) -> list[bytes]:
    """Answers of plain searches by one call."""
    plan = searches[0].plan
    hits = _hits(plan, b"".join([search.queries for search in searches]), len(searches))
    rows = zip(searches, hits.ids, hits.scores, hits.counts.tolist(), strict=True)
    return [search.encode(Hits(ids[:n], scores[:n], hits.metric)) for search, ids, scores, n in rows]


def _alone(search: Search) -> bytes:
    """The answer of one search."""
    how: dict[str, Any] = {"filter": search.filter, "with_payload": search.with_payload}
    return search.encode(_hits(search.plan, search.queries, search.count, **how))


def _hits(plan: Plan, queries: bytes, count: int | None, **how: Any) -> Hits:
    """Hits of one query, or of as many."""
    vectors = np.frombuffer(queries, np.float32)
    if count is None:
        return plan.target.search(vectors, plan.k, search_list_size=plan.list_size, **how)
    vectors = vectors.reshape(count, -1)
    return plan.target.search(vectors, plan.k, search_list_size=plan.list_size, threads=1, **how)
