"""redis-benchmark, and what it prints."""

from __future__ import annotations

import csv
import io
import os
import subprocess
from collections.abc import Iterable, Sequence

from .net_wire import Resp, command
from .process import EngineError

# Keys as it makes them with -r.
KEY = "key:%012d"


class BenchmarkError(EngineError):
    """redis-benchmark failed; the message has what it printed."""


def parse_rates(text: str) -> dict[str, dict[str, float]]:
    """Figures by test from the output of --csv: requests a second as "rps", latencies in milliseconds."""
    start = text.find('"test"')
    if start < 0:
        raise BenchmarkError(f"no table in what redis-benchmark printed: {text[-300:]!r}")
    rows = csv.DictReader(io.StringIO(text[start:]))
    return {row.pop("test"): {name: float(value) for name, value in row.items()} for row in rows}


def benchmark(
    port: int, tests: Iterable[str], *, requests: int, connections: int, keys: int, value_bytes: int, pipeline: int = 1,
    cores: Sequence[int] | None = None,
) -> dict[str, dict[str, float]]:  # fmt: skip
    """Run some tests, such as "get", on one server."""
    words = [
        "redis-benchmark", "-p", str(port), "-t", ",".join(tests), "-n", str(requests), "-c", str(connections),
        "-r", str(keys), "-d", str(value_bytes), "-P", str(pipeline), "--csv",
    ]  # fmt: skip
    before = os.sched_getaffinity(0)
    try:
        if cores is not None:
            os.sched_setaffinity(0, cores)
        outcome = subprocess.run(words, capture_output=True, text=True, check=False)
    finally:
        os.sched_setaffinity(0, before)
    if outcome.returncode != 0 or "Error" in outcome.stdout + outcome.stderr:
        raise BenchmarkError(f"redis-benchmark: {outcome.stdout[-300:]!r} {outcome.stderr[-300:]!r}")
    return parse_rates(outcome.stdout)


def fill(port: int, keys: int, value_bytes: int, batch: int = 1000) -> None:
    """Give all keys that redis-benchmark will ask for a value."""
    value = b"x" * value_bytes
    with Resp(port, 300.0) as link:
        for start in range(0, keys, batch):
            pairs = [word for number in range(start, min(start + batch, keys)) for word in (KEY % number, value)]
            link.send(command("MSET", *pairs))
            if link.read() != b"OK":
                raise BenchmarkError("MSET failed")
