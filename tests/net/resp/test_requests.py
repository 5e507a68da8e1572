from __future__ import annotations

import random
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skeg.net.limits import Limits
from skeg.net.resp.encode import encode_command
from skeg.net.resp.requests import Malformed, RequestParser
from tests.net.resp import twin

SMALL = Limits(bulk_bytes_max=30, args_max=5, depth_max=2, inline_bytes_max=40, request_bytes_max=45, frame_bytes_max=1)

# What streams are put together from: whole frames, halves of frames, and what is none.
PIECES = [
    *(
        b"+0123456789\r\n",
        b"*",
        b"$",
        b"3",
        b"\r\n",
        b"\r",
        b"\n",
        b" ",
        b"'",
        b'"',
        b"\xff",
        b"GET",
        b"PING\r\n",
        b"PING\n",
        b"+OK\r\n",
    ),
    *(b"*1\r\n", b"*2\r\n", b"*0\r\n", b"*-1\r\n", b"*6\r\n", b"%1\r\n", b"~2\r\n", b">1\r\n", b"_\r\n", b"#t\r\n"),
    *(
        b"$3\r\nfoo\r\n",
        b"$-1\r\n",
        b"$0\r\n\r\n",
        b"$2\r\n\r\n\r\n",
        b"$5\r\na\r\nbc\r\n",
        b"$31\r\n",
        b"$3\r\nfoox\r\n",
    ),
    *(b":1\r\n", b":x\r\n", b",1.5\r\n", b",inf\r\n", b",x\r\n", b"(99\r\n", b"=5\r\ntxt:a\r\n", b"=1\r\na\r\n"),
    *(
        b"!3\r\nERR\r\n",
        b"-ERR x\r\n",
        b"#x\r\n",
        b"_x\r\n",
        b"$+3\r\nfoo\r\n",
        b"$03\r\nfoo\r\n",
        b"$-2\r\n",
        b"!-1\r\n",
    ),
    *(b"*1\r\n$4\r\nPING\r\n", b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4\r\n\r\n\r\n\r\n"),
    *(b'SET k "a b"\r\n', b"SET k 'a\\'b'\n", b'"\\x41\\n\\q"\r\n', b"|1\r\n"),
]


def feed(data, cuts=(), limits=SMALL):
    """What comes out of a stream that arrives in pieces, and why it ended."""
    parser = RequestParser(limits)
    events = []
    for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True):
        events += parser.feed(data[start:stop])
    return [event.text if isinstance(event, Malformed) else event for event in events], parser.error


def commands(data, limits=SMALL):
    events, error = feed(data, limits=limits)
    assert error is None
    return events


def test_any_cut_gives_what_the_whole_stream_gives():
    rng = random.Random(1)
    for _ in range(1500):
        data = b"".join(rng.choices(PIECES, k=rng.randrange(1, 9)))
        whole = feed(data)
        assert whole == feed(data, range(1, len(data))), data
        for cut in range(1, len(data)):
            assert whole == feed(data, [cut]), (data, cut)


def test_any_stream_gives_what_the_twin_says():
    rng = random.Random(2)
    for _ in range(20_000):
        data = b"".join(rng.choices(PIECES, k=rng.randrange(1, 12)))
        events, error = feed(data)
        expected, reason = twin.parse(data, SMALL)
        assert expected == events, data
        # The beginning of something hopeless is not waited for.
        assert reason == error or reason is None, data


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(st.binary(max_size=40), min_size=1, max_size=6), max_size=5), st.randoms())
def test_encoded_commands_come_out_as_they_went_in(sent, rng):
    data = b"".join(map(encode_command, sent))
    cuts = sorted(rng.sample(range(len(data)), min(len(data), 4)))
    assert (sent, None) == feed(data, cuts, Limits())


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=60))
def test_random_bytes_end_in_events_or_an_error(data):
    events, error = feed(data)
    assert twin.parse(data, SMALL)[0] == events
    assert error is None or isinstance(error, str)


def test_many_commands_in_one_chunk():
    data = b"*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n" * 16
    assert [[b"GET", b"key"]] * 16 == commands(data)


def taken(parser, chunk):
    """What comes out of a chunk, the short way if there is one."""
    repeated = parser.repeated(chunk)
    return parser.feed(chunk) if repeated is None else [repeated]


