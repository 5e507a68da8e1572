"""The server: searches beside the library without a network, keys and values beside Redis, memory, waits.

    python tests/bench/net.py [--only search plain ...] [--base FILE --queries FILE [--truth FILE]]

Parts, each of which runs alone with --only:

search       VSEARCH at recall@10 of .95 on several connections and on one, beside `Index.search` in a process
processes    a server of two processes beside one of one: queries a second, and memory of each more
plain        GET and durable SET by redis-benchmark, 50 connections, beside redis-server with appendfsync always
pipelined    the same with 16 requests at a time, beside appendfsync everysec
start        from the start of a server on the built directory to its first answer, and its memory then
writing      p99 of searches while another connection writes vectors, beside that while nobody writes
connections  connections that do nothing, and thousands that come and go: memory, errors

Without files, the bundled WordNet set. See README.md for what is measured and how.
"""

from __future__ import annotations

import argparse
import os
import resource
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compare import add_data_options, complete_data_options
from harness.environment import add_options, enter, machine, versions

if TYPE_CHECKING:
    from harness.net_parts import Figure, Run
    from harness.report import Table

PARTS = ("search", "processes", "plain", "pipelined", "start", "writing", "connections")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The server, beside the library without a network, and beside Redis.")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    add_data_options(parser)
    parser.add_argument("--server-command", help="what `serve` and `build` come behind (default: this environment's)")
    parser.add_argument("--server-options", default="", help='more options of every skeg serve, such as "--workers 1"')
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement of searches")
    parser.add_argument("--connections", type=int, default=8, help="that search at a time")
    parser.add_argument("--protocols", nargs="+", choices=("resp", "binary"), default=("resp", "binary"))
    parser.add_argument("--rate", type=float, default=1000.0, help="vectors a second in `writing`")
    parser.add_argument("--requests", type=int, default=200_000, help="of each run of redis-benchmark")
    parser.add_argument("--keys", type=int, default=100_000, help="that redis-benchmark chooses from")
    parser.add_argument("--idle", type=int, default=1000, help="idle connections")
    parser.add_argument("--connects", type=int, default=10_000, help="connections that come and go, in each round")
    parser.add_argument("--server-cores", type=int, nargs="+", help="processors of servers (default: all)")
    parser.add_argument("--client-cores", type=int, nargs="+", help="processors of the load (default: all)")
    parser.add_argument("--dir", type=Path, help="folder for databases, on the disk to measure (default: in --out)")
    add_options(parser)
    options = parser.parse_args()
    complete_data_options(options)
    return options


def main() -> None:
    options = parse()
    enter(options)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    # Only inside the benchmark's environment: these need what it holds.
    from harness.data import data_sets
    from harness.net_parts import PARTS as MEASURE
    from harness.net_parts import Run
    from harness.net_server import default_command
    from harness.report import Table, append_json

    for data in data_sets(options):
        figures: list[Figure] = []
        with tempfile.TemporaryDirectory(prefix="net-", dir=options.dir or options.out) as folder:
            run = Run(
                rounds=options.rounds, data=data, folder=Path(folder), seconds=options.seconds,
                command=options.server_command or default_command(), connections=options.connections,
                protocols=options.protocols, rate=options.rate, requests=options.requests, keys=options.keys,
                idle=options.idle, connects=options.connects, server_cores=options.server_cores,
                client_cores=options.client_cores, server_options=shlex.split(options.server_options),
            )  # fmt: skip
            for part in options.only:
                found: list[Figure] = []
                with run.dropping(part):
                    found += MEASURE[part](run)
                append_json(options.out / "net.jsonl", json_rows(run, found))
                print(*[table.plain() for table in tables(run, found)], sep="\n", flush=True)
                figures += found
        shown = tables(run, figures)
        if run.problems:
            problems = [[what, problem] for what, problem in run.problems.items()]
            shown.append(Table("without (all) figures", ["what", "problem"], problems))
            print(shown[-1].plain())
        path = options.out / f"net-{data.name}-{data.n}x{data.dim}.md"
        path.write_text("\n".join(table.markdown() for table in shown))


def placed(run: Run) -> str:
    """Which processors whoever is measured had."""
    every = sorted(os.sched_getaffinity(0))
    where = f"server on {run.server_cores or every}, load on {run.client_cores or every}"
    return ", ".join([where, *([shlex.join(run.server_options)] if run.server_options else [])])


def json_rows(run: Run, figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """One dictionary for each figure, with what it depends on."""
    common = {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "data": run.data.name,
        "n": run.data.n,
        "d": run.data.dim,
        "queries": run.data.n_queries,
        "placed": placed(run),
        "machine": machine(),
        "versions": versions(["pyskeg", "numpy", "numba", "hiredis", "uvloop"]) | {"redis-server": redis_version()},
    }
    return [{**common, **asdict(figure), "median": figure.value} for figure in figures]


def redis_version() -> str:
    if shutil.which("redis-server") is None:
        return "absent"
    words = subprocess.run(["redis-server", "--version"], capture_output=True, text=True, check=False).stdout.split()
    return next((word[2:] for word in words if word.startswith("v=")), "unknown")


def tables(run: Run, figures: Sequence[Figure]) -> list[Table]:
    """A table of each part, and one of what skeg has set itself."""
    from harness.goals import Goal, goal_table
    from harness.report import Table

    made = []
    for part in dict.fromkeys(figure.part for figure in figures):
        chosen = [figure for figure in figures if figure.part == part]
        rows = [[figure.measure, figure.engine, figure.cell(), figure.unit] for figure in chosen]
        title = f"{part} - {run.data.name}, {run.data.n:,} x {run.data.dim}, {placed(run)}"
        made.append(Table(title, ["measure", "of", "found", "unit"], rows, notes(chosen)))
    goals = [
        Goal(
            f"{figure.part}: {figure.measure} ({figure.engine}), {figure.unit}",
            figure.value,
            figure.must,
            at_most=figure.at_most,
        )
        for figure in figures
        if figure.must is not None
    ]
    return made + ([goal_table("goals (net)", goals)] if goals else [])


def notes(figures: Sequence[Figure]) -> list[str]:
    """The list size and the recall that searches were timed at."""
    sizes = {(f.details["list_size"], f.details["recall"]) for f in figures if "list_size" in f.details}
    return [f"list size {size}: recall@10 {recall:.4f}" for size, recall in sizes]


if __name__ == "__main__":
    main()
