"""How to look for the nearest rows of a part, decided by what each way would cost."""

from __future__ import annotations

import math
from typing import Any

import attrs

from skeg.ann.kernels.search import MARGIN_RANK
from skeg.ann.kernels.search_part import SCAN_LIST, SCAN_RUN, WALK, WALK_MOST
from skeg.ann.live.parts import Part
from skeg.ann.live.rows import LiveRows
from skeg.ann.live.selection import Selection

SCAN_ROWS = 16_384
"""Rows in memory up to which all are read. Reading 5,000 of 384 dimensions took 17 us; a walk by 5,882 that found as
much met half of them and took 85 us (117,659 rows of which 5 % were replaced, 2,000 queries)."""

MOST_DEAD = 0.15
"""Share of dead rows up to which a walk is one as if all were alive."""

EXPAND_MORE_MAX = 4.0
"""How many times as many rows a walk expands, at most, because some of those it meets are not admitted."""

WALK_COST = 60
"""What expanding a row of a walk costs, in matching rows that could be scored in that time; where only a share of the
rows is admitted, a walk expands more of them. With lists of 64 rows a walk took 147, 230 and 320 us where 50, 30 and
20 % matched, and scoring the matching rows 470, 300 and 200 us (117,659 x 384, scattered and clustered matches)."""

TWO_HOP_COST = 400
"""The same for a walk by two hops, which took 400 to 550 us and found .998 where 10 to 50 % matched."""

NARROWER = 0.85
"""Margin of a walk among matching rows, as a share of the usual one: the k-th of them is farther, and as much score
behind it more rows lie. Where 50 % matched (scattered, clustered) it found .996 and .993 in 108 and 114 us, and .998
and .995 in 137 and 150 us with the usual margin; a search without a filter took 60 us (117,659 x 384)."""

ONE_HOP_SHARE = 0.2
"""Share of matching rows below which a walk by one hop misses some: .983 were found where a cluster of 10 % matched."""

RUN_COST = 0.85
"""What scoring every row in order costs, in matching rows scored one by one."""


@attrs.frozen
class Strategy:
    """What `search_part` is given: its settings and its plan; and why, for people."""

    numbers: tuple[Any, ...]
    plan: tuple[int, int, int, int, int]
    name: str
    why: str = ""


def choose(part: Part, numbers: tuple[Any, ...], n_hits: int, *, thorough: bool) -> Strategy:
    """The strategy for a search of a part that is not empty; thorough: one that misses nothing."""
    if thorough:
        return Strategy(numbers, (SCAN_RUN, 1, 0, part.count, 0), "scan of all rows")
    if isinstance(part, LiveRows):
        return _in_memory(part, numbers)
    dead = part.n_dead / part.count
    numbers = _longer(numbers, part.count / max(part.n_alive, 1))
    if dead <= MOST_DEAD:
        behind = math.ceil(2 * dead * max(n_hits, MARGIN_RANK))
        return Strategy(numbers, (WALK_MOST, behind, 0, 0, 0), "walk")
    return Strategy(numbers, (WALK, 1, 0, 0, 0), "walk")


def _in_memory(part: LiveRows, numbers: tuple[Any, ...]) -> Strategy:
    linked = part.linked  # before the count: a row that is linked in between is read twice rather than never
    count = part.count
    if count <= SCAN_ROWS or not linked:
        return Strategy(numbers, (SCAN_RUN, 1, 0, count, 0), "scan of all rows")
    numbers = _longer(numbers, count / max(part.n_alive, 1))
    return Strategy(numbers, (WALK, 1, linked, count, min(linked, part.n_entries)), "walk")


def _longer(numbers: tuple[Any, ...], more: float) -> tuple[Any, ...]:
    """The numbers of a search that expands so many times as many rows."""
    n_expand = int(numbers[4] * min(more, EXPAND_MORE_MAX))
    return (*numbers[:3], max(numbers[3], n_expand), n_expand, *numbers[5:])


def choose_filtered(part: Part, numbers: tuple[Any, ...], selection: Selection, *, thorough: bool) -> Strategy:
    """The cheapest of the ways to search among what a filter selects, by their costs in rows scored one by one."""
    count, n_rows = selection.count, selection.n_rows
    share = count / n_rows
    n_expand = numbers[4]
    costs = {
        "scan of the matches": count,
        "scan of all rows": RUN_COST * n_rows,
        "walk": n_expand * WALK_COST / share,
        "two-hop walk": n_expand * TWO_HOP_COST,
    }
    if thorough or isinstance(part, LiveRows):
        del costs["walk"], costs["two-hop walk"]
    elif share < ONE_HOP_SHARE:
        del costs["walk"]
    name = min(costs, key=lambda way: costs[way])
    rows = ", ".join(f"{way} {cost:,.0f}" for way, cost in costs.items())
    why = f"{count:,} of {n_rows:,} rows match; costs in rows scored: {rows}"
    if name == "walk":
        numbers = (*numbers[:5], NARROWER * numbers[5], *numbers[6:])
        return Strategy(_longer(numbers, 1 / share), (WALK, 1, 0, 0, 0), name, why)
    if name == "two-hop walk":
        return Strategy(numbers, (WALK, 2, 0, 0, 0), name, why)
    mode = SCAN_LIST if name == "scan of the matches" else SCAN_RUN
    return Strategy(numbers, (mode, 1, 0, n_rows, 0), name, why)
