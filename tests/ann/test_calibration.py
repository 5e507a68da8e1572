"""What is measured of an index when it is built, and what follows from it for a search."""

from __future__ import annotations

import numpy as np
import pytest

from skeg.ann import Index, build_index
from skeg.ann.calibration import Calibration
from skeg.errors import ParameterError
from tests.indexes import KINDS, METRICS, built

TABLE = [[10, 0.0], [20, 0.1], [40, 0.3]]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("metric", METRICS)
def test_the_error_of_the_codes_shrinks_with_their_bits(kind, metric):
    errors = {}
    for each in (kind, "f32", "tq1"):
        with Index.open(built(each, metric, 300)) as index:
            errors[each] = index.stats()["search"]["code_error"]
    assert 0 <= errors["f32"] < 1e-5
    assert errors["f32"] <= errors[kind]
    assert errors["tq1"] > 0


def test_the_slack_is_what_an_exact_scan_needs(tmp_path, wordnet):
    """Of the true neighbors that a scan by codes would find at all, hardly any lies beyond the slack."""
    with build_index(np.asarray(wordnet.vectors[:5000]), tmp_path / "index", kind="tq4") as index:
        queries = np.asarray(wordnet.queries[:200], np.float32)
        exact = index.search(queries, 10, exact=True)
        found = index.search(queries, 10, search_list_size=len(index))
        deep = index.search(queries, 10, search_list_size=len(index), rerank=500)
        missed = (found.scores[:, -1] < exact.scores[:, -1] - 1e-6).mean()
        assert missed <= (deep.scores[:, -1] < exact.scores[:, -1] - 1e-6).mean() + 0.02
        assert found.stats["reranked"] < 40 * len(queries) < deep.stats["reranked"]
        assert index.stats()["search"]["margins"][0] == [10, 0.0]


@pytest.mark.parametrize(("list_size", "margin"), [(10, 0.0), (15, 0.05), (20, 0.1), (40, 0.3), (80, 0.5), (160, 0.7)])
def test_margins_are_interpolated_and_go_on_with_the_logarithm(list_size, margin):
    n_expand, found = Calibration(margins=TABLE).bounds_for(10, list_size, 10**6)
    assert pytest.approx(margin, abs=1e-6) == found
    assert max(3, list_size - 7) <= n_expand <= 2 * list_size


def test_many_hits_take_as_many_expanded_rows():
    """A list no longer than the hits wanted is short of margin, not of rows."""
    rows = [Calibration(margins=TABLE).bounds_for(k, k, 10**6)[0] for k in (10, 30, 100, 1000)]
    assert [3, 23, 93, 993] == rows


def test_margins_count_from_the_last_hit_that_is_wanted():
    calibration = Calibration(margins=TABLE)
    assert pytest.approx(0.2, abs=1e-6) == calibration.bounds_for(20, 40, 10**6)[1]
    assert calibration.bounds_for(1, 40, 10**6) == calibration.bounds_for(10, 40, 10**6)


@pytest.mark.parametrize(("margins", "list_size", "n"), [([], 50, 1000), (TABLE, 50, 50), (TABLE, 5, 1000)])
def test_lists_that_nothing_was_measured_for_are_plain(margins, list_size, n):
    assert (list_size, np.float32(np.inf)) == Calibration(margins=margins).bounds_for(10, list_size, n)


@pytest.mark.parametrize(
    "wrong",
    [
        {"margins": [[1]]},
        {"margins": "ab"},
        {"margins": None},
        {"margins": [[10, 0.1], [9, 0.2]]},
        {"margins": [[10, 0.1], [12, 0.0]]},
        {"margins": [[0, 0.1]]},
        {"margins": [[10, -0.1]]},
        {"margins": [[10, float("nan")]]},
        {"code_error": -1.0},
        {"code_error": float("inf")},
        {"code_error": None},
    ],
    ids=str,
)
def test_what_can_not_be_is_refused(wrong):
    with pytest.raises(ParameterError):
        Calibration(**wrong)
