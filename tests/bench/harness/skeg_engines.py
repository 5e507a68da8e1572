"""How skeg is driven: the graph index on disk, the flat index of codes, exact search."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from .data import K
from .engines import Engine, Search

# Rows of the throw-away index that loads or compiles every kernel before the clock starts.
_WARM_UP_ROWS = 512


class Skeg(Engine):
    """Vamana index: built from the source file to a folder, opened from there; the parameter is the search list size.

    Settings other than `rerank` go to `build_index`; None means skeg's own default.
    """

    distribution = "pyskeg"
    modes = ("single", "batch", "batch2")
    defaults: ClassVar = {"kind": None, "max_degree": None, "build_list_size": None, "alpha": None, "rerank": None}

    def __init__(self, dim: int, folder: Path, settings: dict[str, Any]) -> None:
        super().__init__(dim, folder, settings)
        from skeg.ann import Index, build_index

        self.build_index, self.open = build_index, Index.open

    def prepare(self, path: Path) -> None:
        self.path = path
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            rows = np.array(np.load(path, mmap_mode="r")[:_WARM_UP_ROWS])
            with self._built(rows, Path(folder) / "index", 1) as self.index:
                self.single(2 * K)(rows[0])
                self.batch(2 * K, 1)(rows)
                self.batch(2 * K, 2)(rows)

    def build(self, threads: int) -> None:
        target = self.folder / "index"
        self._built(self.path, target, threads).close()
        self.index = self.open(target)

    def _built(self, source: Any, target: Path, threads: int) -> Any:
        settings = {name: value for name, value in self.settings.items() if name != "rerank"}
        return self.build_index(source, target, metric="cosine", threads=threads, **settings)

    def single(self, parameter: int) -> Search:
        return self.batch(parameter, 1)

    def batch(self, parameter: int, threads: int) -> Search:
        rerank = self.settings["rerank"]
        return lambda queries: (
            self.index.search(queries, K, search_list_size=parameter, rerank=rerank, threads=threads).ids
        )

    def parts(self) -> dict[str, int]:
        stats = self.index.stats()
        return {part: int(stats[f"bytes_{part}"]) for part in ("codes", "graph", "ids")}


class SkegFlat(Engine):
    """Exhaustive scan of codes with exact re-rank."""

    distribution = "pyskeg"
    defaults: ClassVar = {"kind": "tq4"}

    def __init__(self, dim: int, folder: Path, settings: dict[str, Any]) -> None:
        super().__init__(dim, folder, settings)
        from skeg.ann import FlatIndex

        self.create = FlatIndex.create

    def prepare(self, path: Path) -> None:
        super().prepare(path)
        self.add(self.rows[:_WARM_UP_ROWS], 1)
        for warm in (self.rows[0], self.rows[:2]):
            self.single(0)(np.array(warm))

    def add(self, rows: np.ndarray, threads: int) -> None:  # noqa: ARG002 - adding has no thread count
        self.index = self.create(None, self.dim, metric="cosine", **self.settings)
        self.index.add(np.arange(len(rows)), rows)

    def single(self, parameter: int) -> Search:
        return self.batch(parameter, 1)

    def batch(self, parameter: int, threads: int) -> Search:  # noqa: ARG002 - nothing to set
        return lambda queries: self.index.search(queries, K, threads=threads).ids


class SkegExact(Engine):
    """`exact_search` over the whole base, held to one CPU because it takes no thread count."""

    distribution = "pyskeg"
    modes = ("batch",)

    def __init__(self, dim: int, folder: Path, settings: dict[str, Any]) -> None:
        super().__init__(dim, folder, settings)
        from skeg.ann import exact_search

        self.exact_search = exact_search

    def prepare(self, path: Path) -> None:
        super().prepare(path)
        self.exact_search(self.rows[:_WARM_UP_ROWS], np.array(self.rows[:2]), K, metric="cosine")
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})

    def build(self, threads: int) -> None:  # noqa: ARG002
        """Nothing to build; the rows stay where they are, in memory for a fair comparison with a flat index."""
        self.rows = np.array(self.rows)

    def batch(self, parameter: int, threads: int) -> Search:  # noqa: ARG002
        return lambda queries: self.exact_search(self.rows, queries, K, metric="cosine").ids
