"""Robust prune, reverse edges and trimming beside twins over Python lists."""

from __future__ import annotations

import numpy as np
import pytest

from skeg.ann.kernels import prune
from skeg.ann.kernels.pool import row_of
from skeg.ann.kernels.score import score_rows
from skeg.ann.kernels.walk import DAMAGED
from skeg.ann.metric import METRICS
from skeg.jit import kernel
from tests import reference

pytestmark = pytest.mark.kernels

NAMES = ["cosine", "ip", "l2"]


def vectors_of(rng, n, dim):
    return (rng.standard_normal((n, dim)) + 1).astype(np.float32)


def sorted_keys(rows, target, candidates):
    return np.array(sorted(reference.pack(reference.square_distance(rows, c, target), c) for c in candidates), np.int64)


def distance(rows, a, b):
    return prune.square_distance(rows, np.int64(a), np.int64(b))


@pytest.mark.parametrize("metric", NAMES)
@pytest.mark.parametrize("dim", reference.DIMS)
def test_distances_are_those_of_the_codes(rng, metric, dim):
    rows = reference.build_rows(vectors_of(rng, 5, dim), metric).rows
    for a in range(5):
        for b in range(5):
            assert reference.square_distance(rows, a, b) == distance(rows, a, b)


@pytest.mark.parametrize("dim", [16, 65])
def test_distances_approach_those_of_the_vectors(rng, dim):
    vectors = vectors_of(rng, 6, dim)
    rows = reference.build_rows(vectors, "l2").rows
    scale = np.square(vectors - vectors.mean(axis=0)).sum(axis=1).max()
    for a in range(6):
        for b in range(6):
            assert abs(distance(rows, a, b) - np.square(vectors[a] - vectors[b]).sum()) < 0.01 * scale


@pytest.mark.parametrize("dim", [16, 65])
def test_under_inner_product_the_nearest_row_is_the_one_with_the_largest_product(rng, dim):
    """All rows lie on one sphere, thanks to one more coordinate; a query has 0 there, a row its own."""
    vectors = vectors_of(rng, 6, dim)
    rows = reference.build_rows(vectors, "ip").rows
    largest = np.square(vectors).sum(axis=1).max()
    tails = np.sqrt(largest - np.square(vectors).sum(axis=1))
    for a in range(6):
        for b in range(6):
            expected = 2 * largest - 2 * (vectors[a] @ vectors[b] + tails[a] * tails[b])
            assert abs(distance(rows, a, b) - expected) < 0.02 * largest


@pytest.mark.parametrize("alpha", [1.0, 1.2, 2.0])
@pytest.mark.parametrize("max_degree", [1, 2, 4, 40])
def test_robust_prune_chooses_what_its_twin_does_and_covers_the_rest(rng, alpha, max_degree):
    n, alpha = 20, np.float32(alpha)
    rows = reference.build_rows(vectors_of(rng, n, 3)).rows
    for target in range(3):
        candidates = [c for c in range(n) if c != target]
        keys = sorted_keys(rows, target, candidates)
        out = np.full(max_degree + 1, 2**32 - 1, np.uint32)
        kept = out[: prune.robust_prune(rows, keys, len(keys), alpha, max_degree, out)].tolist()
        assert reference.robust_prune(rows, target, candidates, alpha, max_degree) == kept
        assert target not in kept
        assert len(kept) == len(set(kept)) <= max_degree
        if len(kept) == max_degree:
            continue
        for dropped in set(candidates) - set(kept):
            limit = reference.square_distance(rows, dropped, target)
            assert any(alpha * reference.square_distance(rows, dropped, other) <= limit for other in kept)


def test_pruning_nothing_gives_nothing(rng):
    rows = reference.build_rows(vectors_of(rng, 2, 3)).rows
    assert 0 == prune.robust_prune(rows, np.zeros(1, np.int64), 0, np.float32(1), 4, np.zeros(4, np.uint32))


def test_of_rows_that_are_all_the_same_one_is_kept():
    rows = reference.build_rows(np.ones((6, 4), np.float32)).rows
    out = np.zeros(4, np.uint32)
    assert 1 == prune.robust_prune(rows, sorted_keys(rows, 5, range(5)), 5, np.float32(1.1), 4, out)
    assert 0 == out[0]


@kernel(inline=True)
def score_as_query(rows, codes, row, settings, out):
    """Estimates of some rows for one row as a query, which refers to the codes and can't leave compiled code."""
    metric, digits = settings
    todo, estimates = out
    query = prune.row_query(rows, codes, row, metric, digits)
    score_rows(codes, query, todo, todo.shape[0], estimates)


