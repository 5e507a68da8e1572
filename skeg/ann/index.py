"""`Index`: a graph index in a folder, opened for searching, or for writing too."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import attrs
import numpy as np
import numpy.typing as npt

from skeg.ann import tuning
from skeg.ann.format import read_manifest, write_manifest
from skeg.ann.hits import Hits
from skeg.ann.live.backup import copy_index
from skeg.ann.live.engine import LiveEngine
from skeg.ann.live.parts import SegmentPart
from skeg.ann.live.searching import Question, answer, payloads_of
from skeg.ann.live.state import empty_manifest
from skeg.ann.live.view import View
from skeg.ann.metric import METRICS
from skeg.ann.parallel import thread_count
from skeg.ann.params import DIM_MAX, GraphParams, default_kind
from skeg.ann.quantizers import KINDS
from skeg.ann.searcher import GraphSearcher, search_any
from skeg.ann.segment import GraphSegment
from skeg.ann.writable import Writable, check_found
from skeg.checks import RESERVED_ID, as_choice, as_int, as_some_ids
from skeg.errors import CorruptError, FormatError
from skeg.files import AnyPath, BuildFolder

_FLOAT32 = np.dtype(np.float32)
_ndarray = np.ndarray  # one look-up less, in what every search runs

Ids = npt.NDArray[np.uint64]


class Index(Writable):
    """A Vamana index in a folder; made by `build_index` or `Index.create`, opened by `Index.open`.

    Searching is safe from any number of threads and processes at a time, and so is writing from any number of threads
    of the one process that opened the index for that. The files are mapped, so all processes share one copy of what is
    in memory. Use it as a context manager or `close` it.
    """

    def __init__(self, path: AnyPath, searcher: GraphSearcher | LiveEngine) -> None:
        self._path = Path(os.path.abspath(path))
        self._searcher = searcher
        self._engine = searcher if isinstance(searcher, LiveEngine) else None
        manifest = searcher.manifest
        self._dim, self._metric, self._kind = manifest.dim, manifest.metric, manifest.kind
        self._shape = (manifest.dim,)
        self._view: View | None = None

    @classmethod
    def create(
        cls,
        path: AnyPath,
        dim: int,
        *,
        metric: str = "cosine",
        kind: str | None = None,
        max_degree: int | None = None,
        build_list_size: int | None = None,
        alpha: float | None = None,
        seed: int = 0,
    ) -> Index:
        """Make an empty index in the new folder ``path`` and open it for writing.

        Parameters
        ----------
        path : path
            Folder of the index; must not exist.
        dim : int
            Dimension of the vectors, at most 65,536.
        metric : {"cosine", "ip", "l2"}
            What "near" means: cosine similarity, inner product, or Euclidean distance.
        kind : str, optional
            Codes that steer the search, one of `skeg.ann.quantizers.KINDS`; by default chosen by dimension.
        max_degree, build_list_size, alpha
            See `GraphParams`; by default chosen by metric and dimension.
        seed : int
            Decides everything random.

        Raises
        ------
        ParameterError
            An argument out of range.
        StorageError
            ``path`` exists or can't be written.
        """
        dim = as_int("dim", dim, 1, DIM_MAX)
        metric = as_choice("metric", metric, METRICS)
        kind = as_choice("kind", kind if kind is not None else default_kind(dim), KINDS)
        params = GraphParams.for_data(
            metric, dim, max_degree=max_degree, build_list_size=build_list_size, alpha=alpha, seed=seed
        )
        manifest = empty_manifest(dim, metric, kind, params)
        with BuildFolder(path) as folder:
            write_manifest(folder.path, manifest)
            folder.publish()
        return cls.open(path, mode="rw")

    @classmethod
    def open(cls, path: AnyPath, mode: str = "r") -> Index:
        """Open an index, in a time that does not depend on its size but for what was written since the last merge.

        Parameters
        ----------
        path : path
            Folder of the index.
        mode : {"r", "rw"}
            For reading, or as its one writer. An index that `build_index` made can be opened for writing too.

        Raises
        ------
        FormatError
            Not an index, or one of another backend or of a newer version (`VersionTooNewError`).
        CorruptError
            The manifest is damaged, or a file is missing, cut short or does not agree with it; a record of a log is
            damaged that was on stable storage.
        LockedError
            Another process, or another `Index` of this one, has it open for writing.
        """
        writable = as_choice("mode", mode, ("r", "rw")) == "rw"
        manifest = read_manifest(path)
        if manifest.backend != "disk":
            raise FormatError(path, "another backend", expected="a graph index ('disk')", found=repr(manifest.backend))
        place = Path(os.path.abspath(path))
        if writable or manifest.live is not None:
            return cls(path, LiveEngine(place, writable=writable))
        return cls(path, GraphSearcher(place, manifest, GraphSegment(path, manifest)))

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
        q : array_like (dim,) or (n, dim)
            Any real dtype.
        k : int
            Hits wanted for each query; fewer come when the index holds fewer.
        search_list_size : int, optional
            Rows a walk keeps, on the average over queries (`skeg.ann.calibration`): larger finds more of the true
            neighbors and takes longer. By default what `tune` stored, else a measured value. Never below k.
        rerank : int, optional
            Rows scored exactly, the nearest by their codes; never below k. By default those that an error of the codes
            could keep from their place among the hits, for each query; how large errors are was measured by the build.
        filter : str, set of int, array_like of int, or array_like (n,) of bool, optional
            Which vectors may be hits: a condition on the fields of their payloads, such as ``"year >= 1990 AND lang IN
            (de, fr)"``, their ids, or a bool for each id in ascending order. See `skeg.ann.filters.grammar`.
        radius : float, optional
            Least score of a hit: all vectors that near are hits, however many, and ``k`` is not looked at.
        with_payload : bool
            Whether ``hits.payloads`` says what goes with each hit.
        exact : bool
            Compare with every stored vector instead.
        threads : int, optional
            For many queries; by default one for each processor. Hits do not depend on it.

        Returns
        -------
        Hits
            ``ids, scores = hits``; (k,) for one query, (n, k) for many.

        Raises
        ------
        VectorError
            Wrong dimension, a query that is not finite, or zero under cosine.
        ParameterError
            k or another number out of range; a filter that is neither words nor ids nor bools.
        FilterError
            A filter that can't be read (``position`` says where), or that compares a field with what its values can't
            be compared with.
        CorruptError
            The search met a neighbor list that can't be: run `verify`.
        ClosedError
            The index was closed.
        """
        # One query a call is the usual way to search, with the same numbers over and over again.
        searcher = self._searcher
        settings = searcher.settings.last
        if k is not settings.k or search_list_size is not settings.search_list_size or rerank is not settings.rerank:
            settings = searcher.settings.get(k, search_list_size, rerank)
        if filter is not None or radius is not None or with_payload:
            question = Question(
                settings=settings, filter=filter, radius=radius, exact=exact, with_payload=with_payload,
                threads=1 if threads is None and np.ndim(q) == 1 else thread_count(threads),
            )  # fmt: skip
            return self._answer(q, question)
        if type(q) is _ndarray and q.dtype is _FLOAT32 and q.shape == self._shape and not exact:
            flags = q.flags
            if flags.c_contiguous and flags.aligned and (threads is None or threads == 1):
                hits = searcher.search_one(q, settings)
                if hits is not None:
                    return hits
        return search_any(searcher, q, settings, threads, exact=exact)

    def _answer(self, q: Any, question: Question) -> Hits:
        def ask(view: View) -> Hits:
            return answer(view, q, attrs.evolve(question, settings=view.settings.same(question.settings)), self.ids)

        return ask(self._parts()) if self._engine is None else self._engine.settled(ask)

    def _parts(self) -> View:
        """The parts of the index now; `ClosedError` once it is closed."""
        searcher = self._searcher
        searcher.check_open()
        if isinstance(searcher, LiveEngine):
            return searcher.view
        if self._view is None:
            self._view = View.of(self._path, searcher.manifest, SegmentPart(searcher), [])
        return self._view

    def refresh(self) -> bool:
        """See what the writing process has written since this index was opened, or refreshed.

        Returns
        -------
        bool
            Whether there was anything.

        Raises
        ------
        CorruptError
            As `open`.
        """
        self._searcher.check_open()
        if self._engine is not None:
            return self._engine.refresh()
        if read_manifest(self._path).live is None:
            return False
        # Somebody has opened it for writing since. Searches under way keep what they search in.
        self._searcher = self._engine = LiveEngine(self._path, writable=False)
        self._view = None
        return True

    def get(self, ids: Any) -> npt.NDArray[np.float32]:
        """Stored vectors, exactly as they were given as float32.

        Parameters
        ----------
        ids : int or array_like (n,) of integers

        Returns
        -------
        ndarray (dim,) for one id, (n, dim) for many
            float32, a copy.

        Raises
        ------
        NotFoundError
            An id that the index does not hold; the message names the first.
        VectorError
            What can't be an id.
        """
        wanted, is_single = as_some_ids(ids)
        vectors, found = self._searcher.find(wanted)
        check_found(found, wanted, self._path)
        return vectors[0] if is_single else vectors

    def payloads(self, ids: Any) -> Any:
        """What goes with stored vectors, as it was given.

        Parameters
        ----------
        ids : int or array_like (n,) of integers

        Returns
        -------
        payload for one id, list of n payloads for many
            A dict, text or bytes; None where there is none.

        Raises
        ------
        NotFoundError
            An id that the index does not hold; the message names the first.
        """
        wanted, is_single = as_some_ids(ids)
        check_found(self._searcher.holds(wanted), wanted, self._path)
        found = payloads_of(self._parts(), wanted, len(wanted))
        return found[0] if is_single else found

    def ids(self) -> Ids:
        """All ids (n,), ascending; `CorruptError` if the file's order of them names rows that are not there."""
        return self._searcher.ids()

    def __len__(self) -> int:
        """Number of stored vectors."""
        return len(self._searcher)

    def __contains__(self, vector_id: object) -> bool:
        self._searcher.check_open()
        if not isinstance(vector_id, int | np.integer) or not 0 <= int(vector_id) < RESERVED_ID:
            return False
        return bool(self._searcher.holds(np.array([vector_id], np.uint64))[0])

    def contains(self, ids: Any) -> Any:
        """Whether ids are stored, of many by one call; ``17 in index`` tells of anything.

        Parameters
        ----------
        ids : int or array_like (n,) of integers

        Returns
        -------
        bool for one id, ndarray (n,) of bool for many

        Raises
        ------
        VectorError
            What can't be an id.
        """
        wanted, is_single = as_some_ids(ids)
        held = self._searcher.holds(wanted)
        return bool(held[0]) if is_single else held

    @property
    def path(self) -> Path:
        """Folder of the index."""
        return self._path

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""
        return self._dim

    @property
    def metric(self) -> str:
        """Name of the metric."""
        return self._metric

    @property
    def kind(self) -> str:
        """Kind of the codes that steer a search."""
        return self._kind

    @property
    def generation(self) -> int:
        """Counts the states that merges and tuning have left; 0 for an index that was never opened for writing."""
        live = self._searcher.manifest.live
        return 0 if live is None else live.generation

    def stats(self) -> dict[str, Any]:
        """Size, settings and memory: how the index was built, its search defaults, bytes by purpose.

        Of an index that changes also what is not merged yet: rows in memory and dead ones, and the bytes that a merge
        would give back.
        """
        return self._searcher.stats()

    def verify(self) -> list[CorruptError]:
        """Check every byte: checksums, ids, neighbor lists, reachability, codes against vectors.

        Returns
        -------
        list of CorruptError
            What is wrong, each with ``path`` and ``problem``; empty when all is well.

        Raises
        ------
        CorruptError
            A section that does not match its checksum; ``offset`` says where it starts.
        """
        return self._searcher.verify()

    evaluate = tuning.evaluate

    def tune(self, queries: Any, recall: float = 0.95, *, k: int = 10) -> int:
        """Smallest list size that reaches a recall on these queries, stored in the index as the default of `search`.

        Parameters
        ----------
        queries : array_like (n, dim)
            Like those the index will be asked; 200 or more.
        recall : float
            Recall at k to reach, 0 to 1.
        k : int
            Hits wanted.

        Returns
        -------
        int
            The list size.

        Raises
        ------
        ParameterError
            No list size up to the number of vectors reaches it.
        StorageError
            The manifest can't be written.
        """
        list_size = tuning.find_list_size(self, queries, recall, k)
        tuning.keep_list_size(self, list_size, recall, k)
        return list_size

    def snapshot(self, dest: AnyPath) -> None:
        """Copy the index as it is now to a new folder, while it is in use.

        Parameters
        ----------
        dest : path
            Must not exist. It appears when the copy is whole; it holds everything acknowledged before the call.

        Raises
        ------
        StorageError
            The disk refused, or `dest` exists.
        """
        self._searcher.check_open()
        if self._engine is not None:
            self._engine.flush()
        with BuildFolder(dest) as folder:
            copy_index(self._path, folder.path)
            folder.publish()

    def close(self) -> None:
        """Unmap the files, and let go of an index that was open for writing; doing so twice is allowed.

        Afterwards everything that needs them raises `ClosedError`. A search under way in another thread ends as if
        nothing had happened, or raises that.
        """
        self._view = None
        self._searcher.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return Index.open, (str(self._path),)

    def __fspath__(self) -> str:
        return str(self._path)

    def __repr__(self) -> str:
        state = "closed" if self._searcher.closed else f"disk={self._searcher.disk_bytes / 2**20:.1f} MiB"
        return f"<skeg.Index {self._searcher.count:,} x {self._dim} {self._metric} {self._kind} {state}>"
