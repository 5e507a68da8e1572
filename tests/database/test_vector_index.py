"""A named index in several fragments answers as one in a single fragment does."""

from __future__ import annotations

import numpy as np
import pytest

from skeg import CorruptError, FilterError, NotFoundError, ParameterError, VectorError
from skeg.ann import Index
from skeg.ann.hits import MISSING_ID
from skeg.kv import Durability
from tests.database.small import opened

DIM = 6
N = 300
RNG = np.random.default_rng(11)
X = RNG.normal(size=(N, DIM)).astype(np.float32)
X[50:60] = X[40:50]  # equal scores
IDS = RNG.permutation(10_000)[:N].astype(np.uint64)
PAYLOADS = [None if i % 5 == 0 else {"n": i, "word": "ab"[i % 2]} for i in range(N)]
QUERIES = RNG.normal(size=(7, DIM)).astype(np.float32)


@pytest.fixture(scope="module", params=["flat", "disk"])
def pair(request, tmp_path_factory):
    """The same index in one fragment and in three, partly merged."""
    folder = tmp_path_factory.mktemp("pair")
    with opened(folder / "one") as one, opened(folder / "three", shards=3) as three:
        indexes = []
        for db in (one, three):
            index = db.create_index("x", DIM, metric="l2", backend=request.param)
            index.add(IDS[:200], X[:200], payloads=PAYLOADS[:200])
            index.consolidate(threads=1)
            index.add(IDS[200:], X[200:], payloads=PAYLOADS[200:])
            index.delete(IDS[::9])
            indexes.append(index)
        yield indexes


@pytest.fixture
def three(tmp_path):
    with opened(tmp_path / "db", shards=3) as db:
        index = db.create_index("x", DIM, metric="l2", kind="f32")
        index.add(IDS, X, payloads=PAYLOADS)
        yield index


def same(expected, found):
    """Hits are equal in all that does not tell of costs."""
    assert expected.ids.tolist() == found.ids.tolist()
    assert expected.ids.dtype == found.ids.dtype
    assert expected.scores.tolist() == found.scores.tolist()
    assert expected.scores.dtype == found.scores.dtype
    assert expected.payloads == found.payloads
    assert expected.metric == found.metric
    assert np.array_equal(expected.counts, found.counts)


HOW = [
    {},
    {"k": 1},
    {"k": 1000},
    {"with_payload": True},
    {"filter": "n < 50"},
    {"filter": "n < 50 AND word = b OR n = 299", "with_payload": True},
    {"filter": "NOT word = a", "k": 400},
    {"filter": "n = 1000000"},
    {"filter": IDS[:40]},
    {"filter": IDS[:40].tolist(), "with_payload": True},
    {"filter": set(IDS[:40].tolist())},
    {"filter": dict.fromkeys(IDS[:40].tolist()).keys()},
    {"filter": []},
    {"radius": -4.0},
    {"radius": -4.0, "with_payload": True, "filter": "n > 100"},
    {"radius": 1.0},
    {"threads": 1},
    {"threads": 2, "k": 50},
]


@pytest.mark.parametrize("how", HOW, ids=str)
@pytest.mark.parametrize("q", [QUERIES[0], QUERIES[0].tolist(), QUERIES, QUERIES[:1], QUERIES[:0]], ids=len)
def test_exact_hits_are_those_of_one_fragment(pair, how, q):
    one, three = pair
    same(one.search(q, exact=True, **how), three.search(q, exact=True, **how))


def test_bools_stand_for_all_ids_together(pair):
    one, three = pair
    mask = np.arange(len(one)) % 3 == 0
    same(one.search(QUERIES, 50, exact=True, filter=mask), three.search(QUERIES, 50, exact=True, filter=mask))
    with pytest.raises(ParameterError, match="one for each id"):
        three.search(QUERIES, filter=mask[1:])