@pytest.mark.parametrize("metric", NAMES)
@pytest.mark.parametrize("bits", reference.BITS)
def test_a_stored_row_as_a_query_ranks_by_distance_between_rows(rng, metric, bits):
    """Estimate = (|a|^2 - |a - b|^2) / 2, up to what is the same for every b and up to the steering codes' error."""
    build = reference.build_rows(vectors_of(rng, 8, 65), metric, bits)
    digits = np.zeros(build.steering.codes.shape[1] * 8 // bits, np.int8)
    steering, rows = build.steering, build.rows
    dots = reference.exact_scores(*_rebuilt(steering, rows, row=2), METRICS["ip"])
    estimates = np.zeros(8, np.float32)
    score_as_query(rows, steering, np.int64(2), (METRICS[metric], digits), (np.arange(8), estimates))
    offsets = steering.factors[:, 1] * (rows.tails[2] if metric == "ip" else 1)
    np.testing.assert_allclose(estimates, dots + offsets, rtol=1e-4, atol=1e-3)


def _rebuilt(steering, rows, row):
    """All rows from their steering codes, and one from its 8-bit code."""
    width = rows.codes.shape[1]
    digits = np.array([reference.unpack_digits(code, steering.scheme)[:65] for code in steering.codes])
    everything = (digits - reference.center_of(steering.scheme)) * steering.factors[:, :1]
    one = (rows.codes[row].astype(float) - 128) * rows.scales[row]
    assert width >= 65
    assert not one[65:].any()
    return everything, one[:65]


def chosen(build, graph, entries, points, *, span, list_size, degree):
    """(status, neighbors, degrees) of new rows; degree -1 where the kernel wrote none."""
    neighbors, degrees = np.zeros((len(points), degree), np.uint32), np.full(len(points), -1, np.int32)
    pool_size = prune.CANDIDATES * list_size
    status = prune.choose_neighbors(
        np.array(points, np.uint32), span, graph, len(entries),
        build.steering, reference.entries_of(build.steering, entries), build.rows,
        (build.metric, list_size, np.float32(1.1), degree),
        reference.scratch_for(build.n, pool_size, len(graph.links) // build.n, n_expanded=build.n + pool_size),
        np.zeros(128, np.int8), np.zeros(build.n + 2 * pool_size, np.int64), (neighbors, degrees),
    )  # fmt: skip
    return status, neighbors, degrees


@pytest.mark.parametrize("metric", NAMES)
def test_new_rows_choose_among_what_their_walk_met(rng, metric):
    """With a pool for all rows every reachable row is expanded, so the twin can prune all of them."""
    build = reference.build_rows(vectors_of(rng, 14, 17), metric)
    graph = reference.graph_of([[(row + 1) % 10] for row in range(10)] + [[]] * 4, slots=6)
    points = [11, 13, 10, 12]
    status, neighbors, degrees = chosen(build, graph, [0, 5, 7], points, span=(1, 4), list_size=16, degree=4)
    assert 0 == status
    assert -1 == degrees[0], "outside the span"
    for i in (1, 2, 3):
        expected = reference.robust_prune(build.rows, points[i], range(10), np.float32(1.1), 4)
        assert expected == neighbors[i, : degrees[i]].tolist()


def test_a_row_that_the_walk_meets_is_not_its_own_neighbor(rng):
    build = reference.build_rows(vectors_of(rng, 4, 3))
    graph = reference.graph_of([[1], [2], [3], [0]], slots=3)
    _, neighbors, degrees = chosen(build, graph, [0], [2], span=(0, 1), list_size=4, degree=3)
    assert degrees[0] > 0
    assert 2 not in neighbors[0, : degrees[0]]


def test_a_damaged_graph_ends_the_choice(rng):
    build = reference.build_rows(vectors_of(rng, 4, 3))
    graph = reference.graph_of([[1], [9], [3], [0]])
    assert DAMAGED == chosen(build, graph, [0], [2], span=(0, 1), list_size=4, degree=2)[0]


def test_lists_are_written_to_their_rows():
    points = np.array([2, 0], np.uint32)
    neighbors = np.array([[1, 0, 9], [2, 1, 3]], np.uint32)
    links, ends = np.zeros(4 * 5, np.uint32), np.arange(4, dtype=np.uint32) * np.uint32(5)
    prune.write_lists(points, neighbors, np.array([2, 3], np.int32), links, 5, ends)
    assert [1, 0, 0] == links[10:13].tolist()
    assert [2, 1, 3, 0] == links[:4].tolist()
    assert [3, 5, 12, 15] == ends.tolist()


@pytest.mark.parametrize("n_points", [0, 1, 7, 20])
def test_edges_are_grouped_by_target_in_order_of_mention(rng, n_points):
    n, degree = 25, 5
    points = rng.permutation(n)[:n_points].astype(np.uint32)
    neighbors = rng.integers(0, n, (n_points, degree)).astype(np.uint32)
    degrees = rng.integers(0, degree + 1, n_points).astype(np.int32)
    tally, targets = np.zeros(n, np.uint32), np.zeros(n, np.uint32)
    ends, sources = np.zeros(n, np.int64), np.zeros(n_points * degree, np.uint32)
    count = prune.group_by_target(points, neighbors, degrees, tally, targets, ends, sources)
    starts = [0, *ends.tolist()]
    found = {t: sources[starts[g] : ends[g]].tolist() for g, t in enumerate(targets[:count].tolist())}
    expected = reference.group_by_target(points, neighbors, degrees)
    assert expected == found
    assert list(expected) == list(found)
    assert not tally.any()


def reversed_edges(rng, lists, groups, slots, max_degree):
    """(rows, lists before, lists after) of adding the edges ``groups`` (target -> sources)."""
    n = len(lists)
    rows = reference.build_rows(vectors_of(rng, n, 3)).rows
    graph = reference.graph_of(lists, slots=slots)
    ends = np.cumsum([len(sources) for sources in groups.values()]).astype(np.int64)
    sources = np.array([s for group in groups.values() for s in group], np.uint32)
    arrays = np.array(list(groups), np.uint32), ends, sources
    settings = METRICS["l2"], 8, np.float32(1.1), max_degree
    kept, keys = np.zeros(max_degree, np.uint32), np.zeros(64, np.int64)
    for span in ((0, 1), (1, len(groups))):
        prune.add_reverse_edges(span, arrays, graph.links, slots, graph.ends, rows, settings, keys, kept)
    return rows, reference.lists_of(graph)


def test_reverse_edges_are_appended_while_there_is_room_and_pruned_when_not(rng):
    lists = [[1, 2, 3], [], [0, 1, 3, 4], [4], [0]]
    groups = {1: [0], 0: [4], 2: [5, 6, 7], 4: [1, 2, 3]}
    lists += [[], [], []]
    rows, after = reversed_edges(rng, lists, groups, slots=5, max_degree=3)
    for row, before in enumerate(lists):
        wanted = before + groups.get(row, [])
        if len(wanted) > 5:
            wanted = reference.robust_prune(rows, row, wanted, np.float32(1.1), 3)
        assert wanted == after[row]


def test_only_the_nearest_of_too_many_candidates_are_considered(rng):
    rows = reference.build_rows(vectors_of(rng, 30, 3)).rows
    graph = reference.graph_of([[]] * 30, slots=4)
    groups = np.array([0], np.uint32), np.array([29], np.int64), np.arange(1, 30, dtype=np.uint32)
    settings = METRICS["l2"], 8, np.float32(1.2), 4
    prune.add_reverse_edges(
        (0, 1), groups, graph.links, 4, graph.ends, rows, settings, np.zeros(10, np.int64), np.zeros(4, np.uint32)
    )
    nearest = [row_of(key) for key in sorted_keys(rows, 0, range(1, 30))[:10]]
    assert reference.robust_prune(rows, 0, nearest, np.float32(1.2), 4) == reference.lists_of(graph)[0]


def test_lists_beyond_the_maximum_degree_are_pruned_and_others_left_alone(rng):
    lists = [[5, 4, 3, 2, 1], [0, 2], [], [0, 1, 2, 4, 5], [5, 3, 1], [4]]
    rows = reference.build_rows(vectors_of(rng, 6, 3)).rows
    graph = reference.graph_of(lists, slots=5)
    settings = METRICS["l2"], 8, np.float32(1.1), 3
    prune.trim_lists((0, 5), graph.links, 5, graph.ends, rows, settings, np.zeros(8, np.int64), np.zeros(3, np.uint32))
    after = reference.lists_of(graph)
    for row, before in enumerate(lists):
        if len(before) > 3:
            assert reference.robust_prune(rows, row, before, np.float32(1.1), 3) == after[row]
        else:
            assert before == after[row]


def patched(lists, gone, vectors, *, max_degree, span=None, n_keys=64, alpha=1.1):
    """(lists expected, lists written) for the rows of a span after the rows ``gone`` left; others are untouched."""
    old_rows = [row for row in range(len(lists)) if row not in gone]
    new_row = np.full(len(lists), -1, np.int64)
    new_row[old_rows] = np.arange(len(old_rows))
    slots = max(max_degree, *map(len, lists)) + 1
    graph = reference.graph_of([[]] * len(old_rows), slots=slots)
    graph.links[:] = untouched = 2**32 - 1
    rows = reference.build_rows(vectors[old_rows]).rows
    span = span or (0, len(old_rows))
    prune.patch_lists(
        span, np.array(old_rows, np.uint32), new_row, reference.graph_of(lists), graph.links, slots, graph.ends, rows,
        (METRICS["l2"], 8, np.float32(alpha), max_degree), np.zeros(n_keys, np.int64), np.zeros(max_degree, np.uint32),
    )  # fmt: skip
    expected = [
        reference.patch_list(lists, before, new_row.tolist(), rows, np.float32(alpha), max_degree, n_keys)
        for before in old_rows
    ]
    blocks = graph.links.reshape(len(old_rows), slots)
    assert (blocks[:, -1] == untouched).all(), "the room of the next row"
    after = reference.lists_of(graph)
    for row in set(range(len(old_rows))) - set(range(*span)):
        assert after[row] == []
        assert (blocks[row] == untouched).all()
    return expected[slice(*span)], after[slice(*span)]


@pytest.mark.parametrize("n", [1, 2, 3, 24])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.6, 0.9])
@pytest.mark.parametrize("max_degree", [1, 3, 6])
def test_lists_are_patched_as_their_twin_does(rng, n, share, max_degree):
    for n_keys in (1, 3, 64):
        lists = [neighbors[:max_degree] for neighbors in reference.random_lists(rng, n, 6)]
        gone = set(np.flatnonzero(rng.random(n) < share).tolist()) - {int(rng.integers(n))}
        expected, after = patched(lists, gone, vectors_of(rng, n, 3), max_degree=max_degree, n_keys=n_keys)
        assert expected == after
        for row, neighbors in enumerate(after):
            assert row not in neighbors
            assert len(neighbors) == len(set(neighbors)) <= max_degree


