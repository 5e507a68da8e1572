"""The best-first walk beside a walk over Python lists."""

from __future__ import annotations

import numpy as np
import pytest

from skeg.ann.kernels.pool import Bounds
from skeg.ann.kernels.score import Codes, Query
from skeg.ann.kernels.walk import DAMAGED, Entries, begin_at, nearest_entry, walk
from skeg.jit import kernel
from tests import reference

pytestmark = pytest.mark.kernels


def scene(rng, n, *, ties=False):
    """Codes of n rows, a query, and every row's estimate."""
    codes = rng.integers(0, 256, (n, 64)).astype(np.uint8)
    factors = np.stack([np.full(n, 0.01), rng.standard_normal(n)], axis=1).astype(np.float32)
    if ties:
        codes[:] = codes[0]
        factors[:, 1] = rng.integers(0, 3, n)
    query = Query(
        rng.integers(-127, 128, 128).astype(np.int8),
        np.zeros(1, np.float32),
        np.float32(0.01),
        np.float32(5),
        np.float32(1),
    )
    packed = Codes(4, codes, factors, np.zeros((1, 1), np.float32))
    return packed, query, reference.score_rows(packed, query, range(n))


@kernel()
def begin_and_walk(graph, codes, query, bounds, scratch, start, nearness):
    """One kernel, because a walk continues what was begun in it."""
    return walk(graph, codes, query, bounds, scratch, begin_at(start, nearness, scratch))


def bounds_of(capacity, n_expand=None, k=1, margin=np.inf, slack=0.0):
    return Bounds(capacity, n_expand or capacity, k, np.float32(margin), np.float32(slack))


def walked(graph, codes, query, bounds, *, start=0, scratch=None, nearness=np.inf):
    """(result, pool keys without flags, expanded rows, counters) of the kernel."""
    n = len(graph.starts)
    scratch = scratch or reference.scratch_for(n, bounds.capacity, n)
    scratch.counters[:] = 0
    size = begin_and_walk(graph, codes, query, bounds, scratch, np.int64(start), np.float32(nearness))
    pool = scratch.pool[: max(size, 0)]
    expanded = scratch.expanded[: scratch.counters[3]].tolist()
    if size != DAMAGED and len(expanded) == scratch.counters[1]:
        assert [row in expanded for row in (pool >> 1 & 0x7FFFFFFF).tolist()] == (pool & 1).tolist()
        assert bounds.margin < np.inf or (pool[: bounds.n_expand] & 1).all()
    return size, (pool & ~1).tolist(), expanded, scratch.counters.tolist()


@pytest.mark.parametrize("n", [1, 2, 3, 17, 48])
@pytest.mark.parametrize(("list_size", "n_expand"), [(1, 1), (2, 2), (5, 5), (60, 60), (2, 1), (10, 5), (60, 7)])
@pytest.mark.parametrize("ties", [False, True])
def test_walk_finds_expands_and_counts_what_its_twin_does(rng, n, list_size, n_expand, ties):
    for guess in (False, False, True):
        codes, query, estimates = scene(rng, n, ties=ties)
        lists = reference.random_lists(rng, n, 6)
        start = int(rng.integers(n))
        nearness = np.float32(np.inf) if guess else estimates[start]
        graph, bounds = reference.graph_of(lists), bounds_of(list_size, n_expand)
        size, pool, expanded, counters = walked(graph, codes, query, bounds, start=start, nearness=nearness)
        begun = [reference.pack(-nearness, start)]
        expected_pool, expected_rows, scored = reference.walk(lists, begun, {start}, estimates, bounds)
        assert expected_pool == pool
        assert len(expected_pool) == size
        assert expected_rows == expanded
        assert [scored, len(expected_rows)] == counters[:2]


