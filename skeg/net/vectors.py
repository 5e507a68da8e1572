"""What both protocols check about vectors before they ask an index."""

from __future__ import annotations

from skeg.database import Database
from skeg.errors import SkegError
from skeg.net.engine.searches import Plan
from skeg.net.failures import CommandError, failure_of
from skeg.vector_index import VectorIndex

ID_MAX = 2**64 - 2

K_MAX = 65_536
"""Hits of one query."""

HITS_MAX = 1 << 20
"""Hits of one request, and below how many of them payloads are sent."""
HITS_WITH_PAYLOAD_MAX = 1024

LIST_SIZES_MAX = 1 << 22
"""Rows that the walks of one request may keep, all together: a second or so."""

DIM_MAX = 65_536

HIT_BYTES = 64
PAYLOAD_BYTES = 16 << 10
"""What a hit of a reply, and its payload, are taken for before they are there."""


def index_named(database: Database, name: str) -> VectorIndex:
    """An index by its name; `CommandError` if there is none, or if it is damaged."""
    try:
        return database.index(name)
    except SkegError as error:
        raise failure_of(error, name) from error


def check_dim(name: str, index: VectorIndex, vector: bytes, what: str) -> None:
    """Refuse a vector of another dimension."""
    if len(vector) != 4 * index.dim:
        raise CommandError(f"storage error: vindex '{name}' dim {index.dim} but {what} has {len(vector) // 4}")


def reply_weight(plan: Plan, count: int = 1, *, with_payload: bool = False) -> int:
    """About how many bytes the reply to a search of so many queries will have."""
    return plan.k * count * (HIT_BYTES + PAYLOAD_BYTES * with_payload)


def plan_of(index: VectorIndex, k: int, list_size: int, count: int = 1, *, with_payload: bool = False) -> Plan | None:
    """How to search for k hits of each of some queries; None if there can't be any.

    Parameters
    ----------
    index : VectorIndex
    k, list_size : int
        As they came; 0 of the latter stands for the index's own.
    count : int
        Queries.
    with_payload : bool
        Whether payloads are wanted, which may be long.
    """
    try:
        size = len(index)
    except SkegError as error:
        raise failure_of(error, index.name) from error
    k = min(k, size)
    most = min(K_MAX, (HITS_WITH_PAYLOAD_MAX if with_payload else HITS_MAX) // count)
    if k > most:
        raise CommandError(f"k must be at most {most} here")
    list_size = min(list_size, size)
    if list_size * count > LIST_SIZES_MAX:
        raise CommandError(f"l_search must be at most {LIST_SIZES_MAX // count} here")
    return None if k == 0 else Plan(index, k, list_size or None)
