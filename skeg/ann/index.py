"""`Index`: a published graph index, opened for searching."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import attrs
import numpy as np
import numpy.typing as npt

from skeg.ann import tuning
from skeg.ann.exact import scan_vectors
from skeg.ann.format import MANIFEST, Manifest, read_manifest, write_manifest
from skeg.ann.hits import Hits
from skeg.ann.kernels.bundle import Bundle
from skeg.ann.kernels.cells import Cells
from skeg.ann.kernels.lookup import find_rows
from skeg.ann.kernels.score import Codes
from skeg.ann.kernels.search import (
    GRAPH_DAMAGED,
    OK,
    QUERY_ZERO,
    bundle_index,
    search_many,
    search_one,
)
from skeg.ann.kernels.walk import Graph
from skeg.ann.parallel import shared_workers, spans, thread_count
from skeg.ann.quantizers import kernel_transform
from skeg.ann.segment import GraphSegment
from skeg.ann.settings import SearchSettings, Settings
from skeg.ann.transform import bad_row
from skeg.ann.workspace import Space, rescaled
from skeg.checks import RESERVED_ID, as_ids, as_int, as_queries
from skeg.errors import ClosedError, CorruptError, FormatError, NotFoundError, ParameterError, VectorError
from skeg.files import AnyPath
from skeg.jit import resolve

QUERIES_A_CALL = 64
"""Queries of a batch that one thread takes at a time."""

MAX_DEGREE = 1 << 16
"""Longest neighbor lists that an index may name: work space is made for them."""

_Checked = TypeVar("_Checked")

_FLOAT32 = np.dtype(np.float32)
_UINT64 = np.dtype(np.uint64)
_empty, _ndarray = np.empty, np.ndarray  # one look-up less each, in what every search runs


class Index:
    """A Vamana index in a folder, opened read-only; made by `build_index`, opened by `Index.open`.

    Searching is safe from any number of threads and processes at a time. The files are mapped, so opening costs the
    same for every size, and all processes share one copy of what is in memory. Use it as a context manager or `close`
    it.
    """

    def __init__(self, path: AnyPath, manifest: Manifest, segment: GraphSegment) -> None:
        self._path = Path(os.path.abspath(path))
        self._manifest = manifest
        self._segment: GraphSegment | None = segment
        self._metric = manifest.metric
        s, q = segment, segment.quantizer
        self._bundle: Bundle | None = bundle_index(
            Graph(s.links, s.offsets[:-1], s.offsets[1:]),
            Codes(q.scheme, s.codes, s.factors, s.vectors),
            Codes(q.scheme, s.centroid_codes, s.centroid_factors, s.centroid_vectors),
            Cells(s.regions, s.cells, int(s.root[0])),
            kernel_transform(q),
            s.ids,
        )
        self._shape = (manifest.dim,)
        self._call: Callable[..., Any] | None = None
        self._idle: list[Space] = []
        degree = manifest.build.get("max_degree")
        self._max_degree = self._checked("build", lambda: as_int("max_degree", degree, 1, MAX_DEGREE))
        self._settings = self._checked("search", self._read_settings)

    @classmethod
    def open(cls, path: AnyPath) -> Index:
        """Open an index, in a time that does not depend on its size.

        Parameters
        ----------
        path : path
            Folder of the index.

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

    def _checked(self, group: str, read: Callable[[], _Checked]) -> _Checked:
        """Numbers of the manifest that a search relies on."""
        try:
            return read()
        except ParameterError as error:
            raise CorruptError(self._path / MANIFEST, f"{group} setting out of range ({error})") from error

    def _read_settings(self) -> SearchSettings:
        segment = self._open_segment()
        return SearchSettings(self._manifest, segment.quantizer.scheme, int(segment.root[0]))

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
            Rows a walk keeps, on the average over queries (`skeg.ann.calibration`): larger finds more of the true
            neighbors and takes longer. By default what `tune` stored, else a measured value. Never below k.
        rerank : int, optional
            Rows scored exactly, the nearest by their codes; never below k. By default those that an error of the codes
            could keep from their place among the hits, for each query; how large errors are was measured by the build.
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
        # One query a call is the usual way to search, with the same numbers over and over again.
        settings = self._settings.last
        if k is not settings.k or search_list_size is not settings.search_list_size or rerank is not settings.rerank:
            settings = self._settings.get(k, search_list_size, rerank)
        if type(q) is _ndarray and q.dtype is _FLOAT32 and q.shape == self._shape and not exact:
            flags = q.flags
            if flags.c_contiguous and flags.aligned and (threads is None or threads == 1):
                hits = self._search_one(q, settings)
                if hits is not None:
                    return hits
        return self._search_any(q, settings, threads, exact=exact)

    def _search_any(self, q: Any, settings: Settings, threads: int | None, *, exact: bool) -> Hits:
        """Search for queries in any form, with every check."""
        if self._segment is None:
            raise self._closed()
        queries, was_single = as_queries(q, self._manifest.dim, what="query")
        n_threads = 1 if was_single and threads is None else thread_count(threads)
        if was_single and not exact:
            hits = self._search_one(queries[0], settings)
            if hits is not None:
                return hits
        search = self._search_exactly if exact else self._search_many
        try:
            hits = search(queries, settings, n_threads)
        except VectorError:
            # Squares of very large or small numbers leave float32, yet under cosine such a query is as good as any.
            in_range = rescaled(queries) if self._manifest.metric == "cosine" else None
            if in_range is None:
                raise
            hits = search(in_range, settings, n_threads)
        return hits.first() if was_single else hits

    def _search_one(self, query: npt.NDArray[np.float32], settings: Settings) -> Hits | None:
        """Hits of one query (dim,), or None if there is anything to complain about."""
        bundle = self._bundle or self._open_bundle()
        space = self._borrow(settings)
        n_hits = settings.n_hits
        ids, scores = _empty(n_hits, _UINT64), _empty(n_hits, _FLOAT32)
        call = self._call or self._resolve(query, settings, space, ids, scores)
        answer = call(query, settings.numbers, bundle.table, space.table, ids, scores)
        self._idle.append(space)
        status, count, scored, expanded, reranked = answer
        if status != OK:
            return None
        if count < n_hits:
            ids, scores = ids[:count], scores[:count]
        return Hits(ids, scores, self._metric, (scored, expanded, reranked, settings.list_size))

    def _resolve(self, query: Any, settings: Settings, space: Space, ids: Any, scores: Any) -> Callable[..., Any]:
        args = (query, settings.numbers, self._open_bundle().table, space.table, ids, scores)
        self._call = resolve(search_one, args)
        return self._call

    def _search_many(self, queries: npt.NDArray[np.float32], settings: Settings, threads: int) -> Hits:
        n, k = len(queries), settings.n_hits
        out = (np.empty((n, k), np.uint64), np.empty((n, k), np.float32), np.empty(n, np.int64))
        pieces = spans(n, QUERIES_A_CALL)
        costs = np.zeros((len(pieces), 3), np.int64)
        bundle = self._open_bundle()

        def work(piece: int, _worker: int) -> None:
            space = self._borrow(settings)
            status, at = search_many(
                queries, pieces[piece], settings.numbers, bundle.table, space.table, costs[piece], out
            )
            self._idle.append(space)
            if status != OK:
                raise self._failure(status, queries[at], at)

        shared_workers(min(threads, max(len(pieces), 1))).run(len(pieces), work)
        return Hits(*out[:2], self._manifest.metric, (*costs.sum(axis=0).tolist(), settings.list_size))

    def _borrow(self, settings: Settings) -> Space:
        """Work space that no other search uses; give it back by appending it to the idle ones.

        Taking from and appending to a list are atomic, so there is no lock.
        """
        try:
            space = self._idle.pop()
        except IndexError:
            space = Space(self._open_segment(), self._max_degree)
        if space.capacity < settings.capacity:
            space.grow(settings.capacity)
        return space

    def _failure(self, status: int, query: npt.NDArray[np.float32], row: int) -> Exception:
        if status == GRAPH_DAMAGED:
            path = self._open_segment().hot.path
            return CorruptError(path, "a walk met a neighbor list that can't be; verify() tells more")
        return bad_row(status == QUERY_ZERO, query, row, "query")

    def _search_exactly(self, queries: npt.NDArray[np.float32], settings: Settings, threads: int) -> Hits:
        segment, k = self._open_segment(), settings.n_hits
        try:
            ids, scores, _ = scan_vectors(segment.vectors, segment.ids, queries, k, self._manifest.metric, threads)
        except VectorError as error:
            if error.what == "queries":
                raise
            path, problem = segment.cold.path, f"the vector of row {error.row} can't be"
            raise CorruptError(path, problem, expected=error.expected, found=error.found) from error
        return Hits(ids, scores, self._manifest.metric, (0, 0, len(queries) * len(self), 0))

    def get(self, ids: Any) -> npt.NDArray[np.float32]:
        """Stored vectors, exactly as they were given as float32.

        Parameters
        ----------
        ids : int or array_like (n,) of integers

        Returns
        -------
        ndarray (dim,) for one id, (n, dim) for many
            float32, a copy.

        Raises
        ------
        NotFoundError
            An id that the index does not hold; the message names the first.
        VectorError
            What can't be an id.
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
        """All ids (n,), ascending; `CorruptError` if the file's order of them names rows that are not there."""
        segment = self._open_segment()
        if int(segment.id_order.max()) >= len(segment.ids):
            raise CorruptError(segment.hot.path, "id_order names rows that are not there; verify() tells more")
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
            "regions": len(segment.regions) - 1,
            "cells": len(segment.cells) - 1,
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
        return self._open_segment().verify(self._max_degree)

    def evaluate(
        self, queries: Any, k: int = 10, *, truth: Any = None, list_sizes: list[int] | None = None
    ) -> list[dict[str, float]]:
        """Recall and latency over list sizes, one query a call on one thread.

        Parameters
        ----------
        queries : array_like (n, dim)
        k : int
            Hits wanted.
        truth : array_like (n, at least k) of ids, optional
            True neighbors, nearest first; computed by exact search when not given.
        list_sizes : list of int, optional
            By default `skeg.ann.tuning.LIST_SIZES` from k up.

        Returns
        -------
        list of dict
            ``search_list_size``, ``recall``, ``queries_per_second``, ``latency_ms_p50``, ``latency_ms_p99``.
        """
        return tuning.evaluate(self, queries, k, truth=truth, list_sizes=list_sizes)

    def tune(self, queries: Any, recall: float = 0.95, *, k: int = 10) -> int:
        """Smallest list size that reaches a recall on these queries, stored in the index as the default of `search`.

        Parameters
        ----------
        queries : array_like (n, dim)
            Like those the index will be asked; 200 or more.
        recall : float
            Recall at k to reach, 0 to 1.
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
        tuned = {"list_size": list_size, "tuned_recall": float(recall), "tuned_k": int(k)}
        search = {**self._manifest.search, **tuned}
        manifest = attrs.evolve(self._manifest, search=search)
        write_manifest(self._path, manifest)
        self._manifest = manifest
        self._settings = self._read_settings()
        return list_size

    def close(self) -> None:
        """Unmap the files; doing so twice is allowed.

        Afterwards everything that needs them raises `ClosedError`. A search under way in another thread ends as if
        nothing had happened, or raises that.
        """
        segment, self._segment = self._segment, None
        if segment is not None:
            self._bundle = None
            self._idle.clear()
            segment.close()

    def _open_segment(self) -> GraphSegment:
        if self._segment is None:
            raise self._closed()
        return self._segment

    def _open_bundle(self) -> Bundle:
        """What kernels search in; whoever holds it keeps the files mapped."""
        if self._bundle is None:
            raise self._closed()
        return self._bundle

    def _closed(self) -> ClosedError:
        return ClosedError(f"{self._path}: the index was closed")

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
