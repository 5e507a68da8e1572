"""`Database`: a key-value store and named vector indexes in one folder.

The folder is that of a `skeg.kv.Store`, whose lock, number of shards and shard folders are the database's too, with the
catalogue of its indexes (`skeg.catalog`) and, in the folder of each shard, one fragment of each index.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import attrs

from skeg.catalog import BACKENDS, Entry, check_name, folder_of, read_catalog, write_catalog
from skeg.checks import as_choice
from skeg.errors import ClosedError, CorruptError, SkegError
from skeg.files import AnyPath, BuildFolder, remove_tree
from skeg.kv.backup import copy_shards
from skeg.kv.options import StoreOptions
from skeg.kv.store import Store
from skeg.registry import Registry

if TYPE_CHECKING:
    from skeg.vector_index import VectorIndex


@attrs.frozen(kw_only=True)
class IndexInfo:
    """What `Database.indexes` says of an index.

    name, dim, kind, backend, metric : as it was made; count : vectors, 0 if it is quarantined; state : "ready", or
    "quarantined" for one that could not be opened; problem : why, else None.
    """

    name: str
    dim: int
    kind: str
    backend: str
    metric: str
    count: int
    state: Literal["ready", "quarantined"]
    problem: str | None


def open_database(
    path: AnyPath, *, mode: str = "rw", shards: int | None = None, options: StoreOptions | None = None
) -> Database:
    """Open the database in a folder; `skeg.open` is this.

    Parameters
    ----------
    path : path
        The folder; made if it is missing and `mode` is "rw".
    mode : {"rw", "r"}
        "rw": this process alone may write. "r": beside any other process; takes no lock and writes nothing.
    shards : int, optional
        Number of shards of a new database, 1 by default; of an existing one, what it has to be.
    options : StoreOptions, optional
        Of the key-value store; the defaults are good.

    Returns
    -------
    Database
        Close it, or use it in a ``with`` block. An index that is damaged does not keep it from opening, see
        `Database.indexes`.

    Raises
    ------
    LockedError
        Another process has it open for writing; the message says which.
    CorruptError
        The key-value store or the catalogue of indexes is damaged; the message says where.
    FormatError
        No database, or of a newer version (`VersionTooNewError`).
    ParameterError
        An option out of range, or another number of shards.
    StorageError
        The disk refused.
    """
    store = Store.open(path, shards=shards, mode=mode, options=options)
    try:
        return Database(store, mode)
    except BaseException:
        store.close()
        raise


class Database:
    """A key-value store and named vector indexes; opened by `skeg.open`. Any number of threads may use it.

    One process may have it open for writing, any number for reading. After a fork a database that was opened for
    reading can be used in the child too; one opened for writing stays the parent's.

    Attributes
    ----------
    path : Path
        The folder.
    mode : str
        "rw" or "r".
    shards : int
        Number of shards.
    kv : Store
        The key-value store; of a database opened for reading as it was then.
    """

    def __init__(self, store: Store, mode: str) -> None:
        self.path = store.path
        self.mode = mode
        self.shards = store.manifest.shards
        self.kv = store
        self._registry = Registry(self.path, self.shards, mode)

    # --- indexes

    def create_index(
        self, name: str, dim: int, *, kind: str | None = None, backend: str = "disk", metric: str = "cosine"
    ) -> VectorIndex:
        """Make an index without vectors; a crash leaves all of it or nothing.

        Parameters
        ----------
        name : str
            1 to 128 of the characters ``A-Z a-z 0-9 . _ -``; see `skeg.catalog.check_name`.
        dim : int
            Dimension of the vectors, at most 65,536.
        kind : str, optional
            Codes that steer a search, as for `skeg.ann.Index.create`; by default chosen by dimension.
        backend : {"disk", "flat"}
            "disk": searches walk a graph. "flat": they compare with every vector, and so find all that is near.
        metric : {"cosine", "ip", "l2"}
            What "near" means.

        Returns
        -------
        VectorIndex
            Open; it is closed with the database.

        Raises
        ------
        ExistsError
            There is an index of that name.
        ParameterError
            A name or another argument that can't be.
        ReadOnlyError
            The database was opened for reading.
        StorageError
            The disk refused.
        """
        check_name(name)
        as_choice("backend", backend, BACKENDS)
        from skeg.fragments import create_fragments

        with self._registry.place_for(name) as folders:
            index = create_fragments(folders, name, dim, metric=metric, kind=kind, backend=backend)
            try:
                return self._registry.enter(index.entry, index)
            except BaseException:
                if self._registry.known.ready.get(name) is not index:
                    index.close()
                raise

    def build_index(
        self,
        name: str,
        source: Any,
        *,
        ids: Any = None,
        metric: str = "cosine",
        kind: str | None = None,
        max_degree: int | None = None,
        build_list_size: int | None = None,
        alpha: float | None = None,
        threads: int | None = None,
        seed: int = 0,
        memory_limit: int | None = None,
        progress: Any = None,
    ) -> VectorIndex:
        """Build an index of vectors that are there already; a crash leaves all of it or nothing.

        Parameters
        ----------
        name : str
            As for `create_index`.
        source
            As for `skeg.ann.build_index`; with several shards no iterator, as it is read once for each.
        ids, metric, kind, max_degree, build_list_size, alpha, threads, seed, memory_limit, progress
            As for `skeg.ann.build_index`. Fragments are built one after the other.

        Returns
        -------
        VectorIndex
            Open, with the backend "disk".

        Raises
        ------
        ExistsError
            There is an index of that name.
        ParameterError, VectorError, StorageError
            As `skeg.ann.build_index` and `create_index`.
        """
        check_name(name)
        from skeg.fragments import build_fragments

        with self._registry.place_for(name) as folders:
            entry = build_fragments(
                folders, name, source, ids=ids, metric=metric, kind=kind, max_degree=max_degree,
                build_list_size=build_list_size, alpha=alpha, threads=threads, seed=seed, memory_limit=memory_limit,
                progress=progress,
            )  # fmt: skip
            return self._registry.enter(entry)

    def index(self, name: str) -> VectorIndex:
        """The index of a name.

        Parameters
        ----------
        name : str

        Raises
        ------
        NotFoundError
            There is none.
        StorageError
            It could not be opened; the error is the one that said so.
        """
        return self._registry.get(name)

    def indexes(self) -> list[IndexInfo]:
        """What indexes there are, ordered by name."""
        self._registry.check_open()
        known = self._registry.known
        infos = []
        for name, entry in sorted(known.entries.items()):
            problem = known.problems.get(name)
            if problem is not None:
                infos.append(_info(entry, 0, "quarantined", str(problem)))
            elif name in known.ready:
                with contextlib.suppress(ClosedError):  # dropped meanwhile
                    infos.append(_info(entry, len(known.ready[name]), "ready", None))
        return infos

    def __contains__(self, name: object) -> bool:
        return name in self._registry.known.entries

    def drop_index(self, name: str) -> None:
        """Remove an index, also one that could not be opened; a crash leaves all of it or nothing.

        Whoever is using it meanwhile gets what was asked for, or `ClosedError`.

        Parameters
        ----------
        name : str

        Raises
        ------
        NotFoundError
            There is none.
        ReadOnlyError
            The database was opened for reading.
        StorageError
            The disk refused; the index is still there.
        """
        self._registry.drop(name)

    # --- the whole database

    def refresh(self) -> bool:
        """See what the writing process has done to the indexes since this database was opened, or refreshed.

        Indexes that came are opened, those that were dropped are closed, and those that could not be opened are tried
        again. The key-value store stays as it was opened. In a database opened for writing there is nothing to see.

        Returns
        -------
        bool
            Whether there was anything.

        Raises
        ------
        CorruptError
            The catalogue is damaged, or what is new in an index; that one stays as it was.
        """
        return self._registry.refresh()

    def snapshot(self, dest: AnyPath) -> None:
        """Copy the database to a new folder, while it is in use.

        The key-value store is copied as it is at one moment, and each index, none of them before the call. An index
        that is dropped meanwhile is left out.

        Parameters
        ----------
        dest : path
            Must not exist. It appears when the copy is whole.

        Raises
        ------
        StorageError
            The disk refused, or `dest` exists, or an index could not be opened: drop it, or repair it first.
        """
        self._registry.check_open()
        with BuildFolder(dest) as build:
            copy_shards(self.kv._parts.shards, self.kv.manifest, build.path)  # noqa: SLF001 - a part of it
            copied = [entry for entry in self._registry.known.entries.values() if self._copy(entry, build.path)]
            if copied:
                write_catalog(build.path, copied)
            build.publish()

    def _copy(self, entry: Entry, dest: Path) -> bool:
        """Copy an index; False if it was dropped."""
        folders = [dest / f"shard-{number}" / folder_of(entry.name) for number in range(self.shards)]
        try:
            index = self.index(entry.name)
            for fragment, folder in zip(index.fragments, folders, strict=True):
                fragment.snapshot(folder)
        except SkegError:
            now = read_catalog(self.path) or {}
            if now.get(entry.name) == entry:
                raise
            for folder in folders:
                remove_tree(folder)
            return False
        return True

    def stats(self) -> dict[str, Any]:
        """Figures: ``shards``, ``mode``, ``kv`` as `Store.stats`, ``indexes`` by name as `VectorIndex.stats`."""
        self._registry.check_open()
        known = self._registry.known
        indexes: dict[str, Any] = {}
        for name in sorted(known.entries):
            if name in known.problems:
                indexes[name] = {"state": "quarantined", "problem": str(known.problems[name])}
            elif name in known.ready:
                with contextlib.suppress(ClosedError):  # dropped meanwhile
                    indexes[name] = known.ready[name].stats()
        return {"shards": self.shards, "mode": self.mode, "kv": self.kv.stats(), "indexes": indexes}

    def verify(self) -> list[CorruptError]:
        """Read every byte of the store and of all indexes and check it.

        Returns
        -------
        list of CorruptError
            What is wrong, also why indexes could not be opened; empty when all is well.
        """
        findings = self.kv.verify()
        try:
            read_catalog(self.path)
        except CorruptError as error:
            findings.append(error)
        known = self._registry.known
        for problem in known.problems.values():
            expected, found = problem.expected, problem.found
            findings.append(
                CorruptError(problem.path, problem.problem, offset=problem.offset, expected=expected, found=found)
            )
        for index in known.ready.values():
            with contextlib.suppress(ClosedError):  # dropped meanwhile
                findings += index.verify()
        return findings

    def close(self) -> None:
        """Put everything on stable storage and let go of the files; closing twice is allowed. Raises StorageError."""
        self._registry.close(self.kv.close)

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._registry.closed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"{len(self._registry.known.entries)} indexes"
        return f"<skeg.Database {str(self.path)!r} {self.mode} {state}>"


def _info(entry: Entry, count: int, state: Literal["ready", "quarantined"], problem: str | None) -> IndexInfo:
    return IndexInfo(
        name=entry.name, dim=entry.dim, kind=entry.kind, backend=entry.backend, metric=entry.metric, count=count,
        state=state, problem=problem,
    )  # fmt: skip
