"""The folders of a database's vector indexes: making, filling and opening all fragments of one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from skeg.ann.build import build_index
from skeg.ann.index import Index
from skeg.ann.params import DIM_MAX, default_kind
from skeg.ann.readers import VectorSource, rebatch
from skeg.ann.sources import open_source, read_ids
from skeg.catalog import Entry
from skeg.checks import as_int, check_unique_ids
from skeg.errors import CorruptError, VectorError
from skeg.files import remove_tree
from skeg.sharding import shards_of
from skeg.vector_index import VectorIndex

Ids = npt.NDArray[np.uint64]


def open_fragments(folders: Sequence[Path], entry: Entry, mode: str) -> VectorIndex:
    """Open all fragments of an index.

    Raises
    ------
    CorruptError
        A fragment is damaged, or not the one that the catalogue speaks of.
    StorageError
        As `Index.open`.
    """
    with contextlib.ExitStack() as undo:
        fragments = []
        for folder in folders:
            fragments.append(Index.open(folder, mode=mode))
            undo.callback(fragments[-1].close)
            found = (fragments[-1].dim, fragments[-1].metric, fragments[-1].kind)
            expected = (entry.dim, entry.metric, entry.kind)
            if found != expected:
                problem = "fragment of another index than the catalogue names"
                raise CorruptError(folder, problem, expected=str(expected), found=str(found))
        undo.pop_all()
    return VectorIndex(entry, fragments)


def create_fragments(
    folders: Sequence[Path], name: str, dim: int, *, metric: str, kind: str | None, backend: str
) -> VectorIndex:
    """Make an index without vectors, open for writing; nothing is left if that fails. Errors as `Index.create`."""
    with contextlib.ExitStack() as undo:
        undo.callback(_remove, folders)
        fragments = []
        for folder in folders:
            fragments.append(Index.create(folder, dim, metric=metric, kind=kind))
            undo.callback(fragments[-1].close)
        first = fragments[0]
        entry = Entry(name=name, dim=first.dim, kind=first.kind, backend=backend, metric=first.metric)
        undo.pop_all()
    return VectorIndex(entry, fragments)


def build_fragments(
    folders: Sequence[Path], name: str, source: Any, *, ids: Any, metric: str, kind: str | None, **settings: Any
) -> Entry:
    """Build an index of vectors, closed; nothing is left if that fails. Arguments and errors as `build_index`."""
    with contextlib.ExitStack() as undo:
        undo.callback(_remove, folders)
        opened = undo.enter_context(open_source(source))
        dim = as_int("dim", opened.dim, 1, DIM_MAX) if opened.dim else 0
        kind = kind if kind is not None else default_kind(dim)
        if len(folders) == 1:
            build_index(opened, folders[0], ids=ids, metric=metric, kind=kind, **settings).close()
        else:
            _build_each(folders, opened, ids, metric=metric, kind=kind, **settings)
        entry = Entry(name=name, dim=dim, kind=kind, backend="disk", metric=metric)
        undo.pop_all().callback(opened.close)
    opened.close()
    return entry


def _build_each(
    folders: Sequence[Path], source: VectorSource, ids: Any, *, metric: str, kind: str, **settings: Any
) -> None:
    if source.n is None:
        expected = "vectors that can be read once for each shard"
        raise VectorError(source.name, expected=expected, found="an iterator; save them to a file first")
    row_ids = np.arange(source.n, dtype=np.uint64) if ids is None else read_ids(ids)
    if len(row_ids) != source.n:
        raise VectorError("ids", expected=f"{source.n}, one for each vector", found=f"{len(row_ids)}")
    if not source.n:
        raise VectorError(source.name, expected="at least one vector", found="none")
    check_unique_ids(row_ids)
    numbers = shards_of(row_ids, len(folders))
    for number, folder in enumerate(folders):
        rows = np.flatnonzero(numbers == number)
        if not len(rows):
            graph = {key: settings[key] for key in ("max_degree", "build_list_size", "alpha", "seed")}
            Index.create(folder, source.dim, metric=metric, kind=kind, **graph).close()
            continue
        try:
            part = _Part(source, rows)
            build_index(part, folder, ids=row_ids[rows], metric=metric, kind=kind, **settings).close()
        except VectorError as error:
            if error.row is None:
                raise
            row = int(rows[error.row])
            raise VectorError(error.what, expected=error.expected, found=error.found, row=row) from error


def _remove(folders: Sequence[Path]) -> None:
    for folder in folders:
        remove_tree(folder)


class _Part(VectorSource):
    """Some rows of a source, which goes on to belong to the caller."""

    def __init__(self, source: VectorSource, rows: npt.NDArray[np.int64]) -> None:
        super().__init__(source.name, n=len(rows), dim=source.dim, dtype=source.dtype)
        self.random_access = source.random_access
        self._source = source
        self._rows = rows

    def take(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """See `VectorSource.take`."""
        return self._source.take(self._rows[rows])

    def _blocks(self, rows: int) -> Iterator[npt.NDArray[Any]]:
        if self.random_access:
            for start in range(0, len(self._rows), rows):
                yield self._source.take(self._rows[start : start + rows])
            return
        yield from rebatch(self._those(rows), rows)

    def _those(self, rows: int) -> Iterator[npt.NDArray[Any]]:
        start = 0
        for block in self._source.blocks(rows):
            first, last = np.searchsorted(self._rows, (start, start + len(block)))
            yield block[self._rows[first:last] - start]
            start += len(block)
