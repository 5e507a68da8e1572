"""The sums behind the figures of indexes that change; no peer is needed, nothing is timed."""

from __future__ import annotations

import numpy as np
import pytest

from tests.bench.harness.living import (
    Ledger,
    answers_among,
    churn_groups,
    clustered,
    complete_share,
    new_vectors,
    only,
    recall_among,
    scattered,
)
from tests.bench.harness.process import EngineError, Turns


def unit(rows):
    rows = np.asarray(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def base(rng):
    return unit(rng.standard_normal((600, 8)))


class TestFilters:
    @pytest.mark.parametrize(("share", "count"), [(0.5, 300), (0.1, 60), (0.001, 10)])
    def test_scattered_rows_are_the_share_and_enough_for_a_search(self, rng, share, count):
        assert scattered(600, share, rng).sum() == count

    def test_clustered_rows_are_about_the_share(self, rng, base):
        assert clustered(base, 0.1, rng).sum() == pytest.approx(60, rel=0.2)

    def test_clustered_rows_are_enough_for_a_search(self, rng, base):
        assert clustered(base, 0.001, rng).sum() >= 10

    def test_clustered_rows_lie_together(self, rng, base):
        """Their nearest neighbors are clustered more often than those of scattered rows."""
        inside = []
        for mask in (clustered(base, 0.1, rng), scattered(600, 0.1, rng)):
            rows = np.flatnonzero(mask)
            inside.append(mask[answers_among(base, base[rows], np.arange(600))].mean())
        assert inside[0] > 2 * inside[1]

    def test_true_answers_are_the_nearest_of_the_rows_that_may_be_found(self, base):
        rows = np.arange(0, 600, 7)
        expected = rows[np.argsort(-(base[:5] @ base[rows].T), axis=1)[:, :10]]
        assert expected.tolist() == answers_among(base, base[:5], rows).tolist()

    def test_a_few_rows_are_all_answers(self, base):
        assert {3, 5} == set(answers_among(base, base[:1], np.array([3, 5]))[0].tolist())


class TestFound:
    may = np.arange(20) % 2 == 0

    def test_a_row_that_may_not_be_found_is_a_miss_however_near(self, base):
        may = np.arange(600) % 2 == 1
        truth = answers_among(base, base[:4], np.flatnonzero(may))
        assert recall_among(truth, base, base[:4], truth, may) == 1
        nearest = answers_among(base, base[:4], np.arange(600))
        allowed = may[nearest].mean()
        assert recall_among(nearest, base, base[:4], truth, may) == pytest.approx(allowed)

    def test_recall_is_of_what_there_is_when_that_is_less_than_ten(self, base):
        may = np.isin(np.arange(600), [3, 5])
        truth = answers_among(base, base[:1], np.array([3, 5]))
        found = np.array([[5, 3, *[-1] * 8]])
        assert recall_among(found, base, base[:1], truth, may) == 1

    @pytest.mark.parametrize(
        ("found", "complete"),
        [
            (range(0, 20, 2), 1),
            ([0, 2, 4, 6, 8, 10, 12, 14, 16, -1], 0),
            ([0, 2, 4, 6, 8, 10, 12, 14, 16, 17], 0),
            ([0, 2, 4, 6, 8, 10, 12, 14, 16, 16], 0),
            ([0, 2, 4, 6, 8, 10, 12, 14, 16, 20], 0),
        ],
        ids=["ten", "fewer", "a forbidden one", "one twice", "none of the base"],
    )
    def test_a_query_is_complete_with_ten_different_rows_that_may_be_found(self, found, complete):
        assert complete_share(np.array([list(found)]), self.may) == complete

    def test_all_rows_that_match_are_complete_too(self):
        assert complete_share(np.array([[3, *[-1] * 9]]), np.arange(20) == 3) == 1

    def test_what_may_not_be_found_is_marked(self):
        assert only(np.array([[0, 1, -1, 20]]), self.may).tolist() == [[0, -1, -1, -1]]


class TestChurn:
    def test_groups_hold_every_row_once_and_are_of_one_size_but_for_the_last(self, rng):
        groups = churn_groups(100, 20, rng)
        assert [4] * 20 + [20] == [len(group) for group in groups]
        assert list(range(100)) == sorted(np.concatenate(groups).tolist())

    def test_an_id_stands_for_a_row_until_that_is_removed(self):
        ledger = Ledger(5)
        assert ledger.add(np.array([4, 2])).tolist() == [0, 1]
        assert ledger.remove(np.array([2])).tolist() == [1]
        assert ledger.add(np.array([2, 0])).tolist() == [2, 3]
        assert ledger.rows.tolist() == [0, 2, 4]
        assert ledger.rows_of(np.array([[0, 1, 2], [3, 4, -1]])).tolist() == [[4, -1, 2], [0, -1, -1]]

    def test_the_unsigned_padding_id_is_no_row(self):
        ledger = Ledger(2)
        ledger.add(np.array([0]))
        assert ledger.rows_of(np.array([2**64 - 1, 0], np.uint64)).tolist() == [-1, 0]

    def test_new_vectors_are_the_rows_and_then_others_near_them(self, base):
        first = new_vectors(base[:10], 5, 10)
        assert first[:5] == pytest.approx(base[5:10], abs=1e-6)
        cosines = (first[5:] * base[:5]).sum(axis=1)
        assert (cosines < 1 - 1e-6).all()
        assert (cosines > 0.9).all()


class TestTurns:
    def test_every_other_round_goes_backwards_and_who_fails_is_left_out(self):
        turns, asked = Turns(rounds=3), []

        def measure(engine, number):
            asked.append(engine)
            if (engine, number) == ("b", 1):
                raise EngineError("broke")
            return number

        assert turns.interleaved("abc", measure) == {"a": [0, 1, 2], "c": [0, 1, 2]}
        assert asked == [*"abc", *"cba", *"ac"]
        assert turns.problems == {"b": "broke"}
