"""Random pipelines beside a model: what dicts say that each reply has to be, to the byte where that is defined."""

from __future__ import annotations

import asyncio
import math
import random
import struct

from skeg.errors import ServerError
from skeg.net.binary import requests as rq
from skeg.net.binary.frames import Op, pack_frame
from skeg.net.binary.replies import (
    decode_err,
    decode_flag,
    decode_flags,
    decode_hits,
    decode_nothing,
    decode_value,
    decode_values,
)
from tests.net import fuzz_bytes as made
from tests.net.fuzzing import answers, frames_of, replies_of
from tests.net.serving import command

IDS = 12
I64_MAX = 2**63 - 1


class Missing:
    """Stands for an error that says so."""

    def __eq__(self, other):
        return isinstance(other, ServerError | Missing)

    def __hash__(self):
        return 0


MISSING = Missing()


class Model:
    """The keys and the vectors of one connection, which nobody else touches."""

    def __init__(self, name, rng):
        self.name = name
        self.rng = rng
        self.keys = {}
        self.vectors = {}
        self.payloads = {}

    # --- choices

    def key(self):
        return b"%b:%d" % (self.name, self.rng.randrange(8))

    def some_keys(self):
        # Now and then so many that a thread is given to them.
        return [self.key() for _ in range(600 if self.rng.random() < 0.01 else self.rng.choice((1, 2, 3, 10)))]

    def value(self):
        size = self.rng.choice((0, 1, 5, 5, 100, 3000, 70_000 if self.rng.random() < 0.1 else 2))
        return self.rng.choice((self.rng.randbytes(size), b"%d" % self.rng.randrange(-9, 99), b"$3\r\nabc\r\n"))

    def vector(self):
        """A direction of its own, so that no two hits are equally near."""
        angle = self.rng.uniform(0, 2 * math.pi)
        return struct.pack("<2f", math.cos(angle), math.sin(angle))

    # --- vectors

    def nearest(self, query, k, wanted=None):
        """Ids of the nearest vectors, as text."""
        x, y = struct.unpack("<2f", query)

        def distance(vector_id):
            u, v = struct.unpack("<2f", self.vectors[vector_id])
            return -(x * u + y * v) / math.hypot(u, v)

        ids = [i for i in self.vectors if wanted is None or wanted(self.payloads.get(i))]
        return sorted(ids, key=distance)[:k]

    def put(self, vector_id, vector, payload):
        self.vectors[vector_id] = vector
        if payload is not None:
            self.payloads[vector_id] = payload

    def remove(self, vector_id):
        self.payloads.pop(vector_id, None)
        return int(self.vectors.pop(vector_id, None) is not None)

    # --- keys

    def add(self, key, delta):
        text = self.keys.get(key, b"0")
        try:
            number = int(text) if text == b"%d" % int(text) else None
        except ValueError:
            number = None
        if number is None or not -I64_MAX <= number + delta <= I64_MAX:
            return MISSING
        self.keys[key] = b"%d" % (number + delta)
        return number + delta

    def set_if(self, key, value, is_wanted):
        if is_wanted:
            self.keys[key] = value
        return is_wanted


