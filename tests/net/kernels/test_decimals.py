from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from skeg.net.kernels.decimals import TEXT_MAX, TOO_EXTREME, write_integer, write_score
from skeg.net.resp.encode import double_text

pytestmark = pytest.mark.kernels

PLACE = 3
GUARD = 0xAA


def written(write, number):
    """The text that a kernel writes at a place, None if it can't; it must not write before it, or too much."""
    out = np.full(PLACE + TEXT_MAX + 1, GUARD, np.uint8)
    end = write(number, out, PLACE)
    assert [GUARD] * PLACE == out[:PLACE].tolist()
    assert out[-1] == GUARD
    return None if end == TOO_EXTREME else out[PLACE:end].tobytes().decode()


def score(x):
    return written(write_score, np.float32(x).view(np.uint32))


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**64 - 1))
@example(0)
@example(9)
@example(10)
@example(2**64 - 1)
def test_integers(number):
    assert str(number) == written(write_integer, np.uint64(number))


@settings(max_examples=1000, deadline=None)
@given(st.floats(width=32, min_value=-1, max_value=1))
@example(0.0)
@example(-0.0)
def test_scores_of_cosines(x):
    assert score(x) in {double_text(x), None}
    assert abs(x) < 2**-36 or score(x) is not None or x == 0


@settings(max_examples=1000, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_scores_of_any_bits(bits):
    x = float(np.uint32(bits).view(np.float32))
    text = written(write_score, np.uint32(bits))
    # What has up to 60 bits behind the point, and no more than a double has before it, is written here.
    is_written = x == 0 or (2.0**-36 <= abs(x) < 2.0**53)
    assert (text is not None) == is_written or 2.0**-60 < abs(x) < 2.0**-36
    assert text in {double_text(x), None}


@pytest.mark.parametrize("exponent", range(-40, 60))
def test_scores_beside_powers_of_two(exponent):
    bits = int(np.float32(2.0**exponent).view(np.uint32))
    for beside in (bits - 1, bits, bits + 1):
        text = written(write_score, np.uint32(beside))
        assert text in {double_text(float(np.uint32(beside).view(np.float32))), None}


def test_ties_go_to_the_even_digit():
    # m / 2**17 has 17 digits, and both of the texts with 16 are within half the distance to the next double.
    assert "0.5000076293945312" == score(65537 / 2**17)
    for m in range(2**16 + 1, 2**17, 64 + 2):
        assert double_text(m / 2**17) == score(m / 2**17)


@pytest.mark.parametrize("x", [np.inf, -np.inf, np.nan, 1e-45, 2.0**53, -1e30, 2.0**-90])
def test_too_extreme(x):
    assert score(x) is None
