"""Whatever arrives, a server answers each request once and goes on: see `tests.net.fuzzing`."""

from __future__ import annotations

import random
import tracemalloc

import pytest

import skeg
from skeg.errors import ServerError
from skeg.net.binary.frames import Op, pack_frame
from tests.net import fuzz_bytes as made
from tests.net import fuzzing
from tests.net.fuzzing import CHECKS, answers, check_alive, no_mistakes, replies_of
from tests.net.serving import command

SEEDS = range(6)


@pytest.mark.parametrize("name", fuzzing.STREAMS)
def test_every_request_is_answered_once_and_in_order(talk, name):
    async def work(sessions):
        await fuzzing.set_up(sessions)
        for seed in SEEDS:
            await fuzzing.fuzz(sessions, name, seed)

    with no_mistakes():
        talk(work, durability="os", shards=2)


@pytest.mark.parametrize("seed", SEEDS)
def test_indexes_come_and_go_under_pipelines_of_all_lanes(talk, seed):
    """Several connections at once, of both protocols; two of them make and drop the indexes that all use."""

    async def work(sessions):
        await fuzzing.set_up(sessions)
        await fuzzing.come_and_go(sessions, seed)

    with no_mistakes():
        talk(work, durability="os", shards=1 + 2 * (seed % 2), workers=seed % 3 or None)


@pytest.mark.parametrize("protocol", ["resp", "binary"])
def test_nothing_is_done_for_who_has_not_given_the_password(talk, protocol):
    async def work(sessions):
        engine = sessions.server.engine
        for seed in SEEDS:
            rng = random.Random(f"before auth {protocol} {seed}")
            for _ in range(8):
                # Longer ones are not believed before the password.
                pieces = [made.frame(rng, 1) if protocol == "binary" else command(*made.words(rng)) for _ in range(30)]
                data = b"".join(piece for piece in pieces if len(piece) < 4000 and piece[3] != Op.AUTH)
                written, _ = await answers(sessions, rng, data, protocol)
                if protocol == "resp":
                    assert [] == [reply for reply in replies_of(written) if not isinstance(reply, ServerError)]
                else:
                    told = [f for f in fuzzing.frames_of(written) if f.op == Op.OK]
                    assert [b"\2"] * len(told) == [f.payload[:1] for f in told]  # of NativeHello
            assert 0 == len(engine.database.kv)
            assert [] == engine.database.indexes()
        login = command("AUTH", "right") + command("PING")
        if protocol == "binary":
            login = pack_frame(1, Op.AUTH, 1, b"\5\0right") + pack_frame(1, Op.PING, 2, b"")
        written, is_closed = await answers(sessions, random.Random(1), login, protocol)
        assert not is_closed
        assert written in {b"+OK\r\n+PONG\r\n", pack_frame(1, Op.OK, 1, b"") + pack_frame(1, Op.OK, 2, b"")}

    with no_mistakes():
        talk(work, password=b"right", durability="os")


def test_after_the_password_everything_is_as_without_one(talk):
    async def work(sessions):
        rng = random.Random("after auth")
        opened = sessions.open()
        await sessions.ask(*opened, command("AUTH", "right") + fuzzing.setup())
        data = made.pipeline(rng, 150)
        written, is_closed = await answers(sessions, rng, data, opened=opened)
        fuzzing.check_resp(data, written, is_closed)

    with no_mistakes():
        talk(work, password=b"right", durability="os")


def test_serve_mode_writes_nothing(talk, tmp_path):
    path = tmp_path / "served"
    with skeg.open(path, shards=2) as database:
        database.create_index(fuzzing.INDEX, 4, kind="f32", backend="flat").add([7], [[0, 0, 2, 0]], payloads=[b"n=1"])
        database.create_index("a", 4).add([1, 2], [[1, 0, 0, 0], [0, 1, 0, 0]])
        database.kv.set_many({b"k1": b"1", b"k2": b"x"})

    def content():
        return {file: file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}

    before = content()

    async def work(sessions):
        for seed in SEEDS:
            for protocol, data in (
                ("resp", made.pipeline(random.Random(f"serve {seed}"), 120)),
                ("binary", made.frames(random.Random(f"serve {seed}"), 80)),
            ):
                written, is_closed = await answers(sessions, random.Random(seed), data, protocol)
                CHECKS[protocol](data, written, is_closed)
            await check_alive(sessions, can_write=False)

    with no_mistakes():
        talk(work, mode="r", path=path)
    assert before == content()


@pytest.mark.parametrize("name", ["grammar", "mutated", "frames", "mutated frames"])
def test_memory_is_a_small_multiple_of_what_was_sent(talk, name):
    protocol, cases, make = fuzzing.STREAMS[name]
    streams = [make(random.Random(f"memory {name} {number}")) for number in range(cases)]

    async def work(sessions):
        await fuzzing.set_up(sessions)
        rng = random.Random(name)
        await answers(sessions, rng, streams[0], protocol)  # what is made once
        tracemalloc.start()
        written = 0
        for data in streams:
            told, _ = await answers(sessions, rng, data, protocol)
            written += len(told)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak, written

    peak, written = talk(work, durability="os")
    assert peak < (16 << 20) + 4 * (sum(map(len, streams)) + written)