def resp_step(model):
    """A command of RESP, and what makes a comparable thing of its reply, and that thing."""
    rng, keys = model.rng, model.keys
    key, value = model.key(), model.value()
    index, vector_id = b"i-" + model.name, rng.randrange(IDS)
    match rng.randrange(26):
        case 0 | 1 | 2:
            keys[key] = value
            return ["SET", key, value], b"OK"
        case 3 | 4:
            return ["GET", key], keys.get(key)
        case 5:
            before = keys.get(key)
            done = model.set_if(key, value, before is None)
            return ["SET", key, value, "NX"], b"OK" if done else None
        case 6:
            before = keys.get(key)
            keys[key] = value
            return ["SET", key, value, "GET"], before
        case 7:
            return ["SETNX", key, value], int(model.set_if(key, value, key not in keys))
        case 8:
            return ["GETDEL", key], keys.pop(key, None)
        case 9:
            keys[key] = keys.get(key, b"") + value[:50]
            return ["APPEND", key, value[:50]], len(keys[key])
        case 10:
            some = model.some_keys()
            return ["MGET", *some], [keys.get(each) for each in some]
        case 11:
            pairs = {each: model.value()[:200] for each in model.some_keys()}
            keys |= pairs
            return ["MSET", *[word for pair in pairs.items() for word in pair]], b"OK"
        case 12:
            some = model.some_keys()
            return ["DEL", *some], sum(keys.pop(each, None) is not None for each in some)
        case 13:
            some = model.some_keys()
            return ["EXISTS", *some], sum(each in keys for each in some)
        case 14:
            delta = rng.choice((1, -7, I64_MAX))
            return ["INCRBY", key, delta], model.add(key, delta)
        case 15:
            return ["STRLEN", key], len(keys.get(key, b""))
        case 16:
            return ["ECHO", value], value
        case 17 | 18:
            vector, payload = model.vector(), rng.choice((None, None, b"", b"n=%d" % rng.randrange(3)))
            model.put(vector_id, vector, payload)
            return ["SKEG.VSET", index, vector_id, vector, *([] if payload is None else ["PAYLOAD", payload])], b"OK"
        case 19:
            items = [(rng.randrange(IDS), model.vector(), rng.choice((b"", b"n=1"))) for _ in range(rng.choice((1, 5)))]
            # Of an id that comes again only the last item counts, with its payload.
            for i, item in {item[0]: item for item in items}.items():
                model.put(i, item[1], item[2] or None)
            return ["SKEG.VMSET", index, *[word for item in items for word in item]], len(items)
        case 20:
            return ["SKEG.VDEL", index, vector_id], model.remove(vector_id)
        case 21:
            return ["SKEG.VGET", index, vector_id], model.vectors.get(vector_id)
        case 22:
            return ["SKEG.DURABILITY", rng.choice(("sync", "os", "none"))], b"OK"
        case 23:
            return ["TYPE", key], b"string" if key in keys else b"none"
        case 24:
            query, k = model.vector(), rng.choice((1, 3, 20))
            found = model.nearest(query, k)
            rows = [[b"%d" % i, model.payloads.get(i)] for i in found]
            return ["SKEG.VSEARCH", index, k, 0, query, "WITHPAYLOAD"], ("hits", rows)
        case _:
            query, wanted = model.vector(), b"n=%d" % rng.randrange(3)
            found = model.nearest(query, 5, lambda payload: payload == wanted)
            return ["SKEG.VSEARCH", index, 5, 0, query, "FILTER", wanted], ("hits", [[b"%d" % i] for i in found])


def binary_step(model):
    """A request, what reads its reply, what that has to be, and flags."""
    rng, keys = model.rng, model.keys
    key, value = model.key(), model.value()
    name, vector_id = f"i-{model.name.decode()}", rng.randrange(IDS)
    match rng.randrange(13):
        case 0 | 1:
            keys[key] = value
            return rq.Set(key, value), decode_nothing, None, rng.choice((0, 1, made.SILENT))
        case 2:
            done = model.set_if(key, value, key not in keys)
            return rq.Set(key, value), decode_nothing, None if done else MISSING, 0x40
        case 3:
            done = model.set_if(key, value, key in keys)
            return rq.Set(key, value), decode_nothing, None if done else MISSING, 0x80
        case 4:
            return rq.Get(key), decode_value, keys.get(key, MISSING), 0
        case 5:
            return rq.Del(key), decode_flag, keys.pop(key, None) is not None, 0
        case 6:
            some = model.some_keys()
            return rq.Mget(some), decode_values, [keys.get(each) for each in some], 0
        case 7:
            some = model.some_keys()
            return rq.Mexists(some), decode_flags, [each in keys for each in some], 0
        case 8:
            pairs = {each: model.value()[:200] for each in model.some_keys()}
            keys |= pairs
            return rq.Mset([*pairs.items()]), decode_nothing, None, 0
        case 9:
            vector = model.vector()
            model.put(vector_id, vector, None)
            return rq.Vset(name, vector_id, vector), decode_nothing, None, rng.choice((0, made.SILENT))
        case 10:
            return rq.Vdel(name, vector_id), decode_flag, bool(model.remove(vector_id)), 0
        case 11:
            return rq.Vget(name, vector_id), decode_value, model.vectors.get(vector_id, MISSING), 0
        case _:
            query, k = model.vector(), rng.choice((1, 3, 20))
            found = model.nearest(query, k)
            return rq.Vsearch(name, k, query), lambda payload: decode_hits(payload)[0].tolist(), found, 0


