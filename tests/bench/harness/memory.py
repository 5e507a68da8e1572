"""Resident memory of a process, split into what it owns (anonymous) and what it maps from files (Linux)."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Self

MIB = 1024 * 1024


@dataclass(frozen=True)
class Memory:
    """Resident bytes of one process at one moment; zeros where the system doesn't tell."""

    anonymous: int = 0
    file: int = 0


def resident(pid: int | str = "self") -> Memory:
    """RssAnon and RssFile of a process, in bytes."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):  # not Linux, or the process has just ended
        return Memory()
    return parse_status(text)


def parse_status(text: str) -> Memory:
    """Read the two fields from the text of /proc/PID/status (given there in KiB)."""
    kib = {"RssAnon": 0, "RssFile": 0}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        if name in kib:
            kib[name] = int(rest.split()[0])
    return Memory(kib["RssAnon"] * 1024, kib["RssFile"] * 1024)


class PeakSampler:
    """Samples a process every `interval_s` while the `with` block runs; `peak` holds the largest of each figure."""

    def __init__(self, pid: int, interval_s: float = 0.05) -> None:
        self.peak = Memory()
        self._pid = pid
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        while True:
            now = resident(self._pid)
            self.peak = Memory(max(self.peak.anonymous, now.anonymous), max(self.peak.file, now.file))
            if self._stop.wait(self._interval_s):
                return
