"""Decides what to measure: build each engine, sweep, refine around every target recall, repeat in interleaved rounds.

Speeds are compared only between measurements of the same round, seconds apart, and always at a parameter that was
measured to reach the target: nothing is interpolated or extrapolated.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from .arithmetic import cheapest_reaching, geometric_parameters, next_parameter
from .data import DataSet, K
from .pool import Client, Result

# Shortest time of one sample; a fast engine answers its queries several times in it.
SWEEP_S = 0.2
ROUND_S = 0.6


@dataclass(frozen=True)
class Plan:
    """What to compare and how often.

    `targets`: recalls, ascending. `parameters`: `points` integers from K to `high`, for every engine alike.
    """

    engines: Sequence[str]
    targets: Sequence[float]
    rounds: int = 3
    threads: int = 2
    points: int = 12
    high: int = 1280


def compare(data: DataSet, plan: Plan, out: Path) -> list[Result]:
    """Results of all engines on one data set, in the order of `plan.engines`."""
    with started(data, plan.engines, out) as clients:
        for client in clients:
            say(f"building {client.result.engine} on {data.n:,} x {data.dim}")
            client.build(plan.threads)
        _sweep(clients, plan)
        for target in plan.targets:
            _refine(clients, target)
        points = [[cheapest_reaching(client.result.recalls, target) for target in plan.targets] for client in clients]
        measure_rounds(clients, points, plan.rounds)
        return [client.result for client in clients]


def compare_fixed(data: DataSet, plan: Plan, out: Path) -> list[Result]:
    """The same for engines without a parameter: builds and rounds only."""
    with started(data, plan.engines, out) as clients:
        for client in clients:
            say(f"building {client.result.engine} on {data.n:,} x {data.dim}")
            client.build(1)
        measure_rounds(clients, [[0]] * len(clients), plan.rounds)
        return [client.result for client in clients]


@contextmanager
def started(data: DataSet, engines: Sequence[str], out: Path) -> Iterator[list[Client]]:
    """One client for each engine; all are closed at the end, whatever happens."""
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        log = stack.enter_context((out / "workers.log").open("a"))
        clients = []
        for spec in engines:
            clients.append(Client(spec, data, out / "cache", log))
            stack.callback(clients[-1].close)
        yield clients


def _sweep(clients: Sequence[Client], plan: Plan) -> None:
    """Measure the common parameters from cheap to dear; an engine stops once it has reached the highest target."""
    for parameter in geometric_parameters(K, plan.high, plan.points):
        for client in clients:
            result = client.result
            if cheapest_reaching(result.recalls, plan.targets[-1]) is not None:
                continue
            say(f"sweeping {result.engine} at {parameter}")
            sample = client.measure(parameter, least_s=SWEEP_S)
            if sample is not None:
                result.curve[parameter] = sample


def _refine(clients: Sequence[Client], target: float) -> None:
    """Find the cheapest parameter of each engine that reaches the target."""
    for client in clients:
        while client.result.problem is None:
            parameter = next_parameter(client.result.recalls, target)
            if parameter is None:
                break
            say(f"refining {client.result.engine} at {parameter} for recall {target}")
            client.measure(parameter)


def measure_rounds(clients: Sequence[Client], points: Sequence[Sequence[int | None]], rounds: int) -> None:
    """Measure every mode of every client at its points, `rounds` times, engine after engine at each point.

    `points[c][t]` is the parameter of client c for target t, or None. Every other round goes through the engines
    backwards, so that none always follows the same neighbor.
    """
    for turn in range(rounds):
        for client, parameter, mode in _schedule(clients, points, backwards=turn % 2 == 1):
            say(f"round {turn + 1}: {client.result.engine} at {parameter}, {mode}")
            sample = client.measure(parameter, mode, ROUND_S)
            if sample is not None:
                client.result.rounds.setdefault((parameter, mode), []).append(sample)
    say("")


def _schedule(
    clients: Sequence[Client], points: Sequence[Sequence[int | None]], *, backwards: bool
) -> Iterator[tuple[Client, int, str]]:
    """One round; a parameter that serves several targets comes once."""
    order = list(zip(clients, points, strict=True))
    if backwards:
        order.reverse()
    seen = set()
    for target in range(len(points[0])):
        for mode in ("single", "batch", "batch2"):
            for client, parameters in order:
                parameter = parameters[target]
                step = (client.result.engine, parameter, mode)
                if parameter is not None and mode in client.modes and step not in seen:
                    seen.add(step)
                    yield client, parameter, mode


def say(text: str) -> None:
    """Progress on stderr, one line that rewrites itself, only on a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K{text[:110]}")
        sys.stderr.flush()
