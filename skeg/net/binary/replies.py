"""Payloads of replies: what a server writes and a client reads.

All integers are little-endian.

    Ping, Set, Mset, Flush, Auth, Vset, VindexCreate, VindexDrop    nothing
    Get             length of the value (u32), value
    Del, Exists, Vdel       1 or 0 (u8): whether it was there
    Mget            n (u32), then for each key 1 (u8) if it is missing, or 0, length of the value (u32) and value
    Mexists         n (u32), then 1 or 0 (u8) for each key
    Vget            length in bytes (u32), components (f32)
    Vsearch         n (u32), then id (u64) and score (f32) of each hit, best first
    VindexList      n (u32), then for each index, in the order of their names: name (length u16, UTF-8), dim (u32),
                    kind (u8), backend (u8), number of vectors (u64)
    Stats           cache bytes, evictions, keys, cache budget (u64), of all shards together
    Shards          n (u32), then for each shard its number (u32) and what Stats has
    NativeHello     version of the protocol (u8), and a bit for each kind of index that can be made (u8)

An error has a layout of its own, see `skeg.net.binary.frames`. A missing key of Get, or id of Vget, is an error with
the code NOT_FOUND.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from skeg.errors import ProtocolError
from skeg.net.binary.frames import PAYLOAD_BYTES_MAX, Code, Op, pack_frame

_OK = Op.OK  # to look it up in its class would take as long as to pack a frame

_U32 = struct.Struct("<I")
_ROW = struct.Struct("<IBBQ")
_STATS = struct.Struct("<4Q")
_SHARD = struct.Struct("<I4Q")

TEXT_BYTES_MAX = 255

HIT = np.dtype([("id", "<u8"), ("score", "<f4")])
"""One hit of Vsearch on the wire."""


class Figures(NamedTuple):
    """What is told of a shard, or of all shards together."""

    cache_bytes: int
    cache_evictions: int
    n_keys: int
    cache_budget: int


class IndexRow(NamedTuple):
    """What is told of an index."""

    name: str
    dim: int
    kind_byte: int
    backend_byte: int
    n_vectors: int


# --- what a server writes


def ok(version: int, request_id: int, payload: bytes = b"") -> bytes:
    """Frame of a reply.

    Raises
    ------
    ProtocolError
        No reader would take it, as it is too long. So do functions below, before they make it.
    """
    _check(len(payload))
    return pack_frame(version, _OK, request_id, payload)


def err(version: int, request_id: int, code: Code, text: str) -> bytes:
    """Frame of an error; a text that is too long is cut."""
    data = text.encode(errors="replace")
    if len(data) > TEXT_BYTES_MAX:
        # No half characters: nobody could read them.
        data = data[:TEXT_BYTES_MAX].decode(errors="ignore").encode()
    return pack_frame(version, Op.ERR, request_id, bytes((code, len(data))) + data)


def encode_value(value: bytes) -> bytes:
    """Reply to Get, and to Vget."""
    _check(4 + len(value))
    return _U32.pack(len(value)) + value


def encode_flag(flag: bool) -> bytes:  # noqa: FBT001 - it is the payload
    """Reply to Del, Exists and Vdel."""
    return b"\1" if flag else b"\0"


def encode_values(values: Sequence[bytes | None]) -> bytes:
    """Reply to Mget."""
    _check(4 + len(values) + sum([4 + len(value) for value in values if value is not None]))
    parts = [_U32.pack(len(values))]
    for value in values:
        parts += (b"\1",) if value is None else (b"\0", _U32.pack(len(value)), value)
    return b"".join(parts)


def encode_flags(flags: Sequence[bool]) -> bytes:
    """Reply to Mexists."""
    return _U32.pack(len(flags)) + bytes(flags)


def encode_hits(ids: Sequence[int] | NDArray[np.uint64], scores: Sequence[float] | NDArray[np.float32]) -> bytes:
    """Reply to Vsearch."""
    hits = np.empty(len(ids), HIT)
    hits["id"] = ids
    hits["score"] = scores
    return _U32.pack(len(hits)) + hits.tobytes()


def encode_indexes(rows: Iterable[IndexRow]) -> bytes:
    """Reply to VindexList."""
    parts = []
    for name, *numbers in sorted((row.name.encode(), *row[1:]) for row in rows):
        parts += [len(name).to_bytes(2, "little"), name, _ROW.pack(*numbers)]
    return _U32.pack(len(parts) // 3) + b"".join(parts)


def encode_stats(figures: Figures) -> bytes:
    """Reply to Stats."""
    return _STATS.pack(*figures)


def encode_shards(shards: Sequence[Figures]) -> bytes:
    """Reply to Shards."""
    rows = [_SHARD.pack(number, *figures) for number, figures in enumerate(shards)]
    return _U32.pack(len(rows)) + b"".join(rows)


def encode_hello(version: int, kinds: int) -> bytes:
    """Reply to NativeHello."""
    return bytes((version, kinds))


# --- what a client reads


def decode_err(payload: bytes) -> tuple[int, str]:
    """Code and text of an error."""
    _need(payload, 2)
    return payload[0], _take(payload, 2, payload[1]).decode(errors="replace")


def decode_nothing(_: bytes) -> None:
    """Reply to what has nothing to tell."""


def decode_value(payload: bytes) -> bytes:
    """Reply to Get."""
    return _take(payload, 4, _u32(payload, 0))


def decode_flag(payload: bytes) -> bool:
    """Reply to Del, Exists and Vdel."""
    _need(payload, 1)
    return payload[0] != 0


def decode_values(payload: bytes) -> list[bytes | None]:
    """Reply to Mget."""
    n = _u32(payload, 0)
    _need(payload, 4 + n)
    values: list[bytes | None] = []
    place = 4
    for _ in range(n):
        _need(payload, place + 1)
        if payload[place] != 0:
            values.append(None)
            place += 1
            continue
        value = _take(payload, place + 5, _u32(payload, place + 1))
        values.append(value)
        place += 5 + len(value)
    return values


def decode_flags(payload: bytes) -> list[bool]:
    """Reply to Mexists."""
    return [byte != 0 for byte in _take(payload, 4, _u32(payload, 0))]


def decode_vector(payload: bytes) -> NDArray[np.float32]:
    """Reply to Vget; may not be written to."""
    data = decode_value(payload)
    if len(data) % 4:
        raise ProtocolError(f"reply: expected 4 bytes for each component, found {len(data)} bytes")
    return np.frombuffer(data, "<f4")


def decode_hits(payload: bytes) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
    """Reply to Vsearch: ids and scores."""
    hits = np.frombuffer(_take(payload, 4, _u32(payload, 0) * HIT.itemsize), HIT)
    return hits["id"].astype(np.uint64), hits["score"].astype(np.float32)


def decode_indexes(payload: bytes) -> list[IndexRow]:
    """Reply to VindexList."""
    n = _u32(payload, 0)
    rows = []
    place = 4
    for _ in range(n):
        _need(payload, place + 2)
        length = int.from_bytes(payload[place : place + 2], "little")
        name = _take(payload, place + 2, length)
        place += 2 + length
        _need(payload, place + _ROW.size)
        dim, kind, backend, n_vectors = _ROW.unpack_from(payload, place)
        rows.append(IndexRow(name.decode(errors="replace"), dim, kind, backend, n_vectors))
        place += _ROW.size
    return rows


def decode_stats(payload: bytes) -> Figures:
    """Reply to Stats."""
    _need(payload, _STATS.size)
    return Figures(*_STATS.unpack_from(payload))


def decode_shards(payload: bytes) -> list[tuple[int, Figures]]:
    """Reply to Shards: each shard's number and figures."""
    rows: list[Any] = [*_SHARD.iter_unpack(_take(payload, 4, _u32(payload, 0) * _SHARD.size))]
    return [(number, Figures(*figures)) for number, *figures in rows]


def decode_hello(payload: bytes) -> tuple[int, int]:
    """Reply to NativeHello: version and kinds."""
    _need(payload, 2)
    return payload[0], payload[1]


# --- bytes


def _check(nbytes: int) -> None:
    if nbytes > PAYLOAD_BYTES_MAX:
        raise ProtocolError(f"reply too large: {nbytes} bytes (max {PAYLOAD_BYTES_MAX})")


def _need(payload: bytes, nbytes: int) -> None:
    if len(payload) < nbytes:
        raise ProtocolError(f"reply: expected at least {nbytes} bytes, found {len(payload)}")


def _take(payload: bytes, start: int, nbytes: int) -> bytes:
    _need(payload, start + nbytes)
    return payload[start : start + nbytes]


def _u32(payload: bytes, place: int) -> int:
    _need(payload, place + 4)
    number: int = _U32.unpack_from(payload, place)[0]
    return number
