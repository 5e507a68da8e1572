from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skeg.errors import ParameterError
from skeg.net.limits import Limits
from skeg.net.resp.encode import (
    OK,
    ErrorReply,
    Status,
    double_text,
    encode,
    encode_command,
)
from skeg.net.resp.replies import ReplyParser


@pytest.mark.parametrize(
    ("score", "text"),
    [
        (1.0, "1"),
        (-1.0, "-1"),
        (-0.0, "-0"),
        (0.5, "0.5"),
        (0.987, "0.9869999885559082"),
        (0.1, "0.10000000149011612"),
        (0.99999994, "0.9999999403953552"),
        (1.0000001, "1.0000001192092896"),
        (1e-7, "0.00000010000000116860974"),
        (1e22, "9999999778196308000000"),
        (np.inf, "inf"),
        (-np.inf, "-inf"),
        (np.nan, "nan"),
    ],
)
def test_doubles_have_the_fewest_digits_and_no_exponent(score, text):
    assert text == double_text(float(np.float32(score)))


@settings(max_examples=1000, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_every_float32_is_written_as_numpy_writes_it(bits):
    number = float(np.array([bits], np.uint32).view(np.float32)[0])
    assert np.format_float_positional(number, unique=True, trim="-") == double_text(number)


@pytest.mark.parametrize(
    ("value", "resp2", "resp3"),
    [
        (Status("OK"), b"+OK\r\n", b"+OK\r\n"),
        (ErrorReply("ERR no"), b"-ERR no\r\n", b"-ERR no\r\n"),
        (7, b":7\r\n", b":7\r\n"),
        (-(2**63), b":-9223372036854775808\r\n", b":-9223372036854775808\r\n"),
        (b"", b"$0\r\n\r\n", b"$0\r\n\r\n"),
        (b"\r\n", b"$2\r\n\r\n\r\n", b"$2\r\n\r\n\r\n"),
        ("\u00e9", b"$2\r\n\xc3\xa9\r\n", b"$2\r\n\xc3\xa9\r\n"),
        (None, b"$-1\r\n", b"_\r\n"),
        (0.5, b"$3\r\n0.5\r\n", b",0.5\r\n"),
        (True, b":1\r\n", b"#t\r\n"),
        (False, b":0\r\n", b"#f\r\n"),
        ([], b"*0\r\n", b"*0\r\n"),
        ((b"a", None), b"*2\r\n$1\r\na\r\n$-1\r\n", b"*2\r\n$1\r\na\r\n_\r\n"),
        ({b"a": {b"b": 1}}, b"*2\r\n$1\r\na\r\n*2\r\n$1\r\nb\r\n:1\r\n", b"%1\r\n$1\r\na\r\n%1\r\n$1\r\nb\r\n:1\r\n"),
        ({}, b"*0\r\n", b"%0\r\n"),
    ],
)
def test_values_on_the_wire(value, resp2, resp3):
    assert [resp2, resp3] == [encode(value, 2), encode(value, 3)]


def test_text_of_a_client_can_not_end_the_line_of_an_error():
    assert b"-ERR unknown 'a??+OK??\xc3\xa9'\r\n" == encode(ErrorReply("ERR unknown 'a\r\n+OK\0\x7f\u00e9'"), 2)


def test_an_error_may_hold_half_of_a_surrogate_pair():
    assert b"-ERR ?\r\n" == encode(ErrorReply("ERR \udc80"), 3)


def test_other_types_are_our_own_mistakes():
    with pytest.raises(KeyError, match="object"):
        encode(object(), 2)


@pytest.mark.parametrize(
    ("argument", "data"),
    [
        (b"a\0", b"a\0"),
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"abcd")[::2], b"ac"),
        (memoryview(np.array([1.0], "<f4")), b"\0\0\x80\x3f"),
        ("\u00e9", b"\xc3\xa9"),
        (-5, b"-5"),
        (2**64, b"18446744073709551616"),
        (1e-7, b"0.0000001"),
        (np.float64(0.5), b"0.5"),
    ],
)
def test_arguments_of_commands(argument, data):
    assert b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(data), data) == encode_command(["GET", argument])


@pytest.mark.parametrize("argument", [None, True, [1], "\ud800"])
def test_other_arguments_are_refused(argument):
    with pytest.raises(ParameterError, match="argument="):
        encode_command([b"SET", argument])


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.binary() | st.floats(allow_nan=False),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.binary(max_size=3), inner, max_size=3),
        max_leaves=8,
    )
)
def test_a_client_reads_what_was_encoded(value):
    assert [value] == ReplyParser(Limits()).feed(encode(value, 3))


def test_constants():
    assert encode(Status("OK"), 2) == OK
