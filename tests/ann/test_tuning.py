"""evaluate and tune: what they measure, and that an index remembers it."""

from __future__ import annotations

import errno
import os

import attrs
import numpy as np
import pytest

from skeg import ParameterError, StorageError, VectorError, files
from skeg.ann import Index, recall_at_k
from skeg.ann.format import MANIFEST, read_manifest, write_manifest
from skeg.ann.tuning import LIST_SIZES, evaluate, find_list_size
from tests.indexes import built, contents, copied, ids_of, nearest, queries, rows

N = 600
KIND = "tq1"  # coarse codes: here the list size makes a difference


@pytest.fixture
def index():
    with Index.open(built(KIND)) as opened:
        yield opened


@pytest.fixture
def own(tmp_path):
    """Folder of an index that may be changed."""
    return copied(built(KIND), tmp_path)


def true_ids(k):
    return np.array([nearest(rows(N), query, k, "cosine", ids_of(N)) for query in queries()])


def recall_of(index, k=10, **options):
    return recall_at_k(index.search(queries(), k, **options).ids, true_ids(k), k)


# evaluate


def test_evaluate_gives_recall_and_latency_of_each_list_size(index):
    table = index.evaluate(queries(), 10)
    assert [size for size in LIST_SIZES if size >= 10] == [row["search_list_size"] for row in table]
    for row in table:
        assert recall_of(index, search_list_size=row["search_list_size"]) == pytest.approx(row["recall"])
        assert 0 < row["latency_ms_p50"] <= row["latency_ms_p99"]
        assert row["queries_per_second"] > 0
    assert table[0]["recall"] < table[-1]["recall"]


def test_evaluate_takes_list_sizes_and_truth(index):
    table = evaluate(index, queries(), 5, truth=true_ids(7), list_sizes=[N, 5])
    assert [N, 5] == [row["search_list_size"] for row in table]
    assert recall_of(index, 5, search_list_size=5) == pytest.approx(table[1]["recall"])
    wrong = evaluate(index, queries(), 5, truth=np.full((len(queries()), 5), 99), list_sizes=[N])
    assert 0.0 == wrong[0]["recall"]
    assert [] == evaluate(index, queries(), 5, list_sizes=[])


def test_evaluate_where_there_are_fewer_vectors_than_hits_wanted(index):
    assert [1.0] == [row["recall"] for row in index.evaluate(queries()[:3], N + 5, list_sizes=[N])]


def test_evaluate_takes_one_query(index):
    assert 1.0 == index.evaluate(queries()[0], 1, list_sizes=[N])[0]["recall"]


@pytest.mark.parametrize(
    "truth",
    [
        np.zeros((len(queries()), 9), int),
        np.zeros((3, 10), int),
        np.zeros(10, int),
        np.zeros((len(queries()), 10)),
        [["a"] * 10] * len(queries()),
    ],
    ids=lambda truth: str(np.shape(truth)),
)
def test_truth_that_does_not_fit_is_refused(index, truth):
    with pytest.raises(VectorError, match="truth"):
        index.evaluate(queries(), 10, truth=truth)


@pytest.mark.parametrize("call", ["evaluate", "tune"])
@pytest.mark.parametrize(
    "given", [np.zeros((0, 384)), np.ones((2, 3)), np.full((2, 384), np.nan), np.zeros((2, 384)), None], ids=str
)
def test_queries_that_cannot_be_used_are_refused(own, call, given):
    before = contents(own)
    with Index.open(own) as index, pytest.raises(VectorError, match="quer"):
        getattr(index, call)(given)
    assert before == contents(own)


# tune


@pytest.mark.parametrize("goal", [0.5, 0.8, 0.85, 0.9])
def test_the_smallest_list_size_that_reaches_the_recall(index, goal):
    """Beside trying one after the other, from k up."""
    size = find_list_size(index, queries(), goal, 10)
    assert recall_of(index, search_list_size=size) >= goal
    assert size == 10 or recall_of(index, search_list_size=size - 1) < goal


def test_an_easy_goal_takes_the_smallest_list(index):
    assert 3 == find_list_size(index, queries(), 0.01, 3)
    assert N + 5 == find_list_size(index, queries(), 1, N + 5)


def test_a_tuned_index_remembers(own):
    with Index.open(own) as index:
        before = index.stats()["search"]
        size = index.tune(queries(), np.float32(0.9), k=np.int64(10))
        assert size != before["list_size"]
        assert size == index.search(queries()[0]).stats["list_size"]
        assert recall_of(index) >= 0.9
    with Index.open(own) as index:
        assert size == index.search(queries()).stats["list_size"]
        expected = {**before, "list_size": size, "tuned_k": 10, "tuned_recall": pytest.approx(0.9)}
        assert expected == index.stats()["search"]
        assert [] == index.verify()
        assert size >= index.tune(queries(), 0.5)
    assert {*contents(built(KIND))} == {*contents(own)}


def test_a_list_size_that_is_asked_for_beats_the_tuned_one(own):
    with Index.open(own) as index:
        index.tune(queries(), 0.5)
        assert 77 == index.search(queries(), search_list_size=77).stats["list_size"]


def test_a_recall_that_nothing_reaches_is_refused_and_changes_nothing(own):
    """A list of all rows of which few are scored exactly, by one bit a dimension."""
    manifest = read_manifest(own)
    write_manifest(own, attrs.evolve(manifest, search={**manifest.search, "code_error": 0.0}))
    before = contents(own)
    with Index.open(own) as index:
        with pytest.raises(ParameterError, match=f"a list of {N} rows") as caught:
            index.tune(queries(), 1.0)
        assert ("recall", 1.0) == (caught.value.parameter, caught.value.value)
        assert 64 == index.search(queries()).stats["list_size"]
    assert before == contents(own)


@pytest.mark.parametrize(
    "options", [{"recall": 1.01}, {"recall": -0.1}, {"recall": "0.9"}, {"recall": float("nan")}, {"k": 0}, {"k": 1.5}]
)
def test_goals_out_of_range_are_refused(own, options):
    before = contents(own)
    with Index.open(own) as index, pytest.raises(ParameterError, match=next(iter(options))):
        index.tune(queries(), **options)
    assert before == contents(own)


def test_a_manifest_that_cannot_be_written_leaves_the_old_one(own, monkeypatch):
    def fails(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = contents(own)
    monkeypatch.setattr(files, "_write", fails)
    with Index.open(own) as index:
        with pytest.raises(StorageError, match=MANIFEST):
            index.tune(queries(), 0.5)
        assert 64 == index.search(queries()).stats["list_size"]
    assert before == contents(own)


def test_indexes_opened_before_keep_their_setting_and_go_on(own):
    with Index.open(own) as before, Index.open(own) as index:
        size = index.tune(queries(), 0.5)
        assert 64 == before.search(queries()).stats["list_size"]
        assert size == read_manifest(own).search["list_size"]
