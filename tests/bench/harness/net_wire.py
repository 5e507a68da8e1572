"""The least of both protocols that a load or a check needs, written apart from `skeg.net` so that it can judge it.

Standard library only, and no waiting but that of a socket.
"""

from __future__ import annotations

import socket
import struct
from typing import Any, Self

Word = bytes | str | int

HEADER = struct.Struct("<HBBIQII")
MAGIC = 0x564B
OP_GET, OP_SET, OP_DEL, OP_MGET = 0x01, 0x02, 0x03, 0x04
OP_VINDEX_CREATE, OP_VINDEX_DROP, OP_VSET, OP_VGET, OP_VDEL, OP_VSEARCH = 0x10, 0x11, 0x12, 0x13, 0x14, 0x15
OP_PING, OP_OK = 0x80, 0xC0

_CHUNK = 1 << 18


class Problem(str):
    """An error that a server answered."""

    __slots__ = ()


class WireError(Exception):
    """The connection ended, or what came is no reply."""


def command(*words: Word) -> bytes:
    """A command of RESP."""
    raw = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(raw) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in raw)


def reply_at(data: bytes | bytearray, at: int = 0) -> tuple[Any, int] | None:
    """The reply of RESP2 or RESP3 that begins at a place, and the place behind it; None while it is not whole."""
    end = data.find(b"\r\n", at)
    if end < 0:
        return None
    mark, line, end = data[at], bytes(data[at + 1 : end]), end + 2
    match chr(mark):
        case "+":
            return line, end
        case "-":
            return Problem(line.decode(errors="replace")), end
        case ":":
            return int(line), end
        case ",":
            return float(line), end
        case "_":
            return None, end
        case "#":
            return line == b"t", end
        case "$" | "=":
            return _bulk(data, int(line), end)
        case "*" | "~" | ">":
            return _items(data, int(line), end)
        case "%":
            return _items(data, 2 * int(line), end)
    raise WireError(f"no reply begins with {bytes(data[at : at + 20])!r}")


def _bulk(data: bytes | bytearray, size: int, at: int) -> tuple[Any, int] | None:
    if size < 0:
        return None, at
    if len(data) < at + size + 2:
        return None
    return bytes(data[at : at + size]), at + size + 2


def _items(data: bytes | bytearray, count: int, at: int) -> tuple[Any, int] | None:
    items = []
    for _ in range(count):
        found = reply_at(data, at)
        if found is None:
            return None
        items.append(found[0])
        at = found[1]
    return items, at


def frame(op: int, request_id: int, payload: bytes = b"", flags: int = 0, version: int = 1) -> bytes:
    """A frame of the binary protocol."""
    return HEADER.pack(MAGIC, version, op, flags, request_id, len(payload), 0) + payload


def named(name: str) -> bytes:
    """A name or key as binary payloads begin with it."""
    raw = name.encode()
    return struct.pack("<H", len(raw)) + raw


def vset_payload(name: str, vector_id: int, vector: bytes) -> bytes:
    return named(name) + struct.pack("<QI", vector_id, len(vector) // 4) + vector


def vsearch_payload(name: str, k: int, list_size: int, vector: bytes) -> bytes:
    return named(name) + struct.pack("<II", k, len(vector) // 4) + vector + struct.pack("<I", list_size)


def connected(port: int, timeout_s: float = 30.0) -> socket.socket:
    link = socket.create_connection(("127.0.0.1", port), timeout_s)
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return link


class _Link:
    """A blocking connection that keeps what came but was not asked for yet."""

    def __init__(self, port: int, timeout_s: float = 30.0) -> None:
        self.socket = connected(port, timeout_s)
        self._data = bytearray()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def _more(self) -> None:
        piece = self.socket.recv(_CHUNK)
        if not piece:
            raise WireError("the server closed the connection")
        self._data += piece


class Resp(_Link):
    """A connection of RESP."""

    def read(self) -> Any:
        """The next reply: bytes, int, float, None, list, or a `Problem`."""
        while (found := reply_at(self._data)) is None:
            self._more()
        del self._data[: found[1]]
        return found[0]

    def ask(self, *words: Word) -> Any:
        self.send(command(*words))
        return self.read()

    def must(self, *words: Word) -> Any:
        """`ask`, for what can't fail: an error is raised as `WireError`."""
        found = self.ask(*words)
        if isinstance(found, Problem):
            raise WireError(f"{words[0]!r}: {found}")
        return found


class Binary(_Link):
    """A connection of the binary protocol."""

    def __init__(self, port: int, timeout_s: float = 30.0) -> None:
        super().__init__(port, timeout_s)
        self._sent = 0

    def put(self, op: int, payload: bytes = b"") -> None:
        """Send a request without waiting for what comes of it."""
        self._sent += 1
        self.send(frame(op, self._sent, payload))

    def read(self) -> bytes | Problem:
        """Payload of the next reply, or a `Problem`, which begins with the number of its code."""
        while len(self._data) < HEADER.size:
            self._more()
        magic, _, op, _, _, size, _ = HEADER.unpack_from(self._data)
        if magic != MAGIC:
            raise WireError(f"no frame begins with {bytes(self._data[:4])!r}")
        while len(self._data) < HEADER.size + size:
            self._more()
        payload = bytes(self._data[HEADER.size : HEADER.size + size])
        del self._data[: HEADER.size + size]
        return payload if op == OP_OK else Problem(f"{payload[0]} {payload[2:].decode(errors='replace')}")

    def ask(self, op: int, payload: bytes = b"") -> bytes | Problem:
        self.put(op, payload)
        return self.read()
