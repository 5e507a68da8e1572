"""How many of the true nearest vectors a search found."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from skeg.ann.hits import MISSING_ID
from skeg.checks import as_positive_int
from skeg.errors import VectorError

EPSILON = 1e-5
"""Relative slack of the score that a hit must reach: covers the rounding of float32 sums. The absolute 1e-3 of
ann-benchmarks would count near misses on data whose distances are small."""


def recall_at_k(
    found_ids: Any, true_ids: Any, k: int = 10, *, found_scores: Any = None, true_scores: Any = None
) -> float:
    """Share of the k true nearest vectors that were found, averaged over the queries.

    Parameters
    ----------
    found_ids : array_like (n, m) or (m,) of ids
        What a search gave, best first; its first k count.
    true_ids : array_like (n, t) or (t,) of ids
        True neighbors, nearest first; the first k count, fewer if there are fewer.
    k : int
        Neighbors to look at.
    found_scores, true_scores : array_like of the ids' shapes, optional
        Scores, higher is nearer (`Hits.scores`). When given, a hit counts if its score reaches that of the last true
        neighbor, less a small slack, so that ties don't count as misses (ann-benchmarks: Aumueller, Bernhardsson &
        Faithfull, Information Systems 2020, section 2).

    Returns
    -------
    float
        From 0 to 1; 1 where nothing is to be found. Padding ids never count.

    Raises
    ------
    ParameterError
        k is less than 1.
    VectorError
        Shapes do not agree, ids are no integers, or only one of the two scores is given.
    """
    k = as_positive_int("k", k)
    found, true = _ids(found_ids, "found_ids"), _ids(true_ids, "true_ids")
    if len(found) != len(true) or np.ndim(found_ids) != np.ndim(true_ids):
        raise VectorError("found_ids", expected=f"{len(true)} queries as in true_ids", found=f"{len(found)}")
    if (found_scores is None) != (true_scores is None):
        raise VectorError("scores", expected="found_scores and true_scores, or neither", found="one of them")
    found, true = found[:, :k], true[:, :k]
    wanted = (true != MISSING_ID).sum(axis=1)
    if found_scores is None:
        hits = [np.intersect1d(f[f != MISSING_ID], t).size for f, t in zip(found, true, strict=True)]
    else:
        last = _scores(true_scores, true_ids, "true_scores")[:, :k]
        last = np.where(true != MISSING_ID, last, np.inf).min(axis=1, initial=np.inf)
        last[wanted == 0] = 0
        reached = _scores(found_scores, found_ids, "found_scores")[:, :k] >= (last - EPSILON * np.abs(last))[:, None]
        hits = np.minimum((reached & (found != MISSING_ID)).sum(axis=1), wanted)
    shares = np.divide(hits, wanted, out=np.ones(len(wanted)), where=wanted > 0)
    return float(shares.mean()) if len(shares) else 1.0


def _ids(ids: Any, what: str) -> npt.NDArray[np.uint64]:
    array = np.asarray(ids)
    if array.ndim not in (1, 2) or (array.size and array.dtype.kind not in "iu"):
        raise VectorError(what, expected="integers (k,) or (n, k)", found=f"{array.dtype} {array.shape}")
    return np.atleast_2d(array).astype(np.uint64)


def _scores(scores: Any, ids: Any, what: str) -> npt.NDArray[np.float64]:
    array = np.asarray(scores)
    if array.shape != np.shape(ids) or array.dtype.kind not in "fiu":
        raise VectorError(what, expected=f"numbers {np.shape(ids)}", found=f"{array.dtype} {array.shape}")
    return np.atleast_2d(array).astype(np.float64)
