from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skeg.errors import ServerError
from skeg.net.limits import Limits
from skeg.net.resp.replies import Push, ReplyParser

SMALL = Limits(bulk_bytes_max=30, args_max=5, depth_max=2, inline_bytes_max=40)

PIECES = [
    *(
        b"+OK\r\n",
        b"-ERR no\r\n",
        b":5\r\n",
        b"$-1\r\n",
        b"*-1\r\n",
        b"*0\r\n",
        b"%0\r\n",
        b"_\r\n",
        b"#t\r\n",
        b"(9\r\n",
    ),
    *(
        b"$2\r\nab\r\n",
        b"$2\r\n\r\n\r\n",
        b"*1\r\n",
        b"*2\r\n",
        b"%1\r\n",
        b"~1\r\n",
        b">1\r\n",
        b"|1\r\n",
        b"!5\r\nERR x\r\n",
    ),
    *(b"=5\r\ntxt:a\r\n", b",0.5\r\n", b"*", b"$", b"\r\n", b"x", b"*6\r\n", b"|0\r\n"),
]


def plain(value):
    """A value in a form that can be compared: errors are not equal to each other."""
    if isinstance(value, ServerError):
        return ("error", value.code, value.message)
    if isinstance(value, Push):
        return ("push", plain(value.values))
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return [(plain(key), plain(item)) for key, item in value.items()]
    return (type(value), value)


def feed(data, cuts=(), limits=SMALL):
    parser = ReplyParser(limits)
    values = []
    for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True):
        values += parser.feed(data[start:stop])
    return values, parser.error


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"+OK\r\n", b"OK"),
        (b":-5\r\n", -5),
        (b"$3\r\na\r\n\r\n", b"a\r\n"),
        (b"$-1\r\n", None),
        (b"*-1\r\n", None),
        (b"_\r\n", None),
        (b"*2\r\n:1\r\n*1\r\n+x\r\n", [1, [b"x"]]),
        (b"*0\r\n", []),
        (b"%2\r\n+a\r\n:1\r\n:2\r\n%0\r\n", {b"a": 1, 2: {}}),
        (b"~2\r\n:1\r\n:1\r\n", [1, 1]),
        (b",0.10000000149011612\r\n", 0.10000000149011612),
        (b",inf\r\n", float("inf")),
        (b"#t\r\n", True),
        (b"#f\r\n", False),
        (b"(12345678901234567890123\r\n", 12345678901234567890123),
        (b"=8\r\nmkd:# hi\r\n", b"# hi"),
        (b"|1\r\n+ttl\r\n:9\r\n*2\r\n|1\r\n+a\r\n:1\r\n:1\r\n:2\r\n", [1, 2]),
        (b">2\r\n+message\r\n:1\r\n", Push([b"message", 1])),
    ],
)
def test_values(data, value):
    (found,), error = feed(data, range(1, len(data)))
    assert (value, type(value), None) == (found, type(found), error)


@pytest.mark.parametrize(
    ("data", "code", "message"),
    [
        (b"-ERR no such index\r\n", "ERR", "no such index"),
        (b"-WRONGPASS invalid\r\n", "WRONGPASS", "invalid"),
        (b"-something else\r\n", "ERR", "something else"),
        (b"-OOPS\r\n", "ERR", "OOPS"),
        (b"!10\r\nERR a\r\nbcd\r\n", "ERR", "a\r\nbcd"),
    ],
)
def test_errors_are_values(data, code, message):
    (error, (_, inner)), _ = feed(data + b"*2\r\n:1\r\n" + data)
    assert [(code, message)] * 2 == [(e.code, e.message) for e in (error, inner)]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"x", "unknown type marker: 0x78"),
        (b"\r\n", "unknown type marker: 0x0D"),
        (b"*?\r\n", "invalid integer: ?"),
        (b"$?\r\n", "invalid integer: ?"),
        (b"$31\r\n", "bulk too large: 31"),
        (b"*6\r\n", "aggregate too large: 6"),
        (b"*1\r\n*1\r\n*1\r\n*1\r\n", "aggregate nesting too deep: 3"),
        (b"%1\r\n*1\r\n:1\r\n:1\r\n", "a key of a map is an aggregate"),
        (b"+" + b"x" * 40, "line too long: more than 40 bytes"),
        (b"!1\r\n\xff\r\n", "invalid utf-8 in line"),
        (b"(" + b"1" * 38 + b"x\r\n", "invalid integer: " + "1" * 38 + "x"),
    ],
)
def test_what_ends_the_stream(data, text):
    assert ([b"OK"], text) == feed(b"+OK\r\n" + data)
    assert text == feed(data, range(1, len(data)))[1]


def test_any_cut_gives_what_the_whole_stream_gives():
    rng = random.Random(1)
    for _ in range(1500):
        data = b"".join(rng.choices(PIECES, k=rng.randrange(1, 9)))
        values, error = feed(data)
        for cuts in [range(1, len(data)), *([cut] for cut in range(1, len(data)))]:
            cut_values, cut_error = feed(data, cuts)
            assert (plain(values), error) == (plain(cut_values), cut_error), (data, cuts)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=60))
def test_random_bytes_end_in_values_or_an_error(data):
    values, error = feed(data)
    assert isinstance(values, list)
    assert error is None or isinstance(error, str)


def test_headers_take_no_memory():
    parser = ReplyParser(Limits())
    tracemalloc.start()
    try:
        parser.feed(b"%1048576\r\n*1048576\r\n$536870912\r\n")
        assert 20_000 > tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert parser.error is None
