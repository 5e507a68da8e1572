"""A copy of a store that is in use."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from skeg.errors import StorageError
from skeg.fileops import SYSTEM
from skeg.files import AnyPath, BuildFolder, OutputFile
from skeg.kv import manifest as manifests
from skeg.kv.manifest import Manifest, pack_manifest
from skeg.kv.segments import Segment
from skeg.kv.shard import Shard
from skeg.kv.snapshot import Snapshot

_PIECE_BYTES = 1 << 20


def copy_store(shards: Sequence[Shard], manifest: Manifest, dest: AnyPath) -> None:
    """Copy shards, as they are at one moment, and the manifest to a new folder that appears when all is there.

    Parameters
    ----------
    shards : sequence of Shard
        All shards of a store.
    manifest : Manifest
        Of that store.
    dest : path
        Must not exist.

    Raises
    ------
    StorageError
        The disk refused, or `dest` exists.
    """
    with BuildFolder(dest) as build:
        copy_shards(shards, manifest, build.path)
        build.publish()


def copy_shards(shards: Sequence[Shard], manifest: Manifest, dest: Path) -> None:
    """As `copy_store`, into an empty folder that the caller makes durable."""
    with contextlib.ExitStack() as stack:
        for shard in shards:
            stack.enter_context(shard.compacting)
        snapshot = stack.enter_context(Snapshot(shards))
        for number, (shard, segments) in enumerate(zip(shards, snapshot.segments, strict=True)):
            folder = dest / f"shard-{number}"
            SYSTEM.mkdir(folder)
            for segment, end in segments.values():
                # A segment that is begun but not written to has no file yet.
                if segment.reserved and segment not in shard.retired:
                    _copy(shard, segment, end, folder)
        with contextlib.closing(OutputFile(dest / manifests.NAME)) as file:
            file.write(pack_manifest(manifest))


def _copy(shard: Shard, segment: Segment, end: int, folder: Path) -> None:
    with contextlib.closing(OutputFile(folder / segment.path.name)) as file:
        for offset in range(0, end, _PIECE_BYTES):
            length = min(_PIECE_BYTES, end - offset)
            piece = shard.read(segment, offset, length)
            if len(piece) != length:
                raise StorageError(segment.path, "the file is cut short", offset=offset + len(piece))
            file.write(piece)
