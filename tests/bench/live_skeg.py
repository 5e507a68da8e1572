"""What skeg's own process is asked for while indexes that change are measured: `Skeg`, method by method."""

from __future__ import annotations

import gc
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from harness.data import K
from harness.living import new_vectors
from kv_peers import quantiles

from skeg.ann import Index, build_index
from skeg.ann.live.format import RECORD_BYTES
from skeg.ann.live.state import MERGE_ROWS_MIN, MERGE_SHARE

CHUNK = 1000
# Rows that load or compile every kernel before the clock starts: enough for merges in the foreground and behind.
WARM_ROWS, WARM_S = 6000, 60.0
# Single adds between two looks at the number of merges, and how many of them are followed by a search for the id.
BLOCK, CHECKED = 100, 10
# Bare writes for each block.
BARE = 20
# Single adds are given up after so many times the rows that a merge waits for.
MOST = 20
# Times the seconds of a phase with writes that are waited for a merge.
PATIENCE = 6

# Header of a record's body, and an id.
_BODY_BYTES = 8 + 8


class Skeg:
    """All that is asked of skeg, in one process, with kernels loaded."""

    def __init__(self, base: Path, queries: Path, folder: Path, threads: int) -> None:
        self.rows = np.array(np.load(base, mmap_mode="r"))
        self.queries = np.load(queries)
        self.folder = folder
        self.threads = threads
        self.dim = self.rows.shape[1]
        folder.mkdir(exist_ok=True)
        self._warm()
        gc.freeze()

    @contextmanager
    def _place(self, name: str) -> Iterator[Path]:
        """A folder that is not there yet, and not any more."""
        path = self.folder / name
        shutil.rmtree(path, ignore_errors=True)
        yield path
        shutil.rmtree(path, ignore_errors=True)

    def _warm(self) -> None:
        rows = self.rows[:WARM_ROWS]
        with self._place("warm") as path:
            build_index(rows, path, threads=self.threads).close()
        with self._place("warm") as path, Index.create(path, self.dim) as index:
            index.add(np.arange(len(rows)), rows)
            before, end = index.stats()["merges"], time.perf_counter() + WARM_S
            for start in range(0, len(rows), CHUNK):
                index.add(np.arange(start, min(start + CHUNK, len(rows))) + len(rows), rows[start : start + CHUNK])
                index.search(self.queries[0], K)
            index.add(2 * len(rows), rows[0])
            while index.stats()["merges"] == before and len(rows) >= MERGE_ROWS_MIN and time.perf_counter() < end:
                time.sleep(0.05)
            index.delete(np.arange(0, len(rows), 20))
            index.search(self.queries, K, threads=self.threads)
            index.consolidate(threads=self.threads)
            index.search(self.queries[0], K)

    # bulk

    def build(self, how: str) -> float:
        """Seconds until all rows can be searched: added in one call, added by 1,000 a call, or built offline."""
        ids = np.arange(len(self.rows))
        with self._place("built") as path:
            start = time.perf_counter()
            if how == "offline":
                index = build_index(self.rows, path, ids=ids, threads=self.threads)
            else:
                index = Index.create(path, self.dim)
                step = len(ids) if how == "add" else CHUNK
                for at in range(0, len(ids), step):
                    index.add(ids[at : at + step], self.rows[at : at + step])
                if how == "merged chunks":
                    index.consolidate(threads=self.threads)
            took = time.perf_counter() - start
            with index:
                assert len(index) == len(ids)
                assert index.search(self.rows[-1], 1).scores[0] > 1 - 1e-4
        return took

    # single and search

    def fill(self) -> None:
        """Open an index with three quarters of the rows; the others are there to be added."""
        self.kept = len(self.rows) * 3 // 4
        self.supplied = 0
        self.index = Index.create(self.folder / "filled", self.dim)
        self.index.add(np.arange(self.kept), self.rows[: self.kept])
        self.index.consolidate(threads=self.threads)

    def empty(self) -> None:
        """Close it and remove it."""
        self.index.close()
        shutil.rmtree(self.folder / "filled")

    def _new(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids and vectors that were not added before."""
        start, self.supplied = self.supplied, self.supplied + count
        ids = np.arange(start, self.supplied) + self.kept
        return ids, new_vectors(self.rows[self.kept :], start, count)

    def single(self, merges: int) -> dict[str, Any]:
        """Times of durable adds of one vector, until so many merges have run meanwhile; and of bare writes between."""
        merge_rows = max(MERGE_ROWS_MIN, int(MERGE_SHARE * self.kept))
        least, most = merges * merge_rows * 3 // 2, MOST * merge_rows
        took: list[float] = []
        bare: list[float] = []
        missing = checked = done = 0
        before, index, clock = self.index.stats()["merges"], self.index, time.perf_counter
        payload = os.urandom(RECORD_BYTES + _BODY_BYTES + 4 * self.dim)
        file = os.open(self.folder / "bare", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        while (len(took) < least or done < merges) and len(took) < most:
            ids, some = self._new(BLOCK)
            for i, vector_id in enumerate(ids.tolist()):
                start = clock()
                index.add(vector_id, some[i])
                took.append(clock() - start)
                if i % (BLOCK // CHECKED) == 0:
                    checked += 1
                    missing += vector_id not in index.search(some[i], K).ids.tolist()
            for _ in range(BARE):
                start = clock()
                os.write(file, payload)
                os.fdatasync(file)
                bare.append(clock() - start)
            done = index.stats()["merges"] - before
        os.close(file)
        (self.folder / "bare").unlink()
        error = index.stats()["maintenance_error"]
        assert error is None, error
        return {
            "add": quantiles(took),
            "bare": quantiles(bare),
            "merges": done,
            "merge_rows": merge_rows,
            "bytes": len(payload),
            "checked": checked,
            "missing": missing,
        }

    def idle(self, seconds: float) -> dict[str, float]:
        """Times of single searches of the index, all of which is in one segment, while nobody writes."""
        self.index.consolidate(threads=self.threads)
        end = time.perf_counter() + seconds
        return quantiles(self._searches(lambda: time.perf_counter() >= end))

    def busy(self, seconds: float, rate: float, batch: int) -> dict[str, float]:
        """The same while a thread adds `rate` vectors a second, durably, so many a call; until a merge has ended."""
        before, stop, first = self.index.stats()["merges"], threading.Event(), self.supplied
        # Prepared before, so that all the writing thread does is to write.
        ids, vectors = self._new(math.ceil(rate * seconds * (PATIENCE + 1)))
        self.supplied = first
        writer = threading.Thread(target=self._sustain, args=(rate, batch, stop, ids, vectors))
        start = time.perf_counter()

        def done() -> bool:
            passed = time.perf_counter() - start
            if passed < seconds or not writer.is_alive():
                return passed >= seconds
            return self.index.stats()["merges"] > before or passed > PATIENCE * seconds

        writer.start()
        took = self._searches(done)
        passed = time.perf_counter() - start
        stop.set()
        writer.join()
        merges = self.index.stats()["merges"] - before
        return {**quantiles(took), "merges": merges, "rate": (self.supplied - first) / passed}

    def _sustain(self, rate: float, batch: int, stop: threading.Event, ids: np.ndarray, vectors: np.ndarray) -> None:
        due = time.perf_counter()
        for at in range(0, len(ids), batch):
            if stop.is_set():
                break
            some = slice(at, at + batch)
            self.index.add(ids[some], vectors[some])
            self.supplied += len(ids[some])
            due = max(due + batch / rate, time.perf_counter() - 1)  # what is more than a second late is not made up
            stop.wait(max(due - time.perf_counter(), 0))

    def _searches(self, done: Callable[[], bool]) -> list[float]:
        """Seconds of each search, one query a call, on one thread; asked after each 50 whether it is enough."""
        took: list[float] = []
        search, queries, clock, at = self.index.search, self.queries, time.perf_counter, 0
        while not done():
            for _ in range(50):
                query = queries[at % len(queries)]
                at += 1
                start = clock()
                search(query, K)
                took.append(clock() - start)
        return took

    # churn

    def start(self, ids: np.ndarray, rows: np.ndarray) -> None:
        """Open an index with some rows."""
        self.index = Index.create(self.folder / "churned", self.dim)
        self.index.add(ids, self.rows[rows])
        self.index.consolidate(threads=self.threads)

    def replace(self, deleted: np.ndarray, ids: np.ndarray, rows: np.ndarray) -> float:
        """Delete ids and add rows; seconds."""
        start = time.perf_counter()
        self.index.delete(deleted)
        self.index.add(ids, self.rows[rows])
        return time.perf_counter() - start

    def consolidate(self) -> float:
        start = time.perf_counter()
        self.index.consolidate(threads=self.threads)
        return time.perf_counter() - start

    def found(self) -> np.ndarray:
        """Ids that the queries find at the default list size."""
        return padded(self.index.search(self.queries, K, threads=self.threads).ids)

    def bytes(self) -> int:
        return disk_bytes(self.folder / "churned")

    def fresh(self, ids: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, int, float]:
        """What the queries find in an index that is built of these rows alone, its bytes, and seconds to build it."""
        with self._place("fresh") as path:
            start = time.perf_counter()
            with build_index(self.rows[rows], path, ids=ids, threads=self.threads) as index:
                took = time.perf_counter() - start
                return padded(index.search(self.queries, K, threads=self.threads).ids), disk_bytes(path), took


def padded(ids: np.ndarray) -> np.ndarray:
    """Ids as int64, -1 where there are fewer hits."""
    return np.where(ids == np.uint64(2**64 - 1), -1, ids.astype(np.int64))


def disk_bytes(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
