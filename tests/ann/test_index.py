"""Index: what a search gives, what it refuses, and how an index is opened, asked and closed."""

from __future__ import annotations

import os
import pickle
import weakref

import numpy as np
import pytest

from skeg import ClosedError, CorruptError, FormatError, NotFoundError, ParameterError, SkegError, VectorError
from skeg.ann import Hits, Index, build_index, recall_at_k
from skeg.ann.format import MANIFEST, pack_manifest, read_manifest
from skeg.ann.params import LIST_SIZE_MAX
from skeg.ann.searcher import QUERIES_A_CALL
from tests.indexes import KINDS, METRICS, built, copied, ids_of, nearest, queries, rewrite, rows, scores_of

N = 600


@pytest.fixture
def index():
    with Index.open(built()) as opened:
        yield opened


# Results


def test_one_query_gives_one_dimension_and_many_give_two(index):
    one, many = index.search(queries()[0], 7), index.search(queries(), 7)
    assert isinstance(one, Hits)
    assert ((7,), (7,), 7) == (one.ids.shape, one.scores.shape, one.counts)
    assert ((len(queries()), 7), (len(queries()), 7)) == (many.ids.shape, many.scores.shape)
    assert [7] * len(queries()) == many.counts.tolist()
    assert (np.uint64, np.float32) == (many.ids.dtype, many.scores.dtype)
    ids, scores = many
    assert ids is many.ids
    assert scores is many.scores
    assert (7, len(queries())) == (len(one), len(many))


def test_no_queries_give_no_hits(index):
    for exact in (False, True):
        hits = index.search(np.zeros((0, 384)), exact=exact)
        assert (0, 10) == hits.ids.shape
        assert [] == hits.counts.tolist()


@pytest.mark.parametrize("metric", METRICS)
def test_distances_and_stats_go_with_the_scores(metric):
    with Index.open(built(metric=metric)) as index:
        hits = index.search(queries(), 5, search_list_size=50, rerank=20)
        np.testing.assert_array_equal(-hits.scores if metric == "l2" else 1 - hits.scores, hits.distances)
        assert metric == hits.metric
        stats = index.search(queries()[0], 5, search_list_size=50, rerank=20).stats
        assert {"scored", "expanded", "reranked", "list_size"} == set(stats)
        assert (20, 50) == (stats["reranked"], stats["list_size"])
        assert 0 < stats["expanded"] <= stats["scored"]
        assert stats["scored"] <= N + len(index)
        singles = [index.search(q, 5, search_list_size=50, rerank=20).stats for q in queries()]
        for name in ("scored", "expanded", "reranked"):
            assert sum(s[name] for s in singles) == hits.stats[name]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("exact", [False, True])
def test_scores_are_those_of_the_stored_vectors(metric, exact):
    """Beside float64, to a few units in the last place of float32; best first."""
    with Index.open(built(metric=metric)) as index:
        hits = index.search(queries(), 20, exact=exact)
        row_of = {int(vector_id): row for row, vector_id in enumerate(ids_of(N))}
        for query, ids, scores in zip(queries(), hits.ids, hits.scores, strict=True):
            expected = scores_of(rows(N, metric), query, metric)[[row_of[int(i)] for i in ids]]
            np.testing.assert_allclose(expected, scores, rtol=2e-6, atol=2e-6)
            assert (np.diff(scores) <= 0).all()
            assert 20 == len(set(ids.tolist()))


@pytest.mark.parametrize("metric", METRICS)
def test_exact_search_finds_what_is_nearest(metric):
    with Index.open(built(metric=metric)) as index:
        hits = index.search(queries(), 10, exact=True)
    for query, found in zip(queries(), hits.ids, strict=True):
        assert nearest(rows(N, metric), query, 10, metric, ids_of(N)).tolist() == found.tolist()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", METRICS)
