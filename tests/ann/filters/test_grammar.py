"""skeg.ann.filters.grammar: every filter has one meaning, every mistake a place and a reason."""

from __future__ import annotations

import pickle
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skeg.ann.filters.grammar import FILTER_BYTES_MAX, FILTER_DEPTH_MAX, FILTER_VALUES_MAX, parse_filter
from skeg.ann.filters.literal import Literal
from skeg.ann.filters.nodes import And, Equals, Exists, In, Not, Or, Range
from skeg.ann.filters.words import RESERVED
from skeg.errors import FilterError, ParameterError, SkegError
from tests.ann.filters.reference import nodes

word, string = Literal.of_word, Literal.of_string
ONE, TWO = word("1"), word("2")
A, B, C = Equals("a", ONE), Equals("b", ONE), Equals("c", ONE)


@pytest.mark.parametrize(
    ("text", "node"),
    [
        ("a=1", A),
        ("  a  =  1  ", A),
        ("a\u2003=\u00a01", A),
        ("a = 1 OR b = 1 AND NOT c = 1", Or([A, And([B, Not(C)])])),
        ("(a = 1 or b = 1) and c = 1", And([Or([A, B]), C])),
        ("(a=1 AND b=1) AND c=1", And([And([A, B]), C])),
        ("a=1 AND b=1 AND c=1", And([A, B, C])),
        ("NOT NOT a=1", Not(Not(A))),
        ("NOT a=1 AND b=1", And([Not(A), B])),
        ("NOT (a=1 AND b=1)", Not(And([A, B]))),
        ("not(a=1)", Not(A)),
        ("((a=1))", A),
        ("a!=1", Not(A)),
        ("a<>1", Not(A)),
        ("a NOT IN (1)", Not(In("a", [ONE]))),
        ("doc IN (a,b,c)", In("doc", [word("a"), word("b"), word("c")])),
        ("age >= 18", Range("age", low=word("18"))),
        ("age>=18", Range("age", low=word("18"))),
        ("age > 18", Range("age", low=word("18"), low_open=True)),
        ("age<18", Range("age", high=word("18"), high_open=True)),
        ("age<=18", Range("age", high=word("18"))),
        ("a between 1 and 2 and b = 1", And([Range("a", low=ONE, high=TWO), B])),
        ("a BETWEEN 2 AND 1", Range("a", low=TWO, high=ONE)),
        ("a exists", Exists("a")),
        ("NOT a EXISTS", Not(Exists("a"))),
        ("'and' = 'or'", Equals("and", string("or"))),
        ('"a b" = "x=y"', Equals("a b", string("x=y"))),
        ("a = 'it''s'", Equals("a", string("it's"))),
        ('a = "say ""yes"""', Equals("a", string('say "yes"'))),
        ("a = ''", Equals("a", string(""))),
        ("a = ''''", Equals("a", string("'"))),
        ('a="x\\"', Equals("a", string("x\\"))),
        ("a = O'Brien", Equals("a", word("O'Brien"))),
        ("a = '1'", Equals("a", string("1"))),
        ("a = x!y", Equals("a", word("x!y"))),
        ("!a = !", Equals("!a", word("!"))),
        ("a = \u0131n", Equals("a", word("\u0131n"))),  # a dotless i: not IN
        ("true = TRUE", Equals("true", Literal(text="TRUE", truth=True))),
        ("a = false", Equals("a", Literal(text="false", truth=False))),
        ("a = 'false'", Equals("a", Literal(text="false"))),
        ("a = 007", Equals("a", Literal(text="007"))),
        ("a = -9223372036854775808", Equals("a", Literal(number=-(2**63)))),
        ("a = 9223372036854775808", Equals("a", Literal(text="9223372036854775808"))),
        ("a = 1e3", Equals("a", Literal(number=1000.0))),
        ("a = nan", Equals("a", Literal(text="nan"))),
        ("a.b-c:d = x/y;z", Equals("a.b-c:d", word("x/y;z"))),
    ],
)  # fmt: skip
def test_filters_have_one_meaning(text, node):
    assert node == parse_filter(text)
    assert node == parse_filter(str(node))


