"""Exhaustive scans side by side, on one thread: skeg's 4-bit codes beside turbovec, exact search beside FAISS.

python tests/bench/flat.py [--rows N ...] [--base FILE --queries FILE [--truth FILE]]
"""

from __future__ import annotations

import argparse

from compare import add_data_options, complete_data_options
from harness.environment import add_options, enter

ENGINES = ("skeg-flat", "turbovec", "skeg-exact", "faiss-flat")


def main() -> None:
    parser = argparse.ArgumentParser(description="Exhaustive scans side by side, on one thread.")
    add_data_options(parser)
    parser.add_argument("--engines", nargs="+", default=ENGINES)
    add_options(parser)
    options = parser.parse_args()
    complete_data_options(options)
    enter(options)
    # Only inside the benchmark's environment: these need what it holds.
    from harness import comparison, goals, report
    from harness.data import data_sets

    plan = comparison.Plan(engines=options.engines, targets=(), rounds=options.rounds)
    for data in data_sets(options):
        results = comparison.compare_fixed(data, plan, options.out)
        report.append_json(options.out / "flat.jsonl", report.json_rows(data, results, ()))
        tables = [report.fixed_table(data, results), goals.goal_table("goals (flat)", goals.flat_goals(results))]
        report.show(tables, options.out / f"flat-{data.name}-{data.n}x{data.dim}.md")


if __name__ == "__main__":
    main()
