from __future__ import annotations

import pytest

from skeg.net.text import I64_MAX, I64_MIN, U64_MAX, signed, unsigned


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (b"5", 5), (b"+5", 5), (b"05", 5), (b"0", 0), (b"18446744073709551615", U64_MAX),
        (b"18446744073709551616", None),
        (b" 5", None), (b"5 ", None), (b"1_0", None), (b"+", None), (b"", None), (b"-0", None), (b"-1", None),
        ("٣".encode(), None), (b"5\n", None), (b"0x5", None), (b"1.0", None), (b"9" * 10_000, None),
    ],
)  # fmt: skip
def test_what_spells_a_number_without_sign(text, number):
    assert number == unsigned(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (b"-5", -5), (b"+5", 5), (b"-0", 0), (b"9223372036854775807", I64_MAX), (b"9223372036854775808", None),
        (b"-9223372036854775808", I64_MIN), (b"-9223372036854775809", None), (b"--5", None), (b"-", None), (b"", None),
        (b"1_0", None), (b"-5\n", None), (b"-" + b"9" * 10_000, None),
    ],
)  # fmt: skip
def test_what_spells_a_number_of_64_bits(text, number):
    assert number == signed(text)


def test_a_limit_is_part_of_the_range():
    assert (7, None) == (unsigned(b"7", 7), unsigned(b"8", 7))
