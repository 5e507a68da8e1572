"""skeg.ann.filters.evaluate: every form of columns keeps the rows that a slow, obvious evaluator keeps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skeg.ann.filters.evaluate import all_kinds, check_types, evaluate
from skeg.ann.filters.grammar import parse_filter
from skeg.ann.filters.literal import KIND_OF
from skeg.ann.filters.merge import merge_columns
from skeg.ann.filters.nodes import And, Equals, Exists, In, Not, Or, Range
from skeg.ann.filters.payload import fields_of
from skeg.errors import FilterError
from tests.ann.filters.reference import Merged, growing, matches, nodes, payloads, stored


def kept(columns, text, n):
    node = parse_filter(text)
    return np.flatnonzero(evaluate(node, columns, n)).tolist()


def both_forms(rows):
    """The rows while they grow and merged."""
    columns = growing(rows)
    return [columns, Merged(merge_columns([(columns, np.arange(len(rows)))], len(rows)))]


@settings(max_examples=300)
@given(st.lists(payloads, max_size=12), st.lists(nodes, min_size=1, max_size=6), st.data())
def test_columns_keep_the_rows_of_the_obvious_evaluator(rows, trees, data):
    """Growing; merged; merged again of two parts in another order, some rows dropped."""
    n = len(rows)
    forms = both_forms(rows)
    expected = [[matches(tree, fields_of(payload)) for payload in rows] for tree in trees]
    for columns in forms:
        for tree, mask in zip(trees, expected, strict=True):
            found = evaluate(parse_filter(str(tree)), columns, n)
            assert np.bool_ == found.dtype
            assert mask == found.tolist()

    cut = data.draw(st.integers(0, n))
    survivors = data.draw(st.permutations(range(n)))[: data.draw(st.integers(0, n))]
    new_rows = np.full(n, -1, np.int64)
    new_rows[survivors] = np.arange(len(survivors))
    parts = [(form, place) for form, place in zip(forms, (new_rows.copy(), new_rows.copy()), strict=True)]
    parts[0][1][cut:] = -1
    parts[1][1][:cut] = -1
    merged = Merged(merge_columns(data.draw(st.permutations(parts)), len(survivors)))
    for tree, mask in zip(trees, expected, strict=True):
        assert [mask[row] for row in survivors] == evaluate(tree, merged, len(survivors)).tolist()


@settings(max_examples=30)
@given(st.lists(payloads, max_size=12), st.lists(nodes, min_size=1, max_size=6))
def test_a_file_keeps_the_same_rows(tmp_path_factory, rows, trees):
    columns = stored(tmp_path_factory.mktemp("fields") / "fields.skg", rows)
    assert len(rows) == columns.n
    for tree in trees:
        mask = [matches(tree, fields_of(payload)) for payload in rows]
        assert mask == evaluate(tree, columns, len(rows)).tolist()


@given(st.lists(payloads, min_size=1, max_size=8), nodes, st.integers(0, 10))
def test_only_rows_below_n_are_kept(rows, tree, n):
    for columns in both_forms(rows):
        mask = evaluate(tree, columns, n)
        assert [matches(tree, fields_of(rows[i]) if i < len(rows) else {}) for i in range(n)] == mask.tolist()


ROWS = [
    {"age": 5, "tag": ["x", "y"], "ok": True},
    {"age": 5.0, "ok": "true"},
    "age=18 age=2 tag=y ok=true",
    None,
    {"age": 2**53 + 1, "ok": False},
    {"age": 2.0**53},
    {"age": "5"},
    {"age": -0.0},
]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("age = 5", [0, 1]),
        ("age = 5.0", [0, 1]),
        ("age = '5'", [6]),
        ("age = 0", [7]),
        ("age = -0.0", [7]),
        ("age != 5", [2, 3, 4, 5, 6, 7]),
        ("age = 9007199254740993", [4]),
        ("age = 9007199254740992", [5]),
        ("age = 9007199254740992.0", [5]),
        ("age > 9007199254740992", [4]),
        ("age >= 9007199254740993", [4]),
        ("age < 9007199254740993 AND age > 100", [5]),
        ("age <= 9007199254740992", [0, 1, 2, 5, 7]),
        ("age BETWEEN 4.5 AND 5.5", [0, 1]),
        ("age >= 17.5", [2, 4, 5]),
        ("age > 1e300", []),
        ("age < 1e300 AND age > -1e300", [0, 1, 2, 4, 5, 7]),
        ("age >= -1e300", [0, 1, 2, 4, 5, 7]),
        ("age < -1e300", []),
        ("age BETWEEN 3 AND 17", [0, 1]),
        ("age > 10 AND age < 5", [2]),  # two conditions, met by two values
        ("age BETWEEN 17 AND 3", []),
        ("age >= '0'", [6]),
        ("age EXISTS", [0, 1, 2, 4, 5, 6, 7]),
        ("NOT age EXISTS", [3]),
        ("ok = true", [0, 1, 2]),
        ("ok = TRUE", [0]),
        ("ok = 'true'", [1, 2]),
        ("ok = false", [4]),
        ("ok != true", [3, 4, 5, 6, 7]),
        ("ok > a", [1, 2]),
        ("tag = y", [0, 2]),
        ("tag IN (x, z)", [0]),
        ("tag NOT IN (x, z)", [1, 2, 3, 4, 5, 6, 7]),
        ("tag != x", [1, 2, 3, 4, 5, 6, 7]),
        ("nothing = 1", []),
        ("nothing != 1", list(range(8))),
        ("nothing > 1 OR nothing EXISTS", []),
    ],
)  # fmt: skip
def test_conditions_on_a_few_rows(tmp_path, text, rows):
    for columns in [*both_forms(ROWS), stored(tmp_path / "fields.skg", ROWS)]:
        check_types(parse_filter(text), columns.kinds())
        assert rows == kept(columns, text, len(ROWS))


NUMBERS_NEAR_THE_LIMITS = [
    limit + step
    for limit in (-(2**63), -(2**62), -(2**53), 0, 2**53, 2**62, 2**63)
    for step in (-2, -1, 0, 1, 2)
    if -(2**63) <= limit + step < 2**63
]


def test_ints_and_floats_are_compared_exactly_at_every_limit():
    floats = sorted(
        {float(i) for i in NUMBERS_NEAR_THE_LIMITS} | {0.5, -0.5, 2.0**63, -(2.0**63) - 2048, 1e300, -1e300}
    )
    values = [*NUMBERS_NEAR_THE_LIMITS, *floats]
    rows = [{"v": value} for value in values]
    for columns in both_forms(rows):
        for literal in values:
            spelled = repr(literal)
            for operator, holds in (
                ("=", lambda v: v == literal),  # noqa: B023 - used at once
                ("<", lambda v: v < literal),  # noqa: B023
                ("<=", lambda v: v <= literal),  # noqa: B023
                (">", lambda v: v > literal),  # noqa: B023
                (">=", lambda v: v >= literal),  # noqa: B023
            ):
                expected = [row for row, value in enumerate(values) if holds(value)]
                assert expected == kept(columns, f"v {operator} {spelled}", len(rows)), (operator, literal)


def test_strings_are_ordered_by_their_bytes():
    rows = ["v=" + text for text in ("Z", "a", "aa", "é", "\uffff", "𝄞")] + ["v="]
    for columns in both_forms(rows):
        assert [0, 6] == kept(columns, "v < a", 7)
        assert [5] == kept(columns, "v > '\uffff'", 7)  # by UTF-16 it would come before
        assert list(range(7)) == kept(columns, "v >= ''", 7)
        assert [1, 2, 3] == kept(columns, "v BETWEEN a AND é", 7)
        assert [] == kept(columns, "v BETWEEN é AND a", 7)


@pytest.mark.parametrize(
    ("text", "field", "held", "found"),
    [
        ("age >= x", "age", "int and float", "a range of strings (age >= x)"),
        ("age = 'x'", "age", "int and float", "the string 'x'"),
        ("age = true", "age", "int and float", "true"),
        ("name > 5", "name", "str", "a range of numbers (name > 5)"),
        ("name = 5", "name", "str", "the number 5"),
        ("name IN (a, 5.0)", "name", "str", "the number 5.0"),
        ("ok > true", "ok", "bool", "a range of strings (ok > true)"),
        ("ok = 1", "ok", "bool", "the number 1"),
        ("age BETWEEN 1 AND x", "age", "int and float", "a range of numbers and strings (age BETWEEN 1 AND x)"),
        ("mixed BETWEEN x AND 1", "mixed", "int and str", "a range of numbers and strings (mixed BETWEEN x AND 1)"),
        ("x = 1 OR NOT (y EXISTS AND name != 7)", "name", "str", "the number 7"),
    ],
)  # fmt: skip
def test_a_condition_that_no_value_could_match_is_refused(text, field, held, found):
    kinds = {"age": {"int", "float"}, "name": {"str"}, "ok": {"bool"}, "mixed": {"int", "str"}, "gone": set()}
    with pytest.raises(FilterError) as caught:
        check_types(parse_filter(text), kinds)
    expected = f"something comparable with the {held} values that it holds"
    assert f"filter, field {field!r}: expected {expected}, found {found}" == str(caught.value)
    assert (field, None) == (caught.value.field, caught.value.position)
    for fine in (
        "age = 5",
        "name = true",
        "ok = true",
        "mixed > 1",
        "mixed = x",
        "gone = 1",
        "other BETWEEN 1 AND x",
        "ok EXISTS",
    ):
        check_types(parse_filter(fine), kinds)


@given(st.lists(payloads, max_size=6), nodes)
def test_types_are_judged_over_all_parts(rows, tree):
    """A filter is refused exactly when one of its conditions has a field, but no value of a kind it could match."""
    held = {}
    for payload in rows:
        for field, values in fields_of(payload).items():
            held.setdefault(field, set()).update(KIND_OF[type(value)] for value in values)
    parts = [growing(rows[:2]), *both_forms(rows[2:])]
    assert held == all_kinds(parts)

    def fits(node):
        match node:
            case Not():
                return fits(node.item)
            case And() | Or():
                return all(fits(item) for item in node.items)
            case Exists():
                return True
            case Equals():
                wanted = [node.literal.kinds]
            case In():
                wanted = [literal.kinds for literal in node.literals]
            case Range():
                ends = [end.kinds - {"bool"} for end in (node.low, node.high) if end]
                wanted = [ends[0] & ends[-1]]
        return node.field not in held or all(kinds & held[node.field] for kinds in wanted)

    if fits(tree):
        check_types(tree, held)
    else:
        with pytest.raises(FilterError, match=r"^filter, field "):
            check_types(tree, held)
