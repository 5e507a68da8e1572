"""From a folder to the state of the index in it: the segment that the manifest names, and the logs replayed on it."""

from __future__ import annotations

from pathlib import Path

import attrs

from skeg.ann.format import MANIFEST, Manifest
from skeg.ann.live.format import LogHeader, PutRecord
from skeg.ann.live.log import UNFINISHED, LogReader, log_name, log_numbers
from skeg.ann.live.state import State
from skeg.errors import CorruptError, VectorError
from skeg.fileops import SYSTEM, FileOps
from skeg.files import disk_errors, remove_tree


@attrs.define
class Replay:
    """Reads the logs of an index onto its state, and can go on when there is more.

    Attributes
    ----------
    reader : LogReader or None
        The last log, None if there is none.
    number, next_seq : int
        Of the log to be written next, if that is a new one.
    """

    state: State
    ops: FileOps = SYSTEM
    reader: LogReader | None = None
    number: int = 0
    next_seq: int = 1

    def run(self) -> int:
        """Apply what is new in the logs; gives the number of records.

        Raises
        ------
        CorruptError
            A record is damaged, or a log that is followed by another is cut short.
        """
        live = self.state.manifest.live
        assert live is not None
        with disk_errors(self.state.path, "list the folder"):
            names = self.ops.listdir(self.state.path)
        applied = self._read() if self.reader is not None else 0
        self.number = max(self.number, live.first_log)
        for number in log_numbers(names):
            if number < self.number:
                continue
            if number > self.number:
                path = self.state.path / log_name(self.number)
                raise CorruptError(path, "log is missing", found=log_name(number), expected=path.name)
            header = LogHeader(self.state.manifest.dim, live.uid_bytes, number, 0)
            before = self.reader
            self.reader = LogReader(self.state.path, header, self.ops)
            if before is not None:
                before.close()
                self._check_chain(before)
            self.number = number + 1
            applied += self._read()
        return applied

    def _check_chain(self, before: LogReader) -> None:
        assert self.reader is not None
        if self.reader.end.next_seq != before.end.next_seq:
            expected = f"records up to number {self.reader.end.next_seq - 1}"
            problem = "log is cut short or damaged: another follows it"
            found = f"up to {before.end.next_seq - 1}"
            raise CorruptError(before.path, problem, offset=before.end.offset, expected=expected, found=found)

    def _read(self) -> int:
        assert self.reader is not None
        applied = 0
        for record in self.reader.records():
            applied += 1
            self.next_seq = self.reader.end.next_seq
            if not isinstance(record, PutRecord):
                self.state.remove(record.ids)
                continue
            if self.state.room < len(record.ids):
                self.state.add_part()
            try:
                encoded = self.state.newest.encode(record.vectors)
            except VectorError as error:
                raise CorruptError(self.reader.path, f"record with a vector that can't be ({error})") from error
            self.state.put(record.ids, record.vectors, encoded, record.payloads)
        self.next_seq = self.reader.end.next_seq
        return applied

    def close(self) -> None:
        """Close the last log."""
        if self.reader is not None:
            self.reader.close()


def remove_leftovers(path: Path, manifest: Manifest, ops: FileOps = SYSTEM) -> int:
    """Remove segments and logs that the manifest does not need any more, or does not know yet; gives their number.

    To be called by the writer only. What can't be removed now is tried again later.
    """
    live = manifest.live
    assert live is not None
    with disk_errors(path, "list the folder"):
        names = ops.listdir(path)
    old = [log_name(number) for number in log_numbers(names) if number < live.first_log]
    unfinished = [name.removesuffix(UNFINISHED) for name in names if name.endswith(UNFINISHED)]
    # Another thread may be making the log that comes next.
    old += [log_name(number) + UNFINISHED for number in log_numbers(unfinished) if number < live.first_log]
    current = manifest.segment if manifest.count else None
    old += [name for name in names if name.startswith("segment-") and name != current]
    old += [name for name in names if name.startswith(f"{MANIFEST}.building-")]
    for name in old:
        remove_tree(path / name)
    return len(old)
