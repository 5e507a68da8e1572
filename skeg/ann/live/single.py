"""One query in several parts, in one kernel call: each call gives the GIL back and has to wait for it again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from skeg.ann.kernels.bundle import place_of
from skeg.ann.kernels.search_part import search_parts
from skeg.ann.live.plan import Strategy
from skeg.ann.live.selection import Selection
from skeg.ann.workspace import PartSpace
from skeg.jit import resolve

_NUMBERS, _PLAN, _TABLES = 8, 5, 4


class SingleSearch:
    """Work space of one search at a time, and what was asked of each part the last time: the next asks for the like.

    Parameters
    ----------
    most : int
        Parts that are searched at most.
    """

    def __init__(self, most: int) -> None:
        self._numbers = np.zeros((most, _NUMBERS), np.float64)
        self._plans = np.zeros((most, _PLAN), np.int64)
        self._tables = np.zeros((most * _TABLES, 4), np.int64)
        self._last: list[tuple[Any, Any, Any]] = [(None, None, None)] * most
        self._spaces: list[dict[Any, PartSpace]] = [{} for _ in range(most)]
        self._call: Any = None

    def run(
        self, query: Any, asked: Sequence[tuple[Any, Strategy, Selection | None]], known: int,
        ids: npt.NDArray[np.uint64], scores: npt.NDArray[np.float32],
    ) -> tuple[int, ...]:  # fmt: skip
        """Search; asked: each part's `PartSearch`, how, and among what. Arguments and result as of `search_parts`."""
        for place, (search, strategy, selection) in enumerate(asked):
            then = self._last[place]
            if then[1] is not strategy or then[0] is not search or then[2] is not selection:
                self._ask(place, search, strategy, selection)
        args = (query, len(asked), self._numbers, self._plans, self._tables, known, ids, scores)
        if self._call is None:
            self._call = resolve(search_parts, args)
        answer: tuple[int, ...] = self._call(*args)
        return answer

    def _ask(self, place: int, search: Any, strategy: Strategy, selection: Selection | None) -> None:
        spaces = self._spaces[place]  # of its own: a space that grows must not move under another place
        space = spaces.get(search)
        if space is None:
            space = spaces[search] = search.new_space()
        moved = space.fit(int(strategy.numbers[3]), int(strategy.numbers[7]))
        then = self._last[place]
        if moved or then[0] is not search or then[2] is not selection:
            tables = (search.part.bundle.table, space.table, space.rooms, search.admitted(selection).table)
            self._tables[place * _TABLES : (place + 1) * _TABLES] = [place_of(table) for table in tables]
        self._numbers[place], self._plans[place] = strategy.numbers, strategy.plan
        self._last[place] = (search, strategy, selection)
