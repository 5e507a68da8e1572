"""The whole search in one kernel: prepare, walk, re-rank; its verdicts on queries and graphs."""

from __future__ import annotations

import numpy as np
import pytest

from skeg.ann.kernels.cells import Cells
from skeg.ann.kernels.score import Codes
from skeg.ann.kernels.search import (
    GRAPH_DAMAGED,
    OK,
    QUERY_NOT_FINITE,
    QUERY_ZERO,
    bundle_index,
    bundle_space,
    search_many,
    search_one,
)
from skeg.ann.metric import METRICS
from skeg.ann.quantizers import KINDS, encode_rows, factors_of, fit_quantizer, kernel_transform, query_room
from tests import reference

pytestmark = pytest.mark.kernels

N = 24


class Scene:
    """A ring of rows with chords, coded in one kind, and everything that the kernels want."""

    def __init__(self, rng, kind, metric, *, dim=17, capacity=N, n_expand=N, margin=np.inf, slack=np.inf, depth=N, k=3):
        # Whole numbers: exact scores are exact in float32 too.
        self.vectors = rng.integers(-8, 9, (N, dim)).astype(np.float32)
        self.vectors[:, 0] += 20  # no zero rows
        self.ids = (rng.permutation(N) + 1000).astype(np.uint64)
        quantizer = fit_quantizer(kind, self.vectors, metric, 0)
        codes, scales, squares = encode_rows(quantizer, self.vectors)
        factors = factors_of(scales, squares, metric)
        self.metric = METRICS[metric]
        lists = [[(row + 1) % N, (row + 5) % N, (row + 11) % N] for row in range(N)]
        self.graph = reference.graph_of(lists)
        scheme = quantizer.scheme
        cells = Cells(np.array([0, 2], np.uint32), np.array([0, 3, N], np.uint32), 0)
        centroids = np.array([0, 1, 7])  # rows stand in for the centroids of one region and two cells
        self.index = bundle_index(
            self.graph,
            Codes(scheme, codes, factors, self.vectors),
            Codes(scheme, codes[centroids] if len(codes) else codes, factors[centroids], self.vectors[centroids]),
            cells,
            kernel_transform(quantizer),
            self.ids,
        )
        self.space = bundle_space(reference.scratch_for(N, max(capacity, depth), N), *query_room(quantizer))
        self.settings = (
            self.metric, scheme, 0, max(capacity, depth), n_expand, np.float32(margin), np.float32(slack), depth
        )  # fmt: skip
        self.k = k

    def one(self, query):
        ids, scores = np.zeros(self.k, np.uint64), np.zeros(self.k, np.float32)
        verdict = search_one(query, self.settings, self.index.table, self.space.table, ids, scores)
        return verdict, ids, scores

    def many(self, queries, span):
        out = np.zeros((len(queries), self.k), np.uint64), np.zeros((len(queries), self.k), np.float32)
        out, costs = (*out, np.full(len(queries), -1, np.int64)), np.zeros(3, np.int64)
        verdict = search_many(queries, span, self.settings, self.index.table, self.space.table, costs, out)
        return verdict, costs, *out


def query_for(rng, dim):
    return rng.integers(-8, 9, dim).astype(np.float32) + np.float32(0.5)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "pq"])
@pytest.mark.parametrize("metric", METRICS)
def test_a_list_for_every_row_makes_the_answer_exact(rng, kind, metric):
    scene = Scene(rng, kind, metric, k=5)
    query = query_for(rng, 17)
    verdict, ids, scores = scene.one(query)
    assert (OK, 5, N, N, N) == tuple(verdict), "every row once"
    exact = reference.exact_scores(scene.vectors, query, scene.metric)
    expected = reference.rerank(exact, scene.ids, range(N), 5)
    assert [hit[0] for hit in expected] == ids.tolist()
    np.testing.assert_allclose(scores, [hit[1] for hit in expected], rtol=1e-6)


def test_product_codes_steer_too(rng):
    scene = Scene(rng, "pq", "l2", dim=3, k=4)
    query = query_for(rng, 3)
    verdict, ids, _ = scene.one(query)
    exact = reference.exact_scores(scene.vectors, query, scene.metric)
    assert OK == verdict[0]
    assert [hit[0] for hit in reference.rerank(exact, scene.ids, range(N), 4)] == ids.tolist()


@pytest.mark.parametrize("depth", [1, 2, 4, 9])
def test_rows_to_score_exactly_are_those_within_the_slack_of_the_last_hit(rng, depth):
    """As many as asked for, fewer where estimates fall behind, always the hits that are wanted."""
    query = query_for(rng, 17)
    counts = []
    for slack in (0.0, 0.05, 0.2, np.inf):
        verdict, _, _ = Scene(np.random.default_rng(5), "tq4", "cosine", slack=slack, depth=depth).one(query)
        assert min(3, depth) == verdict[1]
        counts.append(int(verdict[4]))
    assert sorted(counts) == counts
    assert min(3, depth) == counts[0]
    assert depth == counts[-1]


@pytest.mark.parametrize("few", [{"capacity": 3, "n_expand": 1, "depth": 3}, {"margin": 0.1, "slack": 0.05}])
def test_many_queries_are_answered_as_each_one_alone(rng, few):
    scene = Scene(rng, "tq4", "cosine", **few)
    queries = np.stack([query_for(rng, 17) for _ in range(5)])
    verdict, costs, ids, scores, counts = scene.many(queries, (1, 4))
    expected = np.zeros(3, np.int64)
    for i in range(1, 4):
        alone, its_ids, its_scores = scene.one(queries[i])
        np.testing.assert_array_equal(its_ids, ids[i])
        np.testing.assert_array_equal(its_scores, scores[i])
        assert alone[1] == counts[i] == 3
        expected += alone[2:]
    assert (OK, 4) == tuple(verdict)
    np.testing.assert_array_equal(expected, costs)
    assert [-1, -1] == counts[[0, 4]].tolist(), "outside the span"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("metric", METRICS)
def test_a_query_that_is_not_finite_is_refused(rng, bad, metric):
    scene = Scene(rng, "tq4", metric)
    queries = np.stack([query_for(rng, 17) for _ in range(4)])
    queries[2, 16] = bad
    with np.errstate(over="ignore"):  # 1e30 squared is what the kernel has to notice
        assert (QUERY_NOT_FINITE, 2) == tuple(scene.many(queries, (0, 4))[0])[:2]


def test_a_zero_query_is_refused_under_cosine_only(rng):
    zero = np.zeros(17, np.float32)
    assert QUERY_ZERO == Scene(rng, "tq4", "cosine").one(zero)[0][0]
    for metric in ("ip", "l2"):
        assert OK == Scene(rng, "tq4", metric).one(zero)[0][0]


def test_a_damaged_graph_is_reported_with_the_query(rng):
    scene = Scene(rng, "tq4", "cosine")
    scene.graph.links[5] = N
    assert (GRAPH_DAMAGED, 0) == tuple(scene.many(query_for(rng, 17)[None], (0, 1))[0])[:2]
