"""Requests of the binary protocol; `skeg.net.binary.layouts` has the bytes of their payloads.

A payload that is something else than its op says is answered with an error, and the connection goes on.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from skeg.errors import ParameterError, ProtocolError
from skeg.net.binary import layouts
from skeg.net.binary.frames import PAYLOAD_BYTES_MAX, Frame, Op
from skeg.net.binary.layouts import Layout


class Ping(NamedTuple):
    """Nothing but an answer."""


class Stats(NamedTuple):
    """Figures of all shards together."""


class Shards(NamedTuple):
    """Figures of each shard."""


class Flush(NamedTuple):
    """Make durable what was written."""


class VindexList(NamedTuple):
    """All indexes."""


class NativeHello(NamedTuple):
    """What the server can do."""


class Auth(NamedTuple):
    """The password."""

    password: bytes


class Get(NamedTuple):
    """Value of a key."""

    key: bytes


class Set(NamedTuple):
    """Give a key a value."""

    key: bytes
    value: bytes


class Del(NamedTuple):
    """Remove a key."""

    key: bytes


class Exists(NamedTuple):
    """Whether a key is there."""

    key: bytes


class Mget(NamedTuple):
    """Values of keys."""

    keys: list[bytes]


class Mexists(NamedTuple):
    """Which keys are there."""

    keys: list[bytes]


class Mset(NamedTuple):
    """Give keys values."""

    pairs: list[tuple[bytes, bytes]]


class VindexCreate(NamedTuple):
    """Create an index."""

    name: str
    dim: int
    kind_byte: int
    backend_byte: int


class VindexDrop(NamedTuple):
    """Remove an index."""

    name: str


class Vset(NamedTuple):
    """Set the vector of an id; ``vector`` is the bytes of its components."""

    name: str
    id: int
    vector: bytes


class Vget(NamedTuple):
    """Vector of an id."""

    name: str
    id: int


class Vdel(NamedTuple):
    """Remove an id."""

    name: str
    id: int


class Vsearch(NamedTuple):
    """The k nearest vectors to one; ``l_search`` 0 leaves the effort to the index."""

    name: str
    k: int
    vector: bytes
    l_search: int = 0


Request = (
    Ping | Stats | Shards | Flush | VindexList | NativeHello | Auth | Get | Set | Del | Exists | Mget | Mexists | Mset
    | VindexCreate | VindexDrop | Vset | Vget | Vdel | Vsearch
)  # fmt: skip


def decode_request(frame: Frame) -> Request:
    """The request of a frame.

    Raises
    ------
    ProtocolError
        It is none; the message is what the client is told, with `skeg.net.binary.frames.Code.INVALID_REQUEST`.
    """
    known = _KNOWN.get(frame.op)
    if known is None:
        raise ProtocolError(f"op {Op(frame.op).label} not implemented")
    kind, layout = known
    if kind is NativeHello and frame.version < 2:
        raise ProtocolError("native hello requires protocol version 2")
    request: Request = kind(*layout.read(frame.payload))
    return request


def encode_request(request: Request) -> tuple[Op, bytes]:
    """Op and payload of a request.

    Raises
    ------
    ParameterError
        Something in it is too long for the protocol.
    """
    op = _OPS[type(request)]
    payload = _KNOWN[op][1].write(*request)
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise ParameterError("request", f"{op.label} of {len(payload)} bytes", f"at most {PAYLOAD_BYTES_MAX} bytes")
    return op, payload


_KNOWN: dict[int, tuple[type[Any], Layout]] = {
    Op.PING: (Ping, layouts.NOTHING),
    Op.STATS: (Stats, layouts.NOTHING),
    Op.SHARDS: (Shards, layouts.NOTHING),
    Op.FLUSH: (Flush, layouts.NOTHING),
    Op.VINDEX_LIST: (VindexList, layouts.NOTHING),
    Op.NATIVE_HELLO: (NativeHello, layouts.NOTHING),
    Op.AUTH: (Auth, layouts.KEY),
    Op.GET: (Get, layouts.KEY),
    Op.DEL: (Del, layouts.KEY),
    Op.EXISTS: (Exists, layouts.KEY),
    Op.SET: (Set, layouts.PAIR),
    Op.MGET: (Mget, layouts.KEYS),
    Op.MEXISTS: (Mexists, layouts.KEYS),
    Op.MSET: (Mset, layouts.PAIRS),
    Op.VINDEX_CREATE: (VindexCreate, layouts.NEW_INDEX),
    Op.VINDEX_DROP: (VindexDrop, layouts.NAME),
    Op.VSET: (Vset, layouts.VECTOR),
    Op.VGET: (Vget, layouts.ID),
    Op.VDEL: (Vdel, layouts.ID),
    Op.VSEARCH: (Vsearch, layouts.SEARCH),
}

_OPS: dict[type[Any], Op] = {kind: Op(op) for op, (kind, _) in _KNOWN.items()}
