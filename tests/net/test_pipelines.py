"""Requests that are sent without waiting are answered as if each had been waited for, whatever they are."""

from __future__ import annotations

import random

import numpy as np
import pytest

from skeg.net.binary import requests as rq
from skeg.net.binary.frames import Flags, pack_frame
from skeg.net.binary.requests import encode_request
from skeg.net.commands import TABLE
from tests.net.fuzzing import answers, no_mistakes
from tests.net.serving import command

DIM = 3

# What tells of the moment rather than of what was asked before, or ends the connection.
LEFT_OUT = {b"INFO", b"SKEG.STATS", b"SKEG.SHARDS", b"QUIT"}

# What needs several tenants, whatever its arguments.
REFUSED = [entry.name for entry in TABLE if entry.name.startswith(("SKEG.AUTH", "SKEG.Q", "SKEG.TENANT", "SKEG.SUB"))]
REFUSED += ["SKEG.RECLAIM"]


def vector(rng):
    return np.array([rng.gauss(0, 1) for _ in range(DIM)], np.float32).tobytes()


def words(rng):
    """One request; now and then it is one that can't be."""
    key, keys = f"k{rng.randrange(4)}", [f"k{rng.randrange(6)}" for _ in range(rng.choice((1, 2, 5, 600)))]
    index, number, value = f"i{rng.randrange(2)}", rng.randrange(8), rng.choice(("1", "-7", "x" * rng.randrange(300)))
    several = [word for n in range(3) for word in (n, vector(rng), rng.choice(("", "n=1")))]
    return rng.choice((
        ["PING"], ["PING", value], ["ECHO", value], ["SELECT", rng.choice((0, 1))], ["NONE", value], ["GET"],
        ["HELLO"], ["HELLO", 2], ["HELLO", 3], ["HELLO", 3, "AUTH", "default", rng.choice(("right", "right", "wrong"))],
        ["AUTH", "right"], ["AUTH", "right"], ["RESET"], ["CLIENT", "SETNAME", key], ["CLIENT", "GETNAME"],
        ["SKEG.DURABILITY"], ["SKEG.DURABILITY", rng.choice(("sync", "os", "none", "no"))], ["SKEG.WHOAMI"],
        ["GET", key], ["GET", key], ["SET", key, value], ["SET", key, value], ["SET", key, value, "NX"],
        ["SET", key, value, "XX", "GET"], ["SETNX", key, value], ["GETSET", key, value], ["GETDEL", key],
        ["STRLEN", key], ["TYPE", key], ["APPEND", key, value[:9]], ["MGET", *keys], ["INCR", key], ["DECR", key],
        ["INCRBY", key, value[:9]], ["DECRBY", key, 3], ["DEL", *keys], ["EXISTS", *keys], ["DBSIZE"],
        ["MSET", *[word for each in keys for word in (each, value)]], ["SCAN", 0, "COUNT", 1000], ["COMMAND", "COUNT"],
        ["CONFIG", "GET", "durability"], ["SKEG.VINDEX.LIST"], ["SKEG.VINDEX.DROP", index],
        ["SKEG.VINDEX.CREATE", index, DIM, "f32", rng.choice(("flat", "disk"))],
        ["SKEG.VINDEX.CREATE", index, DIM, "f32", rng.choice(("flat", "disk"))], ["SKEG.VINDEX.CONSOLIDATE", index],
        ["SKEG.VSET", index, number, vector(rng)], ["SKEG.VSET", index, number, vector(rng), "PAYLOAD", "n=1"],
        ["SKEG.VSET", index, number, "short"], ["SKEG.VMSET", index, *several], ["SKEG.VDEL", index, number],
        ["SKEG.VGET", index, number], ["SKEG.VSEARCH", index, 1, 0, vector(rng)],
        ["SKEG.VSEARCH", index, 8, 8, vector(rng)], ["SKEG.VSEARCH", index, 3, 0, vector(rng), "FILTER", "n = 1"],
        ["SKEG.VSEARCH", index, 2, 0, vector(rng) * 2, "BATCH", 2],
        ["SKEG.VSEARCH", index, 3, 0, vector(rng), "WITHPAYLOAD"], [rng.choice(REFUSED)],
    ))  # fmt: skip


