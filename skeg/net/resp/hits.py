"""From the hits of searches to bytes of RESP: ids and scores follow each other, each with its payload if wanted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from skeg.ann.hits import Hits
from skeg.jit import resolve
from skeg.net.kernels.decimals import TOO_EXTREME
from skeg.net.kernels.hits import HEAD_BYTES_MAX, HIT_BYTES_MAX, write_hits, write_hits_of_many
from skeg.net.resp.encode import encode

Payloads = Sequence[bytes | None]

Ids = npt.NDArray[np.uint64]
Scores = npt.NDArray[np.float32]

# Kernels for arguments of the types below, once they were called.
_calls: dict[str, Callable[..., int]] = {}


def encode_search(hits: Hits, payloads: Sequence[Payloads] | None, version: int) -> bytes:
    """The reply to a search for one query or for many, best hits first.

    Parameters
    ----------
    hits : Hits
    payloads : sequence of sequences of (bytes or None), optional
        For each query those of its hits, if they were asked for.
    version : {2, 3}
        Of the protocol.
    """
    ids = hits.ids
    if ids.ndim == 1:
        return encode_hits(ids, hits.scores, None if payloads is None else payloads[0], version)
    return encode_hits_of_many(ids, hits.scores, hits.counts, payloads, version)


def encode_hits(ids: Ids, scores: Scores, payloads: Payloads | None, version: int) -> bytes:
    """The reply to a search for one query, best hit first.

    Parameters
    ----------
    ids, scores : ndarray (k,)
        Scores are written as what they are as doubles.
    payloads : sequence of (bytes or None), optional
        One for each id, if they were asked for.
    version : {2, 3}
        Of the protocol.

    Returns
    -------
    bytes
        An array in which id, score and payload follow each other.
    """
    if payloads is None:
        out = np.empty(HEAD_BYTES_MAX + HIT_BYTES_MAX * len(ids), np.uint8)
        args = (ids, scores.view(np.uint32), len(ids), version, out, 0)
        call = _calls.get("one") or _calls.setdefault("one", resolve(write_hits, args))
        end = call(*args)
        if end != TOO_EXTREME:
            return out[:end].tobytes()
    return encode(_values(ids, scores, payloads), version)


def encode_hits_of_many(
    ids: Ids, scores: Scores, counts: npt.NDArray[np.int64], payloads: Sequence[Payloads] | None, version: int
) -> bytes:
    """The reply to a search for n queries: an array of what `encode_hits` gives for each.

    Parameters
    ----------
    ids, scores : ndarray (n, k)
    counts : ndarray (n,)
        Hits of each query.
    payloads : sequence of sequences of (bytes or None), optional
    version : {2, 3}
    """
    n, k = ids.shape
    if payloads is None:
        out = np.empty(HEAD_BYTES_MAX * (n + 1) + HIT_BYTES_MAX * n * k, np.uint8)
        args = (ids, scores.view(np.uint32), counts, version, out)
        call = _calls.get("many") or _calls.setdefault("many", resolve(write_hits_of_many, args))
        end = call(*args)
        if end != TOO_EXTREME:
            return out[:end].tobytes()
    rows = zip(ids, scores, counts.tolist(), [None] * n if payloads is None else payloads, strict=True)
    return encode([_values(i[:count], s[:count], some) for i, s, count, some in rows], version)


def _values(ids: Ids, scores: Scores, payloads: Payloads | None) -> list[Any]:
    columns: list[Sequence[Any]] = [[*map(str, ids.tolist())], scores.tolist()]
    if payloads is not None:
        columns.append(payloads)
    return [value for hit in zip(*columns, strict=True) for value in hit]
