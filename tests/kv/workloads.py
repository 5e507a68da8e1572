"""Small workloads on a store, what a dict says about them, and what may be left of them after a crash."""

from __future__ import annotations

import random
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

from xxhash import xxh3_64_intdigest

from skeg.kv.options import Durability, StoreOptions
from skeg.kv.store import Store, open_store
from tests.kv.simdisk import Change, SimDisk, SimOps, newest, oldest, power_losses, replay

PATH = "/store"
NONE, OS, SYNC = Durability

State = dict[bytes, bytes]


# Calls and what a dict makes of them


class Call(NamedTuple):
    """A call of a store's method; or ``reopen``; or ``begin scan``, until whose end no file is removed."""

    verb: str
    args: tuple[Any, ...]
    level: Durability

    @property
    def keys(self) -> list[bytes]:
        """Keys that a call of a writing method names."""
        return list(self.args[0]) if self.verb == "set_many" else [self.args[0]]


def call(verb: str, *args: Any, level: Durability = SYNC) -> Call:
    return Call(verb, args, level)


def expected(state: State, what: Call) -> tuple[State, Any]:
    """State after a call, and what the call returns."""
    after = dict(state)
    result: Any = None
    match what.verb, what.args:
        case "set", (key, value):
            after[key] = value
        case "get_set", (key, value):
            result = after.get(key)
            after[key] = value
        case "set_if_absent", (key, value):
            result = key not in after
            after.setdefault(key, value)
        case "set_if_present", (key, value):
            result = key in after
            if result:
                after[key] = value
        case "append", (key, value):
            after[key] = after.get(key, b"") + value
            result = len(after[key])
        case "incr", (key, amount):
            result = int(after.get(key, b"0")) + amount
            after[key] = b"%d" % result
        case "delete", (key,):
            result = after.pop(key, None) is not None
        case "set_many", (pairs,):
            after.update(pairs)
        case "erase", (prefix,):
            after = {key: value for key, value in state.items() if not key.startswith(prefix)}
            result = len(state) - len(after)
    return after, result


ALWAYS_WRITE = {"set", "get_set", "append", "incr", "set_many"}
WRITE_ALL = {"sync", "reopen"}


def shard_of(key: bytes, shards: int) -> int:
    return xxh3_64_intdigest(key) % shards


def part(state: State, shard: int, shards: int) -> State:
    """What one shard has of a state."""
    return {key: value for key, value in state.items() if shard_of(key, shards) == shard}


# Stores in use


class Options(NamedTuple):
    """How the store of a workload is made and opened."""

    shards: int = 1
    segment_bytes: int = 512

    def store(self, **changes: Any) -> StoreOptions:
        return StoreOptions(**{"segment_bytes": self.segment_bytes, "cache_bytes": 0, "background": False} | changes)


def open_on(disk: SimDisk, options: Options, *, mode: str = "rw", **changes: Any) -> tuple[Store, SimOps]:
    """A store on a disk, and the file operations that it uses."""
    files = SimOps(disk)
    return open_store(PATH, mode=mode, options=options.store(**changes), files=files), files


def new_store(options: Options) -> SimDisk:
    """A disk with an empty store, all of it durable."""
    files = SimOps(SimDisk())
    open_store(PATH, shards=options.shards, options=options.store(), files=files).close()
    return files.disk.power_loss(newest)


class Session:
    """A store in use beside a dict: what the one returns is compared with what the other says."""

    def __init__(self, files: SimOps, options: Options, state: State) -> None:
        self.files = files
        self.options = options
        self.state = state
        self.scan = self.scanning()
        self.open()

    def open(self) -> None:
        options = self.options.store(cache_bytes=1 << 10)
        self.store = open_store(PATH, shards=self.options.shards, options=options, files=self.files)

    def run(self, what: Call) -> None:
        after, result = expected(self.state, what)
        assert (what, result) == (what, self.perform(what))
        self.state = after

    def scanning(self) -> Generator[tuple[bytes, bytes], None, None]:
        yield from self.store.scan()

    def perform(self, what: Call) -> Any:
        match what.verb:
            case "reopen":
                self.store.close()
                return self.open()
            case "compact":
                assert self.store.compact() >= 0
                return None
            case "begin scan":
                self.scan = self.scanning()
                next(self.scan, None)
                return None
            case "end scan":
                return self.scan.close()
            case "sync" | "erase":
                return getattr(self.store, what.verb)(*what.args)
        return getattr(self.store, what.verb)(*what.args, durability=what.level)


