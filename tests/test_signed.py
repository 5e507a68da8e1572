"""Manifests that carry their own checksum."""

from __future__ import annotations

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_hexdigest

from skeg.errors import CorruptError, FormatError, ParameterError, StorageError
from skeg.signed import check_signed, pack_signed, parse_signed

FIELDS = {"format": "a thing", "version": 1, "name": "ä", "list": [1, {"b": None, "a": True}]}

plain = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.text(st.characters(codec="utf-8"), max_size=9)
json_values = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abä", max_size=3), inner, max_size=3)
)


def unpack(data: bytes) -> dict:
    fields = parse_signed(data, "p", "a thing", "a thing of ours")
    check_signed(data, fields, "p")
    return fields


def test_the_bytes_are_canonical_json_with_the_checksum_of_the_rest():
    rest = '{"format":"a thing","list":[1,{"a":true,"b":null}],"name":"ä","version":1}'.encode()
    digest = xxh3_64_hexdigest(rest)
    assert rest.replace(b'{"format"', b'{"checksum":"%s","format"' % digest.encode()) == pack_signed(FIELDS)


@given(fields=st.dictionaries(st.text("abc", max_size=4), json_values, max_size=5))
def test_any_fields_are_read_as_they_were_written(fields):
    fields |= {"format": "a thing"}
    assert fields == unpack(pack_signed(fields))


def test_any_bit_changed_is_noticed():
    """Those too that change nothing of what the JSON says, such as a different escape or an odd letter case."""
    data = pack_signed(FIELDS)
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(StorageError) as caught:
            unpack(bytes(changed))
        assert isinstance(caught.value, CorruptError | FormatError)
        assert caught.value.path == "p"


def test_a_file_cut_anywhere_is_noticed():
    data = pack_signed(FIELDS)
    for length in range(len(data)):
        with pytest.raises(CorruptError, match="not valid JSON"):
            unpack(data[:length])


@pytest.mark.parametrize(
    "changed",
    [
        lambda text: text + b"\n",
        lambda text: b" " + text,
        lambda text: text.replace(b":", b": "),
        lambda text: text.replace(b'"a":true,"b":null', b'"b":null,"a":true'),
        lambda text: text.replace("ä".encode(), b"\\u00e4"),
        lambda text: text.replace(b'"version":1', b'"version":1.0'),
        lambda text: text.replace(b'"version":1', b'"version":0,"version":1'),
        lambda text: json.dumps(json.loads(text) | {"checksum": None}).encode(),
        lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != "checksum"}).encode(),
    ],
)
def test_other_bytes_for_the_same_fields_are_refused(changed):
    data = changed(pack_signed(FIELDS))
    assert data != pack_signed(FIELDS)
    with pytest.raises(CorruptError, match="does not match its checksum"):
        unpack(data)


@pytest.mark.parametrize(
    ("data", "found"),
    [(b"[]", "'list'"), (b"1", "'int'"), (b"null", "'NoneType'"), (b"{}", "None"), (b'{"format":"other"}', "'other'")],
)
def test_something_else_is_no_such_manifest(data, found):
    with pytest.raises(FormatError, match="not a thing of ours: expected format 'a thing', found") as caught:
        unpack(data)
    assert found == caught.value.found


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", '"\\ud800"'])
def test_values_that_are_never_written_are_refused(value):
    with pytest.raises(CorruptError, match="out of range"):
        unpack(b'{"format":"a thing","x":%s}' % value.encode())


@pytest.mark.parametrize("data", [b"", b"\0", b"\xff\xfe", b'{"format":"a thing"', b"9" * 5000])
def test_what_is_no_json_is_refused(data):
    with pytest.raises(CorruptError, match="not valid JSON"):
        unpack(data)


def test_nesting_of_any_depth_is_refused_and_no_crash():
    """Near the depth that the interpreter allows, what can be parsed may be too deep to be written again."""
    for depth in [*range(1, sys.getrecursionlimit() + 2), 100_000]:
        with pytest.raises(CorruptError):
            unpack(b'{"format":"a thing","x":%s%s}' % (b"[" * depth, b"]" * depth))


def test_what_json_can_not_express_is_not_packed():
    with pytest.raises(ParameterError, match="values that JSON can express"):
        pack_signed({"format": float("nan")})
