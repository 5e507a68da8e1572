"""Measure recall and latency over list sizes, and find the list size that reaches a recall."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from skeg.ann.params import LIST_SIZE_MAX
from skeg.ann.recall import recall_at_k
from skeg.checks import as_int, as_number, as_queries, check_finite
from skeg.errors import ParameterError, VectorError

if TYPE_CHECKING:
    from skeg.ann.hits import Hits
    from skeg.ann.index import Index

LIST_SIZES = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)
"""List sizes that `evaluate` measures unless it is given others."""


class Searchable(Protocol):
    """An index, in one part or in several."""

    def __len__(self) -> int:
        """Number of vectors."""

    @property
    def dim(self) -> int:
        """Dimension of the vectors."""

    def search(self, q: Any, k: int = 10, *, search_list_size: int | None = None, exact: bool = False) -> Hits:
        """Nearest vectors."""


def evaluate(
    index: Searchable, queries: Any, k: int = 10, *, truth: Any = None, list_sizes: list[int] | None = None
) -> list[dict[str, float]]:
    """Recall and latency of an index over list sizes, one query a call on one thread.

    Parameters
    ----------
    index : Index, or what can be searched like one
    queries : array_like (n, dim)
    k : int
        Hits wanted.
    truth : array_like (n, at least k) of ids, optional
        True neighbors, nearest first; computed by exact search when not given.
    list_sizes : list of int, optional
        By default `LIST_SIZES` from k up.

    Returns
    -------
    list of dict
        ``search_list_size``, ``recall``, ``queries_per_second``, ``latency_ms_p50``, ``latency_ms_p99``.
    """
    k = as_int("k", k, 1)
    checked = _checked_queries(index, queries)
    true_ids = index.search(checked, k, exact=True).ids if truth is None else _checked_truth(truth, len(checked), k)
    sizes = [s for s in LIST_SIZES if s >= k] or [k] if list_sizes is None else list_sizes
    rows = []
    for size in sizes:
        index.search(checked[0], k, search_list_size=size)
        latencies = np.empty(len(checked))
        found = np.empty((len(checked), k), np.uint64)
        for i, query in enumerate(checked):
            start = time.perf_counter()
            hits = index.search(query, k, search_list_size=size)
            latencies[i] = time.perf_counter() - start
            found[i] = np.pad(hits.ids, (0, k - len(hits)), constant_values=np.uint64(2**64 - 1))
        rows.append(
            {
                "search_list_size": size,
                "recall": recall_at_k(found, true_ids, k),
                "queries_per_second": len(checked) / float(latencies.sum()),
                "latency_ms_p50": 1000 * float(np.percentile(latencies, 50)),
                "latency_ms_p99": 1000 * float(np.percentile(latencies, 99)),
            }
        )
    return rows


def find_list_size(index: Searchable, queries: Any, recall: float, k: int = 10) -> int:
    """Smallest list size whose recall at k on these queries reaches ``recall``: doubling, then bisection.

    Raises
    ------
    ParameterError
        ``recall`` is out of range, or no list size up to the number of vectors reaches it.
    """
    goal = as_number("recall", recall, 0.0, 1.0)
    k = as_int("k", k, 1)
    checked = _checked_queries(index, queries)
    true_ids = index.search(checked, k, exact=True).ids

    def reached(size: int) -> bool:
        return recall_at_k(index.search(checked, k, search_list_size=size).ids, true_ids, k) >= goal

    low, high, most = k - 1, k, max(min(len(index), LIST_SIZE_MAX), k)
    while not reached(high):
        if high >= most:
            raise ParameterError("recall", recall, f"one that a list of {most} rows reaches")
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        if reached(middle):
            high = middle
        else:
            low = middle
    return high


def keep_list_size(index: Index, list_size: int, recall: float, k: int) -> None:
    """Store a list size that was found in an index, as the default of its searches."""
    found = {"list_size": list_size, "tuned_recall": float(recall), "tuned_k": int(k)}
    index._searcher.tune(found)  # noqa: SLF001 - a part of `Index`


def _checked_queries(index: Searchable, queries: Any) -> npt.NDArray[np.float32]:
    checked, _ = as_queries(queries, index.dim)
    if len(checked) == 0:
        raise VectorError("queries", expected="at least one", found="none")
    check_finite(checked, "queries")
    return checked


def _checked_truth(truth: Any, n: int, k: int) -> npt.NDArray[np.uint64]:
    ids = np.asarray(truth)
    if ids.ndim != 2 or len(ids) != n or ids.shape[1] < k or not np.issubdtype(ids.dtype, np.integer):
        raise VectorError("truth", expected=f"integer ids ({n}, at least {k})", found=f"{ids.dtype} {ids.shape}")
    return ids[:, :k].astype(np.uint64)
