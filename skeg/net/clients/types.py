"""What clients take and give besides bytes and numbers."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import NamedTuple, Self

from skeg.errors import ParameterError


class Hit(NamedTuple):
    """One vector that a search found.

    Attributes
    ----------
    id : int
    score : float
        Cosine similarity with the query, or what the metric of the index is; higher is closer.
    payload : bytes or None
        What is stored with the vector, if that was asked for; None without a payload.
    """

    id: int
    score: float
    payload: bytes | None = None


class _Code(IntEnum):
    """A code of the binary protocol that has names."""

    @classmethod
    def from_string(cls, s: str) -> Self:
        """The code of a name, in any case.

        Parameters
        ----------
        s : str
            Such as "int8".

        Raises
        ------
        ParameterError
            There is no such name.
        """
        names = _NAMES[cls]
        try:
            return cls(names[s.lower()])
        except KeyError:
            raise ParameterError(cls.__name__, s, f"one of {', '.join(names)}") from None


class VectorKind(_Code):
    """How an index stores its vectors, as version 1 of the binary protocol spells it; servers refuse PQ."""

    F32 = 0
    INT8 = 1
    BINARY = 2
    PQ = 3


class VectorKindV2(_Code):
    """How an index stores its vectors, as version 2 of the binary protocol spells it."""

    F32 = 0
    INT8 = 1
    BINARY = 2
    TQ1 = 3
    TQ2 = 4
    TQ4 = 5


class VectorBackend(_Code):
    """What an index searches with: all of its vectors, or a graph on the disk."""

    FLAT = 0
    DISK_VAMANA = 1


_PLAIN = {"f32": 0, "float32": 0, "int8": 1, "binary": 2, "bin": 2}
_TURBO = {"tq1": 3, "turboquant-1": 3, "tq2": 4, "turboquant-2": 4, "tq4": 5, "turboquant-4": 5}

_NAMES: Mapping[type[_Code], Mapping[str, int]] = {
    VectorKind: {**_PLAIN, "pq": 3},
    VectorKindV2: {**_PLAIN, **_TURBO},
    VectorBackend: {"flat": 0, "disk": 1, "disk_vamana": 1, "vamana": 1},
}
