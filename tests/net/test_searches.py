"""Who answers searches, and when: the loop itself, or threads. What is answered is the same."""

from __future__ import annotations

import struct
import threading
from types import SimpleNamespace

import numpy as np
import pytest

import skeg
from skeg.net import session
from skeg.net.binary.frames import Op, pack_frame
from skeg.net.engine import quick, searches
from skeg.net.resp.encode import encode
from skeg.net.session import AT_ONCE_MAX
from tests.net.serving import command

DIM, ROWS = 16, 300


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    path = tmp_path_factory.mktemp("searches") / "data"
    vectors = np.random.default_rng(1).normal(size=(ROWS, DIM)).astype(np.float32)
    with skeg.open(path, shards=1) as database:
        database.build_index("v", vectors)
    return path, vectors


@pytest.fixture(autouse=True)
def loaded(built):
    """What is slow the first time was done: it does not count as a slow search."""
    path, vectors = built
    with skeg.open(path, mode="r") as database:
        index = database.index("v")
        quick.Room(index.dim, 5, 2).answer(searches.Plan(index, 5, 50), vectors[0].tobytes())


def request(vector, k=5, *tail):
    return command("SKEG.VSEARCH", "v", k, 50, vector.tobytes(), *tail)


@pytest.fixture
def threads_used(monkeypatch):
    """Names of the threads that searched."""
    used = []
    real = searches._hits

    def noted(*args, **how):
        used.append(threading.current_thread().name.rpartition("-")[0])
        return real(*args, **how)

    monkeypatch.setattr(searches, "_hits", noted)
    # What answers the quick ones, if it does, leaves them to that.
    monkeypatch.setattr(quick.Room, "answer", lambda *_: None)
    return used


def found(talk, built, data, protocol="resp", **settings):
    async def work(sessions):
        connection, wire = sessions.open(protocol)
        return await sessions.ask(connection, wire, data)

    return talk(work, path=built[0], mode="r", **settings)


def expected(built, row):
    """The reply to a search for a row."""
    path, vectors = built
    with skeg.open(path, mode="r") as database:
        ids, scores = database.index("v").search(vectors[row], 5, search_list_size=50)
    flat = [word for hit in zip(ids.tolist(), scores.tolist(), strict=True) for word in hit]
    return encode([str(word) if isinstance(word, int) else word for word in flat], 2)


def test_quick_searches_are_answered_without_threads(talk, built, threads_used):
    _, vectors = built
    assert expected(built, 3) == found(talk, built, request(vectors[3]))
    assert found(talk, built, request(vectors[:4], 5, "BATCH", 4)).startswith(b"*4\r\n*10\r\n")
    payload = b"\x01\x00v" + struct.pack("<II", 5, DIM) + vectors[3].tobytes() + struct.pack("<I", 50)
    assert b"\x05\0\0\0" == found(talk, built, pack_frame(1, Op.VSEARCH, 7, payload), "binary")[-64:-60]
    assert threads_used
    assert "skeg-search" not in threads_used


@pytest.mark.parametrize("tail", [("FILTER", "a = 1"), ("WITHPAYLOAD",), ("BATCH", AT_ONCE_MAX + 1)])
def test_others_are_answered_on_threads(talk, built, threads_used, tail):
    count = tail[1] if tail[0] == "BATCH" else 1
    assert b"*" == found(talk, built, request(built[1][:count], 5, *tail))[:1]
    assert {"skeg-search"} == {*threads_used}


def test_long_lists_are_not_quick(talk, built, threads_used):
    _, vectors = built
    long = command("SKEG.VSEARCH", "v", 5, searches.QUICK_LIST_SIZE + 1, vectors[0].tobytes())
    found(talk, built, long + request(vectors[0], searches.QUICK_LIST_SIZE + 1))
    assert {"skeg-search"} == {*threads_used}


