"""Payloads of requests, as bytes.

All integers are little-endian. A key is its length (u16) and its bytes, a name the same and UTF-8, a vector the number
of its components (u32) and so many floats of 32 bits. Bytes behind what is described here are ignored.

    Ping, Stats, Shards, VindexList, Flush, NativeHello     nothing
    Get, Del, Exists        key
    Set                     length of the key (u16), length of the value (u32), key, value
    Mget, Mexists           n (u32), n keys
    Mset                    n (u32), n times what Set has
    VindexCreate            name, dim (u32), kind (u8), backend (u8): see `skeg.net.binary.kinds`
    VindexDrop              name
    Vset                    name, id (u64), vector
    Vget, Vdel              name, id (u64)
    Vsearch                 name, k (u32), vector, and l_search (u32), which may be left out
    Auth                    password, as a key

A reader takes a payload and returns the fields of the request, a writer does the opposite. Counts are compared with the
length of the payload before anything is made of them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from skeg.errors import ParameterError, ProtocolError

_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_PAIR = struct.Struct("<HI")
_NEW_INDEX = struct.Struct("<IBB")

U16_MAX = 2**16 - 1
U32_MAX = 2**32 - 1


class Layout(NamedTuple):
    """A payload in both directions: the reader raises `ProtocolError`, the writer `ParameterError`."""

    read: Callable[[bytes], tuple[Any, ...]]
    write: Callable[..., bytes]


# --- reading

COUNT_MAX = 1 << 18
"""Keys of one request: to take so many apart takes some 50 ms."""


def _read_nothing(_: bytes) -> tuple[()]:
    return ()


def _read_key(payload: bytes) -> tuple[bytes]:
    if len(payload) < 2:
        raise _invalid("key payload too short")
    stop = 2 + _U16.unpack_from(payload)[0]
    if len(payload) < stop:
        raise _invalid("key payload truncated")
    return (payload[2:stop],)


def _read_keys(payload: bytes) -> tuple[list[bytes]]:
    end = len(payload)
    n = _count(payload, "mget", 2)
    keys = []
    stop = 4
    for _ in range(n):
        start = stop + 2
        if start > end:
            raise _invalid("mget key header truncated")
        stop = start + _U16.unpack_from(payload, stop)[0]
        if stop > end:
            raise _invalid("mget key truncated")
        keys.append(payload[start:stop])
    return (keys,)


def _read_pair(payload: bytes) -> tuple[bytes, bytes]:
    if len(payload) < 6:
        raise _invalid("set payload too short")
    key_bytes, value_bytes = _PAIR.unpack_from(payload)
    middle = 6 + key_bytes
    stop = middle + value_bytes
    if len(payload) < stop:
        raise _invalid("set payload truncated")
    return payload[6:middle], payload[middle:stop]


def _read_pairs(payload: bytes) -> tuple[list[tuple[bytes, bytes]]]:
    end = len(payload)
    n = _count(payload, "mset", 6)
    pairs = []
    stop = 4
    for _ in range(n):
        start = stop + 6
        if start > end:
            raise _invalid("mset pair header truncated")
        key_bytes, value_bytes = _PAIR.unpack_from(payload, stop)
        middle = start + key_bytes
        stop = middle + value_bytes
        if stop > end:
            raise _invalid("mset pair truncated")
        pairs.append((payload[start:middle], payload[middle:stop]))
    return (pairs,)


def _read_new_index(payload: bytes) -> tuple[str, int, int, int]:
    name, place = _name(payload)
    dim = _number(payload, place, _U32, "u32")
    codes = payload[place + 4 : place + 6]
    if len(codes) < 2:
        raise _invalid(f"vindex {'backend' if codes else 'kind'} byte missing")
    return name, dim, codes[0], codes[1]


def _read_name(payload: bytes) -> tuple[str]:
    return (_name(payload)[0],)


def _read_id(payload: bytes) -> tuple[str, int]:
    name, place = _name(payload)
    return name, _number(payload, place, _U64, "u64")


def _read_vector(payload: bytes) -> tuple[str, int, bytes]:
    name, place = _name(payload)
    vector_id = _number(payload, place, _U64, "u64")
    return name, vector_id, _vector(payload, place + 8)


def _read_search(payload: bytes) -> tuple[str, int, bytes, int]:
    name, place = _name(payload)
    k = _number(payload, place, _U32, "u32")
    vector = _vector(payload, place + 4)
    place += 8 + len(vector)
    l_search = _U32.unpack_from(payload, place)[0] if len(payload) >= place + 4 else 0
    return name, k, vector, l_search


def _count(payload: bytes, op: str, bytes_each: int) -> int:
    if len(payload) < 4:
        raise _invalid(f"{op} payload too short")
    n: int = _U32.unpack_from(payload)[0]
    if n > (len(payload) - 4) // bytes_each:
        raise _invalid(f"{op} count exceeds payload")
    if n > COUNT_MAX:
        raise _invalid(f"{op} of {n} keys, at most {COUNT_MAX}")
    return n


def _name(payload: bytes) -> tuple[str, int]:
    """A name, and where it ends."""
    if len(payload) < 2:
        raise _invalid("vector name header truncated")
    stop = 2 + _U16.unpack_from(payload)[0]
    if len(payload) < stop:
        raise _invalid("vector name truncated")
    try:
        return payload[2:stop].decode(), stop
    except UnicodeDecodeError as error:
        raise ProtocolError("index name not utf-8") from error


def _number(payload: bytes, place: int, integer: struct.Struct, what: str) -> int:
    if len(payload) < place + integer.size:
        raise _invalid(f"vector {what} field truncated")
    number: int = integer.unpack_from(payload, place)[0]
    return number


def _vector(payload: bytes, place: int) -> bytes:
    start = place + 4
    if len(payload) < start:
        raise _invalid("vector dim header truncated")
    stop = start + 4 * _U32.unpack_from(payload, place)[0]
    if len(payload) < stop:
        raise _invalid("vector body truncated")
    return payload[start:stop]


def _invalid(text: str) -> ProtocolError:
    return ProtocolError(f"invalid payload: {text}")


# --- writing


def _write_nothing() -> bytes:
    return b""


def _write_key(key: bytes) -> bytes:
    return _short(key, "key")


def _write_keys(keys: Sequence[bytes]) -> bytes:
    return b"".join([_U32.pack(len(keys)), *[_short(key, "key") for key in keys]])


def _write_pair(key: bytes, value: bytes) -> bytes:
    return b"".join(_pair(key, value))


def _write_pairs(pairs: Sequence[tuple[bytes, bytes]]) -> bytes:
    return b"".join([_U32.pack(len(pairs)), *[part for pair in pairs for part in _pair(*pair)]])


def _write_new_index(name: str, dim: int, kind: int, backend: int) -> bytes:
    return _short(name.encode(), "name") + _NEW_INDEX.pack(dim, kind, backend)


def _write_name(name: str) -> bytes:
    return _short(name.encode(), "name")


def _write_id(name: str, vector_id: int) -> bytes:
    return _short(name.encode(), "name") + _U64.pack(vector_id)


def _write_vector(name: str, vector_id: int, vector: bytes) -> bytes:
    return b"".join((_short(name.encode(), "name"), _U64.pack(vector_id), _dim(vector), vector))


def _write_search(name: str, k: int, vector: bytes, l_search: int) -> bytes:
    return b"".join((_short(name.encode(), "name"), _U32.pack(k), _dim(vector), vector, _U32.pack(l_search)))


def _short(data: bytes, what: str) -> bytes:
    return _U16.pack(_length(data, what, U16_MAX)) + data


def _pair(key: bytes, value: bytes) -> tuple[bytes, bytes, bytes]:
    return _PAIR.pack(_length(key, "key", U16_MAX), _length(value, "value", U32_MAX)), key, value


def _length(data: bytes, what: str, most: int) -> int:
    if len(data) > most:
        raise ParameterError(what, f"{len(data)} bytes", f"at most {most} bytes")
    return len(data)


def _dim(vector: bytes) -> bytes:
    if len(vector) % 4:
        raise ParameterError("vector", f"{len(vector)} bytes", "4 bytes for each component")
    return _U32.pack(len(vector) // 4)


NOTHING = Layout(_read_nothing, _write_nothing)
KEY = Layout(_read_key, _write_key)
KEYS = Layout(_read_keys, _write_keys)
PAIR = Layout(_read_pair, _write_pair)
PAIRS = Layout(_read_pairs, _write_pairs)
NAME = Layout(_read_name, _write_name)
NEW_INDEX = Layout(_read_new_index, _write_new_index)
ID = Layout(_read_id, _write_id)
VECTOR = Layout(_read_vector, _write_vector)
SEARCH = Layout(_read_search, _write_search)
