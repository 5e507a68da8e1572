"""The files of a segment: opening refuses shapes that do not fit, `verify` finds what is wrong with the contents."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from skeg import CorruptError, SkegError
from skeg.ann import Index
from skeg.ann.format import HOT, VECTORS, read_manifest
from skeg.ann.quantizers import encode_rows
from skeg.ann.segment import GraphSegment
from tests.indexes import KINDS, METRICS, built, copied, ids_of, queries, rewrite, rows, sections

N = 300
KIND = "tq4"


@pytest.fixture
def index(tmp_path):
    """Folder of an index to be damaged."""
    return copied(built(KIND, n=N), tmp_path)


def findings(index):
    with Index.open(index) as opened:
        return [(finding.path, finding.problem) for finding in opened.verify()]


# Opening


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", METRICS)
def test_what_was_built_is_in_order(kind, metric):
    path = built(kind, metric, N)
    assert [] == findings(path)


def test_a_segment_is_two_files_of_named_arrays():
    hot, cold = sections(built(KIND, n=N), HOT), sections(built(KIND, n=N), VECTORS)
    assert {"vectors"} == set(cold)
    stored = cold["vectors"][np.argsort(hot["ids"])]
    given = rows(N)[np.argsort(ids_of(N))]
    np.testing.assert_array_equal(given, stored)
    np.testing.assert_array_equal(np.argsort(hot["ids"]), hot["id_order"])


def centroids_of(hot, cold, metric):
    """Means of each region's, then of each cell's vectors, of unit length under cosine; float64."""
    vectors = cold["vectors"].astype(np.float64)
    if metric == "cosine":
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cells = hot["cells"].astype(int)
    runs = [*zip(cells[hot["regions"]][:-1], cells[hot["regions"]][1:], strict=True), *itertools.pairwise(cells)]
    return np.array([vectors[start:stop].mean(axis=0) for start, stop in runs])


@pytest.mark.parametrize("metric", METRICS)
def test_centroids_are_the_means_of_the_rows_that_lie_together(metric):
    path = built("f32", metric, N)
    hot, cold = sections(path, HOT), sections(path, VECTORS)
    np.testing.assert_allclose(hot["centroid_vectors"], centroids_of(hot, cold, metric), rtol=1e-4, atol=1e-5)
    assert (0, N) == (hot["cells"][0], hot["cells"][-1])
    assert (0, len(hot["cells"]) - 1) == (hot["regions"][0], hot["regions"][-1])


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "f32"])
def test_centroids_are_coded_as_rows_are(kind):
    path = built(kind, n=N)
    hot, cold = sections(path, HOT), sections(path, VECTORS)
    with Index.open(path) as index:
        quantizer = index._searcher.open_segment().quantizer
        codes, scales, _ = encode_rows(quantizer, centroids_of(hot, cold, "cosine").astype(np.float32))
    assert (codes != hot["centroid_codes"]).mean() < 0.01
    np.testing.assert_allclose(hot["centroid_factors"][:, 0], scales, rtol=1e-2)


SHAPES = {
    "another dtype": {"codes": lambda a: a.astype(np.uint16)},
    "too few codes": {"codes": lambda a: a[:-1]},
    "too many codes": {"codes": lambda a: np.concatenate([a, a[:1]])},
    "narrow codes": {"codes": lambda a: a[:, :64].copy()},
    "too few ids": {"ids": lambda a: a[:-1]},
    "too few factors": {"factors": lambda a: a[:-1]},
    "flat codes": {"codes": np.ravel},
    "another dimension": {"mean": lambda a: a[:-1]},
    "signs of another dimension": {"signs": lambda a: a[:, :-1].copy()},
    "too few offsets": {"offsets": lambda a: a[:-1]},
    "no regions": {"regions": lambda a: a[:1]},
    "no cells": {"cells": lambda a: a[:1]},
    "fewer cells than centroids": {"cells": lambda a: a[:-1]},
    "centroids without codes": {"centroid_codes": lambda a: a[:0]},
    "centroids without factors": {"centroid_factors": lambda a: a[:-1]},
    "a root that is not there": {"root": lambda a: a + np.uint32(N)},
    "two roots": {"root": lambda a: np.repeat(a, 2)},
    "vectors of centroids": {"centroid_vectors": lambda a: np.zeros((len(a) + 64, 384), np.float32)},
    "a codebook": {"codebook": lambda a: np.zeros((len(a) + 48, 256, 8), np.float32)},
}


@pytest.mark.parametrize("case", SHAPES)
def test_sections_that_do_not_fit_each_other_are_refused(index, case):
    before = sections(index, HOT)
    rewrite(index, HOT, **{name: change(before[name]) for name, change in SHAPES[case].items()})
    with pytest.raises(CorruptError) as caught:
        Index.open(index)
    assert caught.value.path.endswith(HOT)


@pytest.mark.parametrize("shape", [(48, 300, 8), (47, 256, 8), (48, 256, 9), (48, 255, 8), (0, 0, 0)])
def test_a_codebook_that_kernels_cannot_read_is_refused(tmp_path, shape):
    index = copied(built("pq", n=N), tmp_path)
    before = sections(index, HOT)
    codes = {name: before[name][:, : shape[0]].copy() for name in ("codes", "centroid_codes")}
    rewrite(index, HOT, codebook=np.zeros(shape, np.float32), **codes)
    with pytest.raises(CorruptError, match="codebook"):
        Index.open(index)


@pytest.mark.parametrize("section", ["ids", "id_order", "mean", "signs", "codes", "links", "offsets", "root", "cells"])
def test_a_missing_section_is_named(index, section):
    rewrite(index, HOT, without=[section])
    with pytest.raises(CorruptError, match=f"section '{section}' is missing"):
        Index.open(index)


@pytest.mark.parametrize("meta", [{"kind": "tq2"}, {"metric": "l2"}, {"kind": None}, {"metric": []}])
def test_a_file_of_another_kind_or_metric_is_refused(index, meta):
    rewrite(index, HOT, meta)
    with pytest.raises(CorruptError, match="file is of another index"):
        Index.open(index)


# Contents


def test_findings_name_the_file_and_the_checksum_comes_first(index):
    path = index / "segment-000001" / HOT
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with Index.open(index) as opened, pytest.raises(CorruptError, match="does not match its checksum") as caught:
        opened.verify()
    assert (str(path), True) == (caught.value.path, caught.value.offset > 0)


def order_with(index, place, row):
    order = sections(index, HOT)["id_order"]
    order[place] = row
    return {"id_order": order}


def links_with(index, change):
    """Neighbor lists after a change of ``links`` or ``offsets``."""
    hot = sections(index, HOT)
    change(hot)
    return {"links": hot["links"], "offsets": hot["offsets"]}


def changed(index, name, row, value):
    array = sections(index, HOT)[name]
    array[row] = value
    return {name: array}


def swap(array, i, j):
    array[[i, j]] = array[[j, i]]
    return array


def unreachable(index):
    """Lists in which row 7 stands nowhere: wherever it was there is another row that was not in the list."""
    hot = sections(index, HOT)
    links, offsets = hot["links"], hot["offsets"]
    for row in range(N):
        own = links[offsets[row] : offsets[row + 1]]
        own[own == 7] = next(other for other in range(N) if other not in {7, row} and other not in own)
    return {"links": links}


DAMAGE = {
    "an order that names a row twice": (lambda i: order_with(i, 3, sections(i, HOT)["id_order"][4]), "id_order"),
    "an order that names no row": (lambda i: order_with(i, 3, 2**32 - 1), "id_order"),
    "rows in another order": (lambda i: {"id_order": swap(sections(i, HOT)["id_order"], 5, 6)}, "id of row"),
    "two rows of one id": (lambda i: changed(i, "ids", 8, sections(i, HOT)["ids"][9]), "id of row"),
    "a neighbor that is not there": (lambda i: links_with(i, lambda h: h["links"].__setitem__(0, N)), "list of row 0"),
    "a row that is its own neighbor": (
        lambda i: links_with(i, lambda h: h["links"].__setitem__(0, 0)),
        "list of row 0",
    ),
    "a neighbor twice": (lambda i: links_with(i, lambda h: h["links"].__setitem__(1, h["links"][0])), "list of row 0"),
    "a list that ends before it begins": (
        lambda i: links_with(i, lambda h: h["offsets"].__setitem__(5, 0)),
        "list of row 4",
    ),
    "a list that is too long": (
        lambda i: links_with(i, lambda h: h["offsets"].__setitem__(slice(5, 9), h["offsets"][9])),
        "list of row",
    ),
    "a first list that begins later": (
        lambda i: links_with(i, lambda h: h["offsets"].__setitem__(0, 1)),
        "list of row 0",
    ),
    "lists that end elsewhere": (
        lambda i: links_with(i, lambda h: h["offsets"].__setitem__(N, h["offsets"][N] - 1)),
        "list of row",
    ),
    "a row that is in no list": (unreachable, "row 7 can't be reached"),
    "a code of another vector": (lambda i: changed(i, "codes", 9, sections(i, HOT)["codes"][10]), "code of row 9"),
    "a factor that is off": (lambda i: changed(i, "factors", 9, 7), "code of row 9"),
    "a factor that is no number": (lambda i: changed(i, "factors", 9, np.nan), "code of row 9"),
    "another mean": (lambda i: changed(i, "mean", 0, 1), "code of row"),
    "another rotation": (lambda i: {"signs": sections(i, HOT)["signs"][::-1].copy()}, "code of row"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_verify_finds_what_is_wrong_with_the_contents(index, case):
    """Every checksum holds."""
    damage, problem = DAMAGE[case]
    rewrite(index, HOT, **damage(index))
    found = findings(index)
    assert [str(index / "segment-000001" / HOT)] == [path for path, _ in found]
    assert problem in found[0][1]


@pytest.mark.parametrize("kind", KINDS)
def test_verify_compares_codes_with_vectors_of_every_kind(tmp_path, kind):
    index = copied(built(kind, "l2", n=N), tmp_path)
    vectors = sections(index, VECTORS)["vectors"]
    vectors[20] = 2 * vectors[21]
    rewrite(index, VECTORS, vectors=vectors)
    assert ["code of row 20"] == [problem for _, problem in findings(index)]


@pytest.mark.parametrize("value", [np.nan, np.inf, 0])
def test_verify_finds_vectors_that_cannot_be(index, value):
    vectors = sections(index, VECTORS)["vectors"]
    vectors[20] = value
    rewrite(index, VECTORS, vectors=vectors)
    assert ["vector of row 20"] == [problem for _, problem in findings(index)]


def test_a_segment_that_was_just_written_is_checked_before_it_is_published(index):
    rewrite(index, HOT, **links_with(index, lambda h: h["links"].__setitem__(0, N)))
    segment = GraphSegment(index, read_manifest(index))
    assert ["neighbor list of row 0"] == [finding.problem for finding in segment.check_written(64)]
    segment.close()


LISTS = {
    "n": lambda hot: hot["links"].fill(N),
    "2**32 - 1": lambda hot: hot["links"].fill(2**32 - 1),
    "descending offsets": lambda hot: hot["offsets"].__setitem__(slice(None), hot["offsets"][::-1].copy()),
    "huge offsets": lambda hot: hot["offsets"].__setitem__(slice(1, None), 2**32 - 1),
    "huge starts": lambda hot: hot["offsets"].__setitem__(slice(0, -1), 2**32 - 1),
    "huge lists": lambda hot: hot["offsets"].__setitem__(slice(None), np.arange(N + 1) % 2 * len(hot["links"])),
}


@pytest.mark.parametrize("case", LISTS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_search_that_meets_a_list_that_cannot_be_says_so(tmp_path, kind, case):
    index = copied(built(kind, n=N), tmp_path)
    rewrite(index, HOT, **links_with(index, LISTS[case]))
    with Index.open(index) as opened:
        for query in (queries(), queries()[0]):
            with pytest.raises(CorruptError, match="neighbor list that can't be") as caught:
                opened.search(query)
            assert str(index / "segment-000001" / HOT) == caught.value.path
        assert 1 == len(opened.verify())


def test_open_segments_know_what_should_stay_in_memory():
    path = built("f32", n=N)
    segment = GraphSegment(path, read_manifest(path))
    assert {"codes", "graph", "cells", "ids"} == set(segment.resident_bytes)
    assert segment.resident_bytes["ids"] == 8 * N
    assert segment.resident_bytes["codes"] >= N * 384 * 4
    segment.close()


@pytest.mark.parametrize("file", [HOT, VECTORS])
def test_files_of_another_index_are_refused(index, tmp_path, file):
    """Of other rows, of another kind: where sizes differ, and where only the contents do."""
    for kind, n in (("tq2", N), ("tq4", N - 1)):
        other = built(kind, n=n) / "segment-000001" / file
        target = index / "segment-000001" / file
        if target.read_bytes() == other.read_bytes():
            continue  # both have the same vectors
        kept = target.read_bytes()
        target.write_bytes(other.read_bytes())
        with pytest.raises(SkegError):
            Index.open(index)
        target.write_bytes(kept)
