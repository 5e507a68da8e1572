"""Searches by kernels that do more than search, such as to write down the reply of a server."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from skeg.ann.index import Index
from skeg.ann.transform import Float32s


def call_search(
    index: Index, call: Callable[..., Any], query: Float32s, k: int, list_size: int | None, rest: tuple[Any, ...]
) -> Any:
    """What a kernel gives for one query.

    Parameters
    ----------
    index : Index
    call : callable
        The kernel. Its first arguments are the query, settings, index and work space, as of
        `skeg.ann.kernels.search.search_one`.
    query : ndarray (dim,) float32
    k, list_size
        As for `Index.search`.
    rest : tuple
        Its other arguments.

    Returns
    -------
    Any
        What it gives; None if rows in memory, or dead ones, have to be looked at too, which `Index.search` does.

    Raises
    ------
    ClosedError
        The index was closed.
    """
    return index._searcher.call_one(call, query, k, list_size, rest)  # noqa: SLF001 - another face of the same index
