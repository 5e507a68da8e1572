"""skeg.ann.filters.payload: what is encoded comes back the same, and what does not fit is named."""

from __future__ import annotations

import enum
from collections import UserDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skeg.ann.filters.payload import PAYLOAD_BYTES_MAX, decode_payload, encode_payload, fields_of
from skeg.errors import ParameterError
from tests.ann.filters.reference import payloads

VALUES = "a bool, an int of 64 bits, a finite float, a str or a list of str"


def exact(value):
    """A value together with its types, as 1 == 1.0 == True."""
    if isinstance(value, dict):
        return [(key, exact(item)) for key, item in value.items()]
    return [exact(item) for item in value] if isinstance(value, (list, tuple)) else (type(value), repr(value))


@given(payloads | st.text() | st.binary())
def test_what_is_encoded_comes_back(payload):
    again = decode_payload(encode_payload(payload))
    assert exact(payload) == exact(again)
    assert exact(fields_of(payload)) == exact(fields_of(again))


def test_forms_do_not_mix():
    forms = [None, "", b"", {}]
    assert [b"", b"\x01", b"\x02", b"\x03{}"] == [encode_payload(payload) for payload in forms]
    assert exact(forms) == exact([decode_payload(encode_payload(payload)) for payload in forms])


def test_a_mapping_is_compact_json_in_the_order_of_its_keys():
    payload = {"z": 1, "a": 1.0, "é": True, "l": ("x", "y"), "e": []}
    assert '\x03{"z":1,"a":1.0,"é":true,"l":["x","y"],"e":[]}'.encode() == encode_payload(payload)
    assert {"z": [1], "a": [1.0], "é": [True], "l": ["x", "y"]} == fields_of(payload)


def test_numpy_scalars_and_subclasses_become_plain():
    class Colour(enum.StrEnum):
        RED = "red"

    class Level(enum.IntEnum):
        HIGH = 3

    payload = UserDict(
        i=np.int8(-3),
        u=np.uint64(2**63 - 1),
        f=np.float32(0.5),
        d=np.float64(-0.0),
        t=np.True_,
        s=np.str_("x"),
        l=[np.str_("y")],
        c=Colour.RED,
        h=Level.HIGH,
    )
    payload[Colour.RED] = 1
    plain = {
        "i": -3,
        "u": 2**63 - 1,
        "f": 0.5,
        "d": -0.0,
        "t": True,
        "s": "x",
        "l": ["y"],
        "c": "red",
        "h": 3,
        "red": 1,
    }
    assert exact(plain) == exact(decode_payload(encode_payload(payload)))
    assert exact({k: v if k == "l" else [v] for k, v in plain.items()}) == exact(fields_of(payload))


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("", {}),
        ("  \t\n", {}),
        ("a=1", {"a": [1]}),
        ("a=1 a=x\u2003a=1", {"a": [1, "x", 1]}),
        ("a=", {"a": [""]}),
        ("=1 word a=b=c ==", {"a": ["b=c"]}),
        ("A=1 a=2", {"A": [1], "a": [2]}),
        ("zip=02134 n=-7 p=+7 z=0 m=-0", {"zip": ["02134"], "n": [-7], "p": ["+7"], "z": [0], "m": ["-0"]}),
        ("x=1.5 y=-0.0 e=1e3 f=1.50E-1", {"x": [1.5], "y": [-0.0], "e": [1000.0], "f": [0.15]}),
        ("x=.5 y=1. z=01.5", {"x": [".5"], "y": ["1."], "z": ["01.5"]}),
        ("i=1e999 n=nan s=1_0", {"i": ["1e999"], "n": ["nan"], "s": ["1_0"]}),
        ("t=true f=False d=2024-05-01 q='x'", {"t": ["true"], "f": ["False"], "d": ["2024-05-01"], "q": ["'x'"]}),
        ("i=9223372036854775807 j=9223372036854775808", {"i": [2**63 - 1], "j": ["9223372036854775808"]}),
        ("i=-9223372036854775808 j=-9223372036854775809", {"i": [-(2**63)], "j": ["-9223372036854775809"]}),
        ("a=\u0663 b=\uff11", {"a": ["\u0663"], "b": ["\uff11"]}),
        ("a=x\x1cb=y", {"a": ["x\x1cb=y"]}),  # a control character that is no White_Space
        ("n=" + "9" * 5000, {"n": ["9" * 5000]}),
    ],
)  # fmt: skip
def test_text_is_split_and_typed(text, fields):
    assert exact(fields) == exact(fields_of(text))
    assert exact(fields) == exact(fields_of(text.encode()))


