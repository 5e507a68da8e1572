"""Load on a server from another process: searches, one request under way on each connection, and writes at a rate.

What is done per request is as little as Python can: requests are bytes made before, and a reply is whole when it has
the length, or the number of lines, that it has to have. `Load` and `Writes` are given to `process.Worker`.
"""

from __future__ import annotations

import gc
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .net_wire import (
    HEADER,
    OP_VSEARCH,
    OP_VSET,
    Problem,
    command,
    connected,
    frame,
    reply_at,
    vsearch_payload,
    vset_payload,
)
from .process import EngineError

_CHUNK = 1 << 16
# After the end of a run, replies that are still under way are waited for so long.
_PATIENCE_S = 30.0


class LoadError(EngineError):
    """A server answered with an error, or not at all."""


def search_requests(
    protocol: str, name: str, queries: Any, k: int, list_size: int, batch: int | None = None
) -> list[bytes]:
    """One request for each row of float32 queries, or for so many rows at a time."""
    if batch is not None:
        parts = [queries[i : i + batch].tobytes() for i in range(0, len(queries) - batch + 1, batch)]
        return [command("SKEG.VSEARCH", name, k, list_size, part, "BATCH", batch) for part in parts]
    if protocol == "binary":
        return [frame(OP_VSEARCH, i, vsearch_payload(name, k, list_size, q.tobytes())) for i, q in enumerate(queries)]
    return [command("SKEG.VSEARCH", name, k, list_size, query.tobytes()) for query in queries]


def write_requests(protocol: str, name: str, first_id: int, vectors: Any) -> list[bytes]:
    """One request for each row of float32 vectors, which get ids in a row."""
    numbered = [(first_id + i, vector.tobytes()) for i, vector in enumerate(vectors)]
    if protocol == "binary":
        return [frame(OP_VSET, i, vset_payload(name, i, vector)) for i, vector in numbered]
    return [command("SKEG.VSET", name, i, vector) for i, vector in numbered]


def whole(protocol: str, k: int, batch: int | None = None) -> Callable[[bytes], bool]:
    """Whether bytes are the whole reply with k hits, or with those of so many queries.

    The texts of ids and scores hold no line ends, so that lines can be counted: of an array in RESP2 one for itself,
    and two for each id and for each score.
    """
    if protocol == "binary":
        size = HEADER.size + 4 + 12 * k
        return lambda data: len(data) >= size
    lines = 1 + 4 * k if batch is None else 1 + batch * (1 + 4 * k)
    return lambda data: data.count(b"\r\n") >= lines


def is_error(data: bytes) -> bool:
    """Whether a reply begins as errors of either protocol do."""
    return data[:1] == b"-" or data[3:4] == b"\xc1"


def hits_of(protocol: str, data: bytes) -> tuple[list[int], list[float]]:
    """Ids and scores of a whole reply."""
    if protocol == "binary":
        (count,) = struct.unpack_from("<I", data, HEADER.size)
        pairs = list(struct.iter_unpack("<Qf", data[HEADER.size + 4 : HEADER.size + 4 + 12 * count]))
        return [i for i, _ in pairs], [score for _, score in pairs]
    found = reply_at(data)
    if found is None or isinstance(found[0], Problem):
        raise LoadError(f"not a reply to a search: {data[:200]!r}")
    return [int(i) for i in found[0][::2]], [float(score) for score in found[0][1::2]]


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """What is told of some latencies, in milliseconds."""
    if not seconds:
        raise LoadError("no request was answered")
    cuts = np.percentile(np.asarray(seconds), [50, 95, 99, 99.9, 100]) * 1e3
    return dict(zip(("p50", "p95", "p99", "p99.9", "longest"), map(float, cuts), strict=True))


def _check_write(data: bytes) -> None:
    if is_error(data):
        raise LoadError(f"a write was answered with {data[:200]!r}")


