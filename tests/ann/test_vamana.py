"""Graph construction: reachable, bounded, the same for any number of threads, whatever the data."""

from __future__ import annotations

import numpy as np
import pytest

from skeg.ann import vamana
from skeg.ann.kernels import connect
from skeg.ann.kernels.pool import Bounds
from skeg.ann.kernels.prune import row_query
from skeg.ann.kernels.score import Codes
from skeg.ann.kernels.walk import Graph, begin_at, walk
from skeg.ann.parallel import Workers
from skeg.ann.params import GraphParams
from skeg.ann.vamana import GraphBuilder, batch_spans, insertion_order
from skeg.errors import ParameterError
from skeg.jit import kernel
from tests import reference


def ignore(done):
    """Progress that nobody looks at."""


SMALL = {"max_degree": 4, "build_list_size": 8}


def build(vectors, metric="l2", *, threads=1, seed=0, progress=ignore, **params):
    """The finished graph and the rows it was built from."""
    given = GraphParams(**{**SMALL, "seed": seed, **params})
    rows = reference.build_rows(np.asarray(vectors, np.float32), metric)
    medoid = int(rows.rows.squares.argmin())
    with Workers(threads) as workers:
        builder = GraphBuilder(rows, given, insertion_order(rows.n, medoid, seed), workers, progress)
        builder.run()
        return builder.finish(shuffled(rows.n)), rows, medoid


def shuffled(n):
    """A new order of n rows."""
    return np.random.default_rng(9).permutation(n).astype(np.uint32)


def check(graph, medoid, n, max_degree):
    """Everything that every graph must be."""
    assert medoid == shuffled(n)[graph.root]
    degrees = np.zeros(max_degree + 1, np.int64)
    assert -1 == connect.check_lists(graph.links, graph.offsets, max_degree, degrees)
    assert n == degrees.sum()
    lists = reference.lists_of(Graph(graph.links, graph.offsets[:-1], graph.offsets[1:]))
    assert list(range(n)) == sorted(reference.reach(lists, graph.root, set()))


def same(a, b):
    return a.root == b.root and np.array_equal(a.links, b.links) and np.array_equal(a.offsets, b.offsets)


@pytest.mark.kernels
@pytest.mark.parametrize("n", [1, 2, 3, 20])
@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_every_row_is_reachable_and_degrees_are_bounded(rng, n, metric):
    graph, _, medoid = build(rng.standard_normal((n, 5)), metric)
    check(graph, medoid, n, 4)


@pytest.mark.parametrize("n", [65, 400])
@pytest.mark.parametrize("max_degree", [2, 3, 16])
def test_larger_graphs_are_reachable_and_bounded_too(rng, n, max_degree):
    graph, _, medoid = build(rng.standard_normal((n, 3)), max_degree=max_degree, build_list_size=4)
    check(graph, medoid, n, max_degree)


DEGENERATE = {
    "all the same": np.ones((200, 3)),
    "all zero": np.zeros((65, 3)),
    "copies of a few": np.repeat(np.eye(5), 40, axis=0),
    "copies and others": np.concatenate([np.ones((100, 3)), np.random.default_rng(0).standard_normal((60, 3))]),
    "on a line": np.arange(150)[:, None] * np.ones((1, 3)),
    "one far away": np.concatenate([np.random.default_rng(0).standard_normal((99, 3)), [[1e6, 0, 0]]]),
    "two far islands": np.concatenate([np.random.default_rng(0).standard_normal((80, 3)) + side for side in (0, 1e4)]),
    "one dimension": np.random.default_rng(0).standard_normal((100, 1)),
}


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_degenerate_data(name, metric):
    graph, _, medoid = build(DEGENERATE[name], metric)
    check(graph, medoid, len(DEGENERATE[name]), 4)


def test_the_number_of_threads_changes_nothing(rng, monkeypatch):
    """Pieces are small here, so that three threads really take turns."""
    monkeypatch.setattr(vamana, "POINTS_A_CALL", 5)
    monkeypatch.setattr(vamana, "GROUPS_A_CALL", 3)
    vectors = rng.standard_normal((500, 4))
    graphs = [build(vectors, threads=threads)[0] for threads in (1, 2, 3)]
    assert same(graphs[0], graphs[1])
    assert same(graphs[0], graphs[2])


def test_how_the_work_is_cut_changes_nothing(rng, monkeypatch):
    vectors = rng.standard_normal((300, 4))
    whole = build(vectors)[0]
    monkeypatch.setattr(vamana, "POINTS_A_CALL", 7)
    monkeypatch.setattr(vamana, "GROUPS_A_CALL", 11)
    assert same(whole, build(vectors)[0])


def test_the_seed_decides(rng):
    vectors = rng.standard_normal((300, 4))
    first, again, other = (build(vectors, seed=seed)[0] for seed in (1, 1, 2))
    assert same(first, again)
    assert not same(first, other)


