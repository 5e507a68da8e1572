"""How each library is driven: build from unit float32 rows, answer one query a call, answer a batch.

Every engine gets inner products of unit vectors (or cosine, where that is its only fitting choice) and k = 10. What can
be prepared outside the timed calls is: search settings are set once a sweep point, queries come in the shape that the
library wants. Libraries are imported when their engine is made, so that an absent one is told apart from a broken one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from threadpoolctl import threadpool_limits

from .data import K

Search = Callable[[np.ndarray], Any]


class Engine:
    """One library with one setting.

    `settings` overrides `defaults`; both are written into every result. `distribution` is the package whose version is
    reported, `query_rank` the shape that the library wants for one query: 1 for (dim,), 2 for (1, dim).
    """

    distribution: ClassVar[str]
    query_rank: ClassVar[int] = 1
    modes: ClassVar[tuple[str, ...]] = ("single", "batch")
    defaults: ClassVar[dict[str, Any]] = {}

    def __init__(self, dim: int, folder: Path, settings: dict[str, Any]) -> None:
        unknown = set(settings) - set(self.defaults)
        if unknown:
            raise ValueError(f"{type(self).__name__} has no setting {sorted(unknown)}, only {sorted(self.defaults)}")
        self.dim = dim
        self.folder = folder
        self.settings = {**self.defaults, **settings}

    def prepare(self, path: Path) -> None:
        """Whatever is not part of the build: here, read the rows so that they are in memory before the clock starts."""
        # Copy-on-write, because some bindings refuse read-only arrays; nobody writes.
        self.rows = np.asarray(np.load(path, mmap_mode="c"))
        self.rows.max()

    def build(self, threads: int) -> None:
        """Build from what `prepare` set up and be ready to search; this is timed."""
        with threadpool_limits(threads):
            self.add(self.rows, threads)
        del self.rows

    def add(self, rows: np.ndarray, threads: int) -> None:
        raise NotImplementedError

    def single(self, parameter: int) -> Search:
        """A function from one query to its K row numbers."""
        raise NotImplementedError

    def batch(self, parameter: int, threads: int) -> Search:
        """A function from (n, dim) queries to (n, K) row numbers."""
        raise NotImplementedError

    def parts(self) -> dict[str, int]:
        """Bytes that must be resident to search, as the library itself counts them; empty if it doesn't tell."""
        return {}


class Hnswlib(Engine):
    distribution = "hnswlib"
    defaults: ClassVar = {"M": 16, "ef_construction": 200}

    def __init__(self, dim: int, folder: Path, settings: dict[str, Any]) -> None:
        super().__init__(dim, folder, settings)
        import hnswlib

        self.index = hnswlib.Index("ip", dim)

    def add(self, rows: np.ndarray, threads: int) -> None:
        self.index.init_index(len(rows), **self.settings)
        self.index.set_num_threads(threads)
        self.index.add_items(rows, np.arange(len(rows)))

    def single(self, parameter: int) -> Search:
        return self.batch(parameter, 1)

    def batch(self, parameter: int, threads: int) -> Search:
        self.index.set_ef(parameter)
        self.index.set_num_threads(threads)
        return lambda queries: self.index.knn_query(queries, K)[0]

    def parts(self) -> dict[str, int]:
        return {"index": self.index.index_file_size()}


class FaissHnsw(Engine):
    distribution = "faiss-cpu"
    query_rank = 2
    defaults: ClassVar = {"M": 16, "ef_construction": 200}

    def __init__(self, dim: int, folder: Path, settings: dict[str, Any]) -> None:
        super().__init__(dim, folder, settings)
        import faiss

        self.faiss = faiss
        self.index = self.make()

    def make(self) -> Any:
        return self.faiss.IndexHNSWFlat(self.dim, self.settings["M"], self.faiss.METRIC_INNER_PRODUCT)

    def add(self, rows: np.ndarray, threads: int) -> None:
        self.index.hnsw.efConstruction = self.settings["ef_construction"]
        self.faiss.omp_set_num_threads(threads)
        if not self.index.is_trained:
            self.index.train(rows)
        self.index.add(rows)

    def single(self, parameter: int) -> Search:
        return self.batch(parameter, 1)

    def batch(self, parameter: int, threads: int) -> Search:
        self.index.hnsw.efSearch = parameter
        self.faiss.omp_set_num_threads(threads)
        return lambda queries: self.index.search(queries, K)[1]