def test_a_flat_index_finds_all_that_is_near_without_being_asked_to(pair):
    one, three = pair
    if one.backend == "flat":
        for index in pair:
            same(index.search(QUERIES, 20, exact=True), index.search(QUERIES, 20, search_list_size=20))
            same(index.search(QUERIES[0], 20, exact=True), index.search(QUERIES[0], 20, search_list_size=20))
            assert 0 == index.search(QUERIES[0], 20).stats["expanded"]
    else:
        assert three.search(QUERIES[0], 20).stats["expanded"] > 0


def test_walks_find_nearly_all(pair):
    for index in pair:
        hits, truth = index.search(QUERIES, 10), index.search(QUERIES, 10, exact=True)
        found = [len(set(a) & set(b)) for a, b in zip(hits.ids.tolist(), truth.ids.tolist(), strict=True)]
        assert sum(found) >= 0.95 * 10 * len(QUERIES)
        one_by_one = [index.search(query, 10).ids.tolist() for query in QUERIES]
        assert hits.ids.tolist() == one_by_one


def test_costs_are_summed(three):
    each = [fragment.search(QUERIES[0], 5).stats for fragment in three.fragments]
    stats = three.search(QUERIES[0], 5).stats
    for name in ("scored", "expanded", "reranked"):
        assert sum(costs[name] for costs in each) == stats[name]


def test_what_is_stored_is_read_as_from_one_fragment(pair):
    one, three = pair
    ids = one.ids()
    assert ids.tolist() == three.ids().tolist()
    assert len(one) == len(three)
    shuffled = np.random.default_rng(0).permutation(ids)
    shuffled = np.concatenate([shuffled, shuffled[:3]])
    assert one.get(shuffled).tolist() == three.get(shuffled).tolist()
    assert one.payloads(shuffled) == three.payloads(shuffled)
    assert one.get(int(ids[0])).tolist() == three.get(int(ids[0])).tolist()
    assert one.payloads(int(ids[1])) == three.payloads(int(ids[1]))
    for i in (int(ids[0]), ids[0], int(IDS[0]), 10**9, -1, 2**64 - 1, 2**70, "1", None, 1.0):
        assert (i in one) == (i in three)
    assert one.stats()["count"] == three.stats()["count"]
    assert one.stats().keys() == three.stats().keys()
    assert [] == three.verify()


def test_the_first_id_that_is_missing_is_named(three):
    wanted = [int(IDS[3]), 20_001, 20_000, int(IDS[4])]
    for call in (three.get, three.payloads, lambda ids: three.update(ids, payloads=[None] * 4)):
        with pytest.raises(NotFoundError, match="id 20001 is not in"):
            call(wanted)


@pytest.mark.parametrize(
    ("error", "call"),
    [
        (VectorError, lambda index: index.search(np.ones(3))),
        (VectorError, lambda index: index.search(np.full(DIM, np.nan))),
        (ParameterError, lambda index: index.search(QUERIES[0], 0)),
        (ParameterError, lambda index: index.search(QUERIES[0], "k")),
        (ParameterError, lambda index: index.search(QUERIES[0], threads=0)),
        (ParameterError, lambda index: index.search(QUERIES, threads=0)),
        (ParameterError, lambda index: index.search(QUERIES[0], filter=1.5)),
        (FilterError, lambda index: index.search(QUERIES[0], filter="n <")),
        (VectorError, lambda index: index.get([-1])),
        (VectorError, lambda index: index.delete([1.5])),
        (ParameterError, lambda index: index.update([1])),
    ],
)
def test_arguments_are_refused_as_by_one_fragment(pair, error, call):
    for index in pair:
        with pytest.raises(error):
            call(index)


