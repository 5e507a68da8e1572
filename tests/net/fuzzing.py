"""What servers are fuzzed with: bytes made of nothing but a seed, and what has to be true of the answers.

A case is a stream of bytes for one connection. `answers` sends it in chunks of any length and reads the replies as a
client would. Whatever arrives, every whole request is answered once, in its turn and well-formed; the connection ends
only where the protocol says so; nothing is logged as a mistake; and the next connection is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import struct

from skeg.errors import ServerError
from skeg.net.binary.frames import FrameParser, Op
from skeg.net.binary.replies import decode_err
from skeg.net.limits import Limits
from skeg.net.resp.replies import ReplyParser
from tests.net import fuzz_bytes as made
from tests.net.resp import twin
from tests.net.serving import command

INDEX = "probe"
VECTOR = struct.pack("<4f", 0.0, 0.0, 2.0, 0.0)

# What a server believes of its clients, as `skeg.net.serve.server` has it.
LIMITS = Limits(bulk_bytes_max=64 << 20, request_bytes_max=64 << 20, args_max=1 << 18)
MAY_BE_SILENT = {Op.SET, Op.DEL, Op.MSET, Op.VSET, Op.VDEL, Op.VINDEX_CREATE, Op.VINDEX_DROP}


class Mistakes(logging.Handler):
    """Collects what the server logs when something happened that must not."""

    def __init__(self):
        super().__init__(logging.ERROR)
        self.found = []

    def emit(self, record):
        self.found.append(logging.Formatter().format(record))


@contextlib.contextmanager
def no_mistakes():
    """Fails if the server logs an error of its own inside."""
    mistakes = Mistakes()
    log = logging.getLogger("skeg")
    log.addHandler(mistakes)
    try:
        yield
    finally:
        log.removeHandler(mistakes)
    assert [] == mistakes.found


# --- talking


def chunks(rng, data):
    """The data in pieces: one, a few, or many small ones."""
    most = rng.choice((len(data) + 1, 4096, 512, 64, 7))
    if len(data) > 200 * most:
        most = 4096
    place = 0
    while place < len(data):
        size = rng.randint(1, most)
        yield data[place : place + size]
        place += size


async def send(connection, wire, pieces, rng):
    """Hand pieces over as a socket would: none while the connection is not read, and with pauses."""
    for piece in pieces:
        while not wire.is_reading and not wire.is_closed:  # noqa: ASYNC110 - sessions know no events
            await asyncio.sleep(0.0005)
        if wire.is_closed:
            return
        connection.data_received(piece)
        if rng.random() < 0.1:
            await asyncio.sleep(0)


async def answers(sessions, rng, data, protocol="resp", opened=None):
    """What a connection, a new one by default, answers to a stream; and whether it is closed then."""
    connection, wire = opened or sessions.open(protocol)
    before = len(wire.written)
    await send(connection, wire, chunks(rng, data), rng)
    await sessions.settle(connection, 60)
    return bytes(wire.written[before:]), wire.is_closed


def replies_of(written):
    """Replies of RESP; all of them whole."""
    parser = ReplyParser(Limits(args_max=1 << 21, bulk_bytes_max=1 << 30))
    found = parser.feed(written + b"+that is all\r\n")
    assert parser.error is None, (parser.error, written[-300:])
    assert b"that is all" == found.pop(), written[-300:]
    return found


def frames_of(written):
    """Frames of replies; all of them whole."""
    parser = FrameParser(Limits(frame_bytes_max=64 << 20))
    found = parser.feed(written)
    assert parser.error is None, (parser.error, written[-300:])
    assert 0 == parser.pending
    for frame in found:
        assert frame.op in {Op.OK, Op.ERR}
        if frame.op == Op.ERR:
            code, text = decode_err(frame.payload)
            assert code in {1, 2, 3}
            assert "\ufffd" not in text or b"\xef\xbf\xbd" in frame.payload
    return found


def requests_in(data, limits=LIMITS):
    """Requests of a stream of RESP up to one that ends it, and whether one does."""
    events, error = twin.parse(data, limits)
    for number, event in enumerate(events):
        if isinstance(event, list) and event[0].upper() == b"QUIT":
            return events[: number + 1], True
    return events + ([f"protocol: {error}"] if error else []), error is not None


def check_resp(data, written, is_closed):
    """Every request has its reply; requests and replies in pairs."""
    expected, ends = requests_in(data)
    found = replies_of(written)
    if is_closed and not ends:  # what can't become a frame any more is not waited for
        assert found.pop().message.startswith("protocol: ")
        ends = True
    assert len(expected) == len(found), (expected[-3:], found[-3:])
    assert ends == is_closed
    for request, reply in zip(expected, found, strict=True):
        if not isinstance(request, list):
            assert isinstance(reply, ServerError), (request, reply)
        elif request[0].upper() == b"ECHO" and len(request) == 2:
            assert request[1] == reply
        if isinstance(reply, ServerError):
            check_text(reply.message)
    return [*zip(expected, found, strict=True)]


def check_binary(data, written, is_closed):
    """Every frame has its reply, unless it asked for none; frames and replies in pairs."""
    parser = FrameParser(LIMITS)
    requests = parser.feed(data)
    assert (parser.error is not None) == is_closed
    found = frames_of(written)
    pairs, place = [], 0
    for request in requests:
        if place < len(found) and found[place].request_id == request.request_id:
            assert request.version == found[place].version
            pairs.append((request, found[place]))
            place += 1
        else:
            assert request.flags & made.SILENT, request
            assert request.op in MAY_BE_SILENT
    assert place == len(found), found[place:]
    for _, reply in pairs:
        if reply.op == Op.ERR:
            check_text(decode_err(reply.payload)[1])
    return pairs


def check_text(text):
    """An error tells nothing about where the data is."""
    assert "/shard-" not in text, text
    assert "Traceback" not in text, text
    assert "internal error" not in text, text


CHECKS = {"resp": check_resp, "binary": check_binary}


# --- the state of the server


def setup():
    """Commands that make the index of `check_alive`."""
    return command("SKEG.VINDEX.CREATE", INDEX, 4, "f32", "flat") + command("SKEG.VSET", INDEX, 7, VECTOR)


async def check_alive(sessions, *, can_write=True):
    """The next connection is served."""
    connection, wire = sessions.open()
    ask = command("PING") + command("SKEG.VSEARCH", INDEX, 1, 0, VECTOR)
    if can_write:
        ask += command("SET", "alive", "yes") + command("GET", "alive")
    written = await sessions.ask(connection, wire, ask)
    expected = [b"PONG", [b"7", b"1"]] + ([b"OK", b"yes"] if can_write else [])
    assert expected == replies_of(written)
    assert not wire.is_closed
    connection.connection_lost(None)


# --- cases


def lines(rng):
    """Bytes without sense, of which many have one for a parser."""
    parts = (
        b"*1\r\n",
        b"*3\r\n",
        b"$3\r\n",
        b"GET",
        b"\r\n",
        b"$-1\r\n",
        b"*-1\r\n",
        b"+x\r\n",
        b"\n",
        b"'",
        b"\x00",
        b"PING",
    )
    kind = rng.randrange(3)
    if kind == 0:
        return rng.randbytes(rng.randrange(1, 3000))
    if kind == 1:
        return b"".join(rng.choices(parts, k=rng.randrange(1, 60)))
    return bytes(rng.choices(b"*$+:\r\n0123 abc\"'", k=rng.randrange(1, 2000)))


STREAMS = {
    "noise": ("resp", 40, lines),
    "grammar": ("resp", 6, lambda rng: made.pipeline(rng, 60)),
    "ends": ("resp", 10, lambda rng: made.pipeline(rng, 5) + command("QUIT") + made.pipeline(rng, 3)),
    "mutated": ("resp", 25, lambda rng: made.mutated(rng, made.pipeline(rng, 12))),
    "frames": ("binary", 6, lambda rng: made.frames(rng, 80)),
    "bad frames": ("binary", 10, lambda rng: made.frames(rng, 10) + made.broken_header(rng)),
    "mutated frames": ("binary", 25, lambda rng: made.mutated(rng, made.frames(rng, 15))),
    "binary noise": (
        "binary",
        20,
        lambda rng: rng.choice((b"", b"KV", b"KV\1\x80")) + rng.randbytes(rng.randrange(200)),
    ),
}


async def fuzz(sessions, name, seed, count=None):
    """Cases of one kind, each on a connection of its own."""
    protocol, cases, make = STREAMS[name]
    for number in range(count or cases):
        rng = random.Random(f"{name} {seed} {number}")
        data = make(rng)
        try:
            written, is_closed = await answers(sessions, rng, data, protocol)
            CHECKS[protocol](data, written, is_closed)
            await check_alive(sessions)
        except BaseException:
            print(f"case {name!r}, seed {seed}, number {number}: {data[:2000]!r}, {len(data)} bytes")
            raise


async def set_up(sessions):
    connection, wire = sessions.open()
    await sessions.ask(connection, wire, setup())


async def come_and_go(sessions, seed):
    """Several connections at once, of both protocols; two of them make and drop the indexes that all use."""

    async def one(number):
        rng = random.Random(f"come and go {seed} {number}")
        protocol = "binary" if number % 3 == 2 else "resp"
        if protocol == "binary":
            data = made.frames(rng, 120)
        elif number % 3 == 1:
            names = [b"SKEG.VINDEX.CREATE", b"SKEG.VINDEX.DROP", b"SKEG.VINDEX.LIST", b"SKEG.STATS", b"INFO"]
            data = made.pipeline(rng, 40, names)
        else:
            data = made.pipeline(rng, 100, [*made.VECTOR_COMMANDS, b"GET", b"SET"])
        try:
            CHECKS[protocol](data, *await answers(sessions, rng, data, protocol))
        except BaseException:
            print(f"come and go, seed {seed}, connection {number}: {data[:2000]!r}, {len(data)} bytes")
            raise

    async with asyncio.TaskGroup() as group:
        for number in range(6):
            group.create_task(one(number))
    await check_alive(sessions)
