"""skeg.ann.filters.growing: searches while rows are added see exactly the rows they ask for."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from skeg.ann.filters.evaluate import check_types, evaluate
from skeg.ann.filters.grammar import parse_filter
from skeg.ann.filters.growing import GrowingColumns
from skeg.ann.filters.merge import merge_columns
from skeg.ann.filters.payload import fields_of
from tests.ann.filters.reference import Merged, matches


def row_fields(row):
    return {
        "n": [row, row % 7],
        "x": [row / 2],
        "even": [row % 2 == 0],
        "tag": [f"t{row % 50}", f"u{row}"],
        f"k{row % 300}": ["v"],
    }


TEXTS = (
    "n = 3",
    "n >= 1000",
    "x BETWEEN 10 AND 400.5",
    "even = true",
    "tag = t7",
    "tag < t2",
    "tag > u5",
    "k9 EXISTS",
    "NOT n < 6",
)


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 64, 1000])
def test_any_number_of_rows(n):
    """Around the lengths at which arrays grow, and between searches that keep what they sorted."""
    columns = GrowingColumns()
    for row in range(n):
        columns.append(row, row_fields(row))
        if row % 10 == 0:
            evaluate(parse_filter("tag > t3"), columns, row)
    for text in TEXTS:
        node = parse_filter(text)
        for m in {0, n // 2, n, n + 3}:
            expected = [matches(node, row_fields(row) if row < n else {}) for row in range(m)]
            assert expected == evaluate(node, columns, m).tolist(), text


def test_rows_may_be_left_out_and_be_large():
    columns = GrowingColumns()
    columns.append(3, fields_of("a=1"))
    columns.append(5, {})
    columns.append(2**32 - 1, fields_of("a=1"))
    assert [False, False, False, True, False] == evaluate(parse_filter("a = 1"), columns, 5).tolist()
    assert [3] == np.flatnonzero(evaluate(parse_filter("a EXISTS"), columns, 10**6)).tolist()
    assert {"a": {"int"}} == columns.kinds()


def test_searches_meanwhile_see_a_prefix():
    """One thread adds rows, others search, list kinds and merge the rows that were complete when they began."""
    n = 3000
    columns = GrowingColumns()
    complete = [0]
    nodes = [parse_filter(text) for text in TEXTS]
    expected = [np.array([matches(node, row_fields(row)) for row in range(n)]) for node in nodes]
    failures = []
    done = threading.Event()

    def read(turn):
        try:
            while not done.is_set():
                m = complete[0]
                node, mask = nodes[turn % len(nodes)], expected[turn % len(nodes)]
                check_types(node, columns.kinds())
                if mask[:m].tolist() != evaluate(node, columns, m).tolist():
                    failures.append((str(node), m))
                if turn % 20 == 0:
                    merged = Merged(merge_columns([(columns, np.arange(m))], m))
                    if mask[:m].tolist() != evaluate(node, merged, m).tolist():
                        failures.append(("merged", str(node), m))
                turn += 1
        except Exception as error:  # noqa: BLE001 - handed to the test
            failures.append(error)

    readers = [threading.Thread(target=read, args=(turn,)) for turn in range(3)]
    for reader in readers:
        reader.start()
    for row in range(n):
        columns.append(row, row_fields(row))
        complete[0] = row + 1
    done.set()
    for reader in readers:
        reader.join()
    assert [] == failures
