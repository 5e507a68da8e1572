"""The tables of the benchmark of indexes that change: figures, skeg beside its peers, what was to be reached."""

from __future__ import annotations

from collections.abc import Sequence

from harness.arithmetic import ratio
from harness.goals import Goal
from harness.report import Table
from live_parts import CHURN_ROUNDS, COMPARABLE, FRESH_EVERY, SETTINGS, UNFILTERED, Figure, Run


def tables(run: Run, part: str, figures: Sequence[Figure]) -> list[Table]:
    """All tables of a part."""
    about = f"{run.data.name}, {run.data.n:,} x {run.data.dim}"
    made = filter_tables(figures, about) if part == "filters" else [figure_table(part, figures, about)]
    if part == "churn":
        made.append(churn_table(figures, about))
    goals = [goal_cells(figure) for figure in figures if figure.must is not None]
    made.append(Table(f"goals ({part}) - {about}", ["measure", "must", "found", "reached"], goals))
    problems = [[engine, problem] for engine, problem in run.problems.items()]
    made.append(Table(f"engines without (all) figures ({part})", ["engine", "problem"], problems))
    return [table for table in made if table.rows]


def goal_cells(figure: Figure) -> list[str]:
    """Measure, must, found, and whether that was reached."""
    assert figure.must is not None
    name = f"{figure.measure}, {figure.unit}" if figure.unit not in {"", "x"} else figure.measure
    digits = 4 if figure.unit in {"recall", "share"} else 2
    goal = Goal(name, figure.value, figure.must, at_most=figure.at_most, digits=digits)
    measure, must, _, found, verdict = goal.cells()
    return [measure, must, found, verdict]


def figure_table(part: str, figures: Sequence[Figure], about: str) -> Table:
    """One line a figure: the median, and the range over the rounds."""
    rows = []
    for figure in figures:
        spread = figure.details.get("low"), figure.details.get("high")
        cell = figure.cell() if None in spread else f"{figure.value:.2f} [{spread[0]:.2f}-{spread[1]:.2f}]"
        rows.append([figure.measure, figure.engine, cell, figure.unit])
    return Table(f"{part} - {about}", ["measure", "engine", "found", "unit"], rows)


def churn_table(figures: Sequence[Figure], about: str) -> Table:
    """Recall in the rounds of which there is a fresh build."""
    marks = range(FRESH_EVERY, CHURN_ROUNDS + 1, FRESH_EVERY)
    rows = []
    for figure in figures:
        if figure.unit == "recall" and len(figure.rounds) > 1:
            built = len(figure.rounds) < CHURN_ROUNDS
            values = figure.rounds[1:] if built else [figure.rounds[mark - 1] for mark in marks]
            rows.append([f"{figure.engine}: {figure.measure}", *[f"{value:.4f}" for value in values]])
    return Table(f"churn: recall@10 by round - {about}", ["", *map(str, marks)], rows)


def filter_tables(figures: Sequence[Figure], about: str) -> list[Table]:
    """Engines below each other, filters side by side: recall and completeness, latency; then skeg beside the others."""
    cases = dict.fromkeys(figure.details["case"] for figure in figures if "case" in figure.details)
    cases = sorted(cases, key=lambda case: case != UNFILTERED)  # which is the last to be known
    engines = list(dict.fromkeys(figure.engine for figure in figures if "case" in figure.details))
    by_key = {(figure.engine, figure.measure): figure for figure in figures}
    loading = {figure.engine: figure.cell() for figure in figures if figure.measure == "loading"}
    found, times = [], []
    for engine in engines:
        found.append([engine])
        times.append([engine, loading[engine]])
        for case in cases:
            recall, complete, latency = (by_key.get((engine, f"{measure}, {case}")) for measure in _MEASURES)
            plain = by_key.get((engine, f"latency, {UNFILTERED}"))
            found[-1].append("-" if recall is None else f"{recall.value:.3f} ({100 * complete.value:.0f})")
            cell = "-" if latency is None else f"{latency.value:.3f}"
            slower = latency is not None and plain is not None and case != UNFILTERED
            times[-1].append(f"{cell} ({latency.value / plain.value:.1f}x)" if slower else cell)
    notes = [f"{engine}: {SETTINGS[engine]}" for engine in engines]
    fewest = min((figure.details["queries"] for figure in figures if "case" in figure.details), default=0)
    notes.append(f"Recall of an engine is that of the queries it was given in a round, {fewest:,} or more.")
    return [
        Table(f"filters: recall@10 (% of queries with all hits) - {about}", ["engine", *cases], found),
        Table(
            f"filters: median ms of a search (times that without a filter) - {about}",
            ["engine", "loading s", *cases], times, notes,
        ),
        Table(
            f"filters: skeg beside the fastest peer with a recall of {COMPARABLE} - {about}",
            ["filter", "fastest peer", "its recall", "skeg: times as fast"],
            [cells for case in cases if case != UNFILTERED and (cells := _beside(by_key, engines, case))],
        ),
    ]  # fmt: skip


_MEASURES = ("recall@10", "queries with all hits", "latency")


def _beside(by_key: dict[tuple[str, str], Figure], engines: Sequence[str], case: str) -> list[str]:
    """skeg's speed over that of the fastest peer that finds about as much; empty if skeg has none."""
    ours = by_key.get(("skeg", f"latency, {case}"))
    peers = []
    for engine in engines:
        recall, latency = (by_key.get((engine, f"{measure}, {case}")) for measure in ("recall@10", "latency"))
        if engine != "skeg" and recall is not None and latency is not None and recall.value >= COMPARABLE:
            peers.append((latency.value, engine, recall, latency))
    if ours is None:
        return []
    if not peers:
        return [case, "none", "-", "-"]
    _, engine, recall, latency = min(peers, key=lambda peer: peer[0])
    times = ratio(latency.rounds, ours.rounds)
    return [case, engine, f"{recall.value:.3f}", f"{times.median:.2f} [{times.low:.2f}-{times.high:.2f}]"]