class Step(NamedTuple):
    """What is known of a call that returned.

    The disk had seen `end` changes by then. Of what `shards` held then nothing may be lost by a crash of a kind
    that `level` survives; a call that had nothing to do promises nothing.
    """

    state: State
    end: int
    level: Durability
    shards: frozenset[int]


class Trace(NamedTuple):
    """What a workload did to a disk: the state before it, the steps, and all changes of the disk."""

    options: Options
    start: SimDisk
    before: State
    steps: list[Step]
    journal: list[Change]

    @property
    def states(self) -> list[State]:
        return [self.before, *(step.state for step in self.steps)]

    def returned(self, changes: int) -> int:
        """Number of calls that had returned when the disk had seen so many changes."""
        return sum(step.end <= changes for step in self.steps)

    def allowed(self, changes: int, level: Durability) -> list[list[State]]:
        """For each shard the states that a crash may leave: all from the last one promised to the one begun."""
        shards = self.options.shards
        returned = self.returned(changes)
        found = []
        for shard in range(shards):
            promised = [
                number
                for number, step in enumerate(self.steps[:returned], 1)
                if step.level >= level and shard in step.shards
            ]
            states = self.states[max(promised, default=0) : returned + 2]
            found.append([part(state, shard, shards) for state in states])
        return found


def promise(what: Call, before: State, after: State, options: Options) -> tuple[Durability, frozenset[int]]:
    """Level and shards of which a call that returned promised that nothing is lost; no shards if it wrote nothing."""
    if what.verb in WRITE_ALL:
        return SYNC, frozenset(range(options.shards))
    keys: Any = ()
    if what.verb == "erase":
        keys = before.keys() - after.keys()
    elif what.verb in ALWAYS_WRITE or before != after:
        keys = what.keys
    return what.level, frozenset(shard_of(key, options.shards) for key in keys)


def record(disk: SimDisk, calls: list[Call], options: Options, state: State | None = None) -> Trace:
    """Run a workload on a copy of a disk with a store in the given state; a crash ends it, not `close`."""
    session = Session(SimOps(disk.copy()), options, dict(state or {}))
    trace = Trace(options, disk.copy(), session.state, [], session.files.journal)
    for what in calls:
        before = session.state
        session.run(what)
        level, shards = promise(what, before, session.state, options)
        trace.steps.append(Step(session.state, len(session.files.journal), level, shards))
    return trace


# Crashes


class Crash(NamedTuple):
    """What a crash after a number of changes leaves on the disk, and the level of writes that survive such a crash."""

    changes: int
    level: Durability
    left: SimDisk


def crashes(trace: Trace, rng: random.Random, *, first: int = 0, **how: int) -> Iterator[Crash]:
    """The kill and the power cuts after each number of changes from `first` on."""
    for changes, disk in enumerate(replay(trace.start, trace.journal)):
        if changes >= first:
            yield Crash(changes, OS, disk.copy())
            for left in power_losses(disk, rng, **how):
                yield Crash(changes, SYNC, left)


def contents(store: Store) -> State:
    """Everything in a store, by all ways of asking for it, which have to agree."""
    found = dict(store.scan())
    assert len(found) == len(store)
    assert list(found.values()) == store.mget(list(found))
    assert list(found.values()) == [store.get(key) for key in found]
    assert all(key in store for key in found)
    return found


class Recovery(NamedTuple):
    """What was found after a crash, what was written then, and what was there after yet another crash."""

    found: State
    written: State
    kept: State


