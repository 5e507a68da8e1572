"""skeg.ann.filters.columns: the file of fields and payloads, whole and damaged."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skeg.ann.filters.blobs import Blobs, offsets_of
from skeg.ann.filters.columns import FIELDS, StoredColumns, write_columns
from skeg.ann.filters.evaluate import evaluate
from skeg.ann.filters.grammar import parse_filter
from skeg.ann.filters.merge import merge_columns
from skeg.ann.filters.payload import decode_payload, encode_payload
from skeg.container import Container, Section, write_container
from skeg.errors import CorruptError, FormatError, ParameterError, StorageError
from tests.ann.filters.reference import growing, payloads, stored

ROWS = [
    {"n": 3, "x": 0.5, "ok": True, "tag": ["red", "blue"]},
    "n=1 tag=red n=1",
    None,
    {"n": -2, "x": 1e300, "ok": False, "é": "ü"},
    b"n=3\xff",
    {"n": 2.5, "tag": ""},
]
FILTERS = [
    parse_filter(text)
    for text in ("n = 3", "n > 0", "n EXISTS", "x < 1", "ok = true", "tag = red", "tag >= b", "NOT é = ü", "none = 1")
]


def masks(columns):
    return [evaluate(node, columns, columns.n).tolist() for node in FILTERS]


def test_the_arrays_are_as_specified(tmp_path):
    stored(tmp_path / FIELDS, ROWS)
    expected = {
        "kinds": [0, 1, 1, 2, 3, 3],
        "name_offsets": [0, 1, 2, 3, 5, 8, 10],
        "names": list("nnxoktagé".encode()),
        "value_offsets": [0, 3, 4, 6, 8, 11, 12],
        "int_values": [-2, 1, 3],
        "float_values": [2.5, 0.5, 1e300],
        "bool_values": [0, 1],
        "string_offsets": [0, 0, 4, 7, 9],
        "strings": list("blueredü".encode()),
        "starts": [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 13],
        "rows": [3, 1, 0, 5, 0, 3, 3, 0, 5, 0, 0, 1, 3],
        "payload_offsets": offsets_of(np.array([len(encode_payload(payload)) for payload in ROWS])).tolist(),
        "payloads": list(b"".join(map(encode_payload, ROWS))),
    }
    with Container.open(tmp_path / FIELDS) as container:
        container.verify()
        assert {"file": "fields"} == container.meta
        assert list(expected) == [section.name for section in container.sections]
        assert expected == {name: container.array(name).tolist() for name in expected}


@settings(max_examples=30)
@given(st.lists(payloads, max_size=10))
def test_payloads_are_read_back(tmp_path_factory, rows):
    columns = stored(tmp_path_factory.mktemp("fields") / FIELDS, rows)
    assert [encode_payload(payload) for payload in rows] == [columns.payload(row) for row in range(len(rows))]
    assert [encode_payload(payload) for payload in rows] == columns.payloads().tolist()


def test_no_row_and_no_field_make_a_file(tmp_path):
    for n, rows in enumerate(([], [None], [b"\xff"])):
        columns = stored(tmp_path / f"{n}.skg", rows)
        assert {} == columns.kinds()
        nothing = [False] * len(rows)
        assert [nothing] * 7 == masks(columns)[:7]
        for row in (-1, len(rows)):
            with pytest.raises(ParameterError):
                columns.payload(row)


def test_payload_blocks_have_to_fill_the_file(tmp_path):
    columns = merge_columns([(growing(["a=1"]), np.arange(1))], 1)
    with pytest.raises(StorageError, match="'payloads' was not filled"):
        write_columns(tmp_path / FIELDS, columns, np.array([0, 5]), [np.zeros(4, np.uint8)])
    with pytest.raises(FormatError):
        Container.open(tmp_path / FIELDS)


def test_another_container_is_refused(tmp_path):
    with write_container(tmp_path / FIELDS, {}, [Section("ids", "u8", (1,))]) as writer:
        writer.append("ids", np.zeros(1, "u8"))
    with (
        Container.open(tmp_path / FIELDS) as container,
        pytest.raises(StorageError, match="section 'kinds' is missing"),
    ):
        StoredColumns(container)


def test_a_file_cut_short_is_not_opened(tmp_path):
    path = tmp_path / FIELDS
    stored(path, ROWS)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(StorageError):
            Container.open(path)


def use(container):
    """Everything that a reader does; a damaged file may refuse any of it with a typed error."""
    columns = StoredColumns(container)
    for node in FILTERS:
        try:
            evaluate(node, columns, columns.n)
        except CorruptError:
            continue
    for row in range(columns.n):
        try:
            decode_payload(columns.payload(row))
        except (CorruptError, ValueError):
            continue
    assert columns.n == len(columns.payloads())
    merge_columns([(columns, np.arange(columns.n))], columns.n)


def test_a_changed_byte_is_never_a_crash_and_always_found(tmp_path):
    path = tmp_path / FIELDS
    stored(path, ROWS)
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << (place * 5 % 8)
        path.write_bytes(damaged)
        try:
            container = Container.open(path)
        except StorageError:
            continue
        with container:
            with pytest.raises(CorruptError):
                container.verify()
            try:
                use(container)
            except StorageError as error:
                assert str(path) == error.path  # noqa: PT017 - an answer is right too


class Arrays:
    """A container whose checksums hold although its contents are wrong."""

    def __init__(self, arrays):
        self.path = "damaged.skg"
        self.arrays = arrays
        self.sections = [Section(name, array.dtype, array.shape) for name, array in arrays.items()]

    def array(self, name):
        return self.arrays[name]


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    path = tmp_path_factory.mktemp("arrays") / FIELDS
    stored(path, ROWS)
    with Container.open(path) as container:
        return {section.name: container.array(section.name).copy() for section in container.sections}


@settings(max_examples=400)
@given(st.data())
def test_wrong_contents_are_refused_or_give_wrong_answers(arrays, data):
    changed = {name: array.copy() for name, array in arrays.items()}
    for _ in range(data.draw(st.integers(1, 3))):
        name = data.draw(st.sampled_from(list(changed)))
        array = changed[name]
        if data.draw(st.booleans()) and len(array):
            place = data.draw(st.integers(0, len(array) - 1))
            limits = (0, 255) if array.dtype == np.uint8 else (0, 2**32 - 1)
            value = st.integers(*limits) | st.sampled_from([0, 1, 2, 7, 255])
            if array.dtype == np.uint64:
                value |= st.sampled_from([2**63, 2**64 - 1, 2**62])
            array[place] = data.draw(value)
        else:
            changed[name] = np.resize(array, data.draw(st.integers(0, len(array) + 3)))
    try:
        use(Arrays(changed))
    except CorruptError as error:
        assert "damaged.skg" == error.path  # noqa: PT017 - an answer is right too


@pytest.mark.parametrize(
    ("section", "place", "value", "problem"),
    [
        ("kinds", 0, 9, "values of a column are not of its kind"),
        ("kinds", 1, 0, "values of a column are not of its kind"),
        ("names", 0, 255, "the name of a column is no UTF-8"),
        ("names", 2, ord("n"), "a column without a name, or two of one name"),
        ("name_offsets", 1, 0, "a column without a name, or two of one name"),
        ("name_offsets", 1, 2**64 - 1, "names of columns are out of place"),
        ("name_offsets", -1, 11, "names of columns are out of place"),
        ("value_offsets", -1, 13, "values of columns are out of place"),
        ("value_offsets", 2, 9, "values of columns are out of place"),
        ("value_offsets", 1, 2, "values of a column are not of its kind"),
        ("starts", 1, 2**63, "rows of field 'n' are out of place"),
        ("starts", 3, 14, "rows of field 'n' are out of place"),
        ("rows", 0, 6, "field 'n' has a row that does not exist"),
        ("string_offsets", 1, 9, "strings of field 'tag' are out of place"),
        ("payload_offsets", 3, 2**40, "payload of row 2 is out of place"),
    ],
)  # fmt: skip
def test_what_is_out_of_place_is_said(arrays, section, place, value, problem):
    changed = {name: array.copy() for name, array in arrays.items()}
    changed[section][place] = value

    def read():
        columns = StoredColumns(Arrays(changed))
        masks(columns)
        columns.payload(2)

    with pytest.raises(CorruptError) as caught:
        read()
    assert f"damaged.skg: {problem}" == str(caught.value)


def test_opening_does_not_look_at_values(arrays):
    """A damaged column is found by those who use it, and only by them."""
    changed = {name: array.copy() for name, array in arrays.items()}
    changed["rows"][0] = 99
    columns = StoredColumns(Arrays(changed))
    assert [True, True] == evaluate(parse_filter("tag = red"), columns, 2).tolist()
    for _ in range(2):
        with pytest.raises(CorruptError):
            evaluate(parse_filter("n = 3"), columns, columns.n)


def test_blobs_are_many_strings_in_two_arrays():
    items = [b"", b"ab", b"", b"c"]
    blobs = Blobs.of(items)
    assert items == blobs.tolist()
    assert items == [blobs[i] for i in range(len(blobs))]
    assert items[1:3] == blobs.part(1, 3).tolist()
    assert [] == Blobs.of([]).tolist()
    assert blobs.is_sound()
    assert not Blobs(blobs.offsets, blobs.data[:-1]).is_sound()
    assert not Blobs(blobs.offsets - 1, blobs.data).is_sound()
    assert not Blobs(blobs.offsets[::-1], blobs.data).is_sound()
