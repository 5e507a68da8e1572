"""What the mixed load of a server consists of: lanes, each a thread that knows what it has to be answered.

A lane owns its keys, or its ids, so that every reply can be compared with what a dict says.
"""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.bench.harness import net_wire as wire
from tests.bench.harness.net_wire import Binary, Problem, Resp, command, connected, named

INDEX, DIM, IDS = "soak", 32, 2000
KEYS = 400
# Errors that are kept; the first ones tell most.
SHOWN = 20


class WrongReplyError(Exception):
    """A server said what it must not say."""


class Report:
    """What all lanes have done, and what was wrong."""

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self.errors: list[str] = []
        self.stop = threading.Event()
        self._lock = threading.Lock()

    def add(self, what: str, count: int = 1) -> None:
        with self._lock:
            self.done[what] += count

    def fail(self, lane: str, error: BaseException) -> None:
        with self._lock:
            self.done["errors"] += 1
            if len(self.errors) < SHOWN:
                self.errors.append(f"{lane}: {type(error).__name__}: {error}")


def must_be(what: str, expected: object, actual: object) -> None:
    if expected != actual:
        raise WrongReplyError(f"{what}: expected {str(expected)[:200]!r}, got {str(actual)[:200]!r}")


def unit(rng: np.random.Generator) -> bytes:
    """A random vector of length 1."""
    vector = rng.standard_normal(DIM)
    return (vector / np.linalg.norm(vector)).astype("<f4").tobytes()


class Lane:
    """One thread; `turn` is called until the end, and after an error again on a new connection."""

    def __init__(self, number: int, ports: dict[str, int], report: Report, seed: int) -> None:
        self.name = f"{type(self).__name__.lower()} {number}"
        self.number, self.ports, self.report = number, ports, report
        self.random = random.Random(f"{seed} {self.name}")
        self.thread = threading.Thread(target=self._run, name=self.name, daemon=True)

    def _run(self) -> None:
        while not self.report.stop.is_set():
            try:
                self.work()
            except (OSError, wire.WireError, WrongReplyError, ValueError) as error:
                if not self.report.stop.is_set():
                    self.report.fail(self.name, error)
                    time.sleep(0.5)

    def work(self) -> None:
        """Connect, and take turns until the end."""
        raise NotImplementedError

    def turns(self, turn: Callable[[], None]) -> None:
        while not self.report.stop.is_set():
            turn()


class Strings(Lane):
    """Pipelined keys and values over RESP, of all sizes."""

    def work(self) -> None:
        self.state: dict[bytes, bytes] = {}
        with Resp(self.ports["resp"]) as self.link:
            if self.number % 2:
                self.link.must("HELLO", 3)
            self.link.must("DEL", *[self.key(n) for n in range(KEYS)], self.key(KEYS))
            self.turns(self.turn)

    def key(self, number: int) -> bytes:
        return b"s%d:%d" % (self.number, number)

    def turn(self) -> None:
        made = [self.operation() for _ in range(self.random.choice((1, 1, 4, 16, 64)))]
        self.link.send(b"".join(command(*words) for words, _ in made))
        for words, expected in made:
            must_be(str(words[0]), expected, self.link.read())
        self.report.add("key commands", len(made))

    def operation(self) -> tuple[list[wire.Word], Any]:
        """A command, and what it has to be answered when all before it were executed."""
        key, state = self.key(self.random.randrange(KEYS)), self.state
        match self.random.randrange(8):
            case 0 | 1:
                # Twice as many small ones as large ones, and now and then one that comes in many pieces.
                size = self.random.choice((0, 10, 100, 100, 1000, 4096, 200_000 if self.random.random() < 0.02 else 1))
                state[key] = self.random.randbytes(size)
                return ["SET", key, state[key]], b"OK"
            case 2 | 3 | 4:
                return ["GET", key], state.get(key)
            case 5:
                return ["DEL", key], int(state.pop(key, None) is not None)
            case 6:
                keys = [self.key(self.random.randrange(KEYS)) for _ in range(10)]
                return ["MGET", *keys], [state.get(each) for each in keys]
            case _:
                counter = self.key(KEYS)
                state[counter] = b"%d" % (int(state.get(counter, 0)) + 1)
                return ["INCR", counter], int(state[counter])


