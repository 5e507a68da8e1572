"""Many operations in one call: in order, with one commit for all, and nothing is told before it is durable."""

from __future__ import annotations

import asyncio
import errno
import threading

import pytest

from skeg import ClosedError, ParameterError, ReadOnlyError, SkegError, StorageError, ValueTypeError
from skeg.kv import AsyncStore, Durability, Store, StoreOptions
from skeg.kv import format as fmt
from skeg.kv.aio import FEW
from skeg.kv.store import open_store
from tests.kv.test_concurrency_kv import PATIENCE_S, Gate, WatchedOps, until


def options(**changes):
    return StoreOptions(**{"background": False, "segment_bytes": 1 << 20} | changes)


@pytest.fixture
def ops():
    return WatchedOps()


@pytest.fixture
def store(tmp_path, ops):
    with open_store(tmp_path / "store", options=options(), files=ops) as opened:
        yield opened


@pytest.fixture
def face(store):
    with AsyncStore(store) as opened:
        yield opened


def run(coroutine):
    async def limited():
        async with asyncio.timeout(PATIENCE_S):
            return await coroutine

    return asyncio.run(limited())


def results(face, *operations, **how):
    """What operations return, when that is durable."""

    async def submit():
        ticket = face.submit(operations, **how)
        await face.durable(ticket)
        return ticket.results

    return run(submit())


async def soon(condition):
    """Wait, without holding up the loop, for what other threads bring about."""
    assert await asyncio.to_thread(until, condition)


# Operations


def test_every_operation_does_what_the_method_of_its_name_does(store, face):
    done = [
        (("set", b"a", b"1"), None),
        (("get", b"a"), b"1"),
        (("get", b"none"), None),
        (("contains", b"a"), True),
        (("contains", b"none"), False),
        (("incr", b"n"), 1),
        (("incr", b"n", 41), 42),
        (("append", b"a", b"2"), 2),
        (("set_many", [(b"x", b"1"), (b"y", b"2"), (b"x", b"3")]), None),
        (("set_many", {b"z": b"4"}), None),
        (("mget", [b"x", b"none", b"y", b"z", b"x"]), [b"3", None, b"2", b"4", b"3"]),
        (("set_if_absent", b"x", b"5"), False),
        (("set_if_absent", b"w", b"5"), True),
        (("set_if_present", b"x", b"6"), True),
        (("set_if_present", b"v", b"6"), False),
        (("get_set", b"x", b"7"), b"6"),
        (("get_set", b"u", b"7"), None),
        (("delete", b"x"), True),
        (("delete", b"x"), False),
        (("get", b"x"), None),
    ]
    assert [result for _, result in done] == results(face, *(operation for operation, _ in done))
    expected = {b"a": b"12", b"n": b"42", b"y": b"2", b"z": b"4", b"w": b"5", b"u": b"7"}
    assert expected == dict(store.scan())


@pytest.mark.parametrize("shards", [1, 3])
def test_operations_of_one_call_see_those_before_them(tmp_path, shards):
    with Store.open(tmp_path / "store", shards=shards, options=options()) as store, AsyncStore(store) as face:
        keys = [b"%d" % n for n in range(9)]
        operations = []
        for key in keys:
            operations += [("append", key, b"a"), ("get", key), ("append", key, b"b"), ("get", key), ("delete", key)]
            operations += [("get", key), ("incr", key, 5), ("incr", key, 6), ("get", key)]
        assert [1, b"a", 2, b"ab", True, None, 5, 11, b"11"] * 9 == results(face, *operations)
        assert [[b"11"] * 9] == results(face, ("mget", keys))


def test_nobody_comes_between_the_operations_of_one_call(store, face):
    stop = threading.Event()

    def interfere():
        while not stop.is_set():
            store.set(b"a", b"theirs", durability=Durability.NONE)

    thread = threading.Thread(target=interfere)
    thread.start()
    try:
        for _ in range(100):
            assert [None, *[b"mine"] * 20] == face.submit([("set", b"a", b"mine"), *[("get", b"a")] * 20]).results
    finally:
        stop.set()
        thread.join()


