"""How cost grows with the number of rows: build from a .npy file, peak memory, recall and queries a second.

    python tests/bench/scale.py --base MILLION.npy --queries QUERIES.npy [--rows 10000 30000 117659 1000000]

A large file can be made with datasets/make_noisy.py. The worker's memory is sampled every 50 ms while it builds; the
ceiling of its anonymous part is 1.3 x (8-bit codes + graph) + 300 MB.
"""

from __future__ import annotations

import argparse

from compare import add_data_options, complete_data_options
from harness.environment import add_options, enter

LIST_SIZES = (10, 20, 40, 80, 160, 320)


def main() -> None:
    parser = argparse.ArgumentParser(description="How cost grows with the number of rows.")
    add_data_options(parser)
    parser.add_argument("--engine", default="skeg", help="with settings, if wanted, such as skeg:max_degree=64")
    parser.add_argument("--parameters", type=int, nargs="+", default=LIST_SIZES, help="search list sizes to measure")
    add_options(parser)
    options = parser.parse_args()
    complete_data_options(options)
    enter(options)
    # Only inside the benchmark's environment: these need what it holds.
    from harness import goals, report
    from harness.data import data_sets
    from harness.scaling import measure

    lines, judged = [], []
    for data in data_sets(options):
        line, goal = measure(data, options.engine, options.parameters, options.rounds, options.out)
        lines.append(line)
        judged += goal
    header = ["rows", "build s", "peak anonymous MiB", "peak file MiB", "index MiB"]
    header += [f"recall, q/s at {parameter}" for parameter in options.parameters]
    tables = [report.Table(f"{options.engine}: cost against rows", header, lines)]
    if judged:
        tables.append(goals.goal_table("goals (scale)", judged))
    report.show(tables, options.out / f"scale-{options.base.stem}.md")


if __name__ == "__main__":
    main()
