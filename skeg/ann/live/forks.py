"""Forks of a process that reads indexes which change: parent and child both go on with them.

A fork copies memory in the middle of whatever other threads do to it, and only the thread that forks goes on. So what
changes an index in memory is kept from going on for that moment, and the child gets locks and threads of its own.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol


class Forkable(Protocol):
    """Something that other threads may be changing."""

    def hold_still(self) -> None:
        """Wait until nothing changes it, and let nothing begin to."""

    def go_on(self) -> None:
        """Let it be changed again."""

    def renew(self) -> None:
        """Go on in the child, while it is held still."""


_followed: weakref.WeakSet[Forkable] = weakref.WeakSet()
_guard = threading.Lock()
_held: list[Forkable] = []


def follow(some: Forkable) -> None:
    """Look after this at every fork from now on, as long as it lives."""
    with _guard:
        _followed.add(some)


def _before() -> None:
    _guard.acquire()
    _held.extend(_followed)
    for some in _held:
        some.hold_still()


def _in_parent() -> None:
    for some in _held:
        some.go_on()
    _held.clear()
    _guard.release()


def _in_child() -> None:
    for some in _held:
        some.renew()
    _held.clear()
    _guard.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)
