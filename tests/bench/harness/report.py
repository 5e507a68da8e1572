"""Turns results into tables (plain and Markdown), JSON lines and a plot."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from .arithmetic import Spread, cheapest_reaching, format_markdown, format_table, ratio
from .data import DataSet
from .environment import machine
from .memory import MIB
from .pool import Result

# A library that was told to use one thread and burns more CPU than this a wall second isn't single-threaded.
CPU_LIMIT = 1.1

_MODES = {"single": "one query a call", "batch": "one batch call", "batch2": "one batch call, two threads"}

_MEMORY_NOTE = "Resident memory is that of the whole process: before the build, after it, after all queries."


@dataclass(frozen=True)
class Table:
    """A titled table of text cells, with lines of notes below."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def plain(self) -> str:
        return "\n".join([self.title, format_table(self.header, self.rows), *self.notes, ""])

    def markdown(self) -> str:
        notes = "".join(f"\n{note}\n" for note in self.notes)
        return f"### {self.title}\n\n{format_markdown(self.header, self.rows)}\n{notes}"


def problems(results: Sequence[Result]) -> list[str]:
    """A note for every engine without (all) figures."""
    return [f"{result.engine}: {result.problem}" for result in results if result.problem]


def target_speeds(result: Result, target: float, mode: str) -> list[float]:
    """Queries a second in each round at the cheapest parameter that reaches the target; empty when none does."""
    parameter = cheapest_reaching(result.recalls, target)
    return [] if result.problem or parameter is None else result.qps(parameter, mode)


def target_ratio(ours: Result, theirs: Result, target: float, mode: str = "single") -> Spread | None:
    """Our speed over theirs at equal recall; None when one of the two has no figure."""
    first, second = target_speeds(ours, target, mode), target_speeds(theirs, target, mode)
    return ratio(first, second) if first and second else None


def speed_table(data: DataSet, results: Sequence[Result], targets: Sequence[float], mode: str) -> Table:
    """Median queries/s of each engine at each recall, with the parameter that was needed."""
    rows = [
        [result.engine, *[_cell(result, target, mode) for target in targets]]
        for result in results
        if mode in result.built.get("modes", ("single", "batch"))
    ]
    title = f"queries/s at recall@10 of at least ..., {_MODES[mode]} (parameter) - {_about(data)}"
    return Table(title, ["engine", *[f"{target:g}" for target in targets]], rows, problems(results))


def ratio_table(data: DataSet, ours: Result, others: Sequence[Result], targets: Sequence[float]) -> Table:
    """How many times faster ours is: ratio of medians, and the range of the ratios within one round."""
    rows = []
    for other in others:
        spreads = [target_ratio(ours, other, target) for target in targets]
        rows.append(
            [other.engine, *["-" if s is None else f"{s.median:.2f} [{s.low:.2f}-{s.high:.2f}]" for s in spreads]]
        )
    title = f"{ours.engine}: times the queries/s of ... at equal recall, one query a call - {_about(data)}"
    return Table(title, ["engine", *[f"{target:g}" for target in targets]], rows)


def cost_table(data: DataSet, results: Sequence[Result]) -> Table:
    """Build time, memory, highest recall and the single-thread check of each engine."""
    header = ["engine", "build s", "index MiB", "anonymous MiB", "file-backed MiB", "best recall", "CPU s / wall s"]
    rows = []
    for result in results:
        if result.problem:
            rows.append([result.engine, *["-"] * 6])
            continue
        cpu = max(
            (s.cpu_per_wall for (_, mode), each in result.rounds.items() if mode != "batch2" for s in each), default=0
        )
        rows.append(
            [
                result.engine,
                f"{result.build_s:.1f}",
                f"{result.resident_to_search / MIB:.0f}",
                *_memory_cells(result),
                f"{max(result.recalls.values(), default=0):.4f}",
                f"{cpu:.2f}" + ("  MORE THAN ONE THREAD" if cpu > CPU_LIMIT else ""),
            ]
        )
    return Table(f"build, memory, threads - {_about(data)}", header, rows, [_MEMORY_NOTE, *problems(results)])