def test_a_list_of_all_rows_misses_nothing(kind, metric):
    with Index.open(built(kind, metric)) as index:
        found = index.search(queries(), 10, search_list_size=N, rerank=N)
        true = index.search(queries(), 10, exact=True)
    assert true.ids.tolist() == found.ids.tolist()


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("metric", METRICS)
def test_equal_scores_come_by_ascending_id(tmp_path, metric, exact):
    """Each vector four times, under ids in no order."""
    with build_index(np.tile(rows(50), (4, 1)), tmp_path / "a", metric=metric, ids=ids_of(200)) as index:
        hits = index.search(queries(), 40, exact=exact, search_list_size=200, rerank=200)
    for query, ids, scores in zip(queries(), hits.ids, hits.scores, strict=True):
        assert sorted(zip((-scores).tolist(), ids.tolist(), strict=True)) == [
            *zip((-scores).tolist(), ids.tolist(), strict=True)
        ]
        groups = [set((ids_of(200).reshape(4, 50)[:, row]).tolist()) for row in nearest(rows(50), query, 10, metric)]
        assert groups == [set(ids[i : i + 4].tolist()) for i in range(0, 40, 4)]


def test_fewer_vectors_than_hits_wanted(index):
    one, many = index.search(queries()[0], N + 50), index.search(queries()[:2], N + 50)
    assert N == len(one)
    assert [N, N] == many.counts.tolist()
    assert (2**64 - 1, -np.inf, np.inf) == (many.ids[1, -1], many.scores[1, -1], many.distances[1, -1])


@pytest.mark.parametrize("kind", KINDS)
def test_hits_do_not_depend_on_batch_or_threads(kind):
    """More queries than one thread takes at a time."""
    asked = queries(3 * QUERIES_A_CALL + 5)
    with Index.open(built(kind)) as index:
        singles = [index.search(query) for query in asked]
        for threads in (None, 1, 2, 3):
            hits = index.search(asked, threads=threads)
            assert [one.ids.tolist() for one in singles] == hits.ids.tolist()
            assert [one.scores.tolist() for one in singles] == hits.scores.tolist()
            exact = index.search(asked, threads=threads, exact=True)
            assert index.search(asked, exact=True, threads=1).scores.tobytes() == exact.scores.tobytes()


def test_a_longer_list_and_a_deeper_rerank_cost_more_and_find_more(index):
    short, long = (index.search(queries(), search_list_size=size, rerank=10) for size in (10, 200))
    assert short.stats["scored"] < long.stats["scored"]
    assert short.scores.mean() <= long.scores.mean()
    deep = index.search(queries(), search_list_size=200, rerank=200)
    assert (long.scores <= deep.scores).all()


def test_list_and_rerank_are_never_below_k(index):
    stats = index.search(queries()[0], 30, search_list_size=5, rerank=1).stats
    assert (30, 30) == (stats["reranked"], stats["list_size"])


@pytest.mark.parametrize("form", ["list", "float16", "float64", "strided", "read-only", "fortran"])
def test_queries_come_in_any_form(index, form):
    given = {
        "list": queries().tolist(),
        "float16": queries().astype(np.float16),
        "float64": queries().astype(np.float64),
        "strided": np.repeat(queries(), 2, axis=1)[:, ::2],
        "read-only": np.frombuffer(queries().tobytes(), np.float32).reshape(queries().shape),
        "fortran": np.asfortranarray(queries()),
    }[form]
    assert index.search(queries()).ids.tolist() == index.search(given).ids.tolist()
    assert index.search(queries()[0]).ids.tolist() == index.search(given[0]).ids.tolist()


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("factor", [1e30, 1e-30, 2e38, 1e-37])
@pytest.mark.parametrize("kind", ["tq4", "f32", "pq"])
def test_the_length_of_a_query_means_nothing_to_cosine(kind, factor, exact):
    """Even where its square leaves float32."""
    scaled = (queries() / np.abs(queries()).max(axis=1, keepdims=True) * np.float32(factor)).astype(np.float32)
    mixed = queries().copy()
    mixed[3] = scaled[3]
    with Index.open(built(kind)) as index:
        expected = index.search(queries(), exact=exact, search_list_size=N, rerank=N)
        for given in (scaled, mixed):
            hits = index.search(given, exact=exact, search_list_size=N, rerank=N)
            assert expected.ids.tolist() == hits.ids.tolist()
            np.testing.assert_allclose(expected.scores, hits.scores, atol=1e-6)
        one = index.search(scaled[3], exact=exact, search_list_size=N, rerank=N)
        assert expected.ids[3].tolist() == one.ids.tolist()


