"""Commands on keys and their values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from skeg.durability import Durability
from skeg.errors import CorruptError
from skeg.kv import Store
from skeg.net.commands.table import Command
from skeg.net.failures import NO_INTEGER, CommandError, failure_of
from skeg.net.resp.encode import NULL, OK, ErrorReply, Status, encode
from skeg.net.resp_session import MANY, RespSession, refusal
from skeg.net.session import TICK_BYTES, NotNowError
from skeg.net.text import I64_MIN, signed

KEY_BYTES_MAX = 65_535

_OK = Status("OK")
_STRING_TYPE, _NONE = Status("string"), Status("none")

SHORT_BYTES = 64 << 10
"""Records that are read on the thread of the loop."""

_CAS = (b"NX", b"XX", b"GET")


def get(session: RespSession, args: list[bytes]) -> None:
    """GET key."""
    key = args[1]
    keys = session.engine.keys
    if not session.is_in_batch:
        values = keys.get_at_once((key,), SHORT_BYTES)
        if values is not None:
            session.say(values[0])
            return
    reserve_room(session, args[1:])
    session.submit([("get", key)], _same)


def get_run(session: RespSession, keys: list[bytes]) -> bool:
    """Many GETs; False if they should be looked at one by one: some value is long, damaged or not durable yet."""
    if session.is_in_batch:
        return False
    try:
        values = session.engine.keys.get_at_once(keys, TICK_BYTES)
    except CorruptError:
        return False
    if values is None:
        return False
    null = NULL[session.version]
    sizes = {len(null) if value is None else len(value) for value in values}
    if max(sizes) * len(values) > TICK_BYTES:
        return False
    session.out_bytes += max(sizes) * len(values)
    known = [value for value in values if value is not None]
    if len(sizes) == 1 and len(known) == len(values):  # so there is one head, and the rest is a matter of joining
        head = b"$%d\r\n" % sizes.pop()
        session.out.append(b"%b%b\r\n" % (head, (b"\r\n" + head).join(known)))
    else:
        texts = [null if value is None else b"$%d\r\n%b\r\n" % (len(value), value) for value in values]
        session.out.append(b"".join(texts))
    return True


def set_run(session: RespSession, keys: list[bytes], values: list[bytes]) -> bool:
    """Many SETs."""
    count = len(keys)
    failed = _failed[session.version]
    replies = (OK * count, lambda error: failed(error) * count)
    session.engine.keys.set_run(session, session.level, keys, values, replies)
    return True


def reserve_room(session: RespSession, keys: list[bytes]) -> None:
    """Refuse a reply that would be too large; count it, so that not too many are made at a time."""
    size_bound = session.engine.keys.size_bound
    wanted = sum(map(size_bound, keys)) + (16 + session.batch_bytes) * len(keys)
    if wanted > session.engine.max_reply_bytes:
        if session.is_in_batch:  # afterwards it is known what there is to read
            raise NotNowError
        raise CommandError(f"reply of up to {wanted} bytes: at most {session.engine.max_reply_bytes} are sent")
    session.out_bytes += wanted


def _count_reading(session: RespSession, key: bytes) -> None:
    """Count what a command reads of a key, though it does not send it, so that not too much is read at a time."""
    session.out_bytes += session.engine.keys.size_bound(key) + session.batch_bytes


def _same(value: Any) -> Any:
    return value


def set_(session: RespSession, args: list[bytes]) -> None:
    """SET key value [NX | XX] [GET]."""
    if len(args) > 3:
        _set_if(session, args)
        return
    _check_key(args[1])
    session.engine.keys.set(session, session.level, args[1], args[2], _REPLIES[session.version])


def _check_key(key: bytes) -> None:
    if len(key) > KEY_BYTES_MAX:
        raise CommandError(f"key of {len(key)} bytes: at most {KEY_BYTES_MAX}")


def _failure(version: int) -> Any:
    return lambda error: encode(refusal(failure_of(error)), version)


_failed = {2: _failure(2), 3: _failure(3)}
_REPLIES = {version: (OK, failed) for version, failed in _failed.items()}


def _set_if(session: RespSession, args: list[bytes]) -> None:
    options = [word.upper() for word in args[3:]]
    if len(set(options)) != len(options) or set(options) - set(_CAS) or {b"NX", b"XX"} <= set(options):
        raise CommandError("wrong number of arguments for 'SET'; want key value [NX | XX] [GET]")
    key, value = args[1], args[2]
    _check_key(key)
    write = ("set", key, value)
    if b"NX" in options:
        write = ("set_if_absent", key, value)
    elif b"XX" in options:
        write = ("set_if_present", key, value)
    if b"GET" in options:
        reserve_room(session, [key])
        session.submit([("get", key), write], lambda before, _: before)
    elif write[0] == "set":
        session.submit([write], lambda _: _OK)
    else:
        _count_reading(session, key)
        session.submit([write], lambda done: _OK if done else None)


def setnx(session: RespSession, args: list[bytes]) -> None:
    """SETNX key value."""
    _count_reading(session, args[1])
    session.submit([("set_if_absent", args[1], args[2])], int)


def getset(session: RespSession, args: list[bytes]) -> None:
    """GETSET key value."""
    reserve_room(session, [args[1]])
    session.submit([("get_set", args[1], args[2])], _same)


def getdel(session: RespSession, args: list[bytes]) -> None:
    """GETDEL key."""
    reserve_room(session, [args[1]])
    session.submit([("get", args[1]), ("delete", args[1])], lambda value, _: value)


def strlen(session: RespSession, args: list[bytes]) -> None:
    """STRLEN key."""
    reserve_room(session, [args[1]])
    session.submit([("get", args[1])], lambda value: len(value or b""))


def append(session: RespSession, args: list[bytes]) -> None:
    """APPEND key value."""
    _count_reading(session, args[1])
    session.submit([("append", args[1], args[2])], int)


def _execute_apart(session: RespSession, work: Callable[[Store], Any]) -> None:
    """Have a thread do what concerns many keys."""
    store = session.engine.database.kv
    session.run(lambda: work(store))


def delete(session: RespSession, args: list[bytes]) -> None:
    """DEL key [key ...]."""
    if len(args) > MANY:
        session.submit_in_steps([("delete", key) for key in args[1:]], lambda *there: sum(there))
    else:
        session.submit([("delete", key) for key in args[1:]], lambda *there: sum(there))


def exists(session: RespSession, args: list[bytes]) -> None:
    """EXISTS key [key ...]."""
    if len(args) > MANY:
        _execute_apart(session, lambda store: sum(key in store for key in args[1:]))
        return
    session.submit([("contains", key) for key in args[1:]], lambda *there: sum(there))


def type_(session: RespSession, args: list[bytes]) -> None:
    """TYPE key; all values are strings."""
    session.submit([("contains", args[1])], lambda there: _STRING_TYPE if there else _NONE)


def mget(session: RespSession, args: list[bytes]) -> None:
    """MGET key [key ...]."""
    if len(args) > MANY:
        most = session.engine.max_reply_bytes
        _execute_apart(session, lambda store: _read_up_to(store, args[1:], most))
        return
    reserve_room(session, args[1:])
    session.submit([("mget", args[1:])], _same)


def _set_all(store: Store, pairs: dict[bytes, bytes], level: Durability) -> Status:
    store.set_many(pairs, durability=level)
    return _OK


def _read_up_to(store: Store, keys: list[bytes], bytes_max: int) -> Any:
    """Values of keys, or an error if they are too many bytes."""
    values, wanted = [], 0
    for key in keys:
        value = store.get(key)
        values.append(value)
        wanted += 16 + len(value or b"")
        if wanted > bytes_max:
            return ErrorReply(f"ERR reply of more than {bytes_max} bytes")
    return values


def mset(session: RespSession, args: list[bytes]) -> None:
    """MSET key value [key value ...]."""
    if len(args) % 2 == 0:
        raise CommandError("wrong number of arguments for 'MSET'")
    if len(args) > MANY:
        pairs, level = dict(zip(args[1::2], args[2::2], strict=True)), session.level
        _execute_apart(session, lambda store: _set_all(store, pairs, level))
        return
    session.submit([("set_many", dict(zip(args[1::2], args[2::2], strict=True)))], lambda _: _OK)


def _add(sign: int, *, has_delta: bool) -> Any:
    def run(session: RespSession, args: list[bytes]) -> None:
        delta = signed(args[2]) if has_delta else 1
        if delta is None:
            raise CommandError(NO_INTEGER)
        if sign < 0 and delta == I64_MIN:
            raise CommandError("value out of range")
        _count_reading(session, args[1])
        session.submit([("incr", args[1], sign * delta)], int)

    return run


_KEY = (1, 1, 1)
_ALL_KEYS = (1, -1, 1)
_STRING: Any = {"group": "string"}

COMMANDS = [
    Command(name="GET", run=get, run_many=get_run, arity=(1, 1), keys=_KEY, summary="Value of a key", **_STRING),
    Command(
        name="SET", run=set_, run_many=set_run, arity=(2, 4), is_write=True, keys=_KEY,
        summary="Give a key a value: SET key value [NX | XX] [GET]", **_STRING,
    ),
    Command(
        name="SETNX", run=setnx, arity=(2, 2), is_write=True, keys=_KEY, summary="Give a key a value if it has none",
        **_STRING,
    ),
    Command(
        name="GETSET", run=getset, arity=(2, 2), is_write=True, keys=_KEY,
        summary="Give a key a value, return the one before", **_STRING,
    ),
    Command(
        name="GETDEL", run=getdel, arity=(1, 1), is_write=True, keys=_KEY, summary="Delete a key, return its value",
        **_STRING,
    ),
    Command(name="STRLEN", run=strlen, arity=(1, 1), keys=_KEY, summary="Bytes of a key's value", **_STRING),
    Command(
        name="APPEND", run=append, arity=(2, 2), is_write=True, keys=_KEY, summary="Add to the end of a key's value",
        **_STRING,
    ),
    Command(name="MGET", run=mget, arity=(1, -1), keys=_ALL_KEYS, summary="Values of keys", **_STRING),
    Command(
        name="MSET", run=mset, arity=(2, -1), is_write=True, keys=(1, -1, 2),
        summary="Give keys values, in each shard all or none", **_STRING,
    ),
    Command(
        name="INCR", run=_add(1, has_delta=False), arity=(1, 1), is_write=True, keys=_KEY, label="INCR/DECR",
        summary="Add 1 to an integer", **_STRING,
    ),
    Command(
        name="DECR", run=_add(-1, has_delta=False), arity=(1, 1), is_write=True, keys=_KEY, label="INCR/DECR",
        summary="Subtract 1 from an integer", **_STRING,
    ),
    Command(
        name="INCRBY", run=_add(1, has_delta=True), arity=(2, 2), is_write=True, keys=_KEY, label="INCRBY/DECRBY",
        summary="Add to an integer", **_STRING,
    ),
    Command(
        name="DECRBY", run=_add(-1, has_delta=True), arity=(2, 2), is_write=True, keys=_KEY, label="INCRBY/DECRBY",
        summary="Subtract from an integer", **_STRING,
    ),
    Command(name="DEL", run=delete, arity=(1, -1), is_write=True, keys=_ALL_KEYS, summary="Delete keys; how many were"),
    Command(name="EXISTS", run=exists, arity=(1, -1), keys=_ALL_KEYS, summary="How many of some keys have values"),
    Command(name="TYPE", run=type_, arity=(1, 1), keys=_KEY, summary="Whether a key has a value: string or none"),
]  # fmt: skip
