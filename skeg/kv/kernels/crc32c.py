"""CRC-32C, the checksum of the original's records, eight bytes at a time.

After Kounavis and Berry, "A Systematic Approach to Building High Performance, Software-based, CRC Generators" (2005),
section 4.2, "slicing-by-8".
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from skeg.jit import kernel
from skeg.kv.kernels.intrinsics import read64

_LOW8 = np.uint64(255)
_ONES = np.uint64(2**32 - 1)


def slices(table: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """Return the tables (8, 256) that `crc32c` wants: in row i, what a byte becomes when i more bytes follow it.

    Parameters
    ----------
    table : ndarray (256,) uint32
        The first row: of each byte, its CRC without inversions.
    """
    rows = [table]
    for _ in range(7):
        rows.append(table[rows[-1] & 255] ^ rows[-1] >> 8)
    return np.stack(rows)


@kernel()
def crc32c(data: Any, start: Any, stop: Any, tables: Any) -> Any:
    """CRC-32C of ``data[start:stop]``, as uint64.

    data uint8, tables uint32 (8, 256) of `slices`. *Requires* that the bytes exist.
    Twin: ``skeg.kv.original.crc32c_plain``.
    """
    crc, at = _ONES, start
    while stop - at >= 8:
        word = read64(data, at) ^ crc
        crc = np.uint64(
            tables[7, word & _LOW8]
            ^ tables[6, (word >> 8) & _LOW8]
            ^ tables[5, (word >> 16) & _LOW8]
            ^ tables[4, (word >> 24) & _LOW8]
            ^ tables[3, (word >> 32) & _LOW8]
            ^ tables[2, (word >> 40) & _LOW8]
            ^ tables[1, (word >> 48) & _LOW8]
            ^ tables[0, word >> 56]
        )
        at += 8
    for i in range(at, stop):
        crc = np.uint64(tables[0, (crc ^ data[i]) & _LOW8]) ^ (crc >> 8)
    return crc ^ _ONES