def test_an_error_is_the_result_of_its_operation_alone(store, face, monkeypatch):
    monkeypatch.setattr(fmt, "VALUE_BYTES_MAX", 1000)
    store.set(b"text", b"abc")
    found = results(
        face,
        ("set", b"a", b"1"),
        ("incr", b"text"),
        ("set", b"a", bytes(1001)),
        ("append", b"text", bytes(998)),
        ("incr", b"a", 2**63 - 1),
        ("set", b"k" * 65_536, b""),
        ("mget", [b"a", "text"]),
        ("set_many", [(b"a", b"2"), (b"b", None)]),
        ("set", b"z", b"9"),
        ("get", b"a"),
    )
    kinds = [ValueTypeError, *[ParameterError] * 6]
    assert [None, *kinds, None, b"1"] == [type(r) if isinstance(r, SkegError) else r for r in found]
    assert {b"text": b"abc", b"a": b"1", b"z": b"9"} == dict(store.scan())


@pytest.mark.parametrize(
    "operation",
    [
        ("nothing", b"a"),
        ("scan",),
        ("close",),
        ("get",),
        ("get", b"a", b"b"),
        ("set", b"a"),
        ("set", b"a", b"1", b"2"),
        ("incr",),
        ("incr", b"a", 1, 2),
        ("incr", b"a", "1"),
        ("delete", "a"),
        ("mget",),
        ("mget", 5),
        ("mget", [b"a"], [b"b"]),
        ("set_many",),
        ("set_many", 5),
        (),
        (5, b"a"),
        (None,),
        ([], b"a"),
        "get",
        b"get",
        5,
        None,
    ],
    ids=repr,
)
def test_an_operation_that_is_none_harms_nobody(store, face, operation):
    """Neither those beside it nor the store."""
    found = results(face, ("set", b"a", b"1"), operation, ("append", b"a", b"2"))
    assert [None, ParameterError, 2] == [type(r) if isinstance(r, SkegError) else r for r in found]
    store.set(b"b", b"3")
    assert {b"a": b"12", b"b": b"3"} == dict(store.scan())


def test_operations_whose_iteration_fails_change_nothing(store, face):
    def operations():
        yield "set", b"a", b"1"
        raise LookupError

    with pytest.raises(LookupError):
        face.submit(operations())
    store.set(b"b", b"2")
    assert {b"b": b"2"} == dict(store.scan())


def test_operations_may_come_from_an_iterator_that_uses_the_store(store, face):
    store.set_many({b"a": b"1", b"b": b"2"})
    assert [True, True] == results(face, *(("delete", key) for key, _ in store.scan()))
    assert [None, None] == face.submit(("get", key) for key in (b"a", b"b") if key not in store).results


# One commit


def test_one_call_costs_one_write_and_one_sync(store, face, ops):
    store.set(b"first", b"")
    before = dict(ops.count)
    found = results(face, *(("set", b"%d" % n, b"") for n in range(500)), ("delete", b"first"), ("incr", b"n"))
    assert [*[None] * 500, True, 1] == found
    assert (1, 1) == (ops.count["pwrite"] - before["pwrite"], ops.count["sync"] - before["sync"])


def test_calls_made_during_a_commit_gather_for_the_next(store, face, ops):
    async def work():
        store.set(b"first", b"")
        with Gate(ops, "sync") as gate:
            first = asyncio.create_task(face.durable(face.submit([("set", b"leader", b"")])))
            await soon(gate.arrived.is_set)
            before = dict(ops.count)
            tickets = [face.submit([("set", b"%d" % n, b""), ("get", b"first")]) for n in range(50)]
            others = [asyncio.create_task(face.durable(ticket)) for ticket in tickets]
            await asyncio.sleep(0)
            assert not any(task.done() for task in (first, *others))
            assert [[None, b""]] * 50 == [ticket.results for ticket in tickets]
            assert sorted(ticket.seq for ticket in tickets) == [ticket.seq for ticket in tickets]
        await asyncio.gather(first, *others)
        assert (1, 1) == (ops.count["pwrite"] - before["pwrite"], ops.count["sync"] - before["sync"])
        assert tickets[-1].seq == store.durable_seq == 52

    run(work())


def test_the_loop_goes_on_during_a_commit(store, face, ops):
    async def work():
        store.set(b"a", b"1")
        with Gate(ops, "sync") as gate:
            ticket = face.submit([("set", b"b", b"2")])
            waiting = asyncio.create_task(face.durable(ticket))
            await soon(gate.arrived.is_set)
            for _ in range(10):
                read = face.submit([("get", b"a"), ("contains", b"none")])
                assert ([b"1", False], 0) == (read.results, read.seq)
                await face.durable(read)
            assert not waiting.done()
            assert store.durable_seq < ticket.seq
        await waiting
        assert store.durable_seq >= ticket.seq

    run(work())


