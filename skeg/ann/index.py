"""`Index`: a published graph index, opened for searching."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import attrs
import numpy as np
import numpy.typing as npt

from skeg.ann import tuning
from skeg.ann.exact import scan_vectors
from skeg.ann.format import Manifest, read_manifest, write_manifest
from skeg.ann.hits import Hits, hits_of
from skeg.ann.kernels.lookup import find_rows
from skeg.ann.kernels.search import GRAPH_DAMAGED, OK, QUERY_ZERO, search_queries
from skeg.ann.metric import metric_number
from skeg.ann.parallel import shared_workers, spans, thread_count
from skeg.ann.params import DEFAULT_LIST_SIZE, DEFAULT_RERANK
from skeg.ann.quantizers import kernel_transform, query_room
from skeg.ann.segment import GraphSegment
from skeg.ann.transform import bad_row
from skeg.checks import RESERVED_ID, as_ids, as_int, as_queries
from skeg.errors import ClosedError, CorruptError, FormatError, NotFoundError
from skeg.files import AnyPath

QUERIES_A_CALL = 64
"""Queries of a batch that one thread takes at a time."""

LIST_SIZE_MAX = 1 << 20


class Index:
    """A Vamana index in a folder, opened read-only; made by `build_index`, opened by `Index.open`.

    Searching is safe from any number of threads and processes at a time. The files are mapped, so opening costs the same
    for every size, and all processes share one copy of what is in memory. Use it as a context manager or `close` it.
    """

    def __init__(self, path: AnyPath, manifest: Manifest, segment: GraphSegment) -> None:
        self._path = Path(os.path.abspath(path))
        self._manifest = manifest
        self._segment: GraphSegment | None = segment
        self._metric_number = metric_number(manifest.metric)
        s, q = segment, segment.quantizer
        self._scheme = q.scheme
        self._graph = (s.links, s.offsets[:-1], s.offsets[1:], s.entries)
        self._codes = (s.codes, s.factors, s.entry_codes, s.entry_factors, s.entry_vectors)
        self._transform = tuple(kernel_transform(q))
        self._base = (s.vectors, s.ids)
        self._idle: list[_Scratch] = []
        self._list_size = int(manifest.search["list_size"])
        self._rerank = int(manifest.search["rerank"])

    @classmethod
    def open(cls, path: AnyPath) -> Index:
        """Open the index in the folder ``path``, in a time that does not depend on its size.

        Raises
        ------
        FormatError
            Not an index, or one of another backend or of a newer version (`VersionTooNewError`).
        CorruptError
            The manifest is damaged, or a file is missing, cut short or does not agree with it.
        """
        manifest = read_manifest(path)
        if manifest.backend != "disk":
            raise FormatError(path, "another backend", expected="a graph index ('disk')", found=repr(manifest.backend))
        return cls(path, manifest, GraphSegment(path, manifest))

    def search(
        self,
        q: Any,
        k: int = 10,
        *,
        search_list_size: int | None = None,
        rerank: int | None = None,
        exact: bool = False,
        threads: int | None = None,
    ) -> Hits:
        """Nearest stored vectors of one query (dim,) or of many (n, dim).

        Parameters
        ----------
        q : array_like (dim,) or (n, dim)
            Any real dtype.
        k : int
            Hits wanted for each query; fewer come when the index holds fewer.
        search_list_size : int, optional
            Rows the walk keeps: larger finds more of the true neighbors and takes longer. By default what `tune` stored,
            else a measured value. Never below k.
        rerank : int, optional
            How many of these, the nearest by their codes, are scored exactly. Never below k nor above the list size.
        exact : bool
            Compare with every stored vector instead.
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
        CorruptError
            The search met a neighbor list that can't be: run `verify`.
        ClosedError
            The index was closed.
        """
        segment = self._open_segment()
        queries, was_single = as_queries(q, self._manifest.dim, what="query")
        if type(k) is not int or k < 1:
            k = as_int("k", k, 1, LIST_SIZE_MAX)
        if exact:
            return self._search_exactly(segment, queries, k, threads, was_single)
        list_size = self._list_size
        if search_list_size is not None:
            list_size = as_int("search_list_size", search_list_size, 1, LIST_SIZE_MAX)
        list_size = max(list_size, k)
        depth = self._rerank if rerank is None else as_int("rerank", rerank, 1, LIST_SIZE_MAX)
        depth = min(max(depth, k), list_size)
        n = len(queries)
        out = (np.empty((n, k), np.uint64), np.empty((n, k), np.float32), np.empty(n, np.int64))
        settings = (self._metric_number, self._scheme, list_size, depth)
        if n == 1:
            scored, expanded = self._search_span(queries, (0, 1), settings, out)
        else:
            scored, expanded = self._search_batch(queries, settings, out, thread_count(threads))
        stats = {"scored": scored, "expanded": expanded, "reranked": depth * n, "list_size": list_size}
        return hits_of(*out, self._manifest.metric, stats, was_single)

    def _search_span(
        self, queries: npt.NDArray[np.float32], span: tuple[int, int], settings: tuple[int, ...], out: tuple[Any, ...]
    ) -> tuple[int, int]:
        """Search some of the queries on this thread; gives rows scored and rows expanded."""
        try:
            scratch = self._idle.pop()
        except IndexError:
            scratch = _Scratch(self._open_segment(), int(self._manifest.build["max_degree"]))
        arrays = scratch.for_list_size(settings[2])
        counters = scratch.counters
        counters[0] = counters[1] = 0
        status, at = search_queries(
            queries, span, settings, self._graph, self._codes, self._transform, self._base, arrays, out
        )
        cost = int(counters[0]), int(counters[1])
        self._idle.append(scratch)
        if status == OK:
            return cost
        if status == GRAPH_DAMAGED:
            segment = self._open_segment()
            raise CorruptError(segment.hot.path, "a walk met a neighbor list that can't be; run verify()")
        raise bad_row(status == QUERY_ZERO, queries[at], at, "query")

    def _search_batch(
        self, queries: npt.NDArray[np.float32], settings: tuple[int, ...], out: tuple[Any, ...], threads: int
    ) -> tuple[int, int]:
        pieces = spans(len(queries), QUERIES_A_CALL)
        costs = np.zeros((len(pieces), 2), np.int64)

        def work(piece: int, worker: int) -> None:
            costs[piece] = self._search_span(queries, pieces[piece], settings, out)

        shared_workers(min(threads, max(len(pieces), 1))).run(len(pieces), work)
        scored, expanded = costs.sum(axis=0)
        return int(scored), int(expanded)

    def _search_exactly(
        self, segment: GraphSegment, queries: npt.NDArray[np.float32], k: int, threads: int | None, was_single: bool
    ) -> Hits:
        ids, scores, counts = scan_vectors(
            segment.vectors, segment.ids, queries, k, self._manifest.metric, thread_count(threads)
        )
        stats = {"scored": 0, "expanded": 0, "reranked": len(queries) * len(self), "list_size": 0}
        return hits_of(ids, scores, counts, self._manifest.metric, stats, was_single)

    def get(self, ids: Any) -> npt.NDArray[np.float32]:
        """Stored vectors, exactly as they were given as float32: (dim,) for one id, (n, dim) for a sequence.

        Raises
        ------
        NotFoundError
            An id that the index does not hold; the message names the first.
        """
        segment = self._open_segment()
        is_single = np.ndim(ids) == 0
        wanted = as_ids([ids] if is_single else ids, 1 if is_single else len(ids))
        rows = np.empty(len(wanted), np.int64)
        if find_rows(segment.ids, segment.id_order, wanted, rows) < len(wanted):
            raise NotFoundError(f"id {int(wanted[np.flatnonzero(rows < 0)[0]])} is not in {self._path}")
        vectors = segment.vectors[rows]
        return vectors[0] if is_single else vectors

    def ids(self) -> npt.NDArray[np.uint64]:
        """All ids (n,), ascending."""
        segment = self._open_segment()
        return segment.ids[segment.id_order]

    def __len__(self) -> int:
        """Number of stored vectors."""
        return self._manifest.count

    def __contains__(self, vector_id: object) -> bool:
        segment = self._open_segment()
        if not isinstance(vector_id, int | np.integer) or not 0 <= int(vector_id) < RESERVED_ID:
            return False
        wanted = np.array([vector_id], np.uint64)
        return bool(find_rows(segment.ids, segment.id_order, wanted, np.empty(1, np.int64)))

    @property
    def path(self) -> Path:
        """Folder of the index."""
        return self._path

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        return self._manifest.dim

    @property
    def metric(self) -> str:
        """Name of the metric."""
        return self._manifest.metric

    @property
    def kind(self) -> str:
        """Kind of the codes that steer a search."""
        return self._manifest.kind

    def stats(self) -> dict[str, Any]:
        """Size, settings and memory: how the index was built, its search defaults, bytes by purpose."""
        segment = self._open_segment()
        manifest = self._manifest
        resident = segment.resident_bytes
        return {
            "backend": manifest.backend,
            "count": manifest.count,
            "dim": manifest.dim,
            "metric": manifest.metric,
            "kind": manifest.kind,
            **{f"bytes_{name}": size for name, size in resident.items()},
            "bytes_resident": sum(resident.values()),
            "bytes_vectors": segment.vectors.nbytes,
            "bytes_on_disk": sum(manifest.files.values()),
            "entries": len(segment.entries),
            "build": dict(manifest.build),
            "search": dict(manifest.search),
        }

    def verify(self) -> list[CorruptError]:
        """Check every byte: checksums, ids, neighbor lists, reachability, codes against vectors.

        Returns
        -------
        list of CorruptError
            What is wrong, each with ``path`` and ``problem``; empty when all is well.

        Raises
        ------
        CorruptError
            A section that does not match its checksum; ``offset`` says where it starts.
        """
        return self._open_segment().verify(int(self._manifest.build["max_degree"]))

    def evaluate(
        self, queries: Any, k: int = 10, *, truth: Any = None, list_sizes: list[int] | None = None
    ) -> list[dict[str, float]]:
        """Recall and latency over list sizes, one query a call on one thread; see `skeg.ann.tuning.evaluate`."""
        return tuning.evaluate(self, queries, k, truth=truth, list_sizes=list_sizes)

    def tune(self, queries: Any, recall: float = 0.95, *, k: int = 10) -> int:
        """Smallest list size that reaches a recall on these queries, stored in the index as the default of `search`.

        Parameters
        ----------
        queries : array_like (n, dim)
            Like those the index will be asked; 200 or more.
        recall : float
            Recall at k to reach, over 0 and at most 1.
        k : int
            Hits wanted.

        Returns
        -------
        int
            The list size.

        Raises
        ------
        ParameterError
            No list size up to the number of vectors reaches it.
        StorageError
            The manifest can't be written.
        """
        list_size = tuning.find_list_size(self, queries, recall, k)
        search = {**self._manifest.search, "list_size": list_size, "tuned_recall": recall, "tuned_k": k}
        manifest = attrs.evolve(self._manifest, search=search)
        write_manifest(self._path, manifest)
        self._manifest = manifest
        self._list_size = list_size
        return list_size

    def close(self) -> None:
        """Unmap the files; doing so twice is allowed, anything else afterwards raises `ClosedError`."""
        segment, self._segment = self._segment, None
        if segment is not None:
            self._graph = self._codes = self._transform = self._base = ()
            self._idle.clear()
            segment.close()

    def _open_segment(self) -> GraphSegment:
        if self._segment is None:
            raise ClosedError(f"{self._path}: the index was closed")
        return self._segment

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return Index.open, (str(self._path),)

    def __fspath__(self) -> str:
        return str(self._path)

    def __repr__(self) -> str:
        m = self._manifest
        state = "closed" if self._segment is None else f"disk={sum(m.files.values()) / 2**20:.1f} MiB"
        return f"<skeg.Index {m.count:,} x {m.dim} {m.metric} {m.kind} {state}>"


class _Scratch:
    """Work space of one search at a time; the pool grows with the list size asked for."""

    def __init__(self, segment: GraphSegment, max_degree: int) -> None:
        n = len(segment.ids)
        room = max(len(segment.entries), max_degree)
        self.counters = np.zeros(4, np.int64)
        work, digits, table = query_room(segment.quantizer)
        self._fixed = (
            np.zeros(n, np.uint8),
            np.zeros(1, np.uint8),
            np.zeros(room, np.int64),
            np.zeros(room, np.float32),
            np.zeros(0, np.int64),
            self.counters,
            work,
            digits,
            table,
        )
        self._size = 0
        self._arrays: tuple[npt.NDArray[Any], ...] = ()

    def for_list_size(self, list_size: int) -> tuple[npt.NDArray[Any], ...]:
        """The arrays as `search_queries` takes them."""
        if list_size > self._size:
            self._size = list_size
            self._arrays = (np.zeros(list_size + 1, np.int64), *self._fixed)
        return self._arrays
