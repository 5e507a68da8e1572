"""A search and its reply by one kernel: each call from Python costs some microseconds beside its work."""

from __future__ import annotations

from typing import Any

import numpy as np

from skeg.ann.kernels.search import OK, search_one
from skeg.jit import kernel
from skeg.net.kernels.hits import pack_hits, write_hits

BINARY = 0
"""Form of replies beside 2 and 3, which are versions of RESP: payload of the binary protocol."""

UNANSWERED = -2
"""Instead of a length: something is wrong with the query or the index."""


@kernel()
def search_and_write(
    raw: Any, settings: Any, index: Any, space: Any, ids: Any, scores: Any, bits: Any, form: Any, out: Any
) -> Any:
    """`search_one` and `write_hits` or `pack_hits` of what it finds; gives the length, `TOO_EXTREME` or `UNANSWERED`.

    bits is the memory of scores as uint32, form the version of RESP or `BINARY`; other arguments as theirs.
    """
    status, count, _, _, _ = search_one(raw, settings, index, space, ids, scores)
    if status != OK:
        return np.int64(UNANSWERED)
    if form == BINARY:
        return np.int64(pack_hits(ids, bits, count, out))
    return np.int64(write_hits(ids, bits, count, form, out, np.int64(0)))