# What a search refuses


@pytest.mark.parametrize(
    ("options", "parameter"),
    [
        ({"k": 0}, "k"),
        ({"k": -1}, "k"),
        ({"k": 2.0}, "k"),
        ({"k": True}, "k"),
        ({"k": None}, "k"),
        ({"k": LIST_SIZE_MAX + 1}, "k"),
        ({"search_list_size": 0}, "search_list_size"),
        ({"search_list_size": "64"}, "search_list_size"),
        ({"search_list_size": LIST_SIZE_MAX + 1}, "search_list_size"),
        ({"rerank": 0}, "rerank"),
        ({"rerank": -5}, "rerank"),
        ({"rerank": 1.5}, "rerank"),
        ({"threads": 0}, "threads"),
        ({"threads": -1}, "threads"),
        ({"threads": "2"}, "threads"),
    ],
    ids=str,
)
@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("shape", [(384,), (2, 384)])
def test_a_parameter_out_of_range_is_named(index, options, parameter, exact, shape):
    with pytest.raises(ParameterError) as caught:
        index.search(np.ones(shape), exact=exact, **options)
    assert parameter == caught.value.parameter


@pytest.mark.parametrize(
    "query",
    [
        np.ones(383),
        np.ones((2, 385)),
        np.ones((1, 1, 384)),
        np.ones(()),
        3.0,
        None,
        "words",
        [],
        np.array([None] * 384),
        np.ones(384, complex),
        np.full(384, "1"),
        np.zeros(384, "M8[s]"),
    ],
    ids=lambda query: f"{type(query).__name__}{getattr(query, 'shape', '')}{getattr(query, 'dtype', '')}",
)
@pytest.mark.parametrize("exact", [False, True])
def test_a_query_of_another_shape_or_dtype_is_refused(index, query, exact):
    with pytest.raises(VectorError, match="query"):
        index.search(query, exact=exact)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("metric", METRICS)
def test_a_query_that_is_not_finite_is_refused_with_its_row(metric, value, exact):
    asked = queries().copy()
    asked[5, 100] = value
    with Index.open(built(metric=metric)) as index:
        for row, given in ((5, asked), (0, asked[5])):
            with pytest.raises(VectorError, match="finite") as caught:
                index.search(given, exact=exact)
            assert row == caught.value.row


@pytest.mark.parametrize("exact", [False, True])
def test_a_zero_query_is_refused_under_cosine_only(exact):
    asked = queries().copy()
    asked[5] = 0
    asked[2] *= 1e30  # is no reason to name the wrong row
    with Index.open(built()) as index:
        for row, given in ((5, asked), (0, asked[5])):
            with pytest.raises(VectorError, match="zero") as caught:
                index.search(given, exact=exact)
            assert row == caught.value.row
    for metric in ("ip", "l2"):
        with Index.open(built(metric=metric)) as index:
            assert 10 == len(index.search(asked[5], exact=exact))


def test_the_first_bad_query_is_named_whatever_the_threads(index):
    asked = queries(4 * QUERIES_A_CALL).copy()
    asked[[QUERIES_A_CALL + 3, 3 * QUERIES_A_CALL]] = np.nan
    for threads in (1, 2, 3):
        with pytest.raises(VectorError, match=f"row {QUERIES_A_CALL + 3}:"):
            index.search(asked, threads=threads)
    assert 10 == len(index.search(asked[0]))


# Stored vectors and ids


def test_stored_vectors_come_back_as_they_were(index):
    wanted = ids_of(N)[[5, 0, 5, N - 1]]
    np.testing.assert_array_equal(rows(N)[[5, 0, 5, N - 1]], index.get(wanted))
    np.testing.assert_array_equal(rows(N)[7], index.get(int(ids_of(N)[7])))
    np.testing.assert_array_equal(rows(N)[7], index.get(ids_of(N)[7]))
    np.testing.assert_array_equal(rows(N)[[7]], index.get([int(ids_of(N)[7])]))
    assert (0, 384) == index.get([]).shape
    index.get(wanted)[:] = 0  # a copy, of which the index knows nothing
    np.testing.assert_array_equal(rows(N)[5], index.get(wanted)[0])


