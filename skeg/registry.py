"""Which indexes a database has: the catalogue, the folders that it names, and what could be opened of them.

An index is made in two steps: all of its fragments, then a catalogue that names it. It is dropped in the same two steps
backwards. A crash between them leaves folders without an entry, which the next writer removes.
"""

from __future__ import annotations

import contextlib
import copy
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from skeg.catalog import FOLDER_PREFIX, NAME, Entries, Entry, folder_of, read_catalog, write_catalog
from skeg.errors import ClosedError, CorruptError, ExistsError, NotFoundError, ReadOnlyError, StorageError
from skeg.fileops import SYSTEM
from skeg.files import disk_errors, remove_tree

if TYPE_CHECKING:
    from skeg.vector_index import VectorIndex

# How often a reader looks again at indexes that are made and dropped meanwhile.
_READER_ATTEMPTS = 20

_registries: weakref.WeakSet[Registry] = weakref.WeakSet()


@attrs.frozen(eq=False)
class Known:
    """The indexes of a database at one time; replaced as a whole, so that nobody needs a lock to look at it.

    entries : of the catalogue; ready : those that are open; problems : why others are not, the quarantined ones.
    """

    entries: Entries = attrs.field(factory=dict)
    ready: dict[str, VectorIndex] = attrs.field(factory=dict)
    problems: dict[str, StorageError] = attrs.field(factory=dict)

    def without(self, name: str) -> Known:
        """The same but for one index."""
        entries, ready, problems = dict(self.entries), dict(self.ready), dict(self.problems)
        entries.pop(name, None)
        ready.pop(name, None)
        problems.pop(name, None)
        return Known(entries, ready, problems)


