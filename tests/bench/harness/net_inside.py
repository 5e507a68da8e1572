"""The same searches without a network: what the server's library does in a process of its own."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Queries of one batch call; a small one, so that a call is short beside a run.
_BATCH = 256


class Inside:
    """Searches of an index folder on as many threads as there are processors.

    Parameters
    ----------
    index, queries : path
        A folder, and a .npy file of float32 queries (n, dim).
    k : int
    cores : sequence of int, optional
        Processors for this process.
    """

    def __init__(self, index: Path, queries: Path, k: int, cores: Sequence[int] | None = None) -> None:
        if cores is not None:
            os.sched_setaffinity(0, cores)
        from skeg.ann import Index

        self._threads = len(os.sched_getaffinity(0))
        self._index: Any = Index.open(index)
        self._queries = np.load(queries).astype(np.float32)
        self._k = k

    def singles(self, list_size: int, seconds: float) -> float:
        """Queries a second with one query a call."""
        search, k, queries = self._index.search, self._k, self._queries

        def work(at: int, end: float) -> int:
            done = 0
            while time.perf_counter() < end:
                search(queries[(at + done) % len(queries)], k, search_list_size=list_size)
                done += 1
            return done

        return self._timed(work, seconds)

    def batches(self, list_size: int, seconds: float) -> float:
        """Queries a second with many queries a call, one call at a time on all threads."""
        blocks = [self._queries[at : at + _BATCH] for at in range(0, len(self._queries), _BATCH)]
        done, start = 0, time.perf_counter()
        while time.perf_counter() < start + seconds:
            for block in blocks:
                self._index.search(block, self._k, search_list_size=list_size, threads=self._threads)
                done += len(block)
        return done / (time.perf_counter() - start)

    def _timed(self, work: Any, seconds: float) -> float:
        """Calls a second of some work, which is given where to begin and when to end, on all threads."""
        done: list[int] = []
        start = time.perf_counter()
        steps = len(self._queries) // self._threads
        threads = [
            threading.Thread(target=lambda n=n: done.append(work(n * steps, start + seconds)))
            for n in range(self._threads)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(done) / (time.perf_counter() - start)
