"""The parts of the benchmark of indexes that change: what is measured of whom, when, and what skeg must reach.

Each part yields figures; the processes of the engines do what is timed, truths and recalls are worked out here, while
nobody else is at work.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median

import harness.figure
import numpy as np
from harness.arithmetic import ratio
from harness.data import DataSet
from harness.living import (
    Ledger,
    Mask,
    Rows,
    answers_among,
    churn_groups,
    clustered,
    complete_share,
    recall_among,
    scattered,
)
from harness.process import Turns, Worker
from live_peers import ENGINES, Filtered, Replacing
from live_skeg import Skeg

SEED = 7
# Merges that have to come to an end while single vectors are added.
MERGES = 3
CHURN_ROUNDS, FRESH_EVERY = 20, 5
SHARES = {"50": 0.5, "10": 0.1, "1": 0.01, "0_1": 0.001}
UNFILTERED = "no filter"
# Peers that find less are not compared with skeg's latency.
COMPARABLE = 0.9

# Units of which the third digit after the point counts.
SHARE_UNITS = ("recall", "share")

_MS, _US = 1e3, 1e6

# Rows found (m, K), and seconds of each of the m calls.
Answers = tuple[np.ndarray, list[float]]


@dataclass
class Figure(harness.figure.Figure):
    """`at_most`: whether what skeg has to reach is a ceiling."""

    at_most: bool = True

    def plain(self, value: float) -> str:
        if self.unit in SHARE_UNITS:
            return f"{value:.4f}"
        return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


@dataclass(kw_only=True)
class Run(Turns):
    """The data, the folder of a run, its settings, and the engines that have not failed."""

    data: DataSet
    folder: Path
    threads: int
    seconds: float
    filter_seconds: float
    rate: float
    batch: int
    engines: list[str]

    @cached_property
    def base(self) -> np.ndarray:
        return np.load(self.data.base, mmap_mode="r")

    @cached_property
    def queries(self) -> np.ndarray:
        return np.load(self.data.queries)

    def skeg(self) -> Worker:
        return Worker(Skeg, self.data.base, self.data.queries, self.folder / "skeg", self.threads)

    def hnswlib(self) -> Worker:
        return Worker(Replacing, self.data.base, self.data.queries, self.threads)

    def both(self, stack: contextlib.ExitStack) -> dict[str, Worker]:
        """skeg's process, and hnswlib's if it was asked for."""
        made: dict[str, Callable[[], Worker]] = {"skeg": self.skeg, "hnswlib": self.hnswlib}
        return {name: stack.enter_context(make()) for name, make in made.items() if name in self.engines}

    def each(self, workers: dict[str, Worker], act: Callable[[str, Worker], None]) -> None:
        """Do something with every engine that has not failed."""
        for engine, worker in workers.items():
            with self.dropping(engine):
                if engine not in self.problems:
                    act(engine, worker)


def bulk(run: Run) -> Iterator[Figure]:
    """Seconds until all rows can be searched, one way after another in each round."""
    with contextlib.ExitStack() as stack:
        workers = run.both(stack)
        ways = {
            "skeg": "add",
            "skeg, offline": "offline",
            "skeg, by 1,000": "chunks",
            "skeg, by 1,000, and consolidated": "merged chunks",
        }

        def measure(engine: str, _: int) -> float:
            return workers["skeg"]("build", ways[engine]) if engine in ways else workers[engine]("build")

        found = run.interleaved([*ways, *(name for name in workers if name != "skeg")], measure)
    for engine, seconds in found.items():
        yield Figure("bulk", "until all rows can be searched", engine, "s", seconds)
    for other, must in (("skeg, offline", 2.0), ("hnswlib", 1.0)):
        if {"skeg", other} <= found.keys():
            yield _times("bulk", f"time of one add / of {other}", found["skeg"], found[other], must)


def single(run: Run) -> Iterator[Figure]:
    """Durable adds of one vector each while merges run, and bare writes of as many bytes between them."""
    with run.dropping("skeg"), run.skeg() as worker:
        worker("fill")
        found = worker("single", MERGES)
        worker("empty")
        add, bare = found["add"], found["bare"]
        for share, must in {"p50": 2.0, "p99": 10.0, "p99.9": None, "longest": 50.0}.items():
            name = f"{share} of a durable add"
            yield Figure("single", name, "skeg", "ms", [_MS * add[share]], must, details=found)
            yield Figure("single", name, "write + fdatasync", "ms", [_MS * bare[share]])
        yield Figure("single", "p50 of a durable add / of a bare write", "skeg", "x", [add["p50"] / bare["p50"]])
        yield Figure("single", "adds", "skeg", "", [add["calls"]])
        yield Figure("single", "merges meanwhile", "skeg", "", [found["merges"]], MERGES, at_most=False)
        name = f"ids not found at once, of {found['checked']:,}"
        yield Figure("single", name, "skeg", "", [found["missing"]], 0)


# What is noted of a round: name of the figure, unit, factor.
CHURN_MEASURES = {
    "fresh": ("recall of a fresh build", "recall", 1),
    "before": ("recall after replacing", "recall", 1),
    "after": ("recall after consolidation", "recall", 1),
    "fresh bytes": ("size of a fresh build", "MiB", 2**-20),
    "bytes": ("size after consolidation", "MiB", 2**-20),
    "fresh s": ("time to build afresh", "s", 1),
    "replace s": ("time to replace", "s", 1),
    "consolidate s": ("time to consolidate", "s", 1),
}


class Churned:
    """The rows of an index that changes round by round, and how much of them an engine finds."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.groups = churn_groups(run.data.n, CHURN_ROUNDS, np.random.default_rng(SEED))
        self.ledger = Ledger(run.data.n)
        self.start = np.sort(np.concatenate(self.groups[:-1]))
        self.start_ids = self.ledger.add(self.start)
        self._see()

    def _see(self) -> None:
        self.rows = self.ledger.rows
        self.ids = self.ledger.id_of[self.rows]
        self.truth = answers_among(self.run.base, self.run.queries, self.rows)

    def turn(self, number: int) -> tuple[Rows, Rows, Rows]:
        """Ids to delete, new ids and their rows, of a round."""
        deleted = self.ledger.remove(self.groups[number])
        rows = self.groups[number - 1]
        ids = self.ledger.add(rows)
        self._see()
        return deleted, ids, rows

    def recall(self, ids: Rows) -> float:
        return recall_among(self.ledger.rows_of(ids), self.run.base, self.run.queries, self.truth, self.ledger.alive)


