"""skeg.kv beside other key-value stores, on the same disk, in the same minutes: 16-byte keys, 100-byte values.

    python tests/bench/kv.py [--only writes reads ...] [--rows 10000000] [--rounds 5] [--dir FOLDER] [--json]

Parts, each of which runs alone with --only:

writes    durable set_many of 64, 256 and 1024 pairs, and single durable writes, beside the disk's own limit
hot       skeg's get and mget of keys that are in its cache
reads     random reads, one call each: of a few keys, which fit the caches, and of a store that does not
open      a new process opens a store and reads one key (its imports are not counted)
memory    bytes a key in the index and in the process
recovery  opening the largest store, without hint files and with them
pause     how long calls take while compaction is at work, and without it

The largest store has --rows keys, the middle one, which is read, a tenth of them. See README.md for the rest.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import harness.figure
from harness.environment import add_options, enter, machine, versions
from harness.memory import MIB
from harness.process import Turns
from kv_peers import ENGINES, HOT_KEYS, Worker, remove_hints

# Sets a second that durable batches of this size have to reach.
BATCHES = {64: 100_000, 256: 300_000, 1024: 600_000}
STORES = ("skeg", "sqlite", "lmdb", "diskcache", "semidbm", "rocksdict")
DISKS = ("disk", "disk-allocated")
# Times that skeg may take of what the fastest peer takes.
CLOSE = 1.3
# Calls in one measurement of writes, of single ones and of batches.
SINGLES, CALLS = 200, 40
LEAST_S = 0.5
# Enough for skeg to load its kernels in the background, also the first time on a machine, when they are compiled.
WARM_S = 20.0
# Small, so that compaction always finds something to do.
PAUSE_SEGMENT_BYTES = 4 * MIB

Workers = dict[str, Worker]


class Figure(harness.figure.Figure):
    """More of what is counted by the second is better."""

    @property
    def higher_is_better(self) -> bool:
        return self.unit.endswith("/s")


@dataclass(kw_only=True)
class Run(Turns):
    """The folder of a run, the engines that have not failed, and the stores that were made so far."""

    folder: Path
    rows: int
    seconds: float
    engines: list[str]

    @property
    def middle_rows(self) -> int:
        return max(self.rows // 10, 1)

    def usable(self, *others: str) -> list[str]:
        return [engine for engine in (*self.engines, *others) if engine not in self.problems]

    def store(self, engine: str, rows: int) -> Path:
        """A store of an engine with the first `rows` pairs, made when it is first asked for."""
        path = self.folder / f"{engine.removesuffix('-held')}-{rows}"
        if not path.exists():
            with Worker(engine, path) as worker:
                worker("load", rows)
        return path

    def start(self, stack: contextlib.ExitStack, engines: Iterable[str], path: Callable[[str], Path]) -> Workers:
        """A process for each engine, with its store open."""
        workers = {}
        for engine in engines:
            with self.dropping(engine):
                workers[engine] = stack.enter_context(Worker(engine, path(engine)))
                workers[engine]("open")
                stack.callback(self._close, engine, workers[engine])
        return workers

    def _close(self, engine: str, worker: Worker) -> None:
        with self.dropping(engine):
            worker("close")

    def ask(self, workers: Workers, action: str, *arguments: Any) -> dict[str, list[float]]:
        """`interleaved`, with the number of the round as the last argument of the action."""
        return self.interleaved(workers, lambda engine, number: workers[engine](action, *arguments, number))


def writes(run: Run) -> Iterator[Figure]:
    with contextlib.ExitStack() as stack:
        workers = run.start(stack, run.usable(*DISKS), lambda engine: run.folder / f"written-{engine}")
        # As a store is after a while: skeg loads a kernel when 20,000 pairs were written in batches.
        for engine, worker in workers.items():
            with run.dropping(engine):
                worker("write", max(BATCHES), 30, run.rounds + 1)
        time.sleep(WARM_S)
        for size in (1, *BATCHES):
            calls = SINGLES if size == 1 else CALLS
            for engine, worker in workers.items():
                with run.dropping(engine):
                    worker("write", size, 5, run.rounds)
            for engine, rounds in run.ask(workers, "write", size, calls).items():
                yield Figure("writes", batch_name(size), engine, "sets/s", rounds, BATCHES.get(size))


def batch_name(size: int) -> str:
    return "durable set" if size == 1 else f"durable set_many of {size}"


def hot(run: Run) -> Iterator[Figure]:
    with Worker("skeg", run.store("skeg", run.middle_rows)) as worker:
        worker("open")
        worker("expect", min(HOT_KEYS, run.middle_rows))
        got, many = [], []
        for number in range(run.rounds):
            got.append(worker("read", LEAST_S, number))
            many.append(worker("mget", 1000, LEAST_S, number))
        worker("close")
    yield Figure("hot", "get", "skeg", "keys/s", got, 250_000)
    yield Figure("hot", "mget of 1000", "skeg", "keys/s", many, 1_000_000)


def reads(run: Run) -> Iterator[Figure]:
    held = ["lmdb-held"] if "lmdb" in run.engines else []
    with contextlib.ExitStack() as stack:
        workers = run.start(stack, run.usable(*held), lambda engine: run.store(engine, run.middle_rows))
        for rows in sorted({min(HOT_KEYS, run.middle_rows), run.middle_rows}):
            for engine, worker in workers.items():
                with run.dropping(engine):
                    worker("expect", rows)
            for engine, rounds in run.ask(workers, "read", LEAST_S).items():
                yield Figure("reads", f"get, of {rows:,} keys", engine, "keys/s", rounds)


def opening(run: Run) -> Iterator[Figure]:
    for rows in sorted({min(n, run.middle_rows) for n in (1000, 100_000)} | {run.middle_rows}):

        def measure(engine: str, _: int, rows: int = rows) -> float:
            with Worker(engine, run.store(engine, rows)) as worker:
                return 1000 * worker("open_and_get", rows)

        for engine, rounds in run.interleaved(run.usable(), measure).items():
            yield Figure("open", f"open and get, {rows:,} keys", engine, "ms", rounds)


def memory(run: Run) -> Iterator[Figure]:
    for rows in (run.middle_rows, run.rows):
        path = run.folder / f"skeg-{rows}"
        filled = path if not path.exists() else run.folder / "skeg-filled"
        for action, folder in (("load_and_weigh", filled), ("open_and_weigh", path)):
            with Worker("skeg", folder, cache_bytes=0) as worker:
                weights = worker(action, rows)
            when = "filled" if action == "load_and_weigh" else "opened"
            for what, must in (("index", 25), ("process", None)):
                yield Figure("memory", f"{what}, {rows:,} keys, {when}", "skeg", "bytes/key", [weights[what]], must)
        if filled != path:
            shutil.rmtree(filled)


def recovery(run: Run) -> Iterator[Figure]:
    path = run.store("skeg", run.rows)
    found: dict[str, list[float]] = {"without hints": [], "with hints": []}
    speeds = []
    for _ in range(run.rounds):
        for case, seconds in found.items():
            if case == "without hints":
                remove_hints(path)
            # The maintenance thread would write hints while the clock runs; closing writes them as well.
            with Worker("skeg", path, cache_bytes=0, background=False) as worker:
                opened = worker("open_and_weigh", run.rows)
            seconds.append(opened["seconds"])
            if case == "without hints":
                speeds.append(run.rows / opened["cpu_s"])
    name = f"open {run.rows:,} keys"
    yield Figure("recovery", f"{name} without hints, of CPU time", "skeg", "records/s", speeds, 4_000_000)
    yield Figure("recovery", f"{name} without hints", "skeg", "s", found["without hints"])
    yield Figure("recovery", f"{name} with hints", "skeg", "s", found["with hints"], 1.5)


def pause(run: Run) -> Iterator[Figure]:
    """Calls on a store that is small enough to be rewritten many times while the clock runs."""
    rows = min(100_000, run.middle_rows)
    for durability in ("SYNC", "OS"):
        for background in (True, False):
            path = run.folder / f"pause-{durability}-{background}"
            settings = {"segment_bytes": PAUSE_SEGMENT_BYTES, "cache_bytes": 0}
            with Worker("skeg", path, background=False, **settings) as worker:
                worker("stale", rows, 3)
            with Worker("skeg", path, durability=durability, background=background, **settings) as worker:
                found = worker("pauses", rows, run.seconds)
            shutil.rmtree(path)
            if background and not found["compactions"]:
                run.problems[f"pause, {durability}"] = "no compaction ran: more --rows or --seconds"
            case = f"{durability}, {'compaction' if background else 'none'}"
            for call, took in found["quantiles"].items():
                must = 10 if background else None
                details = {"case": case, "call": call, "compactions": found["compactions"], **took}
                yield Figure("pause", f"p99.9 of {call} ({case})", "skeg", "ms", [1000 * took["p99.9"]], must, details)


PARTS = {
    "writes": writes,
    "hot": hot,
    "reads": reads,
    "open": opening,
    "memory": memory,
    "recovery": recovery,
    "pause": pause,
}


# A table is a title, a header, rows of cells and notes, as `report.Table` takes them.
Lines = tuple[str, list[str], list[list[str]], list[str]]


def beside(part: str, figures: Sequence[Figure]) -> Lines:
    """Engines below each other, measures side by side: medians, and the range over the rounds."""
    measures = list(dict.fromkeys(figure.measure for figure in figures))
    engines = list(dict.fromkeys(figure.engine for figure in figures))
    if engines == ["skeg"]:
        return part, ["skeg", "found", "unit"], [[f.measure, f.cell(), f.unit] for f in figures], []
    cells = {(figure.engine, figure.measure): figure.cell() for figure in figures}
    rows = [[engine, *[cells.get((engine, measure), "-") for measure in measures]] for engine in engines]
    notes = [f"{engine}: {ENGINES[engine].setting}" for engine in engines]
    return f"{part}, {figures[0].unit}", ["engine", *measures], rows, notes


def pauses(figures: Sequence[Figure]) -> Lines:
    rows = []
    for details in (figure.details for figure in figures):
        times = [f"{1000 * details[share]:.3f}" for share in ("p50", "p99", "p99.9", "longest")]
        rows.append([f"{details['call']} ({details['case']})", f"{details['calls']:,}", *times])
        rows[-1].append(str(details["compactions"]))
    return "pause, ms", ["call", "calls", "p50", "p99", "p99.9", "longest", "compactions"], rows, []


def ratios(figures: Sequence[Figure]) -> Lines:
    """How many times as fast skeg is as the fastest peer, and as the disk alone."""
    rows = []
    for ours in figures:
        others = [f for f in figures if f.measure == ours.measure and f.engine != "skeg"]
        peers = [other for other in others if other.engine in STORES]
        if ours.engine != "skeg" or not peers:
            continue
        best = max(peers, key=lambda peer: times_as_fast(peer, ours)[0])
        middle, low, high = times_as_fast(ours, best)
        verdict = "fastest" if middle >= 1 else f"within {CLOSE}" if middle * CLOSE >= 1 else "SLOWER"
        disks = {other.engine: f"{times_as_fast(ours, other)[0]:.2f}" for other in others if other.engine in DISKS}
        times = f"{middle:.2f} [{low:.2f}-{high:.2f}]"
        rows.append([ours.measure, best.engine, times, verdict, *[disks.get(disk, "-") for disk in DISKS]])
    header = ["measure", "fastest peer", "skeg: times as fast", "verdict", *[f"as {disk}" for disk in DISKS]]
    return "skeg beside the fastest peer", header, rows, []


def times_as_fast(ours: Figure, theirs: Figure) -> tuple[float, float, float]:
    """Ratio of the medians, with the smallest and largest ratio within one round."""
    from harness.arithmetic import ratio

    found = ratio(ours.rounds, theirs.rounds) if ours.higher_is_better else ratio(theirs.rounds, ours.rounds)
    return found.median, found.low, found.high


def goal_lines(figures: Sequence[Figure]) -> list[tuple[str, float, float, bool]]:
    """Measure, found, must, whether that is a ceiling: what was asked of skeg alone."""
    lines = [
        (f"{figure.measure}, {figure.unit}", figure.value, figure.must, not figure.higher_is_better)
        for figure in figures
        if figure.engine == "skeg" and figure.must is not None
    ]
    single = {figure.engine: figure.value for figure in figures if figure.measure == batch_name(1)}
    disks = [disk for disk in DISKS if single.keys() >= {"skeg", disk}]
    return lines + [(f"time of a durable set / of {d}", single[d] / single["skeg"], 1.5, True) for d in disks]


def main() -> None:
    parser = argparse.ArgumentParser(description="skeg.kv beside other key-value stores, on the same disk.")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--engines", nargs="+", choices=STORES, default=list(STORES), help="skeg is always among them")
    parser.add_argument("--rows", type=int, default=10_000_000, help="keys of the largest store (default: 10,000,000)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each of the four measurements of `pause`")
    parser.add_argument("--dir", type=Path, help="folder for the stores, on the disk to measure (default: in --out)")
    parser.add_argument("--json", action="store_true", help="print figures, one JSON object a line, and no tables")
    add_options(parser)
    options = parser.parse_args()
    enter(options)
    # Only inside the benchmark's environment: these need what it holds.
    from harness import goals, report

    options.out.mkdir(parents=True, exist_ok=True)
    engines = list(dict.fromkeys(["skeg", *options.engines]))
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="kv-", dir=options.dir or options.out) as folder:
        run = Run(
            folder=Path(folder), rows=options.rows, rounds=options.rounds, seconds=options.seconds, engines=engines
        )
        for part in options.only:
            with run.dropping("skeg"):
                figures += PARTS[part](run)
    common = {"when": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine(), "rows": options.rows}
    common["versions"] = versions(ENGINES[engine].distribution for engine in engines)
    common["versions"]["sqlite3"] = sqlite3.sqlite_version
    rows = [{**common, **asdict(figure), "median": figure.value} for figure in figures]
    report.append_json(options.out / "kv.jsonl", rows)
    if options.json:
        print(*map(json.dumps, rows), sep="\n")
        return
    tables = []
    for part in dict.fromkeys(figure.part for figure in figures):
        chosen = [figure for figure in figures if figure.part == part]
        tables.append(pauses(chosen) if part == "pause" else beside(part, chosen))
    tables.append(ratios(figures))
    judged = [goals.Goal(name, found, must, at_most=most) for name, found, must, most in goal_lines(figures)]
    problems = [[engine, problem] for engine, problem in run.problems.items()]
    shown = [report.Table(*each) for each in tables if each[2]]
    shown += [goals.goal_table("goals (kv)", judged)] if judged else []
    shown += [report.Table("engines without (all) figures", ["engine", "problem"], problems)] if problems else []
    report.show(shown, options.out / "kv.md")


if __name__ == "__main__":
    main()
