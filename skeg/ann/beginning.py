"""Changes of an index by callers that can't wait for the disk: begun here, and finished when the file is synced."""

from __future__ import annotations

from typing import Any

import numpy as np

from skeg.ann.index import Index
from skeg.ann.live.writer import Begun, Delete, Put
from skeg.checks import as_some_ids
from skeg.durability import Durability


def begin_add(
    index: Index, ids: Any, vectors: Any, payloads: Any, on_conflict: str, durability: Durability
) -> Begun | None:
    """Begin what `Index.add` does.

    Parameters
    ----------
    index : Index
    ids, vectors, payloads, on_conflict, durability
        As for `Index.add`; at most `skeg.ann.live.state.CHUNK_ROWS` vectors.

    Returns
    -------
    Begun or None
        None if it has to wait for something, or if it fails: `Index.add` does so, and says why.

    Raises
    ------
    SkegError
        As `Index.add`, for arguments that can't be.
    """
    rows = index._rows(ids, vectors, payloads, on_conflict)  # noqa: SLF001 - another face of the same index
    return index._writing().begin(Put(*rows, on_conflict, durability))  # noqa: SLF001


def begin_delete(index: Index, ids: Any, durability: Durability) -> Begun | None:
    """Begin what `Index.delete` does; parameters, result and errors in the manner of `begin_add`."""
    return index._writing().begin(Delete(np.unique(as_some_ids(ids)[0]), durability))  # noqa: SLF001
