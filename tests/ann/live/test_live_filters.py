"""Filters, radius and payloads of searches, in an index of several parts; every way to search gives what is right."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skeg.ann import Index, build_index
from skeg.ann.filters.payload import fields_of
from skeg.ann.live import plan
from skeg.ann.live.plan import choose_filtered
from skeg.errors import ClosedError, FilterError, ParameterError, VectorError
from tests.ann.filters import reference
from tests.indexes import ids_of, queries, rows

N = 700
PAYLOADS = [
    None if i % 11 == 10 else {"n": i, "part": i % 7 / 2, "even": i % 2 == 0, "lang": ["de", "fr", "en"][i % 3]}
    for i in range(N)
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A segment of 500 rows, some of them dead, and 200 rows in memory, some of which replace others."""
    folder = tmp_path_factory.mktemp("filters") / "index"
    with Index.create(folder, 384, kind="int8") as index:
        index.add(np.arange(500), rows(N)[:500], payloads=PAYLOADS[:500])
        index.consolidate(threads=1)
        index.add(np.arange(450, N), rows(N)[450:], payloads=PAYLOADS[450:])
        index.delete(np.arange(0, 60))
    return folder


@pytest.fixture(scope="module")
def index(folder):
    with Index.open(folder) as opened:
        yield opened


ALIVE = np.arange(60, N)


def wanted(condition):
    """Ids of the live rows whose payload satisfies a condition."""
    return [i for i in ALIVE.tolist() if PAYLOADS[i] is not None and condition(PAYLOADS[i])]


def exact(query, ids, k):
    """The k nearest of some ids by brute force."""
    ids = np.asarray(ids)
    scores = rows(N)[ids] @ query / np.linalg.norm(query) / np.linalg.norm(rows(N)[ids], axis=1)
    return ids[np.lexsort((ids, -scores))][:k].tolist()


CONDITIONS = {
    "n >= 100 AND n < 650": lambda p: 100 <= p["n"] < 650,
    "lang = de": lambda p: p["lang"] == "de",
    "lang IN (de, en) AND even = true": lambda p: p["lang"] != "fr" and p["even"],
    "part BETWEEN 1 AND 1.5": lambda p: 1 <= p["part"] <= 1.5,
    "n BETWEEN 640 AND 647": lambda p: 640 <= p["n"] <= 647,
    "n = 3 OR n = 300": lambda p: p["n"] in {3, 300},
}


@pytest.mark.parametrize("text", CONDITIONS)
def test_hits_are_the_nearest_of_the_rows_that_match(index, text):
    ids = wanted(CONDITIONS[text])
    for query in queries(5):
        hits = index.search(query, 10, filter=text)
        assert exact(query, ids, 10) == hits.ids.tolist()
        assert hits.ids.tolist() == index.search(query, 10, filter=text, exact=True).ids.tolist()
        assert hits.stats["plan"]
        assert hits.stats["why"]


@pytest.mark.parametrize("form", [set, list, np.array, frozenset])
def test_ids_may_come_in_any_form(index, form):
    ids = list(range(40, 200, 3))
    found = index.search(queries(1)[0], 10, filter=form(ids))
    assert exact(queries(1)[0], [i for i in ids if i >= 60], 10) == found.ids.tolist()


def test_bools_stand_for_ids_in_ascending_order(index):
    mask = ALIVE % 5 == 0
    assert exact(queries(1)[0], ALIVE[mask], 10) == index.search(queries(1)[0], 10, filter=mask).ids.tolist()
    with pytest.raises(ParameterError, match=r"3 bools.*640, one for each id"):
        index.search(queries(1)[0], filter=[True, False, True])


def test_not_is_about_all_rows_also_those_without_payload(index):
    matching = [i for i in ALIVE.tolist() if PAYLOADS[i] is None or PAYLOADS[i]["lang"] != "de"]
    hits = index.search(queries(1)[0], N, filter="NOT lang = de")
    assert matching == sorted(hits.ids.tolist())
    assert matching == sorted(index.search(queries(1)[0], N, filter="lang != de").ids.tolist())


@pytest.mark.parametrize("text", ["n BETWEEN 9 AND 3", "n = 100000", "nobody = 1", "lang = nowhere"])
def test_nothing_matches_and_that_is_no_error(index, text):
    assert 0 == len(index.search(queries(1)[0], filter=text))
    assert (1, 0) == (len(index.search(queries(1), filter=text)), index.search(queries(1), filter=text).counts[0])


@pytest.mark.parametrize("text", ["lang > 3", "n >= abc", "even = 3", "n = 'x'", "n BETWEEN 1 AND x"])
def test_a_comparison_that_cannot_be_is_told(index, text):
    with pytest.raises(FilterError) as caught:
        index.search(queries(1)[0], filter=text)
    assert caught.value.field in {"lang", "n", "even"}


@pytest.mark.parametrize("given", [3, 1.5, [0.5], [[1]], ["a"], {"a"}, {-1}])
def test_what_is_no_filter_is_refused(index, given):
    with pytest.raises((ParameterError, VectorError), match="filter"):
        index.search(queries(1)[0], filter=given)


def test_many_queries_are_answered_as_one_by_one(index):
    asked = queries(20)
    many = index.search(asked, 7, filter="even = true", with_payload=True, threads=2)
    for query, ids, payloads in zip(asked, many.ids, many.payloads, strict=True):
        one = index.search(query, 7, filter="even = true", with_payload=True)
        assert ids.tolist() == one.ids.tolist()
        assert payloads == one.payloads == [PAYLOADS[i] for i in ids.tolist()]