@pytest.mark.parametrize("list_size", [1, 4, 60])
@pytest.mark.parametrize("k", [1, 3, 10])
@pytest.mark.parametrize("margin", [0.0, 0.3, 2.0, 100.0])
@pytest.mark.parametrize("slack", [0.0, 1.0])
def test_a_margin_stops_the_walk_where_its_twin_stops(rng, list_size, k, margin, slack):
    for n, ties in ((5, False), (40, False), (40, True)):
        codes, query, estimates = scene(rng, n, ties=ties)
        lists = reference.random_lists(rng, n, 6)
        start = int(rng.integers(n))
        graph, bounds = reference.graph_of(lists), bounds_of(list_size, None, k, margin, slack)
        _, pool, expanded, counters = walked(graph, codes, query, bounds, start=start, nearness=estimates[start])
        begun = [reference.pack(-estimates[start], start)]
        expected = reference.walk(lists, begun, {start}, estimates, bounds)
        assert expected == (pool, expanded, counters[0])


@pytest.mark.parametrize("ties", [False, True])
def test_the_nearest_entry_is_the_first_with_the_highest_estimate(rng, ties):
    codes, query, estimates = scene(rng, 30, ties=ties)
    rows = rng.permutation(100)[:30].astype(np.uint32)
    for n_entries in (1, 2, 17, 30):
        row, nearness = nearest_entry(n_entries, Entries(rows, codes), query)
        best = int(np.argmax(estimates[:n_entries]))
        assert (rows[best], estimates[best]) == (row, nearness)


def test_a_list_as_long_as_the_graph_finds_all_that_can_be_reached_in_order(rng):
    codes, query, estimates = scene(rng, 30)
    lists = [[(row + 1) % 30] for row in range(30)]
    graph = reference.graph_of(lists)
    _, pool, _, _ = walked(graph, codes, query, bounds_of(30), start=3, nearness=estimates[3])
    assert reference.keys_of(-estimates, range(30)).tolist() == pool


def test_scratch_can_be_used_again_and_again(rng):
    """Tags wrap around after 255 walks and must not remember rows of an earlier one."""
    codes, query, _ = scene(rng, 4)
    graph = reference.graph_of([[1, 2], [2, 3], [3, 0], [0]])
    scratch = reference.scratch_for(4, 4, 4)
    answers = [walked(graph, codes, query, bounds_of(4), scratch=scratch) for _ in range(600)]
    assert all(answer == answers[0] for answer in answers)


def test_more_expanded_rows_than_the_caller_has_room_for(rng):
    codes, query, _ = scene(rng, 20)
    graph = reference.graph_of([[(row + 1) % 20] for row in range(20)])
    scratch = reference.scratch_for(20, 20, 20, n_expanded=3)
    _, _, expanded, counters = walked(graph, codes, query, bounds_of(20), scratch=scratch)
    assert 3 == len(expanded)
    assert 20 == counters[1]


def damaged(change):
    graph = reference.graph_of([[1, 2], [2, 3], [3, 0], [0, 1]])
    change(graph)
    return graph


def set_at(field, place, value):
    def change(graph):
        getattr(graph, field)[place] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        set_at("links", 0, 4),
        set_at("links", 1, 2**32 - 1),
        set_at("links", 7, 2**31),
        set_at("ends", 0, 2**32 - 1),
        set_at("ends", 3, 9),
        set_at("starts", 0, 3),
        set_at("starts", 3, 2**32 - 1),
    ],
)
def test_a_damaged_graph_is_reported(rng, change):
    codes, query, _ = scene(rng, 4)
    assert DAMAGED == walked(damaged(change), codes, query, bounds_of(4))[0]


def test_a_list_longer_than_the_work_space_is_damage(rng):
    codes, query, _ = scene(rng, 4)
    graph = reference.graph_of([[1, 2, 3], [], [], []])
    assert 4 == walked(graph, codes, query, bounds_of(4), scratch=reference.scratch_for(4, 4, 3))[0]
    assert DAMAGED == walked(graph, codes, query, bounds_of(4), scratch=reference.scratch_for(4, 4, 2))[0]


def test_random_damage_ends_in_an_answer_or_a_report(rng):
    codes, query, _ = scene(rng, 16)
    for _ in range(60):
        graph = reference.graph_of(reference.random_lists(rng, 16, 5))
        for field in (graph.links, graph.starts, graph.ends):
            field[rng.integers(len(field))] = rng.choice([0, 15, 16, 100, 2**31, 2**32 - 1])
        size = walked(graph, codes, query, bounds_of(8), start=int(rng.integers(16)))[0]
        assert size == DAMAGED or 1 <= size <= 8