SEEING = [("get", b"a"), ("mget", [b"still", b"a"]), ("contains", b"a"), ("set_if_absent", b"a", b""), ("get", b"gone")]
SEEING += [("delete", b"gone"), ("set_if_present", b"gone", b"")]


@pytest.mark.parametrize("operation", SEEING, ids=lambda operation: f"{operation[0]} {operation[1]}")
def test_a_read_of_what_is_not_durable_has_to_wait_for_it(store, face, ops, operation):
    async def work():
        store.set_many({b"still": b"1", b"gone": b"1"})
        with Gate(ops, "sync") as gate:
            write = face.submit([("set", b"a", b"1"), ("delete", b"gone")])
            await soon(gate.arrived.is_set)
            late = face.submit([("set", b"other", b"")])
            read = face.submit([("get", b"still"), operation])
            assert write.seq <= read.seq < late.seq
            waiting = asyncio.create_task(face.durable(read))
            await asyncio.sleep(0)
            assert not waiting.done()
        await waiting
        assert store.durable_seq >= read.seq
        for ticket in (write, late):
            await face.durable(ticket)

    run(work())


def test_reading_alone_waits_for_nothing_and_wakes_nobody(store, face):
    store.set(b"a", b"1")
    threads = threading.active_count()
    ticket = face.submit([("get", b"a"), ("mget", [b"a", b"b"]), ("delete", b"b"), ("set_if_absent", b"a", b"2")])
    assert ([b"1", [b"1", None], False, False], 0) == (ticket.results, ticket.seq)
    run(face.durable(ticket))
    run(face.durable(face.submit([])))
    assert threads == threading.active_count()


@pytest.mark.parametrize("level", Durability)
def test_the_durability_is_that_of_the_call(store, face, ops, level):
    store.set(b"first", b"")
    before = dict(ops.count)
    ticket = face.submit([("set", b"a", b"1"), ("get", b"a")], durability=level)
    run(face.durable(ticket))
    assert (level > Durability.NONE) == (before["pwrite"] < ops.count["pwrite"])
    assert (level is Durability.SYNC) == (before["sync"] < ops.count["sync"])
    assert (level is Durability.NONE) == (ticket.seq == 0)
    with pytest.raises(ParameterError, match="durability"):
        face.submit([("set", b"a", b"2")], durability=int(level))
    assert b"1" == store.get(b"a")


def test_what_nobody_waits_for_does_not_pile_up(store, face):
    for n in range(40):
        face.submit([("set", b"%d" % n, bytes(100_000))], durability=Durability.NONE)
        assert until(lambda: store.stats()["staged_bytes"] < 1_300_000, 5)


def test_many_tasks_on_several_shards(tmp_path):
    """Counters add up, appended parts are all there, and each task reads what it wrote."""

    async def task(face, number):
        for n in range(20):
            key = b"own-%d-%d" % (number, n)
            ticket = face.submit(
                [("incr", b"n"), ("append", b"log", b"<%02d>" % number), ("set", key, b"1"), ("get", key)]
            )
            await face.durable(ticket)
            assert b"1" == ticket.results[3]

    async def work(face):
        await asyncio.gather(*(task(face, number) for number in range(30)))

    with Store.open(tmp_path / "store", shards=4, options=options(segment_bytes=4096, background=True)) as store:
        with AsyncStore(store) as face:
            run(work(face))
        assert store.stats()["commits"] < 30 * 20
    with Store.open(tmp_path / "store") as store:
        assert b"600" == store.get(b"n")
        value = store.get(b"log")
        assert sorted(b"<%02d>" % number for number in range(30) for _ in range(20)) == sorted(
            value[i : i + 4] for i in range(0, len(value), 4)
        )
        assert 602 == len(store)


