"""The sums, tables and parsers behind the benchmark's figures; no peer is needed, nothing is timed."""

from __future__ import annotations

import numpy as np
import pytest

from tests.bench.harness.arithmetic import (
    cheapest_reaching,
    format_markdown,
    format_table,
    geometric_parameters,
    next_parameter,
    ratio,
    recall_by_threshold,
    spread,
)
from tests.bench.harness.memory import Memory, parse_status


def unit(rows):
    rows = np.asarray(rows, np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


class TestRecall:
    base = unit([[1, 0], [1, 0.1], [1, 0.2], [1, 0.2], [0, 1]])
    queries = unit([[1, 0]])

    def recall(self, found, truth=(0, 1, 2)):
        return recall_by_threshold(np.array([found]), self.base, self.queries, np.array([truth]), k=3)

    def test_the_true_rows_in_any_order_are_a_recall_of_one(self):
        assert self.recall([2, 0, 1]) == 1

    def test_a_row_that_ties_with_the_last_true_one_counts(self):
        assert self.recall([0, 1, 3]) == 1

    def test_a_row_below_the_threshold_is_a_miss(self):
        assert self.recall([0, 1, 4]) == pytest.approx(2 / 3)

    def test_a_repeated_row_counts_once(self):
        assert self.recall([0, 0, 1]) == pytest.approx(2 / 3)

    @pytest.mark.parametrize("padding", [-1, 5, 2**63 - 1])
    def test_padding_is_a_miss(self, padding):
        assert self.recall([0, 1, padding]) == pytest.approx(2 / 3)

    def test_the_unsigned_padding_id_is_a_miss(self):
        found = np.array([[0, 1, 2**64 - 1]], np.uint64)
        recall = recall_by_threshold(found, self.base, self.queries, np.array([[0, 1, 2]]), k=3)
        assert recall == pytest.approx(2 / 3)

    def test_equals_set_intersection_where_nothing_ties(self, rng):
        base, queries = unit(rng.standard_normal((60, 8))), unit(rng.standard_normal((7, 8)))
        truth = np.argsort(-(queries @ base.T), axis=1)[:, :5]
        found = np.array([rng.permutation(60)[:5] for _ in queries])
        expected = np.mean([len(set(a) & set(b)) / 5 for a, b in zip(found, truth, strict=True)])
        assert recall_by_threshold(found, base, queries, truth, k=5) == pytest.approx(expected)


class TestSearchForTheCheapestParameter:
    @pytest.mark.parametrize("needed", [11, 12, 57, 99, 639, 640])
    def test_bisection_ends_within_one_percent_above_the_cheapest(self, needed):
        recalls = {p: float(p >= needed) for p in geometric_parameters(10, 640, 7)}
        measured = 0
        while (parameter := next_parameter(recalls, 0.95)) is not None:
            assert parameter not in recalls
            recalls[parameter] = float(parameter >= needed)
            measured += 1
        assert needed <= cheapest_reaching(recalls, 0.95) <= needed * 1.01 + 1
        assert measured <= 10

    def test_a_target_out_of_reach_is_given_up_without_a_measurement(self):
        recalls = {10: 0.8, 20: 0.9}
        assert next_parameter(recalls, 0.95) is None
        assert cheapest_reaching(recalls, 0.95) is None

    def test_the_smallest_measured_parameter_is_not_undercut(self):
        recalls = {10: 0.96, 20: 0.98}
        assert next_parameter(recalls, 0.95) is None
        assert cheapest_reaching(recalls, 0.95) == 10

    def test_a_dip_in_the_curve_leaves_the_cheapest_parameter_that_was_measured(self):
        recalls = {10: 0.90, 11: 0.951, 12: 0.949, 13: 0.96}
        assert cheapest_reaching(recalls, 0.95) == 11

    def test_no_measurement_at_all_asks_for_none(self):
        assert next_parameter({}, 0.9) is None

    def test_geometric_parameters_span_the_range_without_repeats(self):
        parameters = geometric_parameters(10, 1280, 12)
        assert parameters[0] == 10
        assert parameters[-1] == 1280
        assert parameters == sorted(set(parameters))
        assert geometric_parameters(3, 5, 9) == [3, 4, 5]


class TestSummaries:
    def test_spread_is_the_median_and_the_extremes(self):
        assert (spread([3, 1, 2]).median, spread([3, 1, 2]).low, spread([3, 1, 2]).high) == (2, 1, 3)

    def test_ratio_is_of_the_medians_and_its_range_is_within_rounds(self):
        found = ratio([30, 20, 40], [10, 10, 20])
        assert (found.median, found.low, found.high) == (3, 2, 3)

    def test_rounds_of_different_number_are_refused(self):
        with pytest.raises(ValueError, match="argument 2"):
            ratio([1, 2], [1])


class TestTables:
    def test_plain_tables_align_names_left_and_figures_right(self):
        text = format_table(["engine", "q/s"], [["a", "10"], ["long name", "5"]])
        assert text.splitlines() == [
            "engine     q/s",
            "---------  ---",
            "a           10",
            "long name    5",
        ]

    def test_markdown_tables_have_one_line_a_row(self):
        assert format_markdown(["engine", "q/s"], [["a", "10"]]).splitlines() == [
            "| engine | q/s |",
            "| --- | ---: |",
            "| a | 10 |",
        ]


def test_status_text_is_split_into_anonymous_and_file_backed_bytes():
    text = "Name:\tpython\nVmRSS:\t    300 kB\nRssAnon:\t     100 kB\nRssFile:\t     200 kB\nRssShmem:\t       0 kB\n"
    assert parse_status(text) == Memory(100 * 1024, 200 * 1024)
