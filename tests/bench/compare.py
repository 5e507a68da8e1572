"""Graph indexes side by side at equal recall.

    python tests/bench/compare.py [--rows 10000 60000 117659] [--base FILE --queries FILE [--truth FILE]]

Without files, the bundled WordNet set. See README.md for what is measured and how.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.environment import ROOT, add_options, enter

BUNDLED = ROOT / "datasets" / "wordnet-10k"
TARGETS = (0.90, 0.95, 0.98, 0.99, 0.998, 0.9995)


def add_data_options(parser: argparse.ArgumentParser) -> None:
    """Options that name the data; shared with flat.py and scale.py."""
    parser.add_argument("--base", type=Path, default=BUNDLED / "vectors.npy", help=".npy, .fbin, .fvecs or HDF5")
    parser.add_argument(
        "--queries", type=Path, help="likewise (default: queries.npy beside the base, or the same HDF5)"
    )
    parser.add_argument("--truth", type=Path, help="exact answers of the whole base (default: truth.npy, or computed)")
    parser.add_argument(
        "--rows", type=int, nargs="+", metavar="N", help="use the first N rows; several: one after another"
    )
    parser.add_argument("--n-queries", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)


def complete_data_options(options: argparse.Namespace) -> None:
    """Find the files that belong to the base when they weren't named."""
    beside = options.base if options.base.suffix in (".hdf5", ".h5") else options.base.parent / "queries.npy"
    truth = options.base.parent / "truth.npy"
    if options.truth is None and options.queries is None and truth.exists():
        options.truth = truth
    options.queries = options.queries or beside
    for path in filter(None, (options.base, options.queries, options.truth)):
        if not path.exists():
            raise SystemExit(f"{path} doesn't exist")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Graph indexes side by side at equal recall.")
    add_data_options(parser)
    parser.add_argument("--engines", nargs="+", help="such as skeg, hnswlib:M=32, skeg:max_degree=64,alpha=1.1")
    parser.add_argument("--targets", type=float, nargs="+", default=TARGETS, help="recalls to compare at")
    parser.add_argument("--points", type=int, default=12, help="parameters in the first sweep")
    parser.add_argument("--high", type=int, default=1280, help="largest parameter in the sweep")
    parser.add_argument("--goals", choices=("main", "cache", "hard"), help="goals to judge by (default: by the rows)")
    add_options(parser)
    options = parser.parse_args()
    complete_data_options(options)
    return options


def main() -> None:
    options = parse()
    enter(options)
    # Only inside the benchmark's environment: these need what it holds.
    from harness import comparison, goals, registry, report
    from harness.data import data_sets

    plan = comparison.Plan(
        engines=options.engines or registry.GRAPHS,
        targets=sorted(options.targets),
        rounds=options.rounds,
        points=options.points,
        high=options.high,
    )
    for spec in plan.engines:
        registry.parse_spec(spec)  # a misspelled engine should stop the run now, not after an hour
    for data in data_sets(options):
        results = comparison.compare(data, plan, options.out)
        report.append_json(options.out / "compare.jsonl", report.json_rows(data, results, plan.targets))
        tables = [report.speed_table(data, results, plan.targets, mode) for mode in ("single", "batch", "batch2")]
        ours = [result for result in results if result.engine.partition(":")[0] == "skeg"]
        others = [result for result in results if result not in ours]
        tables += [report.ratio_table(data, each, others, plan.targets) for each in ours if not each.problem]
        tables.append(report.cost_table(data, results))
        kind = options.goals or ("cache" if data.n <= goals.CACHE_ROWS else "main")
        judged = goals.graph_goals(results, kind)
        if judged:
            tables.append(goals.goal_table(f"goals ({kind})", judged))
        name = f"compare-{data.name}-{data.n}x{data.dim}"
        report.show([table for table in tables if table.rows], options.out / f"{name}.md")
        report.plot(data, results, options.out / f"{name}.png")


if __name__ == "__main__":
    main()
