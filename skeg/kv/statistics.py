"""Figures of a store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from skeg.kv.maintenance import Maintenance
from skeg.kv.recovery import Recovered
from skeg.kv.shard import Shard


def statistics(
    shards: Sequence[Shard], recovered: Sequence[Recovered], maintenance: Maintenance | None
) -> dict[str, Any]:
    """What `skeg.kv.Store.stats` returns."""
    total: dict[str, Any] = {"shards": len(shards)}
    for shard in shards:
        for name, value in _of_shard(shard).items():
            total[name] = total.get(name, 0) + value
    total["durable_seq"] = min(shard.log.durable_seq for shard in shards)
    total["background_compactions"] = maintenance.compactions if maintenance else 0
    total["background_compacted_bytes"] = maintenance.compacted_bytes if maintenance else 0
    total["background_compacting"] = maintenance.compacting if maintenance else 0
    total["background_error"] = str(maintenance.error) if maintenance and maintenance.error else None
    total["recovered_bytes"] = sum(found.scanned_bytes for found in recovered)
    total["dropped"] = [
        {"path": lost.path, "offset": lost.offset, "nbytes": lost.nbytes, "problem": lost.problem}
        for found in recovered
        for lost in found.dropped
    ]
    return total


def shard_statistics(shards: Sequence[Shard]) -> list[dict[str, int]]:
    """What `skeg.kv.Store.shard_stats` returns."""
    return [_of_shard(shard) for shard in shards]


def _of_shard(shard: Shard) -> dict[str, int]:
    with shard.lock:
        shard.check_open()
        segments = [segment for segment in shard.folder if segment not in shard.retired]
        return {
            "keys": len(shard),
            "segments": len(segments),
            "log_bytes": sum(segment.end for segment in segments),
            "live_bytes": sum(segment.live for segment in segments),
            "tombstone_bytes": sum(segment.tombstones for segment in segments),
            "reclaimable_bytes": sum(segment.dead for segment in segments),
            "retired_bytes": sum(segment.end for segment in shard.retired),
            "staged_bytes": sum(round_.nbytes for round_ in shard.log.pending),
            "index_bytes": shard.index.nbytes,
            "cache_bytes": shard.cache.nbytes,
            "cache_budget": shard.cache.budget,
            "cache_hits": shard.cache.hits,
            "cache_misses": shard.cache.misses,
            "cache_evictions": shard.cache.evictions,
            "commits": shard.log.commits,
            "syncs": shard.log.syncs,
            "seq": shard.log.next_seq - 1,
        }
