"""What is not counted by `skeg.net.metrics.Metrics` but asked for when somebody wants to know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import attrs


@attrs.frozen(kw_only=True)
class ProcessState:
    """What one process knows of itself; metrics are the sums over the processes of a server.

    Parameters
    ----------
    connections : int
        Now.
    searches_waiting, changes_waiting : int
        In the queues of the engine.
    resident_bytes : int
        Memory, that which is shared with other processes included.
    connections_accepted, connections_rejected : int
        Since the process began, as everything that follows.
    input_bytes, output_bytes : int
        Over the network.
    cache_hits, cache_misses, cache_evictions : int
        Of the cache of values.
    compactions, compacted_bytes : int
        Of the key-value log: how often, and how much was moved.
    syncs, commits : int
        Of the key-value log: calls to the disk, and the batches they were for.
    """

    connections: int
    searches_waiting: int
    changes_waiting: int
    resident_bytes: int
    connections_accepted: int
    connections_rejected: int
    input_bytes: int
    output_bytes: int
    cache_hits: int
    cache_misses: int
    cache_evictions: int
    compactions: int
    compacted_bytes: int
    syncs: int
    commits: int


GAUGES = ("connections", "searches_waiting", "changes_waiting", "resident_bytes")
"""Fields of `ProcessState` that hold for the moment; all others only grow."""

FIELDS = tuple(field.name for field in attrs.fields(ProcessState))


class IndexState(NamedTuple):
    """An index: its name, generation and number of vectors."""

    name: str
    generation: int
    vectors: int


@attrs.frozen(kw_only=True)
class State:
    """What is the same in all processes of a server.

    Parameters
    ----------
    is_ready : bool
    started : float
        Seconds since 1970.
    segments, segments_compacting : int
        Files of the key-value log, and those that are being compacted.
    live_bytes, log_bytes : int
        Of the key-value log: what is in use, and all of it.
    compactions_running : int
    vectors_bytes : int
        Size of the vectors of all indexes.
    indexes : sequence of IndexState
    """

    is_ready: bool
    started: float
    segments: int
    segments_compacting: int
    live_bytes: int
    log_bytes: int
    compactions_running: int
    vectors_bytes: int
    indexes: Sequence[IndexState]