def test_commands_that_differ_in_the_last_arguments_are_not_parsed_again():
    parser = RequestParser(SMALL)
    first, second = (encode_command([b"SET", b"k", value]) for value in (b"ab\r\n", b"\r\n\r\n"))
    assert parser.repeated(first) is None
    assert [[b"SET", b"k", b"ab\r\n"]] == parser.feed(first)
    assert [b"SET", b"k", b"\r\n\r\n"] == parser.repeated(second)
    assert [b"SET", b"l", b"abcd"] == parser.repeated(encode_command([b"SET", b"l", b"abcd"]))
    assert parser.repeated(encode_command([b"SET", b"kl", b"abc"])) is None
    for other in (first[:-1], first + b"\r", first[:-1] + b"x", encode_command([b"GET", b"k", b"abcd"]), b""):
        assert parser.repeated(other) is None
    assert [] == parser.feed(first[:5])  # the next chunk goes on with it
    assert parser.repeated(first) is None
    assert [[b"SET", b"k", b"ab\r\n"]] == parser.feed(first[5:])
    parser.limits = Limits(bulk_bytes_max=3)
    assert parser.repeated(first) is None
    assert [] == parser.feed(first)
    assert "bulk too large: 4" == parser.error
    assert parser.repeated(first) is None


def test_the_short_way_gives_what_the_long_one_gives():
    rng = random.Random(3)
    whole = [
        encode_command(words) for words in ([b"GET", b"k"], [b"GET", b"l"], [b"GET", b"\r\n"], [b"PING"], [b"ECHO"])
    ]
    shapes = [*whole, *whole, *PIECES, b"\r\n" + whole[0], whole[0] + b"\r\n", b"*2\r\n$3\r\nGET\r\n+k\r\n"]
    for _ in range(5000):
        short, long = RequestParser(SMALL), RequestParser(SMALL)
        chunks = rng.choices(shapes, k=rng.randrange(1, 12))
        for chunk in chunks:
            assert long.feed(chunk) == taken(short, chunk), chunks
            assert (long.error, long.pending) == (short.error, short.pending), chunks


