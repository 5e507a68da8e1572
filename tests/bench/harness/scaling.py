"""Builds one index while its process is watched, then measures some parameters."""

from __future__ import annotations

from pathlib import Path
from statistics import median

from . import comparison, report
from .data import DataSet
from .goals import Goal
from .memory import MIB, PeakSampler


def measure(data: DataSet, engine: str, parameters: list[int], rounds: int, out: Path) -> tuple[list[str], list[Goal]]:
    """One line of the table and the goal of its memory; also writes the JSON lines."""
    with comparison.started(data, [engine], out) as (client,):
        comparison.say(f"building {engine} on {data.n:,} x {data.dim}")
        with PeakSampler(client.process.pid) as sampler:
            client.build(2)
        comparison.measure_rounds([client], [parameters], rounds)
    result = client.result
    peak = {"anonymous": sampler.peak.anonymous, "file": sampler.peak.file}
    report.append_json(
        out / "scale.jsonl", ({**row, "build_peak": peak} for row in report.json_rows(data, [result], ()))
    )
    if result.problem:
        return [f"{data.n:,}: {result.problem}", *["-"] * (4 + len(parameters))], []
    line = [f"{data.n:,}", f"{result.build_s:.1f}", f"{peak['anonymous'] / MIB:.0f}", f"{peak['file'] / MIB:.0f}"]
    line.append(f"{result.resident_to_search / MIB:.0f}")
    line += [f"{result.recalls[p]:.4f}, {median(result.qps(p, 'single')):,.0f}" for p in parameters]
    parts = result.built["parts"]
    if "graph" not in parts:
        return line, []
    ceiling = 1.3 * (data.n * data.dim + parts["graph"]) + 300e6
    return line, [
        Goal(f"peak anonymous MB of the build, {data.n:,} rows", peak["anonymous"] / 1e6, ceiling / 1e6, at_most=True)
    ]
