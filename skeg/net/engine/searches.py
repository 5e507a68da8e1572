"""Searches on a few threads: those of one index that wait together are answered by one call of a kernel.

Which searches go together, and to which thread, is decided on the thread of the loop alone, so nothing is locked. Of
those that arrive while all threads are busy, one call takes as many as there are.

To wake a thread and to be woken by it takes longer than a search of a graph. Where another thread could not run at the
same time anyway, as each processor has a process of its own, quick searches are answered on the thread of the loop, a
few at a time. On one processor and 117,659 x 384, 8 connections that ask for one query at a time, that is 1.5 times
as many queries a second.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, NamedTuple

import numpy as np

from skeg.errors import SkegError
from skeg.net.engine.completions import Completions, Done, outcome
from skeg.vector_index import VectorIndex

BATCH_MAX = 64
"""Queries of one call. More would not be quicker, and all of them wait for the last."""

HERE_MAX = 16
"""Queries that are answered on the thread of the loop before it looks after connections again: some 0.4 ms with the
lists that recall .95 takes, 3 ms with the longest."""

QUICK_LIST_SIZE = 128
"""Longest list of a search that is quick."""

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


class Found(NamedTuple):
    """Hits of one query, as lists: ids, scores, and payloads if they were asked for."""

    ids: list[int]
    scores: list[float]
    payloads: list[Any] | None = None


class Search:
    """One request.

    Parameters
    ----------
    plan : Plan
    queries : bytes
        float32, of one query or of ``count``.
    encode : callable
        Makes the reply of a list of `Found`; called on the thread that searches.
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
        encode: Callable[[list[Found]], bytes],
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
        Threads; 0 to answer quick searches on the thread of the loop, and others on one thread.
    completions : Completions
        Where results go.
    batch_sizes : callable
        Told how many queries each call of a kernel had.
    """

    def __init__(self, workers: int, completions: Completions, batch_sizes: Callable[[int], None]) -> None:
        self._completions = completions
        self._batch_sizes = batch_sizes
        # Searches that can be answered together by plan, the plan asked for first in front; others under themselves.
        self._queues: dict[Any, deque[Search]] = {}
        self._work: SimpleQueue[list[Search] | None] = SimpleQueue()
        self._idle = workers or 1
        self._answers_here = workers == 0
        self._here: dict[Any, deque[Search]] = {}
        self.depth = 0
        self.nbytes = 0  # of queries that wait
        self._threads: list[threading.Thread] = []

    def submit(self, search: Search) -> None:
        """Queue a search that `flush` will hand to a thread."""
        is_plain = search.filter is None and not search.with_payload
        key: Any = search.plan if is_plain and search.count is None else search
        queues: dict[Any, deque[Search]] = self._queues
        if self._answers_here and is_plain and (search.count or 1) <= HERE_MAX and search.plan.is_quick:
            queues = self._here
        queue = queues.get(key)
        if queue is None:
            queues[key] = deque((search,))
        else:
            queue.append(search)
        self.depth += 1
        self.nbytes += len(search.queries)

    def flush(self) -> None:
        """Hand what is queued to the threads that have nothing to do."""
        if self._here:
            self._answer_here()
        if self._queues and not self._threads:
            self._start_threads()
        while self._idle and self._queues:
            searches = _take(self._queues, self._idle, BATCH_MAX)
            self.depth -= len(searches)
            self.nbytes -= sum([len(search.queries) for search in searches])
            self._idle -= 1
            self._work.put(searches)

    def _answer_here(self) -> None:
        """Answer some quick searches; the rest in the next round of the loop."""
        searches = _take(self._here, 1, HERE_MAX)
        self.depth -= len(searches)
        self.nbytes -= sum([len(search.queries) for search in searches])
        for done, answer in _answer(searches):
            done(answer)
        self._batch_sizes(sum(search.count or 1 for search in searches))
        if self._here:
            self._completions.post([(lambda _: self.flush(), None)])

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
            self._completions.post([(self._free, None), *answers])
            self._batch_sizes(sum(search.count or 1 for search in searches))

    def _free(self, _: None) -> None:
        """A thread has nothing to do any more."""
        self._idle += 1
        self.flush()


def _take(queues: dict[Any, deque[Search]], shares: int, most: int) -> list[Search]:
    """The next searches that can be answered together: a share of those there are."""
    key, queue = next(iter(queues.items()))
    count = min(max(math.ceil(len(queue) / shares), SHARE_MIN), len(queue), most)
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
    queries = np.frombuffer(b"".join([search.queries for search in searches]), np.float32)
    hits = plan.target.search(queries.reshape(len(searches), -1), plan.k, search_list_size=plan.list_size, threads=1)
    rows = zip(searches, hits.ids.tolist(), hits.scores.tolist(), hits.counts.tolist(), strict=True)
    return [search.encode([Found(ids[:n], scores[:n])]) for search, ids, scores, n in rows]


def _alone(search: Search) -> bytes:
    """The answer of one search."""
    plan = search.plan
    queries = np.frombuffer(search.queries, np.float32)
    how: dict[str, Any] = {"search_list_size": plan.list_size}
    if search.filter is not None:
        how["filter"] = search.filter
    if search.with_payload:
        how["with_payload"] = True
    if search.count is None:
        hits = plan.target.search(queries, plan.k, **how)
        return search.encode([Found(hits.ids.tolist(), hits.scores.tolist(), hits.payloads)])
    hits = plan.target.search(queries.reshape(search.count, -1), plan.k, threads=1, **how)
    counts, ids, scores = hits.counts.tolist(), hits.ids.tolist(), hits.scores.tolist()
    payloads = hits.payloads or [None] * search.count
    rows = zip(ids, scores, payloads, counts, strict=True)
    return search.encode([Found(i[:n], s[:n], None if p is None else p[:n]) for i, s, p, n in rows])
