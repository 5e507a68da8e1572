"""Reading everything that a shard has, and comparing what should agree."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from skeg.errors import CorruptError, StorageError
from skeg.fileops import read_all
from skeg.files import disk_errors
from skeg.kv.compaction import rest, scan_segment
from skeg.kv.entries import COLUMNS, Entries, newest_rows
from skeg.kv.hints import unpack_hint
from skeg.kv.scan import Scan
from skeg.kv.segments import Segment
from skeg.kv.shard import Shard
from skeg.kv.snapshot import Snapshot

U64 = NDArray[np.uint64]


def verify_shard(shard: Shard) -> list[CorruptError]:
    """What is wrong with a shard: records, hints, or an index that says something else than the log.

    Other threads may go on; compaction waits.
    """
    problems: list[CorruptError] = []
    with shard.compacting, Snapshot([shard]) as snapshot:
        found: list[tuple[Segment, Entries]] = []
        for segment, end in snapshot.segments[0].values():
            if segment in shard.retired or not segment.reserved:
                continue
            try:
                scan = scan_segment(shard, segment, end, rest)
            except CorruptError as error:
                problems.append(error)
                continue
            found.append((segment, scan.entries.newest()))
            problems += _check_hint(shard, segment, scan)
        if not problems:
            problems += _check_index(shard, found, np.sort(snapshot.frozen[0].locations()))
    return problems


def _check_hint(shard: Shard, segment: Segment, scan: Scan) -> list[CorruptError]:
    path = shard.folder.hint_path(segment.id)
    try:
        with disk_errors(path, "read"):
            file = shard.folder.files.open(path)
            data = read_all(file, file.size(), 0)
    except StorageError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return []
        raise
    try:
        hint = unpack_hint(data, path, shard_id=shard.folder.shard_id, segment=segment.id)
    except CorruptError as error:
        return [error]
    covered = scan.entries[scan.entries.offset * 8 < hint.end].newest()
    same = all(np.array_equal(getattr(covered, name), getattr(hint.entries, name)) for name in COLUMNS)
    return [] if same else [CorruptError(path, "the hint says something else than its segment")]


def _check_index(shard: Shard, found: list[tuple[Segment, Entries]], indexed: U64) -> list[CorruptError]:
    """Whether the index has the newest record of every key, or a copy of it; `indexed` are its locations, ascending."""
    empty = Entries.of_rows([])
    rows = Entries.join([entries for _, entries in found] or [empty])
    locations = np.concatenate([entries.locations(segment.id) for segment, entries in found] or [empty.hash])
    newest = newest_rows(rows.hash, rows.check, rows.seq)
    expected = rows[newest[locations[newest] != 0]]
    order = np.argsort(locations)
    at = np.minimum(np.searchsorted(locations[order], indexed), max(0, len(order) - 1))
    actual = rows[order[at]].newest() if len(order) else empty
    known = len(order) == 0 or np.array_equal(locations[order[at]], indexed)
    if known and len(indexed) == len(actual) and _same_keys(expected, actual):
        return []
    return [
        CorruptError(
            shard.folder.path,
            "the index says something else than the log",
            expected=f"{len(expected)} keys",
            found=f"{len(indexed)} keys, or others",
        )
    ]


def _same_keys(one: Entries, other: Entries) -> bool:
    """Whether two lots of rows speak of the same keys and the same writes of them."""
    columns = [np.lexsort((rows.check, rows.hash)) for rows in (one, other)]
    return all(
        np.array_equal(getattr(one, name)[columns[0]], getattr(other, name)[columns[1]])
        for name in ("hash", "check", "seq")
    )
