"""Searching the graph segment of an index: settings, work space, kernels, and what to say when something is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import attrs
import numpy as np
import numpy.typing as npt

from skeg.ann.exact import scan_vectors
from skeg.ann.format import MANIFEST, Manifest, read_manifest, write_manifest
from skeg.ann.hits import Hits
from skeg.ann.kernels.bundle import Bundle
from skeg.ann.kernels.cells import Cells
from skeg.ann.kernels.lookup import find_rows
from skeg.ann.kernels.score import Codes
from skeg.ann.kernels.search import GRAPH_DAMAGED, OK, QUERY_ZERO, bundle_index, search_many, search_one
from skeg.ann.kernels.walk import Graph
from skeg.ann.parallel import shared_workers, spans, thread_count
from skeg.ann.quantizers import kernel_transform
from skeg.ann.segment import GraphSegment
from skeg.ann.settings import SearchSettings, Settings
from skeg.ann.transform import Float32s, bad_row
from skeg.ann.workspace import Space, rescaled
from skeg.checks import as_int, as_queries
from skeg.errors import ClosedError, CorruptError, ParameterError, ReadOnlyError, VectorError
from skeg.jit import resolve

QUERIES_A_CALL = 64
"""Queries of a batch that one thread takes at a time."""

MAX_DEGREE = 1 << 16
"""Longest neighbor lists that an index may name: work space is made for them."""

Ids = npt.NDArray[np.uint64]

_Checked = TypeVar("_Checked")

_UINT64, _FLOAT32 = np.dtype(np.uint64), np.dtype(np.float32)
_empty = np.empty  # one look-up less in what every search runs


class GraphSearcher:
    """Searches one segment, from any number of threads at a time.

    Parameters
    ----------
    path : Path
        Folder of the index.
    manifest : Manifest
    segment : GraphSegment
        Opened; closed by `close`.

    Raises
    ------
    CorruptError
        A number of the manifest that a search relies on is out of range.
    """

    def __init__(self, path: Path, manifest: Manifest, segment: GraphSegment) -> None:
        self.path = path
        self.manifest = manifest
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
        self._call: Callable[..., Any] | None = None
        self._idle: list[Space] = []
        degree = manifest.build.get("max_degree")
        self.max_degree = self._checked("build", lambda: as_int("max_degree", degree, 1, MAX_DEGREE))
        self._root = (q.scheme, int(s.root[0]))
        self.settings = self._checked("search", lambda: SearchSettings(manifest, *self._root))

    def _checked(self, group: str, read: Callable[[], _Checked]) -> _Checked:
        """Numbers of the manifest that a search relies on."""
        try:
            return read()
        except ParameterError as error:
            raise CorruptError(self.path / MANIFEST, f"{group} setting out of range ({error})") from error

    def retune(self, manifest: Manifest) -> None:
        """Go by a manifest that differs in the settings of a search only."""
        self.manifest = manifest
        self.settings = SearchSettings(manifest, *self._root)

    def search_one(self, query: npt.NDArray[np.float32], settings: Settings) -> Hits | None:
        """Hits of one query (dim,), or None if there is anything to complain about."""
        bundle = self._bundle or self.open_bundle()
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

    def call_one(
        self, call: Callable[..., Any], query: Float32s, k: int, list_size: int | None, rest: tuple[Any, ...]
    ) -> Any:
        """What a kernel gives for one query (dim,); its arguments are the first four of `search_one`, and ``rest``."""
        bundle = self._bundle or self.open_bundle()
        settings = self.settings.get(k, list_size, None)
        space = self._borrow(settings)
        answer = call(query, settings.numbers, bundle.table, space.table, *rest)
        self._idle.append(space)
        return answer

    def _resolve(self, query: Any, settings: Settings, space: Space, ids: Any, scores: Any) -> Callable[..., Any]:
        args = (query, settings.numbers, self.open_bundle().table, space.table, ids, scores)
        self._call = resolve(search_one, args)
        return self._call

    def search_many(self, queries: npt.NDArray[np.float32], settings: Settings, threads: int) -> Hits:
        """Hits of queries (n, dim); `VectorError` for one that can't be, `CorruptError` for a damaged graph."""
        n, k = len(queries), settings.n_hits
        out = (np.empty((n, k), np.uint64), np.empty((n, k), np.float32), np.empty(n, np.int64))
        pieces = spans(n, QUERIES_A_CALL)
        costs = np.zeros((len(pieces), 3), np.int64)
        bundle = self.open_bundle()

        def work(piece: int, _worker: int) -> None:
            space = self._borrow(settings)
            status, at = search_many(
                queries, pieces[piece], settings.numbers, bundle.table, space.table, costs[piece], out
            )
            self._idle.append(space)
            if status != OK:
                raise self.failure(status, queries[at], at)

        shared_workers(min(threads, max(len(pieces), 1))).run(len(pieces), work)
        return Hits(*out[:2], self._metric, (*costs.sum(axis=0).tolist(), settings.list_size))

    def _borrow(self, settings: Settings) -> Space:
        """Work space that no other search uses; give it back by appending it to the idle ones.

        Taking from and appending to a list are atomic, so there is no lock.
        """
        try:
            space = self._idle.pop()
        except IndexError:
            space = Space(self.open_segment(), self.max_degree)
        if space.capacity < settings.capacity:
            space.grow(settings.capacity)
        return space

    def failure(self, status: int, query: npt.NDArray[np.float32], row: int) -> Exception:
        """The error for a status of a search other than OK."""
        if status == GRAPH_DAMAGED:
            path = self.open_segment().hot.path
            return CorruptError(path, "a walk met a neighbor list that can't be; verify() tells more")
        return bad_row(status == QUERY_ZERO, query, row, "query")

    def search_exactly(self, queries: npt.NDArray[np.float32], settings: Settings, threads: int) -> Hits:
        """Hits of queries (n, dim) by comparing with every row."""
        segment = self.open_segment()
        rows = [(segment.vectors, segment.ids, None)]
        try:
            ids, scores, _ = scan_vectors(rows, queries, settings.n_hits, self._metric, threads)
        except VectorError as error:
            raise self.not_in_range(error) from error
        return Hits(ids, scores, self._metric, (0, 0, len(queries) * len(segment.ids), 0))

    def not_in_range(self, error: VectorError) -> Exception:
        """The error for a vector met by an exact search: one of a query stays what it is."""
        if error.what == "queries":
            return error
        path, problem = self.open_segment().cold.path, f"the vector of row {error.row} can't be"
        return CorruptError(path, problem, expected=error.expected, found=error.found)

    def find(self, ids: Ids) -> tuple[Float32s, npt.NDArray[np.bool_]]:
        """Vectors (n, dim) of ids (n,), and whether each is there."""
        segment = self.open_segment()
        rows = np.empty(len(ids), np.int64)
        find_rows(segment.ids, segment.id_order, ids, rows)
        return segment.vectors[rows], rows >= 0

    def holds(self, ids: Ids) -> npt.NDArray[np.bool_]:
        """Whether each id (n,) is there."""
        segment = self.open_segment()
        rows = np.empty(len(ids), np.int64)
        find_rows(segment.ids, segment.id_order, ids, rows)
        return rows >= 0

    def ids(self) -> Ids:
        """All ids (n,), ascending; `CorruptError` if the file's order of them names rows that are not there."""
        segment = self.open_segment()
        if int(segment.id_order.max()) >= len(segment.ids):
            raise CorruptError(segment.hot.path, "id_order names rows that are not there; verify() tells more")
        return segment.ids[segment.id_order]

    def __len__(self) -> int:
        return self.count

    @property
    def count(self) -> int:
        """Rows, also when it is closed."""
        return self.manifest.count

    @property
    def disk_bytes(self) -> int:
        """Bytes of the files, also when it is closed."""
        return sum(self.manifest.files.values())

    def stats(self) -> dict[str, Any]:
        """See `Index.stats`."""
        return segment_stats(self.manifest, self.open_segment())

    def verify(self) -> list[CorruptError]:
        """See `Index.verify`."""
        return self.open_segment().verify(self.max_degree)

    def tune(self, search: dict[str, Any]) -> None:
        """Store settings of a search."""
        if read_manifest(self.path).live is not None:
            raise ReadOnlyError(self.path, "the index has been opened for writing since; open it again")
        manifest = attrs.evolve(self.manifest, search={**self.manifest.search, **search})
        write_manifest(self.path, manifest)
        self.retune(manifest)

    def check_open(self) -> None:
        """Raise `ClosedError` once it is closed."""
        self.open_segment()

    def close(self) -> None:
        """Unmap the files; doing so twice is allowed. A search under way ends as if nothing had happened."""
        segment, self._segment = self._segment, None
        if segment is not None:
            self._bundle = None
            self._idle.clear()
            segment.close()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._segment is None

    def open_segment(self) -> GraphSegment:
        """The segment; `ClosedError` once it is closed."""
        if self._segment is None:
            raise self._closed()
        return self._segment

    def open_bundle(self) -> Bundle:
        """What kernels search in; whoever holds it keeps the files mapped. `ClosedError` once it is closed."""
        if self._bundle is None:
            raise self._closed()
        return self._bundle

    def _closed(self) -> ClosedError:
        return ClosedError(f"{self.path}: the index was closed")