def churn(run: Run) -> Iterator[Figure]:
    """Recall and bytes while 5 % of the rows are replaced 20 times, beside indexes that are built of what is there."""
    churned = Churned(run)
    log: dict[str, dict[str, list[float]]] = {}

    def note(engine: str, name: str, value: float) -> None:
        log.setdefault(engine, {}).setdefault(name, []).append(value)

    def begin(engine: str, worker: Worker) -> None:
        worker("start", churned.start_ids, churned.start)
        fresh(engine, worker)

    def fresh(engine: str, worker: Worker) -> None:
        found, size, seconds = worker("fresh", churned.ids, churned.rows)
        note(engine, "fresh", churned.recall(found))
        note(engine, "fresh bytes", size)
        note(engine, "fresh s", seconds)

    def replace(engine: str, worker: Worker) -> None:
        note(engine, "replace s", worker("replace", *turn))
        note(engine, "before", churned.recall(worker("found")))
        if engine == "skeg":
            note(engine, "consolidate s", worker("consolidate"))
            note(engine, "after", churned.recall(worker("found")))
            note(engine, "bytes", worker("bytes"))

    with contextlib.ExitStack() as stack:
        workers = run.both(stack)
        run.each(workers, begin)
        for number in range(CHURN_ROUNDS):
            turn = churned.turn(number)
            run.each(workers, replace)
            if (number + 1) % FRESH_EVERY == 0:
                run.each(workers, fresh)
    yield from _churn_figures({engine: found for engine, found in log.items() if engine not in run.problems})


