"""Memory that was freed, back to the system.

The C library keeps what is freed in pieces for the next that asks, and with many threads some of it is never asked for
again: a server that made and dropped 1,200 indexes held 308 MB, and 171 MB when the library had given back the rest.
So it is told to, now and then. It also keeps memory for each thread apart, and the more of a large piece the more often
such were freed: of 372 MiB that a server had after an hour of mixed load, five threads had 50 MiB each that was free.
"""

from __future__ import annotations

import ctypes
import sys

EVERY_S = 60
"""Seconds between two times; it takes some milliseconds."""

ARENAS = 2
"""Heaps that all threads share. Python's own small objects are none of their business, and large ones are rare."""

LARGE_BYTES = 4 << 20
"""Pieces from this size on go back to the system at once."""

KEPT_BYTES = 16 << 20
"""Free memory at the end of a heap that does not go back at once."""

# Parameters of mallopt(3).
_ARENA_MAX, _MMAP_THRESHOLD, _TRIM_THRESHOLD = -8, -3, -1


def share_heaps() -> None:
    """Have the C library keep little of what is free, where it can be told; at the start, before there are threads."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform != "win32" else None
    if mallopt is not None:
        for parameter, value in (
            (_ARENA_MAX, ARENAS),
            (_MMAP_THRESHOLD, LARGE_BYTES),
            (_TRIM_THRESHOLD, KEPT_BYTES),
        ):
            mallopt(parameter, value)


def give_back() -> None:
    """Have the C library return what it does not need, where it can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform != "win32" else None
    if trim is not None:
        trim(0)