def fixed_table(data: DataSet, results: Sequence[Result]) -> Table:
    """Engines without a parameter: recall, speeds, CPU."""
    rows = []
    for result in results:
        if result.problem:
            rows.append([result.engine, *["-"] * 6])
            continue
        speeds = [_plain_speed(result.qps(0, mode)) for mode in ("single", "batch")]
        cpu = max(s.cpu_per_wall for each in result.rounds.values() for s in each)
        recall = f"{result.recalls[0]:.4f}"
        rows.append([result.engine, recall, *speeds, *_memory_cells(result), f"{cpu:.2f}"])
    header = ["engine", "recall@10", "q/s single", "q/s batch", "anonymous MiB", "file-backed MiB", "CPU s / wall s"]
    return Table(f"exhaustive scan, one thread - {_about(data)}", header, rows, [_MEMORY_NOTE, *problems(results)])


def json_rows(data: DataSet, results: Sequence[Result], targets: Sequence[float]) -> Iterator[dict[str, Any]]:
    """One dictionary for every measured figure: what, of which engine, on what data and machine."""
    common = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": data.name,
        "n": data.n,
        "d": data.dim,
        "queries": data.n_queries,
        "machine": machine(),
    }
    for result in results:
        row = {**common, "engine": result.engine}
        if result.problem:
            yield {**row, "what": "problem", "problem": result.problem}
        if not result.built:
            continue
        row |= {"versions": result.built["versions"], "settings": result.built["settings"]}
        build = {name: result.built[name] for name in ("prepare_s", "build_s", "before", "after", "parts")}
        yield {**row, "what": "build", **build, "after_queries": asdict(result.memory)}
        for parameter, sample in result.curve.items():
            yield {
                **row,
                "what": "curve",
                "parameter": parameter,
                "recall": result.recalls[parameter],
                **asdict(sample),
            }
        for (parameter, mode), samples in result.rounds.items():
            yield {
                **row,
                "what": "rounds",
                "parameter": parameter,
                "mode": mode,
                "recall": result.recalls_by_mode[parameter, mode],
                "targets": [t for t in targets if cheapest_reaching(result.recalls, t) == parameter],
                "qps_median": median(s.qps for s in samples),
                "qps_min": min(s.qps for s in samples),
                "qps_max": max(s.qps for s in samples),
                "rounds": [asdict(sample) for sample in samples],
            }


def append_json(path: Path, rows: Iterator[dict[str, Any]] | Sequence[dict[str, Any]]) -> None:
    """Add lines to a file that keeps the figures of all runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def show(tables: Sequence[Table], path: Path) -> None:
    """Print the tables and write them as Markdown."""
    for table in tables:
        print(table.plain(), flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(table.markdown() for table in tables))


def plot(data: DataSet, results: Sequence[Result], path: Path) -> None:
    """Recall against queries/s, one query a call; recall is spread out towards 1."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 6))
    for result in results:
        points = {p: sample.qps for p, sample in result.curve.items()}
        points |= {
            p: median(s.qps for s in samples) for (p, mode), samples in result.rounds.items() if mode == "single"
        }
        # A recall of 1 has no place on this axis; it is drawn at one miss in all queries.
        misses = [max(1 - result.recalls[p], 0.05 / data.n_queries) for p in sorted(points)]
        axes.plot(misses, [points[p] for p in sorted(points)], marker=".", label=result.engine)
    axes.set(xscale="log", yscale="log", xlabel="recall@10", ylabel="queries a second, one thread, one query a call")
    axes.invert_xaxis()
    ticks = [0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001, 0.0005]
    axes.set_xticks(ticks, [f"{1 - tick:g}" for tick in ticks])
    axes.minorticks_off()
    low, high = (math.log10(y) for y in axes.get_ylim())
    speeds = [
        m * 10**e for e in range(math.floor(low), math.ceil(high)) for m in (1, 2, 5) if low < math.log10(m) + e < high
    ]
    axes.set_yticks(speeds, [f"{speed:,.0f}" for speed in speeds])
    axes.grid(visible=True, alpha=0.3)
    axes.set_title(_about(data))
    axes.legend()
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)


def _cell(result: Result, target: float, mode: str) -> str:
    speeds = target_speeds(result, target, mode)
    return f"{median(speeds):,.0f} ({cheapest_reaching(result.recalls, target)})" if speeds else "-"


def _memory_cells(result: Result) -> list[str]:
    before, after, queried = result.built["before"], result.built["after"], asdict(result.memory)
    return [
        " / ".join(f"{moment[kind] / MIB:.0f}" for moment in (before, after, queried)) for kind in ("anonymous", "file")
    ]


def _plain_speed(speeds: Sequence[float]) -> str:
    return f"{median(speeds):,.0f}" if speeds else "-"


def _about(data: DataSet) -> str:
    return f"{data.name}, {data.n:,} x {data.dim}, {data.n_queries:,} queries"
