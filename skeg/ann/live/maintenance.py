"""The background threads of a changing index: one links new rows into their graph, one merges and syncs.

They sleep until they are woken, and are not started before. Merging gives way to everything else where the system lets
a thread do so.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable

SYNC_AFTER_S = 0.5
"""What was acknowledged below `SYNC` is on stable storage after this long."""

NICENESS = 15
"""Added to the niceness of the thread that merges."""

RETRY_AFTER_S = 30.0
"""How long after a merge that failed the next one is tried."""

_logger = logging.getLogger("skeg")


def _nothing() -> None:
    """What is left to do at the end."""


class Background:
    """A thread that does a job whenever it is woken.

    Parameters
    ----------
    name : str
    job : callable
        Does what there is to do; gives the seconds after which it wants to be called again, or None.
    nice : bool
        Whether others come first.
    """

    def __init__(self, name: str, job: Callable[[], float | None], *, nice: bool = False) -> None:
        self.error: Exception | None = None
        self._name = name
        self._job = job
        self._nice = nice
        self._wake = threading.Condition()
        self._woken = False
        self._stop = threading.Event()
        self._again: float | None = None
        self._thread: threading.Thread | None = None

    @property
    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stop.is_set()

    def wake(self, after_s: float = 0.0) -> None:
        """Have the job done, at once or within some time."""
        with self._wake:
            if after_s:
                due = time.monotonic() + after_s
                self._again = due if self._again is None else min(due, self._again)
            else:
                self._woken = True
            if self._thread is None and not self._stop.is_set():
                self._thread = threading.Thread(target=self._run, name=f"skeg-ann-{self._name}", daemon=True)
                self._thread.start()
            self._wake.notify_all()

    def renew(self) -> None:
        """Begin anew in the child of a fork, where the thread is gone; it is started when there is more to do."""
        stopped = self.stopped
        self._wake, self._stop, self._thread = threading.Condition(), threading.Event(), None
        if stopped:
            self._stop.set()

    def stop(self) -> None:
        """End the thread, once the job it may be at is done."""
        with self._wake:
            self._stop.set()
            self._wake.notify_all()
            thread, self._thread = self._thread, None
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        self._job = _nothing  # which was of the index: memory is free as soon as nobody uses that

    def _run(self) -> None:
        if self._nice and sys.platform == "linux":
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while True:
            with self._wake:
                while not self._woken and not self._stop.is_set():
                    left = None if self._again is None else self._again - time.monotonic()
                    if left is not None and left <= 0:
                        break
                    self._wake.wait(left)
                if self._stop.is_set():
                    return
                self._woken, self._again = False, None
            try:
                again = self._job()
                self.error = None
            except Exception as error:  # noqa: BLE001 - whatever it is, the index goes on without
                if self._stop.is_set():
                    return
                self.error = error
                again = RETRY_AFTER_S
                _logger.warning("background work on an index failed: %s", error)
            if again is not None:
                self.wake(again)
