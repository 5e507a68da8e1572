"""`FlatIndex`: every vector is looked at, first through its code, then, if it is near, exactly."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from skeg.ann.flatfile import FlatSegment, write_rows
from skeg.ann.flatrows import RowStore
from skeg.ann.flatscan import FlatSearcher
from skeg.ann.format import Manifest, read_manifest, write_manifest
from skeg.ann.hits import MISSING_ID, Hits
from skeg.ann.metric import METRICS
from skeg.ann.parallel import thread_count
from skeg.ann.params import DIM_MAX, RERANK, ROWS_MAX
from skeg.ann.quantizers import KINDS
from skeg.ann.recall import recall_at_k
from skeg.ann.transform import Float32s
from skeg.checks import RESERVED_ID, as_choice, as_int, as_queries, as_some_ids, as_vectors
from skeg.errors import ClosedError, CorruptError, FormatError, NotFoundError, ReadOnlyError
from skeg.files import AnyPath, BuildFolder


class FlatIndex:
    """Vectors in memory or in a folder, searched exhaustively; made by `FlatIndex.create`, opened by `FlatIndex.open`.

    Any number of threads may search at a time. Adding makes later searches see the new vectors; an `add` that replaces
    vectors must not run while others search. A folder is mapped read-only, in O(1), and shared between processes. Use
    the index as a context manager or `close` it; leaving the block saves what is unsaved if it has a path.
    """

    def __init__(
        self, path: AnyPath | None, store: RowStore | None, segment: FlatSegment | None, described: tuple[int, str, str]
    ) -> None:
        self._path = None if path is None else Path(os.path.abspath(path))
        self._store = store
        self._segment = segment
        self._dim, self._metric, self._kind = described
        self._seed = 0
        self._unsaved = store is not None
        self._searcher: FlatSearcher | None = None

    @classmethod
    def create(
        cls, path: AnyPath | None, dim: int, *, metric: str = "cosine", kind: str = "f32", seed: int = 0
    ) -> FlatIndex:
        """Make an empty index in memory.

        Parameters
        ----------
        path : path or None
            Folder that `save` writes by default; what is there, if anything, must be an index.
        dim : int
            Dimension of the vectors, at most 65,536.
        metric : {"cosine", "ip", "l2"}
            What "near" means: cosine similarity, inner product, or Euclidean distance.
        kind : str
            Codes that a search looks at first, one of `skeg.ann.quantizers.KINDS`; "f32" looks at the vectors.
        seed : int
            Decides everything random.

        Raises
        ------
        ParameterError
            An argument out of range.
        FormatError
            ``path`` exists and is no index.
        """
        dim = as_int("dim", dim, 1, DIM_MAX)
        metric, kind = as_choice("metric", metric, METRICS), as_choice("kind", kind, KINDS)
        seed = as_int("seed", seed, 0, 2**63 - 1)
        if path is not None and os.path.lexists(path):
            read_manifest(path)
        index = cls(path, RowStore(dim, metric, kind, seed), None, (dim, metric, kind))
        index._seed = seed
        return index

    @classmethod
    def open(cls, path: AnyPath) -> FlatIndex:
        """Open the flat index in the folder ``path`` read-only, in a time that does not depend on its size.

        Parameters
        ----------
        path : path
            Folder that `save` wrote.

        Raises
        ------
        FormatError
            Not an index, or one of another backend or of a newer version (`VersionTooNewError`).
        CorruptError
            The manifest is damaged, or a file is missing, cut short or does not agree with it.
        """
        manifest = read_manifest(path)
        if manifest.backend != "flat":
            raise FormatError(path, "another backend", expected="a flat index ('flat')", found=repr(manifest.backend))
        if manifest.kind not in KINDS or manifest.dim > DIM_MAX:
            found = f"{manifest.kind}, {manifest.dim} dimensions"
            raise CorruptError(path, "manifest", expected=f"a known kind, at most {DIM_MAX} dimensions", found=found)
        segment = FlatSegment.open(path, manifest)
        return cls(path, None, segment, (manifest.dim, manifest.metric, manifest.kind))

    def add(self, ids: Any, vectors: Any, *, on_conflict: str = "replace") -> None:
        """Add vectors, all of them or, when something is wrong, none.

        Parameters
        ----------
        ids : array_like (n,) of integers, or None
            Unique, below 2**64 - 1; None counts on from the largest id present.
        vectors : array_like (n, dim)
            Any real dtype; kept as float32.
        on_conflict : {"replace", "error"}
            What to do about an id that the index holds: replace its vector, or raise.

        Raises
        ------
        VectorError
            A vector of another dimension, not finite, or zero under cosine (its row is named); ids that repeat, or that
            the index holds when ``on_conflict`` is "error".
        ReadOnlyError
            The index was opened from a folder.
        ClosedError
            The index was closed.
        """
        if self._segment is not None:
            raise ReadOnlyError(self._segment.hot.path.parent.parent, "the index was opened for reading")
        store = self._open_store()
        replace = as_choice("on_conflict", on_conflict, ("replace", "error")) == "replace"
        store.add(ids, as_vectors(vectors, self._dim), replace=replace)
        self._unsaved = True
        self._searcher = None

    def search(
        self, q: Any, k: int = 10, *, rerank: int | None = None, exact: bool = False, threads: int | None = None
    ) -> Hits:
        """Nearest stored vectors of one query (dim,) or of many (n, dim).

        Parameters
        ----------
        q : array_like (dim,) or (n, dim)
            Any real dtype.
        k : int
            Hits wanted for each query; fewer come when the index holds fewer.
        rerank : int, optional
            How many vectors, the nearest by their codes, are scored exactly; by default a measured multiple of k, never
            below k. The kind f32 scores all.
        exact : bool
            Score every stored vector exactly.
        threads : int, optional
            For many queries; by default one for each processor. Hits do not depend on it.

        Returns
        -------
        Hits
            ``ids, scores = hits``; (k,) for one query, (n, k) for many.

        Raises
        ------
        VectorError
            Wrong dimension, a query that is not finite, or zero under cosine.
        ParameterError
            k or another number out of range.
        ClosedError
            The index was closed.
        """
        searcher = self._searcher or self._settled()
        queries, was_single = as_queries(q, self._dim, what="query")
        k = as_int("k", k, 1, ROWS_MAX)
        if exact or self._kind == "f32":
            depth = len(searcher.rows.ids)
            ids, scores, counts = searcher.exact(queries, k, thread_count(threads))
            cost = (0, 0, depth * len(queries), 0)
        else:
            depth = -(-RERANK[self._kind] * k // 10) if rerank is None else as_int("rerank", rerank, 1, ROWS_MAX)
            depth = max(1, min(max(depth, k), len(searcher.rows.ids)))
            ids, scores, counts = searcher.scan(queries, k, depth, 1 if was_single else thread_count(threads))
            cost = (len(searcher.rows.ids) * len(queries), 0, depth * len(queries), 0)
        if was_single:
            count = counts[0]
            return Hits(ids[0, :count], scores[0, :count], self._metric, cost)
        return Hits(ids, scores, self._metric, cost)

    def save(self, path: AnyPath | None = None) -> None:
        """Write the index into a folder, which appears whole or not at all; an index that is there is replaced.

        Parameters
        ----------
        path : path, optional
            By default the one given to `create`.

        Raises
        ------
        ClosedError
            The index was closed, or no path is known.
        FormatError
            ``path`` exists and is no index.
        StorageError
            The folder can't be written, or the disk is full.
        """
        rows = self._settled().rows
        target = self._path if path is None else Path(os.path.abspath(path))
        if target is None:
            raise ClosedError("an index made without a path can only be saved to a path")
        exists = os.path.lexists(target)
        if exists:
            read_manifest(target)
        with BuildFolder(target, replace=exists) as folder:
            files = write_rows(folder.path, rows)
            manifest = Manifest(
                backend="flat", dim=self._dim, count=len(rows.ids), metric=self._metric, kind=self._kind, files=files,
                build={"seed": self._seed}, search={},
            )  # fmt: skip
            write_manifest(folder.path, manifest)
            folder.publish()
        if self._path is None:
            self._path = target
        if target == self._path:
            self._unsaved = False

    def get(self, ids: Any) -> Float32s:
        """Stored vectors, exactly as they were given as float32.

        Parameters
        ----------
        ids : int or array_like (n,) of integers

        Returns
        -------
        ndarray (dim,) or (n, dim) float32
            A copy.

        Raises
        ------
        NotFoundError
            An id that the index does not hold; the message names the first.
        """
        wanted, is_single = as_some_ids(ids)
        rows = self._find(wanted)
        if (rows < 0).any():
            raise NotFoundError(f"id {int(wanted[int((rows < 0).argmax())])} is not in {self!r}")
        vectors = self._segment.rows.vectors if self._segment is not None else self._open_store().vectors()
        found: Float32s = vectors[rows]
        return found[0] if is_single else found

    def ids(self) -> npt.NDArray[np.uint64]:
        """All ids (n,), ascending."""
        return np.sort(self._settled().rows.ids)

    def __len__(self) -> int:
        """Number of stored vectors."""
        return len(self._segment.rows.ids) if self._segment is not None else len(self._open_store())

    def __contains__(self, vector_id: object) -> bool:
        if not isinstance(vector_id, int | np.integer) or not 0 <= int(vector_id) < RESERVED_ID:
            return False
        return bool(self._find(np.array([vector_id], np.uint64))[0] >= 0)

    def contains(self, ids: Any) -> Any:
        """Whether ids are stored: a bool for one, bools (n,) for many.

        Parameters
        ----------
        ids
            As for `skeg.ann.Index.contains`.
        """
        wanted, is_single = as_some_ids(ids)
        held = self._find(wanted) >= 0
        return bool(held[0]) if is_single else held

    @property
    def path(self) -> Path | None:
        """Folder of the index, None if there is none yet."""
        return self._path

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        return self._dim

    @property
    def metric(self) -> str:
        """Name of the metric."""
        return self._metric

    @property
    def kind(self) -> str:
        """Kind of the codes that a search looks at first."""
        return self._kind

    def stats(self) -> dict[str, Any]:
        """Size, settings and memory: bytes by purpose; those of the codes are what a search reads in full."""
        rows = self._settled().rows
        codes = rows.codes.nbytes + rows.factors.nbytes + rows.groups.nbytes + rows.group_factors.nbytes
        on_disk = 0 if self._segment is None else self._segment.hot.nbytes + self._segment.cold.nbytes
        return {
            "backend": "flat",
            "count": len(rows.ids),
            "dim": self._dim,
            "metric": self._metric,
            "kind": self._kind,
            "bytes_codes": rows.vectors.nbytes if self._kind == "f32" else codes,
            "bytes_ids": rows.ids.nbytes,
            "bytes_resident": rows.ids.nbytes + (rows.vectors.nbytes if self._kind == "f32" else codes),
            "bytes_vectors": rows.vectors.nbytes,
            "bytes_on_disk": on_disk,
        }

    def verify(self) -> list[CorruptError]:
        """Check every byte of an opened index: checksums, ids, codes against vectors.

        Returns
        -------
        list of CorruptError
            What is wrong, each with ``path`` and ``problem``; empty when all is well, and for an index in memory.

        Raises
        ------
        CorruptError
            A section that does not match its checksum; ``offset`` says where it starts.
        """
        self._settled()
        return [] if self._segment is None else self._segment.verify()

    def evaluate(self, queries: Any, k: int = 10, *, truth: Any = None) -> list[dict[str, float]]:
        """Recall and latency, one query a call on one thread.

        Parameters
        ----------
        queries : array_like (n, dim)
            At least one.
        k : int
            Hits wanted.
        truth : array_like (n, at least k) of ids, optional
            True neighbors, nearest first; computed by exact search when not given.

        Returns
        -------
        list of one dict
            ``recall``, ``queries_per_second``, ``latency_ms_p50``, ``latency_ms_p99``.

        Raises
        ------
        VectorError
            As `search`; or ``truth`` has another number of rows.
        """
        given, _ = as_queries(queries, self._dim, what="queries")
        true_ids = self.search(given, k, exact=True).ids if truth is None else truth
        found = np.full((len(given), k), MISSING_ID, np.uint64)
        latencies = np.zeros(max(1, len(given)))
        for i, query in enumerate(given):
            start = time.perf_counter()
            ids = self.search(query, k).ids
            latencies[i] = time.perf_counter() - start
            found[i, : len(ids)] = ids
        p50, p99 = np.percentile(latencies, (50, 99)) * 1000
        return [
            {
                "recall": recall_at_k(found, true_ids, k),
                "queries_per_second": len(given) / max(float(latencies.sum()), 1e-9),
                "latency_ms_p50": float(p50),
                "latency_ms_p99": float(p99),
            }
        ]

    def close(self) -> None:
        """Let go of memory and files; doing so twice is allowed, anything else afterwards raises `ClosedError`."""
        segment, self._segment, self._store, self._searcher = self._segment, None, None, None
        if segment is not None:
            segment.close()

    def _open_store(self) -> RowStore:
        if self._store is None:
            raise ClosedError(f"{self._path or 'index in memory'}: the index was closed")
        return self._store

    def _settled(self) -> FlatSearcher:
        """What searches read, with everything that was added."""
        searcher = self._searcher
        rows = self._segment.rows if self._segment is not None else self._open_store().settle()
        if searcher is None or searcher.rows is not rows:
            searcher = self._searcher = FlatSearcher(rows)
        return searcher

    def _find(self, wanted: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """Row of each id, -1 where there is none."""
        if self._segment is None:
            row_of = self._open_store().row_of
            found = [row_of(number) for number in wanted.tolist()]
            return np.array([-1 if row is None else row for row in found], np.int64)
        ids = self._segment.rows.ids
        rows = np.searchsorted(ids, wanted)
        rows[rows == len(ids)] = 0
        return np.where(ids[rows] == wanted, rows, -1) if len(ids) else np.full(len(wanted), -1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None and self._store is not None and self._unsaved and self._path is not None:
                self.save()
        finally:
            self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._path is None or self._unsaved:
            raise ClosedError(f"{self!r} can't be pickled: save it first")
        return FlatIndex.open, (str(self._path),)

    def __repr__(self) -> str:
        if self._store is None and self._segment is None:
            return f"<skeg.FlatIndex {self._dim} {self._metric} {self._kind} closed>"
        place = "memory" if self._segment is None else str(self._path)
        return f"<skeg.FlatIndex {len(self):,} x {self._dim} {self._metric} {self._kind} {place}>"