def recover(left: SimDisk, options: Options, rng: random.Random) -> Recovery:
    """Open what a crash left, write to it, lose what is not durable, and open it again.

    Opening it for reading has to change nothing and to say the same. What is written takes as many bytes as records
    that were lost may have taken.
    """
    reader, files = open_on(left.copy(), options, mode="r")
    seen = contents(reader)
    reader.close()
    assert [] == files.journal
    store, files = open_on(left.copy(), options)
    found = contents(store)
    assert seen == found
    written = {b"~": rng.choice((b"1", LONG, LONG + b"2"))}
    for _ in range(rng.randrange(1, 5)):
        store.set(b"~", written[b"~"])
    again, _ = open_on(files.disk.power_loss(rng.choice((oldest, oldest, newest, rng.randrange))), options)
    kept = contents(again)
    problems = again.verify()
    assert [] == problems, problems
    again.close()
    return Recovery(found, written, kept)


class Checker:
    """Checks crashes, recovering from those that leave the same disk only once.

    Attributes
    ----------
    points : int
        Different crashes so far.
    """

    def __init__(self, seed: object) -> None:
        self.rng = random.Random(repr(seed))
        self._recoveries: dict[tuple[Options, int], Recovery] = {}

    @property
    def points(self) -> int:
        return len(self._recoveries)

    def check(self, trace: Trace, crash: Crash) -> State:
        """Assert that a store is right after a crash and stays right; return what it holds."""
        try:
            return self._check(trace, crash)
        except Exception as error:
            error.add_note(f"{trace.returned(crash.changes)} calls, {crash.changes} changes, {crash.level!r}")
            raise

    def _check(self, trace: Trace, crash: Crash) -> State:
        options = trace.options
        key = options, crash.left.key()
        if key not in self._recoveries:
            self._recoveries[key] = recover(crash.left, options, self.rng)
        found, written, kept = self._recoveries[key]
        for shard, states in enumerate(trace.allowed(crash.changes, crash.level)):
            assert part(found, shard, options.shards) in states, (found, states)
        for shard, states in enumerate(trace.allowed(crash.changes, SYNC)):
            # All that was found is older than what was written to the same shard; others keep what they promised.
            if part(written, shard, options.shards):
                assert part(found | written, shard, options.shards) == part(kept, shard, options.shards)
            else:
                assert part(kept, shard, options.shards) in states, (kept, states)
        return found

    def check_all(self, trace: Trace, *, first: int = 0, **how: int) -> None:
        """Check all crashes of a workload from a number of changes on."""
        for crash in crashes(trace, self.rng, first=first, **how):
            self.check(trace, crash)


def resume(trace: Trace, crash: Crash, found: State, calls: list[Call]) -> Trace:
    """Go on with other calls after a crash, from the state that was found; stores of one shard only.

    What is durable then is promised, and what was promised to survive a power cut still is.
    """
    at = max(number for number, state in enumerate(trace.states) if state == found)
    after = record(crash.left, calls, trace.options, found)
    old = [
        step._replace(
            end=0,
            level=SYNC if crash.level is SYNC else step.level,
            shards=frozenset({0}) if crash.level is SYNC else step.shards if step.end <= crash.changes else frozenset(),
        )
        for step in trace.steps[:at]
    ]
    return after._replace(before=trace.before, steps=[*old, *after.steps])


# Workloads

LONG = b"a longer value, " * 8

