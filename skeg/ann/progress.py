"""What a long build tells its caller."""

from __future__ import annotations

import time
from collections.abc import Callable

import attrs


@attrs.frozen
class Progress:
    """One report of a build.

    Attributes
    ----------
    stage : str
        Name of the stage under way.
    done, total : int
        Rows done in this stage, of how many; of a source that does not tell, ``total`` is what was read so far.
    elapsed_s : float
        Seconds since the build began.
    remaining_s : float or None
        Estimate of the seconds left until the index is published; None until there is something to go by.
    """

    stage: str
    done: int
    total: int
    elapsed_s: float
    remaining_s: float | None


ProgressCallback = Callable[[Progress], None]

REPORT_EVERY_S = 0.1
"""Reports of one stage are at least this far apart."""

SHARES: dict[str, float] = {
    "read": 0.02,
    "sample": 0.02,
    "encode": 0.08,
    "graph": 0.78,
    "order": 0.01,
    "write": 0.06,
    "verify": 0.02,
    "publish": 0.01,
}
"""The stages in order, with the share of the time that each took in builds of 117,659 and 1,000,000 x 384."""


class Reporter:
    """Turns what stages say into `Progress` reports with an estimate of the time left."""

    def __init__(self, callback: ProgressCallback | None) -> None:
        self._callback = callback
        self._start = time.monotonic()
        self._last = ("", 0.0)

    def stage(self, name: str, total: int) -> Callable[[int], None]:
        """Begin a stage of ``total`` rows, 0 if nobody knows; gives the function to tell the number of rows done."""
        before = 0.0
        for other, share in SHARES.items():
            if other == name:
                break
            before += share
        self._last = (name, 0.0)

        def report(done: int) -> None:
            self._report(name, done, total, before)

        report(0)
        return report

    def _report(self, stage: str, done: int, total: int, before: float) -> None:
        if self._callback is None:
            return
        elapsed = time.monotonic() - self._start
        if done not in (0, total) and elapsed - self._last[1] < REPORT_EVERY_S:
            return
        self._last = (stage, elapsed)
        share = before + SHARES[stage] * (done / total if total else 0.0)
        remaining = elapsed * (1 - share) / share if share > SHARES["read"] and elapsed > REPORT_EVERY_S else None
        self._callback(Progress(stage, done, max(done, total), elapsed, remaining))
