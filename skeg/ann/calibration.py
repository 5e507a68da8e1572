"""What searches need to know of an index and only measuring tells; done once, when the index is built.

Margins. A walk that keeps a fixed number of rows spends as much on a query whose neighborhood is thin as on one whose
neighborhood is crowded. A walk bounded by a margin of score adapts. To keep one knob, the list size, the margin for a
list of L rows is the mean gap between the scores of the 10th and the L-th neighbor (of the k-th for more than 10 hits),
over stored rows taken as queries. Searches of equal recall took 7 to 19 % less time with it (recall .95 to .998,
117,659 x 384, 2,000 queries, one thread).

Error of the codes. Rows are scored exactly as long as their estimate is close enough to that of the k-th row for an
error of the codes to have put them in the wrong order. The standard deviation of that error says what is close.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
import numpy.typing as npt

from skeg.ann.kernels.lookup import find_rows
from skeg.ann.kernels.search import MARGIN_RANK
from skeg.ann.quantizers import PreparedQuery
from skeg.checks import as_number
from skeg.errors import ParameterError

if TYPE_CHECKING:
    from skeg.ann.searcher import GraphSearcher
    from skeg.ann.segment import GraphSegment

RANKS = (MARGIN_RANK, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64, 96, 128, 192, 256, 384, 512)
"""List sizes whose gaps are measured; between them gaps are interpolated."""

SAMPLES = 256
"""Stored rows taken as queries."""

ROWS_MIN = 4096
"""Margins of smaller indexes are not measured: a list is soon as long as the index."""

EXPAND_FACTOR = 2
"""Rows that a walk bounded by a margin may expand, as a multiple of the list size: 1.5 to 3 measured alike, no limit
3 % slower at equal recall (117,659 x 384), and 15 % slower where queries are unlike stored rows (117,620 x 96)."""

EXPAND_STEP = 4
EXPAND_FEWER = 7
"""A list of L rows for k hits expands no more than 3 + 4 (L - k) rows either, though at least L - 7: lists hardly
longer than the hits wanted buy little recall for little time. Three rows for ten hits found .91 of them at 1.3 times
the queries/s that ten rows gave for .95 (117,620 x 96)."""

ERROR_ROWS = 64
"""Nearest rows of a sampled query by which the error of the codes is measured."""

ERRORS_APART = 3.5
"""How far behind the estimate of the k-th row one is still scored exactly, in standard deviations of the error.

3 found .9995 and 4 .99975 of what is found with no limit (tq4, 384 dimensions, 14.1 and 15.7 rows on the average), and
.998 (int8, 96 dimensions, 18.3 and 19.6 rows of at most 64, where a fixed number of 24 finds .984).
"""


DEPTH_FACTOR = 4
"""Rows scored exactly at most, unless more are asked for, as a multiple of the number that is enough on the average
(`skeg.ann.params.RERANK`). Among rows nearer to each other than an error of the codes there is no end to them."""


def _finite(name: str, value: Any) -> float:
    return as_number(name, value, 0.0, float(np.finfo(np.float32).max))


def _as_margins(value: Any) -> tuple[tuple[float, float], ...]:
    try:
        table = np.array(value, np.float64).reshape(-1, 2)
    except (TypeError, ValueError) as error:
        raise ParameterError("margins", f"{value!r:.80}", "pairs of numbers") from error
    if (
        not np.isfinite(table).all()
        or (table[:, 0] < 1).any()
        or (np.diff(table, axis=0) < 0).any()
        or (table < 0).any()
    ):
        raise ParameterError("margins", f"{value!r:.80}", "pairs of rising numbers")
    return tuple((rank, gap) for rank, gap in table.tolist())


@attrs.frozen
class Calibration:
    """What was measured, in units of the score of a query of norm 1, except for l2, whose scores don't scale with it.

    margins : pairs of list size and gap, ascending; none if nothing was measured. code_error : standard deviation of
    estimated scores around exact ones, for one query up to a constant. `ParameterError` for what can't be.
    """

    margins: tuple[tuple[float, float], ...] = attrs.field(default=(), converter=_as_margins)
    code_error: float = attrs.field(default=0.0)

    @code_error.validator
    def _check_error(self, field: attrs.Attribute[float], value: Any) -> None:
        _finite(field.name, value)

    @property
    def slack(self) -> np.float32:
        """How far behind the k-th row's estimate one is still scored exactly."""
        return np.float32(ERRORS_APART * self.code_error)

    def bounds_for(self, k: int, list_size: int, n: int) -> tuple[int, np.float32]:
        """(rows that a walk may expand, margin) for k hits and a list size in an index of n rows.

        A list as long as the index is not bounded: it is asked for to find everything that can be reached.
        """
        k = max(k, MARGIN_RANK)
        if not self.margins or list_size < k or list_size >= n:
            return list_size, np.float32(np.inf)
        least = list_size - EXPAND_FEWER
        n_expand = max(least, 3 + EXPAND_STEP * (list_size - k))
        return min(n_expand, EXPAND_FACTOR * list_size), np.float32(self._gap(list_size) - self._gap(k))

    def _gap(self, rank: int) -> float:
        """Gap at a rank: interpolated, past the table growing with the logarithm of the rank as it did at its end."""
        ranks, gaps = zip(*self.margins, strict=True)
        past = max(math.log(rank / ranks[-1]), 0.0)
        slope = (gaps[-1] - gaps[-2]) / math.log(ranks[-1] / ranks[-2]) if len(ranks) > 1 else 0.0
        return float(np.interp(rank, ranks, gaps)) + slope * past


