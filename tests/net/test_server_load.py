"""A hundred connections at once, each of which knows what it has to be answered."""

from __future__ import annotations

import asyncio
import random
import threading
from contextlib import AsyncExitStack

import numpy as np

from skeg.net.clients.aio import AsyncClient
from tests.net.serving import PATIENCE_S, ServerProcess

OVER_RESP, OVER_FRAMES = 92, 8
TURNS, AT_ONCE = 24, 8
DIM, IDS = 16, 10
COUNTERS = 5


def unit(rng):
    vector = np.array([rng.gauss(0, 1) for _ in range(DIM)], np.float32)
    return vector / np.linalg.norm(vector)


class Owner:
    """What one connection has done: its keys, its vectors, and its part of the counters that all share."""

    def __init__(self, number):
        self.number = number
        self.random = random.Random(number)
        self.keys, self.vectors = {}, {}
        self.added = [0] * COUNTERS
        self.counted = []  # what increments returned

    def key(self):
        return b"%d:%d" % (self.number, self.random.randrange(12))

    def id(self):
        return self.number * IDS + self.random.randrange(IDS)


class OverResp(Owner):
    """Some commands at a time, which are sent together."""

    async def work(self, client):
        for _ in range(TURNS):
            calls = [self.operation() for _ in range(AT_ONCE)]
            replies = await asyncio.gather(*[client.execute(*words) for words, _ in calls])
            for (words, check), reply in zip(calls, replies, strict=True):
                check(words, reply)

    def operation(self):
        key, rng, keys = self.key(), self.random, self.keys
        match rng.randrange(12):
            case 0 | 1:
                keys[key] = rng.randbytes(rng.choice((0, 10, 1000, 20_000)))
                return ["SET", key, keys[key]], equal(b"OK")
            case 2 | 3:
                return ["GET", key], equal(keys.get(key))
            case 4:
                return ["DEL", key], equal(int(keys.pop(key, None) is not None))
            case 5:
                pairs = {self.key(): rng.randbytes(10) for _ in range(4)}
                keys.update(pairs)
                return ["MSET", *[word for pair in pairs.items() for word in pair]], equal(b"OK")
            case 6:
                wanted = [self.key() for _ in range(5)]
                return ["MGET", *wanted], equal([keys.get(each) for each in wanted])
            case 7:
                keys[key] = keys.get(key, b"") + b"more"
                return ["APPEND", key, b"more"], equal(len(keys[key]))
            case 8:
                counter, step = rng.randrange(COUNTERS), rng.choice((1, 1, 7))
                self.added[counter] += step
                return ["INCRBY", b"shared:%d" % counter, step], lambda _, n: self.counted.append((counter, n))
            case 9:
                number = self.id()
                self.vectors[number] = unit(rng)
                return ["SKEG.VSET", "v", number, self.vectors[number].tobytes()], equal(b"OK")
            case 10:
                number = self.id()
                return ["SKEG.VDEL", "v", number], equal(int(self.vectors.pop(number, None) is not None))
            case _:
                if not self.vectors:
                    return ["PING"], equal(b"PONG")
                number = rng.choice([*self.vectors])
                # No other vector is as close to itself, and nobody else changes it.
                found = self.nearest(number)
                return ["SKEG.VSEARCH", "v", 3, 0, self.vectors[number].tobytes()], found

    def nearest(self, number):
        def check(_, reply):
            assert b"%d" % number == reply[0]
            assert abs(float(reply[1]) - 1) < 1e-5

        return check


def equal(expected):
    def check(words, reply):
        assert expected == reply, words

    return check


class OverFrames(Owner):
    def work(self, client):
        for _ in range(TURNS * AT_ONCE // 2):
            key = self.key()
            match self.random.randrange(4):
                case 0:
                    self.keys[key] = self.random.randbytes(100)
                    client.set(key, self.keys[key])
                case 1:
                    assert (self.keys.pop(key, None) is not None) == client.delete(key)
                case 2:
                    number = self.id()
                    self.vectors[number] = unit(self.random)
                    client.vset("v", number, self.vectors[number])
                    assert number == client.vsearch("v", self.vectors[number], k=1)[0].id
                case _:
                    assert self.keys.get(key) == client.get(key)


async def connect_and_work(port, owners):
    async with AsyncExitStack() as stack:
        clients = [await AsyncClient.connect(port=port, timeout=PATIENCE_S) for _ in owners]
        for client in clients:
            await stack.enter_async_context(client)
        await asyncio.gather(*[owner.work(client) for owner, client in zip(owners, clients, strict=True)])


def in_threads(owners, clients):
    """Start them; returns the threads and a list for what goes wrong."""
    failures = []

    def work(owner, client):
        try:
            with client:
                owner.work(client)
        except BaseException as error:
            failures.append(error)
            raise

    threads = [threading.Thread(target=work, args=pair) for pair in zip(owners, clients, strict=True)]
    for thread in threads:
        thread.start()
    return threads, failures


def check(server, owners):
    """All that was done is there, and nothing else."""
    keys = {key: value for owner in owners for key, value in owner.keys.items()}
    vectors = {number: vector for owner in owners for number, vector in owner.vectors.items()}
    sums = [sum(owner.added[n] for owner in owners) for n in range(COUNTERS)]
    keys |= {b"shared:%d" % n: b"%d" % total for n, total in enumerate(sums)}
    with server.client() as client:
        assert {*keys} == {*client.scan_iter(count=1000)}
        for key, value in keys.items():
            assert value == client.get(key), key
        assert str(len(vectors)) == client.vindex_list()[0]["n_vectors"]
        ids = sorted(vectors)
        stored = np.stack([vectors[number] for number in ids])
        for query in stored[::25]:
            nearest = np.argsort(-(stored @ query), kind="stable")[:10]
            assert [ids[n] for n in nearest] == [hit.id for hit in client.vsearch("v", query, k=10)]


def test_everything_is_exactly_right(tmp_path):
    """While they work, at the end, and after a restart."""
    over_resp = [OverResp(n) for n in range(OVER_RESP)]
    over_frames = [OverFrames(OVER_RESP + n) for n in range(OVER_FRAMES)]
    with ServerProcess(tmp_path / "data", "--shards", "2") as server:
        with server.client() as client:
            client.vindex_create("v", DIM, kind="f32", backend="flat")
        threads, failures = in_threads(over_frames, [server.binary_client() for _ in over_frames])
        asyncio.run(connect_and_work(server.ports["resp"], over_resp))
        for thread in threads:
            thread.join()
        assert [] == failures
        # Nobody was told the same number, so no increment was lost meanwhile.
        counted = [pair for owner in over_resp for pair in owner.counted]
        assert len(counted) == len({*counted}) > 500
        check(server, over_resp + over_frames)
        assert 0 == server.stop()
    with ServerProcess(tmp_path / "data") as server:
        check(server, over_resp + over_frames)
