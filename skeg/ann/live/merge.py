"""Merging what is in memory into a new segment, beside the old one, until the manifest names it.

The rows of the old segment that are alive are taken over with their edges, those that are new are inserted. What
pointed to dead rows is patched. The new segment is written whole: so the bytes of dead rows are gone from the disk when
the old one is removed, and rows lie in the order of their cells again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from skeg.ann.filters.blobs import Blobs
from skeg.ann.filters.column import FieldColumns
from skeg.ann.filters.columns import FIELDS, write_columns
from skeg.ann.filters.growing import GrowingColumns
from skeg.ann.filters.merge import merge_columns, merge_payloads
from skeg.ann.filters.payload import decode_payload, fields_of
from skeg.ann.format import Live, Manifest
from skeg.ann.kernels.walk import Graph
from skeg.ann.live.state import Snapshot, State, empty_search
from skeg.ann.parallel import Workers
from skeg.ann.pipeline import Findings, Pipeline, Start
from skeg.ann.progress import Reporter
from skeg.ann.readers import VectorSource
from skeg.ann.segment import GraphSegment
from skeg.ann.transform import Float32s
from skeg.errors import ParameterError
from skeg.files import fsync_dir, remove_tree

REBUILD_SHARE = 0.5
"""Share of a new segment's rows, or of the old one's, that has to be taken over: with less, a new graph is built."""

FINDINGS_FOR = 0.25
"""Share of rows that come and go until all rows are divided into cells, and the index is calibrated, again. Of the
2.6 s that a merge of 5,000 rows into 88,244 x 384 took, the one was .5 and the other .7."""

CHANGED = "changed"
"""Rows that came or went since that was done, among the manifest's settings of a search."""

TUNED = ("list_size", "tuned_recall", "tuned_k")
"""Settings of a search that a merge leaves as they are."""

Ids = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]


@attrs.frozen(eq=False)
class Added:
    """Rows that a merge adds beside those in memory: ids (n,) uint64, where to read the vectors, encoded payloads."""

    ids: Ids
    source: VectorSource
    payloads: Sequence[bytes]


