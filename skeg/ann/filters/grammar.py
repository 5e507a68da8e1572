"""Filters as text: what they may say, and the parser.

::

    filter    = or
    or        = and { OR and }
    and       = not { AND not }
    not       = NOT not | "(" or ")" | condition
    condition = field ("=" | "!=" | "<>" | "<" | "<=" | ">" | ">=") value
              | field [NOT] IN "(" value { "," value } ")"
              | field BETWEEN value AND value        both ends belong to the range
              | field EXISTS

Words and operators may stand beside each other without blanks. Keywords are AND OR NOT IN BETWEEN EXISTS in any case.

A field or a value is a bare word or a string in single or double quotes. A word ends at white space, at one of
``( ) , = < >`` and at ``!=``, and is no keyword; quotes inside it are plain characters. In a string anything goes,
and its own quote is written twice: ``'it''s'``. A string in quotes is always a string; a bare word
is typed as in `skeg.ann.filters.words`, and ``true`` and ``false``, in any case, stand for the bool and for the
string as it is written.

``field != value`` is NOT ``field = value``, so it takes in rows without the field.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from skeg.ann.filters.brief import shortened
from skeg.ann.filters.literal import Literal
from skeg.ann.filters.nodes import And, Equals, Exists, In, Node, Not, Or, Range
from skeg.ann.filters.words import RESERVED, WHITESPACE, WORD, keyword
from skeg.errors import FilterError, ParameterError

FILTER_BYTES_MAX = 1 << 16
"""Bytes of a filter in UTF-8."""

FILTER_DEPTH_MAX = 64
"""Brackets and NOTs around a condition."""

FILTER_VALUES_MAX = 10_000
"""Values of all conditions together."""

_TOKEN = re.compile(
    rf"(?P<blank>[{WHITESPACE}]++)"
    r"|(?P<mark><=|>=|<>|!=|[()=,<>])"
    rf"|(?P<word>{WORD})"
    # A doubled quote is never taken apart to find an end of the string.
    r"""|(?P<string>"[^"]*(?:""[^"]*)*"(?!")|'[^']*(?:''[^']*)*'(?!'))"""
)

_COMPARISONS = frozenset({"=", "!=", "<>", "<", "<=", ">", ">="})


class _Token(NamedTuple):
    """kind : "mark", "word", "string" or "end"; source : as written; name : mark or keyword in capitals, or empty."""

    kind: str
    source: str
    name: str
    position: int

    @property
    def is_name(self) -> bool:
        """Whether it can be a field or a value."""
        return self.kind == "string" or (self.kind == "word" and self.name not in RESERVED)

    @property
    def string(self) -> str:
        """The string that it means, without quotes."""
        if self.kind != "string":
            return self.source
        mark = self.source[0]
        return self.source[1:-1].replace(mark * 2, mark)

    def describe(self) -> str:
        return "the end" if self.kind == "end" else repr(shortened(self.source))


def parse_filter(text: str) -> Node:
    """Return the tree of the filter `text`.

    Parameters
    ----------
    text : str
        At most `FILTER_BYTES_MAX` bytes in UTF-8, `FILTER_DEPTH_MAX` nested brackets and NOTs and `FILTER_VALUES_MAX`
        values.

    Returns
    -------
    Node
        ``parse_filter(str(node)) == node``, unless the text of the node is beyond the limit.

    Raises
    ------
    FilterError
        It does not follow the grammar, or is beyond a limit: where, what was expected, what was found.
    ParameterError
        `text` is no str.
    """
    if not isinstance(text, str):
        raise ParameterError("filter", text, "a string")
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        found = ascii(text[error.start])
        raise FilterError(text, "characters of Unicode", f"the surrogate {found}", error.start) from error
    if size > FILTER_BYTES_MAX:
        raise FilterError(text, f"at most {FILTER_BYTES_MAX} bytes", f"{size} bytes", len(text))
    return _Parser(text).parse()


def _tokens(text: str) -> list[_Token]:
    tokens = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:  # only a string can begin without being a token
            raise FilterError(text, f"a string that ends with {text[position]}", "no end", position)
        kind, source = str(match.lastgroup), match.group()
        if kind != "blank":
            name = source if kind == "mark" else keyword(source) if kind == "word" else ""
            tokens.append(_Token(kind, source, name, position))
        position = match.end()
    tokens.append(_Token("end", "", "", len(text)))
    return tokens


class _Parser:
    """Recursive descent: one method for each rule of the grammar, `_depth` bounds how deep they call each other."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = _tokens(text)
        self._next = 0
        self._depth = 0
        self._values = 0

    def parse(self) -> Node:
        if self._token.kind == "end":
            raise self._error("a condition", "an empty filter")
        node = self._or()
        if self._token.kind != "end":
            raise self._error("AND, OR or the end", f"the trailing token {self._token.describe()}")
        return node

    @property
    def _token(self) -> _Token:
        return self._tokens[self._next]

    def _error(self, expected: str, found: str | None = None) -> FilterError:
        return FilterError(self._text, expected, found or self._token.describe(), self._token.position)

    def _take(self, *names: str) -> str:
        """Step over a mark or keyword if it is next, and return it; else an empty string."""
        name = self._token.name
        if name not in names:
            return ""
        self._next += 1
        return name

    def _expect(self, name: str, expected: str) -> None:
        if not self._take(name):
            raise self._error(expected)

    def _or(self) -> Node:
        items = [self._and()]
        while self._take("OR"):
            items.append(self._and())
        return Or(items) if len(items) > 1 else items[0]

    def _and(self) -> Node:
        items = [self._not()]
        while self._take("AND"):
            items.append(self._not())
        return And(items) if len(items) > 1 else items[0]

    def _not(self) -> Node:
        name = self._token.name
        if name not in {"NOT", "("}:
            return self._condition()
        self._depth += 1
        if self._depth > FILTER_DEPTH_MAX:
            expected = f"at most {FILTER_DEPTH_MAX} nested NOTs and brackets"
            raise self._error(expected, f"one more {self._token.describe()}")
        self._next += 1
        node: Node
        if name == "NOT":
            node = Not(self._not())
        else:
            node = self._or()
            self._expect(")", "')'")
        self._depth -= 1
        return node

    def _condition(self) -> Node:
        field = self._token.string
        if not self._token.is_name or not field:  # no payload has a field without a name
            raise self._error("a field name")
        self._next += 1
        operator = self._take(*_COMPARISONS, "IN", "NOT", "BETWEEN", "EXISTS")
        if operator in _COMPARISONS:
            return _comparison(field, operator, self._value("a value"))
        if operator == "NOT":
            self._expect("IN", "IN after the field and NOT")
            return Not(In(field, self._list()))
        if operator == "IN":
            return In(field, self._list())
        if operator == "BETWEEN":
            low = self._value("the BETWEEN lower bound")
            self._expect("AND", "AND in BETWEEN")
            return Range(field, low=low, high=self._value("the BETWEEN upper bound"))
        if operator == "EXISTS":
            return Exists(field)
        raise self._error("an operator after the field")

    def _list(self) -> list[Literal]:
        self._expect("(", "'(' after IN")
        literals = [self._value("a value in the IN list")]
        while self._take(","):
            literals.append(self._value("a value in the IN list"))
        self._expect(")", "',' or ')' in the IN list")
        return literals

    def _value(self, expected: str) -> Literal:
        token = self._token
        if not token.is_name:
            raise self._error(expected)
        self._values += 1
        if self._values > FILTER_VALUES_MAX:
            raise self._error(f"at most {FILTER_VALUES_MAX} values", "one more")
        self._next += 1
        return Literal.of_string(token.string) if token.kind == "string" else Literal.of_word(token.source)


def _comparison(field: str, operator: str, literal: Literal) -> Node:
    if operator == "=":
        return Equals(field, literal)
    if operator in {"!=", "<>"}:
        return Not(Equals(field, literal))
    ends: dict[str, Any] = (
        {"low": literal, "low_open": operator == ">"}
        if operator.startswith(">")
        else {"high": literal, "high_open": operator == "<"}
    )
    return Range(field, **ends)