def test_strings_that_hold_line_ends_are_put_together():
    value = b"\r\n\r\r\n$3\r\nfoo\r\n"
    assert [[b"SET", b"k", value], [b"PING"]] == commands(encode_command([b"SET", b"k", value]) + b"PING\r\n")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b":1\r\n", "expected Array frame"),
        (b"$4\r\nPING\r\n", "expected Array frame"),
        (b"*-1\r\n", "expected Array frame"),
        (b"%1\r\n:1\r\n*1\r\n_\r\n", "expected Array frame"),
        (b"*0\r\n", "empty command"),
        (b"*2\r\n:1\r\n$1\r\nk\r\n", "command name must be a bulk or simple string"),
        (b"*2\r\n$3\r\nGET\r\n:1\r\n", "argument must be a bulk or simple string"),
        (b"*2\r\n$3\r\nGET\r\n$-1\r\n", "argument must be a bulk or simple string"),
        (b"*3\r\n$3\r\nGET\r\n*2\r\n*1\r\n:1\r\n+x\r\n$1\r\nk\r\n", "argument must be a bulk or simple string"),
        (b"*1\r\n=5\r\ntxt:a\r\n", "command name must be a bulk or simple string"),
    ],
)
def test_what_is_no_command_does_not_end_the_stream(data, text):
    assert [text, [b"PING"]] == commands(data + b"*1\r\n$4\r\nPING\r\n")


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\x16\x03\x01", "unknown type marker: 0x16"),
        (b"|1\r\n", "unknown type marker: 0x7C"),
        (b"*1\r\nPING\r\n", "unknown type marker: 0x50"),
        (b"*1\r\n\r\n", "unknown type marker: 0x0D"),
        (b"*x\r\n", "invalid integer: x"),
        (b"*?\r\n", "invalid integer: ?"),
        (b"*\r\n", "invalid integer: "),
        (b"* 1\r\n", "invalid integer:  1"),
        (b"*1_0\r\n", "invalid integer: 1_0"),
        (b"*9223372036854775808\r\n", "invalid integer: 9223372036854775808"),
        (b"*000000000000000000000000001\r\n", "invalid integer: 00000000000000000000000"),
        (b"*-2\r\n", "invalid length: -2"),
        (b"*6\r\n", "aggregate too large: 6"),
        (b"*1\r\n~-1\r\n", "invalid length: -1"),
        (b"*1\r\n%6\r\n", "aggregate too large: 6"),
        (b"*1\r\n$-2\r\n", "invalid length: -2"),
        (b"*1\r\n!-1\r\n", "invalid length: -1"),
        (b"*1\r\n$31\r\n", "bulk too large: 31"),
        (b"*2\r\n$30\r\n" + b"x" * 30 + b"\r\n$16\r\n", "request too large: 46"),
        (b"*3\r\n" + b"+xxxxxxxxxxxxxxx\r\n+xxxxxxxxxxxxxxxxxxxx\r\n+xxxxxxxxxxx\r\n", "request too large: 46"),
        (b"*1\r\n$3\r\nabcd", "bulk of 3 bytes is not followed by CRLF"),
        (b"*1\r\n$3\r\nabc\rx", "bulk of 3 bytes is not followed by CRLF"),
        (b"*1\r\n$3\r\na\r\n", None),
        (b"*1\r\n$3\r\na\r\nb\r\n", "bulk of 3 bytes is not followed by CRLF"),
        (b"*1\r\n*1\r\n*1\r\n*1\r\n", "aggregate nesting too deep: 3"),
        (b"*1\r\n_x\r\n", "unexpected payload between type marker and CRLF"),
        (b"*1\r\n#x\r\n", "invalid boolean payload: [120]"),
        (b"*1\r\n,1.5x\r\n", "invalid double: 1.5x"),
        (b"*1\r\n,1_0\r\n", "invalid double: 1_0"),
        (b"*1\r\n(x\r\n", "invalid integer: x"),
        (b"*1\r\n=3\r\ntxt\r\n", "invalid verbatim string: missing 3-char fmt + ':' prefix"),
        (b"*1\r\n+\xff\r\n", "invalid utf-8 in line"),
        (b"*1\r\n+" + b"x" * 41, "line too long: more than 40 bytes"),
        (b"x" * 41, "line too long: more than 40 bytes"),
        (b"SET k 'v\r\n", "unbalanced quotes in request"),
        (b'SET k "v"w\r\n', "unbalanced quotes in request"),
        (b"POST / HTTP/1.1\r\n", "HTTP where RESP was expected"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n", "HTTP where RESP was expected"),
        (b"*000000000000000000000000", "invalid integer: 00000000000000000000000"),
    ],
)
def test_what_ends_the_stream(data, text):
    assert text == feed(data)[1]
    assert text == feed(data, range(1, len(data)))[1]


def test_nothing_is_taken_after_an_error():
    parser = RequestParser(SMALL)
    assert [[b"PING"]] == parser.feed(b"PING\r\n*x\r\nPING\r\n")
    assert [] == parser.feed(b"PING\r\n")
    assert 0 == parser.pending


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"PING\r\n", [b"PING"]),
        (b"  SET\tk  v \n", [b"SET", b"k", b"v"]),
        (b'SET k ""\r\n', [b"SET", b"k", b""]),
        (rb'SET k "\x41\n\r\t\b\a\"\\\q\xZZ"' + b"\n", [b"SET", b"k", b'A\n\r\t\b\a"\\qxZZ']),
        (rb"SET k 'a\'b\n'" + b"\n", [b"SET", b"k", rb"a'b\n"]),
        (b'SET k a"b c"\r\n', [b"SET", b"k", b"ab c"]),
    ],
)
def test_typed_commands(line, words):
    assert [words] == commands(line)


def test_empty_lines_are_nothing():
    assert [[b"PING"]] == commands(b"\r\n\n \r\n*1\r\n$4\r\nPING\r\n\n")


def test_typed_lines_may_stand_between_frames():
    assert [[b"A"], [b"B"], [b"C"], [b"D"]] == commands(b"A\nB\n*1\r\n$1\r\nC\r\nD\r\n")


