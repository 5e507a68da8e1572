"""What an index that changes consists of at one time, and the search of all its parts for one answer.

The parts are a segment, of which some rows may be dead, and rows in memory. A search goes from the oldest to the newest
and hands the hits on: a row replaces an older one of its id, and what is farther than the last of enough hits need not
be looked at. Whoever searches holds the view it began with; parts only ever gain rows and lose life.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from skeg.ann.kernels.lookup import find_rows
from skeg.ann.kernels.search import MARGIN_RANK, OK
from skeg.ann.kernels.search_part import SCAN_RUN, WALK, WALK_MOST, bundle_admission, search_part, search_part_many
from skeg.ann.live.rows import LiveRows
from skeg.ann.searcher import GraphSearcher
from skeg.ann.settings import SearchSettings, Settings
from skeg.ann.workspace import PartSpace
from skeg.jit import resolve

SCAN_ROWS = 16_384
"""Rows in memory up to which all are read. Reading 5,882 of 384 dimensions took 26 us; a walk by them that found as
much met half of them and took 85 us (117,659 rows of which 5 % were replaced, 2,000 queries)."""

MOST_DEAD = 0.15
"""Share of dead rows up to which a walk is one as if all were alive."""

LIVE_DEPTH = 2
"""Rows of a part in memory that are scored exactly, as a multiple of the hits wanted: its codes have 8 bits."""

EXPAND_MORE_MAX = 4.0
"""How many times as many rows a walk expands, at most, because some of those it meets are dead."""

Ids = npt.NDArray[np.uint64]
Plan = tuple[int, int, int, int, int]


class SegmentPart:
    """A segment of which rows may be dead."""

    def __init__(self, searcher: GraphSearcher) -> None:
        segment = searcher.open_segment()
        self.searcher = searcher
        self.ids: Ids = segment.ids
        self.vectors = segment.vectors
        self.count = len(segment.ids)
        self.alive = np.ones(self.count, np.uint8)
        self.n_dead = 0
        self.bundle = searcher.open_bundle()
        self.quantizer = segment.quantizer
        self.longest = searcher.max_degree
        self.run = len(segment.regions) + len(segment.cells)
        self.fields = segment.fields

    @property
    def n_alive(self) -> int:
        """Rows that are not dead."""
        return self.count - self.n_dead

    def rows_of(self, ids: Ids) -> npt.NDArray[np.int64]:
        """Row of each id (n,), -1 if it is not here or dead."""
        segment = self.searcher.open_segment()
        rows = np.empty(len(ids), np.int64)
        find_rows(segment.ids, segment.id_order, ids, rows)
        rows[self.alive[rows] == 0] = -1  # row -1 is the last one; if that is dead, -1 stays -1
        return rows

    def row_of(self, vector_id: int) -> int:
        """Row of an id, -1 if it is not here or dead."""
        return int(self.rows_of(np.array([vector_id], np.uint64))[0])

    def remove(self, ids: Ids) -> None:
        """Mark the rows of those ids (n,) that are here as dead."""
        rows = self.rows_of(ids)
        rows = rows[rows >= 0]
        self.alive[rows] = 0
        self.n_dead += len(rows)


Part = SegmentPart | LiveRows
"""A part of an index: rows with ids and vectors, of which some are alive."""


class PartSearch:
    """Searches one part; made once for it, so that work space and tables of addresses are kept."""

    def __init__(self, part: Part, settings: SearchSettings) -> None:
        self.part = part
        self.settings = settings
        none = np.zeros(0, np.uint8)
        self._admitted = bundle_admission(part.alive, part.alive, none, np.zeros(0, np.uint32))
        self._idle: list[PartSpace] = []
        self._call: Any = None

    def _numbers(self, given: Settings) -> tuple[Any, ...]:
        """The numbers of a search, in this part."""
        part, numbers = self.part, given.numbers
        if isinstance(part, LiveRows):
            depth = given.rerank if given.rerank is not None else LIVE_DEPTH * max(given.n_hits, MARGIN_RANK)
            numbers = self.settings.get(given.k, given.search_list_size, depth).numbers
        more = min(part.count / max(part.n_alive, 1), EXPAND_MORE_MAX)
        n_expand = int(numbers[4] * more)
        return (*numbers[:3], max(numbers[3], n_expand), n_expand, *numbers[5:])

    def _plan(self, n_hits: int) -> Plan:
        part = self.part
        if not isinstance(part, LiveRows):
            dead = part.n_dead / part.count
            if dead <= MOST_DEAD:
                return WALK_MOST, math.ceil(2 * dead * max(n_hits, MARGIN_RANK)), 0, 0, 0
            return WALK, 1, 0, 0, 0
        linked = part.linked  # before the count: a row that is linked in between is read twice rather than never
        count = part.count
        if count <= SCAN_ROWS or not linked:
            return SCAN_RUN, 1, 0, count, 0
        return WALK, 1, linked, count, min(linked, part.n_entries)

    def _borrow(self, numbers: tuple[Any, ...]) -> PartSpace:
        try:
            space = self._idle.pop()
        except IndexError:
            space = PartSpace(
                self.part.quantizer, len(self.part.alive), getattr(self.part, "run", 0), self.part.longest
            )
        space.fit(int(numbers[3]), int(numbers[7]))
        return space

    def one(
        self, query: Any, given: Settings, known: int, ids: Ids, scores: npt.NDArray[np.float32]
    ) -> tuple[int, ...]:
        """Search for one query; arguments and result as those of `search_part`."""
        numbers = self._numbers(given)
        space = self._borrow(numbers)
        tables = (self.part.bundle.table, space.table, space.rooms, self._admitted.table)
        args = (query, numbers, self._plan(given.n_hits), *tables, known, ids, scores)
        if self._call is None:
            self._call = resolve(search_part, args)
        answer: tuple[int, ...] = self._call(*args)
        self._idle.append(space)
        return answer

    def many(self, queries: Any, span: tuple[int, int], given: Settings, costs: Any, out: Any) -> tuple[int, int]:
        """Search for many queries; arguments and result as those of `search_part_many`."""
        numbers = self._numbers(given)
        space = self._borrow(numbers)
        answer: tuple[int, int] = search_part_many(
            queries, span, numbers, self._plan(given.n_hits), self.part.bundle.table, space.table, space.rooms,
            self._admitted.table, costs, out,
        )  # fmt: skip
        self._idle.append(space)
        return answer


@attrs.frozen(eq=False)
class View:
    """The parts of an index at one time, oldest first, each with its search."""

    segment: SegmentPart | None
    rows: tuple[LiveRows, ...]
    searches: tuple[PartSearch, ...]
    settings: SearchSettings

    @classmethod
    def of(cls, segment: SegmentPart | None, rows: Sequence[LiveRows], settings: SearchSettings) -> View:
        """A view of these parts; settings : for rows in memory."""
        searches = [PartSearch(part, settings) for part in rows]
        if segment is not None:
            searches.insert(0, PartSearch(segment, segment.searcher.settings))
        main = settings if segment is None else segment.searcher.settings
        return cls(segment, tuple(rows), tuple(searches), main)

    @property
    def parts(self) -> tuple[Part, ...]:
        """All parts, oldest first."""
        return tuple(search.part for search in self.searches)

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing but a segment all of whose rows are alive."""
        return self.segment is not None and not self.segment.n_dead and not any(rows.count for rows in self.rows)

    def __len__(self) -> int:
        """Rows that are alive."""
        return sum(part.n_alive for part in self.parts)

    def holds(self, ids: Ids) -> npt.NDArray[np.bool_]:
        """Whether each id (n,) is here."""
        found = np.zeros(len(ids), np.bool_) if self.segment is None else self.segment.rows_of(ids) >= 0
        for rows in self.rows:
            if rows.count:
                found |= np.fromiter((rows.row_of(i) >= 0 for i in ids.tolist()), np.bool_, len(ids))
        return found

    def locate(self, vector_id: int) -> tuple[Part, int] | None:
        """The newest part that has an id, and the row; None if none has."""
        for part in reversed(self.parts):
            row = part.row_of(vector_id)
            if row >= 0:
                return part, row
        return None

    def search_one(self, query: Any, settings: Settings, ids: Ids, scores: Any) -> tuple[int, int, int, int, int]:
        """(status, hits, rows scored, expanded, re-ranked) of one query; ids and scores (k,) are written."""
        known = scored = expanded = reranked = 0
        for search in self.searches:
            if search.part.count:
                status, known, *costs = search.one(query, settings, known, ids, scores)
                if status != OK:
                    return status, 0, 0, 0, 0
                scored, expanded, reranked = scored + costs[0], expanded + costs[1], reranked + costs[2]
        return OK, known, scored, expanded, reranked

    def search_many(
        self, queries: Any, span: tuple[int, int], settings: Settings, costs: Any, out: Any
    ) -> tuple[int, int]:
        """(status, query stopped at) of the queries of a span; costs and out as in `search_part_many`."""
        for search in self.searches:
            if search.part.count:
                status, at = search.many(queries, span, settings, costs, out)
                if status != OK:
                    return status, at
        return OK, span[1]
