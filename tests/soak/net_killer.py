"""A server under pipelined load is killed again and again; what it acknowledged must be there when it is started again.

Each lane has a connection of its own and owns its keys, or the ids of its vectors. A file says what it was about to
send, and which of that was acknowledged. What one key holds after a crash is what was acknowledged last, or what one of
the requests after that, which were under way, has made of it.
"""

from __future__ import annotations

import random
import struct
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

from tests.bench.harness import net_server
from tests.bench.harness import net_wire as wire
from tests.bench.harness.net_wire import Binary, Problem, Resp, WireError, command, named, vset_payload

INDEX, DIM = "killed", 16
KEYS = 60
UNDER_WAY = 64

# Kind of change, key, and what it brings, such as ("set", b"k", b"v"), ("del", b"k", b""), ("incr", b"k", b"").
Op = tuple[str, bytes, bytes]


def apply(old: bytes | None, op: Op) -> bytes | None:
    """What a key holds after a change."""
    match op[0]:
        case "set":
            return op[2]
        case "del":
            return None
        case "incr":
            return b"%d" % (int(old or b"0") + 1)
    return (old or b"") + op[2]


def possible(sure: bytes | None, under_way: list[Op]) -> Iterator[bytes | None]:
    """All that a key may hold after a crash."""
    yield sure
    for op in under_way:
        sure = apply(sure, op)
        yield sure


def vector(number: int) -> bytes:
    """One of 65,536 vectors whose length is exactly 1."""
    return struct.pack(f"<{DIM}f", *[0.25 if number >> bit & 1 else -0.25 for bit in range(DIM)])


class Lane:
    """A connection that sends changes without waiting for each; subclasses say how."""

    def __init__(self, number: int, seed: int, journal: IO[str]) -> None:
        self.number = number
        self.random = random.Random(seed * 100 + number)
        self.journal = journal
        self.sure: dict[bytes, bytes | None] = {}
        self.under_way: deque[Op] = deque()
        self.acknowledged = 0
        self.problem: str | None = None

    def keys(self) -> list[bytes]:
        return [b"%d:%d" % (self.number, n) for n in range(KEYS)]

    def run(self, ports: dict[str, int]) -> None:
        """Send and read until the server is gone."""
        # It was killed: what was under way stays so.
        with suppress(OSError, WireError), self.connect(ports) as link:
            while True:
                while len(self.under_way) < UNDER_WAY:
                    batch = [self.choose() for _ in range(self.random.choice((1, 4, 16)))]
                    self.under_way.extend(batch)
                    self.journal.writelines(f"{self.number} begins {op!r}\n" for op in batch)
                    link.send(b"".join(map(self.encode, batch)))
                for _ in range(self.random.randrange(1, len(self.under_way) + 1)):
                    self.accept(link.read())

    def accept(self, reply: Any) -> None:
        """Note that the oldest change under way was acknowledged."""
        op = self.under_way.popleft()
        if isinstance(reply, Problem):
            self.problem = f"{op!r} was answered with {reply}"
            raise WireError(self.problem)
        self.sure[op[1]] = apply(self.sure.get(op[1]), op)
        self.acknowledged += 1
        self.journal.write(f"{self.number} acknowledged\n")

    def check(self, ports: dict[str, int]) -> Iterator[str]:
        """Complaints about what is there now, which is what the next round goes on from."""
        with self.connect(ports) as link:
            for key in self.keys():
                mine = [op for op in self.under_way if op[1] == key]
                found = self.fetch(link, key)
                if found not in list(possible(self.sure.get(key), mine)):
                    yield f"{key!r}: acknowledged {self.sure.get(key)!r}, under way {mine!r}, found {found!r}"
                self.sure[key] = found
        self.under_way.clear()

    def connect(self, ports: dict[str, int]) -> Any:
        return Resp(ports["resp"])

    def choose(self) -> Op:
        raise NotImplementedError

    def encode(self, op: Op) -> bytes:
        raise NotImplementedError

    def fetch(self, link: Any, key: bytes) -> bytes | None:
        raise NotImplementedError


class Strings(Lane):
    """Keys over RESP; the first third of them are counters."""

    def choose(self) -> Op:
        number = self.random.randrange(KEYS)
        key = self.keys()[number]
        if number < KEYS // 3:
            return (self.random.choice(("incr", "incr", "incr", "del")), key, b"")
        kind = self.random.choice(("set", "set", "del", "append"))
        size = self.random.choice((0, 10, 100, 3000))
        return (kind, key, b"" if kind == "del" else self.random.randbytes(size))

    def encode(self, op: Op) -> bytes:
        kind, key, value = op
        return command(kind.upper(), key, *([value] if kind in ("set", "append") else []))

    def fetch(self, link: Any, key: bytes) -> bytes | None:
        found: bytes | None = link.must("GET", key)
        return found


class Batches(Lane):
    """Over RESP, groups of keys that are set together, all or none; a key names a group."""

    def choose(self) -> Op:
        return ("set", self.random.choice(self.keys()), self.random.randbytes(self.random.choice((0, 10, 1000))))

    def encode(self, op: Op) -> bytes:
        return command("MSET", *[word for member in self.members(op[1]) for word in (member, op[2])])

    def fetch(self, link: Any, key: bytes) -> bytes | None:
        found: list[bytes | None] = link.must("MGET", *self.members(key))
        return found[0] if len({*found}) == 1 else b"torn: %r" % found

    def members(self, key: bytes) -> list[bytes]:
        return [b"%b:%d" % (key, n) for n in range(5)]


