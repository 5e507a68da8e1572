"""The writing half of `skeg.ann.Index`: what can be done with an index that was opened for that."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from skeg.ann.filters.payload import encode_given, encode_payloads
from skeg.ann.live.engine import LiveEngine
from skeg.ann.parallel import thread_count
from skeg.ann.searcher import GraphSearcher
from skeg.ann.transform import Float32s
from skeg.checks import as_choice, as_some_ids, as_vectors, check_unique_ids
from skeg.durability import Durability, as_durability
from skeg.errors import NotFoundError, ParameterError, ReadOnlyError, VectorError

ON_CONFLICT = ("replace", "update", "error", "skip")
"""What can become of an id that the index holds."""


class Writable:
    """Methods that write; every one raises `ReadOnlyError` for an index that was opened for reading."""

    _path: Path
    _searcher: GraphSearcher | LiveEngine
    _dim: int
    _metric: str

    def add(
        self,
        ids: Any,
        vectors: Any,
        *,
        payloads: Any = None,
        on_conflict: str = "replace",
        durability: Durability = Durability.SYNC,
    ) -> int:
        """Add vectors, which the next search finds.

        Parameters
        ----------
        ids : int or array_like (n,) of integers
            Unique, below 2**64 - 1.
        vectors : array_like (dim,) or (n, dim)
            Any real dtype; kept as float32.
        payloads : sequence, or a single one with a single id, optional
            What goes with each vector: a mapping of str to str, int, float, bool or list of str, text of ``key=value``
            words, bytes, or None.
        on_conflict : {"replace", "update", "error", "skip"}
            What to do about an id that the index holds: replace vector and payload; replace its vector, and its payload
            unless that is None here; raise; or leave it as it is.
        durability : Durability
            What the vectors survive once this returns.

        Returns
        -------
        int
            How many were added or replaced.

        Raises
        ------
        VectorError
            A vector of another dimension, not finite, or zero under cosine (its row is named); ids that repeat, or that
            the index holds when ``on_conflict`` is "error". Nothing is added then, except when a thousand or more
            vectors are added with "error": those before the thousand with the id that is held.
        ParameterError
            A payload that can't be (its row is named), or another argument.
        ReadOnlyError
            The index was opened for reading.
        StorageError
            The disk is full or failed; what this call added before stays.
        """
        engine = self._writing()
        as_choice("on_conflict", on_conflict, ON_CONFLICT)
        as_durability("durability", durability)
        return engine.put(*self._rows(ids, vectors, payloads, on_conflict), on_conflict, durability)

    def _rows(
        self, ids: Any, vectors: Any, payloads: Any, on_conflict: str
    ) -> tuple[npt.NDArray[np.uint64], Float32s, Sequence[bytes | None]]:
        """Ids (n,), vectors (n, dim) and encoded payloads that were given to be added."""
        wanted, is_single = as_some_ids(ids)
        given = self._vectors(vectors, len(wanted), is_single=is_single)
        check_unique_ids(wanted)
        encode = encode_given if on_conflict == "update" else encode_payloads
        return wanted, given, encode(payloads, len(wanted), is_single=is_single)

    def _vectors(self, vectors: Any, count: int, *, is_single: bool) -> Float32s:
        """Vectors (count, dim) as they were given for so many ids, or for a single one."""
        given = as_vectors(np.reshape(vectors, (1, -1)) if is_single else vectors, self._dim)
        if len(given) != count:
            raise VectorError("ids", expected=f"{len(given)}, one for each vector", found=f"{count}")
        return given

    def update(
        self, ids: Any, vectors: Any = None, *, payloads: Any = None, durability: Durability = Durability.SYNC
    ) -> int:
        """Replace vectors, payloads or both of ids that the index holds; what is not given stays as it is.

        Parameters
        ----------
        ids : int or array_like (n,) of integers
            Unique.
        vectors : array_like (dim,) or (n, dim), optional
        payloads : sequence, or a single one with a single id, optional
            As for `add`.
        durability : Durability
            What the change survives once this returns.

        Returns
        -------
        int
            How many were updated.

        Raises
        ------
        NotFoundError
            An id that the index does not hold; the message names the first, and nothing is changed.
        VectorError, ParameterError, ReadOnlyError, StorageError
            As `add`; `ParameterError` also if neither vectors nor payloads are given.
        """
        engine = self._writing()
        wanted, is_single = as_some_ids(ids)
        if vectors is None and payloads is None:
            raise ParameterError("vectors", None, "vectors, payloads or both")
        given = None if vectors is None else self._vectors(vectors, len(wanted), is_single=is_single)
        encoded = None if payloads is None else encode_payloads(payloads, len(wanted), is_single=is_single)
        check_unique_ids(wanted)
        as_durability("durability", durability)
        check_found(engine.settled(lambda view: view.holds(wanted)), wanted, self._path)
        return engine.update(wanted, given, encoded, durability)

    def delete(self, ids: Any, *, durability: Durability = Durability.SYNC) -> int:
        """Delete vectors and their payloads; what they took on the disk is given back by a merge, see `consolidate`.

        Parameters
        ----------
        ids : int or array_like (n,) of integers
            Those that the index does not hold, and repeated ones, count for nothing.
        durability : Durability
            What the deletion survives once this returns.

        Returns
        -------
        int
            How many there were.

        Raises
        ------
        VectorError
            What can't be an id.
        ReadOnlyError
            The index was opened for reading.
        StorageError
            The disk is full or failed.
        """
        engine = self._writing()
        as_durability("durability", durability)
        return engine.delete(np.unique(as_some_ids(ids)[0]), durability)

    def consolidate(self, *, threads: int | None = None, memory_limit: int | None = None, progress: Any = None) -> None:
        """Merge everything that was written into one new segment; nothing of what was deleted is left on the disk.

        The index does this by itself, in the background, when some 6 % has changed. Others can go on searching and
        writing meanwhile; what they write is merged the next time.

        Parameters
        ----------
        threads : int, optional
            By default one for each processor.
        memory_limit : int, optional
            Bytes of anonymous memory to stay under, as for `build_index`.
        progress : callable, optional
            Called with `Progress` at most ten times a second.

        Raises
        ------
        ReadOnlyError
            The index was opened for reading.
        StorageError
            The disk is full or failed; the index stays as it was and usable.
        """
        self._writing().consolidate(thread_count(threads), memory_limit, progress)

    def _writing(self) -> LiveEngine:
        self._searcher.check_open()
        if not isinstance(self._searcher, LiveEngine):
            raise ReadOnlyError(self._path, "the index was opened for reading")
        return self._searcher


def check_found(found: npt.NDArray[np.bool_], ids: npt.NDArray[np.uint64], path: Path) -> None:
    """Raise `NotFoundError`, naming the first of some ids (n,) that was not found in the index ``path``."""
    if not found.all():
        raise NotFoundError(f"id {int(ids[int(found.argmin())])} is not in {path}")
