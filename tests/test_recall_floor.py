"""What searches of real data have to find at least, under every kind, metric and CPU path.

Floors are a little below what was measured; the sets are fixed and builds are deterministic, so that only another
algorithm or a mistake can get below them.
"""

from __future__ import annotations

import numpy as np
import pytest

from skeg import jit
from skeg.ann import Index, build_index, exact_search, recall_at_k
from tests.indexes import KINDS, METRICS, built, ids_of, queries, rows, run_python

N = 2000
QUERIES = 200


@pytest.fixture(scope="module")
def whole(tmp_path_factory, wordnet):
    """The bundled set, indexed with the defaults."""
    with build_index(wordnet.vectors, tmp_path_factory.mktemp("recall") / "index") as index:
        yield index


@pytest.mark.parametrize(
    ("list_size", "floor"), [(10, 0.87), (16, 0.98), (24, 0.99), (32, 0.994), (64, 0.999), (256, 0.9995)]
)
def test_recall_of_the_defaults_grows_with_the_list(whole, wordnet, list_size, floor):
    hits = whole.search(wordnet.queries, 10, search_list_size=list_size)
    assert recall_at_k(hits.ids, wordnet.truth, 10) >= floor


@pytest.mark.parametrize(("k", "floor"), [(1, 0.999), (10, 0.999), (100, 0.98)])
def test_recall_of_the_defaults_for_few_and_many_hits(whole, wordnet, k, floor):
    assert recall_at_k(whole.search(wordnet.queries, k).ids, wordnet.truth, k) >= floor


def test_every_stored_vector_finds_itself(whole, wordnet):
    """Or one equal to it."""
    hits = whole.search(wordnet.vectors, 1)
    assert (hits.scores[:, 0] > 0.9999).mean() >= 0.999


def test_a_tuned_index_reaches_its_goal_on_other_queries(whole, wordnet):
    whole.tune(wordnet.queries[:500], 0.99)
    assert recall_at_k(whole.search(wordnet.queries[500:]).ids, wordnet.truth[500:], 10) >= 0.98


# At the default list and depth, and with 128 of both.
FLOORS = {
    "f32": (0.994, 0.998),
    "int8": (0.994, 0.998),
    "tq4": (0.993, 0.998),
    "tq2": (0.98, 0.998),
    "tq1": (0.89, 0.995),
    "binary": (0.89, 0.995),
    "pq": (0.94, 0.997),
}
IP_COSTS = (0.02, 0.01)  # lengths from 1 to 2: the nearest by inner product are far from each other


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_recall_of_every_kind_and_metric(kind, metric):
    asked = queries(QUERIES)
    truth = ids_of(N)[exact_search(rows(N, metric), asked, 10, metric=metric).ids.astype(int)]
    with Index.open(built(kind, metric, N)) as index:
        found = [index.search(asked).ids, index.search(asked, search_list_size=128, rerank=128).ids]
    for ids, floor, cost in zip(found, FLOORS[kind], IP_COSTS, strict=True):
        assert recall_at_k(ids, truth, 10) >= floor - (cost if metric == "ip" else 0)


END_TO_END = """
import sys
import numpy as np
from skeg import jit
from skeg.ann import build_index
vectors, queries = np.load(sys.argv[1]), np.load(sys.argv[2])
options = {"max_degree": 16, "build_list_size": 32} if len(vectors) < 100 else {}
with build_index(vectors, sys.argv[3], threads=1, **options) as index:
    assert index.verify() == []
    np.save(sys.argv[4], index.search(queries, 10).ids)
    np.save(sys.argv[5], index.search(queries, 10, search_list_size=len(vectors), rerank=len(vectors)).ids)
    one = [index.search(query, 10).ids for query in queries]
    assert np.array_equal(one, np.load(sys.argv[4]))
print(jit.FAMILY)
"""


def end_to_end(folder, vectors, asked, **environment):
    """Kernel family, hits by default, and hits of a list of all rows, in a process of its own."""
    np.save(folder / "vectors.npy", vectors)
    np.save(folder / "queries.npy", asked)
    names = [folder / name for name in ("vectors.npy", "queries.npy", "index", "found.npy", "all.npy")]
    family = run_python(END_TO_END, *names, **environment)
    return family.strip(), np.load(names[3]), np.load(names[4])


@pytest.mark.parametrize("family", jit.supported_families())
def test_recall_on_every_cpu_path(tmp_path, family):
    vectors, asked = rows(1000), queries(100)
    used, found, of_all = end_to_end(tmp_path, vectors, asked, SKEG_SIMD=family, NUMBA_DISABLE_JIT="0")
    truth = exact_search(vectors, asked, 10).ids
    assert family == used
    assert recall_at_k(found, truth, 10) >= 0.995
    assert truth.tolist() == of_all.tolist()


def test_without_compiler_the_hits_are_the_same(tmp_path):
    vectors, asked = rows(60)[:, :16].copy(), queries(5)[:, :16].copy()
    family, _, of_all = end_to_end(tmp_path, vectors, asked, NUMBA_DISABLE_JIT="1", SKEG_SIMD="portable")
    assert family == "portable"
    with build_index(vectors, tmp_path / "compiled", threads=1) as index:
        expected = index.search(asked, 10, search_list_size=60, rerank=60)
    assert expected.ids.tolist() == of_all.tolist()


def test_without_a_place_for_compiled_kernels_the_hits_are_the_same(tmp_path):
    """Everything is compiled again, here without optimization to save time."""
    (tmp_path / "file").touch()
    vectors, asked = rows(60)[:, :16].copy(), queries(5)[:, :16].copy()
    nowhere = str(tmp_path / "file" / "cache")
    _, _, of_all = end_to_end(tmp_path, vectors, asked, SKEG_CACHE_DIR=nowhere, NUMBA_OPT="0")
    assert exact_search(vectors, asked, 10).ids.tolist() == of_all.tolist()
    assert 0 == (tmp_path / "file").stat().st_size
