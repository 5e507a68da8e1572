"""What one client can make a server do to others: take their memory, their time, their place, or their secrets."""

from __future__ import annotations

import asyncio
import struct
import threading
import tracemalloc

import pytest

from skeg.errors import CorruptError
from skeg.net.access import FAILURES_MAX
from skeg.net.binary import requests as rq
from skeg.net.binary.frames import Op, pack_frame
from skeg.net.commands import keyspace
from skeg.net.engine import engine as engines
from skeg.net.serve import hub as hubs
from skeg.net.serve.connection import INBOX_BYTES
from skeg.net.session import HELD_BYTES, TICK_BYTES
from tests.net.fuzzing import check_text, frames_of, replies_of
from tests.net.serving import command

MIB = 1 << 20
FLOATS = struct.pack("<2f", 1.0, 2.0)


def told(talk, *requests, **how):
    """Replies of RESP to each of some streams on one connection, and whether it is closed then."""

    async def work(sessions):
        connection, wire = sessions.open()
        found = [replies_of(await sessions.ask(connection, wire, request)) for request in requests]
        return [*found, wire.is_closed]

    return talk(work, **how)


# --- the password


def test_passwords_are_not_tried_by_the_thousand_in_one_chunk(talk):
    tries = b"".join(command("AUTH", f"wrong {number}") for number in range(1000))
    replies, is_closed = told(talk, tries + command("AUTH", "right") + command("SET", "a", "b"), password=b"right")
    assert ["WRONGPASS"] * FAILURES_MAX == [reply.code for reply in replies]
    assert is_closed


def test_nor_are_they_over_the_binary_protocol(talk):
    async def work(sessions):
        connection, wire = sessions.open("binary")
        passwords = [b"wrong"] * 1000 + [b"right"]
        data = b"".join(pack_frame(1, *_packed(rq.Auth(password))) for password in passwords)
        written = await sessions.ask(connection, wire, data)
        return frames_of(written), wire.is_closed

    frames, is_closed = talk(work, password=b"right")
    assert [Op.ERR] * FAILURES_MAX == [frame.op for frame in frames]
    assert is_closed


def test_what_arrived_before_a_reset_and_runs_after_it_needs_the_password_again(talk):
    """The run is parsed while the client is known, and begins when it is not any more."""

    async def work(sessions):
        connection, wire = sessions.open()
        await sessions.ask(connection, wire, command("AUTH", "right"))
        connection.data_received(command("INFO") + command("RESET"))
        connection.data_received(command("SET", "key00", "value") * 8)
        await sessions.settle(connection)
        return replies_of(bytes(wire.written))[2:], len(sessions.server.engine.database.kv)

    replies, keys = talk(work, password=b"right")
    assert b"RESET" == replies[0]
    assert ["NOAUTH"] * 8 == [reply.code for reply in replies[1:]]
    assert 0 == keys


# --- memory


@pytest.mark.parametrize("words", [["COMMAND"], ["CLIENT", "LIST"], ["COMMAND", "DOCS"], ["ECHO", "x" * 5000]])
def test_replies_of_one_tick_are_bounded_whatever_they_are_to(talk, words):
    async def work(sessions):
        opened = [sessions.open() for _ in range(100)]
        connection, wire = opened[0]
        connection.data_received(command(*words) * 2000)
        at_once = len(wire.written)
        await sessions.settle(connection, 60)
        return at_once, len(replies_of(bytes(wire.written)))

    at_once, count = talk(work)
    assert at_once <= TICK_BYTES + 64 * 1024
    assert 2000 == count


@pytest.mark.parametrize(
    "words",
    [["APPEND", "big", "x"], ["INCR", "big"], ["SETNX", "big", "x"], ["SET", "big", "x", "NX"], ["STRLEN", "big"]],
)
def test_what_short_commands_read_and_write_of_a_long_value_is_bounded(talk, words):
    async def work(sessions):
        connection, wire = sessions.open()
        await sessions.ask(connection, wire, command("SET", "big", b"x" * (MIB + 1)))
        tracemalloc.start()
        written = await sessions.ask(connection, wire, command(*words) * 40)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak, len(replies_of(written))

    peak, count = talk(work, durability="os", cache_bytes=0)
    assert 40 == count
    assert peak < 20 * MIB


