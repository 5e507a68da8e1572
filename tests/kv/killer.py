"""A real process under load is killed again and again; whatever it had acknowledged must be in the store afterwards.

    python -m tests.kv.killer FOLDER DESCRIPTOR      (the helper; `Killer` starts it)

The helper imports the library once and forks a child for every round. The child opens the store and works on it in
several *lanes* (threads, or connections of an `AsyncStore`), and writes to a pipe what it is about to do, and what
came of it when the call has returned. The parent reads the pipe, kills the child, opens what is left and compares:

- A lane owns its keys, so what it has acknowledged is an exact state, one for each shard. Calls that were under way
  may have happened or not, but in their order: the shard holds the acknowledged state after some prefix of them.
- Registers are set and deleted by all lanes at once. One may hold what a call wrote, unless that call had returned
  before another write of the register began which was acknowledged. What a call has read was acknowledged by that.
- Counters are incremented by all lanes: no two calls return the same number, none is above what is left, and what is
  left is between the acknowledged sum and the sum of all that was begun.

The directory is used for some rounds, with other options in each, before a fresh one takes its place.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import marshal
import os
import random
import select
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from xxhash import xxh3_64_intdigest

from skeg.errors import ClosedError, StorageError
from skeg.kv import AsyncStore, Durability, Store, StoreOptions

ROOT = Path(__file__).resolve().parents[2]
LANES = 4

# Threads that are killed; connections of an `AsyncStore`, likewise; threads of which the first closes the store at
# SIGTERM, after its call or interrupted in the middle of it, while the others go on.
LEAVING = ("leave", "interrupt")
MODES = ("threads", "threads", "async", *LEAVING)

# A child that neither ends nor answers for so long hangs.
PATIENCE_S = 60.0

Op = tuple[Any, ...]
State = dict[bytes, bytes]

_LENGTH = struct.Struct("<I")
_READS = {"get", "mget", "scan", "contains", "compact", "sync"}


# ---------------------------------------------------------------------------------------------------------------------
# What operations mean: the model that the oracle follows.


def apply(state: State, op: Op) -> Any:
    """Do one operation on a dict; returns what the store has to return."""
    match op:
        case ("set", key, value):
            state[key] = value
        case ("delete", key):
            return state.pop(key, None) is not None
        case ("append", key, value):
            state[key] = state.get(key, b"") + value
            return len(state[key])
        case ("incr", key, amount):
            total = int(state.get(key, b"0")) + amount
            state[key] = b"%d" % total
            return total
        case ("set_many", pairs):
            state.update(pairs)
        case ("set_if_absent", key, value):
            return key not in state and state.setdefault(key, value) is value
        case ("set_if_present", key, value):
            return key in state and apply(state, ("set", key, value)) is None
        case ("get_set", key, value):
            old = state.get(key)
            state[key] = value
            return old
        case ("erase", prefix):
            victims = [key for key in state if key.startswith(prefix)]
            for key in victims:
                del state[key]
            return len(victims)
        case ("get", key):
            return state.get(key)
        case ("contains", key):
            return key in state
        case ("mget", keys):
            return [state.get(key) for key in keys]
        case ("scan", prefix):
            return sorted(item for item in state.items() if item[0].startswith(prefix))
    return None


def shard_of(key: bytes, shards: int) -> int:
    return xxh3_64_intdigest(key) % shards


def part(op: Op, shard: int, shards: int) -> Op | None:
    """What an operation writes in one shard; None for nothing."""
    if op[0] in _READS:
        return None
    if op[0] == "erase":
        return op
    if op[0] == "set_many":
        pairs = [pair for pair in op[1] if shard_of(pair[0], shards) == shard]
        return ("set_many", pairs) if pairs else None
    return op if shard_of(op[1], shards) == shard else None


def possible(found: State, sure: State, pending: list[Op]) -> bool:
    """Whether a shard may hold `found`: the acknowledged state after some of the operations that were under way."""
    state = dict(sure)
    for op in pending:
        if found == state:
            return True
        apply(state, op)
    return found == state


# ---------------------------------------------------------------------------------------------------------------------
# The oracle.


def owner(key: bytes) -> bytes:
    """``b"3"`` for a key of lane 3, ``b"r"`` for a register, ``b"c"`` for a counter; lane 0 has the empty key."""
    return key.partition(b"/")[0] or b"0"


class Lane:
    """The keys that one lane owns: what is sure to be on disk, and what is not yet."""

    def __init__(self, number: int, shards: int) -> None:
        self.number = number
        self.shards = shards
        self.view: State = {}
        self.sure: list[State] = [{} for _ in range(shards)]
        self.pending: list[deque[tuple[int, Op]]] = [deque() for _ in range(shards)]
        self.begun = self.ended = 0

    def begin(self, op: Op) -> None:
        for shard, pending in enumerate(self.pending):
            piece = part(op, shard, self.shards)
            if piece is not None:
                pending.append((self.begun, piece))
        self.begun += 1

    def settle(self) -> None:
        """All that has ended is on disk."""
        for state, pending in zip(self.sure, self.pending, strict=True):
            while pending and pending[0][0] < self.ended:
                apply(state, pending.popleft()[1])

    def compare(self, contents: State) -> Iterator[str]:
        """Complaints about what a reopened store holds; afterwards that counts as sure."""
        found: list[State] = [{} for _ in range(self.shards)]
        for key, value in contents.items():
            found[shard_of(key, self.shards)][key] = value
        for shard, (state, sure, pending) in enumerate(zip(found, self.sure, self.pending, strict=True)):
            ops = [op for _, op in pending]
            if not possible(state, sure, ops):
                yield f"lane {self.number}, shard {shard}: {difference(state, sure)}; under way: {short(ops)}"
            pending.clear()
        self.view, self.sure = dict(contents), found
        self.begun = self.ended = 0


@dataclass(slots=True)
class Write:
    """One write of a register: when it began and when it was acknowledged (positions in the journal)."""

    value: bytes | None
    began: float
    ended: float = float("inf")


class Register:
    """A key that all lanes set and delete."""

    def __init__(self, value: bytes | None = None) -> None:
        self.writes = [Write(value, -1, -1)]

    def candidates(self) -> set[bytes | None]:
        """Values that no acknowledged write has certainly replaced."""
        last = max(write.began for write in self.writes if write.ended != float("inf"))
        return {write.value for write in self.writes if write.ended >= last}


class Counter:
    """A key that all lanes increment."""

    def __init__(self, value: int = 0) -> None:
        self.base = value
        self.begun = 0
        self.acknowledged = 0
        self.results: list[int] = []

    def compare(self, found: int) -> Iterator[str]:
        low, high = self.base + self.acknowledged, self.base + self.begun
        if not low <= found <= high:
            yield f"counter: {found}, expected {low} to {high}"
        if len(set(self.results)) < len(self.results):
            yield "counter: two calls returned the same number"
        if self.results and not self.base < min(self.results) <= max(self.results) <= found:
            yield f"counter: {found} after calls returned {min(self.results)} to {max(self.results)}"


class Oracle:
    """Follows the journal of one directory through its rounds."""

    def __init__(self, shards: int) -> None:
        self.lanes = [Lane(number, shards) for number in range(LANES)]
        self.registers: dict[bytes, Register] = {}
        self.counters: dict[bytes, Counter] = {}
        self.waiting: list[deque[tuple[Op, Write | None]]] = [deque() for _ in range(LANES)]
        self.acknowledged = 0
        self.complaints: list[str] = []
        self._position = 0

    def follow(self, record: tuple[Any, ...]) -> None:
        """Take in one record of the journal."""
        self._position += 1
        match record:
            case ("begin", lane, ops):
                self.waiting[lane] += [(op, self._begin(self.lanes[lane], op)) for op in ops]
            case ("end", lane, results, durable):
                for result in results:
                    self._end(self.lanes[lane], result)
                if durable:
                    self.acknowledged += len(results)
                    self.lanes[lane].settle()
            case ("synced",):
                for each in self.lanes:
                    each.settle()
            case ("error", text):
                self.complaints.append(text)

    def compare(self, contents: State) -> None:
        """Add complaints about what a reopened store holds; what it holds is the base of the next round."""
        by_owner: dict[bytes, State] = {}
        for key, value in contents.items():
            by_owner.setdefault(owner(key), {})[key] = value
        for lane in self.lanes:
            self.complaints += lane.compare(by_owner.pop(b"%d" % lane.number, {}))
        registers, counters = by_owner.pop(b"r", {}), by_owner.pop(b"c", {})
        for key, register in self.registers.items():
            if registers.get(key) not in register.candidates():
                self.complaints.append(f"register {key!r} holds {short(registers.get(key))}")
        for key, counter in self.counters.items():
            self.complaints += counter.compare(int(counters.get(key, b"0")))
        if by_owner or registers.keys() - self.registers.keys() or counters.keys() - self.counters.keys():
            self.complaints.append(f"keys that nobody wrote: {short(by_owner or registers | counters)}")
        self.registers = {key: Register(registers.get(key)) for key in self.registers}
        self.counters = {key: Counter(int(counters.get(key, b"0"))) for key in self.counters}
        for each in self.waiting:
            each.clear()
        self._position = 0

    def _begin(self, lane: Lane, op: Op) -> Write | None:
        match shared(op):
            case b"c":
                self.counters.setdefault(op[1], Counter()).begun += op[2]
            case b"r":
                register = self.registers.setdefault(op[1], Register())
                if op[0] != "get":
                    register.writes.append(Write(op[2] if op[0] == "set" else None, self._position))
                    return register.writes[-1]
            case _:
                lane.begin(op)
        return None

    def _end(self, lane: Lane, result: Any) -> None:
        op, write = self.waiting[lane.number].popleft()
        match shared(op):
            case b"c":
                self.counters[op[1]].acknowledged += op[2]
                self.counters[op[1]].results.append(result)
            case b"r":
                self._end_register(op[1], write, result)
            case _:
                lane.ended += 1
                expected = result if op[0] in ("compact", "sync") else apply(lane.view, op)
                if expected != result:
                    what = f"{short(op)} returned {short(result)}, expected {short(expected)}"
                    self.complaints.append(f"lane {lane.number}: {what}")

    def _end_register(self, key: bytes, write: Write | None, result: Any) -> None:
        writes = self.registers[key].writes
        if write is None:
            seen = [each for each in writes if each.value == result]
            if not seen and result is not None:
                self.complaints.append(f"register {key!r}: read {short(result)}, which nobody wrote")
            if len(seen) == 1:  # the call had to wait until what it returned was durable
                seen[0].ended = min(seen[0].ended, self._position)
        elif result is False:  # deleted nothing, so wrote nothing
            writes.remove(write)
        else:
            write.ended = self._position


def shared(op: Op) -> bytes | None:
    """``b"c"`` for an operation on a counter, ``b"r"`` on a register."""
    kind = owner(op[1]) if len(op) > 1 and isinstance(op[1], bytes) else None
    return kind if kind in (b"c", b"r") else None


def short(value: Any) -> str:
    """The beginning of what a complaint is about."""
    text = repr(value)
    return text if len(text) <= 300 else f"{text[:300]}... ({len(text)} characters)"


def difference(found: State, expected: State) -> str:
    keys = sorted(key for key in found.keys() | expected.keys() if found.get(key) != expected.get(key))
    return "; ".join(
        f"{short(key)} is {short(found.get(key))}, acknowledged {short(expected.get(key))}" for key in keys[:3]
    )


# ---------------------------------------------------------------------------------------------------------------------
# The child: works until it is killed.


class Journal:
    """Writes records to the parent's pipe, whole and in the order in which things happened."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()

    def write(self, *record: Any) -> None:
        data = marshal.dumps(record)
        rest = _LENGTH.pack(len(data)) + data
        with self._lock:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]