@kernel(inline=True)
def walk_for(row, build, digits, start, scratch):
    """Size of the pool of a walk for a row, which as a query refers to the codes and can't leave compiled code."""
    rows, metric, graph, codes = build
    query = row_query(rows, codes, row, metric, digits)
    bounds = Bounds(16, 16, 1, np.float32(np.inf), np.float32(np.inf))
    return walk(graph, codes, query, bounds, scratch, begin_at(start, np.float32(0), scratch))


def share_found(built, rows, wanted):
    """Share of the rows ``wanted``, by their numbers before the graph was finished, that a walk for them meets."""
    steering, order = rows.steering, shuffled(rows.n)
    codes = Codes(4, steering.codes[order], steering.factors[order], steering.vectors)
    scene = rows.rows, rows.metric, Graph(built.links, built.offsets[:-1], built.offsets[1:]), codes
    scratch = reference.scratch_for(rows.n, 16, 16)
    found = 0
    for row in np.flatnonzero(np.isin(order, wanted)).tolist():
        size = walk_for(np.int64(order[row]), scene, np.zeros(128, np.int8), np.int64(built.root), scratch)
        found += row in (scratch.pool[:size] >> 1) & 0x7FFFFFFF
    return found / len(wanted)


def test_a_row_is_found_by_a_walk_for_it(rng):
    built, rows, _ = build(rng.standard_normal((600, 8)), max_degree=16, build_list_size=32)
    assert share_found(built, rows, range(600)) >= 0.98


def adopt(old_vectors, gone, new_vectors, metric="l2", *, threads=1, **params):
    """`build` on from a finished graph of ``old_vectors`` of which the rows ``gone`` left and to which others come.

    The rows that are left come first; ``gone`` counts them as the older graph does.
    """
    old, _, _ = build(old_vectors, metric, **params)
    old_rows = np.array([row for row in range(len(old_vectors)) if row not in gone], np.uint32)
    new_row = np.full(len(old_vectors), -1, np.int64)
    new_row[old_rows] = np.arange(len(old_rows))
    left = np.asarray(old_vectors)[shuffled(len(old_vectors))[old_rows]]
    rows = reference.build_rows(np.concatenate([left, new_vectors]).astype(np.float32), metric)
    n_left = len(left)
    medoid = int(rows.rows.squares[:n_left].argmin())
    added = np.random.default_rng(3).permutation(np.arange(n_left, rows.n, dtype=np.uint32))
    order = np.concatenate([insertion_order(n_left, medoid, 0), added])
    with Workers(threads) as workers:
        builder = GraphBuilder(rows, GraphParams(**{**SMALL, **params}), order, workers)
        builder.adopt(Graph(old.links, old.offsets[:-1], old.offsets[1:]), old_rows, new_row)
        builder.run(n_left)
        return builder.finish(shuffled(rows.n)), rows, medoid


GONE = {
    "none": slice(0),
    "the first": slice(1),
    "every third": slice(None, None, 3),
    "every other": slice(None, None, 2),
    "all but one": slice(1, None),
}


@pytest.mark.kernels
@pytest.mark.parametrize("n", [2, 3, 20])
@pytest.mark.parametrize("n_new", [0, 1, 9])
@pytest.mark.parametrize("gone", GONE)
@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_a_graph_that_lost_and_got_rows_is_reachable_and_bounded(rng, n, n_new, gone, metric):
    gone = range(n)[GONE[gone]]
    graph, rows, medoid = adopt(rng.standard_normal((n, 5)), gone, rng.standard_normal((n_new, 5)), metric)
    assert n - len(gone) + n_new == rows.n
    check(graph, medoid, rows.n, 4)


@pytest.mark.parametrize("name", DEGENERATE)
@pytest.mark.parametrize("gone", GONE)
def test_degenerate_data_that_loses_and_gets_rows(name, gone):
    """In the order that the rows have, so that the last of them are of another kind."""
    vectors = DEGENERATE[name]
    n_old = len(vectors) * 2 // 3
    graph, rows, medoid = adopt(vectors[:n_old], range(n_old)[GONE[gone]], vectors[n_old:])
    check(graph, medoid, rows.n, 4)


def test_a_graph_that_lost_and_got_nothing_stays_as_it_is(rng):
    vectors = rng.standard_normal((300, 4))
    old, _, _ = build(vectors)
    new, _, _ = adopt(vectors, [], vectors[:0])
    order = shuffled(300)
    old_lists, new_lists = (reference.lists_of(Graph(g.links, g.offsets[:-1], g.offsets[1:])) for g in (old, new))
    assert [old_lists[row] for row in order] == [[int(order[v]) for v in neighbors] for neighbors in new_lists]
    assert old.root == order[new.root]


def test_rows_that_stay_and_rows_that_come_are_found_by_a_walk_for_them(rng):
    vectors = rng.standard_normal((700, 8))
    gone = set(rng.permutation(450)[:150].tolist())
    graph, rows, _ = adopt(vectors[:450], gone, vectors[450:], max_degree=16, build_list_size=32)
    assert share_found(graph, rows, range(300)) >= 0.98
    assert share_found(graph, rows, range(300, 550)) >= 0.98