def test_a_list_of_which_nothing_is_gone_keeps_its_order_and_length(rng):
    lists = [[3, 1, 2], [0], [], [2, 1, 0], []]
    assert [[3, 1, 2], [0], [], [2, 1, 0]] == patched(lists, {4}, vectors_of(rng, 5, 3), max_degree=1)[1]


def test_rows_after_one_that_is_gone_are_renamed(rng):
    lists = [[], [3], [], [1, 2], [3, 1]]
    assert [[2], [], [0, 1], [2, 0]] == patched(lists, {0}, vectors_of(rng, 5, 3), max_degree=2)[1]


def test_a_neighbor_that_is_gone_is_replaced_by_its_neighbors():
    """Rows on a line, the one that is gone between others: they find each other, except those that are gone too."""
    vectors = np.arange(6, dtype=np.float32)[:, None] * np.ones((1, 16), np.float32)
    lists = [[1], [0, 2, 5], [1], [4], [], []]
    assert [[1, 4], [0, 4], [3], [], []] == patched(lists, {1}, vectors, max_degree=3, alpha=4.0)[1]
    assert [[1], [0], [3], [], []] == patched(lists, {1}, vectors, max_degree=1)[1]
    assert [[1], [0], [3], []] == patched(lists, {1, 5}, vectors, max_degree=3)[1]


