"""`FlatIndex`: what was added is found, whatever the kind, the metric, the order of adding and the threads."""

from __future__ import annotations

import itertools
import pickle
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from skeg.ann import flat, flatscan
from skeg.ann.exact import exact_search
from skeg.ann.flat import FlatIndex
from skeg.ann.format import HOT, MANIFEST, SEGMENT, VECTORS, read_manifest, write_manifest
from skeg.ann.hits import MISSING_ID
from skeg.ann.metric import METRICS
from skeg.ann.params import RERANK
from skeg.ann.quantizers import KINDS
from skeg.ann.recall import recall_at_k
from skeg.container import Container
from skeg.errors import (
    ClosedError,
    CorruptError,
    FormatError,
    NotFoundError,
    ParameterError,
    ReadOnlyError,
    SkegError,
    StorageError,
    VectorError,
)
from tests import reference, reference_scan
from tests.indexes import queries, rows, run_python

GOLDEN = Path(__file__).parents[1] / "golden"
FILES = (MANIFEST, f"{SEGMENT}/{HOT}", f"{SEGMENT}/{VECTORS}")


def same(left, right):
    for x, y in zip(left, right, strict=True):
        assert x.tolist() == y.tolist()


def filled(n=300, metric="cosine", kind="tq4", *, path=None, ids=None, **options):
    index = FlatIndex.create(path, rows(1).shape[1], metric=metric, kind=kind, **options)
    index.add(ids, rows(n, metric))
    return index


def small(kind="tq4", metric="l2", n=20, dim=5, path=None):
    """Small integers, so that scores are exact; ids in no order."""
    numbers = np.random.default_rng(n)
    index = FlatIndex.create(path, dim, metric=metric, kind=kind)
    index.add((numbers.permutation(n) * 3).astype(np.uint64), numbers.integers(1, 4, (n, dim)))
    return index


# Searching


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_conformance(kind, metric):
    """Scores are exact and sorted, ids are unique, exact search is the truth, and the codes find nearly all of it."""
    vectors, asked = rows(1000, metric), queries()
    ids = np.arange(1000, dtype=np.uint64)[::-1] * 5 + 7
    index = filled(1000, metric, kind, ids=ids)
    hits, exact = index.search(asked, 10), index.search(asked, 10, exact=True)
    truth = exact_search(vectors[::-1], asked, 10, metric=metric)
    same((truth.ids * 5 + 7, truth.scores), exact)
    assert (len(asked), 10) == hits.ids.shape
    assert [10] * len(asked) == hits.counts.tolist()
    for q, query in enumerate(asked):
        assert 10 == len(set(hits.ids[q].tolist()))
        scores = reference.exact_scores(index.get(hits.ids[q]), query, METRICS[metric])
        np.testing.assert_allclose(hits.scores[q], scores, rtol=1e-5, atol=1e-5)
        assert (np.diff(hits.scores[q]) <= 0).all()
    scores = {"found_scores": hits.scores, "true_scores": exact.scores}
    assert recall_at_k(hits.ids, exact.ids, 10, **scores) >= (1.0 if kind in {"f32", "int8"} else 0.98)


@given(st.data())
def test_a_search_that_reranks_everything_sorts_all_scores(data):
    """Small integers: scores are exact where no root is drawn, and most are equal."""
    kind = data.draw(st.sampled_from([kind for kind in KINDS if kind != "pq"]))
    metric = data.draw(st.sampled_from(["ip", "l2"]))
    n, dim, k = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 40)), data.draw(st.integers(1, 45))
    numbers = np.random.default_rng(data.draw(st.integers(0, 1000)))
    vectors = numbers.integers(-2, 3, (n, dim)).astype(np.float32)
    ids = numbers.permutation(n).astype(np.uint64) * np.uint64(data.draw(st.integers(1, 2**40)))
    index = FlatIndex.create(None, dim, metric=metric, kind=kind)
    for part in np.array_split(np.arange(n), data.draw(st.integers(1, 4))):
        index.add(ids[part], vectors[part])
        index.search(vectors[0])
    query = numbers.integers(-2, 3, dim)
    hits = index.search(query, k, rerank=n)
    expected = reference_scan.nearest_rows(reference.exact_scores(vectors, query, METRICS[metric]), min(k, n), ids)
    assert expected[0] == hits.ids.tolist()
    assert expected[1] == hits.scores.tolist()
    same(hits, index.search(query, k, exact=True))


