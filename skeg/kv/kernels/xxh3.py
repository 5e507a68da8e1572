"""XXH3 with 64 bits, of a part of an array, for kernels that hash many small pieces.

After the xxHash specification (``doc/xxhash_spec.md`` of github.com/Cyan4973/xxHash), part "XXH3 Algorithm Overview":
small inputs are those of up to 16 bytes, medium ones those of up to 240. All that the algorithm derives from secret and
seed is prepared once a seed, by `secret_words`, in Python.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from skeg.jit import kernel
from skeg.kv.kernels.intrinsics import accumulate, fold, read32, read64, swap, wrapping

_SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671fcb79e64eccc0e578825ad07dccff7221"
    "b8084674f743248ee03590e6813a264c3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364eac5ac8334d3ebc3c581a0fffa1363eb"
    "170ddd51b7f0da49d316552629d4689e2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)
"""``defaultSecret`` of the specification."""

_PRIME32_1, _PRIME32_2, _PRIME32_3 = (np.uint64(p) for p in (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D))
_PRIME64_1, _PRIME64_2, _PRIME64_3, _PRIME64_4, _PRIME64_5 = (
    np.uint64(p)
    for p in (0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5)
)
_PRIME_MX1, _PRIME_MX2 = np.uint64(0x165667919E3779F9), np.uint64(0x9FB21C651E98DF25)
_LANES = (_PRIME32_3, _PRIME64_1, _PRIME64_2, _PRIME64_3, _PRIME64_4, _PRIME32_2, _PRIME64_5, _PRIME32_1)

_STRIPE = 64
_STRIPES_A_BLOCK = (len(_SECRET) - _STRIPE) // 8

# Where `secret_words` puts what: the secret itself, then words for one use each.
_SCRAMBLE = 16  # the last 64 bytes of the secret
_UP_TO_240 = 24
_UP_TO_240_LAST = 38
_LAST_STRIPE = 40
_MERGE = 48
_UP_TO_16 = 56
_UP_TO_8 = 58
_UP_TO_3 = 59
_EMPTY = 60


def secret_words(seed: int) -> npt.NDArray[np.uint64]:
    """Return the uint64 words that `xxh3_64` wants in place of this seed, 0 <= seed < 2**64."""

    def words(secret: bytes, offset: int, count: int) -> list[int]:
        return [int.from_bytes(secret[i : i + 8], "little") for i in range(offset, offset + 8 * count, 8)]

    def seeded(values: list[int]) -> list[int]:
        """The seed is added to every first word and subtracted from every second one."""
        return [(value + (-seed if i % 2 else seed)) % 2**64 for i, value in enumerate(values)]

    whole = seeded(words(_SECRET, 0, 24))
    derived = b"".join(word.to_bytes(8, "little") for word in whole)
    (first,) = words(_SECRET, 0, 1)
    flips = [a ^ b for a, b in zip(words(_SECRET, 8, 7)[::2], words(_SECRET, 16, 7)[::2], strict=True)]
    swapped = seed ^ int.from_bytes((seed % 2**32).to_bytes(4, "big"), "little") << 32
    result = [
        *whole,
        *seeded(words(_SECRET, 3, 14)),  # _UP_TO_240
        *seeded(words(_SECRET, 119, 2)),  # _UP_TO_240_LAST
        *words(derived, 121, 8),  # _LAST_STRIPE
        *words(derived, 11, 8),  # _MERGE
        *seeded(flips[1:3]),  # _UP_TO_16
        (flips[0] - swapped) % 2**64,  # _UP_TO_8
        ((first & 2**32 - 1 ^ first >> 32) + seed) % 2**64,  # _UP_TO_3
        flips[3] ^ seed,  # _EMPTY
    ]
    return np.array(result, np.uint64)


@kernel(inline=True)
def _avalanche(h: Any) -> Any:
    h = (h ^ (h >> 37)) * _PRIME_MX1
    return h ^ (h >> 32)


@kernel(inline=True)
def _avalanche_xxh64(h: Any) -> Any:
    h = (h ^ (h >> 33)) * _PRIME64_2
    h = (h ^ (h >> 29)) * _PRIME64_3
    return h ^ (h >> 32)


@kernel(inline=True)
def _rotate(h: Any, bits: Any) -> Any:
    return (h << bits) | (h >> (64 - bits))


@kernel(inline=True)
def _mix(data: Any, at: Any, words: Any, w: Any) -> Any:
    """Sixteen bytes."""
    return fold(read64(data, at) ^ words[w], read64(data, at + 8) ^ words[w + 1])


@kernel(inline=True)
def _up_to_16(data: Any, start: Any, n: Any, words: Any) -> Any:
    size, end = np.uint64(n), start + n
    if n > 8:
        low = read64(data, start) ^ words[_UP_TO_16]
        high = read64(data, end - 8) ^ words[_UP_TO_16 + 1]
        return _avalanche(size + swap(low) + high + fold(low, high))
    if n > 3:
        h = (read32(data, end - 4) + (read32(data, start) << 32)) ^ words[_UP_TO_8]
        h = (h ^ _rotate(h, 49) ^ _rotate(h, 24)) * _PRIME_MX2
        h = (h ^ ((h >> 35) + size)) * _PRIME_MX2
        return h ^ (h >> 28)
    if n > 0:
        first, middle, last = np.uint64(data[start]), np.uint64(data[start + (n >> 1)]), np.uint64(data[end - 1])
        return _avalanche_xxh64(((first << 16) | (middle << 24) | last | (size << 8)) ^ words[_UP_TO_3])
    return _avalanche_xxh64(words[_EMPTY])


@kernel(inline=True)
def _up_to_128(data: Any, start: Any, n: Any, words: Any) -> Any:
    """From both ends inwards."""
    h = np.uint64(n) * _PRIME64_1
    for i in range((n - 1) // 32, -1, -1):
        h += _mix(data, start + 16 * i, words, 4 * i)
        h += _mix(data, start + n - 16 * (i + 1), words, 4 * i + 2)
    return _avalanche(h)


@kernel(inline=True)
def _up_to_240(data: Any, start: Any, n: Any, words: Any) -> Any:
    h = np.uint64(n) * _PRIME64_1
    for i in range(8):
        h += _mix(data, start + 16 * i, words, 2 * i)
    h = _avalanche(h)
    for i in range(n // 16 - 8):
        h += _mix(data, start + 128 + 16 * i, words, _UP_TO_240 + 2 * i)
    h += _mix(data, start + n - 16, words, _UP_TO_240_LAST)
    return _avalanche(h)


@kernel(inline=True)
def _scramble(lanes: Any, words: Any) -> Any:
    a, b, c, d, e, f, g, h = lanes
    return (
        (a ^ (a >> 47) ^ words[0]) * _PRIME32_1,
        (b ^ (b >> 47) ^ words[1]) * _PRIME32_1,
        (c ^ (c >> 47) ^ words[2]) * _PRIME32_1,
        (d ^ (d >> 47) ^ words[3]) * _PRIME32_1,
        (e ^ (e >> 47) ^ words[4]) * _PRIME32_1,
        (f ^ (f >> 47) ^ words[5]) * _PRIME32_1,
        (g ^ (g >> 47) ^ words[6]) * _PRIME32_1,
        (h ^ (h >> 47) ^ words[7]) * _PRIME32_1,
    )


@kernel(inline=True)
def _merge(lanes: Any, words: Any) -> Any:
    a, b, c, d, e, f, g, h = lanes
    left = fold(a ^ words[0], b ^ words[1]) + fold(c ^ words[2], d ^ words[3])
    return left + fold(e ^ words[4], f ^ words[5]) + fold(g ^ words[6], h ^ words[7])


@kernel(inline=True)
def _large(data: Any, start: Any, n: Any, words: Any) -> Any:
    """Stripes of 64 bytes, and a scrambling after each whole block of them; the last stripe ends with the input."""
    lanes = _LANES
    stripes = (n - 1) // _STRIPE
    for first in range(0, stripes, _STRIPES_A_BLOCK):
        count = min(stripes - first, _STRIPES_A_BLOCK)
        lanes = accumulate(lanes, data, start + first * _STRIPE, count, words)
        if count == _STRIPES_A_BLOCK:
            lanes = _scramble(lanes, words[_SCRAMBLE:])
    lanes = accumulate(lanes, data, start + n - _STRIPE, 1, words[_LAST_STRIPE:])
    return _avalanche(np.uint64(n) * _PRIME64_1 + _merge(lanes, words[_MERGE:]))


@wrapping
@kernel()
def xxh3_64(data: Any, start: Any, n: Any, words: Any) -> Any:
    """XXH3 with 64 bits, as uint64, of ``data[start : start + n]``, under the seed whose `secret_words` are given.

    data uint8, words uint64 (61,). *Requires* that the bytes exist.
    Twin: the package ``xxhash``.
    """
    if n <= 16:
        return _up_to_16(data, start, n, words)
    if n <= 128:
        return _up_to_128(data, start, n, words)
    if n <= 240:
        return _up_to_240(data, start, n, words)
    return _large(data, start, n, words)
