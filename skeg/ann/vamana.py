"""Vamana graph construction: which rows are inserted when, by whom, and what is mended at the end.

The graph is built in one pass over a random order of the rows, in batches that double in size up to a share of the
data (ParlayANN, Manohar et al., PPoPP 2024, section 3.1). Within a batch every row is searched for in the frozen graph
and its neighbors are chosen, in parallel; then the edges are turned around, grouped by target and added, in parallel by
target. Nothing depends on which thread did what: the same data and seed give the same graph.

All arithmetic is on codes, whatever the index's own kind: 4-bit codes steer the walks, 8-bit codes measure distances
in pruning.
The element loops are in `skeg.ann.kernels.prune` and `skeg.ann.kernels.walk`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from skeg.ann.kernels import connect, prune, walk
from skeg.ann.kernels.score import Codes
from skeg.ann.parallel import Workers, spans
from skeg.ann.params import LINKS_MAX, GraphParams
from skeg.errors import ParameterError

POINTS_A_CALL = 128
"""Rows inserted by one kernel call: some 10 ms, so that Ctrl-C is seen at once."""

GROUPS_A_CALL = 512
"""Neighbor lists extended by one kernel call."""

SLACK = 1.3
"""Slots for each neighbor list, as a multiple of the maximum degree: a list is pruned only when these are used up."""

BATCH_SHARE = 0.02
"""Largest batch as a share of the rows; rows of one batch don't see each other."""

REVERSE_CANDIDATES = 512
"""Nearest candidates considered when a neighbor list is pruned."""


@attrs.frozen(eq=False)
class BuildRows:
    """Everything the construction knows of the rows; n rows, row_bytes as the codes need.

    steering : codes that walks are steered by, with factors (n, 2) float32 whose offsets make the estimate a distance
    between rows; rows : 8-bit codes and what goes with them (`skeg.ann.kernels.prune.Rows`); metric : metric number.
    """

    steering: Codes
    rows: prune.Rows
    metric: int

    @property
    def n(self) -> int:
        """Number of rows."""
        return int(self.rows.squares.shape[0])


@attrs.frozen(eq=False)
class BuiltGraph:
    """A finished graph over renumbered rows: the neighbors of row u are ``links[offsets[u]:offsets[u + 1]]``.

    links (n_links,) uint32; offsets (n + 1,) uint32; root: the row from which every other can be reached.
    """

    links: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.uint32]
    root: int


def slots_for(max_degree: int) -> int:
    """Slots that each neighbor list has during construction."""
    return max(int(max_degree * SLACK), max_degree + 1)


def insertion_order(n: int, medoid: int, seed: int) -> npt.NDArray[np.uint32]:
    """Random order of the rows (n,) uint32 with the medoid first."""
    order = np.random.default_rng(seed).permutation(n).astype(np.uint32)
    place = int(np.flatnonzero(order == medoid)[0])
    order[0], order[place] = order[place], order[0]
    return order