class FaissHnswSq8(FaissHnsw):
    def make(self) -> Any:
        quantizer = self.faiss.ScalarQuantizer.QT_8bit
        return self.faiss.IndexHNSWSQ(self.dim, quantizer, self.settings["M"], self.faiss.METRIC_INNER_PRODUCT)


class FaissFlat(FaissHnsw):
    modes = ("batch",)
    defaults: ClassVar = {}

    def make(self) -> Any:
        return self.faiss.IndexFlatIP(self.dim)

    def add(self, rows: np.ndarray, threads: int) -> None:
        self.faiss.omp_set_num_threads(threads)
        self.index.add(rows)

    def batch(self, parameter: int, threads: int) -> Search:  # noqa: ARG002 - nothing to set
        self.faiss.omp_set_num_threads(threads)
        return lambda queries: self.index.search(queries, K)[1]


class Svs(Engine):
    distribution = "scalable-vs"
    query_rank = 2
    defaults: ClassVar = {"graph_max_degree": 32, "window_size": 128, "alpha": 0.9}

    def __init__(self, dim: int, folder: Path, settings: dict[str, Any]) -> None:
        super().__init__(dim, folder, settings)
        import svs

        self.svs = svs

    def add(self, rows: np.ndarray, threads: int) -> None:
        parameters = self.svs.VamanaBuildParameters(**self.settings)
        self.index = self.svs.Vamana.build(parameters, rows, self.svs.DistanceType.MIP, num_threads=threads)

    def single(self, parameter: int) -> Search:
        return self.batch(parameter, 1)

    def batch(self, parameter: int, threads: int) -> Search:
        if self.index.num_threads != threads:
            self.index.num_threads = threads
        self.index.search_window_size = parameter
        return lambda queries: self.index.search(queries, K)[0]


class Usearch(Engine):
    distribution = "usearch"
    defaults: ClassVar = {"connectivity": 16, "expansion_add": 200, "dtype": "f32"}

    def __init__(self, dim: int, folder: Path, settings: dict[str, Any]) -> None:
        super().__init__(dim, folder, settings)
        from usearch.index import Index

        self.index = Index(ndim=dim, metric="ip", **self.settings)

    def add(self, rows: np.ndarray, threads: int) -> None:
        self.index.add(np.arange(len(rows)), rows, threads=threads)

    def single(self, parameter: int) -> Search:
        return self.batch(parameter, 1)

    def batch(self, parameter: int, threads: int) -> Search:
        self.index.expansion_search = parameter
        return lambda queries: self.index.search(queries, K, threads=threads).keys

    def parts(self) -> dict[str, int]:
        return {"index": self.index.memory_usage}


class Voyager(Engine):
    distribution = "voyager"
    defaults: ClassVar = {"M": 16, "ef_construction": 200}

    def __init__(self, dim: int, folder: Path, settings: dict[str, Any]) -> None:
        super().__init__(dim, folder, settings)
        import voyager

        self.index = voyager.Index(voyager.Space.Cosine, dim, **self.settings)

    def add(self, rows: np.ndarray, threads: int) -> None:
        self.index.add_items(rows, num_threads=threads)

    def single(self, parameter: int) -> Search:
        return self.batch(parameter, 1)

    def batch(self, parameter: int, threads: int) -> Search:
        return lambda queries: self.index.query(queries, K, num_threads=threads, query_ef=parameter)[0]


class Turbovec(Engine):
    """Exhaustive scan of 4-bit codes without re-rank; RAYON_NUM_THREADS=1, set for all workers, is its only switch."""

    distribution = "turbovec"
    query_rank = 2
    defaults: ClassVar = {"bits": 4}

    def __init__(self, dim: int, folder: Path, settings: dict[str, Any]) -> None:
        super().__init__(dim, folder, settings)
        import turbovec

        self.index = turbovec.TurboQuantIndex(dim, self.settings["bits"])

    def add(self, rows: np.ndarray, threads: int) -> None:  # noqa: ARG002 - see the class
        self.index.add(rows)

    def single(self, parameter: int) -> Search:
        return self.batch(parameter, 1)

    def batch(self, parameter: int, threads: int) -> Search:  # noqa: ARG002 - see the class
        return lambda queries: self.index.search(queries, K)[1]
