"""The result of a search: unpacking, counts, distances."""

from __future__ import annotations

import numpy as np

from skeg.ann.hits import MISSING_ID, Hits

ONE = Hits(np.array([7, 3], np.uint64), np.array([0.75, 0.5], np.float32), "cosine", (40, 9, 20, 16))
PADDED = Hits(
    np.array([[7, 3, 9], [5, MISSING_ID, MISSING_ID], [MISSING_ID] * 3], np.uint64),
    np.array([[-1, -2, -3], [-4, -np.inf, -np.inf], [-np.inf] * 3], np.float32),
    "l2",
)


def test_hits_unpack_into_ids_and_scores():
    ids, scores = PADDED
    assert ids is PADDED.ids
    assert scores is PADDED.scores


def test_one_query_counts_its_hits():
    assert 2 == len(ONE) == ONE.counts
    np.testing.assert_array_equal(np.array([0.25, 0.5], np.float32), ONE.distances)


def test_padding_does_not_count_and_is_infinitely_far():
    assert 3 == len(PADDED)
    np.testing.assert_array_equal([3, 1, 0], PADDED.counts)
    np.testing.assert_array_equal([[1, 2, 3], [4, np.inf, np.inf], [np.inf] * 3], PADDED.distances)


def test_costs_are_named():
    assert {"scored": 40, "expanded": 9, "reranked": 20, "list_size": 16} == ONE.stats
    assert {0} == set(PADDED.stats.values())