@pytest.mark.parametrize(
    ("text", "position", "expected", "found"),
    [
        ("", 0, "a condition", "an empty filter"),
        (" \n ", 3, "a condition", "an empty filter"),
        ("a = 1 b = 2", 6, "AND, OR or the end", "the trailing token 'b'"),
        ("a = 1)", 5, "AND, OR or the end", "the trailing token ')'"),
        ("a = 'x'y", 7, "AND, OR or the end", "the trailing token 'y'"),
        ("(a = 1", 6, "')'", "the end"),
        ("(a = 1 b", 7, "')'", "'b'"),
        ("NOT", 3, "a field name", "the end"),
        ("()", 1, "a field name", "')'"),
        ("a = 1 AND", 9, "a field name", "the end"),
        ("a = 1 AND or", 10, "a field name", "'or'"),
        ("= 1", 0, "a field name", "'='"),
        ("'' = 1", 0, "a field name", "\"''\""),
        ("a", 1, "an operator after the field", "the end"),
        ("a\u20031", 2, "an operator after the field", "'1'"),
        ("a b", 2, "an operator after the field", "'b'"),
        ("a '=' 1", 2, "an operator after the field", "\"'='\""),
        ("a =", 3, "a value", "the end"),
        ("user ==", 6, "a value", "'='"),
        ("age > = 18", 6, "a value", "'='"),
        ("a = and", 4, "a value", "'and'"),
        ("a != )", 5, "a value", "')'"),
        ("a BETWEEN", 9, "the BETWEEN lower bound", "the end"),
        ("a BETWEEN AND", 10, "the BETWEEN lower bound", "'AND'"),
        ("a BETWEEN 1", 11, "AND in BETWEEN", "the end"),
        ("a BETWEEN 1 OR 2", 12, "AND in BETWEEN", "'OR'"),
        ("a BETWEEN 1 AND", 15, "the BETWEEN upper bound", "the end"),
        ("a BETWEEN 1 AND (", 16, "the BETWEEN upper bound", "'('"),
        ("a IN", 4, "'(' after IN", "the end"),
        ("a IN 1", 5, "'(' after IN", "'1'"),
        ("a IN (", 6, "a value in the IN list", "the end"),
        ("a IN ()", 6, "a value in the IN list", "')'"),
        ("a IN (1,)", 8, "a value in the IN list", "')'"),
        ("a IN (1", 7, "',' or ')' in the IN list", "the end"),
        ("a IN (1 2", 8, "',' or ')' in the IN list", "'2'"),
        ("a NOT = 1", 6, "IN after the field and NOT", "'='"),
        ("a NOT", 5, "IN after the field and NOT", "the end"),
        ("a = 'x", 4, "a string that ends with '", "no end"),
        ('a = """', 4, 'a string that ends with "', "no end"),
        ('a = "x\'', 4, 'a string that ends with "', "no end"),
        ("é = \ud800", 4, "characters of Unicode", r"the surrogate '\ud800'"),
        ("a " + "x" * 1000, 2, "an operator after the field", "'" + "x" * 40 + "...'"),
    ],
)  # fmt: skip
def test_mistakes_have_a_place_and_a_reason(text, position, expected, found):
    with pytest.raises(FilterError) as caught:
        parse_filter(text)
    error = caught.value
    assert (text, position, expected, found) == (error.text, error.position, error.expected, error.found)
    assert f"filter, position {position}: expected {expected}, found {found}" == str(error)
    assert isinstance(error, (ParameterError, SkegError, ValueError))
    again = pickle.loads(pickle.dumps(error))
    assert (str(error), error.text, error.value, error.field) == (str(again), again.text, again.value, again.field)


@given(nodes)
def test_what_a_tree_prints_parses_to_the_same_tree(node):
    assert node == parse_filter(str(node))
    assert hash(node) == hash(parse_filter(str(node)))


