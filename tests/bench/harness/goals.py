"""The figures that skeg has set itself, and whether a run reached them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from .arithmetic import cheapest_reaching
from .pool import Result
from .report import Table, target_ratio

# Below this many rows, everything is in the processor's caches and other ratios are asked for.
CACHE_ROWS = 60_000

# recall -> peer -> (must, aim), queries/s of skeg over the peer's.
_Speeds = dict[float, dict[str, tuple[float, float | None]]]
_MAIN: _Speeds = {
    0.95: {"hnswlib": (3.0, 5.0), "faiss-hnsw-sq8": (2.0, None), "svs": (2.5, None), "usearch": (5.0, None)},
    0.99: {"hnswlib": (3.0, 4.5)},
    0.998: {"hnswlib": (2.5, 4.0)},
}
_CACHE: _Speeds = {0.95: {"hnswlib": (2.2, 4.0)}, 0.99: {"hnswlib": (2.2, 4.0)}}
_HARD: _Speeds = {0.90: {"hnswlib": (2.0, 3.0)}, 0.95: {"hnswlib": (2.0, 3.0)}, 0.98: {"hnswlib": (2.0, 3.0)}}
SPEEDS = {"main": _MAIN, "cache": _CACHE, "hard": _HARD}

HIGHEST_RECALL = 0.9995


@dataclass(frozen=True)
class Goal:
    """A figure with its floor (or ceiling, when `at_most`) and its aim; `found` is None when it wasn't measured."""

    measure: str
    found: float | None
    must: float
    aim: float | None = None
    at_most: bool = False
    digits: int = 2

    @property
    def verdict(self) -> str:
        if self.found is None:
            return "not measured"
        if not self._meets(self.must):
            return "MISSED"
        return "aim reached" if self.aim is not None and self._meets(self.aim) else "reached"

    def _meets(self, bound: float) -> bool:
        assert self.found is not None
        return self.found <= bound if self.at_most else self.found >= bound

    def cells(self) -> list[str]:
        """Cells of its line in `goal_table`."""
        sign = "<=" if self.at_most else ">="
        bounds = ["-" if bound is None else f"{sign} {bound:g}" for bound in (self.must, self.aim)]
        found = "-" if self.found is None else f"{self.found:.{self.digits}f}"
        return [self.measure, *bounds, found, self.verdict]


def goal_table(title: str, goals: Sequence[Goal]) -> Table:
    return Table(title, ["measure", "must", "aim", "found", "verdict"], [goal.cells() for goal in goals])


def graph_goals(results: Sequence[Result], kind: str) -> list[Goal]:
    """Goals of one comparison of graph indexes, for the first skeg in it; `kind` is a key of `SPEEDS`."""
    by_name = {result.engine: result for result in results}
    ours = next((result for result in results if result.engine.partition(":")[0] == "skeg"), None)
    if ours is None:
        return []
    goals = []
    for target, peers in SPEEDS[kind].items():
        for peer, (must, aim) in peers.items():
            found = target_ratio(ours, by_name[peer], target) if peer in by_name else None
            goals.append(Goal(f"q/s at {target:g} / {peer}", found.median if found else None, must, aim))
    if kind != "main":
        return goals
    other = by_name.get("hnswlib")
    best = max(ours.recalls.values(), default=0) if ours.built else None
    build = memory = None
    if other is not None and other.built and ours.built:
        build = ours.build_s / other.build_s
        memory = ours.resident_to_search / other.resident_to_search
    goals += [
        Goal("highest recall", best, HIGHEST_RECALL, digits=4),
        Goal("two threads / one, batch", _thread_ratio(ours), 1.8, 1.95),
        Goal("build time / hnswlib", build, 0.5, 0.25, at_most=True),
        Goal("bytes to search / hnswlib", memory, 0.25, 1 / 6, at_most=True),
    ]
    return goals


def _thread_ratio(ours: Result) -> float | None:
    """Batch call on two threads over one, at recall 0.95."""
    parameter = cheapest_reaching(ours.recalls, 0.95)
    if parameter is None or not ours.qps(parameter, "batch2"):
        return None
    return median(ours.qps(parameter, "batch2")) / median(ours.qps(parameter, "batch"))


def flat_goals(results: Sequence[Result]) -> list[Goal]:
    """Goals of the exhaustive scans."""
    by_name = {result.engine: result for result in results if not result.problem}

    def over(ours: str, theirs: str, mode: str) -> float | None:
        if ours not in by_name or theirs not in by_name:
            return None
        return median(by_name[ours].qps(0, mode)) / median(by_name[theirs].qps(0, mode))

    recall = by_name["skeg-flat"].recalls[0] if "skeg-flat" in by_name else None
    return [
        Goal("flat tq4 recall", recall, 0.999, digits=4),
        Goal("flat tq4, one query a call / turbovec", over("skeg-flat", "turbovec", "single"), 0.7, 1.0),
        Goal("flat tq4, batch / turbovec", over("skeg-flat", "turbovec", "batch"), 0.7, 1.0),
        Goal("exact float32 batch / faiss-flat", over("skeg-exact", "faiss-flat", "batch"), 1.0, 1.0),
    ]
