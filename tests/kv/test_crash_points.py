"""No crash loses an acknowledged write: kills and power cuts after every change, and again while recovering."""

from __future__ import annotations

import functools
import itertools
import random

import pytest

from skeg.errors import StorageError
from tests.kv.simdisk import SimDisk
from tests.kv.workloads import (
    ALPHABET,
    LONG,
    OS,
    WORKLOADS,
    Call,
    Checker,
    Options,
    Trace,
    call,
    crashes,
    new_store,
    random_call,
    record,
    resume,
)

# What is done after a recovery: every way of writing to files.
AFTERWARDS = [
    call("set", b"later", LONG),
    call("set", b"later", LONG + LONG, level=OS),
    call("compact"),
    call("reopen"),
    call("set", b"last", b"1"),
]


@functools.cache
def template(options: Options) -> SimDisk:
    """A new store; callers copy it."""
    return new_store(options)


def trace_of(calls: list[Call], options: Options) -> Trace:
    return record(template(options), calls, options)


def run_crash_points(seed: int, budget: int) -> tuple[int, list[str]]:
    """Check at least `budget` crashes of named and random workloads; how many there were, and what was lost.

    Some crashes are followed by other calls and another crash. Crashes that leave the same disk count once.
    """
    checker = Checker(seed)
    rng = random.Random(seed)
    lost: list[str] = []
    while checker.points < budget:
        options = Options(rng.choice((1, 1, 1, 3)), rng.choice((256, 512, 2048, 16384)))
        name, calls = "random", [random_call(rng) for _ in range(rng.randrange(2, 16))]
        if rng.random() < 0.3:
            name, calls = rng.choice(list(WORKLOADS.items()))
        try:
            trace = trace_of(calls, options)
            for crash in crashes(trace, rng, exhaustive=8, samples=6):
                found = checker.check(trace, crash)
                if options.shards == 1 and rng.random() < 0.02:
                    after = resume(trace, crash, found, [random_call(rng) for _ in range(3)])
                    checker.check_all(after, exhaustive=8, samples=4)
        except Exception as error:  # noqa: BLE001 - any error means that something can't be read
            verbs = [what.verb for what in calls]
            notes = getattr(error, "__notes__", "")
            lost.append(f"seed {seed}, point {checker.points}, {name} {verbs}, {options}: {error!r} {notes}")
    return checker.points, lost


@pytest.mark.parametrize("name", WORKLOADS)
@pytest.mark.parametrize("options", [Options(), Options(segment_bytes=4096)])
def test_nothing_promised_is_lost(name, options):
    checker = Checker(name)
    trace = trace_of(WORKLOADS[name], options)
    checker.check_all(trace, exhaustive=32, samples=6)
    assert checker.points > len(trace.journal)


@pytest.mark.parametrize("name", ["batches", "compaction", "erase", "reopening"])
def test_each_shard_keeps_what_was_promised(name):
    checker = Checker(name)
    trace = trace_of(WORKLOADS[name], Options(shards=3))
    checker.check_all(trace, exhaustive=8, samples=4)
    assert checker.points > len(trace.journal)


@pytest.mark.parametrize("first", ALPHABET)
def test_every_workload_of_up_to_three_calls(first):
    """Crashes during the last call only: those before it belong to a shorter workload."""
    checker = Checker(first)
    options = Options(segment_bytes=256)
    for rest in itertools.chain.from_iterable(itertools.product(ALPHABET, repeat=n) for n in range(3)):
        trace = trace_of([first, *rest], options)
        checker.check_all(trace, first=trace.steps[-2].end if rest else 0, exhaustive=4, samples=3)


def test_a_crash_while_a_store_is_made_leaves_none_or_a_whole_one():
    checker = Checker(1)
    trace = record(SimDisk(), [call("set", b"a", b"1")], Options(shards=2))
    absent = 0
    for crash in crashes(trace, random.Random(1)):
        try:
            checker.check(trace, crash)
        except StorageError:
            # Not there for readers: then nothing was promised, and it can be made.
            absent += 1
            assert {} in trace.allowed(crash.changes, crash.level)[0]
            again = record(crash.left, [call("set", b"b", b"2")], trace.options)
            checker.check_all(again, first=len(again.journal), samples=2)
    assert absent > 0


@pytest.mark.parametrize("name", ["batches", "rotation", "compaction", "erase"])
def test_a_crash_during_recovery_loses_nothing(name):
    """Some crashes of a workload, and for each all crashes of opening the store again and of what is done then."""
    checker = Checker(name)
    trace = trace_of(WORKLOADS[name], Options())
    every = list(crashes(trace, checker.rng, exhaustive=8, samples=4))
    for crash in checker.rng.sample(every, 4):
        after = resume(trace, crash, checker.check(trace, crash), AFTERWARDS)
        checker.check_all(after, exhaustive=8, samples=4)


def test_a_short_soak():
    points, lost = run_crash_points(seed=1, budget=300)
    assert points >= 300
    assert [] == lost
