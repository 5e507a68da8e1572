"""`VectorIndex`: one named index of a database, in as many fragments as the database has shards.

Each fragment is a `skeg.ann.Index` of its own, with the vectors whose ids belong to that shard (`skeg.sharding`). With
one shard every call is the fragment's; with several, searches go to all of them and are merged, and changes are divided
by shard.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

import numpy as np
import numpy.typing as npt

from skeg.ann.exact import checked_norms
from skeg.ann.filters.payload import encode_payloads
from skeg.ann.hits import Hits, merge_hits
from skeg.ann.index import Index
from skeg.ann.parallel import available_cpus, shared_workers, thread_count
from skeg.ann.tuning import evaluate, find_list_size, keep_list_size
from skeg.ann.writable import ON_CONFLICT
from skeg.catalog import Entry
from skeg.checks import RESERVED_ID, as_choice, as_real_array, as_some_ids, as_vectors, check_unique_ids
from skeg.durability import Durability, as_durability
from skeg.errors import CorruptError, NotFoundError, ParameterError, VectorError
from skeg.sharding import shard_of, shards_of

Ids = npt.NDArray[np.uint64]

_SUMMED = ("count", "rows_delta", "rows_dead", "merges", "regions", "cells")
"""Figures that are summed over fragments, beside all of which the name begins with "bytes_"."""


class VectorIndex:
    """An index of a database; made by `Database.create_index` or `Database.build_index`, got by `Database.index`.

    It can be used by any number of threads, and goes on to belong to the database, which closes it. Methods, arguments
    and errors are those of `skeg.ann.Index`. A change of several vectors is atomic in each shard, as far as it is in an
    `Index`: after an error of the disk in one shard, others may have changed. Arguments are checked before any is.

    Attributes
    ----------
    name : str
        Name in the database.
    entry : Entry
        What the catalogue says of it.
    fragments : tuple of Index
        One for each shard.
    """

    def __init__(self, entry: Entry, fragments: Sequence[Index]) -> None:
        self.entry = entry
        self.name = entry.name
        self.fragments = tuple(fragments)
        self._only = fragments[0] if len(fragments) == 1 else None
        self._is_exact = entry.backend == "flat"

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        return self.entry.dim

    @property
    def metric(self) -> str:
        """Name of the metric."""
        return self.entry.metric

    @property
    def kind(self) -> str:
        """Kind of the codes that steer a search."""
        return self.entry.kind

    @property
    def backend(self) -> str:
        """How searches go: "disk" walks a graph, "flat" compares with every vector."""
        return self.entry.backend

    @property
    def generation(self) -> int:
        """Grows with every merge and tuning."""
        return sum(fragment.generation for fragment in self.fragments)

    # --- searching

    def search(
        self,
        q: Any,
        k: int = 10,
        *,
        search_list_size: int | None = None,
        rerank: int | None = None,
        filter: Any = None,  # noqa: A002 - what everybody calls it
        radius: float | None = None,
        with_payload: bool = False,
        exact: bool = False,
        threads: int | None = None,
    ) -> Hits:
        """Nearest stored vectors of one query (dim,) or of many (n, dim).

        Parameters
        ----------
        q, k, search_list_size, rerank, filter, radius, with_payload, exact
            As for `skeg.ann.Index.search`. A list size is that of each fragment's walk; an index of the backend "flat"
            is always searched exactly.
        threads : int, optional
            For many queries, and for the fragments of one; by default one for each processor.

        Returns
        -------
        Hits
            ``ids, scores = hits``; (k,) for one query, (n, k) for many. An error in any fragment is the search's.
        """
        exact = exact or self._is_exact
        if self._only is not None:
            return self._only.search(
                q, k, search_list_size=search_list_size, rerank=rerank, filter=filter, radius=radius,
                with_payload=with_payload, exact=exact, threads=threads,
            )  # fmt: skip
        if filter is not None and not isinstance(filter, str | AbstractSet):
            filter = self._as_ids(filter)  # noqa: A001
        one_query = np.ndim(q) == 1

        def ask(fragment: Index) -> Hits:
            return fragment.search(
                q, k, search_list_size=search_list_size, rerank=rerank, filter=filter, radius=radius,
                with_payload=with_payload, exact=exact, threads=1 if one_query else threads,
            )  # fmt: skip

        at_a_time = 1
        if one_query:  # else each fragment sees to the threads
            at_a_time = min(available_cpus() if threads is None else thread_count(threads), len(self.fragments))
        return merge_hits(self._of_each(ask, at_a_time), None if radius is not None else int(k))

    def _of_each(self, ask: Callable[[Index], Hits], threads: int) -> list[Hits]:
        """What each fragment answers, so many at a time."""
        found: list[Any] = [None] * len(self.fragments)

        def work(piece: int, _worker: int) -> None:
            found[piece] = ask(self.fragments[piece])

        shared_workers(threads).run(len(found), work)
        return found

    def _as_ids(self, given: Any) -> Any:
        """A filter that is no words and no set, as ids: bools stand for all ids together."""
        array = as_real_array(given, "filter")
        if array.ndim != 1 or array.dtype.kind != "b":
            return array
        ids = self.ids()
        if len(ids) != len(array):
            raise ParameterError("filter", f"{len(array)} bools", f"{len(ids)}, one for each id in ascending order")
        return ids[array]

    # --- reading

    def get(self, ids: Any) -> npt.NDArray[np.float32]:
        """Stored vectors, exactly as they were given as float32; (dim,) for one id, (n, dim) for many.

        Parameters
        ----------
        ids : int or array_like (n,) of integers

        Raises
        ------
        NotFoundError
            An id that the index does not hold; the message names the first.
        """
        wanted, is_single = as_some_ids(ids)
        vectors = np.empty((len(wanted), self.dim), np.float32)
        with self._missing_named(wanted):
            for fragment, rows in self._divided(wanted):
                vectors[rows] = fragment.get(wanted[rows])
        return vectors[0] if is_single else vectors

    def payloads(self, ids: Any) -> Any:
        """What goes with stored vectors, as it was given: a payload for one id, a list of them for many.

        Parameters
        ----------
        ids : int or array_like (n,) of integers

        Raises
        ------
        NotFoundError
            An id that the index does not hold; the message names the first.
        """
        wanted, is_single = as_some_ids(ids)
        found: list[Any] = [None] * len(wanted)
        with self._missing_named(wanted):
            for fragment, rows in self._divided(wanted):
                for row, payload in zip(rows.tolist(), fragment.payloads(wanted[rows]), strict=True):
                    found[row] = payload
        return found[0] if is_single else found

    def ids(self) -> Ids:
        """All ids (n,), ascending."""
        return np.sort(np.concatenate([fragment.ids() for fragment in self.fragments]))

    def __len__(self) -> int:
        return sum(map(len, self.fragments))

    def __contains__(self, vector_id: object) -> bool:
        fragment = self.fragments[0]
        if isinstance(vector_id, int | np.integer) and 0 <= int(vector_id) < RESERVED_ID:
            fragment = self.fragments[shard_of(int(vector_id), len(self.fragments))]
        return vector_id in fragment

    def contains(self, ids: Any) -> Any:
        """Whether ids are stored: a bool for one, bools (n,) for many.

        Parameters
        ----------
        ids
            As for `skeg.ann.Index.contains`.
        """
        wanted, is_single = as_some_ids(ids)
        held = np.empty(len(wanted), np.bool_)
        for fragment, rows in self._divided(wanted):
            held[rows] = fragment.contains(wanted[rows])
        return bool(held[0]) if is_single else held

    def fragment_of(self, ids: Sequence[int]) -> Index | None:
        """The fragment that all of some ids belong to, unless they belong to several."""
        if self._only is not None:
            return self._only
        numbers = {shard_of(vector_id, len(self.fragments)) for vector_id in ids}
        return self.fragments[numbers.pop()] if len(numbers) == 1 else None

    def _divided(self, ids: Ids) -> Iterator[tuple[Index, npt.NDArray[np.int64]]]:
        """Each fragment that some of the ids (n,) belong to, with their rows."""
        if self._only is not None:
            yield self._only, np.arange(len(ids))
            return
        numbers = shards_of(ids, len(self.fragments))
        for number in np.unique(numbers).tolist():
            yield self.fragments[number], np.flatnonzero(numbers == number)

    @contextlib.contextmanager
    def _missing_named(self, ids: Ids) -> Iterator[None]:
        """Turn the error of any fragment about ids (n,) that it does not hold into that about the first of them."""
        try:
            yield
        except NotFoundError as error:
            missing = next((i for i in ids.tolist() if i not in self), None)
            if missing is None:  # it has come meanwhile
                raise
            raise NotFoundError(f"id {missing} is not in the index {self.name!r}") from error

    # --- changes

    def add(
        self,
        ids: Any,
        vectors: Any,
        *,
        payloads: Any = None,
        on_conflict: str = "replace",
        durability: Durability = Durability.SYNC,
    ) -> int:
        """Add vectors, which the next search finds; gives how many were added or replaced.

        Parameters
        ----------
        ids, vectors, payloads, on_conflict, durability
            As for `skeg.ann.Index.add`. Of ids in several shards that conflict with ``on_conflict="error"``, nothing is
            added unless they came meanwhile.
        """
        if self._only is not None:
            return self._only.add(ids, vectors, payloads=payloads, on_conflict=on_conflict, durability=durability)
        as_choice("on_conflict", on_conflict, ON_CONFLICT)
        wanted, given, some = self._checked(ids, vectors, payloads, durability)
        parts = list(self._divided(wanted))
        if on_conflict == "error":
            held = np.flatnonzero(self.contains(wanted))
            if len(held):
                found = f"id {wanted[held[0]]}, which the index holds"
                raise VectorError("ids", expected="new ids", found=found, row=int(held[0]))
        assert given is not None
        return sum(
            fragment.add(
                wanted[rows], given[rows], payloads=_some(some, rows), on_conflict=on_conflict, durability=durability
            )
            for fragment, rows in parts
        )

    def update(
        self, ids: Any, vectors: Any = None, *, payloads: Any = None, durability: Durability = Durability.SYNC
    ) -> int:
        """Replace vectors, payloads or both of ids that the index holds; gives how many were updated.

        Parameters
        ----------
        ids, vectors, payloads, durability
            As for `skeg.ann.Index.update`.

        Raises
        ------
        NotFoundError
            An id that the index does not hold; the message names the first, and nothing is changed.
        """
        if self._only is not None:
            return self._only.update(ids, vectors, payloads=payloads, durability=durability)
        if vectors is None and payloads is None:
            raise ParameterError("vectors", None, "vectors, payloads or both")
        wanted, given, some = self._checked(ids, vectors, payloads, durability)
        held = self.contains(wanted)
        if not held.all():
            raise NotFoundError(f"id {wanted[int(held.argmin())]} is not in the index {self.name!r}")
        return sum(
            fragment.update(
                wanted[rows],
                None if given is None else given[rows],
                payloads=_some(some, rows),
                durability=durability,
            )
            for fragment, rows in self._divided(wanted)
        )

    def delete(self, ids: Any, *, durability: Durability = Durability.SYNC) -> int:
        """Delete vectors and their payloads; gives how many there were.

        Parameters
        ----------
        ids, durability
            As for `skeg.ann.Index.delete`.
        """
        if self._only is not None:
            return self._only.delete(ids, durability=durability)
        wanted = as_some_ids(ids)[0]
        return sum(fragment.delete(wanted[rows], durability=durability) for fragment, rows in self._divided(wanted))

    def _checked(
        self, ids: Any, vectors: Any, payloads: Any, durability: Durability
    ) -> tuple[Ids, npt.NDArray[np.float32] | None, list[Any] | None]:
        """What was given for several fragments, none of which refuses its part then."""
        wanted, is_single = as_some_ids(ids)
        check_unique_ids(wanted)
        as_durability("durability", durability)
        given = None
        if vectors is not None:
            given = as_vectors(np.reshape(vectors, (1, -1)) if is_single else vectors, self.dim)
            if len(given) != len(wanted):
                raise VectorError("ids", expected=f"{len(given)}, one for each vector", found=f"{len(wanted)}")
            checked_norms(given, self.metric)
        if payloads is None:
            return wanted, given, None
        some = [payloads] if is_single else list(payloads)
        encode_payloads(some, len(wanted), is_single=False)
        return wanted, given, some

    def consolidate(self, *, threads: int | None = None, memory_limit: int | None = None, progress: Any = None) -> None:
        """Merge everything that was written, fragment by fragment; nothing of what was deleted is left on the disk.

        Parameters
        ----------
        threads, memory_limit, progress
            As for `skeg.ann.Index.consolidate`.
        """
        for fragment in self.fragments:
            fragment.consolidate(threads=threads, memory_limit=memory_limit, progress=progress)

    # --- the whole index

    def refresh(self) -> bool:
        """See what the writing process has written since the last time; whether there was anything."""
        news = [fragment.refresh() for fragment in self.fragments]
        return any(news)

    def stats(self) -> dict[str, Any]:
        """Figures as of `skeg.ann.Index.stats`, summed over fragments; settings are those of the first."""
        each = [fragment.stats() for fragment in self.fragments]
        total = {**each[0], "backend": self.backend}
        for name in total:
            if name in _SUMMED or name.startswith("bytes_"):
                total[name] = sum(figures.get(name, 0) for figures in each)
        if "generation" in total:
            total["generation"] = self.generation
            total["maintenance_error"] = next((f["maintenance_error"] for f in each if f["maintenance_error"]), None)
        return total

    def verify(self) -> list[CorruptError]:
        """Check every byte of every fragment; what is wrong, also what an `Index` would raise."""
        findings: list[CorruptError] = []
        for fragment in self.fragments:
            try:
                findings += fragment.verify()
            except CorruptError as error:
                findings.append(error)
        return findings

    def evaluate(
        self, queries: Any, k: int = 10, *, truth: Any = None, list_sizes: list[int] | None = None
    ) -> list[dict[str, float]]:
        """Recall and latency over list sizes.

        Parameters
        ----------
        queries, k, truth, list_sizes
            As for `skeg.ann.Index.evaluate`.
        """
        return evaluate(self, queries, k, truth=truth, list_sizes=list_sizes)

    def tune(self, queries: Any, recall: float = 0.95, *, k: int = 10) -> int:
        """Smallest list size that reaches a recall on these queries, stored in the index as the default of `search`.

        Parameters
        ----------
        queries, recall, k
            As for `skeg.ann.Index.tune`.
        """
        list_size = find_list_size(self, queries, recall, k)
        for fragment in self.fragments:
            keep_list_size(fragment, list_size, recall, k)
        return list_size

    def close(self) -> None:
        """Let go of all fragments; `Database` does it."""
        with contextlib.ExitStack() as cleanup:
            for fragment in self.fragments:
                cleanup.callback(fragment.close)

    def __repr__(self) -> str:
        return f"<skeg.VectorIndex {self.name!r} {self.dim} {self.metric} {self.kind} {self.backend}>"


def _some(payloads: list[Any] | None, rows: npt.NDArray[np.int64]) -> list[Any] | None:
    return None if payloads is None else [payloads[row] for row in rows.tolist()]