def test_bytes_that_are_no_text_have_no_fields():
    assert {} == fields_of(b"a=1 \xff")
    assert {} == fields_of(None)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        (3, "payloads=3: expected None, a str, bytes or a mapping in row 4"),
        (["a"], "payloads='list': expected None, a str, bytes or a mapping in row 4"),
        ("\ud800", r"payloads='\ud800': expected text without halves of surrogate pairs in row 4"),
        ({"": 1}, "payloads='': expected keys that are str and not empty in row 4"),
        ({1: 1}, "payloads=1: expected keys that are str and not empty in row 4"),
        ({"k\udfff": 1}, r"payloads='k\udfff': expected text without halves of surrogate pairs in row 4"),
        ({"k": "\ud800"}, r"payloads='\ud800': expected text without halves of surrogate pairs for key 'k' in row 4"),
        ({"k": ["\ud800"]}, r"payloads='\ud800': expected text without halves of surrogate pairs for key 'k' in row 4"),
        ({"k": ["a", 1]}, "payloads=1: expected a list of str for key 'k' in row 4"),
        ({"k": {}}, f"payloads='dict': expected {VALUES} for key 'k' in row 4"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_with_row_and_key(payload, message):
    with pytest.raises(ParameterError) as caught:
        encode_payload(payload, 4)
    assert message == str(caught.value)
    assert "payloads" == caught.value.parameter
    with pytest.raises(ParameterError, match=r"^payloads=.*(?<! in row 4)$"):
        fields_of(payload)


@pytest.mark.parametrize(
    "value",
    [None, b"x", 2**63, -(2**63) - 1, pytest.param(10**5000, id="huge"), np.uint64(2**63), float("nan"), float("inf"),
     np.float32("-inf"), {"a": 1}, {1}, object(), np.array(1), np.datetime64("2024-01-01"), 1j],
)  # fmt: skip
def test_values_outside_the_types_are_refused(value):
    with pytest.raises(ParameterError, match=f"expected {VALUES} for key ") as caught:
        encode_payload({"key" * 100: value})
    assert 300 > len(str(caught.value))


def test_the_size_is_limited():
    for payload in ("x" * (PAYLOAD_BYTES_MAX - 1), b"x" * (PAYLOAD_BYTES_MAX - 1)):
        assert payload == decode_payload(encode_payload(payload))
        with pytest.raises(ParameterError, match="expected at most 1048576 bytes in row 0"):
            encode_payload(payload + payload[:1], 0)


@pytest.mark.parametrize(
    "data",
    [b"\x00", b"\x04x", b"x", b"\x01\xff", b"\x03", b"\x03[]", b"\x03null", b'\x03{"a":null}', b'\x03{"a":NaN}',
     b'\x03{"a":1e999}',
     b'\x03{"":1}', b'\x03{"a":1,"a":2}', b'\x03{"a":{"b":1}}', b'\x03{"a":[1]}', b'\x03{"a":9223372036854775808}',
     b'\x03{"a":"\\ud800"}', b"\x03{\xff}", b'\x03{"a":' + b"[" * 100_000, b'\x03{"a":' + b"9" * 5000 + b"}"],
)  # fmt: skip
def test_damaged_bytes_are_refused(data):
    with pytest.raises(ValueError, match=r"^damaged payload: "):
        decode_payload(data)


@given(st.binary(max_size=40), st.sampled_from([b"", b"\x01", b"\x03", b'\x03{"a":', b'\x03{"a"']))
def test_any_bytes_decode_or_are_refused(data, start):
    try:
        payload = decode_payload(start + data)
    except ValueError:
        return
    assert exact(payload) == exact(decode_payload(encode_payload(payload)))
