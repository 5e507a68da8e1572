"""Changes of vectors, whoever makes them: small ones the loop, with a thread for the disk, others another thread."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest

import skeg
from skeg.fileops import File
from skeg.net.engine import changes, syncs
from skeg.net.engine.changes import SMALL_BYTES, SMALL_ROWS
from tests.ann.live.small import no_background
from tests.net.serving import command

DIM = 4
WAYS = pytest.mark.parametrize("is_native", [True, False], ids=["as it is", "slowly"])


def floats(number, dim=DIM):
    return np.full(dim, number, "<f4").tobytes()


def vset(number, *payload):
    return command("SKEG.VSET", "v", number, floats(number + 1), *(("PAYLOAD", payload[0]) if payload else ()))


def vmset(*numbers):
    return command("SKEG.VMSET", "v", *[word for n in numbers for word in (n, floats(n + 1), b"n=%d" % n)])


class Talk:
    """A connection to a server that has an index *v* and counts which batches the thread makes."""

    def __init__(self, sessions, monkeypatch, dim=DIM):
        self.engine, self.of_thread = sessions.server.engine, []
        self._sessions, self._dim = sessions, dim
        no_background(monkeypatch)  # which would have to be waited for, now and then
        apply = changes._apply
        monkeypatch.setattr(changes, "_apply", lambda some: self.of_thread.append(len(some)) or apply(some))

    async def begin(self):
        self.connection, self._wire = self._sessions.open()
        # The first change makes the log, which takes a thread.
        await self.say(command("SKEG.VINDEX.CREATE", "v", self._dim, "f32", "flat"))
        for number in range(60):  # in every shard
            await self.say(command("SKEG.VSET", "v", 1000 + number, floats(1, self._dim)))
        self.of_thread.clear()
        return self

    async def say(self, *requests):
        return bytes(await self._sessions.ask(self.connection, self._wire, b"".join(requests)))

    def ids(self):
        return [i for i in self.engine.database.index("v").ids().tolist() if i < 1000]


@WAYS
@pytest.mark.parametrize("level", ["none", "os", "sync"])
def test_small_changes_are_made_without_a_thread_of_python(talk, monkeypatch, level, is_native):
    monkeypatch.setattr(syncs, "IS_NATIVE", is_native and syncs.IS_NATIVE)

    async def work(sessions):
        with_v = await Talk(sessions, monkeypatch).begin()
        told = await with_v.say(command("SKEG.DURABILITY", level))
        told += await with_v.say(vset(1), vset(2, b"n=2"))
        told += await with_v.say(vmset(3, 4), command("SKEG.VDEL", "v", 4), command("SKEG.VDEL", "v", 5))
        return told, with_v.of_thread, with_v.ids(), with_v.engine.changes.nbytes

    assert (b"+OK\r\n" * 3 + b":2\r\n:1\r\n:0\r\n", [], [1, 2, 3], 0) == talk(work, durability="os", shards=1)


def test_what_is_large_is_a_threads(talk, monkeypatch):
    async def work(sessions):
        with_v = await Talk(sessions, monkeypatch).begin()
        told = []
        for request in (vmset(*range(SMALL_ROWS)), vmset(*range(SMALL_ROWS + 1)), vset(1, b"x" * SMALL_BYTES)):
            with_v.of_thread.clear()
            told.append((await with_v.say(request), [*with_v.of_thread]))
        return told, with_v.engine.database.index("v").payloads([1, 2])

    told, payloads = talk(work, durability="sync", shards=1)
    assert [(b":16\r\n", []), (b":17\r\n", [1]), (b"+OK\r\n", [1])] == told
    assert [b"x" * SMALL_BYTES, b"n=2"] == payloads


def test_who_gives_no_payload_keeps_it(talk, monkeypatch):
    async def work(sessions):
        with_v = await Talk(sessions, monkeypatch).begin()
        await with_v.say(vset(1, b"n=1"), vset(2, b"n=2"))
        await with_v.say(command("SKEG.VSET", "v", 1, floats(7)))
        first, with_v.of_thread[:] = [*with_v.of_thread], []
        # An empty payload is none, in a command with several.
        words = [word for number in (2, 3) for word in (number, floats(8), b"")]
        await with_v.say(command("SKEG.VMSET", "v", *words))
        index = with_v.engine.database.index("v")
        return first, with_v.of_thread, index.payloads([1, 2, 3]), index.get([1, 2, 3])[:, 0].tolist()

    first, then, payloads, numbers = talk(work, durability="sync", shards=1)
    assert ([], []) == (first, then)
    assert ([b"n=1", b"n=2", None], [7, 8, 8]) == (payloads, numbers)


def test_changes_of_several_shards_at_a_time_are_a_threads(talk, monkeypatch):
    async def work(sessions):
        with_v = await Talk(sessions, monkeypatch).begin()
        one_by_one = [await with_v.say(vset(number)) for number in range(5)]
        first, with_v.of_thread[:] = [*with_v.of_thread], []
        return one_by_one, first, await with_v.say(vmset(*range(5, 15))), with_v.of_thread, with_v.ids()

    one_by_one, first, together, then, ids = talk(work, durability="sync", shards=3)
    assert ([b"+OK\r\n"] * 5, [], b":10\r\n", [1], [*range(15)]) == (one_by_one, first, together, then, ids)


def test_what_comes_during_a_sync_becomes_one_batch(talk, monkeypatch):
    async def work(sessions):
        with_v = await Talk(sessions, monkeypatch).begin()
        begun, begin = [], changes._begin
        monkeypatch.setattr(changes, "_begin", lambda some: begun.append(len(some)) or begin(some))
        others = [sessions.open() for _ in range(10)]
        for number, (connection, _) in enumerate(others):
            connection.data_received(vset(number))
            if not number:
                sessions.server.engine.changes.flush()
        for connection, wire in others:
            await sessions.settle(connection)
            assert b"+OK\r\n" == bytes(wire.written)
        return begun, with_v.of_thread, with_v.ids()

    assert ([1, 9], [], [*range(10)]) == talk(work, durability="sync", shards=1)


def test_changes_are_made_in_their_order_whoever_makes_them(talk, monkeypatch):
    async def work(sessions):
        with_v = await Talk(sessions, monkeypatch).begin()
        requests, left = [], set()
        rng = np.random.default_rng(3)
        for _ in range(300):
            numbers = rng.choice(40, rng.choice([1, 2, 20]), replace=False).tolist()
            if rng.random() < 0.5:
                requests += [command("SKEG.VDEL", "v", number) for number in numbers]
                left -= {*numbers}
            else:
                requests.append(vmset(*numbers) if rng.random() < 0.5 else vset(numbers[0]))
                left |= {*numbers} if b"VMSET" in requests[-1] else {numbers[0]}
        told = await with_v.say(*requests)
        return told.count(b"\r\n") - len(requests), with_v.ids(), sorted(left), len(with_v.of_thread) > 0

    missing, found, wanted, is_mixed = talk(work, durability="sync", shards=1)
    assert (0, wanted, True) == (missing, found, is_mixed)


@WAYS
def test_nobody_is_told_what_the_disk_has_refused(talk, monkeypatch, is_native):
    """A pipe can't be synced."""
    monkeypatch.setattr(syncs, "IS_NATIVE", is_native and syncs.IS_NATIVE)
    ends = os.pipe()

    async def work(sessions):
        with_v = await Talk(sessions, monkeypatch).begin()
        monkeypatch.setattr(File, "descriptor", ends[0])
        told = [await with_v.say(vset(1)), await with_v.say(vset(2)), await with_v.say(command("SKEG.VDEL", "v", 1))]
        return told, with_v.ids(), await with_v.say(command("SKEG.VSEARCH", "v", 1, 10, floats(1)))

    told, ids, search = talk(work, durability="sync", shards=1)
    for end in ends:
        os.close(end)
    assert all(each.startswith(b"-ERR storage error: ") for each in told)
    assert os.strerror(errno.EINVAL).encode() in told[0]
    assert b"open the index again" in told[1]
    assert [] == ids
    assert search.startswith(b"*2\r\n")