class Load:
    """Searches of an index.

    Parameters
    ----------
    port : int
    protocol : {"resp", "binary"}
    name : str
        The index.
    queries : path
        A .npy file of float32 queries (n, dim).
    k : int
    cores : sequence of int, optional
        Processors for this process.
    """

    def __init__(
        self, port: int, protocol: str, name: str, queries: Path, k: int, cores: Sequence[int] | None = None
    ) -> None:
        if cores is not None:
            os.sched_setaffinity(0, cores)
        self._port, self._protocol, self._name, self._k = port, protocol, name, k
        self._queries = np.load(queries).astype("<f4")
        self._requests: dict[tuple[int, int | None], list[bytes]] = {}

    def found(self, list_size: int) -> Any:
        """Ids (n, k) that each query finds, -1 where there are fewer; not timed."""
        rows = np.full((len(self._queries), self._k), -1, np.int64)
        is_whole = whole(self._protocol, self._k)
        with connected(self._port) as link:
            for row, request in zip(rows, self._made(list_size), strict=True):
                link.sendall(request)
                data = link.recv(_CHUNK)
                while not is_whole(data):
                    piece = link.recv(_CHUNK)
                    if not piece or is_error(data):
                        raise LoadError(f"not a reply to a search: {data[:200]!r}")
                    data += piece
                ids, _ = hits_of(self._protocol, data)
                row[: len(ids)] = ids
        return rows

    def run(
        self,
        list_size: int,
        connections: int,
        seconds: float,
        batch: int | None = None,
        patience_s: float = _PATIENCE_S,
    ) -> dict[str, float]:
        """Search for some seconds; returns queries a second, milliseconds of calls, and what it cost this process.

        With ``batch`` each request, of RESP, has so many queries. With a patience of 0 the load never sleeps: to wake
        it is work for the processor of the server.
        """
        requests = self._made(list_size, batch)
        links = [connected(self._port) for _ in range(connections)]
        gc.collect()
        gc.disable()
        try:
            cpu = time.process_time()
            taken, elapsed = _ask(links, requests, whole(self._protocol, self._k, batch), seconds, patience_s)
            cpu = time.process_time() - cpu
        finally:
            gc.enable()
            for link in links:
                link.close()
        queries = len(taken) * (batch or 1)
        return {"qps": queries / elapsed, "client_cpu": cpu / elapsed, "calls": len(taken), **quantiles(taken)}

    def _made(self, list_size: int, batch: int | None = None) -> list[bytes]:
        key = (list_size, batch)
        if key not in self._requests:
            self._requests[key] = search_requests(self._protocol, self._name, self._queries, self._k, list_size, batch)
        return self._requests[key]


def _ask(
    links: Sequence[socket.socket],
    requests: Sequence[bytes],
    is_whole: Callable[[bytes], bool],
    seconds: float,
    patience_s: float,
) -> tuple[list[float], float]:
    """Seconds of each call that began and ended while the clock ran, and how long it ran.

    ``patience_s`` is how long it may sleep until there is a reply; 0 to stay awake.
    """
    clock, count = time.perf_counter, len(requests)
    poll = select.epoll()
    of_fd = {}
    for number, link in enumerate(links):
        link.setblocking(False)
        poll.register(link, select.EPOLLIN)
        # Connections begin at different queries, so that they never ask for the same one at a time.
        at = number * count // len(links)
        of_fd[link.fileno()] = [link.send, link.recv, b"", at, clock()]
        link.send(requests[at])
    taken: list[float] = []
    start = clock()
    end, under_way = start + seconds, len(links)
    with poll:
        while under_way:
            ready = poll.poll(patience_s)
            if not ready and clock() > end + _PATIENCE_S:
                raise LoadError(f"no reply within {_PATIENCE_S:.0f} s")
            for fd, _ in ready:
                state = of_fd[fd]
                send, recv, data, at, begun = state
                piece = recv(_CHUNK)
                now = clock()
                data = data + piece if data else piece
                if not is_whole(data):
                    if not piece or is_error(data):
                        raise LoadError(f"not a reply to a search: {data[:200]!r}")
                    state[2] = data
                    continue
                if now > end:
                    under_way -= 1
                    continue
                taken.append(now - begun)
                state[2], state[3] = b"", at + 1
                state[4] = clock()
                send(requests[(at + 1) % count])
    return taken, seconds


class Writes:
    """Vectors that are written one a request, on one connection, each when its time has come.

    Requests are not held back by replies that are still to come, so a server that is behind is seen as that.
    """

    def __init__(self, port: int, protocol: str, name: str, cores: Sequence[int] | None = None) -> None:
        if cores is not None:
            os.sched_setaffinity(0, cores)
        self._protocol, self._name = protocol, name
        self._link = connected(port)
        self._requests: list[bytes] = []

    def prepare(self, first_id: int, vectors: Any) -> None:
        """Make the requests of the next `run`."""
        self._requests = write_requests(self._protocol, self._name, first_id, vectors)

    def run(self, rate: float) -> dict[str, float]:
        """Send all, so many a second; returns vectors a second until the last reply, and milliseconds of calls."""
        sent: list[float] = []
        taken: list[float] = []
        failures: list[Exception] = []
        reader = threading.Thread(target=self._read, args=(sent, taken, failures), daemon=True)
        start = time.perf_counter()
        reader.start()
        for number, request in enumerate(self._requests):
            due = start + number / rate
            while (wait := due - time.perf_counter()) > 0:
                time.sleep(wait)
            sent.append(time.perf_counter())
            self._link.sendall(request)
        reader.join()
        if failures:
            raise failures[0]
        return {"rate": len(taken) / (time.perf_counter() - start), **quantiles(taken)}

    def _read(self, sent: Sequence[float], taken: list[float], failures: list[Exception]) -> None:
        """Take the reply of every request; both protocols answer a write with a reply of one length."""
        size = HEADER.size if self._protocol == "binary" else len(b"+OK\r\n")
        data = b""
        try:
            while len(taken) < len(self._requests):
                data += self._link.recv(_CHUNK)
                while len(data) >= size:
                    _check_write(data)
                    taken.append(time.perf_counter() - sent[len(taken)])
                    data = data[size:]
        except Exception as error:  # noqa: BLE001 - raised again by the thread that waits
            failures.append(error)
