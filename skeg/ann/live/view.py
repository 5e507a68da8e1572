"""What an index that changes consists of at one time, and the search of all its parts for one answer.

The parts are a segment, of which some rows may be dead, and rows in memory. A search goes from the oldest to the newest
and hands the hits on: a row replaces an older one of its id, and what is farther than the last of enough hits need not
be looked at. Whoever searches holds the view it began with; parts only ever gain rows and lose life.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from skeg.ann.calibration import ERRORS_APART
from skeg.ann.format import Manifest
from skeg.ann.kernels.bundle import Bundle
from skeg.ann.kernels.search import OK
from skeg.ann.kernels.search_part import SCAN_RUN, bundle_admission, search_part_many
from skeg.ann.live.parts import Part, SegmentPart
from skeg.ann.live.plan import Strategy, choose, choose_filtered
from skeg.ann.live.rows import LiveRows
from skeg.ann.live.selection import Filter, Selection
from skeg.ann.live.single import SingleSearch
from skeg.ann.settings import SearchSettings, Settings
from skeg.ann.transform import Float32s
from skeg.ann.workspace import PartSpace

SELECTION_BYTES = 64 << 20
"""What is remembered of filters for each part."""

REPEATED = -1
"""Status of a search that met a row and the one that is about to replace it."""

Ids = npt.NDArray[np.uint64]

Chosen = tuple[Selection, ...] | None
"""What a filter selects from each part; None for no filter."""

Asked = tuple["PartSearch", Strategy, Selection | None]
"""Which part is searched, how, and among what."""


class PartSearch:
    """Searches one part; made once for it, so that work space and tables of addresses are kept."""

    def __init__(self, part: Part, settings: SearchSettings) -> None:
        self.part = part
        self.settings = settings
        none = np.zeros(0, np.uint8)
        self._admitted = bundle_admission(part.alive, part.alive, none, np.zeros(0, np.uint32))
        self._idle: list[PartSpace] = []
        self._selections: dict[Hashable, Selection] = {}
        self._chosen: tuple[Settings | None, tuple[int, ...], Strategy | None] = (None, (), None)

    def knows(self, wanted: Filter) -> bool:
        """Whether the rows that a filter wants were found out before."""
        known = self._selections.get(wanted.key)
        return known is not None and known.n_rows == self.part.count

    def select(self, wanted: Filter) -> Selection:
        """The rows that a filter wants; what was found out before is used again."""
        count = self.part.count
        known = self._selections.get(wanted.key)
        if known is not None and known.n_rows == count:
            return known
        selection = Selection(self.part, wanted.mask(self.part, count))
        held = [*self._selections.values()]  # at once: others may add theirs meanwhile
        if sum(some.nbytes for some in held) > SELECTION_BYTES:
            self._selections.clear()
        self._selections[wanted.key] = selection
        return selection

    def strategy(self, given: Settings, selection: Selection | None, *, thorough: bool = False) -> Strategy:
        """How a search goes about it; thorough: so that it misses nothing."""
        part, numbers = self.part, given.numbers
        if selection is None and not thorough:
            now = (part.linked, part.count, part.n_dead)
            asked, then, chosen = self._chosen
            if asked is given and then == now and chosen is not None:
                return chosen
        if isinstance(part, LiveRows):
            numbers = self.settings.same(given).numbers
            if given.rerank is None:
                numbers = (*numbers[:6], ERRORS_APART * part.code_error, numbers[7])
        if selection is None:
            strategy = choose(part, numbers, given.n_hits, thorough=thorough)
            if not thorough:
                self._chosen = (given, now, strategy)
            return strategy
        known = selection.strategies.get((numbers, thorough))
        if known is None:
            known = choose_filtered(part, numbers, selection, thorough=thorough)
            selection.strategies[numbers, thorough] = known
        return known

    def new_space(self) -> PartSpace:
        """Work space for one search at a time."""
        return PartSpace(self.part.quantizer, len(self.part.alive), self.part.run, self.part.longest)

    def admitted(self, selection: Selection | None) -> Bundle:
        """The rows that may be returned."""
        return self._admitted if selection is None else selection.admitted

    def many(
        self, queries: Any, span: tuple[int, int], given: Settings, selection: Selection | None, costs: Any, out: Any
    ) -> tuple[int, int]:
        """Search for many queries; arguments and result as those of `search_part_many`."""
        strategy = self.strategy(given, selection)
        try:
            space = self._idle.pop()
        except IndexError:
            space = self.new_space()
        space.fit(int(strategy.numbers[3]), int(strategy.numbers[7]))
        tables = (self.part.bundle.table, space.table, space.rooms, self.admitted(selection).table)
        answer: tuple[int, int] = search_part_many(queries, span, strategy.numbers, strategy.plan, *tables, costs, out)
        self._idle.append(space)
        return answer


@attrs.frozen(eq=False)
class View:
    """The parts of an index at one time, oldest first, each with its search."""

    segment: SegmentPart | None
    rows: tuple[LiveRows, ...]
    searches: tuple[PartSearch, ...]
    settings: SearchSettings
    path: Path
    metric: str
    dim: int
    _idle: list[SingleSearch] = attrs.field(factory=list, init=False)

    @classmethod
    def of(cls, path: Path, manifest: Manifest, segment: SegmentPart | None, rows: Sequence[LiveRows]) -> View:
        """A view of these parts of the index in a folder."""
        settings = SearchSettings(attrs.evolve(manifest, kind="tq4"), 4, 0)  # for rows in memory
        searches = [PartSearch(part, settings) for part in rows]
        if segment is not None:
            searches.insert(0, PartSearch(segment, segment.searcher.settings))
        main = settings if segment is None else segment.searcher.settings
        return cls(segment, tuple(rows), tuple(searches), main, path, manifest.metric, manifest.dim)

    @property
    def parts(self) -> tuple[Part, ...]:
        """All parts, oldest first."""
        return tuple(search.part for search in self.searches)

    @property
    def is_plain(self) -> bool:
        """Whether there is nothing but a segment all of whose rows are alive."""
        if self.segment is None or self.segment.n_dead:
            return False
        for rows in self.rows:  # noqa: SIM110 - each search asks, and a generator would take longer
            if rows.count:
                return False
        return True

    def __len__(self) -> int:
        """Rows that are alive."""
        return sum(part.n_alive for part in self.parts)

    def holds(self, ids: Ids) -> npt.NDArray[np.bool_]:
        """Whether each id (n,) is here."""
        found = np.zeros(len(ids), np.bool_)
        for part in self.parts:
            if part.count:
                found |= part.rows_of(ids) >= 0
        return found

    def locate(self, vector_id: int) -> tuple[Part, int] | None:
        """The newest part that has an id, and the row; None if none has."""
        for part in reversed(self.parts):
            row = part.row_of(vector_id)
            if row >= 0:
                return part, row
        return None

    def find(self, ids: Ids) -> tuple[Float32s, npt.NDArray[np.bool_]]:
        """Vectors (n, dim) of ids (n,), and whether each is there."""
        vectors = np.zeros((len(ids), self.dim), np.float32)
        found = np.zeros(len(ids), np.bool_)
        for part in self.parts:
            rows = part.rows_of(ids) if part.count else np.full(len(ids), -1)
            here = rows >= 0
            vectors[here] = part.vectors[rows[here]]
            found |= here
        return vectors, found

    def with_payloads(self, ids: Ids, payloads: Sequence[bytes | None]) -> Sequence[bytes]:
        """Encoded payloads of ids (n,), where None stands for the one that the id has; none at all if all are empty."""
        asked = [row for row, payload in enumerate(payloads) if payload is None]
        whole = [payload or b"" for payload in payloads]
        if asked:
            wanted = ids[asked]
            for part in self.parts:  # of a row and the one that replaces it the newer comes later
                rows = part.rows_of(wanted) if part.count else np.full(len(wanted), -1)
                for at in np.flatnonzero(rows >= 0).tolist():
                    whole[asked[at]] = part.payload(int(rows[at]))
        return whole if any(whole) else ()

    def call_one(
        self, call: Callable[..., Any], query: Any, k: int, list_size: int | None, rest: tuple[Any, ...]
    ) -> Any:
        """As `skeg.ann.searcher.GraphSearcher.call_one`; None if there is more than a segment to search."""
        segment = self.segment
        if segment is None or not self.is_plain:
            return None
        return segment.searcher.call_one(call, query, k, list_size, rest)

    def select(self, wanted: Filter) -> tuple[Selection, ...]:
        """The rows of each part that a filter wants; `FilterError` if it does not fit the types of the fields."""
        if not all(search.knows(wanted) for search in self.searches):
            wanted.check(self.parts)
        return tuple(search.select(wanted) for search in self.searches)

    def is_complete(self, chosen: tuple[Selection, ...]) -> bool:
        """Whether no part has gained rows since a filter selected from it."""
        return all(part.count == some.n_rows for part, some in zip(self.parts, chosen, strict=True))

    def search_one(
        self, query: Any, settings: Settings, chosen: Chosen, ids: Ids, scores: Any, *, thorough: bool = False
    ) -> tuple[int, int, int, int, int]:
        """See `_search_once`; done again while a row is met that is just being replaced."""
        while True:
            answer = self._search_once(query, settings, chosen, ids, scores, thorough=thorough)
            if answer[0] != REPEATED:
                return answer
            time.sleep(0)

    def _search_once(
        self, query: Any, settings: Settings, chosen: Chosen, ids: Ids, scores: Any, *, thorough: bool
    ) -> tuple[int, int, int, int, int]:
        """(status, hits, rows scored, expanded, re-ranked) of one query; ids and scores (k,) are written.

        There are fewer hits than wanted only if fewer rows are wanted: what walks don't find is looked for thoroughly.
        """
        try:
            single = self._idle.pop()
        except IndexError:
            single = SingleSearch(len(self.searches))
        asked = [
            (search, search.strategy(settings, selection, thorough=thorough), selection)
            for search, selection in self._asked(chosen)
        ]
        status, known, scored, expanded, reranked = single.run(query, asked, 0, ids, scores)
        while status == OK and chosen is None and (rest := _came_since(asked)):
            # Rows that came meanwhile may have taken the place of some that the search met dead.
            status, known, *costs = single.run(query, rest, known, ids, scores)
            scored, reranked = scored + costs[0], reranked + costs[2]
            asked = rest
        self._idle.append(single)
        if status != OK:
            return status, 0, 0, 0, 0
        if known < settings.n_hits and not thorough and known < self.n_wanted(chosen):
            return self.search_one(query, settings, chosen, ids, scores, thorough=True)
        if self._has_repeats(ids, known):
            return REPEATED, known, scored, expanded, reranked
        return OK, known, scored, expanded, reranked

    def _has_repeats(self, ids: Ids, count: int) -> bool:
        """Whether a search met a row that was being replaced in memory, and its successor too."""
        return any(rows.count for rows in self.rows) and len(set(ids[:count].tolist())) < count

    def search_many(
        self, queries: Any, span: tuple[int, int], settings: Settings, chosen: Chosen, costs: Any, out: Any
    ) -> tuple[int, int]:
        """(status, query stopped at) of the queries of a span; costs and out as in `search_part_many`."""
        grown = False
        for search, selection in self._asked(chosen):
            before = search.part.count
            status, at = search.many(queries, span, settings, selection, costs, out)
            if status != OK:
                return status, at
            grown |= search.part.count != before
        for i in range(*span):
            too_few = out[2][i] < settings.n_hits and out[2][i] < self.n_wanted(chosen)
            if too_few or grown or self._has_repeats(out[0][i], out[2][i]):
                out[2][i] = self.search_one(queries[i], settings, chosen, out[0][i], out[1][i], thorough=too_few)[1]
        return OK, span[1]

    def n_wanted(self, chosen: Chosen) -> int:
        """Rows that could be hits."""
        return len(self) if chosen is None else sum(selection.count for selection in chosen)

    def explain(self, settings: Settings, chosen: Chosen) -> Strategy | None:
        """How the largest part is searched; None if there is nothing to search."""
        asked = max(self._asked(chosen), key=lambda pair: pair[0].part.count, default=None)
        return None if asked is None else asked[0].strategy(settings, asked[1])

    def _asked(self, chosen: Chosen) -> list[tuple[PartSearch, Selection | None]]:
        """The parts in which there is something to look for."""
        if chosen is None:
            return [(search, None) for search in self.searches]  # one that has no rows yet may have some in a moment
        return [(search, some) for search, some in zip(self.searches, chosen, strict=True) if some.count]


def _came_since(asked: Sequence[Asked]) -> list[Asked]:
    """Searches of the rows in memory that came since these searches were planned."""
    return [
        (search, attrs.evolve(strategy, plan=(SCAN_RUN, 1, strategy.plan[3], count, 0)), selection)
        for search, strategy, selection in asked
        if isinstance(search.part, LiveRows) and (count := search.part.count) != strategy.plan[3]
    ]