@settings(max_examples=400)
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=12), rng=st.randoms(use_true_random=False))
def test_what_was_refused_can_be_taken_by_another_parser(pieces, rng):
    """One that allows more; nothing is lost or comes twice, if the request began in the chunk that was refused."""
    data, most = b"".join(pieces), Limits()
    parser, events, place = RequestParser(SMALL), [], 0
    while place < len(data) and parser.error is None:
        size = rng.choice((1, 5, len(data)))
        events += parser.feed(data[place : place + size])
        place += size
    if parser.error is None:
        assert parser.refused is None
        return
    refused = parser.refused
    assert (f"protocol: {parser.error}", SMALL) == (refused.text, refused.limits)
    if refused.rest:
        known = [event.text if isinstance(event, Malformed) else event for event in events]
        found, error = feed(bytes(refused.rest) + data[place:], limits=most)
        assert feed(data, limits=most) == (known + found, error)


def test_what_began_in_another_chunk_is_lost():
    parser = RequestParser(SMALL)
    assert [[b"PING"]] == parser.feed(b"PING\n*2\r\n$3\r\nGET\r\n")
    assert [] == parser.feed(b"$99\r\n")
    assert b"" == parser.refused.rest


def test_limits_may_change_between_chunks():
    parser = RequestParser(Limits.before_auth())
    parser.feed(b"*2\r\n$4\r\nAUTH\r\n$1\r\nx\r\n")
    parser.limits = Limits()
    assert [20_000] == [len(command[1]) for command in parser.feed(encode_command([b"ECHO", b"x" * 20_000]))]


def test_an_anonymous_client_can_send_little():
    small = Limits.before_auth()
    assert "bulk too large: 20000" == feed(encode_command([b"ECHO", b"x" * 20_000]), limits=small)[1]
    assert "aggregate too large: 11" == feed(encode_command([b"x"] * 11), limits=small)[1]
    assert "request too large: 40000" == feed(encode_command([b"x" * 10_000] * 4), limits=small)[1]


def test_pending_is_0_between_requests_only():
    requests = [
        b"*3\r\n$3\r\nSET\r\n$0\r\n\r\n$4\r\na\r\nb\r\n",
        b":1\r\n",
        b"*2\r\n+A\r\n*1\r\n*1\r\n:1\r\n",
        b"PING\n",
    ]
    parser = RequestParser(SMALL)
    for request in requests:
        for i in range(len(request)):
            assert (i == 0) == (parser.pending == 0)
            parser.feed(request[i : i + 1])
    assert 0 == parser.pending


def test_pending_counts_what_is_held():
    parser = RequestParser(Limits())
    parser.feed(b"*1000\r\n" + b"$2\r\nab\r\n" * 900 + b"$5000\r\n" + b"x" * 4000)
    assert 900 * 2 + 4000 < parser.pending < 900 * 100 + 4000 + 200


@pytest.mark.parametrize(
    "data",
    [
        b"*1048576\r\n",
        b"*1048576\r\n$536870912\r\n",
        b"$536870912\r\n",
        b"*1048576\r\n" + b"*1048576\r\n" * 128,
        b"%1048576\r\n~1048576\r\n>1048576\r\n",
        b"*2\r\n" * 128,
    ],
)
def test_headers_take_no_memory(data):
    parser = RequestParser(Limits())
    assert 20_000 > peak_of(lambda: parser.feed(data))
    assert parser.error is None


@pytest.mark.parametrize("start", [b"PING ", b"*1\r\n+", b"*1", b"*1\r\n$1"])
def test_an_endless_line_takes_no_more_memory_than_a_line_may_be_long(start):
    parser = RequestParser(Limits())

    def send():
        parser.feed(start)
        for _ in range(2000):
            parser.feed(b"1" * 1000)

    assert 300_000 > peak_of(send)
    assert parser.error is not None


def test_a_string_in_tiny_chunks_takes_little_more_memory_than_itself():
    parser = RequestParser(Limits())

    def send():
        parser.feed(b"*1\r\n$200000\r\n")
        for _ in range(99_999):
            parser.feed(b"ab")

    assert 600_000 > peak_of(send)
    assert [[b"ab" * 100_000]] == parser.feed(b"ab\r\n")


def test_a_large_string_arrives_in_chunks():
    value = random.Random(3).randbytes(3_000_000)
    data = encode_command([b"SET", b"k", value, b"\r"])
    assert ([[b"SET", b"k", value, b"\r"]], None) == feed(data, range(65_536, len(data), 65_536), Limits())


def peak_of(call):
    """Most memory that a call takes, in bytes."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