def largest_batch(n: int) -> int:
    """Rows of a batch at most, wherever batches begin."""
    return min(n // 2, max(int(n * BATCH_SHARE), 64))


def batch_spans(n: int, start: int = 1) -> list[tuple[int, int]]:
    """Spans of the insertion order after ``start`` rows: as many as there are, at most `largest_batch`."""
    result = []
    while start < n:
        stop = min(n, start + min(start, largest_batch(n)))
        result.append((start, stop))
        start = stop
    return result


class _Worker:
    """One thread's scratch for construction."""

    def __init__(self, build: BuildRows, params: GraphParams, slots: int) -> None:
        n_pool = prune.CANDIDATES * params.build_list_size
        n_expanded = n_pool + params.build_list_size + 64
        padded = max(build.rows.codes.shape[1], build.steering.codes.shape[1] * 8 // build.steering.scheme)
        self.scratch = walk.Scratch(
            pool=np.zeros(n_pool + 1, np.int64),
            tags=np.zeros(build.n, np.uint8),
            epoch=np.zeros(1, np.uint8),
            todo=np.zeros(slots, np.int64),
            expanded=np.zeros(n_expanded, np.int64),
            counters=np.zeros(4, np.int64),
            keys=np.zeros(0, np.int64),
            products=np.zeros(0, np.int32),
            estimates=np.zeros(0, np.float32),
        )
        self.digits = np.zeros(padded, np.int8)
        self.keys = np.zeros(max(n_expanded, REVERSE_CANDIDATES) + 1, np.int64)
        self.kept = np.zeros(params.max_degree, np.uint32)


class _Batch:
    """Room for the edges of one batch of at most ``largest`` rows, and for turning them around."""

    def __init__(self, n: int, largest: int, degree: int) -> None:
        self.neighbors = np.zeros((largest, degree), np.uint32)
        self.degrees = np.zeros(largest, np.int32)
        self.sources = np.zeros(largest * degree, np.uint32)
        self.targets = np.zeros(min(n, largest * degree), np.uint32)
        self.group_ends = np.zeros(len(self.targets), np.int64)
        self.tally = np.zeros(n, np.uint32)


class GraphBuilder:
    """Builds one graph: `run`, or `adopt` and `run`, then `finish`; or one that grows: `insert` and `connect`.

    Parameters
    ----------
    build : BuildRows
    params : GraphParams
    order : (n,) uint32
        Insertion order, see `insertion_order`.
    workers : Workers
    progress : callable
        Called with the number of rows inserted so far.
    new_array : callable
        Gives the array of the links, from shape and dtype; zeroed.
    largest : int, optional
        Rows of a batch at most; by default `largest_batch`.

    Raises
    ------
    ParameterError
        More slots than 32 bits can address.
    """

    def __init__(
        self,
        build: BuildRows,
        params: GraphParams,
        order: npt.NDArray[np.uint32],
        workers: Workers,
        progress: Callable[[int], None] = lambda _: None,
        new_array: Callable[[tuple[int, ...], npt.DTypeLike], npt.NDArray[Any]] = np.zeros,
        largest: int | None = None,
    ) -> None:
        self._build = build
        self._params = params
        self._order = order
        self._workers = workers
        self._progress = progress
        n = build.n
        if largest is None:
            largest = largest_batch(n)
        self._slots = slots_for(params.max_degree)
        if n * self._slots > LINKS_MAX:
            raise ParameterError("max_degree", params.max_degree, f"at most {LINKS_MAX // n / SLACK:.0f} for {n} rows")
        self._new_array = new_array
        self._links = new_array((n * self._slots,), np.uint32)
        self._starts = (np.arange(n, dtype=np.uint64) * np.uint64(self._slots)).astype(np.uint32)
        self._ends = self._starts.copy()
        self.graph = walk.Graph(self._links, self._starts, self._ends)
        self._medoid = int(order[0])
        self._n_entries = params.entries_for(n)
        self._entries = walk.Entries(order[:0], build.steering)
        self._batch = _Batch(n, largest, params.max_degree)
        self._threads = [_Worker(build, params, self._slots) for _ in range(workers.threads)]
        self._settings = (build.metric, params.build_list_size, np.float32(params.alpha), params.max_degree)

    def adopt(self, old: walk.Graph, old_rows: npt.NDArray[np.uint32], new_row: npt.NDArray[np.int64]) -> None:
        """Take over the rows that are left of an older graph, as the first rows of this one.

        old_rows (m,) uint32: the older graph's row of each; new_row int64, by row of the older graph: its row here, -1
        if it is gone. What pointed to rows that are gone is patched.
        """
        pieces = spans(len(old_rows), GROUPS_A_CALL)

        def work(piece: int, worker: int) -> None:
            own = self._threads[worker]
            prune.patch_lists(
                pieces[piece], old_rows, new_row, old, self._links, self._slots, self._ends, self._build.rows,
                self._settings, own.keys, own.kept,
            )  # fmt: skip

        self._workers.run(len(pieces), work, lambda: self._progress(0))

    def run(self, n_inserted: int = 1) -> None:
        """Insert every row but the first ``n_inserted`` of the order, cut the lists to the maximum degree, connect."""
        for start, stop in batch_spans(self._build.n, n_inserted):
            self.insert(start, stop)
            self._progress(stop)
        self._trim()
        self.connect(self._build.n)

    def insert(self, start: int, stop: int) -> None:
        """Insert the rows that stand at start to stop - 1 of the order into the graph of those before them."""
        points, batch = self._order[start:stop], self._batch
        self._find_entries(start)
        self._choose(points, start, batch.neighbors, batch.degrees)
        prune.write_lists(points, batch.neighbors, batch.degrees, self._links, self._slots, self._ends)
        n_groups = prune.group_by_target(
            points, batch.neighbors, batch.degrees, batch.tally, batch.targets, batch.group_ends, batch.sources
        )
        self._reverse(n_groups, (batch.targets, batch.group_ends, batch.sources))

    def _find_entries(self, n_inserted: int) -> None:
        """Take the first rows of the order, as far as they are inserted, for the entries of walks."""
        if len(self._entries.rows) < min(self._n_entries, n_inserted):
            rows, steering = self._order[: min(self._n_entries, n_inserted)].copy(), self._build.steering
            codes = Codes(steering.scheme, steering.codes[rows], steering.factors[rows], steering.vectors)
            self._entries = walk.Entries(rows, codes)

    def _choose(
        self,
        points: npt.NDArray[np.uint32],
        n_inserted: int,
        neighbors: npt.NDArray[np.uint32],
        degrees: npt.NDArray[np.int32],
    ) -> None:
        pieces = spans(len(points), POINTS_A_CALL)
        n_entries = len(self._entries.rows)

        def work(piece: int, worker: int) -> None:
            own = self._threads[worker]
            status = prune.choose_neighbors(
                points, pieces[piece], self.graph, n_entries, self._build.steering, self._entries,
                self._build.rows, self._settings, own.scratch, own.digits, own.keys, (neighbors, degrees),
            )  # fmt: skip
            assert status == 0, "a graph under construction names rows that exist"

        self._workers.run(len(pieces), work, lambda: self._progress(n_inserted))

    def _reverse(self, n_groups: int, groups: tuple[npt.NDArray[np.generic], ...]) -> None:
        pieces = spans(n_groups, GROUPS_A_CALL)

        def work(piece: int, worker: int) -> None:
            own = self._threads[worker]
            prune.add_reverse_edges(
                pieces[piece], groups, self._links, self._slots, self._ends, self._build.rows, self._settings,
                own.keys, own.kept,
            )  # fmt: skip

        self._workers.run(len(pieces), work)

    def _trim(self) -> None:
        """Prune every list that uses its slack."""
        pieces = spans(self._build.n, GROUPS_A_CALL)

        def work(piece: int, worker: int) -> None:
            own = self._threads[worker]
            prune.trim_lists(
                pieces[piece],
                self._links,
                self._slots,
                self._ends,
                self._build.rows,
                self._settings,
                own.keys,
                own.kept,
            )

        self._workers.run(len(pieces), work)

    def connect(self, count: int) -> None:
        """Give every one of the first ``count`` rows of the order that can't be reached an edge from one that can.

        Each round finds the unreached rows in insertion order, searches for the first and hangs it on the nearest
        reached row, in place of that row's farthest neighbor if the list is full, and reaches on from there; rounds go
        on until nothing is unreached, because a replaced edge may have cut off another row.
        """
        self._find_entries(count)
        order = self._order[:count]
        reached = np.zeros(self._build.n, np.uint8)
        stack = np.zeros(self._build.n, np.uint32)
        own = self._threads[0]
        protected = np.zeros(len(self._links), np.uint8)
        while True:
            reached[:] = 0
            connect.reach(self._links, self._starts, self._ends, self._medoid, reached, stack)
            lost = order[reached[order] == 0]
            if len(lost) == 0:
                return
            connect.attach_rows(
                lost, self.graph, self._slots, self._params.max_degree, self._build.steering, self._entries,
                self._build.rows, self._settings, own.scratch, own.digits, reached, stack, protected,
            )  # fmt: skip

    def finish(self, order: npt.NDArray[np.uint32]) -> BuiltGraph:
        """Renumber the rows and pack the lists; order (n,) uint32 names the old row of each new one."""
        n = self._build.n
        new_row = np.zeros(n, np.uint32)
        new_row[order] = np.arange(n, dtype=np.uint32)
        n_links = int((self._ends - self._starts).sum(dtype=np.uint64))
        links = self._new_array((n_links,), np.uint32)
        offsets = np.zeros(n + 1, np.uint32)
        connect.pack_lists(self._links, self._starts, self._ends, order, new_row, offsets, links)
        return BuiltGraph(links, offsets, int(new_row[self._medoid]))
