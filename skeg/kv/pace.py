"""How long commits take at the moment."""

from __future__ import annotations

_LAST = 8
_WITHIN = 2


class Pace:
    """Whether the next commit is likely to be quick: a quarter of the last ones were.

    Not more than a quarter, as threads that want the interpreter make them look slower than the disk is.

    Parameters
    ----------
    limit_s : float
        Seconds up to which one is quick; 0 if none ever is.

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
        self.is_quick = sorted(self._last)[_WITHIN] < self._limit_s
