"""The libraries beside which indexes that change, and searches with filters, are measured; each in its own process.

For filters every engine is left at its own search defaults: what a library returns to somebody who sets nothing. The
graphs whose defaults find little are there a second time, with longer lists.
Graphs are built with M=16 and ef_construction=200, as in compare.py, where the library lets one choose. What can be
prepared before a search is: the selectors of FAISS and the set of hnswlib are made before the clock starts, while skeg,
LanceDB and Chroma are given the condition with each call.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from harness.data import K

M, EF_CONSTRUCTION = 16, 200
# The ef with which hnswlib is searched while rows are replaced: about as good as skeg's default, see the fresh builds.
CHURN_EF = 100
# Of the graphs that are there a second time.
LONGER_EF = 64
# Rows that are given to a database at a time; Chroma takes at most 5,461.
LOADED = 5000
# Rows for each list of an inverted file; FAISS complains about fewer.
TRAINED = 39
WARM_QUERIES = 5
# Queries that every engine answers, however long it takes.
LEAST_QUERIES = 50

Masks = dict[str, np.ndarray]
Ask = Callable[[np.ndarray], Any]


class Engine:
    """One library: `load` is given rows (n, dim) and, by the name of a field, whether it is 1 for each row (else 0)."""

    distribution: ClassVar[str]
    setting: ClassVar[str]

    def __init__(self, folder: Path, threads: int) -> None:
        self.folder = folder
        self.threads = threads
        self.begin()

    def begin(self) -> None:
        """Import the library."""

    def load(self, rows: np.ndarray, masks: Masks) -> None:
        raise NotImplementedError

    def asker(self, name: str | None) -> Ask:
        """A function from one query to ids (at most K) of rows whose field of that name is 1, or of any rows."""
        raise NotImplementedError


class Skeg(Engine):
    distribution = "pyskeg"
    setting = "a condition with each call"

    def begin(self) -> None:
        from skeg.ann import Index

        self.create = Index.create

    def load(self, rows: np.ndarray, masks: Masks) -> None:
        self.index = self.create(self.folder / "index", rows.shape[1])
        self.index.add(np.arange(len(rows)), rows, payloads=fields(masks, 0, len(rows)))
        self.index.consolidate(threads=self.threads)

    def asker(self, name: str | None) -> Ask:
        search = self.index.search
        if name is None:
            return lambda query: search(query, K).ids
        condition = f"{name} = 1"
        return lambda query: search(query, K, filter=condition).ids


class Hnswlib(Engine):
    distribution = "hnswlib"
    setting = "ef=10 (its default), filter = contains of a Python set"
    ef: ClassVar[int | None] = None

    def begin(self) -> None:
        import hnswlib

        self.module = hnswlib

    def load(self, rows: np.ndarray, masks: Masks) -> None:
        self.masks = masks
        self.index = self.module.Index("ip", rows.shape[1])
        self.index.init_index(len(rows), M=M, ef_construction=EF_CONSTRUCTION)
        self.index.add_items(rows, np.arange(len(rows)), num_threads=self.threads)
        if self.ef is not None:
            self.index.set_ef(self.ef)

    def asker(self, name: str | None) -> Ask:
        allowed = None if name is None else set(np.flatnonzero(self.masks[name]).tolist()).__contains__
        search = self.index.knn_query

        def ask(query: np.ndarray) -> Any:
            try:
                return search(query, K, num_threads=1, filter=allowed)[0][0]
            except RuntimeError:  # it found fewer than K, and does not say which
                return ()

        return ask


class HnswlibLonger(Hnswlib):
    setting = f"ef={LONGER_EF}, else as hnswlib"
    ef = LONGER_EF


class FaissHnsw(Engine):
    distribution = "faiss-cpu"
    setting = "efSearch=16 (its default), IDSelectorBitmap"

    def begin(self) -> None:
        import faiss

        self.faiss = faiss

    def make(self, rows: np.ndarray) -> Any:
        index = self.faiss.IndexHNSWFlat(rows.shape[1], M, self.faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = EF_CONSTRUCTION
        return index

    def load(self, rows: np.ndarray, masks: Masks) -> None:
        self.masks = masks
        self.faiss.omp_set_num_threads(self.threads)
        self.index = self.make(rows)
        self.index.add(rows)
        self.faiss.omp_set_num_threads(1)

    def selector(self, mask: np.ndarray) -> Any:
        return self.faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))

    def parameters(self, selector: Any) -> Any:
        return self.faiss.SearchParametersHNSW(sel=selector)

    def asker(self, name: str | None) -> Ask:
        search = self.index.search
        if name is None:
            return lambda query: search(query[None], K)[1][0]
        parameters = self.parameters(self.selector(self.masks[name]))
        return lambda query: search(query[None], K, params=parameters)[1][0]


class FaissHnswLonger(FaissHnsw):
    setting = f"efSearch={LONGER_EF}, IDSelectorBitmap"

    def make(self, rows: np.ndarray) -> Any:
        index = super().make(rows)
        index.hnsw.efSearch = LONGER_EF
        return index

    def parameters(self, selector: Any) -> Any:
        return self.faiss.SearchParametersHNSW(sel=selector, efSearch=LONGER_EF)


class FaissHnswBatch(FaissHnsw):
    setting = "efSearch=16 (its default), IDSelectorBatch"

    def selector(self, mask: np.ndarray) -> Any:
        return self.faiss.IDSelectorBatch(np.flatnonzero(mask))


class FaissIvf(FaissHnsw):
    setting = "at most 4 sqrt(n) lists, nprobe=1 (its default), IDSelectorBitmap"

    def make(self, rows: np.ndarray) -> Any:
        self.quantizer = self.faiss.IndexFlatIP(rows.shape[1])
        lists = max(min(int(4 * len(rows) ** 0.5), len(rows) // TRAINED), 1)
        index = self.faiss.IndexIVFFlat(self.quantizer, rows.shape[1], lists, self.faiss.METRIC_INNER_PRODUCT)
        index.train(rows)
        return index

    def parameters(self, selector: Any) -> Any:
        return self.faiss.SearchParametersIVF(sel=selector)


class FaissFlat(FaissHnsw):
    setting = "exhaustive, IDSelectorBitmap"

    def make(self, rows: np.ndarray) -> Any:
        return self.faiss.IndexFlatIP(rows.shape[1])

    def parameters(self, selector: Any) -> Any:
        return self.faiss.SearchParameters(sel=selector)


class Lance(Engine):
    distribution = "lancedb"
    setting = "IvfPq with its defaults, Bitmap indexes of the columns, where() before the search"
    index_name = "IvfPq"

    def begin(self) -> None:
        import lancedb
        import lancedb.index
        import pyarrow as pa

        self.lancedb, self.arrow = lancedb, pa

    def load(self, rows: np.ndarray, masks: Masks) -> None:
        database, kinds = self.lancedb.connect(str(self.folder)), self.lancedb.index
        for start in range(0, len(rows), LOADED):
            some = self._table(rows, masks, start)
            if start:
                self.table.add(some)
            else:
                self.table = database.create_table("rows", some)
        self.table.optimize()
        for name in masks:
            self.table.create_index(name, config=kinds.Bitmap())
        self.table.create_index("vector", config=getattr(kinds, self.index_name)(distance_type="cosine"))

    def _table(self, rows: np.ndarray, masks: Masks, start: int) -> Any:
        arrow, some = self.arrow, slice(start, start + LOADED)
        vectors = arrow.FixedSizeListArray.from_arrays(arrow.array(rows[some].ravel()), rows.shape[1])
        columns = {name: arrow.array(mask[some].astype(np.int8)) for name, mask in masks.items()}
        return arrow.table({"id": np.arange(len(rows))[some], "vector": vectors, **columns})

    def asker(self, name: str | None) -> Ask:
        search, columns, condition = self.table.search, ["id", "_distance"], f"{name} = 1"

        def ask(query: np.ndarray) -> Any:
            asked = search(query)
            if name is not None:
                asked = asked.where(condition, prefilter=True)
            return asked.limit(K).select(columns).to_arrow()["id"].to_numpy()

        return ask


class LanceHnsw(Lance):
    setting = "HnswSq with its defaults, else as lancedb"
    index_name = "HnswSq"


class Chroma(Engine):
    distribution = "chromadb"
    setting = "a persistent collection with its defaults, where = {field: 1} with each call"

    def begin(self) -> None:
        import chromadb

        self.module = chromadb

    def load(self, rows: np.ndarray, masks: Masks) -> None:
        settings = self.module.config.Settings(anonymized_telemetry=False)
        client = self.module.PersistentClient(str(self.folder), settings=settings)
        self.collection = client.create_collection("rows", metadata={"hnsw:space": "cosine"}, embedding_function=None)
        for start in range(0, len(rows), LOADED):
            stop = min(start + LOADED, len(rows))
            ids = [str(row) for row in range(start, stop)]
            self.collection.add(ids=ids, embeddings=rows[start:stop], metadatas=fields(masks, start, stop))

    def asker(self, name: str | None) -> Ask:
        query_, where = self.collection.query, None if name is None else {name: 1}

        def ask(query: np.ndarray) -> Any:
            return [
                int(found) for found in query_(query_embeddings=[query], n_results=K, where=where, include=[])["ids"][0]
            ]

        return ask


def fields(masks: Masks, start: int, stop: int) -> list[dict[str, int]]:
    """The fields of each row, as a mapping."""
    names = list(masks)
    columns = [masks[name][start:stop].astype(int).tolist() for name in names]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


ENGINES: dict[str, type[Engine]] = {
    "skeg": Skeg,
    "hnswlib": Hnswlib,
    "hnswlib-longer": HnswlibLonger,
    "faiss-hnsw": FaissHnsw,
    "faiss-hnsw-longer": FaissHnswLonger,
    "faiss-hnsw-batch": FaissHnswBatch,
    "faiss-ivf": FaissIvf,
    "faiss-flat": FaissFlat,
    "lancedb": Lance,
    "lancedb-hnsw": LanceHnsw,
    "chromadb": Chroma,
}


class Filtered:
    """What the process of one engine is asked for by the part about filters."""

    def __init__(self, name: str, base: Path, queries: Path, masks: Path, folder: Path, threads: int) -> None:
        folder.mkdir()
        self.base, self.masks = base, masks
        self.queries = np.load(queries)
        self.engine = ENGINES[name](folder, threads)

    def load(self) -> float:
        """Seconds until the rows can be searched."""
        rows, masks = np.array(np.load(self.base, mmap_mode="r")), dict(np.load(self.masks))
        start = time.perf_counter()
        self.engine.load(rows, masks)
        took = time.perf_counter() - start
        gc.collect()
        gc.freeze()
        return took

    def ask(self, name: str | None, seconds: float) -> tuple[np.ndarray, list[float]]:
        """Rows found (m, K), or -1, and seconds of each call (m,); of as many queries as there is time for."""
        ask = self.engine.asker(name)
        for query in self.queries[:WARM_QUERIES]:
            ask(query)
        found, took = np.full((len(self.queries), K), -1, np.int64), []
        clock = time.perf_counter
        end = clock() + seconds
        for number, query in enumerate(self.queries):
            start = clock()
            ids = ask(query)
            stop = clock()
            took.append(stop - start)
            found[number, : len(ids)] = ids
            if stop > end and number + 1 >= LEAST_QUERIES:
                break
        return found[: len(took)], took


class Replacing:
    """hnswlib, from which rows are deleted and whose places are given to others; and its build, beside skeg's."""

    def __init__(self, base: Path, queries: Path, threads: int) -> None:
        import hnswlib

        self.module = hnswlib
        self.rows = np.array(np.load(base, mmap_mode="r"))
        self.queries = np.load(queries)
        self.threads = threads

    def build(self) -> float:
        start = time.perf_counter()
        index = self._built(np.arange(len(self.rows)), self.rows)
        took = time.perf_counter() - start
        assert index.element_count == len(self.rows)
        return took

    def _built(self, ids: np.ndarray, rows: np.ndarray, **settings: Any) -> Any:
        index = self.module.Index("ip", rows.shape[1])
        index.init_index(len(rows), M=M, ef_construction=EF_CONSTRUCTION, **settings)
        index.add_items(rows, ids, num_threads=self.threads)
        index.set_ef(CHURN_EF)
        return index

    def start(self, ids: np.ndarray, rows: np.ndarray) -> None:
        self.index = self._built(ids, self.rows[rows], allow_replace_deleted=True)

    def replace(self, deleted: np.ndarray, ids: np.ndarray, rows: np.ndarray) -> float:
        """Mark ids as deleted and add rows in their places; seconds."""
        start = time.perf_counter()
        for vector_id in deleted.tolist():
            self.index.mark_deleted(vector_id)
        more = max(len(ids) - len(deleted), 0)
        if more:
            self.index.resize_index(self.index.max_elements + more)
        self.index.add_items(self.rows[rows], ids, num_threads=self.threads, replace_deleted=True)
        return time.perf_counter() - start

    def found(self) -> np.ndarray:
        return self._found(self.index)

    def _found(self, index: Any) -> np.ndarray:
        return index.knn_query(self.queries, K, num_threads=self.threads)[0].astype(np.int64)

    def fresh(self, ids: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, int, float]:
        """What the queries find in an index of these rows alone, bytes, and seconds to build it."""
        start = time.perf_counter()
        index = self._built(ids, self.rows[rows])
        took = time.perf_counter() - start
        return self._found(index), index.index_file_size(), took
