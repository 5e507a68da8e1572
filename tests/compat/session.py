"""What the scripts that run inside a client's environment share. Standard library only."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable


class Session:
    """Checks that go on after a failure.

    Parameters
    ----------
    name : str
        What is checked, for the last line.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.checks = 0
        self.failures: list[str] = []

    def equal(self, what: str, expected: object, actual: object) -> None:
        self.checks += 1
        if expected != actual:
            self.failures.append(f"{what}: expected {expected!r}, got {actual!r}")

    def true(self, what: str, found: object, context: object = None) -> None:
        self.checks += 1
        if not found:
            self.failures.append(f"{what}: {context!r}")

    def raises(self, what: str, kind: type[Exception], part: str, call: Callable[[], object]) -> None:
        """That a call raises an error whose message holds a text."""
        self.checks += 1
        try:
            found = call()
        except kind as error:
            if part not in str(error):
                self.failures.append(f"{what}: expected {part!r} in the error, got {error!r}")
        else:
            self.failures.append(f"{what}: expected an error, got {found!r}")

    def part(self, name: str, action: Callable[[], None]) -> None:
        """Run some checks; an error that none of them expects is a failure, and ends them."""
        try:
            action()
        except Exception as error:  # noqa: BLE001 - whatever a client raises is a finding
            place = traceback.extract_tb(error.__traceback__)
            line = next(frame.lineno for frame in reversed(place) if frame.filename == sys.argv[0])
            self.failures.append(f"{name}, line {line}: {type(error).__name__}: {error}")

    def end(self) -> None:
        """Print what failed, and leave with 1 if anything did."""
        print(*self.failures, sep="\n", end="\n" if self.failures else "")
        print(f"{self.name}: {self.checks} checks, {len(self.failures)} failures")
        sys.exit(len(self.failures) > 0)