def frame(rng, number):
    """One frame of the binary protocol, with wishes."""
    key, keys = b"k%d" % rng.randrange(4), [b"k%d" % rng.randrange(6) for _ in range(rng.choice((0, 1, 2, 5, 3000)))]
    index, vector_id, value = f"i{rng.randrange(2)}", rng.randrange(8), rng.randbytes(rng.choice((0, 9, 300)))
    kind, backend = rng.choice((1, 2, 9)), rng.choice((0, 1, 7))
    request = rng.choice((
        rq.Ping(), rq.NativeHello(), rq.Auth(rng.choice((b"right", b"right", b"wrong"))), rq.Get(key), rq.Get(key),
        rq.Set(key, value), rq.Set(key, value), rq.Del(key), rq.Exists(key), rq.Mget(keys), rq.Mexists(keys),
        rq.Mset([(each, value) for each in keys]), rq.Flush(), rq.VindexList(), rq.VindexDrop(index),
        rq.VindexCreate(index, DIM, kind, backend), rq.VindexCreate(index, DIM, 1, 1),
        rq.Vset(index, vector_id, bytes(4)),
        rq.Vset(index, vector_id, vector(rng)), rq.Vset(index, vector_id, vector(rng)), rq.Vdel(index, vector_id),
        rq.Vget(index, vector_id), rq.Vsearch(index, 3, vector(rng)), rq.Vsearch(index, 8, vector(rng), 8),
    ))  # fmt: skip
    op, payload = encode_request(request)
    wishes = rng.choice((0, 0, Flags.WAIT_DURABLE, Flags.NO_REPLY, Flags.SET_NX, Flags.SET_XX, Flags.COMPRESSED_LZ4))
    return pack_frame(rng.choice((1, 2)), op, number, payload, wishes)


def requests(seed, most, count=100):
    rng = random.Random(seed)
    some = [["AUTH", "right"], ["SKEG.VINDEX.CREATE", "i0", DIM, "f32", "disk"], *(words(rng) for _ in range(count))]
    return [command(*each) for each in some if len(each) <= most]


def test_every_command_is_among_them():
    asked = {words(random.Random(seed))[0].encode() for seed in range(3000)} - {b"NONE"}
    known = {entry.name.encode() for entry in TABLE}
    assert asked <= known
    assert known - asked == LEFT_OUT


MANNERS = [
    pytest.mark.parametrize("patience_s", [0.0, 60.0]),
    pytest.mark.parametrize("password", [None, b"right"]),
    pytest.mark.parametrize("seed", range(6)),
]


def in_all_manners(test):
    for mark in MANNERS:
        test = mark(test)
    return test


@pytest.fixture
def told(talk, tmp_path):
    """The replies to requests one by one, and the bytes that come when they are sent together."""

    def run(asked, protocol, seed, **how):
        async def one_by_one(sessions):
            connection, wire = sessions.open(protocol)
            return [await sessions.ask(connection, wire, request) for request in asked]

        async def together(sessions):
            return await answers(sessions, random.Random(seed), b"".join(asked), protocol)

        how |= {"shards": 1 + seed % 2, "workers": (None, 2)[seed % 3 == 2]}
        with no_mistakes():
            expected = talk(one_by_one, path=tmp_path / "a", **how)
            found, is_closed = talk(together, path=tmp_path / "b", **how)
        assert not is_closed
        return expected, found

    return run


@in_all_manners
def test_a_pipeline_is_answered_as_its_requests_one_by_one(told, seed, password, patience_s):
    # What is longer ends a connection that has not given the password, unless it was read before that was forgotten.
    asked = requests(seed, 10 if password else 10_000)
    expected, found = told(asked, "resp", seed, password=password, patience_s=patience_s)
    place = 0
    for request, reply in zip(asked, expected, strict=True):
        among_others = found[place : place + len(reply)]
        if b"SCAN" in request:  # the order is that of the database
            assert sorted(reply.split(b"\r\n")) == sorted(among_others.split(b"\r\n"))
        else:
            assert reply == among_others, request[:200]
        place += len(reply)
    assert place == len(found)


@in_all_manners
def test_so_it_is_in_the_binary_protocol(told, seed, password, patience_s):
    rng = random.Random(seed)
    asked = [frame(rng, number) for number in range(150)]
    if password:
        op, payload = encode_request(rq.Auth(password))
        asked.insert(40, pack_frame(2, op, 999, payload))
        asked = [each for each in asked if len(each) < 4096]
    expected, found = told(asked, "binary", seed, password=password, patience_s=patience_s)
    place = 0
    for request, reply in zip(asked, expected, strict=True):
        assert reply == found[place : place + len(reply)], request[:200]
        place += len(reply)
    assert place == len(found)