class Frames(Lane):
    """Keys and values over the binary protocol, some of them without replies."""

    def work(self) -> None:
        self.state: dict[str, bytes] = {}
        with Binary(self.ports["binary"]) as self.link:
            for number in range(KEYS):
                self.link.ask(wire.OP_DEL, named(self.key(number)))
            self.turns(self.turn)

    def key(self, number: int) -> str:
        return f"f{self.number}:{number}"

    def turn(self) -> None:
        key = self.key(self.random.randrange(KEYS))
        raw = named(key)
        match self.random.randrange(4):
            case 0 | 1:
                value = self.random.randbytes(self.random.choice((0, 10, 100, 5000)))
                payload = raw[:2] + struct.pack("<I", len(value)) + raw[2:] + value
                must_be("set", b"", self.link.ask(wire.OP_SET, payload))
                self.state[key] = value
            case 2:
                expected = self.state.get(key)
                found = self.link.ask(wire.OP_GET, raw)
                must_be("get", None if expected is None else struct.pack("<I", len(expected)) + expected,
                        None if isinstance(found, Problem) and found.startswith("1 ") else found)  # fmt: skip
            case _:
                expected = bytes([self.state.pop(key, None) is not None])
                must_be("delete", expected, self.link.ask(wire.OP_DEL, raw))
        self.report.add("key frames")


class Vectors(Lane):
    """Vectors with payloads over RESP: written, overwritten, deleted, read back, found again."""

    def work(self) -> None:
        self.numbers = np.random.default_rng(self.random.randrange(2**32))
        self.state: dict[int, bytes] = {}
        with Resp(self.ports["resp"]) as self.link:
            for number in range(IDS):
                self.link.must("SKEG.VDEL", INDEX, self.vector_id(number))
            self.turns(self.turn)

    def vector_id(self, number: int) -> int:
        return self.number * IDS + number

    def turn(self) -> None:
        made = [self.operation() for _ in range(self.random.choice((1, 1, 8, 32)))]
        self.link.send(b"".join(command(*words) for words, _ in made))
        for words, check in made:
            check(f"{words[0]} {words[2]}", self.link.read())
        self.report.add("vector commands", len(made))

    def operation(self) -> tuple[list[wire.Word], Callable[[str, Any], None]]:
        number = self.vector_id(self.random.randrange(IDS))
        match self.random.randrange(6):
            case 0 | 1 | 2:
                vector = self.state[number] = unit(self.numbers)
                payload = b"lane=%d part=%d" % (self.number, number % 10)
                return ["SKEG.VSET", INDEX, number, vector, "PAYLOAD", payload], lambda what, got: must_be(
                    what, b"OK", got
                )
            case 3:
                was_there = int(self.state.pop(number, None) is not None)
                return ["SKEG.VDEL", INDEX, number], lambda what, got: must_be(what, was_there, got)
            case _:
                expected = self.state.get(number)
                return ["SKEG.VGET", INDEX, number], lambda what, got: alike(what, expected, got)


def alike(what: str, expected: bytes | None, found: Any) -> None:
    """That a vector came back, but for what making it a unit vector again may change."""
    if expected is None or not isinstance(found, bytes) or len(found) != len(expected):
        must_be(what, expected, found)
    elif not np.allclose(np.frombuffer(found, "<f4"), np.frombuffer(expected, "<f4"), atol=1e-5):
        raise WrongReplyError(f"{what}: another vector came back")


class Searches(Lane):
    """Searches, with and without filters and payloads, in both protocols of RESP."""

    def work(self) -> None:
        self.numbers = np.random.default_rng(self.random.randrange(2**32))
        with Resp(self.ports["resp"]) as self.link:
            if self.number % 2:
                self.link.must("HELLO", 3)
            self.turns(self.turn)

    def turn(self) -> None:
        words: list[wire.Word] = ["SKEG.VSEARCH", INDEX, 10, self.random.choice((0, 20, 100)), unit(self.numbers)]
        part = self.random.randrange(10) if self.random.random() < 0.3 else None
        if part is not None:
            words += ["WITHPAYLOAD", "FILTER", f"part = {part}"]
        found = self.link.must(*words)
        width = 2 if part is None else 3
        scores = [float(score) for score in found[1::width]]
        if scores != sorted(scores, reverse=True) or len(scores) > 10:
            raise WrongReplyError(f"scores of a search: {scores}")
        # A vector may be written again between the search and the reading of its payload, but it keeps its part.
        if part is not None and any(
            payload is not None and b"part=%d" % part not in payload for payload in found[2::3]
        ):
            raise WrongReplyError(f"payloads of a search for part {part}: {found[2::3]}")
        self.report.add("searches")


