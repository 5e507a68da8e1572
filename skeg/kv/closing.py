"""The end of a shard that was in use: it is left as one that opens at once."""

from __future__ import annotations

from skeg.kv.compaction import write_hints
from skeg.kv.shard import Shard


def finish(shard: Shard) -> None:
    """Put everything on stable storage, with hints, and give back reserved space; raises StorageError."""
    if shard.log.interrupted:
        shard.log.sync_file()  # whoever was interrupted knows about the rest
        return
    if shard.writable and (shard.log.stopped is None or shard.log.unsynced):
        shard.log.sync()
        with shard.compacting:
            write_hints(shard, _no_pause, active=True)
        shard.log.trim()
    shard.log.report_lost()


def _no_pause() -> None:
    """Closing does not rest."""