@pytest.mark.parametrize("kind", KINDS)
def test_equal_scores_come_in_order_of_ids(kind):
    index = FlatIndex.create(None, 4, metric="l2", kind=kind)
    index.add([9, 3, 7, 1, 5], np.ones((5, 4)))
    assert [1, 3, 5] == index.search(np.ones(4), 3).ids.tolist()
    assert [1, 3, 5] == index.search(np.ones(4), 3, exact=True).ids.tolist()
    assert [1, 3] == index.search(np.zeros(4), 2, rerank=2).ids.tolist()


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("kind", ["f32", "tq4", "tq1", "pq"])
def test_fewer_vectors_than_k(kind, exact):
    index = small(kind, n=3)
    single, batch = index.search(np.ones(5), 7, exact=exact), index.search(np.ones((2, 5)), 7, exact=exact)
    assert (3,) == single.ids.shape
    assert 3 == single.counts
    assert (2, 7) == batch.ids.shape
    assert [3, 3] == batch.counts.tolist()
    assert (batch.ids[:, 3:] == MISSING_ID).all()
    assert (batch.scores[:, 3:] == -np.inf).all()
    assert single.ids.tolist() == batch.ids[1, :3].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_index_finds_nothing(kind, tmp_path):
    index = FlatIndex.create(tmp_path / "empty", 3, kind=kind)
    for _ in range(2):
        assert 0 == len(index)
        assert [] == index.search(np.ones(3)).ids.tolist()
        assert [0, 0] == index.search(np.ones((2, 3)), exact=True).counts.tolist()
        assert [] == index.ids().tolist()
        assert 5 not in index
        assert [] == index.verify()
        if index._segment is None:
            index.save()
            index = FlatIndex.open(tmp_path / "empty")
    assert (0, 10) == index.search(np.zeros((0, 3))).ids.shape


@pytest.mark.parametrize("kind", ["f32", "tq4", "tq1", "pq"])
def test_threads_and_company_change_nothing(kind):
    index = filled(500, kind=kind)
    asked = queries(40)
    expected = index.search(asked, 5, threads=1)
    same(expected, index.search(asked, 5, threads=2))
    same(expected, index.search(asked, 5, threads=3))
    for q in range(5):
        same((expected.ids[q], expected.scores[q]), index.search(asked[q], 5))
        same((expected.ids[q : q + 7], expected.scores[q : q + 7]), index.search(asked[q : q + 7], 5))


@pytest.mark.parametrize("kind", ["f32", "tq4"])
def test_many_threads_get_the_serial_answers(kind):
    index, asked = filled(500, kind=kind), queries(30)

    def work(number):
        hits = index.search(asked[number], 3 + number % 5, rerank=10 + number)
        batch = index.search(asked[number : number + 10], threads=1 + number % 3)
        return hits.ids.tolist(), batch.ids.tolist(), index.get(hits.ids).tolist()

    expected = [work(number) for number in range(20)]
    with ThreadPoolExecutor(6) as pool:
        assert expected == list(pool.map(work, range(20)))


def test_threads_that_search_first_at_the_same_time_fit_once():
    expected = filled(500).search(queries(10)).ids.tolist()
    index = filled(500)
    with ThreadPoolExecutor(6) as pool:
        assert [expected] * 12 == list(pool.map(lambda _: index.search(queries(10)).ids.tolist(), range(12)))


def test_the_number_of_candidates(monkeypatch):
    index, seen = filled(300, kind="tq4"), []
    whole = flatscan.FlatSearcher.scan

    def spy(self, queries_, k, depth, threads):
        seen.append(depth)
        return whole(self, queries_, k, depth, threads)

    monkeypatch.setattr(flatscan.FlatSearcher, "scan", spy)
    for k, rerank in ((10, None), (10, 3), (10, 50), (200, None), (400, None), (5, 10**6)):
        index.search(queries(1)[0], k, rerank=rerank)
    assert [RERANK["tq4"], 10, 50, 300, 300, 300] == seen