def test_payloads_come_back_as_they_were_given(index):
    hits = index.search(queries(1)[0], 50, with_payload=True)
    assert [PAYLOADS[i] for i in hits.ids.tolist()] == hits.payloads
    assert [PAYLOADS[i] for i in (60, 120, 500, 699)] == index.payloads([60, 120, 500, 699])
    assert PAYLOADS[65] is None
    assert index.payloads(65) is None


@pytest.mark.parametrize("radius", [-1.0, 0.05, 0.2, 0.9])
@pytest.mark.parametrize("text", [None, "lang = de"])
def test_all_within_a_radius_are_hits(index, radius, text):
    ids = ALIVE.tolist() if text is None else wanted(CONDITIONS[text])
    for query in queries(5):
        scores = dict(zip(*index.search(query, N, exact=True), strict=True))
        near = {i for i in ids if scores[np.uint64(i)] >= np.float32(radius)}
        hits = index.search(query, radius=radius, filter=text)
        assert near == set(hits.ids.tolist())
        assert (hits.scores[1:] <= hits.scores[:-1]).all()
    many = index.search(queries(5), radius=radius, filter=text)
    assert many.counts.max() == many.ids.shape[1]


@pytest.mark.parametrize("way", ["scan of the matches", "scan of all rows", "walk", "two-hop walk"])
@pytest.mark.parametrize("text", CONDITIONS)
def test_every_plan_gives_as_many_hits_as_match(index, monkeypatch, way, text):
    costs = {"WALK_COST": 1e9, "TWO_HOP_COST": 1e9, "RUN_COST": 1e9, "ONE_HOP_SHARE": 0.0}
    costs |= {"walk": {"WALK_COST": 0}, "two-hop walk": {"TWO_HOP_COST": 0}, "scan of all rows": {"RUN_COST": 0}}.get(
        way, {}
    )
    for name, cost in costs.items():
        monkeypatch.setattr(plan, name, cost)
    ids = wanted(CONDITIONS[text])
    with Index.open(index.path) as fresh:
        for query in queries(10):
            hits = fresh.search(query, 10, filter=text)
            assert min(10, len(ids)) == len(hits)
            assert set(hits.ids.tolist()) <= set(ids)
            assert len(set(exact(query, ids, 10)) - set(hits.ids.tolist())) <= 1
        if any(i < 450 for i in ids):  # else there is nothing to search in the segment
            assert way == hits.stats["plan"]


def test_a_filter_that_was_used_before_notices_what_has_changed(tmp_path):
    with Index.create(tmp_path / "index", 384) as index:
        index.add(np.arange(20), rows(20), payloads=[{"a": i % 2} for i in range(20)])
        assert 10 == len(index.search(queries(1)[0], 20, filter="a = 1"))
        index.delete([1, 3])
        assert 8 == len(index.search(queries(1)[0], 20, filter="a = 1"))
        index.add(30, rows(21)[20], payloads={"a": 1})
        index.update(0, payloads={"a": 1})
        assert 10 == len(index.search(queries(1)[0], 20, filter="a = 1"))
        index.consolidate(threads=1)
        index.delete(30)
        assert 9 == len(index.search(queries(1)[0], 20, filter="a = 1"))


def test_an_index_that_never_changes_is_filtered_by_ids(tmp_path):
    ids = ids_of(300)
    with build_index(rows(300), tmp_path / "index", ids=ids) as index:
        some = ids[::7]
        hits = index.search(queries(3), 5, filter=some)
        assert set(hits.ids.ravel().tolist()) <= set(some.tolist())
        assert hits.ids.tolist() == index.search(queries(3), 5, filter=np.isin(index.ids(), some)).ids.tolist()
        assert 0 == len(index.search(queries(1)[0], filter="a = 1"))
        assert [None] == index.search(queries(1)[0], 1, with_payload=True).payloads
    with pytest.raises(ClosedError):
        index.search(queries(1)[0], filter=some)


def test_the_plan_is_the_cheapest_that_misses_nothing():
    class Part:
        alive = np.ones(100_000, np.uint8)

    class Chosen:
        def __init__(self, count):
            self.count, self.n_rows = count, 100_000

    numbers = (0, 4, 0, 128, 128, 0.1, 0.1, 80)
    names = [choose_filtered(Part, numbers, Chosen(c), thorough=False).name for c in (50, 5000, 18_000, 60_000, 99_000)]
    assert ["scan of the matches"] * 3 + ["walk"] * 2 == names
    wide = (0, 4, 0, 4000, 4000, 0.1, 0.1, 80)
    assert "scan of all rows" == choose_filtered(Part, wide, Chosen(99_000), thorough=False).name
    assert "scan of the matches" == choose_filtered(Part, numbers, Chosen(60_000), thorough=True).name


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_filters_select_what_python_selects(folder, data):
    """Random expressions over random payloads: what is searched is what a plain evaluation says."""
    node = data.draw(reference.nodes)
    payloads = data.draw(st.lists(reference.payloads, min_size=1, max_size=12))
    with Index.create(folder.parent / f"random-{np.random.default_rng().integers(1 << 60)}", 8) as index:
        vectors = np.random.default_rng(0).normal(size=(len(payloads), 8))
        half = len(payloads) // 2
        if half:
            index.add(np.arange(half), vectors[:half], payloads=payloads[:half])
            index.consolidate(threads=1)
        index.add(np.arange(half, len(payloads)), vectors[half:], payloads=payloads[half:])
        expected = {i for i, p in enumerate(payloads) if reference.matches(node, fields_of(p))}
        with contextlib.suppress(FilterError):  # a field compared with what it can't be compared with
            assert expected == set(index.search(vectors[0], len(payloads), filter=str(node)).ids.tolist())
