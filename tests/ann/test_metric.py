"""Metric names, numbers and the conversion of scores to distances."""

from __future__ import annotations

import numpy as np
import pytest

from skeg.ann.metric import METRICS, distances_of, metric_number
from skeg.errors import ParameterError


def test_every_metric_has_a_number_of_its_own():
    assert ["cosine", "ip", "l2"] == list(METRICS)
    assert 3 == len({metric_number(name) for name in METRICS})


@pytest.mark.parametrize("unknown", ["euclid", "", "COSINE", None, 0, b"l2"])
def test_an_unknown_metric_is_refused_with_the_known_ones_named(unknown):
    with pytest.raises(ParameterError, match="'cosine', 'ip', 'l2'"):
        metric_number(unknown)


def test_distances_fall_as_scores_rise_and_padding_is_infinitely_far():
    scores = np.array([[4, 1, 0.25], [-0.5, -9, -np.inf]], np.float32)
    np.testing.assert_array_equal([[-3, 0, 0.75], [1.5, 10, np.inf]], distances_of(scores, "cosine"))
    np.testing.assert_array_equal(distances_of(scores, "cosine"), distances_of(scores, "ip"))
    np.testing.assert_array_equal([[-4, -1, -0.25], [0.5, 9, np.inf]], distances_of(scores, "l2"))
    for metric in METRICS:
        assert np.float32 == distances_of(scores, metric).dtype
