"""How long commits take at the moment."""

from __future__ import annotations

import math

_LAST = 8
"""Commits that are remembered."""

_STAYS, _BECOMES = 5, 2
"""Of those, how many are quick as long as commits are, and how many when they are again: made by another thread, they
look slower than they are, as the interpreter has to be waited for too."""


class Pace:
    """Whether the next commit is likely to be quick: most of the last ones were.

    Parameters
    ----------
    limit_s : float
        Seconds that one takes less than if it is quick; 0 if none ever is.

    Attributes
    ----------
    is_quick : bool
    """

    def __init__(self, limit_s: float) -> None:
        self.is_quick = limit_s > 0
        self._limit_s = limit_s
        self._last = [0.0] * _LAST
        self._place = 0

    def note(self, seconds: float) -> None:
        """A commit took so long; from any thread."""
        self._last[self._place % _LAST] = seconds
        self._place += 1
        n_quick = sum([each < self._limit_s for each in self._last])
        is_quick = n_quick >= (_STAYS if self.is_quick else _BECOMES)
        if is_quick is not self.is_quick:
            self.is_quick = is_quick
            self._last = [0.0 if is_quick else math.inf] * _LAST  # those were made by another thread
