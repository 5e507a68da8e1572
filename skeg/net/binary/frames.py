"""Frames of the binary protocol.

A connection carries frames in both directions, without greeting. A frame is a header of 24 bytes and a payload. All
integers are little-endian, floats are IEEE 754 of 32 bits.

    offset  size  field
    0       2     magic, 0x564B: the bytes "KV"
    2       1     version, 1 or 2; a reply has that of its request
    3       1     op, see `Op`
    4       4     flags, see `Flags`; no other bit may be set
    8       8     request id, chosen by the client and repeated in the reply
    16      4     length of the payload in bytes, at most 16 MiB
    20      4     reserved: written as 0, not looked at
    24            payload

Fields are checked in this order, and the first that is wrong ends the connection without a reply: what follows can't be
told apart any more. What is wrong inside of a payload does not, see `skeg.net.binary.requests`.

Replies come in the order of the requests, with flags 0: `Op.OK` with what the request asks for, or `Op.ERR` with a code
(u8, see `Code`), the length of a text in bytes (u8) and the text (UTF-8).
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

import attrs

from skeg.net.limits import Limits

MAGIC = 0x564B
VERSIONS = (1, 2)

PAYLOAD_BYTES_MAX = 16 << 20
"""Longer payloads are refused by every reader."""

HEADER = struct.Struct("<HBBIQII")
HEADER_BYTES = 24
assert HEADER.size == HEADER_BYTES


class Op(IntEnum):
    """What a frame is. `AUTH` is known to this implementation alone, `NATIVE_HELLO` belongs to version 2."""

    GET = 0x01
    SET = 0x02
    DEL = 0x03
    MGET = 0x04
    MSET = 0x05
    EXISTS = 0x06
    MEXISTS = 0x07
    VINDEX_CREATE = 0x10
    VINDEX_DROP = 0x11
    VSET = 0x12
    VGET = 0x13
    VDEL = 0x14
    VSEARCH = 0x15
    VINDEX_LIST = 0x16
    PING = 0x80
    STATS = 0x81
    FLUSH = 0x82
    SHARDS = 0x83
    NATIVE_HELLO = 0x84
    AUTH = 0x85
    OK = 0xC0
    ERR = 0xC1
    CONTINUED = 0xC2

    @property
    def label(self) -> str:
        """Its name in messages, such as "VindexCreate"."""
        return self.name.title().replace("_", "")


class Flags(IntEnum):
    """Wishes of a client, as bits. With `NO_REPLY` a write is answered only if it fails.

    Sums of them are plain integers: arithmetic of `enum.IntFlag` would take longer than reading a frame.
    """

    WAIT_DURABLE = 0x01
    NO_REPLY = 0x02
    BATCH = 0x04
    BATCH_END = 0x08
    COMPRESSED_LZ4 = 0x10
    CONTINUATION = 0x20
    SET_NX = 0x40
    SET_XX = 0x80


class Code(IntEnum):
    """Why a request failed."""

    NOT_FOUND = 0x01
    INVALID_REQUEST = 0x02
    INTERNAL = 0x03


_OPS = frozenset(map(int, Op))
_FLAGS_MAX = 0xFF


class Frame(NamedTuple):
    """A frame, whose header is right; ``op`` is one of `Op`."""

    version: int
    op: int
    flags: int
    request_id: int
    payload: bytes


def pack_frame(version: int, op: int, request_id: int, payload: bytes, flags: int = 0) -> bytes:
    """Bytes of a frame; the payload is short enough."""
    return HEADER.pack(MAGIC, version, op, flags, request_id, len(payload), 0) + payload


@attrs.define
class Refused:
    """A frame that is larger than the limits are, or were when it arrived: they may have become others in its turn.

    Parameters
    ----------
    limits : Limits
    rest : bytearray
        The frame, from its header on, and what follows it.
    """

    limits: Limits
    rest: bytearray


class FrameParser:
    """Finds frames in bytes that arrive in chunks.

    Nothing is believed before it arrives: a length is compared with the limit, and no memory is taken for it.

    Parameters
    ----------
    limits : Limits

    Attributes
    ----------
    limits : Limits
        May be replaced at any time.
    error : str or None
        Why nothing can be understood any more; what came before was returned, what comes after is ignored.
    refused : Refused or None
        If that is because a frame is too large.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.error: str | None = None
        self.refused: Refused | None = None
        self._kept = bytearray()  # the beginning of a frame
        self._missing = 0  # bytes of it that are still to come, 0 while its header is incomplete

    @property
    def pending(self) -> int:
        """Bytes of a frame that has not arrived whole."""
        return len(self._kept)

    def feed(self, data: bytes) -> list[Frame]:
        """Take a chunk; return the frames that it completes, in order."""
        frames: list[Frame] = []
        if self.error is not None:
            return frames
        if self._missing:
            data = self._resume(data, frames)
        elif self._kept:  # of a header: at most once for each frame
            data = bytes(self._kept) + data
            self._kept = bytearray()
        longest = self.limits.frame_bytes_max
        start, end = 0, len(data)
        while end - start >= HEADER_BYTES:
            magic, version, op, flags, request_id, length, _ = HEADER.unpack_from(data, start)
            is_wrong = magic != MAGIC or version not in VERSIONS or op not in _OPS or flags > _FLAGS_MAX
            if is_wrong or length > longest:
                self.error = _refusal(magic, version, op, flags, length, longest)
                if not is_wrong:
                    self.refused = Refused(self.limits, bytearray(data[start:]))
                return frames
            stop = start + HEADER_BYTES + length
            if stop > end:
                self._missing = stop - end
                break
            frames.append(Frame(version, op, flags, request_id, data[start + HEADER_BYTES : stop]))
            start = stop
        if start < end:
            self._kept += data[start:]
        return frames

    def _resume(self, data: bytes, frames: list[Frame]) -> bytes:
        """Take what is missing of a frame whose header has been looked at; return what follows it."""
        kept, missing = self._kept, self._missing
        kept += data[:missing]
        if len(data) < missing:
            self._missing -= len(data)
            return b""
        _, version, op, flags, request_id, _, _ = HEADER.unpack_from(kept)
        frames.append(Frame(version, op, flags, request_id, bytes(memoryview(kept)[HEADER_BYTES:])))
        self._kept = bytearray()
        self._missing = 0
        return data[missing:]


def _refusal(magic: int, version: int, op: int, flags: int, length: int, longest: int) -> str:
    """What is wrong with a header; the first failure counts."""
    if magic != MAGIC:
        return f"invalid magic: expected 0x564B, got 0x{magic:04X}"
    if version not in VERSIONS:
        return f"invalid version: expected 1 or 2, got {version}"
    if op not in _OPS:
        return f"unknown op code: 0x{op:02X}"
    if flags > _FLAGS_MAX:
        return f"invalid flags bits: 0x{flags:08X}"
    return f"frame too large: {length} bytes (max {longest})"