class _Joined(VectorSource):
    """Rows of several arrays or sources, one after another."""

    random_access = True

    def __init__(self, parts: Sequence[tuple[Callable[[Rows], Float32s], int]], dim: int) -> None:
        super().__init__("vectors", n=sum(count for _, count in parts), dim=dim, dtype=np.dtype(np.float32))
        self._takes = [take for take, _ in parts]
        self._starts = np.cumsum([0, *(count for _, count in parts)])

    def take(self, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """See `VectorSource.take`."""
        out = np.empty((len(rows), self.dim), np.float32)
        part = np.searchsorted(self._starts, rows, side="right") - 1
        for number in np.unique(part).tolist():
            here = np.flatnonzero(part == number)
            out[here] = self._takes[number](rows[here] - self._starts[number])
        return out

    def _blocks(self, rows: int) -> Iterator[npt.NDArray[Any]]:
        for start in range(0, self.n or 0, rows):
            yield self.take(np.arange(start, min(start + rows, self.n or 0)))


class Merge:
    """One merge: `run` writes the segment; the caller publishes the manifest that it gives.

    Parameters
    ----------
    state : State
    taken : Snapshot
    segment : str
        Name of the new folder.
    added : Added, optional
    """

    def __init__(self, state: State, taken: Snapshot, segment: str, added: Added | None = None) -> None:
        self._state = state
        self._segment = segment
        self._added = added
        self._old = taken.segment
        self._kept, self._rows = taken.kept, list(taken.rows)
        self._first_log = taken.first_log
        if added is not None:
            self._drop(added.ids)

    def _drop(self, ids: Ids) -> None:
        """Leave out the rows that rows to be added replace."""
        ordered = np.sort(ids)
        if self._old is not None:
            self._kept = self._kept[~_among(self._old.ids[self._kept], ordered)]
        self._rows = [(part, rows[~_among(part.ids[rows], ordered)]) for part, rows in self._rows]

    @property
    def count(self) -> int:
        """Rows of the new segment."""
        added = 0 if self._added is None else len(self._added.ids)
        return len(self._kept) + sum(len(rows) for _, rows in self._rows) + added

    def run(self, threads: int, memory_limit: int | None, progress: Any, generation: int) -> Manifest:
        """Write the new segment; gives the manifest, of this generation, that would make it the index.

        Raises
        ------
        StorageError
            The disk is full; nothing of the new segment is left.
        CorruptError
            The old segment is damaged.
        VectorError
            A row to be added can't be encoded.
        """
        state, old = self._state, self._state.manifest
        live = old.live
        assert live is not None, "only an index that changes is merged"
        live = Live(uid=live.uid, generation=generation, first_log=self._first_log)
        tuned = {name: value for name, value in old.search.items() if name in TUNED}
        if self.count == 0:
            return attrs.evolve(old, count=0, files={}, search={**empty_search(), **tuned}, live=live)
        place = state.path / self._segment
        remove_tree(place)
        try:
            with Workers(threads) as workers:
                start = self._start()
                pipeline = Pipeline(
                    state.path, old.metric, old.kind, state.params, workers, memory_limit, Reporter(progress),
                    segment=self._segment, start=start, fields=self._fields if self._has_payloads() else None,
                )  # fmt: skip
                made = pipeline.run(self._source(), self._ids())
            fsync_dir(state.path)
        except BaseException:
            remove_tree(place)
            raise
        changed = {} if start is None or start.findings is None else {CHANGED: self._changed()}
        return attrs.evolve(made, search={**made.search, **changed, **tuned}, live=live)

    def _changed(self) -> int:
        """Rows that came or went since the index was divided and calibrated, in this merge too."""
        before = self._state.manifest
        known = before.search.get(CHANGED, 0)
        return (known if isinstance(known, int) else before.count) + self.count + before.count - 2 * len(self._kept)

    def _start(self) -> Start | None:
        """What to go on from, or None if a new graph is quicker to build."""
        if self._old is None or len(self._kept) < REBUILD_SHARE * max(self.count, self._old.count):
            return None
        segment = self._old.searcher.open_segment()
        for finding in [*segment.check_lists(self._old.longest), *segment.check_cells()]:
            raise finding
        new_row = np.full(self._old.count, -1, np.int64)
        new_row[self._kept] = np.arange(len(self._kept))
        graph = Graph(segment.links, segment.offsets[:-1], segment.offsets[1:])
        return Start(segment.quantizer, graph, self._kept, new_row, self._findings(segment))

    def _findings(self, segment: GraphSegment) -> Findings | None:
        """What is known of the old segment, unless too much has changed."""
        assert self._old is not None
        if self._changed() > FINDINGS_FOR * self.count:
            return None
        cells = np.searchsorted(segment.cells, self._kept, side="right") - 1
        return Findings(self._old.searcher.settings.calibration, cells.astype(np.int32), segment.regions)

    def _source(self) -> VectorSource:
        parts: list[tuple[Callable[[Rows], Float32s], int]] = []
        if self._old is not None:
            vectors, kept = self._old.vectors, self._kept
            parts.append((lambda rows: vectors[kept[rows]], len(kept)))
        for part, some in self._rows:
            parts.append((lambda rows, part=part, some=some: part.vectors[some[rows]], len(some)))  # type: ignore[misc]
        if self._added is not None:
            parts.append((self._added.source.take, len(self._added.ids)))
        return _Joined(parts, self._state.manifest.dim)

    def _ids(self) -> Ids:
        ids = [] if self._old is None else [self._old.ids[self._kept]]
        ids += [part.ids[rows] for part, rows in self._rows]
        if self._added is not None:
            ids.append(self._added.ids)
        return np.concatenate(ids)

    def _has_payloads(self) -> bool:
        """Whether any row has one."""
        some = any(any(part.payloads) for part, _ in self._rows)
        return (
            some
            or (self._old is not None and self._old.fields is not None)
            or bool(self._added is not None and any(self._added.payloads))
        )

    def _fields(self, place: Path, rows: Rows) -> None:
        """Write payloads and columns; rows: for each row of the source, its row in the segment."""
        n = len(rows)
        columns: list[tuple[FieldColumns, Rows]] = []
        payloads: list[tuple[Blobs, Rows]] = []
        at = 0
        if self._old is not None:
            new = np.full(self._old.count, -1, np.int64)
            new[self._kept] = rows[: len(self._kept)]
            at = len(self._kept)
            if self._old.fields is not None:
                columns.append((self._old.fields, new))
                payloads.append((self._old.fields.payloads(), new))
        for part, some in self._rows:
            new = np.full(part.count, -1, np.int64)
            new[some] = rows[at : at + len(some)]
            at += len(some)
            columns.append((part.columns, new))
            payloads.append((Blobs.of(part.payloads[: len(new)]), new))
        if self._added is not None and any(self._added.payloads):
            growing = GrowingColumns()
            for row, payload in enumerate(self._added.payloads):
                if payload:
                    growing.append(row, fields_of(decode_payload(payload)))
            columns.append((growing, rows[at:]))
            payloads.append((Blobs.of(self._added.payloads), rows[at:]))
        write_columns(place / FIELDS, merge_columns(columns, n), *merge_payloads(payloads, n))


def _among(ids: Ids, ordered: Ids) -> npt.NDArray[np.bool_]:
    """Whether each id is among others, which are in ascending order."""
    places = np.minimum(np.searchsorted(ordered, ids), len(ordered) - 1)
    among: npt.NDArray[np.bool_] = ordered[places] == ids
    return among


def next_segment(manifest: Manifest) -> str:
    """Name of the folder of the segment that a merge writes."""
    number = int(manifest.segment.removeprefix("segment-")) + 1
    if number > 999_999:
        raise ParameterError("segment", number, "at most 999999 merges; build the index again")
    return f"segment-{number:06d}"


def generation_after(manifest: Manifest) -> int:
    """Generation of the manifest that replaces one."""
    assert manifest.live is not None, "only an index that changes has generations"
    return manifest.live.generation + 1