def test_the_number_of_threads_changes_nothing_in_a_graph_that_is_adopted(rng, monkeypatch):
    monkeypatch.setattr(vamana, "POINTS_A_CALL", 5)
    monkeypatch.setattr(vamana, "GROUPS_A_CALL", 3)
    vectors = rng.standard_normal((500, 4))
    graphs = [adopt(vectors[:300], range(0, 300, 4), vectors[300:], threads=threads)[0] for threads in (1, 2, 3)]
    assert same(graphs[0], graphs[1])
    assert same(graphs[0], graphs[2])


def grow(vectors, stops, metric="l2", *, threads=1):
    """The lists of a graph that grows after each step, up to the stops; rows of a step don't see each other."""
    rows = reference.build_rows(np.asarray(vectors, np.float32), metric)
    start, after = 1, []
    with Workers(threads) as workers:
        order = np.arange(rows.n, dtype=np.uint32)
        largest = int(np.diff([1, *stops]).max())
        builder = GraphBuilder(rows, GraphParams(**SMALL), order, workers, largest=largest)
        for stop in stops:
            builder.insert(start, stop)
            builder.connect(stop)
            after.append(reference.lists_of(builder.graph))
            start = stop
    return after


def check_grown(lists, count):
    """That the first rows are a graph of their own, whose lists may use their slack, and the others are not in it."""
    assert list(range(count)) == sorted(reference.reach(lists, 0, set()))
    for row, neighbors in enumerate(lists):
        assert row not in neighbors
        assert len(neighbors) == len(set(neighbors)) <= vamana.slots_for(4)
        assert row < count or not neighbors


STOPS = {"one by one": [*range(2, 31)], "doubling": [2, 4, 8, 16, 30], "all at once": [30], "uneven": [2, 20, 21, 30]}


@pytest.mark.kernels
@pytest.mark.parametrize("stops", STOPS)
@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_a_graph_that_grows_is_reachable_after_every_step(rng, stops, metric):
    """There is room for more rows than come."""
    stops = STOPS[stops]
    for lists, stop in zip(grow(rng.standard_normal((33, 5)), stops, metric), stops, strict=True):
        check_grown(lists, stop)


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_data_in_a_graph_that_grows(name):
    n = len(DEGENERATE[name])
    stops = [2, 40, 41, n]
    for lists, stop in zip(grow(DEGENERATE[name], stops), stops, strict=True):
        check_grown(lists, stop)


def test_the_number_of_threads_changes_nothing_in_a_graph_that_grows(rng, monkeypatch):
    monkeypatch.setattr(vamana, "POINTS_A_CALL", 5)
    monkeypatch.setattr(vamana, "GROUPS_A_CALL", 3)
    vectors, stops = rng.standard_normal((200, 4)), [2, 8, 60, 200]
    assert grow(vectors, stops) == grow(vectors, stops, threads=3)


def test_progress_rises_to_the_number_of_rows(rng):
    seen = []
    build(rng.standard_normal((300, 3)), threads=2, progress=seen.append)
    assert sorted(seen) == seen
    assert 300 == seen[-1]


def test_an_error_in_progress_ends_the_build(rng):
    def interrupt(done):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build(rng.standard_normal((50, 3)), progress=interrupt)


def test_links_that_32_bits_can_not_address_are_refused():
    n = 7_000_000
    rows = reference.build_rows(np.ones((1, 1), np.float32))
    huge = vamana.BuildRows(rows.steering, rows.rows._replace(squares=np.broadcast_to(np.float32(1), n)), rows.metric)
    order = np.zeros(n, np.uint32)
    with Workers(1) as workers, pytest.raises(ParameterError, match="max_degree=512: expected at most 4"):
        GraphBuilder(huge, GraphParams(max_degree=512), order, workers, ignore)


@pytest.mark.parametrize("n", [1, 2, 3, 64, 65, 1000, 20_000])
def test_batches_cover_all_rows_but_the_first_and_at_most_double(n):
    batches = batch_spans(n)
    assert list(range(1, n)) == [row for start, stop in batches for row in range(start, stop)]
    for start, stop in batches:
        assert 1 <= stop - start <= min(start, max(64, n // 50))


@pytest.mark.parametrize("n", [1, 2, 3, 6, 64, 100, 127, 128, 1000, 5000])
def test_no_batch_is_larger_than_there_is_room_for_wherever_batches_begin(n):
    for begin in range(1, n):
        assert max(stop - start for start, stop in batch_spans(n, begin)) <= vamana.largest_batch(n)


@pytest.mark.parametrize("n", [1, 2, 100])
def test_insertion_order_is_random_with_the_medoid_first(n):
    for medoid in {0, n // 2, n - 1}:
        order = insertion_order(n, medoid, 3)
        assert medoid == order[0]
        assert list(range(n)) == sorted(order.tolist())
        np.testing.assert_array_equal(order, insertion_order(n, medoid, 3))