def test_whether_keys_are_there_is_told_without_reading_their_values(talk):
    async def work(sessions):
        connection, wire = sessions.open()
        await sessions.ask(connection, wire, command("SET", "a", bytes(16 * MIB)))
        tracemalloc.start()
        found = await sessions.ask(connection, wire, command("EXISTS", *["a", "b"] * 100))
        binary, binary_wire = sessions.open("binary")
        op, payload = rq.encode_request(rq.Mexists([b"a", b"b"] * 2))
        frame = frames_of(await sessions.ask(binary, binary_wire, pack_frame(1, op, 1, payload)))[0]
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found, frame.payload, peak < MIB

    assert (b":100\r\n", b"\4\0\0\0\1\0\1\0", True) == talk(work)


def test_requests_that_can_not_begin_are_not_read_without_end(talk):
    async def work(sessions):
        go = threading.Event()
        for _ in range(4):  # as many as there are threads
            sessions.server.engine.run(go.wait, lambda _: None)
        connection, wire = sessions.open()
        connection.data_received(command("INFO"))
        request, count = command("SET", "k", b"x" * (MIB // 4)), 0
        while wire.is_reading and count < 1000:
            for at in range(0, len(request), 65_536):
                connection.data_received(request[at : at + 65_536])
            count += 1
        go.set()
        await sessions.settle(connection)
        return count * len(request), count, replies_of(bytes(wire.written))[1:], wire.is_reading

    nbytes, count, replies, is_reading = talk(work)
    assert nbytes <= INBOX_BYTES + MIB
    assert [b"OK"] * count == replies
    assert is_reading


def test_replies_that_wait_for_a_commit_are_bounded(talk, monkeypatch):
    async def work(sessions):
        connection, wire = sessions.open()
        await sessions.ask(connection, wire, command("SET", "big", b"x" * (4 * MIB)))
        session = connection.session
        commit = session.hold()  # a write before them is under way
        connection.data_received(command("GET", "big") * 100)
        for _ in range(50):
            connection.wake(session)
            await asyncio.sleep(0)
        held = session.held_bytes
        monkeypatch.setattr(wire, "write", lambda data: counts.append(len(data)))
        session.release(commit)
        await sessions.settle(connection)
        return held

    counts = []
    held = talk(work)
    assert held <= HELD_BYTES + TICK_BYTES + 5 * MIB
    assert 100 * (4 * MIB + len(b"$4194304\r\n\r\n")) == sum(counts)


def test_parts_of_requests_stay_within_what_all_may_take(talk):
    most = MIB

    async def work(sessions):
        opened = [sessions.open() for _ in range(100)]
        for connection, _ in opened:
            connection.data_received(b"*2\r\n$3\r\nGET\r\n$60000\r\n" + b"x" * 50_000)
        left = [connection for connection, wire in opened if not wire.is_closed]
        return sum(connection.session.pending for connection in left)

    assert talk(work, max_buffered_bytes=most) <= 2 * most


def test_changes_that_wait_are_bounded_by_bytes_too(talk, monkeypatch):
    monkeypatch.setattr(engines, "QUEUE_BYTES", 1)

    async def work(sessions):
        connection, wire = sessions.open()
        await sessions.ask(connection, wire, command("SKEG.VINDEX.CREATE", "v", 2, "f32", "flat"))
        depths = []
        engine = sessions.server.engine
        submit = engine.changes.submit
        monkeypatch.setattr(
            engine.changes, "submit", lambda change: (depths.append(engine.changes.depth), submit(change))
        )
        sets = b"".join(command("SKEG.VSET", "v", number, FLOATS) for number in range(20))
        searches = command("SKEG.VSEARCH", "v", 1, 0, FLOATS) * 5
        return replies_of(await sessions.ask(connection, wire, sets + searches)), depths

    replies, depths = talk(work)
    assert [b"OK"] * 20 == replies[:20]
    assert 25 == len(replies)
    assert [0] * 20 == depths


def test_a_reply_with_payloads_is_bounded(talk):
    setup = [command("SKEG.VINDEX.CREATE", "v", 2, "f32", "flat")]
    setup += [command("SKEG.VSET", "v", number, FLOATS, "PAYLOAD", b"x" * 40_000) for number in range(3)]
    search = [command("SKEG.VSEARCH", "v", k, 0, FLOATS, "WITHPAYLOAD") for k in (1, 3, 1)]
    *_, one, three, again, is_closed = told(talk, *setup, *search, max_reply_bytes=1 << 16)
    assert "storage error: reply with payloads of 120000 bytes: at most 65536 are sent" == three[0].message
    assert one == again
    assert not is_closed


def test_steps_through_long_keys_are_short_and_miss_none(talk):
    keys = [b"%04d" % number + b"x" * 60_000 for number in range(60)]

    async def work(sessions):
        connection, wire = sessions.open()
        await sessions.ask(connection, wire, b"".join(command("SET", key, "") for key in keys))
        found, cursor, longest = set(), b"0", 0
        while True:
            written = await sessions.ask(connection, wire, command("SCAN", cursor, "COUNT", 10_000))
            longest = max(longest, len(written))
            ((cursor, some),) = replies_of(written)
            found |= {*some}
            if cursor == b"0":
                return found, longest

    found, longest = talk(work, durability="os")
    assert {*keys} == found
    assert longest <= keyspace.STEP_BYTES + 256 * 61_000


# --- time


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["COMMAND", "INFO", *["get"] * 65], "65 names or patterns: at most 64"),
        (["COMMAND", "DOCS", *["get"] * 65], "65 names or patterns: at most 64"),
        (["CONFIG", "GET", *["x"] * 65], "65 names or patterns: at most 64"),
        (["CONFIG", "GET", "x" * 1025], "pattern of 1025 bytes: at most 1024"),
        (["SCAN", "0", "MATCH", "x" * 1025], "pattern of 1025 bytes: at most 1024"),
    ],
)
def test_long_lists_and_patterns_are_refused(talk, words, text):
    (reply,), is_closed = told(talk, command(*words))
    assert text == reply.message
    assert not is_closed


