from __future__ import annotations

import random
import re

import pytest

from skeg.net.commands.keyspace import glob_match


@pytest.mark.parametrize(
    ("pattern", "key", "is_like"),
    [
        (b"*", b"", True), (b"*", b"anything", True), (b"", b"", True), (b"", b"a", False), (b"?", b"a", True),
        (b"?", b"", False), (b"h?llo", b"hello", True), (b"h*llo", b"heeeello", True), (b"h*llo", b"hell", False),
        (b"h[ae]llo", b"hallo", True), (b"h[ae]llo", b"hillo", False), (b"h[^e]llo", b"hallo", True),
        (b"h[^e]llo", b"hello", False), (b"h[a-c]llo", b"hbllo", True), (b"h[c-a]llo", b"hbllo", True),
        (b"h[a-c]llo", b"hdllo", False), (rb"a\*b", b"a*b", True), (rb"a\*b", b"axb", False), (rb"[\]]", b"]", True),
        (b"[a", b"a", True), (b"[", b"", False), (b"[-a]", b"-", True), (b"[a-]", b"-", True), (b"\\", b"\\", True),
        (b"a*b*c", b"aXbYc", True), (b"a*b*c", b"aXcYb", False), (b"\x00\xff*", b"\x00\xff\n", True),
        (b"**", b"x", True),
    ],
)  # fmt: skip
def test_patterns_mean_what_they_mean_in_redis(pattern, key, is_like):
    assert is_like == glob_match(pattern, key)


def test_patterns_agree_with_regular_expressions():
    rng = random.Random(1)
    for _ in range(3000):
        pattern = bytes(rng.choice(b"ab?*") for _ in range(rng.randrange(7)))
        key = bytes(rng.choice(b"abc") for _ in range(rng.randrange(8)))
        twin = pattern.replace(b"?", b".").replace(b"*", b".*")
        assert (re.fullmatch(twin, key, re.DOTALL) is not None) == glob_match(pattern, key), (pattern, key)


def test_a_hostile_pattern_takes_no_time():
    assert not glob_match(b"a*" * 200 + b"b", b"a" * 5000)
