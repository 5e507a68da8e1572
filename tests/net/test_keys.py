"""Keys on several connections at once: nobody is told what is not so, whoever commits it."""

from __future__ import annotations

import errno
import os
import random
import threading

import pytest

from skeg.net.binary import requests as rq
from skeg.net.binary.frames import pack_frame
from skeg.net.binary.requests import encode_request
from tests.net.serving import command

PATIENCE_S = pytest.mark.parametrize("patience_s", [0.0, 60.0], ids=["a thread commits", "the loop commits"])
OK, SET, GET = b"+OK\r\n", command("SET", "a", "new"), command("GET", "a")


class Disk:
    """Notes which thread syncs, and refuses if it is told to."""

    def __init__(self, sessions):
        self.threads, self.error = [], None
        for shard in sessions.server.engine.database.kv._parts.shards:
            shard.log._write = self._noted(shard.log._write)

    def _noted(self, write):
        def noted(work):
            self.threads.append(threading.current_thread().name)
            if self.error is not None:
                raise OSError(self.error, os.strerror(self.error))
            write(work)

        return noted


def binary(request, number=1):
    op, payload = encode_request(request)
    return pack_frame(2, op, number, payload)


@PATIENCE_S
def test_all_that_came_together_are_answered_once_it_is_committed(talk, patience_s):
    async def work(sessions):
        disk = Disk(sessions)
        several = [sessions.open() for _ in range(5)]
        for number, (connection, _) in enumerate(several):
            connection.data_received(command("SET", f"k{number}", number) + command("GET", "k0"))
            assert not several[0][1].written
        for connection, wire in several:
            await sessions.settle(connection)
            assert OK + b"$1\r\n0\r\n" == bytes(wire.written)
        return disk.threads

    threads = talk(work, patience_s=patience_s, shards=1)
    assert {"skeg-kv-commits"} == {*threads} if not patience_s else "skeg-kv-commits" not in threads


@PATIENCE_S
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_nobody_is_told_what_the_disk_has_refused(talk, patience_s, code):
    async def work(sessions):
        disk = Disk(sessions)
        several = [sessions.open("resp"), sessions.open("resp"), sessions.open("binary")]
        assert OK == await sessions.ask(*several[0], command("SET", "a", "old"))
        disk.error = code
        written = binary(rq.Set(b"b", b"new")) + binary(rq.Get(b"a"), 2)
        for (connection, _), data in zip(several, (SET + GET, GET, written), strict=True):
            connection.data_received(data)
        told = []
        for connection, wire in several:
            await sessions.settle(connection)
            told.append(bytes(wire.written))
        disk.error = None
        assert b"$3\r\nold\r\n" == await sessions.ask(*several[0], GET)
        return told, await sessions.ask(*several[1], SET)

    (first, second, third), after = talk(work, patience_s=patience_s, shards=1)
    assert first.startswith(OK + b"-ERR storage error: ")
    assert 2 == first.count(b"-ERR storage error: ")
    assert second == b"$3\r\nold\r\n"
    assert 2 == third.count(b"can't write the log")
    assert after == OK if code == errno.ENOSPC else after.startswith(b"-ERR storage error: ")


@PATIENCE_S
@pytest.mark.parametrize("seed", range(5))
def test_replies_go_out_in_the_order_of_the_requests(talk, patience_s, seed):
    """With levels of durability that change in between."""

    async def work(sessions):
        connection, wire = sessions.open()
        requests = []
        for number in range(30):
            requests += [command("SET", "a", number), GET, command("PING"), command("INCR", "n")]
            levels = command("SKEG.DURABILITY", ("os", "sync", "none")[number % 3]), command("RESET")
            requests += [levels[number % 5 == 4]]
        data, rng = b"".join(requests), random.Random(seed)
        while data:
            size = rng.choice((1, 50, 200, 2000))
            connection.data_received(data[:size])
            data = data[size:]
            if rng.random() < 0.2:
                await sessions.settle(connection)
        await sessions.settle(connection)
        return bytes(wire.written)

    found = talk(work, patience_s=patience_s)
    replies = [
        OK
        + b"$%d\r\n%d\r\n" % (len(str(number)), number)
        + b"+PONG\r\n:%d\r\n" % (number + 1)
        + (b"+RESET\r\n" if number % 5 == 4 else OK)
        for number in range(30)
    ]
    assert b"".join(replies) == found
