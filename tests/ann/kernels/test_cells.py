"""Choosing and sweeping cells beside plain sorting."""

from __future__ import annotations

import numpy as np
import pytest

from skeg.ann.kernels.cells import (
    CELLS,
    REGIONS,
    ROWS_A_CELL,
    Cells,
    begin_in_cells,
    mark_usable,
    nearest_cells,
    take_least,
)
from skeg.ann.kernels.pool import PAST_EVERY_KEY, Bounds
from skeg.ann.kernels.score import Codes, Query
from skeg.ann.kernels.walk import DAMAGED
from tests import reference

pytestmark = pytest.mark.kernels


class Scene:
    """Rows in cells in regions, all with random codes, and everybody's estimates."""

    def __init__(self, rng, sizes, *, ties=False):
        self.cells = np.cumsum([0, *(size for region in sizes for size in region)]).astype(np.uint32)
        self.regions = np.cumsum([0, *(len(region) for region in sizes)]).astype(np.uint32)
        self.n = int(self.cells[-1])
        self.query = Query(
            rng.integers(-127, 128, 64).astype(np.int8), np.zeros(1, np.float32), np.float32(0.01), np.float32(5),
            np.float32(1),
        )  # fmt: skip
        self.rows, self.estimates = self.coded(rng, self.n, ties)
        n_centroids = len(self.regions) + len(self.cells) - 2
        self.centroids, self.centroid_estimates = self.coded(rng, n_centroids, ties)
        scratch = reference.scratch_for(max(n_centroids, ROWS_A_CELL), 400, CELLS)
        self.scratch = scratch._replace(tags=np.zeros(self.n, np.uint8))

    def coded(self, rng, n, ties):
        codes = rng.integers(0, 256, (n, 64)).astype(np.uint8)
        factors = np.stack([np.full(n, 0.01), rng.standard_normal(n)], axis=1).astype(np.float32)
        if ties:
            codes[:] = codes[0]
            factors[:, 1] = rng.integers(0, 3, n)
        packed = Codes(8, codes, factors, np.zeros((1, 1), np.float32))
        return packed, reference.score_rows(packed, self.query, range(n))

    def nearest(self, usable=()):
        found, scratch = np.full(CELLS, -1, np.int64), self.scratch
        count = nearest_cells(
            Cells(self.regions, self.cells, 0), self.centroids, self.query, np.array(usable, np.uint8),
            (scratch.products, scratch.estimates), scratch.keys, found,
        )  # fmt: skip
        return count if count < 0 else found[:count].tolist()

    def expected_cells(self, usable=()):
        return reference.nearest_cells(self.regions.tolist(), self.centroid_estimates, REGIONS, CELLS, usable)

    def usable(self, wanted):
        """What the kernel marks, around which nothing may be written."""
        marks = np.full(len(self.regions) + len(self.cells), 77, np.uint8)
        mark_usable(Cells(self.regions, self.cells, 0), np.array(wanted, np.uint8), marks[1:-1])
        assert [77, 77] == marks[[0, -1]].tolist()
        return marks[1:-1].tolist()

    def begun(self, bounds, root=0):
        self.scratch.counters[:] = 0
        cells = Cells(self.regions, self.cells, root)
        size = begin_in_cells(cells, self.centroids, self.rows, self.query, bounds, self.scratch)
        seen = np.flatnonzero(self.scratch.tags[: self.n] == self.scratch.epoch[0])
        return size if size < 0 else self.scratch.pool[:size].tolist(), seen.tolist()


SIZES = {
    "one row": [[1]],
    "one cell": [[7]],
    "one region": [[3, 1, 2, 9, 4, 4]],
    "fewer cells than are swept": [[2], [5]],
    "many": [[5, 1], [3], [2, 2, 2, 7], [1], [8, 3, 1], [4, 4], [6]],
}


@pytest.mark.parametrize("case", SIZES)
@pytest.mark.parametrize("ties", [False, True])
def test_cells_are_the_nearest_of_the_nearest_regions(rng, case, ties):
    for _ in range(4):
        scene = Scene(rng, SIZES[case], ties=ties)
        assert scene.expected_cells() == scene.nearest()


@pytest.mark.parametrize("case", SIZES)
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_cells_that_are_of_no_use_are_passed_over(rng, case, ties, share):
    for _ in range(4):
        scene = Scene(rng, SIZES[case], ties=ties)
        usable = reference.mark_usable(scene.regions.tolist(), scene.cells.tolist(), rng.random(scene.n) < share)
        found = scene.nearest(usable)
        assert scene.expected_cells(usable) == found
        assert share > 0 or found == []
        assert share < 1 or found == scene.nearest()


def test_a_far_region_is_looked_at_if_no_near_one_is_of_use(rng):
    """One cell of the region farthest from the query, which would never be chosen."""
    scene = Scene(rng, SIZES["many"])
    farthest = int(np.argmin(scene.centroid_estimates[: len(SIZES["many"])]))
    cell = int(scene.regions[farthest])
    assert cell not in scene.nearest()
    wanted = np.arange(scene.n) == scene.cells[cell]
    assert [cell] == scene.nearest(scene.usable(wanted))


@pytest.mark.parametrize("case", [*SIZES, "empty cells"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_regions_and_cells_with_a_wanted_row_are_marked(rng, case, share):
    for _ in range(4):
        scene = Scene(rng, {**SIZES, "empty cells": [[0, 3], [0], [2, 0, 0]]}[case])
        wanted = (rng.random(scene.n) < share).astype(np.uint8)
        assert reference.mark_usable(scene.regions.tolist(), scene.cells.tolist(), wanted) == scene.usable(wanted)


@pytest.mark.parametrize("case", SIZES)
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(
    ("capacity", "k", "margin", "slack"), [(400, 1, np.inf, np.inf), (3, 2, 0.5, 0.1), (20, 3, 0, 1)]
)
def test_a_walk_begins_with_the_rows_of_the_nearest_cells_and_the_root(rng, case, ties, capacity, k, margin, slack):
    bounds = Bounds(capacity, capacity, k, np.float32(margin), np.float32(slack))
    for _ in range(4):
        scene = Scene(rng, SIZES[case], ties=ties)
        root = int(rng.integers(scene.n))
        pool, seen = scene.begun(bounds, root)
        expected, expected_seen = reference.begin_in_cells(
            scene.expected_cells(), scene.cells.tolist(), root, scene.estimates, bounds, ROWS_A_CELL
        )
        assert expected == pool
        assert sorted(expected_seen) == seen
        assert len(seen) == scene.scratch.counters[0]


def test_of_a_huge_cell_only_so_many_rows_are_swept(rng):
    scene = Scene(rng, [[ROWS_A_CELL + 30]])
    _, seen = scene.begun(Bounds(10, 10, 1, np.float32(0), np.float32(0)))
    assert list(range(ROWS_A_CELL)) == seen


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [("regions", 0, 3), ("regions", 1, 2**32 - 1), ("cells", 0, 8), ("cells", 1, 2**32 - 1), ("cells", 2, 16)],
)
def test_damaged_borders_are_reported(rng, name, place, value):
    scene = Scene(rng, [[5, 10]])
    getattr(scene, name)[place] = value
    assert DAMAGED == scene.begun(Bounds(10, 10, 1, np.float32(0), np.float32(0)))[0]


def test_the_least_keys_come_one_after_the_other(rng):
    keys = rng.permutation(np.arange(-20, 20, dtype=np.int64))
    assert list(range(-20, 20)) == [int(take_least(keys, 40)) for _ in range(40)]
    assert (keys == PAST_EVERY_KEY).all()
