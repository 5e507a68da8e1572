"""Holding the locks of all shards of a store at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from skeg.kv.shard import Shard

T = TypeVar("T")


def with_locks(shards: Sequence[Shard], then: Callable[[], T]) -> T:
    """Call `then` with the locks of all shards.

    By recursion, because only a ``with`` over the lock itself gives it back whenever Ctrl-C comes.
    """
    if not shards:
        return then()
    with shards[0].lock:
        return with_locks(shards[1:], then)
