"""A run is what the parser would find, or nothing is said."""

from __future__ import annotations

import random

import pytest

from skeg.net.limits import Limits
from skeg.net.resp.encode import encode_command
from skeg.net.resp.requests import RequestParser
from skeg.net.resp.runs import RUN_BYTES_MIN, RUN_MIN, find_run


def parsed(data):
    parser = RequestParser(Limits())
    commands = parser.feed(data)
    return None if parser.pending or parser.error else commands


@pytest.mark.parametrize("name", [b"GET", b"get", b"Echo"])
@pytest.mark.parametrize("size", [0, 1, 16, 99, 999])
def test_commands_that_are_alike_are_a_run(name, size):
    words = [bytes([65 + i]) * size for i in range(9)]
    run = find_run(b"".join(encode_command([name, word]) for word in words))
    assert (name, [words], 9) == (run.name, run.columns, run.count)


@pytest.mark.parametrize("sizes", [(0, 0), (1, 0), (0, 3), (16, 3), (99, 999), (999, 100)])
def test_commands_of_three_words_are_a_run(sizes):
    commands = [[b"SET", bytes([65 + i]) * sizes[0], bytes([75 + i]) * sizes[1]] for i in range(9)]
    run = find_run(b"".join(map(encode_command, commands)))
    assert (b"SET", commands, 9) == (run.name, run.commands(), run.count)


def test_words_may_hold_the_end_of_a_line():
    words = [b"\r\n%d\r\n" % i for i in range(8)]
    assert words == find_run(b"".join(encode_command([b"GET", word]) for word in words)).columns[0]


def test_a_word_that_looks_like_a_head_is_not_taken_for_one():
    word = b"\r\n*2\r\n$3\r\nGET\r\n$18"
    assert find_run(encode_command([b"GET", word]) * 8) is None
    assert find_run(encode_command([b"GET", word]) * 4 + encode_command([b"GET", b"x" * 18]) * 4) is None


def test_what_follows_a_word_has_to_follow_each():
    """Here every word has its size, but not its place."""
    head, between = b"*3\r\n$3\r\nSET\r\n$2\r\n", b"\r\n$2\r\n"
    good = head + b"k0" + between + b"v0\r\n"
    torn = head + b"k0\r\n" + head + b"v0" + between + b"k1" + between + b"v1\r\n"
    assert len(torn) == 2 * len(good)
    assert 8 == find_run(good * 8).count
    assert find_run(good * 8 + torn) is None
    assert find_run(good + torn * 8) is None
    assert find_run(good * 8 + torn + good * 8) is None


@pytest.mark.parametrize("seed", range(10))
def test_pieces_in_another_order_are_judged_as_the_parser_does(seed):
    rng = random.Random(seed)
    pieces = [b"*3\r\n$3\r\nSET\r\n$1\r\n", b"k", b"\r\n$1\r\n", b"v", b"\r\n"]
    found = 0
    for _ in range(400):
        some = pieces * rng.randrange(RUN_MIN, 9)
        for _ in range(rng.randrange(4)):
            i, j = rng.randrange(len(some)), rng.randrange(len(some))
            some[i], some[j] = some[j], some[i]
        data = b"".join(some)
        run = find_run(data)
        if run is not None:
            found += 1
            assert parsed(data) == run.commands()
    assert found > 20


def test_words_may_differ_in_length():
    commands = [[b"SET", b"k" * i, b"v" * (20 - i)] for i in range(10)]
    run = find_run(b"".join(map(encode_command, commands)))
    assert commands == run.commands()


@pytest.mark.parametrize(
    "commands",
    [
        [[b"GET", b"a"]] * (RUN_MIN - 1),
        [[b"PING"]] * 9,
        [[b"SET", b"a", b"b", b"NX"]] * 9,
        [[b"GET", b"a"]] * 9 + [[b"SET", b"a", b"b"]],
        [[b"GET", b"a"]] * 9 + [[b"DEL", b"a"]],
        [[b"SET", b"a", b"\r\n" + b"b" * (i % 2)] for i in range(9)],
        [[b"SET", b"a", b"b" * 1000]] * 9,
        [[b"SET", b"a", b"b" * 600]] * 9 + [[b"SET", b"a", b"b"]],
    ],
)
def test_nothing_is_said_of_what_is_no_run(commands):
    assert find_run(b"".join(map(encode_command, commands))) is None


def test_a_run_that_is_cut_anywhere_is_none():
    data = encode_command([b"GET", b"key"]) * 6
    whole = {len(encode_command([b"GET", b"key"])) * n for n in range(RUN_MIN, 7)}
    assert whole == {end for end in range(len(data) + 1) if find_run(data[:end]) is not None}
    assert min(whole) >= RUN_BYTES_MIN


@pytest.mark.parametrize("seed", range(20))
def test_what_is_said_agrees_with_the_parser(seed):
    """Words are made of what heads are made of, and bytes are changed."""
    rng = random.Random(seed)
    heads = [b"*%d\r\n$3\r\nGET\r\n$1\r\n" % count for count in (2, 3)]
    pieces = [b"", b"a", b"\r\n", *heads, b"$1\r\na", b"\r\n$1\r\n", b"xyz", b"*2", b"\r"]
    found = 0
    for _ in range(400):
        size = rng.choice([None, 1, 3])
        count = rng.randrange(3, 9)

        def word(size=size):
            return b"".join(rng.choices(pieces, k=2)) if size is None else bytes(rng.choices(b"a\r\n$*", k=size))

        words = rng.choice([1, 2])
        data = bytearray(b"".join(encode_command([b"GET", *(word() for _ in range(words))]) for _ in range(count)))
        if rng.random() < 0.5:
            data[rng.randrange(len(data))] = rng.choice(b"$*\r\n123a")
        run = find_run(bytes(data))
        if run is not None:
            found += 1
            assert parsed(bytes(data)) == run.commands()
    assert found > 20