def test_what_a_search_cost_is_told():
    asked = queries(4)
    assert {"scored": 1200, "expanded": 0, "reranked": 80, "list_size": 0} == filled(300).search(asked).stats
    exact = {"scored": 0, "expanded": 0, "reranked": 1200, "list_size": 0}
    assert exact == filled(300).search(asked, exact=True).stats
    assert exact == filled(300, kind="f32").search(asked).stats


# Adding


def test_ids_count_on_from_the_largest():
    index = FlatIndex.create(None, 2)
    index.add(None, [[1, 0], [0, 1]])
    index.add([40], [[1, 1]])
    index.add(None, [[2, 1], [1, 2]])
    assert [0, 1, 40, 41, 42] == index.ids().tolist()
    index.add([2**64 - 3], [[3, 1]])
    with pytest.raises(VectorError, match="room after the largest id"):
        index.add(None, [[3, 1], [1, 3]])
    index.add(None, [[3, 1]])
    assert 2**64 - 2 in index


@pytest.mark.parametrize("kind", ["f32", "tq4", "tq1", "pq"])
def test_replacing_keeps_one_row(kind):
    """Before the first search, after it, and together with new ids."""
    index = FlatIndex.create(None, 4, metric="l2", kind=kind)
    index.add([5, 6], [[1, 1, 1, 1], [2, 2, 2, 2]])
    index.add([5], [[3, 3, 3, 3]])
    assert [6, 5] == index.search([1, 1, 1, 1]).ids.tolist()
    index.add([6, 9, 5], [[9, 9, 9, 9], [4, 4, 4, 4], [1, 1, 1, 1]])
    assert 3 == len(index)
    assert [5, 9, 6] == index.search([1, 1, 1, 1]).ids.tolist()
    assert [0, -36, -256] == index.search([1, 1, 1, 1]).scores.tolist()
    assert [[9, 9, 9, 9], [1, 1, 1, 1]] == index.get([6, 5]).tolist()


def test_an_add_that_fails_adds_nothing():
    index = small()
    before = index.ids().tolist(), index.get(index.ids()).tolist()
    for ids, vectors, match in (
        ([1000, 1], [[1, 2, 3, 4, 5], [1, 2, np.nan, 4, 5]], "row 1"),
        ([1000, 1000], np.ones((2, 5)), "id 1000, which row 0 has too"),
        ([1000], np.ones((2, 5)), r"shape \(2,\)"),
        ([-1, 1000], np.ones((2, 5)), "-1"),
        ([2**64 - 1], np.ones((1, 5)), "ids from 0"),
        ([1000], np.ones((1, 4)), r"shape \(n, 5\)"),
        ([1000], [["a"] * 5], "real numbers"),
        ([1000], [[1, 2, 3, 4, 1e30]], "norm"),
    ):
        with pytest.raises(VectorError, match=match):
            index.add(ids, vectors)
    with pytest.raises(VectorError, match="ids that are not in the index, found id 3") as caught:
        index.add([1000, 3], np.ones((2, 5)), on_conflict="error")
    assert 1 == caught.value.row
    with pytest.raises(ParameterError, match="on_conflict="):
        index.add([1000], np.ones((1, 5)), on_conflict="ignore")
    assert before == (index.ids().tolist(), index.get(index.ids()).tolist())


def test_zero_vectors_have_no_direction():
    index = FlatIndex.create(None, 2)
    with pytest.raises(VectorError, match=r"row 1.*not zero"):
        index.add([1, 2], [[1, 2], [0, 0]])
    index.add([1], [[1, 2]])
    for exact in (False, True):
        with pytest.raises(VectorError, match="not zero"):
            index.search([0, 0], exact=exact)
    for metric in ("ip", "l2"):
        other = FlatIndex.create(None, 2, metric=metric, kind="tq2")
        other.add([1], [[0, 0]])
        assert [1] == other.search([0, 0]).ids.tolist()


