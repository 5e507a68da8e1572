"""The same vectors and seed give the same files, byte for byte."""

from __future__ import annotations

import pytest

from skeg.ann import build_index
from tests.indexes import KINDS, METRICS, built, contents, ids_of, rows, run_python

N = 1500


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["tq4", "pq"])
def test_threads_change_nothing(tmp_path, kind, metric):
    for threads in (2, 3):
        path = tmp_path / str(threads)
        build_index(rows(N, metric), path, ids=ids_of(N), kind=kind, metric=metric, threads=threads).close()
        assert contents(built(kind, metric, N)) == contents(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_second_build_changes_nothing(tmp_path, kind):
    build_index(rows(600), tmp_path / "a", ids=ids_of(600), kind=kind).close()
    assert contents(built(kind, n=600)) == contents(tmp_path / "a")


def test_the_seed_changes_the_rotation_and_the_graph(tmp_path):
    build_index(rows(600), tmp_path / "a", ids=ids_of(600), kind="tq4", seed=1).close()
    before, after = contents(built(n=600)), contents(tmp_path / "a")
    assert set(before) == set(after)
    assert all(before[name] != after[name] for name in before if before[name] is not None)


def test_another_process_builds_the_same(tmp_path):
    """Hash seeds and addresses differ from process to process."""
    script = (
        "import sys; from skeg.ann import build_index; from tests.indexes import ids_of, rows; "
        "build_index(rows(600), sys.argv[1], ids=ids_of(600), kind='pq').close()"
    )
    run_python(script, tmp_path / "a", PYTHONHASHSEED="12345")
    assert contents(built("pq", n=600)) == contents(tmp_path / "a")
