"""Hits as they are sent, in RESP and in the binary protocol."""

from __future__ import annotations

from typing import Any

import numpy as np

from skeg.jit import kernel
from skeg.net.kernels.decimals import TEXT_MAX, TOO_EXTREME, write_integer, write_score

HIT_BYTES_MAX = 2 * (TEXT_MAX + 8)
"""Bytes of an id and a score with their headers at most."""

HEAD_BYTES_MAX = 24
"""Bytes of the header of an array at most."""


@kernel(inline=True)
def _pack(number: Any, n_bytes: Any, out: Any, place: Any) -> Any:
    """Write an integer, the lowest byte first."""
    for i in range(n_bytes):
        out[place + i] = np.uint8((number >> np.uint64(8 * i)) & np.uint64(0xFF))
    return place + n_bytes


@kernel()
def pack_hits(ids: Any, scores: Any, count: Any, out: Any) -> Any:
    """Write the first hits of one query as `skeg.net.binary.replies` has them; gives the length.

    ids uint64 (k,); scores uint32 (k,), the bits of float32; out uint8, with 4 bytes and 12 for each hit.
    """
    place = _pack(np.uint64(count), 4, out, np.int64(0))
    for i in range(count):
        place = _pack(np.uint64(ids[i]), 8, out, place)
        place = _pack(np.uint64(scores[i]), 4, out, place)
    return place


@kernel(inline=True)
def _end_line(out: Any, place: Any) -> Any:
    out[place] = 13
    out[place + 1] = 10
    return place + 2


@kernel(inline=True)
def _write_header(marker: Any, number: Any, out: Any, place: Any) -> Any:
    out[place] = marker
    return _end_line(out, write_integer(np.uint64(number), out, place + 1))


@kernel(inline=True)
def _frame_string(out: Any, place: Any, first: Any, end: Any) -> Any:
    """Put the text ``out[first:end]``, which stands some bytes behind ``place``, there as a string."""
    place = _write_header(36, end - first, out, place)  # $
    for i in range(first, end):
        out[place] = out[i]
        place += 1
    return _end_line(out, place)


@kernel()
def write_hits(ids: Any, scores: Any, count: Any, version: Any, out: Any, place: Any) -> Any:
    """Write the first hits of one query as an array; gives the place behind it or `TOO_EXTREME`.

    ids uint64 (k,); scores uint32 (k,), the bits of float32; version of the protocol, 2 or 3; out uint8, with room for
    `HEAD_BYTES_MAX` and ``count`` times `HIT_BYTES_MAX` from ``place`` on.
    """
    place = _write_header(42, 2 * count, out, place)  # *
    for i in range(count):
        first = place + 8
        place = _frame_string(out, place, first, write_integer(ids[i], out, first))
        first = place + 8
        end = write_score(scores[i], out, first)
        if end == TOO_EXTREME:
            return np.int64(TOO_EXTREME)
        if version == 2:
            place = _frame_string(out, place, first, end)
            continue
        out[place] = 44  # ,
        place += 1
        for j in range(first, end):
            out[place] = out[j]
            place += 1
        place = _end_line(out, place)
    return place


@kernel()
def write_hits_of_many(ids: Any, scores: Any, counts: Any, version: Any, out: Any) -> Any:
    """Write the hits of n queries as an array of arrays; gives its length or `TOO_EXTREME`.

    ids uint64 and scores uint32 (n, k), counts int64 (n,); else as `write_hits`.
    """
    place = np.int64(_write_header(42, counts.shape[0], out, np.int64(0)))
    for i in range(counts.shape[0]):
        place = write_hits(ids[i], scores[i], counts[i], version, out, place)
        if place == TOO_EXTREME:
            return place
    return place