@pytest.mark.parametrize("kind", ["f32", "tq4"])
def test_queries_that_can_not_be_are_named(kind):
    index = filled(50, kind=kind)
    bad = queries(20).copy()
    bad[13, 5] = np.inf
    for exact in (False, True):
        with pytest.raises(VectorError, match=r"row 13.*inf"):
            index.search(bad, exact=exact)
    with pytest.raises(VectorError, match=r"\(384,\)"):
        index.search(np.ones(3))
    for name, options in (("k", {"k": 0}), ("k", {"k": 2.5}), ("threads", {"threads": 0})):
        with pytest.raises(ParameterError, match=f"{name}="):
            index.search(queries(2), **options)
    if kind == "tq4":
        with pytest.raises(ParameterError, match="rerank="):
            index.search(queries(2), rerank=0)


@pytest.mark.parametrize("kind", ["tq4", "tq1", "pq"])
def test_adding_in_pieces_finds_the_same_once_the_quantizer_is_fitted(kind):
    """The quantizer belongs to the rows that were there at the first search; later ones get its codes."""
    vectors, asked = rows(400), queries(20)
    whole = FlatIndex.create(None, 384, kind=kind)
    pieces = FlatIndex.create(None, 384, kind=kind)
    for index in (whole, pieces):
        index.add(None, vectors[:100])
        index.search(asked[0])
    whole.add(None, vectors[100:])
    for start in (100, 101, 117, 250):
        stop = {100: 101, 101: 117, 117: 250, 250: 400}[start]
        pieces.add(None, vectors[start:stop])
        pieces.search(asked[0])
    same(whole.search(asked), pieces.search(asked))
    again = whole.search(asked)
    whole.add(np.arange(100, 110), vectors[100:110] * 2)
    whole.add(np.arange(100, 110), vectors[100:110])
    same(again, whole.search(asked))


def test_the_order_of_rows_does_not_matter():
    asked = queries(20)
    straight, turned = FlatIndex.create(None, 384, kind="tq2"), FlatIndex.create(None, 384, kind="tq2")
    straight.add(np.arange(300), rows(300))
    turned.add(np.arange(300)[::-1], rows(300)[::-1])
    found = straight.search(asked), turned.search(asked)
    # The centers differ in their last bits, and with them a code or two.
    assert recall_at_k(found[0].ids, found[1].ids) > 0.99
    same(straight.search(asked, exact=True), turned.search(asked, exact=True))


# Looking at it


def test_lookups():
    index = small()
    ids = index.ids()
    assert sorted(ids.tolist()) == ids.tolist()
    assert 20 == len(index)
    assert int(ids[3]) in index
    assert ids[3] in index
    for other in (1, -1, 2**64, "3", 3.0, None):
        assert other not in index
    assert [True, False, True] == index.contains([ids[3], 1, ids[0]]).tolist()
    assert (True, False) == (index.contains(ids[3]), index.contains(1))
    assert 0 == len(index.contains([]))
    with pytest.raises(VectorError, match="ids"):
        index.contains(-1)
    assert (5,) == index.get(int(ids[3])).shape
    assert (2, 5) == index.get(ids[:2]).shape
    assert (0, 5) == index.get([]).shape
    with pytest.raises(NotFoundError, match="id 1 is not in"):
        index.get([int(ids[0]), 1, 2])
    assert ("l2", "tq4", 5, None) == (index.metric, index.kind, index.dim, index.path)


def test_a_line_about_it(tmp_path):
    index = filled(300, path=tmp_path / "i")
    assert "<skeg.FlatIndex 300 x 384 cosine tq4 memory>" == repr(index)
    index.save()
    with FlatIndex.open(tmp_path / "i") as opened:
        assert f"<skeg.FlatIndex 300 x 384 cosine tq4 {tmp_path / 'i'}>" == repr(opened)
    assert "<skeg.FlatIndex 384 cosine tq4 closed>" == repr(opened)


