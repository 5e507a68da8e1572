"""Commits that are made at once, as long as the disk is quick; what they promise is the same."""

from __future__ import annotations

import asyncio
import errno
import threading
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skeg import StorageError
from skeg.kv import AsyncStore, Durability, Store, StoreOptions, aio
from skeg.kv.aio import SMALL_BYTES
from skeg.kv.pace import Pace
from skeg.kv.store import open_store
from tests.kv.test_aio import options, run, soon
from tests.kv.test_concurrency_kv import Gate, WatchedOps

COMMITTER = "skeg-kv-commits"


@pytest.fixture
def ops():
    return WatchedOps()


@pytest.fixture(params=[1, 3])
def store(request, tmp_path, ops):
    with open_store(tmp_path / "store", options=options(), shards=request.param, files=ops) as opened:
        opened.set_many({b"%d" % n: b"old" for n in range(20)})
        yield opened


@pytest.fixture
def face(store):
    with AsyncStore(store, patience_s=60) as opened:
        yield opened


@given(durations=st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0]), max_size=40), limit=st.sampled_from([0.0, 0.5, 2.0]))
def test_the_pace_is_quick_as_long_as_most_of_eight_were(durations, limit):
    pace = Pace(limit)
    last, is_quick = [0.0] * 8, limit > 0
    assert is_quick == pace.is_quick
    for seconds in durations:
        pace.note(seconds)
        last = [*last[1:], seconds]
        n_quick = len([each for each in last if each < limit])
        if is_quick and n_quick < 5:
            last, is_quick = [9.0] * 8, False
        elif not is_quick and n_quick > 1:
            last, is_quick = [-1.0] * 8, True
        assert is_quick == pace.is_quick


def test_what_is_written_is_durable_when_submit_returns(store, face, ops):
    async def work():
        assert [b"old"] == face.submit([("get", b"7")]).results
        before, threads, told = ops.count["sync"], threading.active_count(), []
        ticket = face.submit([("set", b"%d" % n, b"new") for n in range(20)] + [("get", b"7")])
        assert ticket.is_durable
        assert b"new" == ticket.results[-1]
        assert len(store.shard_stats()) == ops.count["sync"] - before
        face.when_durable(ticket, told.append)
        await face.durable(ticket)
        assert ([None], threads) == (told, threading.active_count())
        assert b"new" == face.cached(b"7")

    run(work())


@pytest.mark.parametrize("level", [Durability.NONE, Durability.OS])
def test_who_wants_less_does_not_wait(face, ops, level):
    before = ops.count["sync"]
    assert face.submit([("set", b"a", b"")], durability=level).is_durable
    assert before == ops.count["sync"]


def test_nothing_is_waited_for_without_patience(store, ops):
    async def work():
        with AsyncStore(store) as face, Gate(ops, "sync") as gate:
            ticket = face.submit([("set", b"a", b"")])
            assert not ticket.is_durable
            await soon(gate.arrived.is_set)
            gate.opened.set()
            await face.durable(ticket)

    run(work())


@pytest.mark.parametrize(("verb", "code"), [("pwrite", errno.ENOSPC), ("sync", errno.EIO)])
def test_what_the_disk_refuses_is_taken_back(store, face, ops, verb, code):
    async def work():
        told = []
        gate = Gate(ops, verb, error=code)
        gate.opened.set()
        ticket = face.submit([("set", b"7", b"new"), ("get", b"7")])
        assert gate.arrived.is_set()
        assert not ticket.is_durable
        face.when_durable(ticket, told.append)
        with pytest.raises(StorageError, match="can't write the log"):
            await face.durable(ticket)
        assert [StorageError] == [type(error) for error in told]
        assert [b"old"] == face.submit([("get", b"7")]).results
        assert b"old" == store.get(b"7")

    run(work())


def test_a_read_of_what_another_thread_is_committing_waits_for_it(store, face, ops):
    async def work():
        with Gate(ops, "sync") as gate:
            writing = asyncio.create_task(asyncio.to_thread(store.set, b"7", b"new"))
            await soon(gate.arrived.is_set)
            reading = asyncio.create_task(asyncio.to_thread(face.submit, [("get", b"7")]))
            await asyncio.sleep(0.05)
            assert not reading.done()
        ticket = await reading
        await writing
        assert (True, [b"new"]) == (ticket.is_durable, ticket.results)

    run(work())


class Disk:
    """Takes as long for a sync as it is told, by a clock of its own; notes who waited."""

    def __init__(self, ops, monkeypatch):
        self.now, self.seconds, self.waited = 0.0, 0.0, []
        ops.before = self.before
        monkeypatch.setattr(aio, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def before(self, verb, _):
        if verb == "sync":
            self.now += self.seconds
            self.waited.append(threading.current_thread().name)


def test_a_thread_waits_as_long_as_the_disk_is_slow(tmp_path, ops, monkeypatch):
    async def work(face, disk):
        async def commit(seconds, times):
            disk.seconds, disk.waited = seconds, []
            for _ in range(times):
                await face.durable(face.submit([("set", b"a", b"")]))
            assert times == len(disk.waited)
            return [name == COMMITTER for name in disk.waited]

        assert [False] * 20 == await commit(0.9, 20)
        assert [False] * 4 + [True] * 20 == await commit(1.1, 24)
        assert [True] * 2 + [False] * 9 == await commit(0.9, 11)
        assert [False] * 2 == await commit(50, 2)
        assert [False] * 2 == await commit(0.1, 2)

    with open_store(tmp_path / "store", options=options(), files=ops) as store, AsyncStore(store, patience_s=1) as face:
        store.set(b"first", b"")
        run(work(face, Disk(ops, monkeypatch)))


def test_a_thread_waits_for_what_is_long(tmp_path, ops):
    async def work(face):
        assert face.submit([("set", b"a", bytes(SMALL_BYTES // 2))]).is_durable
        long = face.submit([("set", b"a", bytes(SMALL_BYTES))])
        await face.durable(long)
        assert long.is_durable

    with open_store(tmp_path / "store", options=options(), files=ops) as store:
        store.set(b"first", b"")
        with AsyncStore(store, patience_s=60) as face:
            run(work(face))
            assert face._thread is not None


def test_a_commit_that_another_thread_made_says_nothing_of_the_disk(tmp_path, ops, monkeypatch):
    async def work(store, face, disk):
        disk.seconds = 2.0
        for _ in range(8):
            await face.durable(face.submit([("set", b"a", b"")]))
        with face._lock:  # the thread waits with what it has committed
            for _ in range(8):
                ticket = face.submit([("set", b"a", b"")])
                store.sync()
        await face.durable(ticket)
        assert not face._pace.is_quick

    with open_store(tmp_path / "store", options=options(), files=ops) as store, AsyncStore(store, patience_s=1) as face:
        run(work(store, face, Disk(ops, monkeypatch)))


def test_a_new_segment_is_begun_at_once_too(tmp_path):
    small = StoreOptions(segment_bytes=1000, background=False)
    with Store.open(tmp_path / "store", options=small) as store, AsyncStore(store, patience_s=60) as face:
        assert all(face.submit([("set", b"%d" % n, bytes(100))]).is_durable for n in range(60))
        assert [bytes(100)] * 60 == store.mget([b"%d" % n for n in range(60)])
