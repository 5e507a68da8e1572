"""skeg.ann.filters.merge: parts put together are what one part would have been, and dropped rows leave no trace."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skeg.ann.filters import merge
from skeg.ann.filters.blobs import Blobs
from skeg.ann.filters.column import Column
from skeg.ann.filters.columns import StoredColumns
from skeg.ann.filters.merge import merge_columns, merge_payloads
from skeg.ann.filters.payload import encode_payload, fields_of
from skeg.container import Container
from tests.ann.filters.reference import Merged, growing, payloads, write_merged


def plain(columns):
    """Columns as lists that compare."""
    assert all(isinstance(column, Column) for column in columns.values())
    return {
        key: (
            [repr(value) for value in column.values.tolist()],
            column.starts.tolist(),
            column.rows.tolist(),
            column.rows.dtype,
        )
        for key, column in columns.items()
    }


def of_rows(rows):
    """What merging should give, from the payloads of the new rows."""
    pairs = {}
    kinds = {bool: "bool", int: "int", float: "float", str: "str"}
    for row, payload in enumerate(rows):
        for field, values in fields_of(payload).items():
            for value in values:
                held = pairs.setdefault((field, kinds[type(value)]), {})
                plain_value = value.encode() if isinstance(value, str) else value + 0 if value != 0 else type(value)(0)
                held.setdefault(plain_value, set()).add(row)
    return {
        key: (
            [repr(int(value) if key[1] == "bool" else value) for value in sorted(held)],
            np.cumsum([0, *(len(held[value]) for value in sorted(held))]).tolist(),
            [row for value in sorted(held) for row in sorted(held[value])],
            np.uint32,
        )
        for key, held in pairs.items()
    }


@given(st.data())
def test_parts_together_are_as_one(data):
    """Any number of parts, growing or merged before, rows spread and dropped in any way, parts in any order."""
    total = data.draw(st.lists(st.lists(payloads, max_size=6), max_size=4))
    places = data.draw(st.permutations(range(sum(map(len, total)))))
    n = data.draw(st.integers(0, len(places)))
    rows = [None] * n
    parts, blobs = [], []
    for part in total:
        new_rows = np.array([places.pop() for _ in part], np.int64)
        new_rows[new_rows >= n] = -1
        for new_row, payload in zip(new_rows.tolist(), part, strict=True):
            if new_row >= 0:
                rows[new_row] = payload
        columns = growing(part)
        if data.draw(st.booleans()):
            columns = Merged(merge_columns([(columns, np.arange(len(part)))], len(part)))
        parts.append((columns, new_rows))
        blobs.append((Blobs.of([encode_payload(payload) for payload in part]), new_rows))
    order = data.draw(st.permutations(range(len(parts))))
    assert of_rows(rows) == plain(merge_columns([parts[i] for i in order], n))
    offsets, blocks = merge_payloads([blobs[i] for i in order], n)
    assert [encode_payload(payload) for payload in rows] == Blobs(
        offsets, np.concatenate([np.empty(0, np.uint8), *blocks])
    ).tolist()


def test_rows_that_are_not_asked_for_are_dropped():
    """A part that has grown since the rows were counted."""
    rows = ["a=1 t=x", "a=2 t=y", "a=1 b=1 t=z"]
    for columns in (growing(rows), Merged(merge_columns([(growing(rows), np.arange(3))], 3))):
        assert of_rows([rows[1], rows[0]]) == plain(merge_columns([(columns, np.array([1, 0]))], 2))


def test_dropped_rows_leave_no_bytes(tmp_path):
    rows = ["secretkey=1 open=yes", "open=secretvalue number=123456789", "open=yes"]
    first = tmp_path / "first.skg"
    write_merged(first, [(growing(rows), rows, np.arange(3))], 3)
    assert b"secretkey" in first.read_bytes()
    with Container.open(first) as container:
        columns = StoredColumns(container)
        write_merged(tmp_path / "second.skg", [(columns, columns.payloads(), np.array([-1, -1, 0]))], 1)
    data = (tmp_path / "second.skg").read_bytes()
    assert b"secret" not in data
    assert (123456789).to_bytes(8, "little") not in data
    with Container.open(tmp_path / "second.skg") as container:
        container.verify()
        assert {"open": {"str"}} == StoredColumns(container).kinds()


@pytest.mark.parametrize("block", [1, 3, 10, 1 << 18])
def test_payloads_come_in_blocks(monkeypatch, rng, block):
    monkeypatch.setattr(merge, "_BLOCK_BYTES", block)
    items = [rng.bytes(size) for size in (0, 3, 0, 0, 20, 1, 3, 0)]
    order = rng.permutation(len(items))
    offsets, blocks = merge_payloads([(Blobs.of(items), order)], len(items) + 1)
    blocks = list(blocks)
    assert max(block, 20) >= max(map(len, blocks))
    new = Blobs(offsets, np.concatenate(blocks)).tolist()
    assert [*items, b""] == [new[i] for i in [*order.tolist(), len(items)]]


def test_a_file_does_not_depend_on_the_order_of_parts(tmp_path):
    parts = [
        (growing(rows), rows, np.array(new)) for rows, new in ((["a=-0.0 t=x"], [1]), ([{"a": 0.0}, "t=y"], [0, 2]))
    ]
    write_merged(tmp_path / "one.skg", parts, 3)
    write_merged(tmp_path / "two.skg", parts[::-1], 3)
    assert (tmp_path / "one.skg").read_bytes() == (tmp_path / "two.skg").read_bytes()