class Work:
    """What one lane does: endless, and the same for the same seed."""

    def __init__(self, lane: int, settings: dict[str, Any]) -> None:
        self.random = random.Random(f"{settings['seed']} {lane}")
        self.lane = b"%d/" % lane
        self.keys = [self.lane + b"%d" % i for i in range(settings["keys"])] + [self.lane + b"long" * 80]
        self.keys += [b""] if lane == 0 else []
        self.victims = [self.lane + b"e%d" % i for i in range(6)]
        self.mark = b"%d.%d." % (settings["round"], lane)
        self.plain = settings["mode"] != "async"
        self.alone = settings["durability"][lane] == Durability.NONE  # no shared keys: nobody else knows when it syncs
        self.number = 0

    def value(self) -> bytes:
        """A value that nobody else writes; the whole of it depends on who wrote it."""
        self.number += 1
        mark = self.mark + b"%d;" % self.number
        size = self.random.choice((0, 8, 40, 100, 100, 100, 300, 2000, 9000))
        return mark * (1 + size // len(mark))

    def next(self) -> Op:
        """One operation, as `AsyncStore.submit` takes it."""
        choice, key = self.random.random(), self.random.choice(self.keys)
        if choice < 0.25:
            return ("set", key, self.value())
        if choice < 0.35:
            return ("set_many", [(each, self.value()) for each in self.some(self.keys)])
        if choice < 0.45:
            return ("delete", key)
        if choice < 0.55:
            return ("append", key, self.value())
        if choice < 0.60:
            return ("incr", self.lane + b"n", self.random.randint(-9, 9))
        if choice < 0.70 and not self.alone:
            return ("incr", b"c/%d" % self.random.randrange(3), self.random.randint(1, 9))
        if choice < 0.80 and not self.alone:
            register = b"r/%d" % self.random.randrange(3)
            return self.random.choice([("set", register, self.value()), ("delete", register), ("get", register)])
        if choice < 0.94:
            return self.random.choice(
                [
                    ("get", key),
                    ("mget", self.some(self.keys)),
                    ("get_set", key, self.value()),
                    ("set_if_absent", key, self.value()),
                    ("set_if_present", key, self.value()),
                    ("set", self.random.choice(self.victims), self.value()),
                ]
            )
        if self.plain:
            return self.random.choice(
                [
                    ("contains", key),
                    ("scan", self.lane),
                    ("erase", self.lane + b"e"),
                    ("sync",),
                    ("sync",),
                    ("compact",),
                ]
            )
        return ("get", key)

    def some(self, keys: list[bytes]) -> list[bytes]:
        return self.random.sample(keys, self.random.randint(1, len(keys)))


class Shield:
    """What SIGTERM does in the main thread: it leaves after its call, or in the middle of it, never elsewhere."""

    def __init__(self, *, interrupts: bool) -> None:
        self.interrupts = interrupts
        self.inside = self.wanted = False

    def __call__(self, *_: object) -> None:
        self.wanted = True
        if self.inside and self.interrupts:
            raise SystemExit

    def call(self, store: Store, op: Op, durability: Durability) -> Any:
        """Do an operation in the main thread."""
        if self.wanted:
            raise SystemExit
        self.inside = True
        result = call(store, op, durability)
        self.inside = False
        return result


def call(store: Store, op: Op, durability: Durability) -> Any:
    """Do one operation on a store."""
    name, *arguments = op
    if name == "contains":
        return arguments[0] in store
    if name == "scan":
        return sorted(store.scan(*arguments))
    if name in _READS:
        return getattr(store, name)(*arguments)
    return getattr(store, name)(*arguments, durability=durability)


def run_lane(store: Store, journal: Journal, settings: dict[str, Any], lane: int, caller: Any = call) -> None:
    """Call after call, until the process or the store ends."""
    work = Work(lane, settings)
    durability = Durability(settings["durability"][lane])
    while True:
        op = work.next()
        journal.write("begin", lane, [op])
        result = caller(store, op, durability)
        durable = durability != Durability.NONE or op[0] == "sync"
        journal.write("end", lane, [result], durable)


async def run_connection(store: AsyncStore, journal: Journal, settings: dict[str, Any], lane: int) -> None:
    """Batches of operations, several of them under way at a time; each is acknowledged when it is durable."""
    work = Work(lane, settings)
    tickets: deque[Any] = deque()
    while True:
        batch = [work.next() for _ in range(work.random.randint(1, 20))]
        journal.write("begin", lane, batch)
        tickets.append(store.submit(batch))
        while len(tickets) > settings["depth"]:
            ticket = tickets.popleft()
            await store.durable(ticket)
            journal.write("end", lane, ticket.results, True)


async def run_connections(store: Store, journal: Journal, settings: dict[str, Any]) -> None:
    face = AsyncStore(store)
    await asyncio.gather(*(run_connection(face, journal, settings, lane) for lane in range(LANES)))


def run_threads(store: Store, journal: Journal, settings: dict[str, Any], shield: Shield) -> None:
    """The lanes as threads; SIGTERM, if the shield has it, ends the first of them, and the store is closed."""

    def run(lane: int) -> None:
        try:
            run_lane(store, journal, settings, lane)
        except BaseException as error:  # noqa: BLE001 - the parent has to know
            # A store that was interrupted in the middle of a change takes no more of them.
            if not (shield.wanted and isinstance(error, ClosedError | StorageError)):
                fail(journal)

    for lane in range(1, LANES):
        threading.Thread(target=run, args=(lane,), daemon=True).start()
    try:
        run_lane(store, journal, settings, 0, shield.call)
    except SystemExit:
        with suppress(StorageError):
            store.sync()
            journal.write("synced")
        store.close()


def fail(journal: Journal) -> None:
    """Tell the parent about the exception at hand, and end."""
    journal.write("error", traceback.format_exc())
    os._exit(1)


def child(journal: Journal, settings: dict[str, Any]) -> None:
    """One round: open the store, say so, work."""
    try:
        shield = Shield(interrupts=settings["mode"] == "interrupt")
        if settings["mode"] in LEAVING:
            signal.signal(signal.SIGTERM, shield)
        store = Store.open(settings["path"], shards=settings["shards"], options=StoreOptions(**settings["options"]))
        journal.write("open")
        if settings["mode"] == "async":
            asyncio.run(run_connections(store, journal, settings))
        else:
            run_threads(store, journal, settings, shield)
    except BaseException:  # noqa: BLE001 - the parent has to know
        fail(journal)


def helper(folder: Path, descriptor: int) -> None:
    """Fork a child for each line of settings on stdin; say on stdout when it has started and ended."""
    journal = Journal(descriptor)
    warm(folder)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            child(journal, json.loads(line))
            os._exit(0)
        print("started", pid, flush=True)
        print("ended", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def warm(folder: Path) -> None:
    """Write and recover a store here, so that children inherit all imports and compiled code.

    They recover with the compiled engine, and the parent without: both have to find the same.
    """
    importlib.import_module("skeg.kv.kernels.scan")
    path = folder / "warm"
    with Store.open(path) as store:
        store.set_many([(b"%d" % i, b"value") for i in range(1000)])
    for hint in path.rglob("*.hint"):
        hint.unlink()
    with Store.open(path) as store:
        assert store.get(b"999") == b"value"
    shutil.rmtree(path)


# ---------------------------------------------------------------------------------------------------------------------
# The parent: kills, and checks.


@dataclass
class Report:
    """What came of some rounds."""

    rounds: int = 0
    acknowledged: int = 0
    under_way: int = 0
    complaints: list[str] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)


class Killer:
    """Rounds of killing in stores below `folder`; a ``with`` block ends the helper.

    A directory with lost writes is left as it is, and named in the report; all others are removed.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.report = Report()
        self._path: Path | None = None
        self._rounds_left = 0

    def __enter__(self) -> Self:
        self._pipe, theirs = os.pipe()
        os.set_blocking(self._pipe, False)
        self._helper = subprocess.Popen(
            [sys.executable, "-m", "tests.kv.killer", str(self.folder), str(theirs)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            pass_fds=[theirs],
            cwd=ROOT,
        )
        os.close(theirs)
        return self

    def __exit__(self, *_: object) -> None:
        self._helper.stdin.close()
        self._helper.wait(PATIENCE_S)
        self._helper.stdout.close()
        os.close(self._pipe)
        if self._path is not None:
            shutil.rmtree(self._path)

    def round(self) -> None:
        """Let a child work, kill it, compare."""
        if self._path is None:
            self._fresh()
        settings = self._settings()
        for record in records(self._run(settings)):
            self._oracle.follow(record)
        self.report.under_way += sum(map(len, self._oracle.waiting))
        self.report.rounds += 1
        self._check()
        self.report.acknowledged += self._oracle.acknowledged
        self._oracle.acknowledged = 0
        self._rounds_left -= 1
        if self._oracle.complaints:
            self.report.complaints += [f"round {self.report.rounds} {settings}: {c}" for c in self._oracle.complaints]
            self.report.kept.append(self._path)
            self._path = None
        elif not self._rounds_left:
            shutil.rmtree(self._path)
            self._path = None

    def _fresh(self) -> None:
        self._path = self.folder / f"store-{self.report.rounds}"
        self._shards = self.random.randint(1, 3)
        self._rounds_left = self.random.randint(3, 10)
        self._oracle = Oracle(self._shards)

    def _settings(self) -> dict[str, Any]:
        """What the next child does."""
        mode = self.random.choice(MODES)
        level = self.random.choice([Durability.SYNC, Durability.OS])
        levels = [level, level, self.random.choice([Durability.SYNC, Durability.OS]), Durability.NONE]
        return {
            "path": str(self._path),
            "shards": self._shards,
            "options": self._options(),
            "mode": mode,
            "durability": [Durability.SYNC] * LANES if mode == "async" else levels,
            "depth": self.random.randrange(4),
            "keys": self.random.choice([4, 30]),
            "round": self.report.rounds,
            "seed": self.random.getrandbits(32),
        }

    def _options(self) -> dict[str, Any]:
        return {
            "segment_bytes": self.random.choice([256, 1024, 16384, 262_144, 64 << 20]),
            "cache_bytes": self.random.choice([0, 4096, 1 << 20]),
            "background": self.random.random() < 0.7,
        }

    def _run(self, settings: dict[str, Any]) -> bytes:
        """Start a child, kill it at a random moment; returns its journal."""
        leave = settings["mode"] in LEAVING
        # A quarter dies while it opens the store or shortly after.
        from_start = self.random.random() < 0.25 and not leave
        delay = self.random.uniform(0, 0.02 if from_start else 0.15)
        how = signal.SIGTERM if leave or self.random.random() < 0.2 else signal.SIGKILL
        self._helper.stdin.write(json.dumps(settings).encode() + b"\n")
        pid = self._answer("started")
        journal = bytearray()
        give_up = time.monotonic() + PATIENCE_S
        deadline = time.monotonic() + delay if from_start else give_up
        opened = killed = False
        while True:
            left = max(0.0, deadline - time.monotonic())
            readable, _, _ = select.select([self._pipe, self._helper.stdout], [], [], left)
            if self._pipe in readable:
                journal += os.read(self._pipe, 1 << 20)
            if not opened and journal:
                opened = True
                deadline = deadline if from_start else time.monotonic() + delay
            if self._helper.stdout in readable:
                break
            if time.monotonic() >= deadline:
                if killed or not (opened or from_start):
                    how = signal.SIGKILL
                    self._oracle.complaints.append("the child hangs")
                os.kill(pid, how)
                killed, deadline = True, time.monotonic() + PATIENCE_S
        with suppress(BlockingIOError):
            while data := os.read(self._pipe, 1 << 20):
                journal += data
        status = self._answer("ended")
        if status != (0 if leave else -how):
            self._oracle.complaints.append(f"the child ended with {status}")
        return bytes(journal)

    def _answer(self, expected: str) -> int:
        word, _, number = self._helper.stdout.readline().decode().partition(" ")
        if word != expected:
            raise RuntimeError("the helper died")
        return int(number)

    def _check(self) -> None:
        """Open what the child left, for reading or writing or both, and compare."""
        try:
            modes = self.random.choice([["r"], ["rw"], ["r", "rw"], ["rw", "r"]])
            if not (self._path / "manifest.json").exists():  # killed while it made the store
                modes = ["rw"]
            contents = [self._contents(mode) for mode in modes]
            self._oracle.compare(contents[0])
            if any(each != contents[0] for each in contents):
                self._oracle.complaints.append("opening it again found something else")
        except Exception:  # noqa: BLE001 - whatever keeps a store from opening is a loss
            self._oracle.complaints.append(traceback.format_exc())

    def _contents(self, mode: str) -> State:
        """All that the store holds, if every way to read it says the same."""
        with Store.open(self._path, shards=self._shards, mode=mode, options=StoreOptions(**self._options())) as store:
            contents = dict(store.scan())
            assert len(store) == len(contents)
            assert [store.get(key) for key in contents] == list(contents.values())
            assert store.mget(list(contents)) == list(contents.values())
            assert store.verify() == []
        return contents


def records(journal: bytes) -> Iterator[tuple[Any, ...]]:
    """The whole records of a journal whose writer was killed."""
    start = 0
    while start + _LENGTH.size <= len(journal):
        (length,) = _LENGTH.unpack_from(journal, start)
        start += _LENGTH.size + length
        if start <= len(journal):
            yield marshal.loads(journal[start - length : start])


if __name__ == "__main__":
    helper(Path(sys.argv[1]), int(sys.argv[2]))