def test_waiting_may_be_given_up_and_may_be_done_often(store, face, ops):
    async def work():
        with Gate(ops, "sync") as gate:
            ticket = face.submit([("set", b"a", b"1")])
            await soon(gate.arrived.is_set)
            tasks = [asyncio.create_task(face.durable(ticket)) for _ in range(5)]
            await asyncio.sleep(0)
            tasks[0].cancel()
            with pytest.raises(asyncio.CancelledError):
                await tasks[0]
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(face.durable(ticket), 0.001)
        await asyncio.gather(*tasks[1:])
        await face.durable(ticket)
        return ticket

    ticket = run(work())
    run(face.durable(ticket))  # in another loop
    assert b"1" == store.get(b"a")


def test_a_server_is_called_back_once_what_it_would_tell_is_durable(store, face, ops):
    async def work():
        told = []
        with Gate(ops, "sync") as gate:
            ticket = face.submit([("set", b"a", b"1")])
            face.when_durable(ticket, told.append)
            await soon(gate.arrived.is_set)
            await asyncio.sleep(0)
            assert ([], False) == (told, ticket.is_durable)
        await face.durable(ticket)
        face.when_durable(ticket, told.append)
        await asyncio.sleep(0)
        assert ([None, None], True) == (told, ticket.is_durable)

    run(work())


def test_a_callback_gets_the_error_of_the_disk(store, face, ops):
    async def work():
        told = []
        with Gate(ops, "pwrite", error=errno.ENOSPC) as gate:
            ticket = face.submit([("set", b"a", b"new")])
            face.when_durable(ticket, told.append)
            await soon(gate.arrived.is_set)
        with pytest.raises(StorageError):
            await face.durable(ticket)
        await asyncio.sleep(0)
        assert [StorageError] == [type(error) for error in told]
        assert not ticket.is_durable

    run(work())


def test_cached_tells_only_what_is_durable(store, face, ops):
    async def work():
        store.set(b"a", b"1")
        assert face.cached(b"a") is None
        assert b"1" == store.get(b"a") == face.cached(b"a")
        with Gate(ops, "sync") as gate:
            ticket = face.submit([("set", b"a", b"2"), ("get", b"a")])
            await soon(gate.arrived.is_set)
            assert face.cached(b"a") is None
        await face.durable(ticket)
        assert [b"2"] == face.submit([("get", b"a")]).results
        assert b"2" == face.cached(b"a")

    run(work())


@pytest.mark.parametrize("size", [0, 1, 1000, fmt.LARGE_BYTES])
def test_no_value_is_larger_than_its_bound(store, face, size):
    assert 0 == face.size_bound(b"a")
    store.set(b"a", bytes(size))
    assert size < face.size_bound(b"a") < size + 200
    store.delete(b"a")
    assert 0 == face.size_bound(b"a")


@pytest.mark.parametrize("count", [0, 1, FEW - 1, FEW, FEW + 1])
def test_set_each_gives_every_key_its_value(store, face, count):
    pairs = {b"k%d" % i: b"%d" % i for i in range(count)}
    assert [None, None] == results(face, ("set_each", pairs), ("set_each", pairs))
    assert pairs == dict(store.scan())


@pytest.mark.parametrize("how", ["set", "set_each", "append"])
def test_values_that_are_written_are_in_memory_when_they_are_durable(store, face, ops, how):
    def write(*values):
        if how == "set_each":
            return [("set_each", {b"k%d" % i: value for i in range(20)}) for value in values]
        return [(how, b"k%d" % i, value) for value in values for i in range(20)]

    async def work():
        store.set_many({b"k%d" % i: b"" for i in range(20)})
        assert [b""] * 20 == [store.get(b"k%d" % i) for i in range(20)]
        with Gate(ops, "sync") as gate:
            first = face.submit(write(b"1", b"2"))
            await soon(gate.arrived.is_set)
            assert face.cached(b"k7") is None
            second = face.submit([*write(b"3"), ("delete", b"k8")])
            assert [None] * 20 == [face.cached(b"k%d" % i) for i in range(20)]
        await face.durable(first)
        assert face.cached(b"k7") in {None, b"3", b"123"}
        await face.durable(second)
        expected = b"123" if how == "append" else b"3"
        assert [expected, None, expected] == [face.cached(b"k%d" % i) for i in (7, 8, 9)]
        assert [expected, None, expected] == face.submit([("mget", [b"k7", b"k8", b"k9"])]).results[0]

    run(work())
    assert [] == store.verify()


# Failures


