"""Many byte strings in two arrays: the form of names, strings and payloads in a file."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt


@attrs.frozen(eq=False)
class Blobs:
    """Byte strings one after another; string i is ``data[offsets[i] : offsets[i + 1]]``.

    offsets : (n + 1,) int64, ascending, from any start. data : (bytes,) uint8. Offsets of a damaged file give wrong
    strings, never bytes from elsewhere; `is_sound` tells.
    """

    offsets: npt.NDArray[np.int64]
    data: npt.NDArray[np.uint8]

    @classmethod
    def of(cls, items: Sequence[bytes]) -> Blobs:
        """Copy byte strings into one."""
        lengths = np.fromiter(map(len, items), np.int64, len(items))
        return cls(offsets_of(lengths), np.frombuffer(b"".join(items), np.uint8))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, position: int) -> bytes:
        return self.data[self.offsets[position] : self.offsets[position + 1]].tobytes()

    def part(self, start: int, stop: int) -> Blobs:
        """Return strings ``start`` to ``stop - 1``, without a copy."""
        return Blobs(self.offsets[start : stop + 1], self.data)

    def tolist(self) -> list[bytes]:
        """Return all strings; quicker than one by one."""
        first, last = int(self.offsets[0]), int(self.offsets[-1])
        data = self.data[first:last].tobytes()
        return [data[start:stop] for start, stop in pairwise((self.offsets - first).tolist())]

    def is_sound(self) -> bool:
        """Whether the offsets ascend within the data."""
        return ascends_within(self.offsets, len(self.data))


def offsets_of(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return where each of some things of the given lengths starts, and where the last ends: (n + 1,) int64."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def ascends_within(offsets: npt.NDArray[Any], length: int) -> bool:
    """Whether int64 offsets, at least one, are in ascending order and from 0 to `length`."""
    return bool(offsets[0] >= 0 and offsets[-1] <= length and (offsets[1:] >= offsets[:-1]).all())