def test_a_section_is_told_once_however_often_it_is_named(talk):
    once, often, _ = told(talk, command("INFO", "replication"), command("INFO", *["replication", "REPLICATION"] * 5000))
    assert once == often


def test_numbers_of_vectors_that_are_alike_for_a_dict_take_no_time(talk):
    """As numbers, each of the last ones would be compared with all before it."""
    size = 1 << 17
    numbers, place = [], 1
    for _ in range(78_000):
        numbers.append(place)
        place = (5 * place + 1) % size
    numbers += [606907363080] * 9000
    items = [word for number in numbers for word in (number, b"abcd", "")]
    create = command("SKEG.VINDEX.CREATE", "v", 2, "f32", "flat")
    _, (reply,), _ = told(talk, create, command("SKEG.VMSET", "v", *items))
    assert "storage error: vindex 'v' dim 2 but vector has 1" == reply.message


def test_merges_do_not_keep_others_from_their_threads(talk, monkeypatch):
    async def work(sessions):
        connection, wire = sessions.open()
        await sessions.ask(connection, wire, command("SKEG.VINDEX.CREATE", "v", 2, "f32", "flat"))
        go = threading.Event()
        index = sessions.server.engine.database.index("v")
        monkeypatch.setattr(index, "consolidate", lambda **_: go.wait())
        merging = [sessions.open() for _ in range(10)]
        for each, _ in merging:
            each.data_received(command("SKEG.VINDEX.CONSOLIDATE", "v"))
        (found,) = replies_of(await sessions.ask(connection, wire, command("SKEG.VGET", "v", 1)))
        go.set()
        for each, _ in merging:
            await sessions.settle(each)
        return found, [bytes(each_wire.written) for _, each_wire in merging]

    assert (None, [b"+OK\r\n"] * 10) == talk(work)


@pytest.mark.parametrize("protocol", ["resp", "binary"])
def test_a_long_write_does_not_make_a_short_reply_behind_it_too_long(talk, protocol):
    async def work(sessions):
        connection, wire = sessions.open(protocol)
        big, keys = b"x" * (7 * MIB), [b"a%d" % number for number in range(10)]
        if protocol == "resp":
            return replies_of(await sessions.ask(connection, wire, command("SET", "k", big) + command("MGET", *keys)))
        requests = [rq.Set(b"k", big), rq.Mget(keys)]
        data = b"".join(pack_frame(1, *_packed(request)) for request in requests)
        return [frame.payload for frame in frames_of(await sessions.ask(connection, wire, data))]

    expected = {"resp": [b"OK", [None] * 10], "binary": [b"", b"\12\0\0\0" + b"\1" * 10]}
    assert expected[protocol] == talk(work)


def _packed(request):
    op, payload = rq.encode_request(request)
    return op, 1, payload


# --- a place, and what is said


def test_who_does_not_take_a_short_reply_is_closed_too(talk, monkeypatch):
    monkeypatch.setattr(hubs, "SWEEP_S", 0.01)

    async def work(sessions):
        connection, wire = sessions.open()
        await sessions.ask(connection, wire, command("PING"))
        wire.untaken = len(wire.written)
        while not wire.is_closed:  # noqa: ASYNC110 - a sweep closes it
            await asyncio.sleep(0)

    talk(work, stall_timeout_s=0.05)


