"""Recall counts what was found of the true neighbors, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skeg.ann.hits import MISSING_ID
from skeg.ann.recall import recall_at_k
from skeg.errors import ParameterError, VectorError


def ids(*rows):
    return np.array(rows, np.uint64)


def test_known_shares():
    true = [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert recall_at_k(true, true, 4) == 1.0
    assert recall_at_k([[4, 3, 2, 1], [8, 7, 6, 5]], true, 4) == 1.0
    assert recall_at_k([[1, 2, 9, 9], [0, 0, 0, 0]], true, 4) == 0.25
    assert recall_at_k([[9, 1, 2], [5, 6, 7]], true, 2) == 0.75
    assert recall_at_k([1, 5, 3], [1, 2, 3], 3) == pytest.approx(2 / 3)


def test_fewer_true_neighbors_than_k_can_all_be_found():
    assert recall_at_k([[1, 2, 7]], [[1, 2]], 3) == 1.0
    assert recall_at_k([[1, 2, 7]], ids([2, 1, MISSING_ID]), 3) == 1.0


def test_padding_never_counts():
    pad = MISSING_ID
    assert recall_at_k(ids([1, pad]), [[1, 2]], 2) == 0.5
    assert recall_at_k(ids([pad, pad]), ids([1, pad]), 2) == 0.0
    assert recall_at_k(ids([pad, pad]), ids([pad, pad]), 2) == 1.0
    scores = [[0.5, -np.inf]]
    assert recall_at_k(ids([1, pad]), ids([1, pad]), 2, found_scores=scores, true_scores=scores) == 1.0
    empty = [[-np.inf, -np.inf]]
    assert recall_at_k(ids([pad, pad]), ids([pad, pad]), 2, found_scores=empty, true_scores=empty) == 1.0


def test_an_id_found_twice_counts_once():
    assert recall_at_k([[1, 1]], [[1, 2]], 2) == 0.5


def test_ties_are_no_misses_when_scores_are_given():
    found, true = [[1, 9, 8]], [[1, 2, 3]]
    found_scores, true_scores = [[0.9, 0.5, 0.4]], [[0.9, 0.5, 0.5]]
    assert recall_at_k(found, true, 3) == pytest.approx(1 / 3)
    assert recall_at_k(found, true, 3, found_scores=found_scores, true_scores=true_scores) == pytest.approx(2 / 3)


@pytest.mark.parametrize("score", [0.7, -3.0, 0.0])
def test_rounding_of_scores_is_no_miss(score):
    near = float(np.nextafter(np.float32(score), np.float32(-10)))
    assert recall_at_k([4], [5], 1, found_scores=[near], true_scores=[score]) == float(score != 0 or near >= score)
    assert recall_at_k([4], [5], 1, found_scores=[score - 0.01], true_scores=[score]) == 0.0


def test_no_queries_miss_nothing():
    assert recall_at_k(np.zeros((0, 3), np.uint64), np.zeros((0, 3), np.uint64), 3) == 1.0


@given(st.lists(st.integers(0, 20), unique=True, max_size=12), st.lists(st.integers(0, 20), unique=True, max_size=12))
def test_overlap_of_sets(found, true):
    expected = len(set(found[:5]) & set(true[:5])) / len(true[:5]) if true else 1.0
    assert recall_at_k(np.array(found, np.int64), np.array(true, np.int64), 5) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("found", "true"),
    [
        ([[1]], [[1], [2]]),
        ([1], [[1]]),
        ([[1.5]], [[1]]),
        ([[["a"]]], [[1]]),
        (3, [1]),
        (["x"], [1]),
    ],
)
def test_shapes_that_do_not_fit_are_refused(found, true):
    with pytest.raises(VectorError, match="expected"):
        recall_at_k(found, true, 1)


def test_scores_have_to_fit_the_ids():
    with pytest.raises(VectorError, match="neither"):
        recall_at_k([1], [1], 1, found_scores=[0.5])
    with pytest.raises(VectorError, match="true_scores"):
        recall_at_k([1], [1], 1, found_scores=[0.5], true_scores=[[0.5]])
    with pytest.raises(VectorError, match="found_scores"):
        recall_at_k([1], [1], 1, found_scores=["a"], true_scores=[0.5])


@pytest.mark.parametrize("k", [0, -1, 1.5, "3", True])
def test_k_is_a_positive_integer(k):
    with pytest.raises(ParameterError, match="k="):
        recall_at_k([1], [1], k)
