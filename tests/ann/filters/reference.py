"""Twins of the filters that are slow and obvious, and what the tests draw payloads and filters from."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from skeg.ann.filters.blobs import Blobs
from skeg.ann.filters.column import FieldColumns
from skeg.ann.filters.columns import StoredColumns, write_columns
from skeg.ann.filters.growing import GrowingColumns
from skeg.ann.filters.literal import Literal
from skeg.ann.filters.merge import merge_columns, merge_payloads
from skeg.ann.filters.nodes import And, Equals, Exists, In, Not, Or, Range
from skeg.ann.filters.payload import encode_payload, fields_of
from skeg.container import Container


def equals(value, literal):
    if isinstance(value, bool):
        return literal.truth is not None and value == literal.truth
    wanted = literal.text if isinstance(value, str) else literal.number
    return wanted is not None and value == wanted


def within(value, node):
    if isinstance(value, bool):
        return False
    ends = [(end, is_open) for end, is_open in ((node.low, node.low_open), (node.high, node.high_open)) if end]
    is_text = isinstance(value, str)
    if any((end.text if is_text else end.number) is None for end, _ in ends):
        return False
    key = (lambda end: end.text.encode()) if is_text else (lambda end: end.number)
    value = value.encode() if is_text else value
    below = node.low is None or (value > key(node.low) if node.low_open else value >= key(node.low))
    above = node.high is None or (value < key(node.high) if node.high_open else value <= key(node.high))
    return below and above


def matches(node, fields):
    """Whether a row with these fields is kept."""
    match node:
        case Not():
            return not matches(node.item, fields)
        case And():
            return all(matches(item, fields) for item in node.items)
        case Or():
            return any(matches(item, fields) for item in node.items)
        case Equals():
            return any(equals(value, node.literal) for value in fields.get(node.field, []))
        case In():
            return any(equals(value, literal) for value in fields.get(node.field, []) for literal in node.literals)
        case Range():
            return any(within(value, node) for value in fields.get(node.field, []))
        case Exists():
            return node.field in fields
    raise AssertionError(node)


class Merged(FieldColumns):
    """What `merge_columns` gives, without a file in between."""

    def __init__(self, columns):
        self.columns = columns

    def find(self, field, kind):
        return self.columns.get((field, kind))

    def kinds(self):
        return {field: {kind for name, kind in self.columns if name == field} for field, _ in self.columns}

    def column_keys(self):
        return list(self.columns)


def growing(payloads, first=0):
    columns = GrowingColumns()
    for row, payload in enumerate(payloads, first):
        columns.append(row, fields_of(payload))
    return columns


def stored(path, payloads):
    """The payloads as a file, opened."""
    write_merged(path, [(growing(payloads), payloads, np.arange(len(payloads)))], len(payloads))
    with Container.open(path) as container:
        return StoredColumns(container)


def write_merged(path, parts, n):
    """Write the merged file of parts (columns, payloads or `Blobs`, new rows)."""
    columns = merge_columns([(columns, new_rows) for columns, _, new_rows in parts], n)
    blobs = [
        (payloads if isinstance(payloads, Blobs) else Blobs.of([encode_payload(p) for p in payloads]), new_rows)
        for _, payloads, new_rows in parts
    ]
    write_columns(path, columns, *merge_payloads(blobs, n))


# Names and strings that need quotes, look like something else or differ by little.
FIELDS = ("a", "b", "and", "It's", 'q"q', "x y", "true", "7", "ключ", "!=")
TEXTS = (
    "",
    "a",
    "b",
    "ab",
    "true",
    "FALSE",
    "007",
    "-0",
    "in",
    "x y",
    "'",
    '"',
    "'\"",
    "a=b",
    "é",
    "𝄞",
    "�",
    "!",
    "1e999",
)
NUMBERS = (0, 1, -7, 2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, 2**62 + 1, -(2**63))
FLOATS = (0.0, -0.0, 0.5, 1.0, -7.5, 2.0**53, 2.0**53 + 2, 2.0**63, -(2.0**63), 1e300, -1e300, 5e-324, 1e22)

texts = st.sampled_from(TEXTS) | st.text(max_size=4)
scalars = (
    texts
    | st.booleans()
    | st.sampled_from(NUMBERS)
    | st.integers(-3, 3)
    | st.integers(-(2**63), 2**63 - 1)
    | st.sampled_from(FLOATS)
    | st.floats(allow_nan=False, allow_infinity=False)
)
fields = st.sampled_from(FIELDS)
mappings = st.dictionaries(
    fields, scalars | st.lists(texts, max_size=3) | st.lists(texts, max_size=3).map(tuple), max_size=4
)
lines = st.lists(st.tuples(fields, scalars.map(str)), max_size=4).map(lambda ws: " ".join(f"{k}={v}" for k, v in ws))
payloads = st.none() | mappings | lines | lines.map(str.encode) | st.binary(max_size=6)

literals = (
    scalars.map(Literal.of_value)
    | texts.map(Literal.of_string)
    | st.sampled_from(["true", "False", "TRUE", "x", "007", "1e3", "-0.0", "9223372036854775808", "-7"]).map(
        Literal.of_word
    )
)
ranges = (
    st.builds(Range, fields, low=literals, low_open=st.booleans())
    | st.builds(Range, fields, high=literals, high_open=st.booleans())
    | st.builds(Range, fields, low=literals, high=literals)
)
conditions = (
    st.builds(Equals, fields, literals)
    | st.builds(In, fields, st.lists(literals, min_size=1, max_size=4))
    | ranges
    | st.builds(Exists, fields)
)
nodes = st.recursive(
    conditions,
    lambda inner: (
        st.builds(Not, inner)
        | st.builds(And, st.lists(inner, min_size=2, max_size=3))
        | st.builds(Or, st.lists(inner, min_size=2, max_size=3))
    ),
    max_leaves=8,
)
