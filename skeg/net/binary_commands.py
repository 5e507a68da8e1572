"""The requests of the binary protocol: what each does."""

from __future__ import annotations

from typing import Any

from skeg.ann.hits import Hits
from skeg.errors import SkegError
from skeg.kv import Store
from skeg.net.binary import requests as rq
from skeg.net.binary.frames import Flags
from skeg.net.binary.kinds import backend_of_byte, byte_of_backend, byte_of_kind, kind_of_byte, kinds_mask
from skeg.net.binary.replies import (
    Figures,
    IndexRow,
    encode_flag,
    encode_flags,
    encode_hello,
    encode_hits,
    encode_indexes,
    encode_shards,
    encode_stats,
    encode_value,
    encode_values,
)
from skeg.net.binary_session import BinarySession, Handlers, MissingError
from skeg.net.engine.changes import Put, Remove
from skeg.net.failures import CommandError
from skeg.net.kernels.answer import BINARY
from skeg.net.known import KnownSearch
from skeg.net.session import NotNowError
from skeg.net.vectors import ID_MAX, check_dim, index_named, plan_of

_SET_NX, _SET_XX = int(Flags.SET_NX), int(Flags.SET_XX)


# --- connection


def ping(session: BinarySession, _: rq.Ping) -> None:
    """Nothing but an answer."""
    session.say()


def hello(session: BinarySession, _: rq.NativeHello) -> None:
    """What the server can do."""
    session.say(encode_hello(2, kinds_mask()))


def auth(session: BinarySession, request: rq.Auth) -> None:
    """The password."""
    session.authenticate(request.password)
    session.say()


# --- keys


def get(session: BinarySession, request: rq.Get) -> None:
    """Value of a key."""
    if not session.is_in_batch:
        value = session.engine.keys.cached(request.key)
        if value is not None:
            session.out_bytes += len(value)
            session.say(encode_value(value))
            return
    _reserve_room(session, [request.key])
    session.submit([("get", request.key)], _value_or_missing)


def _reserve_room(session: BinarySession, keys: list[bytes]) -> None:
    """Refuse a reply that no reader takes, before anything of it is read."""
    wanted = sum(map(session.engine.keys.size_bound, keys)) + session.batch_bytes * len(keys)
    if wanted > 2 * session.gate.limits.frame_bytes_max:
        if session.is_in_batch:  # afterwards it is known what there is to read
            raise NotNowError
        raise CommandError(f"storage error: reply of up to {wanted} bytes")
    session.out_bytes += wanted


def set_(session: BinarySession, request: rq.Set) -> None:
    """Give a key a value, on a condition if flags say so."""
    operation = "set"
    if session.frame.flags & _SET_NX:
        operation = "set_if_absent"
    elif session.frame.flags & _SET_XX:
        operation = "set_if_present"
    session.submit([(operation, request.key, request.value)], _done)


def delete(session: BinarySession, request: rq.Del) -> None:
    """Remove a key."""
    session.submit([("delete", request.key)], encode_flag)


def exists(session: BinarySession, request: rq.Exists) -> None:
    """Whether a key has a value."""
    session.submit([("contains", request.key)], encode_flag)


def mget(session: BinarySession, request: rq.Mget) -> None:
    """Values of keys."""
    if session.is_apart:
        store, keys = session.engine.database.kv, request.keys
        session.run(lambda: _read_up_to(store, keys, session.gate.limits.frame_bytes_max), encode_values)
        return
    _reserve_room(session, request.keys)
    session.submit([("mget", request.keys)], encode_values)


def _read_up_to(store: Store, keys: list[bytes], bytes_max: int) -> list[bytes | None]:
    """Values of keys; those behind the last that fit a reply are not read, and it is refused then."""
    values: list[bytes | None] = []
    room = bytes_max
    for key in keys:
        value = store.get(key) if room >= 0 else None
        values.append(value)
        room -= len(value or b"")
    return values


def mexists(session: BinarySession, request: rq.Mexists) -> None:
    """Which keys have values."""
    if session.is_apart:
        store, keys = session.engine.database.kv, request.keys
        session.run(lambda: [key in store for key in keys], encode_flags)
        return
    reply = session.replier()

    def finish(results: list[Any]) -> bytes:
        broken = next((result for result in results if isinstance(result, SkegError)), results)
        return reply(broken, encode_flags)

    session.engine.keys.add(session, session.level, [("contains", key) for key in request.keys], finish)


def mset(session: BinarySession, request: rq.Mset) -> None:
    """Give keys values, in each shard all or none."""
    pairs = dict(request.pairs)
    if session.is_apart:
        store, level = session.engine.database.kv, session.level
        session.run(lambda: store.set_many(pairs, durability=level), _nothing)
        return
    session.submit([("set_many", pairs)], _nothing)


# --- indexes


