"""Search the rows of a flat index: through their codes, or all of them exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from skeg.ann.arrays import aligned_zeros
from skeg.ann.exact import ExactHits, ExactSearch, block_rows
from skeg.ann.flatrows import FlatRows, has_codes
from skeg.ann.kernels import scan
from skeg.ann.kernels.simd_scan import GROUP, MANY
from skeg.ann.metric import METRICS
from skeg.ann.parallel import shared_workers, spans
from skeg.ann.quantizers import kernel_transform, query_room
from skeg.ann.transform import Float32s, bad_row
from skeg.jit import resolve

TILES_A_CALL = 4
"""Tiles of queries (`skeg.ann.kernels.simd_scan.MANY`) that one thread takes at a time."""


class FlatSearcher:
    """Searches one settled set of rows."""

    def __init__(self, rows: FlatRows) -> None:
        self.rows = rows
        quantizer = rows.quantizer
        self._metric = quantizer.transform.metric
        slack = np.float32(scan.SLACK if has_codes(quantizer) else 0)
        self._settings = (METRICS[self._metric], quantizer.scheme, slack)
        self._arrays: tuple[Any, ...] = (
            (rows.groups, rows.group_factors, rows.codes, rows.factors, rows.ranks, rows.by_rank),
            tuple(kernel_transform(quantizer)),
            (rows.vectors, rows.ids),
        )
        self._call: Callable[..., Any] | None = None
        self._idle: list[_Scratch] = []

    def exact(self, queries: Float32s, k: int, threads: int) -> ExactHits:
        """Compare every vector with each query (n_queries, dim)."""
        rows = self.rows
        search = ExactSearch(queries, k, self._metric, shared_workers(threads), rows.ranks)
        for start, stop in spans(len(rows.ids), block_rows(queries.shape[1])):
            search.add(rows.vectors[start:stop], rows.norms[start:stop])
        return search.hits(rows.ids, rows.by_rank)

    def scan(self, queries: Float32s, k: int, depth: int, threads: int) -> ExactHits:
        """Look at all codes, and score the best ``depth`` vectors exactly, for queries (n_queries, dim)."""
        n = len(queries)
        out = np.empty((n, k), np.uint64), np.empty((n, k), np.float32), np.empty(n, np.int64)
        if n == 1:
            self._scan_span(queries, (0, 1), depth, out)
            return out
        tiles = min(TILES_A_CALL, -(-n // (threads * MANY)))
        pieces = spans(n, max(1, tiles) * MANY)

        def work(piece: int, _worker: int) -> None:
            self._scan_span(queries, pieces[piece], depth, out)

        shared_workers(min(threads, max(len(pieces), 1))).run(len(pieces), work)
        return out

    def _scan_span(self, queries: Float32s, span: tuple[int, int], depth: int, out: ExactHits) -> None:
        try:  # taking from and appending to a list are atomic, so there is no lock
            scratch = self._idle.pop()
        except IndexError:
            scratch = _Scratch(self.rows)
        args = (queries, span, self._settings, *self._arrays, scratch.arrays(depth), out)
        if self._call is None:
            self._call = resolve(scan.scan_queries, args)
        status, at = self._call(*args)
        self._idle.append(scratch)
        if status != scan.OK:
            raise bad_row(status == scan.QUERY_ZERO, queries[at], at, "query")


class _Scratch:
    """Work space of one scan at a time, see `skeg.ann.kernels.scan.Tile`."""

    def __init__(self, rows: FlatRows) -> None:
        work, digits, table = query_room(rows.quantizer)
        self._before = (
            aligned_zeros((MANY, len(digits)), np.int8),
            np.zeros((MANY, len(table)), np.float32),
            work,
            np.zeros((MANY, 5), np.float32),
            aligned_zeros((MANY * max(rows.groups.shape[1] // 8, 1),), np.int32),
            aligned_zeros((MANY, scan.BLOCK_ROWS), np.int32),
            np.zeros((2, scan.BLOCK_ROWS + GROUP), np.int32),
            np.zeros((MANY, scan.BLOCK_ROWS), np.int64),
            np.zeros((MANY, scan.BLOCK_ROWS), np.float32),
            np.zeros((MANY, scan.WAITING_ROWS), np.int64),
            np.zeros((MANY, scan.WAITING_ROWS), np.float32),
        )
        self._after = (np.zeros((MANY, 3), np.int64), np.zeros(1, np.int64))
        self._heaps = np.zeros((MANY, 0), np.int64)

    def arrays(self, depth: int) -> tuple[Any, ...]:
        """The arrays for a number of candidates."""
        if self._heaps.shape[1] != depth:
            self._heaps = np.zeros((MANY, depth), np.int64)
        return (*self._before, self._heaps, *self._after)