class Registry:
    """The indexes of an open database.

    Parameters
    ----------
    path : Path
        Folder of the database.
    shards : int
        How many shards it has.
    mode : str
        "rw": what was not finished is removed; "r": nothing is changed.

    Attributes
    ----------
    known : Known
        The indexes now.

    Raises
    ------
    CorruptError
        The catalogue is damaged or missing.
    """

    def __init__(self, path: Path, shards: int, mode: str) -> None:
        self.path = path
        self.mode = mode
        self.known = Known()
        self.closed = False
        self._shards = [path / f"shard-{number}" for number in range(shards)]
        # Held by whoever changes which indexes there are.
        self._changing = threading.Lock()
        # Names of indexes that are being made.
        self._making: set[str] = set()
        if mode == "rw":
            entries = self._read()
            self._remove_leftovers(entries)
            self.known = self._opened(entries, {})
        else:
            self._follow()
        _registries.add(self)

    def check_open(self) -> None:
        """Raise `ClosedError` once it is closed."""
        if self.closed:
            raise ClosedError(f"{self.path} was closed")

    def check_writable(self) -> None:
        """Raise `ReadOnlyError` if the database was opened for reading."""
        self.check_open()
        if self.mode != "rw":
            raise ReadOnlyError(self.path, "opened for reading only")

    def get(self, name: str) -> VectorIndex:
        """An open index; `NotFoundError`, or the `StorageError` because of which it could not be opened."""
        known = self.known
        index = known.ready.get(name)
        if index is None:
            self.check_open()
            problem = known.problems.get(name)
            if problem is not None:
                raise copy.copy(problem)  # of its own: raised again and again, one would gather tracebacks
            raise NotFoundError(f"no index {name!r} in {self.path}")
        return index

    def folders(self, name: str) -> list[Path]:
        """The folder of each fragment of an index."""
        return [shard / folder_of(name) for shard in self._shards]

    # --- making and dropping

    @contextlib.contextmanager
    def place_for(self, name: str) -> Iterator[list[Path]]:
        """Folders for the fragments of a new index, which don't exist; they are removed if it does not come to be.

        Raises
        ------
        ExistsError
            There is an index of that name, or it is being made.
        """
        with self._changing:
            self.check_writable()
            if name in self.known.entries or name in self._making:
                raise ExistsError(self.path, f"there is an index {name!r} already")
            if read_catalog(self.path) is None:
                write_catalog(self.path, ())  # from the first folder on there has to be one
            self._making.add(name)
        folders = self.folders(name)
        try:
            self._remove(name)  # what could not be removed before
            yield folders
        except BaseException:
            # Once it is closed, the folders may be another process's.
            if name not in self.known.entries and not self.closed:
                self._remove(name)
            raise
        finally:
            self._making.discard(name)

    def enter(self, entry: Entry, index: VectorIndex | None = None) -> VectorIndex:
        """Name an index whose fragments are whole in the catalogue; gives it, opened if it is not yet.

        Raises
        ------
        StorageError
            The disk refused, and the index is not named; or it is, but can't be opened.
        """
        with self._changing:
            self.check_writable()
            try:
                self._publish({**self.known.entries, entry.name: entry})
            finally:
                known = self.known
                if entry.name in known.entries:
                    given = {} if index is None else {entry.name: index}
                    self.known = self._opened(known.entries, {**known.ready, **given}, known.problems)
        return self.get(entry.name)

    def drop(self, name: str) -> None:
        """Remove an index. Errors as `Database.drop_index`."""
        with self._changing:
            self.check_writable()
            index = self.known.ready.get(name)
            if name not in self.known.entries:
                raise NotFoundError(f"no index {name!r} in {self.path}")
            try:
                self._publish(self.known.without(name).entries)
            finally:
                if name not in self.known.entries:
                    self.known = self.known.without(name)
            try:
                if index is not None:
                    index.close()
            finally:
                self._remove(name)

    def _publish(self, entries: Entries) -> None:
        """Make these the entries of the catalogue; an error that comes after that was done does not count."""
        try:
            write_catalog(self.path, entries.values())
        except BaseException as error:
            if read_catalog(self.path) != entries:
                raise
            self.known = attrs.evolve(self.known, entries=entries)
            if not isinstance(error, StorageError):
                raise
        self.known = attrs.evolve(self.known, entries=entries)

    def _remove(self, name: str) -> None:
        for folder in self.folders(name):
            remove_tree(folder)

    def _remove_leftovers(self, entries: Entries) -> None:
        """Remove folders of indexes that the catalogue does not name; what can't be removed is tried again later."""
        wanted = {folder_of(name) for name in entries}
        for folder in self._folders_there():
            if folder.name not in wanted:
                remove_tree(folder)

    def _folders_there(self) -> list[Path]:
        found = []
        for shard in self._shards:
            with disk_errors(shard, "list the folder"):
                found += [shard / name for name in SYSTEM.listdir(shard) if name.startswith(FOLDER_PREFIX)]
        return found

    # --- opening

    def refresh(self) -> bool:
        """See what a writer has done; whether there was anything. Errors as `Database.refresh`."""
        with self._changing:
            self.check_open()
            return self.mode == "r" and self._follow()

    def _follow(self) -> bool:
        """See what a writer has done: to which indexes there are, and to each; whether there was anything.

        Raises
        ------
        StorageError
            What is new in an index can't be read; all others were seen to.
        """
        news = False
        failures: list[StorageError] = []
        for _ in range(_READER_ATTEMPTS):
            entries = self._read()
            before = self.known
            same = {n: index for n, index in before.ready.items() if entries.get(n) == before.entries[n]}
            failures.clear()
            for index in same.values():
                try:
                    news |= index.refresh()
                except StorageError as error:
                    failures.append(error)
            self.known = self._opened(entries, same)
            news |= entries != before.entries or self.known.problems.keys() != before.problems.keys()
            for name, index in before.ready.items():
                if name not in same:
                    index.close()
            if self._read() == entries:  # else what failed may have been dropped
                break
        if failures:
            raise failures[0]
        return news

    def _opened(
        self, entries: Entries, ready: dict[str, VectorIndex], problems: dict[str, StorageError] | None = None
    ) -> Known:
        """All of the entries, of which some are open or known to be in quarantine already."""
        known = Known(entries, dict(ready), dict(problems or {}))
        for name in sorted(entries.keys() - known.ready.keys() - known.problems.keys()):
            try:
                known.ready[name] = self._open(entries[name])
            except StorageError as error:
                known.problems[name] = copy.copy(error)
        return known

    def _open(self, entry: Entry) -> VectorIndex:
        from skeg.fragments import open_fragments

        return open_fragments(self.folders(entry.name), entry, self.mode)

    def _read(self) -> Entries:
        """The catalogue; a database that never had an index has none."""
        for _ in range(2):  # the first of all indexes may have come between a look and the next
            entries = read_catalog(self.path)
            if entries is not None:
                return entries
            if not self._folders_there():
                return {}
        raise CorruptError(self.path / NAME, "missing, though the database has indexes")

    # --- the end

    def close(self, and_then: Callable[[], None]) -> None:
        """Close all indexes and call `and_then`, whatever comes of that; later calls do nothing."""
        with self._changing:
            if self.closed:
                return
            self.closed = True
            known, self.known = self.known, Known(self.known.entries)
            with contextlib.ExitStack() as cleanup:
                cleanup.callback(and_then)
                for index in known.ready.values():
                    cleanup.callback(index.close)

    def after_fork(self) -> None:
        """In the child of a fork: what is written to belongs to the parent."""
        self._changing = threading.Lock()
        if self.mode == "rw":
            self.closed = True
            self.known = Known()


def _after_fork() -> None:
    for registry in list(_registries):
        registry.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