def test_bytes_by_purpose(tmp_path):
    tq4, tq1, f32 = (filled(160, kind=kind).stats() for kind in ("tq4", "tq1", "f32"))
    sketches = 160 * (384 // 8 + 8)
    assert 160 * (192 + 8) + sketches == tq4["bytes_codes"]
    assert 160 * 8 + sketches == tq1["bytes_codes"]
    assert 160 * 384 * 4 == f32["bytes_codes"] == tq4["bytes_vectors"]
    assert {"count": 160, "dim": 384, "metric": "cosine", "kind": "tq4", "backend": "flat"}.items() <= tq4.items()
    assert 0 == tq4["bytes_on_disk"]
    filled(160).save(tmp_path / "i")
    with FlatIndex.open(tmp_path / "i") as opened:
        assert tq4["bytes_codes"] == opened.stats()["bytes_codes"]
        assert sum((tmp_path / "i" / f).stat().st_size for f in FILES[1:]) == opened.stats()["bytes_on_disk"]


def test_evaluation():
    index, asked = filled(300), queries(20)
    (row,) = index.evaluate(asked)
    assert 1.0 == row["recall"]
    assert 0 < row["latency_ms_p50"] <= row["latency_ms_p99"]
    assert 0 < row["queries_per_second"]
    wrong = np.full((20, 10), 10**6)
    assert 0.0 == index.evaluate(asked, truth=wrong)[0]["recall"]
    assert 1.0 == small(n=3).evaluate(np.ones((2, 5)), 10)[0]["recall"]
    with pytest.raises(VectorError, match="queries"):
        index.evaluate(asked, truth=wrong[:3])


@pytest.mark.parametrize(
    ("parameter", "options"),
    [
        ("dim", {"dim": 0}),
        ("dim", {"dim": 2**17}),
        ("metric", {"metric": "dot"}),
        ("kind", {"kind": "tq3"}),
        ("seed", {"seed": -1}),
    ],
)
def test_arguments_out_of_range_are_refused(parameter, options):
    with pytest.raises(ParameterError, match=f"{parameter}="):
        FlatIndex.create(None, **{"dim": 4, **options})


# Saving and opening


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_opened_finds_what_was_saved(kind, metric, tmp_path):
    ids = np.random.default_rng(1).permutation(330).astype(np.uint64)
    index = filled(330, metric, kind, ids=ids)
    expected = [index.search(queries(10), 7), index.search(queries(10), 7, exact=True)]
    index.save(tmp_path / "i")
    with FlatIndex.open(tmp_path / "i") as opened:
        assert [] == opened.verify()
        for want, exact in zip(expected, (False, True), strict=True):
            same(want, opened.search(queries(10), 7, exact=exact))
        assert index.ids().tolist() == opened.ids().tolist()
        assert index.get(ids).tolist() == opened.get(ids).tolist()
        assert 331 not in opened
        with pytest.raises(NotFoundError, match="id 400"):
            opened.get(400)
        with pytest.raises(ReadOnlyError):
            opened.add([1], rows(1))
        opened.save(tmp_path / "copy")
    for file in FILES:
        assert (tmp_path / "i" / file).read_bytes() == (tmp_path / "copy" / file).read_bytes()


def test_the_same_vectors_make_the_same_files(tmp_path):
    for name in "ab":
        index = filled(200, kind="pq", seed=5)
        index.save(tmp_path / name)
    for file in FILES:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_saving_replaces_an_index_and_nothing_else(tmp_path):
    small(n=5).save(tmp_path / "i")
    with FlatIndex.open(tmp_path / "i") as old:
        small(n=20).save(tmp_path / "i")
        assert 5 == len(old)
        assert 5 == len(old.search(np.ones(5)))
    with FlatIndex.open(tmp_path / "i") as new:
        assert 20 == len(new)
    assert ["i"] == [path.name for path in tmp_path.iterdir()]
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    with pytest.raises(FormatError, match="not an index"):
        small().save(tmp_path / "other")
    with pytest.raises(FormatError, match="not an index"):
        FlatIndex.create(tmp_path / "other", 3)
    assert "mine" == (tmp_path / "other" / "mine.txt").read_text()
    with pytest.raises(StorageError):
        small().save(tmp_path / "none" / "i")
    with pytest.raises(ClosedError, match="path"):
        small().save()


def test_leaving_a_block_saves_what_is_unsaved(tmp_path, monkeypatch):
    place = tmp_path / "i"
    with small(path=place) as index:
        index.save()
        index.add([1000], np.ones((1, 5)))
    with FlatIndex.open(place) as opened:
        assert 21 == len(opened)
    with pytest.raises(RuntimeError, match="mine"), small(n=3, path=place):
        raise RuntimeError("mine")
    with FlatIndex.open(place) as opened:
        assert 21 == len(opened)
        with pytest.raises(ReadOnlyError):
            opened.add(None, np.ones((1, 5)))
    with small():
        pass
    with monkeypatch.context() as patch, small(path=place) as index:
        index.save()
        patch.setattr(FlatIndex, "save", lambda _: pytest.fail("nothing is unsaved"))


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_a_closed_index_says_so(tmp_path, place):
    index = small()
    if place == "disk":
        index.save(tmp_path / "i")
        index = FlatIndex.open(tmp_path / "i")
    index.close()
    index.close()
    uses = [
        lambda: index.search(np.ones(5)),
        lambda: index.search(np.ones(5), exact=True),
        lambda: index.add([1], np.ones((1, 5))),
        lambda: index.get(3),
        index.ids,
        lambda: len(index),
        lambda: 3 in index,
        index.stats,
        index.verify,
        lambda: index.save(tmp_path / "new"),
    ]
    for use in uses:
        with pytest.raises(ClosedError):
            use()
    assert not (tmp_path / "new").exists()


def test_pickling_is_opening_again(tmp_path):
    index = small(path=tmp_path / "i")
    with pytest.raises(ClosedError, match="save it first"):
        pickle.dumps(index)
    index.save()
    with pickle.loads(pickle.dumps(index)) as again:
        same(index.search(np.ones(5)), again.search(np.ones(5)))
        with pickle.loads(pickle.dumps(again)) as third:
            assert 20 == len(third)
    index.add(None, np.ones((1, 5)))
    with pytest.raises(ClosedError, match="save it first"):
        pickle.dumps(index)


def test_forked_children_search(tmp_path):
    small(n=50).save(tmp_path / "i")
    script = f"""
import os, numpy as np
from skeg.ann.flat import FlatIndex
index = FlatIndex.open({str(tmp_path / "i")!r})
asked = np.random.default_rng(0).integers(1, 4, (60, 5))
expected = index.search(asked, threads=2).ids.tolist()
child = os.fork()
if child == 0:
    os._exit(0 if index.search(asked, threads=2).ids.tolist() == expected else 1)
assert 0 == os.waitpid(child, 0)[1]
print("ok")
"""
    assert "ok" == run_python(script).strip()


def test_names_with_spaces_and_unicode(tmp_path):
    place = tmp_path / "ein Ordner" / ("größe " + "x" * 150)
    place.parent.mkdir()
    small().save(place)
    with FlatIndex.open(place) as opened:
        assert [] == opened.verify()


def test_another_backend_is_refused(tmp_path):
    small().save(tmp_path / "i")
    manifest = read_manifest(tmp_path / "i")
    write_manifest(tmp_path / "i", evolve(manifest, backend="disk"))
    with pytest.raises(FormatError, match="backend"):
        FlatIndex.open(tmp_path / "i")
    for fields in ({"kind": "tq9"}, {"dim": 2**17}, {"dim": 4}, {"count": 19}, {"kind": "tq1"}, {"metric": "ip"}):
        write_manifest(tmp_path / "i", evolve(manifest, **fields))
        with pytest.raises(CorruptError):
            FlatIndex.open(tmp_path / "i")
    with pytest.raises(FormatError, match="no such index"):
        FlatIndex.open(tmp_path / "none")


@pytest.mark.parametrize(("kind", "metric"), [("tq4", "l2"), ("tq1", "cosine"), ("pq", "ip"), ("f32", "cosine")])
def test_golden_files_are_read(kind, metric):
    """Made once by `save_golden`; a reader has to open them as long as it reads their version."""
    expected = golden(kind, metric)
    with FlatIndex.open(GOLDEN / f"flat-1.0-{kind}-{metric}") as opened:
        assert [] == opened.verify()
        assert expected.ids().tolist() == opened.ids().tolist()
        assert expected.get(expected.ids()).tolist() == opened.get(expected.ids()).tolist()
        same(expected.search(np.ones(5), 20, exact=True), opened.search(np.ones(5), 20, exact=True))
        same(expected.search(np.ones(5), 20), opened.search(np.ones(5), 20))


def golden(kind, metric):
    return small(kind, metric)


def save_golden():
    for kind, metric in (("tq4", "l2"), ("tq1", "cosine"), ("pq", "ip"), ("f32", "cosine")):
        golden(kind, metric).save(GOLDEN / f"flat-1.0-{kind}-{metric}")


# Damage


def places_of(path):
    """Offsets around every boundary of a file, and some in between."""
    size = path.stat().st_size
    edges = {0, 8, 12, 16, 24, 28, 32, 40, 64, size}
    if path.suffix == ".skg":
        with Container.open(path) as container:
            for name in container._entries:
                entry = container._entry(name)
                edges |= {entry.offset, entry.offset + entry.length // 2, entry.offset + entry.length}
    else:
        edges |= set(range(0, size, 23))
    return sorted({place + step for place in edges for step in (-1, 0, 1) if 0 <= place + step < size})


@pytest.mark.parametrize("kind", ["tq4", "tq1", "pq", "f32"])
@pytest.mark.parametrize("file", FILES)
def test_a_file_cut_short_is_not_opened(tmp_path, kind, file):
    small(kind).save(tmp_path / "i")
    path = tmp_path / "i" / file
    whole = path.read_bytes()
    for length in places_of(path):
        path.write_bytes(whole[:length])
        with pytest.raises(StorageError) as caught:
            FlatIndex.open(tmp_path / "i")
        assert str(path) == caught.value.path
    path.unlink()
    with pytest.raises(StorageError):
        FlatIndex.open(tmp_path / "i")


@pytest.mark.parametrize("kind", ["tq4", "tq1", "pq", "f32"])
@pytest.mark.parametrize("file", FILES)
def test_every_flipped_bit_is_noticed_and_nothing_crashes(tmp_path, kind, file):
    small(kind).save(tmp_path / "i")
    path = tmp_path / "i" / file
    whole = path.read_bytes()
    for place, bit in zip(places_of(path), itertools.cycle((1, 16, 128)), strict=False):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ bit]) + whole[place + 1 :])
        try:
            with FlatIndex.open(tmp_path / "i") as opened:
                use(opened)
                findings = opened.verify()
        except StorageError:
            continue
        assert findings, place