@pytest.mark.parametrize("where", ["_begin", "_apply"])
def test_a_mistake_of_ours_costs_one_reply(talk, monkeypatch, where):
    async def work(sessions):
        with_v = await Talk(sessions, monkeypatch).begin()

        def mistaken(*_):
            raise RuntimeError(where)

        with monkeypatch.context() as patch:
            patch.setattr(changes, "_begin" if where == "_begin" else "_make", mistaken)
            first = await with_v.say(vset(1) if where == "_begin" else vmset(*range(20)))
        return first, await with_v.say(vset(2)), with_v.ids()

    first, second, ids = talk(work, durability="sync", shards=1)
    if where == "_begin":
        assert (b"+OK\r\n", [1, 2]) == (first, ids)
    else:
        assert first.startswith(b"-ERR ")
        assert [2] == ids
    assert b"+OK\r\n" == second


@WAYS
def test_a_thread_that_has_ended_holds_nobody_up(talk, monkeypatch, is_native):
    monkeypatch.setattr(syncs, "IS_NATIVE", is_native and syncs.IS_NATIVE)

    async def work(sessions):
        with_v = await Talk(sessions, monkeypatch).begin()
        await with_v.say(command("SKEG.VINDEX.CREATE", "w", DIM, "f32", "flat"))
        other = [command("SKEG.VSET", "w", number, floats(1)) for number in range(3)]
        await with_v.say(other[0])
        with_v.engine._syncs.close()
        with monkeypatch.context() as patch:
            for name in ("serve_natively", "serve_slowly"):
                patch.setattr(syncs, name, lambda channel: channel.recv(4))
            failed = await with_v.say(vset(1))
        return failed, await with_v.say(vset(2)), await with_v.say(*other[1:]), with_v.ids()

    failed, second, other, ids = talk(work, durability="sync", shards=1)
    assert failed.startswith(b"-ERR storage error: ")
    assert b"the thread that syncs has ended" in failed
    assert b"open the index again" in second, "nobody knows what is on the disk"
    assert (b"+OK\r\n" * 2, []) == (other, ids), "other indexes go on, with another thread"


def test_changes_are_begun_though_another_request_fails_by_a_mistake_of_ours(talk, monkeypatch):
    async def work(sessions):
        with_v = await Talk(sessions, monkeypatch).begin()
        other, other_wire = sessions.open()

        def mistaken():
            raise RuntimeError

        with monkeypatch.context() as patch:
            patch.setattr(with_v.engine.keys, "run", mistaken)
            other.data_received(command("SET", "a", 1))
            told = await with_v.say(vset(1))
        return told, other_wire.is_closed, with_v.ids()

    assert (b"+OK\r\n", True, [1]) == talk(work, durability="sync", shards=1)


@pytest.mark.parametrize("count", [1, 30])
def test_what_was_begun_is_finished_before_the_end(talk, monkeypatch, tmp_path, count):
    async def work(sessions):
        with_v = await Talk(sessions, monkeypatch).begin()
        with_v.connection.data_received(b"".join(vset(number) for number in range(count)))
        sessions.server.engine.changes.flush()

    talk(work, durability="sync", shards=1)
    with skeg.open(tmp_path / "data", mode="r") as database:
        assert {*range(count)} <= {*database.index("v").ids().tolist()}