def _churn_figures(log: dict[str, dict[str, list[float]]]) -> Iterator[Figure]:
    """What was noted in each round, and what became of skeg at its worst."""
    for engine, found in log.items():
        for name, values in found.items():
            measure, unit, scale = CHURN_MEASURES[name]
            yield Figure("churn", measure, engine, unit, [scale * value for value in values])
    ours = log.get("skeg")
    if ours is None:
        return
    for when in ("before", "after"):
        # Each round beside the fresh builds of the rounds around it.
        behind = [
            max(ours["fresh"][i // FRESH_EVERY], ours["fresh"][i // FRESH_EVERY + 1]) - recall
            for i, recall in enumerate(ours[when])
        ]
        name = f"most that recall {when} consolidation is behind a fresh build"
        yield Figure("churn", name, "skeg", "recall", [max(behind)], 0.01)
    sizes = [ours["bytes"][FRESH_EVERY * (i + 1) - 1] / fresh for i, fresh in enumerate(ours["fresh bytes"][1:])]
    yield Figure("churn", "bytes after consolidation / of a fresh build", "skeg", "x", [max(sizes)], 1.3)


def search(run: Run) -> Iterator[Figure]:
    """Latencies of one thread that searches, while nobody writes and while another thread does, in turns."""
    phases: dict[str, list[dict[str, float]]] = {"idle": [], "busy": []}
    with run.dropping("skeg"), run.skeg() as worker:
        worker("fill")
        worker("idle", min(run.seconds, 1.0))
        for _ in range(run.rounds):
            phases["idle"].append(worker("idle", run.seconds))
            phases["busy"].append(worker("busy", run.seconds, run.rate, run.batch))
        worker("empty")
        for share in ("p50", "p99", "p99.9", "longest"):
            times = {phase: [found[share] for found in each] for phase, each in phases.items()}
            for phase, seconds in times.items():
                rounds = [_US * each for each in seconds]
                details = {"phases": phases[phase]} if share == "p99" else {}
                yield Figure("search", f"{share}, {phase}", "skeg", "us", rounds, details=details)
            if share in ("p50", "p99"):
                must = 2.0 if share == "p99" else None
                yield _times("search", f"{share} while rows are added / idle", times["busy"], times["idle"], must)
        rates = [found["rate"] for found in phases["busy"]]
        yield Figure("search", "vectors added meanwhile", "skeg", "/s", rates)
        merges = [found["merges"] for found in phases["busy"]]
        yield Figure("search", "merges in a busy phase, fewest", "skeg", "", [min(merges)], 1, at_most=False)


def filters(run: Run) -> Iterator[Figure]:
    """Recall, completeness and latency of searches of which a share of the rows is kept."""
    masks = _masks(run)
    file = run.folder / "masks.npz"
    np.savez(file, **masks)
    with contextlib.ExitStack() as stack:
        workers = {}
        for engine in run.engines:
            with run.dropping(engine):
                folder = run.folder / f"filtered-{engine}"
                stack.callback(shutil.rmtree, folder, ignore_errors=True)
                arguments = (engine, run.data.base, run.data.queries, file, folder, run.threads)
                workers[engine] = stack.enter_context(Worker(Filtered, *arguments))
                yield Figure("filters", "loading", engine, "s", [workers[engine]("load")])
        unfiltered: dict[str, list[Answers]] = {}
        for name, mask in masks.items():

            def measure(engine: str, _: int, name: str = name) -> tuple[Answers, Answers]:
                # One right after the other, as a ratio of the two is judged.
                plain = workers[engine]("ask", None, run.filter_seconds / 2)
                return plain, workers[engine]("ask", name, run.filter_seconds)

            label, truth = f"{name} ({mask.mean():.2%})", _truth(run, mask)
            for engine, rounds in run.interleaved(workers, measure).items():
                plain, answers = [each for each, _ in rounds], [each for _, each in rounds]
                unfiltered.setdefault(engine, []).extend(plain)
                yield from _answered(run, engine, label, answers, mask, truth, judged=engine == "skeg")
                if engine == "skeg":
                    yield _times("filters", f"latency, {label} / unfiltered", latencies(answers), latencies(plain), 3.0)
        everything = np.ones(run.data.n, np.bool_)
        truth = _truth(run, everything)
        for engine, answers in unfiltered.items():
            yield from _answered(run, engine, UNFILTERED, answers, everything, truth, judged=False)


def _truth(run: Run, mask: Mask) -> Rows:
    return answers_among(run.base, run.queries, np.flatnonzero(mask))


def _answered(
    run: Run, engine: str, label: str, answers: list[Answers], mask: Mask, truth: Rows, *, judged: bool
) -> Iterator[Figure]:
    """Recall, completeness and latency of one engine's answers in each round; they are the same but for their times."""
    rows = max((rows for rows, _ in answers), key=len)
    n = len(rows)
    recall = recall_among(rows, run.base, run.queries[:n], truth[:n], mask)
    details = {"case": label, "queries": n, "matching": int(mask.sum())}
    for measure, unit, rounds, must in (
        ("recall@10", "recall", [recall], 0.98),
        ("queries with all hits", "share", [complete_share(rows, mask)], 1.0),
        ("latency", "ms", latencies(answers), None),
    ):
        figure = Figure("filters", f"{measure}, {label}", engine, unit, rounds, details=details)
        if judged:
            figure.must, figure.at_most = must, False
        yield figure


def latencies(answers: list[Answers]) -> list[float]:
    """Median of each round, in milliseconds."""
    return [_MS * median(took) for _, took in answers]


def _masks(run: Run) -> dict[str, Mask]:
    """Fields by name: `cat` are scattered, `near` are clustered, the number is the share in per cent."""
    rng = np.random.default_rng(SEED)
    masks = {f"cat{name}": scattered(run.data.n, share, rng) for name, share in SHARES.items()}
    return masks | {f"near{name}": clustered(run.base, share, rng) for name, share in SHARES.items()}


def _times(part: str, measure: str, ours: list[float], theirs: list[float], must: float | None) -> Figure:
    """Ratio of the medians, and the ratios within the rounds as details."""
    found = ratio(ours, theirs)
    details = {"low": found.low, "high": found.high}
    return Figure(part, measure, "skeg", "x", [found.median], must, details=details)


PARTS: dict[str, Callable[[Run], Iterator[Figure]]] = {
    "bulk": bulk,
    "single": single,
    "churn": churn,
    "search": search,
    "filters": filters,
}
SETTINGS = {name: engine.setting for name, engine in ENGINES.items()}
