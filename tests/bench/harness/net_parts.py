"""The parts of the benchmark of the server: what is measured of whom, when, and what skeg must reach.

Each part yields figures. Servers, loads and the library without a network live in processes of their own, and whoever
is measured has the others idle beside it.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from . import figure, net_redis, net_server
from .arithmetic import cheapest_reaching, geometric_parameters, next_parameter, recall_by_threshold
from .data import DataSet, K
from .living import new_vectors
from .memory import MIB
from .net_inside import Inside
from .net_load import Load, Writes
from .net_memory import Rollup, weigh
from .net_wire import Resp, command, connected
from .process import Turns, Worker

NAME = "bench"
RECALL = 0.95
# List sizes that are tried first in search of the smallest one that reaches the recall.
POINTS, LONGEST_LIST = 8, 640
PROCESSES = (1, 2, 4)
# How many times the connections of other parts: with 8, the processes wait for the load (1.5 times the queries of one
# process), with 64 it is the other way around (1.7 times; 28 November 2026).
CROWD = 8
# Seconds of load before a server is weighed, and before anything is timed.
WARM_S = 1.0
# Durable writes wait for the disk: fewer of them say as much.
DURABLE_SHARE = 4
# Requests before anything is timed: skeg loads kernels once it has been written to.
WARM_SHARE = 4

Cores = Sequence[int] | None


@dataclass
class Figure(figure.Figure):
    """`at_most`: whether what skeg has to reach is a ceiling."""

    at_most: bool = True


@dataclass(kw_only=True)
class Run(Turns):
    """What to measure, on which data, and where."""

    data: DataSet
    folder: Path
    command: str
    seconds: float
    connections: int
    protocols: Sequence[str]
    rate: float
    requests: int
    keys: int
    idle: int
    connects: int
    server_cores: Cores = None
    client_cores: Cores = None
    server_options: Sequence[str] = ()

    @cached_property
    def database(self) -> Path:
        """A database with one index of the data, built when it is first asked for."""
        path = self.folder / "database"
        net_server.build(self.command, self.data.base, path, NAME)
        return path

    @cached_property
    def base(self) -> Any:
        return np.load(self.data.base, mmap_mode="r")

    @cached_property
    def recalls(self) -> dict[int, float]:
        """Recall@10 by list size, as the server gives it."""
        return {}

    @cached_property
    def list_size(self) -> int:
        """The smallest that reaches the recall."""
        with self.serving("--mode", "serve") as server, self.load(server, self.protocols[0]) as load:
            return self._search_list_size(load)

    def _search_list_size(self, load: Worker) -> int:
        queries, truth = np.load(self.data.queries), np.load(self.data.truth)

        def measure(size: int) -> None:
            self.recalls[size] = recall_by_threshold(load("found", size), self.base, queries, truth)

        for size in geometric_parameters(K, LONGEST_LIST, POINTS):
            measure(size)
            if self.recalls[size] >= RECALL:
                break
        while (size := next_parameter(self.recalls, RECALL)) is not None:
            measure(size)
        best = cheapest_reaching(self.recalls, RECALL)
        if best is None:
            raise SystemExit(f"the server does not reach recall {RECALL}: {self.recalls}")
        return best

    def serving(self, *options: str, data: Path | None = None) -> net_server.Server:
        """Our server, on the database unless another one is given."""
        folder = self.database if data is None else data
        log = self.folder / f"server-{time.monotonic_ns()}.log"
        return net_server.skeg(self.command, folder, log, *options, *self.server_options, cores=self.server_cores)

    def load(self, server: net_server.Server, protocol: str) -> Worker:
        port = server.ports[protocol]
        return Worker(Load, port, protocol, NAME, self.data.queries, K, self.client_cores)


def shares(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Ratio within each round."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]


# --- searching


BATCH = 16
BATCHED = f"resp, {BATCH} queries a command"
AWAKE = "resp, load that never sleeps"


def search(run: Run) -> Iterator[Figure]:
    """Searches over the network beside those in process, and alone."""
    size = run.list_size
    index = run.database / "shard-0" / f"vindex-{NAME}"
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(run.serving("--mode", "serve"))
        inside = stack.enter_context(Worker(Inside, index, run.data.queries, K, run.server_cores))
        loads = {protocol: stack.enter_context(run.load(server, protocol)) for protocol in run.protocols}
        calls: dict[str, Callable[[], Any]] = {
            "in process": lambda: {"qps": inside("singles", size, run.seconds)},
            "in process, batches": lambda: {"qps": inside("batches", size, run.seconds)},
        }
        for protocol, load in loads.items():
            for connections in (run.connections, 1):
                calls[f"{protocol}, {connections}"] = lambda load=load, n=connections: load("run", size, n, run.seconds)
        if "resp" in loads:
            calls[BATCHED] = lambda: loads["resp"]("run", size, run.connections, run.seconds, BATCH)
            calls[AWAKE] = lambda: loads["resp"]("run", size, run.connections, run.seconds, None, 0.0)
        for load in loads.values():
            load("run", size, run.connections, WARM_S)
        inside("singles", size, WARM_S)
        found = run.interleaved(calls, lambda engine, _: calls[engine]())
    speeds = {engine: [each["qps"] for each in rounds] for engine, rounds in found.items()}
    details = {"list_size": size, "recall": run.recalls[size]}
    for engine, rounds in speeds.items():
        measured = {**details, "calls": found[engine]} if "process" not in engine else details
        yield Figure("search", "queries", engine, "q/s", rounds, details=measured)
    for engine in (BATCHED, AWAKE) if BATCHED in speeds else ():
        share = shares(speeds[engine], speeds["in process"])
        yield Figure("search", "share of in process", engine, "share", share, 0.6, at_most=False)
    for protocol in run.protocols:
        many, one = f"{protocol}, {run.connections}", f"{protocol}, 1"
        yield Figure(
            "search",
            "share of in process",
            many,
            "share",
            shares(speeds[many], speeds["in process"]),
            0.6,
            at_most=False,
        )
        yield Figure(
            "search", "share of batches in process", many, "share", shares(speeds[many], speeds["in process, batches"])
        )
        yield Figure("search", "client's processor", many, "s/s", [each["client_cpu"] for each in found[many]])
        for engine in (many, one):
            for cut in ("p50", "p99"):
                must = 0.5 if engine == one and cut == "p50" else None
                yield Figure("search", f"{cut} of a call", engine, "ms", [each[cut] for each in found[engine]], must)


def named(count: int) -> str:
    """Of how many processes a server is."""
    return "1 process" if count == 1 else f"{count} processes"


def by_batch(count: int) -> str:
    """The same when each command has many queries."""
    return f"{named(count)}, {BATCH} queries a command"


def processes(run: Run) -> Iterator[Figure]:
    """Several processes beside one: speed, and memory. The load has to share the processors with both of them."""
    size, protocol = run.list_size, run.protocols[0]
    connections = CROWD * run.connections
    with contextlib.ExitStack() as stack:
        calls = {}
        for count in PROCESSES[:2]:
            server = stack.enter_context(run.serving("--mode", "serve", "--processes", str(count)))
            load = stack.enter_context(run.load(server, protocol))
            load("run", size, connections, WARM_S)
            calls[named(count)] = lambda load=load: load("run", size, connections, run.seconds)
            if protocol == "resp":
                calls[by_batch(count)] = lambda load=load: load("run", size, connections, run.seconds, BATCH)
        found = run.interleaved(calls, lambda engine, _: calls[engine]())
    speeds = {engine: [each["qps"] for each in rounds] for engine, rounds in found.items()}
    for engine, rounds in speeds.items():
        yield Figure("processes", "queries", engine, "q/s", rounds)
    for name in (named, by_batch):
        if name(2) in speeds:
            times = shares(speeds[name(2)], speeds[name(1)])
            yield Figure("processes", "times the queries of one", name(2), "times", times, 1.6, at_most=False)
    weights = {}
    for count in PROCESSES:
        # Alone: pages that servers share would count for a part of them only.
        with run.serving("--mode", "serve", "--processes", str(count)) as server, run.load(server, protocol) as load:
            load("run", size, 4 * count, 2 * WARM_S)
            weights[count] = weigh(server.pid)
        for kind in ("pss", "uss", "anonymous"):
            yield Figure("processes", f"memory ({kind})", named(count), "MiB", [getattr(weights[count], kind) / MIB])
    most = max(PROCESSES)
    for kind in ("pss", "uss"):
        growth = (getattr(weights[most], kind) - getattr(weights[1], kind)) / (most - 1) / MIB
        yield Figure("processes", f"memory of one more ({kind})", named(most), "MiB", [growth], 60)


# --- beside Redis


def plain(run: Run) -> Iterator[Figure]:
    """One request at a time on each connection; writes are durable."""
    yield from _beside_redis(run, "plain", "sync", "always", 1, {"get": 0.7, "set": 1.0})


def pipelined(run: Run) -> Iterator[Figure]:
    """Sixteen requests at a time; writes are with the system when they are answered."""
    yield from _beside_redis(run, "pipelined", "os", "everysec", 16, {"get": 0.5, "set": 0.5})


def _beside_redis(
    run: Run, part: str, durability: str, fsync: str, pipeline: int, musts: dict[str, float]
) -> Iterator[Figure]:
    folder = run.folder / part
    folder.mkdir()
    value_bytes = 100
    with contextlib.ExitStack() as stack:
        options = ("--appendonly", "yes", "--appendfsync", fsync)
        servers = {
            "skeg": stack.enter_context(run.serving("--durability", durability, data=folder / "skeg")),
            "redis": stack.enter_context(net_server.redis(folder / "redis", *options, cores=run.server_cores)),
        }
        for server in servers.values():
            net_redis.fill(server.port, run.keys, value_bytes)

        def measure(engine: str, test: str, share: int = 1) -> dict[str, float]:
            is_durable = test == "set" and durability == "sync"
            requests = max(run.requests // share // (DURABLE_SHARE if is_durable else 1), 1)
            found = net_redis.benchmark(
                servers[engine].port, [test], requests=requests, connections=50, keys=run.keys,
                value_bytes=value_bytes, pipeline=pipeline, cores=run.client_cores,
            )  # fmt: skip
            return found[test.upper()]

        for test, must in musts.items():
            for engine in servers:
                measure(engine, test, WARM_SHARE)
            found = run.interleaved(servers, lambda engine, _, test=test: measure(engine, test))
            measure_name = f"{test.upper()} ({durability if test == 'set' else 'hit'})"
            for engine, rounds in found.items():
                yield Figure(
                    part,
                    measure_name,
                    engine,
                    "requests/s",
                    [each["rps"] for each in rounds],
                    details={"rounds": rounds},
                )
                yield Figure(part, f"p99 of {measure_name}", engine, "ms", [each["p99_latency_ms"] for each in rounds])
            times = shares([each["rps"] for each in found["skeg"]], [each["rps"] for each in found["redis"]])
            yield Figure(part, f"times Redis, {measure_name}", "skeg", "times", times, must, at_most=False)


# --- starting, writing beside, coming and going


def start(run: Run) -> Iterator[Figure]:
    """From the start of a process to its first answer, with warm caches."""
    request = command("SKEG.VSEARCH", NAME, K, 0, np.load(run.data.queries)[0].astype("<f4").tobytes())
    seconds, weights = [], []
    for number in range(run.rounds + 1):
        with run.serving("--mode", "serve") as server, Resp(server.port) as link:
            link.send(request)
            link.read()
            if number:  # the first one warmed the caches
                seconds.append(time.perf_counter() - server.started)
                weights.append(weigh(server.pid))
    yield Figure("start", "spawn to first answer", "skeg", "s", seconds, 2)
    yield Figure("start", "anonymous memory then", "skeg", "MiB", [each.anonymous / MIB for each in weights], 150)
    yield Figure("start", "resident memory then", "skeg", "MiB", [each.rss / MIB for each in weights])


def writing(run: Run) -> Iterator[Figure]:
    """Searches while nobody writes, and while another connection adds vectors."""
    size, protocol = run.list_size, run.protocols[0]
    copy = run.folder / "written"
    shutil.copytree(run.database, copy)
    count, next_id = round(run.rate * run.seconds), run.data.n
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(run.serving("--mode", "rw", data=copy))
        load = stack.enter_context(run.load(server, protocol))
        writer = stack.enter_context(Worker(Writes, server.ports[protocol], protocol, NAME, run.client_cores))
        pool = stack.enter_context(ThreadPoolExecutor(1))
        load("run", size, run.connections, WARM_S)
        for connections in (1, run.connections):
            idle, busy, writes = [], [], []
            for _ in range(run.rounds):
                idle.append(load("run", size, connections, run.seconds))
                writer("prepare", next_id, new_vectors(run.base, next_id, count))
                next_id += count
                under_way = pool.submit(writer, "run", run.rate)
                busy.append(load("run", size, connections, run.seconds))
                writes.append(under_way.result())
            yield from _writing_figures(connections, run.rate, idle, busy, writes)


def _writing_figures(connections: int, rate: float, idle: Any, busy: Any, writes: Any) -> Iterator[Figure]:
    for phase, rounds in (("nobody writes", idle), ("one writes", busy)):
        for cut in ("p50", "p99"):
            took = [each[cut] for each in rounds]
            yield Figure("writing", f"{cut}, {connections} searching", phase, "ms", took, details={"calls": rounds})
    slower = shares([each["p99"] for each in busy], [each["p99"] for each in idle])
    yield Figure("writing", f"times the p99, {connections} searching", "one writes", "times", slower, 2)
    reached = [each["rate"] for each in writes]
    about = {"wanted": rate, "writes": writes}
    yield Figure(
        "writing",
        f"vectors written, {connections} searching",
        "one writes",
        "vectors/s",
        reached,
        0.95 * rate,
        about,
        at_most=False,
    )


def connections(run: Run) -> Iterator[Figure]:
    """Connections that do nothing, and such that come and go."""
    data = run.folder / "connected"
    with run.serving(data=data) as server:
        before = _settled(server)
        with contextlib.ExitStack() as stack:
            links = [stack.enter_context(connected(server.port)) for _ in range(run.idle)]
            failed = sum(not _pings(link) for link in links)
            held = _settled(server)
            failed += sum(not _pings(link) for link in links)
        after = _settled(server)
        growths = []
        for _ in range(run.rounds):
            first = _settled(server)
            for _ in range(run.connects):
                with connected(server.port) as link:
                    failed += not _pings(link)
            growths.append((_settled(server).rss - first.rss) / MIB)
        server.check()
    about = {"idle": run.idle, "connects": run.connects}
    yield Figure(
        "connections", "memory of an idle one", "skeg", "KiB", [(held.rss - before.rss) / 1024 / run.idle], None, about
    )
    yield Figure(
        "connections", f"growth by {run.idle:,} that came and went", "skeg", "MiB", [(after.rss - before.rss) / MIB]
    )
    # The last round: the allocator has all that it needs by then.
    yield Figure(
        "connections",
        f"growth by {run.connects:,} more, last round",
        "skeg",
        "MiB",
        growths[-1:],
        1,
        {"rounds": growths},
    )
    yield Figure("connections", "requests that failed", "skeg", "", [failed], 0)


def _pings(link: socket.socket) -> bool:
    link.sendall(b"PING\r\n")
    return link.recv(64) == b"+PONG\r\n"


def _settled(server: net_server.Server) -> Rollup:
    """The weight of a server that has had time to put away what it was at."""
    time.sleep(WARM_S)
    return weigh(server.pid)


PARTS = {
    "search": search,
    "processes": processes,
    "plain": plain,
    "pipelined": pipelined,
    "start": start,
    "writing": writing,
    "connections": connections,
}