CALIBRATED = tuple(field.name for field in attrs.fields(Calibration))


def calibrate(searcher: GraphSearcher, segment: GraphSegment, seed: int) -> Calibration:
    """Measure an index that was just built, whose files are ``segment``."""
    n = len(segment.ids)
    metric = searcher.manifest.metric
    rows = np.sort(np.random.default_rng(seed).choice(n, min(SAMPLES, n), replace=False))
    queries = np.ascontiguousarray(segment.vectors[rows])
    norms = np.maximum(np.linalg.norm(queries, axis=1), np.finfo(np.float32).tiny)
    units = norms if metric == "ip" else np.ones_like(norms)
    return Calibration(_margins(searcher, n, queries, units), _code_error(searcher, segment, queries, norms, metric))


def _margins(
    searcher: GraphSearcher, n: int, queries: npt.NDArray[np.float32], units: npt.NDArray[np.float32]
) -> list[list[float]]:
    if n < ROWS_MIN:
        return []
    most = RANKS[-1] + 1
    hits = searcher.search_many(queries, searcher.settings.get(most, most, None), 1)
    gaps = hits.scores[:, [RANKS[0]]] - hits.scores[:, list(RANKS)]  # column 0 is the row itself
    gaps = (gaps / units[:, None])[np.isfinite(gaps).all(axis=1)]
    if len(gaps) == 0:
        return []
    means = np.maximum.accumulate(gaps.mean(axis=0, dtype=np.float64))
    return [[rank, float(f"{mean:.4g}")] for rank, mean in zip(RANKS, means, strict=True)]


def _code_error(
    searcher: GraphSearcher,
    segment: GraphSegment,
    queries: npt.NDArray[np.float32],
    norms: npt.NDArray[np.float32],
    metric: str,
) -> float:
    """Standard deviation of estimates around exact scores among the nearest rows of each query."""
    k = min(ERROR_ROWS, len(segment.ids))
    hits = searcher.search_many(queries, searcher.settings.get(k, 2 * k, 2 * k), 1)
    rows = np.empty(k, np.int64)
    squares = 0.0
    for query, norm, ids, scores in zip(queries, norms, hits.ids, hits.scores, strict=True):
        count = find_rows(segment.ids, segment.id_order, ids, rows)
        near = rows[:count]
        is_f32 = segment.quantizer.kind == "f32"
        codes = segment.codes[:0] if is_f32 else segment.codes[near]
        estimates = PreparedQuery(segment.quantizer, query).score(codes, segment.factors[near], segment.vectors[near])
        unit = {"cosine": 1 / norm, "ip": 1.0, "l2": 2.0}[metric]
        errors = estimates.astype(np.float64) * unit - scores[:count]
        squares += float(np.var(errors)) / (float(norm) ** 2 if metric == "ip" else 1.0)
    return float(f"{math.sqrt(squares / len(queries)):.4g}")
