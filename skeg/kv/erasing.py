"""Deleting every key that starts with a prefix."""

from __future__ import annotations

from functools import partial

from skeg.durability import Durability
from skeg.kv.shard import Shard
from skeg.kv.snapshot import Snapshot

# Keys erased with one record, so all or none of them.
_ERASED_AT_ONCE = 1 << 16


def erase_prefix(shard: Shard, prefix: bytes, level: Durability) -> int:
    """Delete the keys of a shard that start with `prefix`; how many. Call with ``shard.compacting``."""
    keys = shard.keys
    with shard.lock:
        shard.check_writable()  # refuse at once what can't be done
    with Snapshot([shard]) as snapshot:
        targets = [(keys.hash(key), keys.check(key), location) for key, _, location in snapshot.records(0, prefix)]
        count = 0
        for start in range(0, len(targets), _ERASED_AT_ONCE):
            with shard.lock:
                erased, waiting = shard.change(partial(shard.erase, targets[start : start + _ERASED_AT_ONCE], level))
            shard.settle(waiting)
            count += erased
    return count