def test_who_takes_replies_slowly_is_not(talk):
    async def work(sessions):
        connection, wire = sessions.open()
        await sessions.ask(connection, wire, command("ECHO", "x" * 100))
        stalled = []
        for step, left in enumerate((100, 99, 98, 98, 97, 0)):
            wire.untaken = left
            connection.look(50 * step)
            stalled.append(connection.stalled is not None)
        return stalled

    assert [False, False, False, True, False, False] == talk(work)


@pytest.mark.parametrize("protocol", ["resp", "binary"])
def test_an_index_that_is_dropped_as_a_search_begins_is_not_found(talk, monkeypatch, protocol):
    async def work(sessions):
        connection, wire = sessions.open()
        create = command("SKEG.VINDEX.CREATE", "v", 2, "f32", "flat")
        await sessions.ask(connection, wire, create + command("SKEG.VSET", "v", 1, FLOATS))
        database = sessions.server.engine.database
        get = database.index

        def last(name):
            index = get(name)
            monkeypatch.undo()
            database.drop_index(name)
            return index

        monkeypatch.setattr(database, "index", last)
        other, other_wire = sessions.open(protocol)
        if protocol == "resp":
            (reply,) = replies_of(await sessions.ask(other, other_wire, command("SKEG.VSEARCH", "v", 1, 0, FLOATS)))
            return reply.message, other_wire.is_closed
        op, payload = rq.encode_request(rq.Vsearch("v", 1, FLOATS))
        (frame,) = frames_of(await sessions.ask(other, other_wire, pack_frame(1, op, 1, payload)))
        return frame.payload[2:].decode(), other_wire.is_closed

    assert ("storage error: vindex 'v' not found", False) == talk(work)


def test_errors_about_an_index_that_is_closed_do_not_say_where_it_was(talk):
    async def work(sessions):
        connection, wire = sessions.open()
        search = command("SKEG.VSEARCH", "v", 1, 0, FLOATS)
        create = command("SKEG.VINDEX.CREATE", "v", 2, "f32", "disk")
        await sessions.ask(connection, wire, create + command("SKEG.VSET", "v", 1, FLOATS) + search)
        sessions.server.engine.database.index("v").close()
        requests = [search, command("SKEG.VSEARCH", "v", 9, 0, FLOATS, "WITHPAYLOAD"), command("SKEG.VGET", "v", 1)]
        requests += [command("SKEG.VSET", "v", 1, FLOATS), command("SKEG.VDEL", "v", 1)]
        requests += [command("SKEG.VINDEX.CONSOLIDATE", "v"), command("SKEG.VINDEX.LIST"), command("INFO")]
        return replies_of(await sessions.ask(connection, wire, b"".join(requests)))

    *errors, _, _ = talk(work)
    assert ["storage error: vindex 'v' not found"] * 6 == [error.message for error in errors]


def test_a_damaged_record_costs_a_reply_and_not_the_connection(talk, monkeypatch):
    async def work(sessions):
        def damaged(*_):
            raise CorruptError("/secret/shard-0/1.log", "checksum", offset=5)

        monkeypatch.setattr(sessions.server.engine.keys, "get_at_once", damaged)
        connection, wire = sessions.open()
        replies = replies_of(await sessions.ask(connection, wire, command("GET", "a") + command("PING")))
        return replies, wire.is_closed

    (error, pong), is_closed = talk(work)
    check_text(error.message)
    assert "storage error: checksum" == error.message
    assert b"PONG" == pong
    assert not is_closed


def test_a_mistake_in_a_tick_leaves_nobody_waiting(talk, monkeypatch):
    async def work(sessions):
        keys = sessions.server.engine.keys
        monkeypatch.setattr(keys, "run", lambda: 1 / 0)
        first, second = sessions.open(), sessions.open()
        for connection, _ in (first, second):
            connection.data_received(command("SET", "a", "1"))
        while not (first[1].is_closed and second[1].is_closed):  # noqa: ASYNC110 - a tick closes them
            await asyncio.sleep(0)
        monkeypatch.undo()
        connection, wire = sessions.open()
        return await sessions.ask(connection, wire, command("SET", "a", "1") + command("GET", "a"))

    assert b"+OK\r\n$1\r\n1\r\n" == talk(work)
