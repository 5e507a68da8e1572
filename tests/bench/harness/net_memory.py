"""Memory of a server and all of its processes, shared pages told from owned ones (Linux)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Rollup:
    """Bytes of one process or several: resident, its share of them (pss), what it alone has (uss), anonymous."""

    rss: int = 0
    pss: int = 0
    uss: int = 0
    anonymous: int = 0

    def __add__(self, other: Rollup) -> Rollup:
        return Rollup(
            self.rss + other.rss, self.pss + other.pss, self.uss + other.uss, self.anonymous + other.anonymous
        )


def parse_rollup(text: str) -> Rollup:
    """Read the text of /proc/PID/smaps_rollup, whose figures are KiB."""
    kib: dict[str, int] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3 and words[0].endswith(":") and words[2] == "kB":
            kib[words[0][:-1]] = int(words[1])
    return Rollup(
        kib["Rss"] * 1024,
        kib["Pss"] * 1024,
        (kib["Private_Clean"] + kib["Private_Dirty"]) * 1024,
        kib["Anonymous"] * 1024,
    )


def family(pid: int) -> Iterator[int]:
    """A process, the processes it started, theirs, and so on."""
    yield pid
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = thread.read_text().split()
        except (FileNotFoundError, ProcessLookupError):  # the thread has just ended
            continue
        for child in children:
            yield from family(int(child))


def weigh(pid: int) -> Rollup:
    """Sum over the processes of a server."""
    total = Rollup()
    for member in family(pid):
        try:
            total += parse_rollup(Path(f"/proc/{member}/smaps_rollup").read_text())
        except (FileNotFoundError, ProcessLookupError):  # the process has just ended
            continue
    return total
