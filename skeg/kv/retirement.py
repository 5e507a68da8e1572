"""The end of segments that compaction has replaced: their files are removed when nobody reads them any more."""

from __future__ import annotations

from skeg.errors import StorageError
from skeg.files import disk_errors
from skeg.kv import format as fmt
from skeg.kv.segments import Segment
from skeg.kv.shard import Shard


def purge(shard: Shard) -> None:
    """Remove the files of segments that were replaced, unless a snapshot reads them; call without the lock.

    Raises
    ------
    StorageError
        The disk refused. They are removed by a later call, or when the store is opened the next time.
    """
    with shard.purging:
        with shard.lock:
            if shard.pins or not shard.retired | shard.spent:
                return
            retired, spent = _take(shard)
        # What only says that the others are replaced goes when they are gone.
        for group in (retired, spent):
            _remove(shard, group)
        with shard.lock:
            shard.retired.difference_update(retired)
            shard.spent.difference_update(spent)


def unpin(shard: Shard, snapshot: object) -> None:
    """A snapshot has ended.

    That may be in the middle of anything, when the garbage collector finds it, also with the lock held by this thread.
    Then what it held up is removed by the next call of `purge`.
    """
    shard.pins.discard(snapshot)
    if not (shard.lock.locked() or shard.purging.locked()):
        purge(shard)


def _take(shard: Shard) -> tuple[list[Segment], list[Segment]]:
    """Forget the segments that can go: those that were replaced, and outputs that only said so; with the lock."""
    # The highest id stays in use: the next opening counts on from there, and no id may be used twice.
    newest = max(segment.id for segment in shard.folder)
    retired, spent = list(shard.retired), [segment for segment in shard.spent if segment.id != newest]
    for segment in retired + spent:
        if shard.folder.get(segment.id) is segment:
            shard.folder.forget(segment)
    ids = {segment.id for segment in retired}
    shard.records.large = {at: n for at, n in shard.records.large.items() if at >> fmt.SEGMENT_SHIFT not in ids}
    return retired, spent


def _remove(shard: Shard, segments: list[Segment]) -> None:
    if not segments:
        return
    folder = shard.folder
    with disk_errors(folder.path, "remove segments"):
        folder.remove([folder.hint_path(segment.id) for segment in segments])
        for segment in segments:
            if segment.damaged:
                folder.set_aside(segment.path)
            else:
                folder.remove([segment.path])
    try:
        folder.sync()
    except StorageError as error:
        with shard.lock:
            shard.log.stopped = error
        raise