def use(index):
    """Everything that a search reads; wrong numbers may make it refuse, but by a typed error."""
    for exact in (False, True):
        try:
            index.search(np.ones((3, 5)), 4, exact=exact)
        except SkegError:
            continue


SECTIONS = {
    "f32": ["ids", "norms", "factors", "vectors"],
    "pq": ["ids", "norms", "factors", "vectors", "codes"],
    "tq1": ["ids", "norms", "factors", "vectors", "groups", "group_factors"],
    "tq4": ["ids", "norms", "factors", "vectors", "groups", "group_factors", "codes"],
}


@pytest.mark.parametrize(("kind", "section"), [(kind, section) for kind in SECTIONS for section in SECTIONS[kind]])
def test_damage_under_a_right_checksum_is_found(tmp_path, monkeypatch, kind, section):
    """The files are written with wrong contents, so that only looking at the vectors tells."""
    index = small(kind, n=40)
    whole = flat.write_rows

    def damaged(folder, kept):
        array = getattr(kept, section).copy()
        if section == "ids":
            array = np.sort(array)
            array[7] = array[6]
            return whole(folder, evolve(kept, ids=array, ranks=kept.ranks[:0], by_rank=kept.by_rank[:0]))
        array.reshape(len(array), -1)[-1] = array.reshape(len(array), -1)[-1] * 3 + 77
        return whole(folder, evolve(kept, **{section: array}))

    monkeypatch.setattr(flat, "write_rows", damaged)
    index.save(tmp_path / "i")
    with FlatIndex.open(tmp_path / "i") as opened:
        use(opened)
        (finding,) = opened.verify()
    assert isinstance(finding, CorruptError)
    assert "row" in str(finding)


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    small(n=5).save(tmp_path / "i")

    def full(self, *_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("skeg.files.os.write", full)
    with pytest.raises(StorageError, match="No space"):
        small().save(tmp_path / "i")
    monkeypatch.undo()
    assert ["i"] == [path.name for path in tmp_path.iterdir()]
    with FlatIndex.open(tmp_path / "i") as opened:
        assert 5 == len(opened)
    shutil.rmtree(tmp_path / "i")