async def resp_turn(sessions, model, opened, count):
    """One pipeline over RESP, compared."""
    steps = [resp_step(model) for _ in range(count)]
    if model.rng.random() < 0.2:  # a run of one command
        key = model.key()
        steps += [(["GET", key], model.keys.get(key))] * 20
    data = b"".join(command(*words) for words, _ in steps)
    written, is_closed = await answers(sessions, model.rng, data, opened=opened)
    found = replies_of(written)
    assert len(steps) == len(found)
    assert not is_closed
    for number, ((words, expected), reply) in enumerate(zip(steps, found, strict=True)):
        actual = reply
        if isinstance(expected, tuple):
            width = 3 if "WITHPAYLOAD" in words else 2
            rows = [reply[place : place + width] for place in range(0, len(reply), width)]
            actual = ("hits", [[row[0], *row[2:]] for row in rows])
        assert expected == actual, (number, str(words)[:300], str(expected)[:300], str(actual)[:300])


async def binary_turn(sessions, model, opened, count):
    """One pipeline of frames, compared."""
    steps = [binary_step(model) for _ in range(count)]
    parts = []
    for number, (request, _, _, flags) in enumerate(steps):
        op, payload = rq.encode_request(request)
        parts.append(pack_frame(1, op, number, payload, flags))
    written, is_closed = await answers(sessions, model.rng, b"".join(parts), opened=opened)
    assert not is_closed
    found = {reply.request_id: reply for reply in frames_of(written)}
    assert sorted(found) == [reply.request_id for reply in frames_of(written)]
    for number, (request, decode, expected, flags) in enumerate(steps):
        if flags & made.SILENT:
            assert number not in found, (request, found[number])
            continue
        reply = found[number]
        actual = MISSING if reply.op == Op.ERR and decode_err(reply.payload)[0] == 1 else None
        if actual is None:
            assert reply.op == Op.OK, (number, request, reply)
            actual = decode(reply.payload)
        assert expected == actual, (number, str(request)[:300], str(expected)[:300], str(actual)[:300])


async def compare(sessions, seed, connections, turns, count=60):
    """Some connections at once, each beside a model of its own; every second one speaks the binary protocol."""

    async def one(number):
        rng = random.Random(f"model {seed} {number}")
        model = Model(f"{seed}-{number}".replace(" ", ".").encode(), rng)
        connection, wire = sessions.open()
        index = b"i-" + model.name
        backend = rng.choice(("flat", "flat", "disk"))
        assert b"+OK\r\n" == await sessions.ask(
            connection, wire, command("SKEG.VINDEX.CREATE", index, 2, "f32", backend)
        )
        protocol, turn = (("resp", resp_turn), ("binary", binary_turn))[number % 2]
        opened = sessions.open(protocol)
        if protocol == "resp":
            await sessions.ask(*opened, command("HELLO", rng.choice((2, 3))))
        try:
            for _ in range(turns):
                await turn(sessions, model, opened, count)
        except BaseException:
            print(f"model, seed {seed!r}, connection {number}, {protocol}, {backend}")
            raise
        assert b"+OK\r\n" == await sessions.ask(connection, wire, command("SKEG.VINDEX.DROP", index))
        for each in (connection, opened[0]):
            each.connection_lost(None)

    async with asyncio.TaskGroup() as group:
        for number in range(connections):
            group.create_task(one(number))
