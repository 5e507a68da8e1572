"""The sums behind the figures: recall, which parameter to try next, medians and ratios."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

# Two float32 summation orders of one product of unit vectors differ by less than this.
EPSILON = 1e-6

# Refinement stops when the parameters on both sides of a target are this close, relatively.
PRECISION = 0.01


def recall_by_threshold(
    found: NDArray[np.integer],
    base: NDArray[np.float32],
    queries: NDArray[np.float32],
    truth: NDArray[np.integer],
    k: int = 10,
) -> float:
    """Share of found rows that score at least as well as the k-th true row, so that ties are not misses.

    Parameters
    ----------
    found : (n_queries, k) row numbers; anything outside the base counts as a miss, a repeated row counts once.
    base : (n, dim) and queries : (n_queries, dim), compared by inner product.
    truth : (n_queries, >= k) true row numbers, best first.
    """
    n = len(base)
    rows = np.sort(found[:, :k].astype(np.int64), axis=1)
    valid = (rows >= 0) & (rows < n)
    valid[:, 1:] &= rows[:, 1:] != rows[:, :-1]
    hits = 0
    for i, query in enumerate(queries.astype(np.float64)):
        threshold = float(base[truth[i, k - 1]].astype(np.float64) @ query) - EPSILON
        scores = base[rows[i, valid[i]]].astype(np.float64) @ query
        hits += int((scores >= threshold).sum())
    return hits / (len(queries) * k)


def geometric_parameters(low: int, high: int, count: int) -> list[int]:
    """About `count` integers from `low` to `high` with a constant ratio, without repeats."""
    steps = np.geomspace(low, high, count)
    return sorted({round(float(step)) for step in steps})


def cheapest_reaching(recalls: Mapping[int, float], target: float) -> int | None:
    """Smallest measured parameter whose recall reaches the target; None when none does."""
    return min((p for p, recall in recalls.items() if recall >= target), default=None)


def next_parameter(recalls: Mapping[int, float], target: float) -> int | None:
    """Parameter to measure next in search of the cheapest one that reaches the target; None when it is known.

    Bisects between the cheapest that reaches it and the dearest below that (which fails); never looks outside the
    measured range.
    """
    upper = cheapest_reaching(recalls, target)
    if upper is None:
        return None
    lower = max((p for p in recalls if p < upper), default=None)
    if lower is None or upper - lower <= max(1, math.floor(lower * PRECISION)):
        return None
    return (lower + upper) // 2


@dataclass(frozen=True)
class Spread:
    """Median and extremes of some repetitions."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    return Spread(median(values), min(values), max(values))


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Ratio of the medians, with the smallest and largest ratio within one round.

    Both sequences hold one figure a round, in the same order.
    """
    each = [a / b for a, b in zip(ours, theirs, strict=True)]
    return Spread(median(ours) / median(theirs), min(each), max(each))


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Plain text table: first column left, others right."""
    lines = [list(header), *[list(row) for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    text = []
    for line in lines:
        cells = [
            line[0].ljust(widths[0]),
            *[cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)],
        ]
        text.append("  ".join(cells).rstrip())
    text.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(text)


def format_markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The same table in Markdown."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
