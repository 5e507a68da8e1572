"""Filters of a search, in any form that they are given in, and the rows of a part that they select."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from xxhash import xxh3_128_digest

from skeg.ann.filters.evaluate import all_kinds, check_types, evaluate
from skeg.ann.filters.grammar import parse_filter
from skeg.ann.filters.nodes import Node
from skeg.ann.kernels.bundle import Bundle
from skeg.ann.kernels.cells import Cells, mark_usable
from skeg.ann.kernels.search_part import bundle_admission
from skeg.ann.live.parts import Part, SegmentPart
from skeg.checks import as_ids, as_real_array
from skeg.errors import CorruptError, ParameterError

FEW_IDS = 16
"""Ids are looked up one by one where there are so many rows for each."""

Ids = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]


class Filter(Protocol):
    """Says which rows of a part are wanted; filters of one key want the same."""

    key: Hashable

    def check(self, parts: Sequence[Part]) -> None:
        """Raise `FilterError` if it does not fit the types of the fields."""

    def mask(self, part: Part, count: int) -> Mask:
        """Whether each of the first ``count`` rows of a part is wanted."""


class FieldFilter:
    """A filter in words, see `skeg.ann.filters.grammar`."""

    def __init__(self, text: str) -> None:
        self.key: Hashable = text
        self._node: Node = parse_filter(text)

    def check(self, parts: Sequence[Part]) -> None:
        """See `Filter.check`."""
        check_types(self._node, all_kinds(part.columns for part in parts))

    def mask(self, part: Part, count: int) -> Mask:
        """See `Filter.mask`."""
        return evaluate(self._node, part.columns, count)


class IdFilter:
    """Ids (n,) uint64 that are wanted."""

    def __init__(self, ids: Ids) -> None:
        self.key: Hashable = xxh3_128_digest(ids.tobytes())
        self._ids = ids

    def check(self, parts: Sequence[Part]) -> None:
        """Ids always fit."""

    def mask(self, part: Part, count: int) -> Mask:
        """See `Filter.mask`."""
        mask: Mask = np.zeros(count, np.bool_)
        if isinstance(part, SegmentPart) and len(self._ids) * FEW_IDS < count:
            rows = part.rows_of(self._ids)
            mask[rows[rows >= 0]] = True
        else:
            mask = np.isin(part.ids[:count], self._ids)
        return mask


_known: dict[str, FieldFilter] = {}
"""Filters in words that were read before."""

KNOWN_MAX = 256


def as_filter(given: Any, all_ids: Any) -> Filter:
    """A filter from what a caller gives: words, ids, or a bool for each id in ascending order.

    Parameters
    ----------
    given : str, set of int, array_like of int, or array_like (n,) of bool
    all_ids : callable
        Gives all ids (n,), ascending.

    Raises
    ------
    FilterError
        Words that can't be read.
    ParameterError, VectorError
        Another type or shape; what can't be an id.
    """
    if isinstance(given, str):
        found = _known.get(given)
        if found is None:
            found = FieldFilter(given)
            if len(_known) >= KNOWN_MAX:
                _known.clear()
            _known[given] = found
        return found
    if isinstance(given, AbstractSet):
        return IdFilter(as_ids(list(given), len(given), what="filter"))
    array = as_real_array(given, "filter")
    if array.ndim != 1 or (array.dtype.kind not in "iub" and len(array)):
        found_text = f"shape {array.shape}, dtype {array.dtype}"
        raise ParameterError("filter", found_text, "words, ids, or a bool for each id in ascending order")
    if array.dtype.kind == "b":
        ids = all_ids()
        if len(ids) != len(array):
            raise ParameterError("filter", f"{len(array)} bools", f"{len(ids)}, one for each id in ascending order")
        return IdFilter(ids[array])
    return IdFilter(as_ids(array if len(array) else np.zeros(0, np.uint64), len(array), what="filter"))


class Selection:
    """The rows of a part that a filter wants.

    wanted : (room of the part,) uint8; rows (count,) uint32 : those that are wanted and were alive; admitted : both, as
    `search_part` takes them; n_rows : rows of the part that were looked at; strategies : how they are searched, by what
    is asked, as far as that was decided.
    """

    def __init__(self, part: Part, mask: Mask) -> None:
        self.n_rows = len(mask)
        self.wanted = np.zeros(len(part.alive), np.uint8)
        self.wanted[: len(mask)] = mask
        rows = np.flatnonzero(self.wanted & part.alive).astype(np.uint32)
        self.count = len(rows)
        usable = np.zeros(0, np.uint8)
        if isinstance(part, SegmentPart):
            segment = part.searcher.open_segment()
            usable = np.zeros(part.run - 2, np.uint8)
            if mark_usable(Cells(segment.regions, segment.cells, 0), self.wanted, usable):
                raise CorruptError(segment.hot.path, "cells that can't be; verify() tells more")
        self.admitted: Bundle = bundle_admission(part.alive, self.wanted, usable, rows)
        self.strategies: dict[Hashable, Any] = {}
        self.nbytes = self.wanted.nbytes + rows.nbytes + usable.nbytes
