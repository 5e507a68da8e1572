"""The search of one part in one kernel: its ways to look for admitted rows, hits of older parts, its verdicts."""

from __future__ import annotations

import numpy as np
import pytest

from skeg.ann.kernels.bundle import place_of
from skeg.ann.kernels.cells import Cells
from skeg.ann.kernels.rerank import MISSING_ID
from skeg.ann.kernels.score import Codes
from skeg.ann.kernels.search import (
    GRAPH_DAMAGED,
    MARGIN_RANK,
    OK,
    QUERY_NOT_FINITE,
    QUERY_ZERO,
    bundle_index,
    bundle_space,
    search_one,
)
from skeg.ann.kernels.search_part import (
    SCAN_LIST,
    SCAN_RUN,
    WALK,
    WALK_MOST,
    _floor_distance,
    bundle_admission,
    bundle_rooms,
    search_part,
    search_part_many,
    search_parts,
)
from skeg.ann.metric import METRICS
from skeg.ann.quantizers import (
    KINDS,
    PreparedQuery,
    encode_rows,
    factors_of,
    fit_quantizer,
    kernel_transform,
    query_room,
)
from tests import reference

pytestmark = pytest.mark.kernels

N = 24
TAIL = 18
"""Rows from here on are not in the graph of a scene that has a tail."""

# Plans: (mode, hops, first, stop, entries).
PLANS = {
    "list": (SCAN_LIST, 1, 0, 0, 0),
    "run": (SCAN_RUN, 1, 0, N, 0),
    "walk": (WALK, 1, 0, 0, 0),
    "two hops": (WALK, 2, 0, 0, 0),
    "walk from entries": (WALK, 1, N, N, 3),
    "walk beside a tail": (WALK, 1, TAIL, N, 2),
    "walk by most": (WALK_MOST, 4, 0, 0, 0),
}

ADMITTED = {
    "all": [range(N), range(N)],
    "some": [[row for row in range(N) if row % 7], [row for row in range(N) if row % 5]],
    "few": [[1, 2, 3, 20], [2, 5, 8, 11, 20]],
    "one": [range(N), [13]],
    "none alive": [[], range(N)],
    "none wanted": [range(N), []],
}


def marks_of(rows):
    marks = np.zeros(N, np.uint8)
    marks[list(rows)] = 1
    return marks


class Scene:
    """A ring of rows with chords in six cells, coded in one kind, and everything that the kernels want."""

    def __init__(
        self, rng, kind, metric, *, admitted="all", tail=False, capacity=N, n_expand=N, margin=np.inf, slack=np.inf,
        depth=N, k=5, dim=17, first_id=1000,
    ):  # fmt: skip
        # Whole numbers: exact scores are exact in float32 too.
        self.vectors = rng.integers(-8, 9, (N, dim)).astype(np.float32)
        self.vectors[:, 0] += 20  # no zero rows
        self.ids = (rng.permutation(N) + first_id).astype(np.uint64)
        self.quantizer = fit_quantizer(kind, self.vectors, metric, 0)
        codes, scales, squares = encode_rows(self.quantizer, self.vectors)
        self.factors = factors_of(scales, squares, metric)
        self.codes, self.metric, self.k = codes, METRICS[metric], k
        ring = TAIL if tail else N
        lists = [[(row + step) % ring for step in (1, 5, 11)] for row in range(ring)] + [[]] * (N - ring)
        self.graph = reference.graph_of(lists)
        self.cells = Cells(np.array([0, 3, 6], np.uint32), np.array([0, 2, 7, 11, 15, 20, N], np.uint32), 0)
        self.settings = (
            self.metric, self.quantizer.scheme, 0, max(capacity, depth), n_expand, np.float32(margin),
            np.float32(slack), depth,
        )  # fmt: skip
        centroids = np.array([3, 17, 0, 4, 9, 12, 18, 22])  # rows stand in for those of two regions and six cells
        scheme = self.quantizer.scheme
        self.index = bundle_index(
            self.graph,
            Codes(scheme, codes, self.factors, self.vectors),
            Codes(scheme, codes[centroids] if len(codes) else codes, self.factors[centroids], self.vectors[centroids]),
            self.cells,
            kernel_transform(self.quantizer),
            self.ids,
        )
        scratch = reference.scratch_for(N, max(capacity, n_expand, depth), 4 * N)
        self.space = bundle_space(scratch, *query_room(self.quantizer))
        self.rooms = bundle_rooms(np.zeros(depth + 1, np.int64), np.zeros(3, np.int64))
        self.admit(*map(marks_of, ADMITTED[admitted]))

    def admit(self, alive, wanted):
        self.rows = np.flatnonzero(alive & wanted)
        regions, cells = self.cells.regions.tolist(), self.cells.cells.tolist()
        self.admission = bundle_admission(
            alive, wanted, np.array(reference.mark_usable(regions, cells, wanted), np.uint8),
            self.rows.astype(np.uint32),
        )  # fmt: skip

    def one(self, query, plan, known=()):
        """(verdict, hits, what is left of the room for hits)."""
        ids, scores = np.full(self.k, 77, np.uint64), np.full(self.k, 77, np.float32)
        for place, (number, score) in enumerate(known):
            ids[place], scores[place] = number, score
        verdict = search_part(
            query, self.settings, PLANS.get(plan, plan), self.index.table, self.space.table, self.rooms.table,
            self.admission.table, len(known), ids, scores,
        )  # fmt: skip
        count = verdict[1]
        if verdict[0] == OK:
            assert (ids[count:] == MISSING_ID).all()
            assert (scores[count:] == -np.inf).all()
        return verdict, list(zip(ids[:count].tolist(), scores[:count].tolist(), strict=True))

    def many(self, queries, span, plan, known):
        n = len(queries)
        out = np.zeros((n, self.k), np.uint64), np.zeros((n, self.k), np.float32), np.full(n, -1, np.int64)
        for i, hits in enumerate(known):
            out[2][i] = len(hits)
            for place, (number, score) in enumerate(hits):
                out[0][i, place], out[1][i, place] = number, score
        costs = np.zeros(3, np.int64)
        verdict = search_part_many(
            queries, span, self.settings, PLANS[plan], self.index.table, self.space.table, self.rooms.table,
            self.admission.table, costs, out,
        )  # fmt: skip
        return tuple(verdict), costs.tolist(), *out

    def exact(self, query, known=()):
        scores = reference.exact_scores(self.vectors, query, self.metric)
        return reference.rerank(scores, self.ids, self.rows, self.k, known)


