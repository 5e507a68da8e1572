"""The numbers of a search: what a caller asks for and the manifest says, turned into what `search_one` takes."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np

from skeg.ann.calibration import CALIBRATED, DEPTH_FACTOR, Calibration
from skeg.ann.format import Manifest
from skeg.ann.kernels.search import MARGIN_RANK
from skeg.ann.metric import metric_number
from skeg.ann.params import LIST_SIZE_MAX, RERANK
from skeg.checks import as_int

KNOWN_MAX = 256


@attrs.frozen
class Settings:
    """The numbers of a call: as they were asked for, as `search_one` takes them, and single ones after checking."""

    k: Any
    search_list_size: Any
    rerank: Any
    numbers: tuple[int, int, int, int, int, float, float, int]
    n_hits: int
    list_size: int
    capacity: int


class SearchSettings:
    """The settings of one index, by what is asked for; worked out once, because they depend on numbers alone.

    ``calibration`` is what was measured of the index.

    Parameters
    ----------
    manifest : Manifest
    scheme, root : int
        How codes are scored, and the row from which every other can be reached.

    Raises
    ------
    ParameterError
        A number of the manifest is out of range.
    """

    def __init__(self, manifest: Manifest, scheme: int, root: int) -> None:
        self._list_size = as_int("list_size", manifest.search.get("list_size"), 1, LIST_SIZE_MAX)
        found: dict[str, Any] = {name: manifest.search.get(name) for name in CALIBRATED}
        self.calibration = Calibration(**found)
        self._fixed = (metric_number(manifest.metric), scheme, root)
        self._depth = RERANK[manifest.kind]
        self._count = manifest.count
        self._known: dict[tuple[Any, ...], Settings] = {}
        self.last = self._new(10, None, None)  # what was asked for last: most searches ask for the same again

    def get(self, k: Any, search_list_size: Any, rerank: Any) -> Settings:
        """Settings of a call; `ParameterError` for what is not an integer or out of range."""
        last = self.last
        if k is last.k and search_list_size is last.search_list_size and rerank is last.rerank:
            return last
        key = (k, type(k), search_list_size, type(search_list_size), rerank, type(rerank))
        settings = self._known.get(key)
        if settings is None:
            settings = self._new(k, search_list_size, rerank)
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            self._known[key] = settings
        self.last = settings
        return settings

    def same(self, settings: Settings) -> Settings:
        """What these settings, perhaps of another segment, are here."""
        last = self.last
        return last if last is settings else self.get(settings.k, settings.search_list_size, settings.rerank)

    def _new(self, k: Any, search_list_size: Any, rerank: Any) -> Settings:
        n_hits = as_int("k", k, 1, LIST_SIZE_MAX)
        list_size = self._list_size
        if search_list_size is not None:
            list_size = as_int("search_list_size", search_list_size, 1, LIST_SIZE_MAX)
        list_size = max(list_size, n_hits)
        n_expand, margin = self.calibration.bounds_for(n_hits, list_size, self._count)
        if rerank is None:
            depth = DEPTH_FACTOR * self._depth * max(n_hits, MARGIN_RANK) // 10
            slack = self.calibration.slack
        else:
            depth, slack = max(as_int("rerank", rerank, 1, LIST_SIZE_MAX), n_hits), np.float32(np.inf)
        capacity = max(n_expand, depth)
        numbers = (*self._fixed, capacity, n_expand, float(margin), float(slack), depth)
        return Settings(k, search_list_size, rerank, numbers, n_hits, list_size, capacity)