def test_an_id_that_is_not_there_is_named(index):
    with pytest.raises(NotFoundError, match=r"id 99 is not in .*tq4-cosine"):
        index.get([int(ids_of(N)[0]), 99, 98])
    with pytest.raises(KeyError, match="id 99"):
        index.get(99)


@pytest.mark.parametrize("ids", [-1, 2**64 - 1, 2**64, 1.5, "a", [[1, 2]], [None], np.ones((2, 2), int)])
def test_what_is_no_id_is_refused(index, ids):
    with pytest.raises(VectorError, match="ids"):
        index.get(ids)


def test_ids_are_listed_in_order_and_looked_up(index):
    assert sorted(ids_of(N).tolist()) == index.ids().tolist()
    assert all(int(vector_id) in index for vector_id in ids_of(N))
    assert ids_of(N)[3] in index
    for other in (99, -1, 2**64 - 1, 2**70, 5.0, "5", None, [5]):
        assert other not in index
    assert len(ids_of(N)) == len(index)


def test_many_ids_are_looked_up_at_once(index):
    held = ids_of(N)
    assert [True, False, True, True] == index.contains([held[3], 99, held[0], held[3]]).tolist()
    assert index.contains(held).all()
    assert 0 == len(index.contains([]))
    assert (True, False) == (index.contains(int(held[3])), index.contains(99))
    with pytest.raises(VectorError, match="ids"):
        index.contains([1, -1])


def test_what_an_index_says_of_itself(index):
    assert (384, "cosine", "tq4", built()) == (index.dim, index.metric, index.kind, index.path)
    assert os.fspath(index) == str(built())
    assert repr(index).startswith("<skeg.Index 600 x 384 cosine tq4 disk=")
    stats = index.stats()
    assert ("disk", N, 384, "cosine", "tq4") == tuple(
        stats[name] for name in ("backend", "count", "dim", "metric", "kind")
    )
    assert (
        sum((built() / "segment-000001" / f).stat().st_size for f in ("index.skg", "vectors.skg"))
        == (stats["bytes_on_disk"])
    )
    assert stats["bytes_resident"] == sum(stats[f"bytes_{name}"] for name in ("codes", "graph", "cells", "ids"))
    assert stats["bytes_vectors"] == N * 384 * 4
    stats["build"].clear()
    assert index.stats()["build"]


def test_f32_counts_its_vectors_as_resident():
    with Index.open(built("f32")) as index:
        assert index.stats()["bytes_codes"] > N * 384 * 4


# Opening and closing


def test_a_pickled_index_is_opened_by_its_path(index):
    copy = pickle.loads(pickle.dumps(index))
    with copy:
        assert index.path == copy.path
        assert index.search(queries()).ids.tolist() == copy.search(queries()).ids.tolist()


def test_closing_twice_is_allowed_and_all_else_raises_afterwards():
    with Index.open(built()) as index:
        index.search(queries()[0])
    index.close()
    calls = [
        lambda: index.search(queries()[0]),
        lambda: index.search(queries()),
        lambda: index.search(queries(), exact=True),
        lambda: index.get(5),
        index.ids,
        lambda: 5 in index,
        lambda: index.contains([5]),
        index.stats,
        index.verify,
        lambda: index.evaluate(queries()),
        lambda: index.tune(queries()),
    ]
    for call in calls:
        with pytest.raises(ClosedError, match=str(built())):
            call()
    assert repr(index) == "<skeg.Index 600 x 384 cosine tq4 closed>"


def test_closing_unmaps_the_files():
    index = Index.open(built())
    index.search(queries())
    index.search(queries(), exact=True)
    mapped = weakref.ref(index._searcher.open_segment().vectors)
    index.close()
    assert mapped() is None


def test_hits_outlive_the_index():
    with Index.open(built()) as index:
        hits, vector, ids = index.search(queries()), index.get(int(ids_of(N)[0])), index.ids()
        expected = hits.ids.tolist(), vector.tolist(), ids.tolist()
    assert expected == (hits.ids.tolist(), vector.tolist(), ids.tolist())