def query_for(rng, dim=17):
    return rng.integers(-8, 9, dim).astype(np.float32) + np.float32(0.5)


def check_hits(expected, actual):
    assert [hit[0] for hit in expected] == [hit[0] for hit in actual]
    np.testing.assert_allclose([hit[1] for hit in actual], [hit[1] for hit in expected], rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("tail", [False, True])
def test_looking_at_everything_makes_the_answer_exact(rng, kind, metric, tail):
    """Two hops lead from every row to every other where few are missing; where more are, they need not."""
    scene = Scene(rng, kind, metric, tail=tail)
    for case, admitted in ADMITTED.items():
        scene.admit(*map(marks_of, admitted))
        query = query_for(rng)
        for plan in PLANS:
            if tail != (plan == "walk beside a tail") and PLANS[plan][0] in {WALK, WALK_MOST}:
                continue
            if plan == "two hops" and case not in {"all", "some"}:
                continue
            verdict, hits = scene.one(query, plan)
            assert (OK, min(len(scene.rows), 5)) == tuple(verdict)[:2], (case, plan)
            check_hits(scene.exact(query), hits)


@pytest.mark.parametrize("k", [1, 3, MARGIN_RANK, N, N + 7])
def test_any_number_of_hits(rng, k):
    scene = Scene(rng, "tq4", "cosine", admitted="some", k=k, depth=max(N, k))
    query = query_for(rng)
    for plan in PLANS:
        if plan != "walk beside a tail":
            check_hits(scene.exact(query), scene.one(query, plan)[1])


@pytest.mark.parametrize(
    ("plan", "scored"), [("list", 16), ("run", N), ("walk", N), ("walk from entries", N), ("walk by most", N)]
)
def test_every_row_is_scored_once_and_what_is_admitted_is_ranked(rng, plan, scored):
    scene = Scene(rng, "tq4", "l2", admitted="some")
    assert 16 == len(scene.rows)
    verdict, _ = scene.one(query_for(rng), plan)
    assert (OK, 5, 16) == (verdict[0], verdict[1], verdict[4])
    assert scored == verdict[2] if plan != "walk" else scored <= verdict[2] <= scored + 1
    assert (N if "walk" in plan else 0) == verdict[3]


def test_rows_of_a_tail_are_scored_and_not_walked_by(rng):
    scene = Scene(rng, "tq4", "l2", tail=True)
    verdict, _ = scene.one(query_for(rng), "walk beside a tail")
    assert (OK, 5, N, TAIL, N) == tuple(verdict)


def test_rows_of_a_tail_that_are_linked_while_a_search_goes_on_are_found_once(rng):
    scene = Scene(rng, "tq4", "l2", tail=True)
    scene.graph.links[[2, 3 * 4 + 1, 3 * 9 + 2]] = [TAIL, TAIL + 1, N - 1]
    query = query_for(rng)
    verdict, hits = scene.one(query, "walk beside a tail")
    assert (OK, 5, N, TAIL, N) == tuple(verdict)
    check_hits(scene.exact(query), hits)


def test_a_search_among_all_rows_costs_and_finds_what_one_without_a_filter_does(rng):
    scene = Scene(rng, "tq4", "cosine", margin=0.05, slack=0.02, capacity=12, n_expand=8, depth=12)
    for _ in range(4):
        query = query_for(rng)
        ids, scores = np.zeros(5, np.uint64), np.zeros(5, np.float32)
        expected = search_one(query, scene.settings, scene.index.table, scene.space.table, ids, scores)
        verdict, hits = scene.one(query, (WALK_MOST, 0, 0, 0, 0))
        assert tuple(expected) == tuple(verdict)
        assert list(zip(ids.tolist(), scores.tolist(), strict=True)) == hits


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n_known", [1, 4, 5])
@pytest.mark.parametrize("plan", ["list", "run", "walk", "walk by most"])
def test_hits_of_older_parts_compete_and_are_replaced_by_rows_of_their_ids(rng, metric, n_known, plan):
    """Ids of the two parts overlap by half."""
    old = Scene(rng, "int8", metric, admitted="some", k=n_known)
    new = Scene(rng, "int8", metric, admitted="some", first_id=1000 + N // 2)
    replaced = 0
    for _ in range(6):
        query = query_for(rng)
        known = old.one(query, "run")[1]
        replaced += len({hit[0] for hit in known} & set(new.ids[new.rows].tolist()))
        verdict, hits = new.one(query, plan, known)
        assert (OK, 5) == tuple(verdict)[:2]
        check_hits(new.exact(query, known), hits)
    assert replaced > 0


@pytest.mark.parametrize("plan", ["list", "run", "walk", "walk from entries", "walk by most"])
@pytest.mark.parametrize("admitted", ["none alive", "none wanted"])
def test_where_no_row_is_admitted_known_hits_stay(rng, plan, admitted):
    scene = Scene(rng, "tq4", "ip", admitted=admitted)
    known = [(5, 3.0), (2, 1.5), (9, -4.0)]
    verdict, hits = scene.one(query_for(rng), plan, known)
    assert (OK, 3, 0) == (verdict[0], verdict[1], verdict[4])
    assert known == hits


@pytest.mark.parametrize("kind", ["f32", "int8", "pq"])
@pytest.mark.parametrize("metric", METRICS)
def test_the_floor_is_where_the_last_known_hit_would_stand_by_estimate(rng, kind, metric):
    """A hit that scores as a row does stands where it does: product codes are exact for so few rows, int8 nearly."""
    scene = Scene(rng, kind, metric)
    query = query_for(rng)
    estimates = PreparedQuery(scene.quantizer, query).score(scene.codes, scene.factors, scene.vectors)
    exact = reference.exact_scores(scene.vectors, query, scene.metric).astype(np.float32)
    transform, norm = kernel_transform(scene.quantizer), np.float32(np.linalg.norm(query))
    assert kind == "f32" or metric == "ip" or transform.mean.any()
    work = query - transform.mean if metric == "l2" else query.copy()
    scores = np.full(MARGIN_RANK, 1e9, np.float32)
    for row in range(N):
        scores[-1] = exact[row]
        floor = _floor_distance(scores, np.int64(MARGIN_RANK), scene.metric, norm, work, query, transform.mean)
        np.testing.assert_allclose(floor, -estimates[row], atol=np.ptp(estimates) * (0.02 if kind == "int8" else 1e-5))


def test_too_few_known_hits_are_no_floor():
    few, ten = np.zeros(MARGIN_RANK - 1, np.float32), np.zeros(MARGIN_RANK, np.float32)
    query = np.ones(2, np.float32)
    for metric in METRICS.values():
        rest = metric, np.float32(1), query, query, query
        assert -np.inf == _floor_distance(few, np.int64(len(few)), *rest)
        assert -np.inf == _floor_distance(ten, np.int64(MARGIN_RANK - 1), *rest)
        assert np.isfinite(_floor_distance(ten, np.int64(MARGIN_RANK), *rest))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("plan", ["list", "run", "walk by most"])
def test_known_hits_that_are_far_let_in_all_that_is_nearer(rng, metric, plan):
    """With exact codes no slack is needed; each part has so many hits that they give a floor."""
    old = Scene(rng, "f32", metric, k=MARGIN_RANK)
    new = Scene(rng, "f32", metric, k=MARGIN_RANK, slack=0.0, margin=np.inf, first_id=3000)
    query = query_for(rng)
    known = old.one(query, "run")[1]
    nearest = known[:5]
    far = [(number, score - 1e4) for number, score in known]
    for hits in (known, far, [*nearest, *far[5:]]):
        check_hits(new.exact(query, hits), new.one(query, plan, hits)[1])


@pytest.mark.parametrize("kind", ["f32", "int8", "tq4"])
@pytest.mark.parametrize("metric", METRICS)
def test_the_nearer_the_known_hits_the_sooner_a_walk_ends(rng, kind, metric):
    """With hits that are better than any row it ends early, with hits that are worse it goes on to every row."""
    scene = Scene(rng, kind, metric, k=MARGIN_RANK, margin=0.0, n_expand=N)
    query = query_for(rng)
    exact = np.sort(reference.exact_scores(scene.vectors, query, scene.metric))[::-1]
    expanded = []
    for score in (exact[0] + 10, exact[3], exact[12], exact[-1] - 1e4):
        known = [(number, float(np.float32(score))) for number in range(MARGIN_RANK)]
        expanded.append(int(scene.one(query, "walk from entries", known)[0][3]))
    assert sorted(expanded) == expanded
    assert N == expanded[-1]
    assert expanded[0] < N


@pytest.mark.parametrize("depth", [1, 2, 4, 9])
@pytest.mark.parametrize("plan", ["list", "run", "walk", "walk by most"])
def test_rows_to_score_exactly_are_those_within_the_slack_of_the_last_hit(rng, depth, plan):
    """As many as asked for, fewer where estimates fall behind, always the hits that are wanted."""
    query = query_for(rng)
    counts = []
    for slack in (0.0, 0.05, 0.2, np.inf):
        scene = Scene(np.random.default_rng(5), "tq4", "cosine", admitted="some", slack=slack, depth=depth, k=3)
        verdict, _ = scene.one(query, plan)
        assert min(3, depth) == verdict[1]
        counts.append(int(verdict[4]))
    assert sorted(counts) == counts
    assert min(3, depth) == counts[0]
    assert depth == counts[-1]


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("few", [{"capacity": 3, "n_expand": 1, "depth": 5}, {"margin": 0.1, "slack": 0.05}])
def test_many_queries_are_answered_as_each_one_alone(rng, plan, few):
    """Each with its own known hits: none, some, as many as there is room for."""
    scene = Scene(rng, "tq4", "cosine", admitted="some", tail="tail" in plan, **few)
    queries = np.stack([query_for(rng) for _ in range(5)])
    some = [(1001, 0.99), (5, 0.5), (1010, 0.4), (6, -0.5), (7, -0.6)]
    known = [some[:1], [], some[:2], some, some]
    verdict, costs, ids, scores, counts = scene.many(queries, (1, 4), plan, known)
    assert (OK, 4) == verdict
    expected = np.zeros(3, np.int64)
    for i in range(1, 4):
        alone, hits = scene.one(queries[i], plan, known[i])
        assert hits == list(zip(ids[i, : counts[i]].tolist(), scores[i, : counts[i]].tolist(), strict=True))
        expected += alone[2:]
    assert expected.tolist() == costs
    assert [1, 5] == counts[[0, 4]].tolist(), "outside the span"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("metric", METRICS)
def test_a_query_that_is_not_finite_is_refused_and_known_hits_are_left_alone(rng, bad, metric):
    scene = Scene(rng, "tq4", metric)
    queries = np.stack([query_for(rng) for _ in range(4)])
    queries[2, 16] = bad
    known = [[(7, 1e6)]] * 4
    for plan in ("list", "walk"):
        with np.errstate(over="ignore"):  # 1e30 squared is what the kernel has to notice
            verdict, _, ids, scores, counts = scene.many(queries, (0, 4), plan, known)
        assert (QUERY_NOT_FINITE, 2) == verdict
        assert [5, 5, 1, 1] == counts.tolist()
        assert (7, 1e6) == (ids[2, 0], scores[2, 0])


@pytest.mark.parametrize("plan", ["list", "run", "walk", "walk by most"])
def test_a_zero_query_is_refused_under_cosine_only(rng, plan):
    zero = np.zeros(17, np.float32)
    assert QUERY_ZERO == Scene(rng, "tq4", "cosine").one(zero, plan)[0][0]
    for metric in ("ip", "l2"):
        scene = Scene(rng, "tq4", metric, k=MARGIN_RANK, margin=0.1, slack=np.inf)
        known = [(number, -1e9) for number in range(MARGIN_RANK)]
        for hits in ([], known):
            verdict, found = scene.one(zero, plan, hits)
            assert (OK, MARGIN_RANK) == tuple(verdict)[:2]
            if plan in {"list", "run"}:
                check_hits(scene.exact(zero, hits), found)


@pytest.mark.parametrize("plan", ["walk", "two hops", "walk from entries", "walk by most"])
def test_a_damaged_graph_is_reported_with_the_query(rng, plan):
    scene = Scene(rng, "tq4", "cosine")
    scene.graph.links[5] = N
    known = [(7, 0.5)]
    assert (GRAPH_DAMAGED, 0, 0, 0, 0) == tuple(scene.one(query_for(rng), plan, known)[0])
    verdict, costs, ids, _, counts = scene.many(query_for(rng)[None], (0, 1), plan, [known])
    assert (GRAPH_DAMAGED, 0) == verdict
    assert ([0, 0, 0], 7, 1) == (costs, ids[0, 0], counts[0])


@pytest.mark.parametrize("plan", ["walk", "two hops", "walk by most"])
@pytest.mark.parametrize(("name", "place", "value"), [("regions", 2, 9), ("cells", 3, N + 1), ("cells", 3, 0)])
def test_damaged_borders_of_cells_are_reported(rng, plan, name, place, value):
    """Where the search looks: in both regions, and in a cell of which a row is the query."""
    scene = Scene(rng, "f32", "l2")
    getattr(scene.cells, name)[place] = value
    assert GRAPH_DAMAGED == scene.one(scene.vectors[9], plan)[0][0]


def test_scans_do_not_look_at_the_graph(rng):
    scene = Scene(rng, "tq4", "cosine")
    query = query_for(rng)
    scene.graph.links[:] = 2**32 - 1
    for plan in ("list", "run"):
        check_hits(scene.exact(query), scene.one(query, plan)[1])


def parts_of(scenes, plans):
    """numbers, plans and tables of several scenes, and of one more part that nobody asks for."""
    tables = [
        place_of(bundle.table)
        for scene in scenes
        for bundle in (scene.index, scene.space, scene.rooms, scene.admission)
    ]
    numbers = [*(scene.settings for scene in scenes), [np.nan] * 8]
    plans = [*(PLANS[plan] for plan in plans), [99] * 5]
    return np.array(numbers, np.float64), np.array(plans, np.int64), np.array([*tables, *[[0] * 4] * 4], np.int64)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [3, MARGIN_RANK])
def test_parts_are_searched_one_after_another(rng, metric, k):
    kinds = ["int8", "tq4", "f32"]
    scenes = [
        Scene(rng, kind, metric, admitted="some", k=k, first_id=100 * i, slack=0.5) for i, kind in enumerate(kinds)
    ]
    plans = ["walk by most", "run", "walk"]
    query = query_for(rng)
    for count in range(4):
        costs, known, verdict = np.zeros(3, np.int64), [(7, 1e6)], (OK, 1)
        for scene, plan in zip(scenes[:count], plans, strict=False):
            verdict, known = scene.one(query, plan, known)
            costs += verdict[2:]
        ids, scores = np.full(k, 7, np.uint64), np.full(k, 1e6, np.float32)
        found = search_parts(query, count, *parts_of(scenes, plans), 1, ids, scores)
        assert (OK, verdict[1], *costs.tolist()) == tuple(found)
        assert known == list(zip(ids[: found[1]].tolist(), scores[: found[1]].tolist(), strict=True))


def test_a_part_that_is_damaged_ends_the_search(rng):
    scenes = [Scene(rng, "tq4", "l2"), Scene(rng, "tq4", "l2", first_id=5000)]
    scenes[1].graph.links[:] = N
    ids, scores = np.zeros(5, np.uint64), np.zeros(5, np.float32)
    found = search_parts(query_for(rng), 2, *parts_of(scenes, ["walk", "walk"]), 0, ids, scores)
    assert (GRAPH_DAMAGED, 0) == tuple(found)[:2]
