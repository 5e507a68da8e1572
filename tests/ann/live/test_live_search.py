"""A search of an index that changes finds what a search of all its vectors would, wherever they are just then."""

from __future__ import annotations

import numpy as np
import pytest

from skeg import VectorError
from skeg.ann import Index, build_index, recall_at_k
from tests.ann.live.small import check_hits, contents, limit, no_background
from tests.indexes import KINDS, METRICS, ids_of, nearest, queries, rows

N = 400


def mixed(path, metric, kind, n=N, **options):
    """An index with a segment and rows in memory, of both of which some are dead; and a dict beside it."""
    index = Index.create(path, 384, metric=metric, kind=kind, **options)
    vectors, ids = rows(n, metric), ids_of(n)
    half = n // 2
    index.add(ids[:half], vectors[:half])
    index.consolidate()
    index.add(ids[half:], vectors[half:])
    index.add(ids[:20], vectors[n - 20 :])
    index.add(ids[half : half + 5], vectors[:5])
    index.delete(ids[20:40])
    index.delete(ids[half + 5 : half + 15])
    known = dict(zip(ids.tolist(), vectors, strict=True))
    known |= dict(zip(ids[:20].tolist(), vectors[n - 20 :], strict=True))
    known |= dict(zip(ids[half : half + 5].tolist(), vectors[:5], strict=True))
    for gone in (*ids[20:40].tolist(), *ids[half + 5 : half + 15].tolist()):
        del known[gone]
    return index, known


def truth(known, metric, k=10):
    vectors, ids = np.array(list(known.values())), np.array(list(known), np.uint64)
    return [nearest(vectors, query, k, metric, ids) for query in queries()]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_thorough_search_finds_what_comparing_with_all_finds(tmp_path, metric, kind):
    index, known = mixed(tmp_path / "index", metric, kind)
    with index:
        for _ in range(2):
            for query in queries()[:10]:
                check_hits(index.search(query, 10, search_list_size=N, rerank=N), known, query, 10, metric)
                check_hits(index.search(query, 10, exact=True), known, query, 10, metric)
            index.consolidate()
            assert [] == index.verify()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["f32", "tq4", "pq"])
def test_a_search_by_the_defaults_finds_nearly_all(tmp_path, metric, kind):
    index, known = mixed(tmp_path / "index", metric, kind)
    with index:
        for _ in range(2):
            assert recall_at_k(index.search(queries()).ids, truth(known, metric), 10) >= 0.98
            index.consolidate()


def test_rows_in_memory_that_are_linked_are_found_like_others(tmp_path, monkeypatch):
    no_background(monkeypatch)
    limit(monkeypatch, SCAN_ROWS=100, LINK_ROWS=32)
    index, known = mixed(tmp_path / "index", "cosine", "tq4", n=600)
    with index:
        for _ in range(2):
            assert recall_at_k(index.search(queries()).ids, truth(known, "cosine"), 10) >= 0.98
            index._engine._link()
            assert index._engine._state.newest.linked >= 300


@pytest.mark.parametrize("metric", METRICS)
def test_many_queries_find_what_each_finds_by_itself(tmp_path, metric):
    index, _ = mixed(tmp_path / "index", metric, "tq4")
    some = np.concatenate([queries()] * 4)
    with index:
        for options in ({}, {"exact": True}, {"search_list_size": 30, "rerank": 20}):
            many = index.search(some, 7, **options)
            for row, query in enumerate(some):
                one = index.search(query, 7, **options)
                assert one.ids.tolist() == many.ids[row].tolist()
                np.testing.assert_allclose(one.scores, many.scores[row], rtol=1e-6)
            for threads in (1, 2):
                again = index.search(some, 7, threads=threads, **options)
                assert many.ids.tolist() == again.ids.tolist()


def test_an_id_is_found_once_and_with_its_newest_vector(tmp_path):
    with Index.create(tmp_path / "index", 2, metric="l2") as index:
        for version in range(4):
            index.add([1, 2], [[version, 0], [9, version]])
            if version == 1:
                index.consolidate()
            assert [1, 2] == index.search([version, 0], 9).ids.tolist()
            assert [0.0] == index.search([version, 0], 1).scores.tolist()


@pytest.mark.parametrize("metric", METRICS)
def test_an_empty_index_finds_nothing(tmp_path, metric):
    with Index.create(tmp_path / "index", 3, metric=metric) as index:
        for _ in range(2):
            for exact in (False, True):
                assert [] == index.search([1, 2, 3], 5, exact=exact).ids.tolist()
                many = index.search([[1, 2, 3]] * 2, 5, exact=exact)
                assert [0, 0] == many.counts.tolist()
            for wrong in ([1, 2], [[1, 2, 3, 4]], [np.nan, 1, 2]):
                with pytest.raises(VectorError):
                    index.search(wrong, 5)
            assert [] == index.ids().tolist()
            assert [] == index.verify()
            index.add([1, 2], np.eye(2, 3))
            index.delete([1, 2])


@pytest.mark.parametrize("kind", KINDS)
def test_an_index_that_was_emptied_is_filled_again(tmp_path, kind):
    with Index.create(tmp_path / "index", 384, kind=kind) as index:
        for turn in range(2):
            index.add(ids_of(100), rows(100))
            index.consolidate()
            index.delete(ids_of(100))
            assert [] == index.search(queries()[0]).ids.tolist()
            assert [0] * 3 == index.search(queries()[:3]).counts.tolist()
            index.consolidate()
            assert 0 == len(index)
            names = {file.name for file in index.path.iterdir()}
            assert {"manifest.json", "writer.lock"} == names, turn
            assert [] == index.search(queries()[0]).ids.tolist()
            with Index.open(index.path) as reader:
                assert [] == reader.search(queries()[0]).ids.tolist()
        index.add(ids_of(100), rows(100))
        known = contents(index)
        check_hits(index.search(queries()[0], 10, search_list_size=100, rerank=100), known, queries()[0], 10, "cosine")


@pytest.mark.parametrize("metric", METRICS)
def test_an_index_that_grew_finds_as_much_as_one_that_was_built(tmp_path, metric):
    n = 600
    with Index.create(tmp_path / "grown", 384, metric=metric, kind="tq4") as index:
        for start in range(0, n, 150):
            index.add(ids_of(n)[start : start + 150], rows(n, metric)[start : start + 150])
            index.consolidate()
        grown = index.search(queries()).ids
    with build_index(rows(n, metric), tmp_path / "built", ids=ids_of(n), metric=metric, kind="tq4") as index:
        built = index.search(queries()).ids
    right = [nearest(rows(n, metric), query, 10, metric, ids_of(n)) for query in queries()]
    assert recall_at_k(grown, right, 10) >= recall_at_k(built, right, 10) - 0.01


# Searches while others write