def segment_stats(manifest: Manifest, segment: GraphSegment | None) -> dict[str, Any]:
    """What `Index.stats` says of a segment, or of an index that has none yet."""
    resident = {} if segment is None else segment.resident_bytes
    return {
        "backend": manifest.backend,
        "count": manifest.count,
        "dim": manifest.dim,
        "metric": manifest.metric,
        "kind": manifest.kind,
        **{f"bytes_{name}": size for name, size in resident.items()},
        "bytes_resident": sum(resident.values()),
        "bytes_vectors": 0 if segment is None else segment.vectors.nbytes,
        "bytes_on_disk": sum(manifest.files.values()),
        "regions": 0 if segment is None else len(segment.regions) - 1,
        "cells": 0 if segment is None else len(segment.cells) - 1,
        "build": dict(manifest.build),
        "search": dict(manifest.search),
    }


class Searcher(Protocol):
    """What an index is searched by, whether it changes or not; see `GraphSearcher`."""

    manifest: Manifest

    @property
    def settings(self) -> SearchSettings:
        """Settings of a search now."""

    def check_open(self) -> None:
        """Raise `ClosedError` once it is closed."""

    def search_one(self, query: Float32s, settings: Settings) -> Hits | None:
        """Hits of one query (dim,), or None if there is anything to complain about."""

    def call_one(
        self, call: Callable[..., Any], query: Float32s, k: int, list_size: int | None, rest: tuple[Any, ...]
    ) -> Any:
        """What a kernel gives for one query (dim,), or None if there is more to search than it can."""

    def search_many(self, queries: Float32s, settings: Settings, threads: int) -> Hits:
        """Hits of queries (n, dim)."""

    def search_exactly(self, queries: Float32s, settings: Settings, threads: int) -> Hits:
        """Hits of queries (n, dim) by comparing with every row."""


def search_any(searcher: Searcher, q: Any, settings: Settings, threads: int | None, *, exact: bool) -> Hits:
    """Search for queries in any form, with every check; errors as `Index.search`."""
    searcher.check_open()
    manifest = searcher.manifest
    queries, was_single = as_queries(q, manifest.dim, what="query")
    n_threads = 1 if was_single and threads is None else thread_count(threads)
    if was_single and not exact:
        hits = searcher.search_one(queries[0], settings)
        if hits is not None:
            return hits
    search = searcher.search_exactly if exact else searcher.search_many
    try:
        hits = search(queries, settings, n_threads)
    except VectorError:
        # Squares of very large or small numbers leave float32, yet under cosine such a query is as good as any.
        in_range = rescaled(queries) if manifest.metric == "cosine" else None
        if in_range is None:
            raise
        hits = search(in_range, settings, n_threads)
    return hits.first() if was_single else hits