@pytest.mark.parametrize(("verb", "code"), [("pwrite", errno.ENOSPC), ("pwrite", errno.EIO), ("sync", errno.EIO)])
def test_durable_raises_when_the_disk_refuses(store, face, ops, verb, code):
    async def work():
        store.set(b"a", b"old")
        assert b"old" == store.get(b"a")
        with Gate(ops, verb, error=code) as gate:
            failing = face.submit([("set", b"a", b"new"), ("get", b"a")])
            await soon(gate.arrived.is_set)
            behind = face.submit([("append", b"a", b"er")])
            reading = face.submit([("get", b"a")])
            assert [b"newer"] == reading.results
        for ticket in (failing, behind, reading, failing):
            with pytest.raises(StorageError, match="can't write the log"):
                await face.durable(ticket)
        assert face.cached(b"a") is None
        assert [b"old"] == face.submit([("get", b"a")]).results
        assert b"old" == face.cached(b"a")
        after = face.submit([("set", b"b", b"1"), ("get", b"a")])
        if code == errno.ENOSPC:
            await face.durable(after)
            assert [None, b"old"] == after.results
        else:
            assert [StorageError, bytes] == [type(result) for result in after.results]
            await face.durable(after)  # there is nothing to wait for

    run(work())
    assert b"old" == store.get(b"a")
    ops.before = None
    assert [] == store.verify()


def test_a_store_opened_for_reading_answers_reads_and_refuses_the_rest(tmp_path):
    with Store.open(tmp_path / "store", shards=2) as store:
        store.set_many({b"a": b"1", b"n": b"2"})
    with Store.open(tmp_path / "store", mode="r") as store, AsyncStore(store) as face:
        writes = [("set", b"a", b"2"), ("delete", b"a"), ("append", b"a", b""), ("incr", b"n"), ("get_set", b"a", b"")]
        writes += [("set_if_absent", b"x", b""), ("set_if_present", b"x", b""), ("delete", b"x")]
        writes += [("set_many", {b"a": b"2"}), ("set_many", [])]
        found = face.submit([("get", b"a"), *writes, ("mget", [b"n", b"x"]), ("contains", b"a")]).results
        assert [b"1", *[ReadOnlyError] * len(writes), [b"2", None], True] == [
            type(result) if isinstance(result, SkegError) else result for result in found
        ]


# Closing


@pytest.mark.parametrize("mode", ["rw", "r"])
def test_a_closed_face_and_a_closed_store_say_so(tmp_path, mode):
    with Store.open(tmp_path / "store") as store:
        store.set(b"a", b"1")
    with Store.open(tmp_path / "store", mode=mode) as store:
        first = AsyncStore(store)
        first.close()
        first.close()
        with pytest.raises(ClosedError, match="closed"):
            first.submit([("get", b"a")])
        second = AsyncStore(store)
        assert [b"1"] == second.submit([("get", b"a")]).results  # the store stays open
    with pytest.raises(ClosedError, match="closed"):
        second.submit([("get", b"a")])
    with pytest.raises(ClosedError, match="closed"):
        second.submit([])
    second.close()


def test_closing_commits_what_was_submitted(tmp_path):
    with Store.open(tmp_path / "store", options=options()) as store:
        with AsyncStore(store) as face:
            tickets = [face.submit([("set", b"%d" % n, b"")]) for n in range(100)]
        assert store.durable_seq >= tickets[-1].seq
        assert not any("commits" in thread.name for thread in threading.enumerate())
        for ticket in tickets:
            run(face.durable(ticket))


def test_a_store_that_is_closed_first_takes_what_was_submitted_along(tmp_path):
    store = Store.open(tmp_path / "store", options=options())
    face = AsyncStore(store)
    tickets = [face.submit([("set", b"%d" % n, b"")]) for n in range(100)]
    store.close()
    for ticket in tickets:
        run(face.durable(ticket))
    face.close()
    with Store.open(tmp_path / "store") as store:
        assert 100 == len(store)


def test_waiting_in_a_loop_that_was_closed_disturbs_nobody(store, face, ops):
    with Gate(ops, "sync") as gate:

        async def leave():
            ticket = face.submit([("set", b"a", b"1")])
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(face.durable(ticket), 0.001)
            return ticket

        ticket = run(leave())
        assert gate.arrived.wait(PATIENCE_S)
    run(face.durable(ticket))
    assert [None] == results(face, ("set", b"b", b"2"))