class Catalogues(Lane):
    """Indexes that come and go."""

    def work(self) -> None:
        self.numbers = np.random.default_rng(self.random.randrange(2**32))
        with Resp(self.ports["resp"]) as self.link:
            self.turns(self.turn)

    def turn(self) -> None:
        name, backend = f"passing-{self.number}", self.random.choice(("flat", "disk"))
        self.link.ask("SKEG.VINDEX.DROP", name)
        self.link.must("SKEG.VINDEX.CREATE", name, DIM, self.random.choice(("f32", "int8", "tq4")), backend)
        vectors = [unit(self.numbers) for _ in range(100)]
        items = [word for number, vector in enumerate(vectors) for word in (number, vector, b"")]
        must_be("vmset", 100, self.link.must("SKEG.VMSET", name, *items))
        number = self.random.randrange(100)
        must_be("found again", b"%d" % number, self.link.must("SKEG.VSEARCH", name, 1, 0, vectors[number])[0])
        self.link.must("SKEG.VINDEX.DROP", name)
        self.report.add("indexes")
        self.report.stop.wait(1.0)


class Visitors(Lane):
    """Connections that come, say something sensible, strange or nothing, and go in any way."""

    SAID = (
        b"", b"PING\r\n", command("PING"), command("PING") * 50, command("GET", "x" * 1000),
        b"*2\r\n$3\r\nGET\r\n$100\r\nhalf",
        b"*1\r\n$-5\r\n", b"\x00\x01\x02\x03", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"*" * 1000, b"*100000\r\n",
        wire.frame(wire.OP_PING, 1), wire.frame(wire.OP_PING, 1)[:10], wire.frame(0x00, 1), b"KV" * 30,
    )  # fmt: skip

    def work(self) -> None:
        self.turns(self.turn)

    def turn(self) -> None:
        with connected(self.ports[self.random.choice(("resp", "binary"))], 5.0) as link:
            # Whatever the server does with it: it may close the connection, or wait for more.
            with contextlib.suppress(OSError):
                link.sendall(self.random.choice(self.SAID))
                if self.random.random() < 0.3:
                    link.settimeout(0.05)
                    link.recv(100)
            if self.random.random() < 0.3:
                link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset at the close
        self.report.add("visits")
        time.sleep(0.002)


class Slow(Lane):
    """Asks for many large values at once and takes them in small pieces; all of them have to come, and be right."""

    SIZE, COUNT = 1 << 20, 24

    def work(self) -> None:
        value = self.random.randbytes(self.SIZE)
        key = f"slow:{self.number}"
        with Resp(self.ports["resp"], 120.0) as link:
            link.must("SET", key, value)
            link.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
            link.send(command("GET", key) * self.COUNT)
            expected = b"$%d\r\n%b\r\n" % (self.SIZE, value)
            left, at = self.COUNT * len(expected), 0
            while left:
                piece = link.socket.recv(min(left, 1 << 16))
                if not piece:
                    raise WrongReplyError(f"the server closed a slow connection with {left:,} bytes to come")
                doubled = expected[at:] + expected
                if piece != doubled[: len(piece)]:
                    raise WrongReplyError("a slow connection was sent other bytes")
                at, left = (at + len(piece)) % len(expected), left - len(piece)
                time.sleep(0.005)
            must_be("ping", b"PONG", link.ask("PING"))
        self.report.add("slow readings")


def lanes(ports: dict[str, int], report: Report, seed: int) -> list[Lane]:
    """All lanes of the mixed load."""
    kinds = (Strings, Strings, Frames, Vectors, Vectors, Searches, Searches, Catalogues, Visitors, Slow)
    return [kind(number, ports, report, seed) for number, kind in enumerate(kinds)]