WORKLOADS: dict[str, list[Call]] = {
    "overwrites": [
        call("set", b"a", b"1"),
        call("set", b"b", LONG),
        call("set", b"a", b"2", level=OS),
        call("set", b"a", LONG, level=NONE),
        call("delete", b"b"),
        call("set", b"", b""),
        call("delete", b"a", level=OS),
    ],
    "batches": [
        call("set_many", {b"a": b"1", b"b": b"2"}),
        call("set_many", {b"b": LONG, b"c": LONG, b"d": LONG}),
        call("set", b"b", b"3"),
        call("set_many", {b"%d" % n: LONG for n in range(5)}, level=OS),
        call("set_many", {b"a": b"4"}, level=NONE),
        call("delete", b"c"),
    ],
    "reads and writes": [
        call("append", b"a", b"12"),
        call("append", b"a", LONG),
        call("incr", b"n", 41),
        call("incr", b"n", 1, level=NONE),
        call("set_if_absent", b"n", b"0"),
        call("set_if_present", b"a", b"3", level=OS),
        call("set_if_absent", b"c", b"4"),
        call("get_set", b"c", b"5"),
    ],
    "rotation": [
        call("set", b"%d" % (n % 5), LONG + b"%x" % n, level=[SYNC, OS, NONE, NONE, OS][n % 5]) for n in range(12)
    ],
    "large": [
        call("set", b"a", b"1"),
        call("set", b"b", 12 * LONG),
        call("set", b"c", b"2", level=OS),
        call("append", b"b", 3 * LONG),
    ],
    "compaction": [
        *(call("set", b"%d" % (n % 3), LONG + b"%x" % n, level=NONE) for n in range(6)),
        call("delete", b"0"),
        call("compact"),
        call("set", b"1", b"again"),
        call("delete", b"2", level=OS),
        call("compact"),
        call("compact"),
        call("set", b"0", b"back"),
    ],
    "erase": [
        call("set_many", {b"x%d" % n: LONG for n in range(4)} | {b"y": LONG}),
        call("set", b"x1", b"newer", level=OS),
        call("erase", b"x"),
        call("compact"),
        call("set", b"x0", b"back"),
        call("erase", b""),
        call("compact"),
    ],
    "compaction during a scan": [
        call("set", b"a", LONG),
        call("set", b"b", LONG),
        call("delete", b"a"),
        call("set", b"c", LONG),
        call("begin scan"),
        call("set", b"c", b"1"),
        call("set", b"d", LONG),
        call("compact"),
        call("delete", b"b"),
        call("delete", b"d"),
        call("set", b"e", LONG),
        call("compact"),
        call("set", b"f", LONG),
        call("compact"),
        call("end scan"),
        call("set", b"c", b"2"),
    ],
    "reopening": [
        call("set", b"a", LONG, level=OS),
        call("reopen"),
        call("set", b"b", LONG, level=NONE),
        call("delete", b"a", level=NONE),
        call("set", b"c", LONG, level=NONE),
        call("set", b"d", LONG, level=NONE),
        call("reopen"),
        call("set", b"a", b"1"),
        call("sync"),
        call("reopen"),
    ],
}

# For workloads of every sequence of three of them.
ALPHABET = [
    call("set", b"a", b"1"),
    call("set", b"a", LONG, level=OS),
    call("set", b"b", LONG, level=NONE),
    call("set_many", {b"a": LONG, b"b": b"2", b"c": LONG}),
    call("delete", b"a"),
    call("append", b"b", LONG),
    call("erase", b"a"),
    call("compact"),
    call("reopen"),
]


def random_call(rng: random.Random) -> Call:
    """Any call on one of a few keys."""
    key, level = b"%d" % rng.randrange(6), rng.choice([NONE, OS, SYNC, SYNC])
    value = rng.choice([b"", b"1", LONG, b"%03d" % rng.randrange(1000) * rng.choice([10, 250])])
    verbs = ["set", "set", "delete", "set_many", "append", "incr", "set_if_absent", "set_if_present", "get_set"]
    match verb := rng.choice([*verbs, "erase", "compact", "compact", "sync", "reopen", "begin scan", "end scan"]):
        case "delete":
            return call(verb, key, level=level)
        case "set_many":
            return call(verb, {b"%d" % rng.randrange(6): value for _ in range(4)}, level=level)
        case "incr":
            return call(verb, b"n", rng.randrange(-5, 1000), level=level)
        case "erase":
            return call(verb, rng.choice([key, b"n", b"none"]))
        case "compact" | "sync" | "reopen" | "begin scan" | "end scan":
            return call(verb)
    return call(verb, key, value, level=level)
