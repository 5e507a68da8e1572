"""One engine in a process of its own: reads requests, one JSON object a line, and answers each with one line.

    python -m harness.worker SPEC BASE.npy QUERIES.npy TRUTH.npy FOLDER

Requests: `{"do": "build", "threads": t}`, then any number of
`{"do": "measure", "parameter": p, "mode": m, "least_s": s}`.
An answer has "problem" instead of results when the library is absent or failed. Libraries that print do so on stderr.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from .arithmetic import recall_by_threshold
from .data import K
from .environment import versions
from .memory import resident
from .registry import make

# Queries answered before the clock starts, so that settings, branches and caches are those of a running sweep.
_WARM_UP_QUERIES = 100

_BATCH_THREADS = {"batch": 1, "batch2": 2}


class Worker:
    """The engine, its queries in the shape that it wants, and the recalls already known."""

    def __init__(self, spec: str, base: Path, queries: Path, truth: Path, folder: Path) -> None:
        self.base, self.truth = base, truth
        self.queries = np.load(queries)
        self.engine = make(spec, self.queries.shape[1], folder)
        one = [np.array(row) for row in self.queries]
        self.one_by_one = one if self.engine.query_rank == 1 else [row[None] for row in one]
        self.recalls: dict[tuple[int, str], float] = {}

    def build(self, threads: int) -> dict[str, Any]:
        """Prepare (untimed) and build (timed)."""
        before = resident()
        start = time.perf_counter()
        self.engine.prepare(self.base)
        prepared = time.perf_counter()
        self.engine.build(threads)
        built = time.perf_counter()
        gc.collect()
        threadpool_limits(1)  # from here on, one native thread
        return {
            "prepare_s": prepared - start,
            "build_s": built - prepared,
            "before": asdict(before),
            "after": asdict(resident()),
            "parts": self.engine.parts(),
            "settings": self.engine.settings,
            "modes": self.engine.modes,
            "versions": versions([self.engine.distribution, "numpy", "numba"]),
        }

    def measure(self, parameter: int, mode: str, least_s: float) -> dict[str, Any]:
        """Answer all queries, again until `least_s` seconds have passed; recall is computed the first time only."""
        if mode == "single":
            search = self.engine.single(parameter)
            asked = self.one_by_one
        else:
            search = self.engine.batch(parameter, _BATCH_THREADS[mode])
            asked = [self.queries]
            search(self.queries[:_WARM_UP_QUERIES])
        for query in asked[:_WARM_UP_QUERIES] if mode == "single" else []:
            search(query)
        passes = 0
        gc.disable()
        cpu, wall = time.process_time(), time.perf_counter()
        while True:
            found = [search(query) for query in asked]
            passes += 1
            if time.perf_counter() - wall >= least_s:
                break
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        gc.enable()
        memory = asdict(resident())
        return {
            "qps": passes * len(self.queries) / wall,
            "cpu_per_wall": cpu / wall,
            "recall": self._recall(parameter, mode, found),
            "memory": memory,
        }

    def _recall(self, parameter: int, mode: str, found: list[np.ndarray]) -> float:
        if (parameter, mode) not in self.recalls:
            rows = np.concatenate([np.asarray(ids).reshape(-1, K) for ids in found])
            # Mapped only for this moment, so that the base isn't counted as memory of the engine.
            base = np.load(self.base, mmap_mode="r")
            self.recalls[parameter, mode] = recall_by_threshold(rows, base, self.queries, np.load(self.truth))
        return self.recalls[parameter, mode]


def main() -> None:
    # Libraries may print to descriptor 1; answers go to a private copy of it.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    spec, *paths = sys.argv[1:]
    worker = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if worker is None:
                worker = Worker(spec, *map(Path, paths))
            action = getattr(worker, request.pop("do"))
            answer = action(**request)
        except ImportError as error:
            answer = {"problem": f"absent ({error})"}
        except Exception as error:  # noqa: BLE001 - reported to the coordinator, which drops this engine
            traceback.print_exc()
            answer = {"problem": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