@given(
    st.text(max_size=30)
    | st.lists(st.sampled_from([*"a1\"'(),=<>!", "'x'", "!=", "<=", "<>", *sorted(RESERVED), "true"]), max_size=12).map(
        " ".join
    )
)
def test_any_text_parses_or_is_refused_with_a_place(text):
    try:
        node = parse_filter(text)
    except FilterError as error:
        assert 0 <= error.position <= len(text)  # noqa: PT017 - either outcome is right
        return
    assert node == parse_filter(str(node))


@pytest.mark.parametrize(("opening", "closing", "depth"), [("(", ")", 1), ("NOT ", "", 1), ("NOT(", ")", 2)])
def test_nesting_is_limited(opening, closing, depth):
    levels = FILTER_DEPTH_MAX // depth
    deepest = parse_filter(opening * levels + "a != 1" + closing * levels)
    assert deepest == parse_filter(str(deepest))
    for more in (levels + 1, 20_000):
        text = opening * more + "a = 1"
        with pytest.raises(
            FilterError, match="expected at most 64 nested NOTs and brackets, found one more "
        ) as caught:
            parse_filter((text + closing * more)[:FILTER_BYTES_MAX])
        assert len(opening) * levels == caught.value.position
    parse_filter(" AND ".join(["(NOT a = 1)"] * 1000))  # beside each other they are no nesting


def test_a_deep_filter_needs_little_of_the_stack():
    text = "(a = 1 OR b = 1 AND NOT (" * 20 + "a = 1" + "))" * 20

    def below(frames):
        return below(frames - 1) if frames else parse_filter(text)

    # The frames of the test runner are not counted.
    depth = 0
    frame = sys._getframe()
    while frame is not None:
        depth, frame = depth + 1, frame.f_back
    node = below(sys.getrecursionlimit() - depth - 400)
    assert node == parse_filter(str(node))


def test_length_and_number_of_values_are_limited():
    parse_filter("a = " + "x" * (FILTER_BYTES_MAX - 4))
    for text in (
        "a = " + "x" * (FILTER_BYTES_MAX - 3),
        "a = " + "é" * (FILTER_BYTES_MAX // 2),
        '"' * 10**7,
        "(" * 10**7,
    ):
        with pytest.raises(FilterError, match="expected at most 65536 bytes, found"):
            parse_filter(text)
    values = ",".join(["1"] * FILTER_VALUES_MAX)
    assert FILTER_VALUES_MAX == len(parse_filter(f"a IN ({values})").literals)
    with pytest.raises(FilterError, match="expected at most 10000 values, found one more") as caught:
        parse_filter(f"a IN ({values}) AND b = 2")
    assert f"a IN ({values}) AND b = ".__len__() == caught.value.position


@pytest.mark.parametrize(
    "text", ["'" * 65535, '"' * 65535, "a = " + "'" * 65531, "a" * 65536, "!" * 65536, "!=" * 30000, " " * 65536]
)
def test_long_runs_of_one_character_take_no_long_time(text):
    with pytest.raises(FilterError):
        parse_filter(text)


@pytest.mark.parametrize("value", [None, b"a = 1", 3, ["a"]])
def test_a_filter_is_a_string(value):
    with pytest.raises(ParameterError, match="expected a string"):
        parse_filter(value)


def test_nodes_that_no_filter_spells_are_refused():
    for make in (
        lambda: Equals("", ONE),
        lambda: Equals(3, ONE),
        lambda: Exists("\ud800"),
        lambda: In("a", []),
        lambda: And([A]),
        lambda: Or([]),
        lambda: Range("a"),
        lambda: Range("a", low=ONE, high_open=True),
        lambda: Range("a", high=ONE, low_open=True),
        lambda: Range("a", low=ONE, high=TWO, high_open=True),
        lambda: Literal.of_value(None),
        lambda: Literal.of_value(2**63),
        lambda: Literal.of_value(10**5000),
        lambda: Literal.of_value(float("nan")),
        lambda: Literal.of_value("\ud800"),
    ):
        with pytest.raises(ParameterError):
            make()
