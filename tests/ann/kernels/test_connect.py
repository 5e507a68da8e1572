"""Reachability, repair, packing and the check of finished lists."""

from __future__ import annotations

import numpy as np
import pytest

from skeg.ann.kernels import connect
from skeg.ann.metric import METRICS
from tests import reference

pytestmark = pytest.mark.kernels


def reached_from(graph, source, reached):
    marks = np.zeros(len(graph.starts), np.uint8)
    marks[list(reached)] = 1
    queue = np.zeros(len(marks), np.uint32)
    count = connect.reach(graph.links, graph.starts, graph.ends, source, marks, queue)
    return queue[:count].tolist(), np.flatnonzero(marks).tolist()


@pytest.mark.parametrize("n", [1, 2, 17, 40])
def test_reach_is_a_breadth_first_search(rng, n):
    for _ in range(8):
        lists = reference.random_lists(rng, n, 2)
        reached = set(rng.permutation(n)[: rng.integers(0, n // 3 + 1)].tolist())
        source = int(rng.integers(n))
        expected = reference.reach(lists, source, reached)
        found, marked = reached_from(reference.graph_of(lists), source, reached)
        assert expected == found
        assert sorted(reached | set(expected)) == marked


def attach_all(vectors, lists, max_degree, *, metric="l2", rounds_max=50):
    """(lists, rounds) after repairing from row 0 until every row is reached, as a build does."""
    n = len(lists)
    build = reference.build_rows(vectors, metric)
    graph = reference.graph_of(lists, slots=max_degree + 2)
    entries = reference.entries_of(build.steering, [0])
    settings = METRICS[metric], 8, np.float32(1.1), max_degree
    scratch = reference.scratch_for(n, 8, max_degree + 2)
    protected, digits = np.zeros(len(graph.links), np.uint8), np.zeros(128, np.int8)
    for rounds in range(rounds_max):
        reached, queue = np.zeros(n, np.uint8), np.zeros(n, np.uint32)
        connect.reach(graph.links, graph.starts, graph.ends, 0, reached, queue)
        lost = np.flatnonzero(reached == 0).astype(np.uint32)
        if len(lost) == 0:
            return reference.lists_of(graph), rounds
        connect.attach_rows(
            lost, graph, max_degree + 2, max_degree, build.steering, entries, build.rows, settings, scratch, digits,
            reached, queue, protected,
        )  # fmt: skip
    raise AssertionError("rows are still lost")


@pytest.mark.parametrize("max_degree", [2, 3, 4])
@pytest.mark.parametrize("metric", ["l2", "ip"])
def test_repair_makes_every_row_reachable_within_the_degree(rng, max_degree, metric):
    for n in (1, 2, 3, 20):
        for degree in (0, 1, max_degree):
            lists = [neighbors[:max_degree] for neighbors in reference.random_lists(rng, n, degree)]
            vectors = rng.standard_normal((n, 3)).astype(np.float32)
            after, _ = attach_all(vectors, lists, max_degree, metric=metric)
            assert n == len(reference.reach(after, 0, set()))
            assert max(len(neighbors) for neighbors in after) <= max_degree
            for row, neighbors in enumerate(after):
                assert row not in neighbors
                assert len(neighbors) >= len(lists[row])
                assert len(neighbors) == len(set(neighbors))


def test_repair_where_full_lists_have_to_give_way(rng):
    """Islands that are complete graphs: each new edge replaces one, and none of them for ever."""
    islands = [[4 * i + other for other in range(4)] for i in range(5)]
    lists = [[row for row in island if row != own] for island in islands for own in island]
    after, _ = attach_all(rng.standard_normal((20, 3)).astype(np.float32), lists, 3)
    assert 20 == len(reference.reach(after, 0, set()))
    assert {3} == {len(neighbors) for neighbors in after}


def test_repair_among_rows_that_are_all_the_same():
    after, _ = attach_all(np.ones((20, 3), np.float32), [[]] * 20, 2)
    assert 20 == len(reference.reach(after, 0, set()))
    assert max(len(neighbors) for neighbors in after) <= 2


def test_repair_leaves_a_connected_graph_alone(rng):
    lists = [[(row + 1) % 9] for row in range(9)]
    assert (lists, 0) == attach_all(rng.standard_normal((9, 3)).astype(np.float32), lists, 2)


def test_a_lost_row_hangs_on_the_nearest_row_that_was_reached(rng):
    vectors = np.arange(8, dtype=np.float32)[:, None] * np.ones((1, 16), np.float32)
    lists = [[1], [0, 2], [1, 3], [2, 4], [3, 5], [4, 6], [5], []]
    after, rounds = attach_all(vectors, lists, 4)
    assert [*lists[:6], [5, 7], []] == after
    assert 1 == rounds


@pytest.mark.parametrize("n", [1, 2, 17])
def test_packing_renames_rows_and_keeps_each_list(rng, n):
    lists = reference.random_lists(rng, n, 5)
    graph = reference.graph_of(lists, slots=7)
    order = rng.permutation(n).astype(np.uint32)
    new_row = np.argsort(order).astype(np.uint32)
    n_links = sum(map(len, lists))
    offsets, packed = np.zeros(n + 1, np.uint32), np.zeros(n_links, np.uint32)
    connect.pack_lists(graph.links, graph.starts, graph.ends, order, new_row, offsets, packed)
    assert 0 == offsets[0]
    assert n_links == offsets[-1]
    for row in range(n):
        expected = [int(new_row[neighbor]) for neighbor in lists[order[row]]]
        assert expected == packed[offsets[row] : offsets[row + 1]].tolist()


def checked(lists, max_degree=4, change=None):
    """(verdict, degrees) for packed lists after ``change(links, offsets)``."""
    links = np.array([v for neighbors in lists for v in neighbors], np.uint32)
    offsets = np.cumsum([0, *map(len, lists)]).astype(np.uint32)
    if change:
        change(links, offsets)
    degrees = np.zeros(max_degree + 1, np.int64)
    return connect.check_lists(links, offsets, max_degree, degrees), degrees.tolist()


GOOD = [[1, 2, 3], [0], [], [2, 0, 1]]


def test_lists_in_order_pass_and_are_counted():
    assert (-1, [1, 1, 0, 2, 0]) == checked(GOOD)
    assert (-1, [1, 0, 0, 0, 0]) == checked([[]])


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (0, [[4, 2, 3], [0], [], [2, 0, 1]]),  # a row that is not there
        (1, [[1, 2, 3], [2**32 - 1], [], [2, 0, 1]]),
        (3, [[1, 2, 3], [0], [], [2, 3, 1]]),  # itself
        (3, [[1, 2, 3], [0], [], [2, 0, 2]]),  # one twice
    ],
)
def test_a_list_that_names_what_it_must_not_is_found(row, fault):
    assert row == checked(fault)[0]


def test_a_list_beyond_the_maximum_degree_is_found():
    assert 0 == checked(GOOD, max_degree=2)[0]
    assert 2 == checked([[1], [0], [0, 1, 3], []], max_degree=2)[0]


@pytest.mark.parametrize(
    ("row", "place", "value"), [(0, 0, 1), (0, 4, 6), (0, 4, 8), (0, 1, 2**32 - 1), (1, 2, 1), (2, 3, 2)]
)
def test_offsets_that_are_out_of_order_are_found(row, place, value):
    def change(links, offsets):
        offsets[place] = value

    assert row == checked(GOOD, change=change)[0]