def create(session: BinarySession, request: rq.VindexCreate) -> None:
    """Make an index."""
    kind = kind_of_byte(session.frame.version, request.kind_byte)
    backend = backend_of_byte(request.backend_byte)
    if kind is None:
        raise CommandError(f"unknown vindex kind {request.kind_byte}")
    if backend is None:
        raise CommandError(f"unknown vindex backend {request.backend_byte}")
    engine, name, dim = session.engine, request.name, request.dim
    if dim == 0:
        raise CommandError("storage error: vindex dim must be positive")
    session.run(lambda: engine.create_index(name, dim, kind, backend), _nothing, name)


def drop(session: BinarySession, request: rq.VindexDrop) -> None:
    """Remove an index."""
    database = session.engine.database
    session.run(lambda: database.drop_index(request.name), _nothing, request.name)


def list_(session: BinarySession, _: rq.VindexList) -> None:
    """All indexes."""
    version, database = session.frame.version, session.engine.database

    def rows() -> list[IndexRow]:
        return [
            IndexRow(i.name, i.dim, byte_of_kind(version, i.kind), byte_of_backend(i.backend), i.count)
            for i in database.indexes()
        ]

    session.run(rows, encode_indexes)


def vset(session: BinarySession, request: rq.Vset) -> None:
    """Set a vector."""
    index = index_named(session.engine.database, request.name)
    check_dim(request.name, index, request.vector, "vector")
    _check_id(request.id)
    put = Put(index, [request.id], request.vector, [None], session.level, _nobody)
    session.change(put, _nothing, request.name)


def vdel(session: BinarySession, request: rq.Vdel) -> None:
    """Delete a vector."""
    index = index_named(session.engine.database, request.name)
    _check_id(request.id)
    session.change(Remove(index, request.id, session.level, _nobody), encode_flag, request.name)


def vget(session: BinarySession, request: rq.Vget) -> None:
    """A stored vector."""
    index = index_named(session.engine.database, request.name)

    def read() -> bytes | None:
        return index.get(request.id).tobytes() if request.id in index else None

    session.run(read, _vector_or_missing, request.name)


def vsearch(session: BinarySession, request: rq.Vsearch) -> None:
    """The nearest vectors."""
    spelled = (request.name, request.k, request.l_search)
    known = session.searches.get(spelled, len(request.vector))
    if known is not None:
        session.search(known, request.vector)
        return
    index = index_named(session.engine.database, request.name)
    check_dim(request.name, index, request.vector, "query")
    plan = plan_of(index, request.k, request.l_search)
    if plan is None:
        session.say(encode_hits([], []))
        return
    known = KnownSearch.of(request.name, plan, _hits_of, BINARY)
    session.searches.add(spelled, known, request.k, request.l_search)
    session.search(known, request.vector)


def _hits_of(hits: Hits) -> bytes:
    return encode_hits(hits.ids, hits.scores)


# --- the server


def stats(session: BinarySession, _: rq.Stats) -> None:
    """Figures of all shards together."""
    store = session.engine.database.kv
    session.run(lambda: _figures(store.stats()), encode_stats)


def shards(session: BinarySession, _: rq.Shards) -> None:
    """Figures of each shard."""
    store = session.engine.database.kv
    session.run(lambda: [*map(_figures, store.shard_stats())], encode_shards)


def flush(session: BinarySession, _: rq.Flush) -> None:
    """Make durable what was written."""
    session.run(session.engine.database.kv.sync, _nothing)


def _value_or_missing(value: bytes | None) -> bytes:
    if value is None:
        raise MissingError("key not found")
    return encode_value(value)


def _vector_or_missing(vector: bytes | None) -> bytes:
    if vector is None:
        raise MissingError("vector not found")
    return encode_value(vector)


def _done(was_done: object) -> bytes:
    if was_done is False:
        raise MissingError("condition of the set not met")
    return b""


def _nothing(_: Any) -> bytes:
    return b""


def _nobody(_: Any) -> None:
    """Stands in for what the session puts in."""


def _check_id(vector_id: int) -> None:
    if vector_id > ID_MAX:
        raise CommandError(f"id must be at most {ID_MAX}")


def _figures(stats: dict[str, Any]) -> Figures:
    return Figures(stats["cache_bytes"], stats["cache_evictions"], stats["keys"], stats["cache_budget"])


HANDLERS: Handlers = {
    rq.Ping: ping, rq.NativeHello: hello, rq.Auth: auth, rq.Get: get, rq.Set: set_, rq.Del: delete, rq.Exists: exists,
    rq.Mget: mget, rq.Mexists: mexists, rq.Mset: mset, rq.VindexCreate: create, rq.VindexDrop: drop,
    rq.VindexList: list_, rq.Vset: vset, rq.Vdel: vdel, rq.Vget: vget, rq.Vsearch: vsearch, rq.Stats: stats,
    rq.Shards: shards, rq.Flush: flush,
}  # fmt: skip
