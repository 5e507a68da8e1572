"""Numbers as text: whole ones, and scores with the fewest digits that are read as the same double.

A score is a float32 with 24 significant bits, in a double whose neighbors are 2**29 times nearer than those of the
float32. So the rest of the fraction and half the distance to a neighbor fit 64 bits, and the free-format algorithm of
Steele and White, "How to print floating-point numbers accurately" (1990), section 3, goes without long arithmetic: take
digits of the fraction until what is left out, or what is too much with the last digit raised, is within half that
distance.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from skeg.jit import kernel

TOO_EXTREME = -1
"""Instead of a place: a number that takes longer arithmetic, or that there is no decimal for."""

TEXT_MAX = 40
"""Bytes of a number at most."""

_FRACTION_BITS_MAX = 60
"""Bits behind the point, so that ten times a fraction fits 64: down to 2**-37."""

_SHIFT_MAX = 29
"""Integers are below 2**53, where each has a double of its own."""

_DIGITS_MAX = 28

# Half the distance of doubles near m * 2**e, m of 24 bits, is 2**(e - 30); a quarter below a power of two. In units of
# 2**e * 10**-n, rounded down, which compares with integers as if it were not.
_HALF = np.array([10**n >> 30 for n in range(_DIGITS_MAX + 1)], np.uint64)
_QUARTER = np.array([10**n >> 31 for n in range(_DIGITS_MAX + 1)], np.uint64)


@kernel()
def write_integer(number: Any, out: Any, place: Any) -> Any:
    """Write a uint64 to ``out`` uint8 (n,) from a place on; gives the place behind it."""
    ten = np.uint64(10)
    end = place + 1
    rest = number // ten
    while rest:
        end += 1
        rest //= ten
    rest = number
    for i in range(end - 1, place - 1, -1):
        out[i] = np.uint8(48) + np.uint8(rest % ten)
        rest //= ten
    return end


@kernel()
def _write_fraction(fraction: Any, n_bits: Any, is_power: Any, out: Any, place: Any) -> Any:
    """Write the digits of ``fraction`` / 2**n_bits, which is not 0; gives the place behind them."""
    one, ten = np.uint64(1), np.uint64(10)
    mask = (one << n_bits) - one
    rest = fraction
    for n in range(1, _DIGITS_MAX + 1):
        rest *= ten
        digit = rest >> n_bits
        rest &= mask
        is_low = rest <= (_QUARTER[n] if is_power else _HALF[n])
        is_high = mask - rest < _HALF[n]
        if is_low or is_high:
            over = mask - rest + one
            if is_high and (not is_low or rest > over or (rest == over and digit & one)):
                digit += one  # at most 9: were it 10, one digit less would have been enough
        out[place] = np.uint8(48) + np.uint8(digit)
        place += 1
        if is_low or is_high:
            break
    return place


@kernel()
def write_score(bits: Any, out: Any, place: Any) -> Any:
    """Write a float32, given as its bits uint32, as `double_text` does; gives the place behind it or `TOO_EXTREME`."""
    one = np.uint64(1)
    mantissa = np.uint64(bits & np.uint32(0x7FFFFF))
    exponent = np.int64((bits >> np.uint32(23)) & np.uint32(0xFF))
    if exponent == 0 and mantissa:
        return np.int64(TOO_EXTREME)
    if exponent:
        mantissa |= one << np.uint64(23)
    exponent = exponent - 150 if exponent else np.int64(0)
    if not -_FRACTION_BITS_MAX <= exponent <= _SHIFT_MAX:
        return np.int64(TOO_EXTREME)
    if bits >> np.uint32(31):
        out[place] = 45  # -
        place += 1
    if exponent >= 0:
        return write_integer(mantissa << np.uint64(exponent), out, place)
    n_bits = np.uint64(-exponent)
    whole = mantissa >> n_bits
    place = write_integer(whole, out, place)
    fraction = mantissa - (whole << n_bits)
    if fraction:
        out[place] = 46  # .
        place = _write_fraction(fraction, n_bits, mantissa == one << np.uint64(23), out, place + 1)
    return place
