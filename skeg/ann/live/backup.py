"""A copy of an index that is in use.

What a manifest names stays as it is: segments never change, logs only grow. A merge may replace the manifest and remove
what the old one named while that is being copied: then the copy begins anew.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from skeg.ann.format import MANIFEST, Manifest, pack_manifest, read_manifest
from skeg.ann.live.format import LogHeader
from skeg.ann.live.log import LogReader, log_name, log_numbers
from skeg.errors import StorageError
from skeg.fileops import SYSTEM, read_all
from skeg.files import OutputFile, disk_errors, make_folder, remove_tree

PIECE_BYTES = 1 << 20
"""Bytes copied at a time."""

COPY_TRIES = 20
"""How often an index is copied at most that is merged again and again meanwhile."""


def copy_index(source: Path, folder: Path) -> None:
    """Copy the index in the folder `source`, as its files are, into an empty folder; the caller makes that durable.

    Raises
    ------
    CorruptError
        A record of a log is damaged that was durable.
    StorageError
        The disk refused.
    """
    for attempt in range(COPY_TRIES):
        manifest = read_manifest(source)
        try:
            _copy(source, folder, manifest)
        except StorageError:
            if attempt == COPY_TRIES - 1 or read_manifest(source) == manifest:
                raise
            for name in SYSTEM.listdir(folder):
                remove_tree(folder / name)
        else:
            return


def _copy(source: Path, folder: Path, manifest: Manifest) -> None:
    if manifest.count:
        make_folder(folder / manifest.segment)
        for name, size in manifest.files.items():
            _copy_file(source, folder, f"{manifest.segment}/{name}", size)
    if manifest.live is not None:
        with disk_errors(source, "list the folder"):
            numbers = log_numbers(SYSTEM.listdir(source))
        for number in numbers:
            if number >= manifest.live.first_log:
                wanted = LogHeader(manifest.dim, manifest.live.uid_bytes, number, 0)
                _copy_file(source, folder, log_name(number), _end_of(source, wanted))
    with contextlib.closing(OutputFile(folder / MANIFEST)) as file:
        file.write(pack_manifest(manifest))


def _end_of(source: Path, wanted: LogHeader) -> int:
    """Where the records of a log end that are whole. A writer goes on behind them, in pieces that come in any order."""
    reader = LogReader(source, wanted)
    try:
        for _ in reader.records():
            continue
        return reader.end.offset
    finally:
        reader.close()


def _copy_file(source: Path, folder: Path, name: str, size: int) -> None:
    """Copy the first bytes of a file."""
    path = source / name
    with disk_errors(path, "open"):
        file = SYSTEM.open(path)
    with contextlib.closing(file), contextlib.closing(OutputFile(folder / name)) as copy:
        for offset in range(0, size, PIECE_BYTES):
            length = min(PIECE_BYTES, size - offset)
            with disk_errors(path, "read"):
                piece = read_all(file, length, offset)
            if len(piece) != length:
                raise StorageError(path, "the file is cut short", offset=offset + len(piece))
            copy.write(piece)
