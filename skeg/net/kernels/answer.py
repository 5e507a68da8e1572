"""A search and its reply in RESP by one kernel: each call from Python costs some microseconds beside its work."""

from __future__ import annotations

from typing import Any

import numpy as np

from skeg.ann.kernels.search import OK, search_one
from skeg.jit import kernel
from skeg.net.kernels.hits import write_hits

UNANSWERED = -2
"""Instead of a length: something is wrong with the query or the index."""


@kernel()
def search_and_write(
    raw: Any, settings: Any, index: Any, space: Any, ids: Any, scores: Any, bits: Any, version: Any, out: Any
) -> Any:
    """`search_one` and `write_hits` of what it finds; gives the length, `TOO_EXTREME` or `UNANSWERED`.

    bits is the memory of scores as uint32; other arguments as theirs.
    """
    status, count, _, _, _ = search_one(raw, settings, index, space, ids, scores)
    if status != OK:
        return np.int64(UNANSWERED)
    return np.int64(write_hits(ids, bits, count, version, out, np.int64(0)))