@pytest.mark.parametrize(
    ("error", "row", "change"),
    [
        (VectorError, 2, {"vectors": np.vstack([X[:2], np.full((1, DIM), np.nan, np.float32), X[3:5]])}),
        (VectorError, None, {"vectors": X[:4]}),
        (VectorError, None, {"vectors": X[:5, :3]}),
        (VectorError, 3, {"ids": [20_000, 20_001, 20_002, 20_000, 20_003]}),
        (VectorError, 4, {"ids": [20_000, 20_001, 20_002, 20_003, int(IDS[8])], "on_conflict": "error"}),
        (ParameterError, None, {"payloads": [None] * 4}),
        (ParameterError, None, {"payloads": [None, None, 3, None, None]}),
        (ParameterError, None, {"on_conflict": "ignore"}),
        (ParameterError, None, {"durability": "soon"}),
    ],
    ids=str,
)
def test_what_can_not_be_added_adds_nothing_to_any_fragment(three, error, row, change):
    arguments = {"ids": [20_000, 20_001, 20_002, 20_003, 20_004], "vectors": X[:5]} | change
    with pytest.raises(error) as caught:
        three.add(**arguments)
    if row is not None:
        assert row == caught.value.row
    assert N == len(three)


def test_changes_reach_the_fragments_that_they_belong_to(three):
    assert 2 == three.add([20_000, 20_001], X[:2], payloads=["a=1", b"x"], durability=Durability.OS)
    assert 1 == three.add(20_002, X[2], payloads={"n": 7})
    assert 1 == three.add([20_000, 20_003], X[5:7], on_conflict="skip")
    assert X[[0, 1, 2, 6]].tolist() == three.get([20_000, 20_001, 20_002, 20_003]).tolist()
    assert ["a=1", b"x", {"n": 7}, None] == three.payloads([20_000, 20_001, 20_002, 20_003])
    assert 2 == three.update([20_003, 20_000], payloads=["b", "c"])
    assert 1 == three.update(20_001, X[9])
    assert ["c", b"x"] == three.payloads([20_000, 20_001])
    assert X[9].tolist() == three.get(20_001).tolist()
    assert 3 == three.delete([20_000, 20_001, 20_001, 20_002, 30_000])
    assert 1 == three.delete(20_003)
    assert 0 == three.delete([])
    assert 0 == three.add([], np.empty((0, DIM)))
    assert sorted(IDS.tolist()) == three.ids().tolist()
    before = three.generation
    three.consolidate(threads=1)
    assert three.generation > before
    assert 0 == three.stats()["rows_delta"]


def test_an_error_in_any_fragment_is_the_searchs(three, monkeypatch):
    real = Index.search

    def search(index, *arguments, **how):
        if index is three.fragments[1]:
            raise CorruptError(index.path, "a list that can't be")
        return real(index, *arguments, **how)

    monkeypatch.setattr(Index, "search", search)
    for q in (QUERIES, QUERIES[0]):
        with pytest.raises(CorruptError, match="can't be"):
            three.search(q)


def test_an_empty_index_has_no_hits(tmp_path):
    with opened(tmp_path / "db", shards=3) as db:
        index = db.create_index("x", DIM)
        assert [] == index.search(QUERIES[0], 5, with_payload=True).ids.tolist()
        hits = index.search(QUERIES, 5)
        assert (7, 5) == hits.ids.shape
        assert {MISSING_ID} == set(hits.ids.ravel().tolist())
        assert (7, 0) == index.search(QUERIES, radius=0.5).ids.shape
        assert [] == index.ids().tolist()


def test_tuning_is_kept_by_every_fragment(tmp_path):
    with opened(tmp_path / "db", shards=3) as db:
        index = db.build_index("x", X, metric="l2")
        size = index.tune(QUERIES, 0.9, k=5)
        assert [size] * 3 == [fragment.stats()["search"]["list_size"] for fragment in index.fragments]
        rows = index.evaluate(QUERIES, 5, list_sizes=[5, size])
        assert [5, size] == [row["search_list_size"] for row in rows]
        assert rows[1]["recall"] >= 0.9
    with opened(tmp_path / "db", mode="r") as db:
        assert size == db.index("x").stats()["search"]["list_size"]
        assert size == db.index("x").search(QUERIES[0], 5).stats["list_size"]
