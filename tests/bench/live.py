"""Indexes that change, and searches with filters: skeg beside other libraries.

    python tests/bench/live.py [--only bulk single ...] [--base FILE --queries FILE [--truth FILE]] [--rows N ...]

Parts, each of which runs alone with --only:

bulk      an empty index gets all rows: in one call, in calls with 1,000, beside the offline build and hnswlib
single    durable adds of one vector while merges run in the background, beside bare writes of as many bytes
churn     20 rounds that replace 5 % of the rows: recall and bytes beside fresh builds of what is there
search    latency of searches while nobody writes, and while a thread adds vectors and merges run
filters   searches among 50, 10, 1 and .1 % of the rows, scattered and clustered, beside four other libraries

Without files, the bundled WordNet set. See README.md for what is measured and how.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compare import add_data_options, complete_data_options
from harness.environment import add_options, enter, machine, versions
from harness.process import hold_to

if TYPE_CHECKING:
    from harness.report import Table
    from live_parts import Figure, Run

PARTS = ("bulk", "single", "churn", "search", "filters")
PEERS = (
    "hnswlib", "hnswlib-longer", "faiss-hnsw", "faiss-hnsw-longer", "faiss-hnsw-batch", "faiss-ivf", "faiss-flat",
    "lancedb", "lancedb-hnsw", "chromadb",
)  # fmt: skip


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Indexes that change, and filters, beside other libraries.")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    add_data_options(parser)
    parser.add_argument("--engines", nargs="+", choices=("skeg", *PEERS), default=PEERS, help="peers of skeg")
    parser.add_argument("--threads", type=int, default=2, help="processors that all may use (default: 2)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each phase of `search`, at least")
    parser.add_argument("--rate", type=float, default=1000.0, help="vectors a second that are added in `search`")
    parser.add_argument("--batch", type=int, default=1, help="vectors of each add in `search`")
    parser.add_argument(
        "--filter-seconds", type=float, default=3.0, help="after which an engine is given no more queries in a round"
    )
    parser.add_argument("--dir", type=Path, help="folder for the indexes, on the disk to measure (default: in --out)")
    add_options(parser)
    options = parser.parse_args()
    complete_data_options(options)
    return options


def main() -> None:
    options = parse()
    enter(options)
    hold_to(options.threads)
    # Only inside the benchmark's environment, and with its number of threads: these need what it holds.
    from harness.data import data_sets
    from harness.report import append_json
    from live_parts import PARTS as MEASURE
    from live_parts import Run

    for data in data_sets(options):
        shown: list[Table] = []
        with tempfile.TemporaryDirectory(prefix="live-", dir=options.dir or options.out) as folder:
            run = Run(
                rounds=options.rounds, data=data, folder=Path(folder), threads=options.threads,
                seconds=options.seconds, filter_seconds=options.filter_seconds, rate=options.rate, batch=options.batch,
                engines=list(dict.fromkeys(["skeg", *options.engines])),
            )  # fmt: skip
            for part in options.only:
                run.problems.clear()
                figures = list(MEASURE[part](run))
                append_json(options.out / "live.jsonl", json_rows(run, figures))
                shown += show(run, part, figures)
                path = options.out / f"live-{data.name}-{data.n}x{data.dim}.md"
                path.write_text("\n".join(table.markdown() for table in shown))


def json_rows(run: Run, figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """One dictionary for each figure, with what it depends on."""
    from live_peers import ENGINES

    common = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": run.data.name,
        "n": run.data.n,
        "d": run.data.dim,
        "queries": run.data.n_queries,
        "threads": run.threads,
        "machine": machine(),
        "versions": versions(dict.fromkeys(engine.distribution for engine in ENGINES.values())),
    }
    return [{**common, **asdict(figure), "median": figure.value} for figure in figures]


def show(run: Run, part: str, figures: Sequence[Figure]) -> list[Table]:
    """Print the tables of a part; they are returned to be written."""
    from live_tables import tables

    made = tables(run, part, figures)
    for table in made:
        print(table.plain(), flush=True)
    return made


if __name__ == "__main__":
    main()