def test_a_row_whose_neighbors_are_gone_with_all_of_theirs_has_none_left(rng):
    lists = [[1, 2], [2, 0], [1, 0], [0]]
    assert [[], [0]] == patched(lists, {1, 2}, vectors_of(rng, 4, 3), max_degree=2)[1]


def test_of_a_neighbor_that_is_gone_only_the_nearest_neighbors_are_considered(rng):
    n = prune.PATCH_LINKS + 10
    lists = [[1], list(range(2, n)), *[[]] * (n - 2)]
    expected, after = patched(lists, {1}, vectors_of(rng, n, 3), max_degree=n, alpha=100.0)
    assert expected == after
    assert list(range(1, prune.PATCH_LINKS + 1)) == sorted(after[0])


def test_only_the_lists_of_the_span_are_written(rng):
    lists = reference.random_lists(rng, 20, 5)
    for span in ((0, 0), (3, 9), (9, 17)):
        expected, after = patched(lists, {2, 5, 11}, vectors_of(rng, 20, 3), max_degree=5, span=span)
        assert expected == after


def test_rows_that_are_all_the_same_are_patched_too():
    lists = [[1, 2], [3, 4], [0, 1], [1, 0], [2, 1]]
    expected, after = patched(lists, {1}, np.ones((5, 4), np.float32), max_degree=2)
    assert expected == after
    assert [[1], [0], [0], [1]] == after


def test_an_offer_that_was_made_before_changes_nothing(rng):
    rows = reference.build_rows(vectors_of(rng, 12, 3)).rows
    for room in (1, 2, 5, 20):
        keys, count, offers = np.zeros(room, np.int64), np.int64(0), []
        for candidate in rng.integers(1, 12, 40).tolist():
            offers.append(candidate)
            count = prune._offer_once(rows, np.int64(0), np.int64(candidate), keys, np.int64(count))
            assert sorted_keys(rows, 0, set(offers))[:room].tolist() == keys[:count].tolist()