class Frames(Strings):
    """Keys over the binary protocol."""

    def connect(self, ports: dict[str, int]) -> Any:
        return Binary(ports["binary"])

    def choose(self) -> Op:
        kind = self.random.choice(("set", "set", "del"))
        return (kind, self.random.choice(self.keys()), b"" if kind == "del" else self.random.randbytes(100))

    def encode(self, op: Op) -> bytes:
        kind, key, value = op
        raw = named(key.decode())
        if kind == "del":
            return wire.frame(wire.OP_DEL, 1, raw)
        return wire.frame(wire.OP_SET, 1, raw[:2] + struct.pack("<I", len(value)) + raw[2:] + value)

    def fetch(self, link: Any, key: bytes) -> bytes | None:
        found = link.ask(wire.OP_GET, named(key.decode()))
        return None if isinstance(found, Problem) else found[4:]


class Vectors(Lane):
    """Vectors over RESP; a key is the text of an id."""

    def keys(self) -> list[bytes]:
        return [b"%d" % (self.number * KEYS + n) for n in range(KEYS)]

    def choose(self) -> Op:
        kind = self.random.choice(("set", "set", "set", "del"))
        return (
            kind,
            self.random.choice(self.keys()),
            b"" if kind == "del" else vector(self.random.randrange(1 << DIM)),
        )

    def encode(self, op: Op) -> bytes:
        kind, key, value = op
        return command("SKEG.VDEL", INDEX, key) if kind == "del" else command("SKEG.VSET", INDEX, key, value)

    def fetch(self, link: Any, key: bytes) -> bytes | None:
        found: bytes | None = link.must("SKEG.VGET", INDEX, key)
        return found


class VectorFrames(Vectors):
    """Vectors over the binary protocol."""

    def connect(self, ports: dict[str, int]) -> Any:
        return Binary(ports["binary"])

    def encode(self, op: Op) -> bytes:
        kind, key, value = op
        if kind == "del":
            return wire.frame(wire.OP_VDEL, 1, named(INDEX) + struct.pack("<Q", int(key)))
        return wire.frame(wire.OP_VSET, 1, vset_payload(INDEX, int(key), value))

    def fetch(self, link: Any, key: bytes) -> bytes | None:
        found = link.ask(wire.OP_VGET, named(INDEX) + struct.pack("<Q", int(key)))
        return None if isinstance(found, Problem) else found[4:]


class Killer:
    """Rounds on one directory.

    Parameters
    ----------
    command : str
        What `serve` comes behind.
    folder : path
        Holds the directory, the journal and the logs of the servers.
    seed : int
        Of all choices but the moment of each step.
    """

    def __init__(self, command: str, folder: Path, seed: int) -> None:
        self._command, self._folder = command, folder
        self._random = random.Random(seed)
        self._stack = ExitStack()
        journal = self._stack.enter_context((folder / "journal.txt").open("a"))
        kinds = (Strings, Strings, Batches, Frames, Vectors, VectorFrames)
        self.lanes = [kind(number, seed, journal) for number, kind in enumerate(kinds)]
        self.rounds = 0
        self.complaints: list[str] = []

    @property
    def acknowledged(self) -> int:
        return sum(lane.acknowledged for lane in self.lanes)

    def _start(self) -> net_server.Server:
        durability = self._random.choice(("sync", "os"))
        return net_server.skeg(
            self._command, self._folder / "data", self._folder / "server.log", "--durability", durability
        )

    def round(self) -> None:
        """Start, compare with what was acknowledged, put load on, kill."""
        with self._start() as server:
            self._compare(server)
            threads = [threading.Thread(target=lane.run, args=(server.ports,)) for lane in self.lanes]
            for thread in threads:
                thread.start()
            time.sleep(self._random.uniform(0.05, 1.5))
            if server.process.poll() is not None:
                self.complaints.append(f"the server ended by itself:\n{server.tail()}")
            server.kill()
            for thread in threads:
                thread.join()
        self.complaints += [lane.problem for lane in self.lanes if lane.problem]
        for lane in self.lanes:
            lane.problem = None
        self.rounds += 1

    def _compare(self, server: net_server.Server) -> None:
        with Resp(server.port) as link:
            if self.rounds == 0:
                link.must("SKEG.VINDEX.CREATE", INDEX, DIM, "f32", "disk")
            for lane in self.lanes:
                self.complaints += lane.check(server.ports)
            # Whatever is left can be searched.
            found = link.must("SKEG.VSEARCH", INDEX, 5, 0, vector(1))
            vectors = [lane.sure.values() for lane in self.lanes if isinstance(lane, Vectors)]
            live = sum(value is not None for values in vectors for value in values)
            if len(found) != 2 * min(5, live):
                self.complaints.append(f"{live} vectors, but a search for 5 found {len(found) // 2}")

    def close(self) -> None:
        """Compare a last time, and end."""
        with self._stack, self._start() as server:
            self._compare(server)
