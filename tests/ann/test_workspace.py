"""Work space of searches: as large as was asked for, kept while it is, and not noticed in answers."""

from __future__ import annotations

import numpy as np
import pytest

from skeg.ann.kernels.admit import SCAN_ROWS
from skeg.ann.kernels.cells import CELLS, ROWS_A_CELL
from skeg.ann.kernels.search import OK
from skeg.ann.kernels.search_part import WALK, bundle_admission, search_part
from skeg.ann.live.rows import LiveRows
from skeg.ann.metric import METRICS
from skeg.ann.params import GraphParams
from skeg.ann.quantizers import UniformQuantizer
from skeg.ann.transform import RowTransform
from skeg.ann.workspace import TWO_HOP_ROWS, PartSpace, rescaled
from tests import reference

N, K = 60, 5
PARAMS = GraphParams(max_degree=4, build_list_size=8)


def space_for(*, n=N, run=0, longest=6):
    transform = RowTransform.fit(np.eye(8, dtype=np.float32), "l2", 0)
    return PartSpace(UniformQuantizer("int8", transform, 8), n, run, longest)


def sizes(space):
    """Lengths of (pool, found)."""
    return int(space.table[0, 1]), int(space.rooms[0, 1])


def test_there_is_room_for_one_key_more_than_is_kept():
    space = space_for()
    for n_expand, depth in ((0, 0), (1, 5), (7, 7)):
        space.fit(n_expand, depth)
        assert (n_expand + 1, depth + 1) == sizes(space)


def test_room_grows_on_either_side_and_never_shrinks():
    space = space_for()
    for wanted, expected in (((5, 9), (6, 10)), ((8, 2), (9, 10)), ((1, 20), (9, 21)), ((0, 0), (9, 21))):
        space.fit(*wanted)
        assert expected == sizes(space)


def test_room_that_is_large_enough_is_used_again():
    space = space_for()
    space.fit(5, 9)
    table, rooms = space.table, space.rooms
    for wanted in ((5, 9), (1, 9), (5, 0), (0, 0)):
        space.fit(*wanted)
        assert table is space.table
        assert rooms is space.rooms


@pytest.mark.parametrize(("run", "longest"), [(0, 1), (10, 6), (5000, TWO_HOP_ROWS + 1)])
def test_arrays_are_as_long_as_rows_runs_and_lists_need(run, longest):
    space = space_for(n=77, run=run, longest=longest)
    space.fit(3, 3)
    _, tags, _, todo, _, _, keys, products, estimates = space.table[:9, 1].tolist()
    assert 77 == tags
    assert todo >= max(longest, TWO_HOP_ROWS, CELLS)
    assert keys == products == estimates >= max(run, ROWS_A_CELL, SCAN_ROWS)
    assert longest == space.rooms[1, 1]


class Scene:
    """Rows in memory, some of them linked, some in the tail, every seventh gone."""

    def __init__(self, rng, metric):
        self.vectors = rng.integers(-8, 9, (N, 8)).astype(np.float32)
        self.vectors[:, 0] += 20  # no zero rows
        self.ids = (rng.permutation(N) + 1000).astype(np.uint64)
        self.metric = metric
        self.part = LiveRows(RowTransform.fit(self.vectors, metric, 0), PARAMS, N + 7)
        self.part.append(self.ids, self.vectors, self.part.encode(self.vectors), ())
        self.part.link(40)
        self.part.remove(self.ids[::7].tolist())
        alive = self.part.alive
        self.admission = bundle_admission(alive, alive, np.zeros(0, np.uint8), np.zeros(0, np.uint32))
        self.space = PartSpace(self.part.quantizer, len(alive), self.part.run, self.part.longest)

    def found(self, query, capacity=N, depth=N, hops=1):
        """Ids of the hits of a walk that expands as many rows as there is room for."""
        self.space.fit(capacity, depth)
        far = np.float32(np.inf)
        settings = (METRICS[self.metric], 8, 0, capacity, capacity, far, far, depth)
        ids, scores = np.zeros(K, np.uint64), np.zeros(K, np.float32)
        plan = (WALK, hops, self.part.linked, self.part.count, min(self.part.n_entries, self.part.linked))
        status, count, *_ = search_part(
            query, settings, plan, self.part.bundle.table, self.space.table, self.space.rooms, self.admission.table, 0,
            ids, scores,
        )  # fmt: skip
        assert OK == status
        return ids[:count].tolist()

    def exact(self, query):
        scores = reference.exact_scores(self.vectors, query, METRICS[self.metric])
        rows = np.flatnonzero(self.part.alive[:N])
        return [hit[0] for hit in reference.rerank(scores, self.ids, rows, K)]


@pytest.mark.parametrize("metric", METRICS)
def test_a_search_in_it_finds_what_is_alive_whatever_it_was_used_for_before(rng, metric):
    """More searches than tags can count, between which the room grows."""
    scene = Scene(rng, metric)
    for turn in range(300):
        query = rng.integers(-8, 9, 8).astype(np.float32) + np.float32(0.5)
        capacity = 1 + turn % N
        assert len(scene.found(query, capacity, max(capacity, K))) == K
        assert scene.exact(query) == scene.found(query, hops=1 + turn % 2)


def test_queries_come_into_range_by_powers_of_two():
    queries = np.array([[3e30, -1e30], [1e-30, 2e-40], [0.75, 0.5], [0, 0], [np.inf, 1], [np.nan, 1]], np.float32)
    after = rescaled(queries)
    assert after.dtype == np.float32
    largest = np.abs(after[:3]).max(axis=1)
    assert ((largest >= 0.5) & (largest < 1)).all()
    ratio = after[:1].astype(np.float64) / queries[:1]
    assert ratio[0, 0] == ratio[0, 1] == 2.0 ** round(np.log2(ratio[0, 0]))
    np.testing.assert_array_equal(queries[2:], after[2:])


def test_queries_that_are_in_range_or_can_not_be_are_not_rescaled():
    assert rescaled(np.array([[0.75, -0.5], [0, 0], [np.inf, 1], [np.nan, 2]], np.float32)) is None
    assert rescaled(np.zeros((0, 3), np.float32)) is None