@pytest.mark.parametrize("what", ["nothing", "file", "empty folder", "manifest is a folder", "inside a file"])
def test_what_is_no_index_is_not_opened(tmp_path, what):
    path = tmp_path / "x"
    if what in {"file", "inside a file"}:
        path.write_bytes(b"SKEGFILE")
    elif what != "nothing":
        path.mkdir()
    if what == "manifest is a folder":
        (path / MANIFEST).mkdir()
    with pytest.raises(SkegError, match="x") as caught:
        Index.open(path / "y" if what == "inside a file" else path)
    assert isinstance(caught.value, OSError)
    assert isinstance(caught.value, FormatError) or what == "manifest is a folder"


def test_a_flat_index_is_not_a_graph(tmp_path):
    from skeg.ann import FlatIndex

    flat = FlatIndex.create(None, 384)
    flat.add(ids_of(5), rows(5))
    flat.save(tmp_path / "flat")
    with pytest.raises(FormatError, match="another backend") as caught:
        Index.open(tmp_path / "flat")
    assert ("'flat'", str(tmp_path / "flat")) == (caught.value.found, caught.value.path)


def with_manifest(tmp_path, **changed):
    """A copy of an index with fields of its manifest changed, under a valid checksum."""
    path = copied(built(), tmp_path)
    manifest = read_manifest(path)
    for name, value in changed.items():
        object.__setattr__(manifest, name, value)
    (path / MANIFEST).write_bytes(pack_manifest(manifest))
    return path


@pytest.mark.parametrize(
    "changed",
    [
        {"count": N - 1},
        {"count": N + 1},
        {"count": 0},
        {"dim": 383},
        {"metric": "l2"},
        {"kind": "tq2"},
        {"kind": "tq5"},
        {"segment": "segment-000002"},
        {"files": {}},
        {"files": {"index.skg": 1, "vectors.skg": 1}},
        {"build": {}},
        {"build": {"max_degree": 0}},
        {"build": {"max_degree": 10**15}},
        {"search": {}},
        {"search": {"list_size": 64, "margins": []}},
        {"search": {"list_size": "64", "margins": [], "code_error": 0.01}},
        {"search": {"list_size": 10**15, "margins": [], "code_error": 0.01}},
        {"search": {"list_size": 64, "margins": [], "code_error": -0.01}},
        {"search": {"list_size": 64, "margins": [], "code_error": "small"}},
        {"backend": "tree"},
    ],
    ids=str,
)
def test_a_manifest_that_does_not_fit_is_refused(tmp_path, changed):
    path = with_manifest(tmp_path, **changed)
    with pytest.raises((CorruptError, FormatError)) as caught:
        Index.open(path)
    assert caught.value.path.startswith(str(path))


def test_a_degree_below_the_true_one_is_found_when_it_matters(tmp_path):
    with (
        Index.open(with_manifest(tmp_path, build={"max_degree": 2})) as index,
        pytest.raises(CorruptError, match="neighbor list"),
    ):
        index.search(queries())


def test_a_damaged_order_of_ids_is_noticed(tmp_path):
    path = copied(built(), tmp_path)
    rewrite(path, "index.skg", id_order=np.full(N, 2**32 - 1, np.uint32))
    with Index.open(path) as index:
        assert ids_of(N)[0] not in index
        with pytest.raises(CorruptError, match="id_order"):
            index.ids()


def test_a_damaged_vector_is_not_the_callers_mistake(tmp_path):
    path = copied(built(), tmp_path)
    rewrite(path, "vectors.skg", vectors=np.full((N, 384), np.nan, np.float32))
    with Index.open(path) as index, pytest.raises(CorruptError, match="the vector of row 0"):
        index.search(queries(), exact=True)


def test_recall_of_a_search_beside_truth(index):
    truth = [nearest(rows(N), query, 10, "cosine", ids_of(N)) for query in queries()]
    assert recall_at_k(index.search(queries()).ids, truth, 10) >= 0.99