def test_threads_answer_everything_if_their_number_is_given(talk, built, threads_used):
    _, vectors = built
    assert expected(built, 3) == found(talk, built, request(vectors[3]), workers=1)
    assert {"skeg-search"} == {*threads_used}


@pytest.mark.parametrize("forgiven", [0, 1, 3])
def test_when_searches_took_long_again_and_again_threads_answer_for_a_while(
    talk, built, threads_used, monkeypatch, forgiven
):
    _, vectors = built
    replies = b"".join(expected(built, row) for row in range(40))
    # Each takes a second, which is one time the credit divided by `forgiven`, and hours of a share so small.
    clock = iter(range(10_000))
    for module in (searches, session):
        monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    monkeypatch.setattr(searches, "SLOW_SHARE", 1e-6)
    monkeypatch.setattr(searches, "BACKLOG_S", (forgiven + 0.5) / 1e-6)
    assert replies == found(talk, built, b"".join(map(request, vectors[:40])))
    assert "skeg-search" not in threads_used[: forgiven + 1]
    assert {"skeg-search"} == {*threads_used[forgiven + 1 :]}


def test_loop_and_threads_by_turns_answer_in_order(talk, built, threads_used, monkeypatch):
    _, vectors = built
    turns = iter(range(1000))
    monkeypatch.setattr(searches.SearchPool, "is_at_once", lambda *_: next(turns) % 3 > 0)
    replies = b"".join(expected(built, row) for row in range(40))
    assert replies == found(talk, built, b"".join(map(request, vectors[:40])))
    assert len({*threads_used}) > 1


def test_nobody_waits_for_all_the_searches_of_another(talk, built):
    _, vectors = built

    async def work(sessions):
        (greedy, much), (modest, little) = sessions.open(), sessions.open()
        greedy.data_received(request(vectors[0]) * 100)
        modest.data_received(request(vectors[1]))
        while not little.written:
            await sessions.settle(modest)
        before = bytes(much.written).count(b"*10\r\n")
        await sessions.settle(greedy)
        return before, bytes(much.written).count(b"*10\r\n")

    before, after = talk(work, path=built[0], mode="r")
    assert before <= 3 * AT_ONCE_MAX
    assert 100 == after


def test_a_batch_that_does_not_fit_the_tick_is_answered_in_the_next(talk, built):
    _, vectors = built
    batch = request(vectors[: AT_ONCE_MAX - 1], 5, "BATCH", AT_ONCE_MAX - 1)
    reply = found(talk, built, request(vectors[0]) * 2 + batch * 3 + request(vectors[0]))
    assert 3 + 3 * (AT_ONCE_MAX - 1) == reply.count(b"*10\r\n")


def test_an_error_of_the_index_is_the_reply(talk, built):
    _, vectors = built
    bad = vectors[0].copy()
    bad[3] = np.nan
    reply = found(talk, built, request(vectors[0]) + request(bad) + request(vectors[0]))
    whole = expected(built, 0)
    assert reply.startswith(whole + b"-ERR ")
    assert reply.endswith(b"\r\n" + whole)
    assert b"nan" in reply


@pytest.mark.parametrize("workers", [None, 1])
def test_a_mistake_of_ours_costs_one_reply(talk, built, monkeypatch, caplog, workers):
    _, vectors = built
    real = searches._hits

    def broken(plan, queries, count, **how):
        if vectors[1].tobytes() in queries:  # alone or together with others
            raise KeyError("a mistake")
        return plan and real(plan, queries, count, **how)

    monkeypatch.setattr(searches, "_hits", broken)
    monkeypatch.setattr(quick.Room, "answer", lambda _, __, query: broken(None, query, None))
    reply = found(talk, built, b"".join(map(request, vectors[:3])), workers=workers)
    said = reply.removeprefix(expected(built, 0)).removesuffix(expected(built, 2))
    assert b"-ERR storage error: internal error; the log of the server tells more\r\n" == said
    assert "a mistake" in caplog.text
