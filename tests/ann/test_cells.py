"""Dividing rows: every row once, no cell empty, the same for any number of threads."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from skeg.ann import cells
from skeg.ann.cells import CELL_ROWS, Centroids, Partitioner
from skeg.ann.parallel import Workers
from skeg.ann.quantizers import UniformQuantizer
from skeg.ann.transform import RowTransform


def partition(vectors, *, threads=1, seed=0):
    transform = RowTransform.fit(vectors, "l2", 0)
    codes, scales = UniformQuantizer("int8", transform, 8).encode(*transform.apply(vectors))
    with Workers(threads) as workers:
        return Partitioner(codes, scales, vectors.shape[1], workers, seed).run()


def extended(vectors, before, kept):
    """What becomes of a partition when only the first rows ``kept`` of it are left, as the first of vectors."""
    cell_of = np.empty(len(before.order), np.int32)
    cell_of[before.order] = np.repeat(np.arange(len(before.cells) - 1), np.diff(before.cells.astype(int)))
    transform = RowTransform.fit(vectors, "l2", 0)
    codes, scales = UniformQuantizer("int8", transform, 8).encode(*transform.apply(vectors))
    with Workers(2) as workers:
        found = Partitioner(codes, scales, vectors.shape[1], workers, 0).extend(cell_of[kept], before.regions)
    return found, cell_of[kept]


def random(n, dim=5):
    return np.random.default_rng(n).standard_normal((n, dim)).astype(np.float32)


SETS = {
    "one": random(1),
    "two": random(2),
    "a cell": random(CELL_ROWS),
    "a few cells": random(10 * CELL_ROWS + 7),
    "many cells": random(2500),
    "all the same": np.ones((500, 4), np.float32),
    "copies of a few": np.repeat(np.eye(5, dtype=np.float32), 100, axis=0),
    "zeros": np.zeros((200, 3), np.float32),
}


@pytest.mark.parametrize("name", SETS)
def test_regions_are_runs_of_cells_and_cells_are_runs_of_rows(name):
    found = partition(SETS[name])
    n = len(SETS[name])
    assert list(range(n)) == sorted(found.order.tolist())
    for borders, end in ((found.cells, n), (found.regions, len(found.cells) - 1)):
        assert (0, end) == (borders[0], borders[-1])
        assert (np.diff(borders.astype(int)) > 0).all()
    for start, stop in zip(found.cells[:-1], found.cells[1:], strict=True):
        assert sorted(found.order[start:stop].tolist()) == found.order[start:stop].tolist()


def test_the_seed_decides_and_threads_do_not(monkeypatch):
    monkeypatch.setattr(cells, "ROWS_A_CALL", 100)
    first, *others = (partition(SETS["many cells"], threads=threads) for threads in (1, 2, 3))
    for other in others:
        for name in ("order", "cells", "regions"):
            np.testing.assert_array_equal(getattr(first, name), getattr(other, name))
    assert not np.array_equal(first.order, partition(SETS["many cells"], seed=1).order)


def test_rows_of_a_cell_are_near_each_other():
    """Nearer to their cell's mean than to the mean of everything, by far."""
    vectors = random(2500, dim=3)
    found = partition(vectors)
    ordered = vectors[found.order]
    means = np.add.reduceat(ordered, found.cells[:-1].astype(int)) / np.diff(found.cells)[:, None]
    inside = np.square(ordered - np.repeat(means, np.diff(found.cells), axis=0)).sum()
    assert inside < 0.1 * np.square(ordered - ordered.mean(axis=0)).sum()


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
@pytest.mark.parametrize("block", [1, 7, 64, 1000])
def test_centroids_do_not_depend_on_how_rows_come(metric, block):
    vectors = random(600)
    found = partition(vectors)
    ordered = vectors[found.order]
    means = Centroids(found, metric, 5)
    for start in range(0, 600, block):
        means.add(ordered[start : start + block])
    unit = ordered / np.linalg.norm(ordered, axis=1, keepdims=True) if metric == "cosine" else ordered
    borders = found.cells.astype(int)
    runs = [*zip(borders[found.regions[:-1]], borders[found.regions[1:]], strict=True)]
    runs += [*itertools.pairwise(borders)]
    expected = [unit[start:stop].mean(axis=0) for start, stop in runs]
    np.testing.assert_allclose(means.finish(lambda places: ordered[places]), expected, rtol=1e-4, atol=1e-5)


def test_a_mean_without_a_direction_is_replaced_by_a_row():
    vectors = np.array([[3, 0], [-3, 0]], np.float32)
    found = partition(vectors)
    assert 1 == len(found.cells) - 1
    means = Centroids(found, "cosine", 2)
    means.add(vectors[found.order])
    np.testing.assert_array_equal(means.finish(lambda places: vectors[found.order][places]), vectors[[0, 0]])


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("left", [0.1, 0.6, 1.0])
def test_rows_that_are_left_stay_in_their_cells_and_new_ones_join_near_ones(name, left, monkeypatch):
    monkeypatch.setattr(cells, "ROWS_A_CALL", 100)
    vectors = SETS[name]
    before = partition(vectors)
    kept = np.flatnonzero(np.random.default_rng(3).random(len(vectors)) < left)
    kept = kept if len(kept) else np.array([0])
    new = vectors[::3] + 0.01
    both = np.concatenate([vectors[kept], new])
    found, cell_of = extended(both, before, kept)
    assert list(range(len(both))) == sorted(found.order.tolist())
    for borders, end in ((found.cells, len(both)), (found.regions, len(found.cells) - 1)):
        assert (0, end) == (borders[0], borders[-1])
        assert (np.diff(borders.astype(int)) > 0).all()
    region_of_cell = np.repeat(np.arange(len(before.regions) - 1), np.diff(before.regions.astype(int)))
    runs = [found.order[start:stop] for start, stop in itertools.pairwise(found.cells.tolist())]
    olds = []  # cell before of each cell: that of all its old rows, of which there is at least one
    for run in runs:
        assert sorted(run.tolist()) == run.tolist()
        (old,) = set(cell_of[run[run < len(kept)]].tolist())
        olds.append(old)
    assert sorted(set(cell_of.tolist())) == olds
    for start, stop in itertools.pairwise(found.regions.tolist()):
        assert 1 == len(set(region_of_cell[olds[start:stop]].tolist()))
    if name == "many cells":
        means = np.array([both[: len(kept)][cell_of == old].mean(axis=0) for old in olds])
        regions = region_of_cell[olds]
        whole = {r: both[: len(kept)][region_of_cell[cell_of] == r].mean(axis=0) for r in set(regions.tolist())}
        agreed = 0
        for number, run in enumerate(runs):
            for row in run[run >= len(kept)].tolist():
                region = min(whole, key=lambda r: np.square(whole[r] - both[row]).sum())
                distances = np.where(regions == region, np.square(means - both[row]).sum(axis=1), np.inf)
                agreed += number == distances.argmin()
        assert agreed >= 0.98 * len(new)  # the others are as near as 8-bit codes tell
