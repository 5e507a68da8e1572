"""Frames out and in over one connection, which is made anew when it broke and nothing can be done twice by that."""

from __future__ import annotations

import threading

from skeg.checks import as_int
from skeg.errors import NotConnected, ProtocolError, ServerError
from skeg.net.binary.frames import VERSIONS, Code, Flags, Frame, FrameParser, Op, pack_frame
from skeg.net.binary.replies import decode_err
from skeg.net.binary.requests import Auth, encode_request
from skeg.net.clients.link import Link
from skeg.net.limits import Limits

# Requests that change nothing, so that they may be sent again when their reply got lost.
_READS = frozenset((
    Op.GET, Op.MGET, Op.EXISTS, Op.MEXISTS, Op.VGET, Op.VSEARCH, Op.VINDEX_LIST, Op.PING, Op.STATS, Op.SHARDS,
    Op.NATIVE_HELLO,
))  # fmt: skip

_CODES = frozenset(map(int, Code))
_REPLIES = frozenset((Op.OK, Op.ERR))


class BinaryChannel:
    """Connect at once; any thread may ask.

    Parameters
    ----------
    host : str
    port : int
    timeout : float or None
        See `Link`.
    version : int
    password : str, optional
        Given on every connection.

    Raises
    ------
    NotConnected
    ServerError
        The password is wrong.
    """

    def __init__(self, host: str, port: int, timeout: float | None, version: int, password: str | None) -> None:
        self.version = as_int("version", version, VERSIONS[0], VERSIONS[-1])
        self.closed = False
        self._peer = (host, port, timeout)
        self._password = password
        self._lock = threading.Lock()
        self._last_id = 0
        # Later requests than this one wanted no reply, but get one if they fail.
        self._settled_id = 0
        self._connect()

    def ask(self, op: Op, payload: bytes, flags: int) -> bytes:
        """Send a request and wait for the payload of its reply; with `Flags.NO_REPLY` return nothing at once.

        A connection that is found dead before anything is sent is made anew. So is one that breaks later, once, if the
        request is a read; of others nobody knows whether they were executed. If earlier requests on it wanted no reply,
        nobody knows that of them.

        Raises
        ------
        ServerError
            The server refused.
        NotConnected
            There is no reply, or none in time; the connection is closed, and the next call makes another.
        ProtocolError
            Something else than the reply came; likewise.
        """
        with self._lock:
            is_repeatable = not self._make_ready() and op in _READS and self._last_id == self._settled_id
            try:
                return self._exchange(op, payload, flags)
            except NotConnected as error:
                if isinstance(error.__cause__, TimeoutError) or not is_repeatable:
                    raise
            self._connect()
            return self._exchange(op, payload, flags)

    def close(self) -> None:
        """Close the connection for good."""
        self.closed = True
        self._link.close()

    def _connect(self) -> None:
        self._link = Link(*self._peer)
        self._parser = FrameParser(Limits())
        self._settled_id = self._last_id
        if self._password is not None:
            try:
                self._exchange(*encode_request(Auth(self._password.encode())), 0)
            except ServerError:
                self._link.close()
                raise

    def _make_ready(self) -> bool:
        """Be connected; whether that took a new connection."""
        if self.closed:
            raise NotConnected("the client was closed")
        if self._last_id > self._settled_id and not self._link.closed:
            self._pass_over_refusals()
            return False
        if self._link.is_quiet():
            return False
        self._link.close()
        self._connect()
        return True

    def _pass_over_refusals(self) -> None:
        """Read what has come for requests that wanted no reply, so that the server never waits for us to read."""
        while not self._link.is_quiet():
            try:
                for frame in self._frames():
                    self._check_refusal(frame)
            except BaseException:
                self._link.close()
                raise

    def _exchange(self, op: Op, payload: bytes, flags: int) -> bytes:
        """Send a request and wait for the payload of its reply, unless none is wanted."""
        self._last_id += 1
        try:
            self._link.send(pack_frame(self.version, op, self._last_id, payload, flags))
            if flags & Flags.NO_REPLY:
                return b""
            reply = self._receive()
        except BaseException:  # Ctrl-C too: what is still to come would be taken for the reply to something else
            self._link.close()
            raise
        self._settled_id = self._last_id
        if reply.op == Op.ERR:
            code, text = decode_err(reply.payload)
            raise ServerError(text, Code(code).name if code in _CODES else f"0x{code:02X}")
        return reply.payload

    def _receive(self) -> Frame:
        """Wait for the reply to the last request."""
        while True:
            frames = self._frames()
            for number, frame in enumerate(frames, 1):
                if frame.request_id != self._last_id:
                    self._check_refusal(frame)
                elif frame.op not in _REPLIES or frame.version != self.version or number < len(frames):
                    raise ProtocolError(f"expected one reply of version {self.version}, found {frames!r:.200}")
                else:
                    return frame

    def _frames(self) -> list[Frame]:
        frames = self._parser.feed(self._link.recv())
        if self._parser.error is not None:
            raise ProtocolError(f"reply of the server: {self._parser.error}")
        return frames

    def _check_refusal(self, frame: Frame) -> None:
        """A reply to something else than the last request must be an error of one that wanted no reply."""
        if frame.op != Op.ERR or not self._settled_id < frame.request_id <= self._last_id:
            raise ProtocolError(f"expected the reply to request {self._last_id}, found that to {frame.request_id}")
