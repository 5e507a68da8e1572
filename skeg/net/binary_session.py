"""A connection that speaks the binary protocol: from frames to what the engine does, and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from skeg.durability import Durability
from skeg.errors import NotFoundError, ProtocolError, SkegError
from skeg.kv.aio import Operation
from skeg.net.access import Gate
from skeg.net.binary import requests as rq
from skeg.net.binary.frames import Code, Flags, Frame, FrameParser, Op, Refused
from skeg.net.binary.replies import err, ok
from skeg.net.engine.changes import Put, Remove
from skeg.net.engine.engine import Engine
from skeg.net.engine.searches import Search
from skeg.net.failures import NO_AUTH, READ_ONLY, CommandError, failure_of
from skeg.net.known import KnownSearch, KnownSearches
from skeg.net.session import ALONE, CHANGE, KEYS, SEARCH, Lane, Link, NotNowError, Session
from skeg.net.vectors import reply_weight

_WRITES = frozenset((Op.SET, Op.DEL, Op.MSET, Op.VSET, Op.VDEL, Op.VINDEX_CREATE, Op.VINDEX_DROP))
_OPEN = frozenset((Op.AUTH, Op.NATIVE_HELLO))

_LANES: dict[int, Lane] = {
    Op.VSEARCH: SEARCH, Op.VSET: CHANGE, Op.VDEL: CHANGE, Op.VGET: ALONE, Op.VINDEX_CREATE: ALONE,
    Op.VINDEX_DROP: ALONE, Op.VINDEX_LIST: ALONE, Op.STATS: ALONE, Op.SHARDS: ALONE, Op.FLUSH: ALONE,
}  # fmt: skip
"""Of all that is not about keys."""

_OF_MANY = frozenset((Op.MGET, Op.MEXISTS, Op.MSET))

APART_BYTES = 8 << 10
"""Bytes of a request about many keys from which on it is executed on a thread of its own."""

_UNSUPPORTED = Flags.COMPRESSED_LZ4 | Flags.CONTINUATION
_WAIT_DURABLE, _NO_REPLY = int(Flags.WAIT_DURABLE), int(Flags.NO_REPLY)


Handlers = Mapping[type[Any], Callable[["BinarySession", Any], None]]


class MissingError(Exception):
    """There is no such key or id."""


class BinarySession(Session):
    """See `Session`.

    Parameters
    ----------
    link : Link
    engine : Engine
    handlers : mapping
        What begins a request, by its type.
    operations : mapping
        Numbers of the measured operations, by name.
    gate : Gate
    number : int
        Of the connection.
    """

    def __init__(
        self,
        link: Link,
        engine: Engine,
        handlers: Handlers,
        operations: dict[str, int],
        gate: Gate,
        number: int,
    ) -> None:
        super().__init__(link, gate)
        self.engine = engine
        self.number = number
        self._handlers = handlers
        self._parser = FrameParser(gate.limits)
        self._numbers: dict[int, int] = {op: operations.get(_MEASURED_AS.get(op, ""), 0) for op in Op}
        self.searches = KnownSearches(engine.database)
        # The request that is being begun.
        self.frame: Frame
        self.is_apart = False
        self.level = engine.durability

    def describe(self) -> str:
        """Words about the connection, as CLIENT LIST shows them."""
        return f"id={self.number} name= db=0 resp=0 waiting={len(self.slots)}"

    def receive(self, data: bytes) -> None:
        """Parse what arrived; a header that can't be ends the connection after the replies to what came before."""
        parser = self._parser
        if self.is_ending:
            return
        refused = parser.refused
        if refused is not None:  # its turn has not come yet
            refused.rest += data
            return
        self.inbox += parser.feed(data)
        self.pending = parser.pending
        if parser.refused is not None:
            self.inbox.append(parser.refused)
        else:
            self.is_ending = parser.error is not None

    def start(self, request: Any) -> bool:
        """Begin the request of a frame."""
        if type(request) is Refused:
            return self._start_refused(request)
        frame: Frame = request
        op = frame.op
        # What concerns many keys would hold up everybody else: it gets a thread.
        self.is_apart = op in _OF_MANY and len(frame.payload) > APART_BYTES
        lane = ALONE if self.is_apart else _LANES.get(op, KEYS)
        if not self.admits(lane) or (lane is not KEYS and self.engine.is_full):
            return False
        level = Durability.SYNC if frame.flags & _WAIT_DURABLE else self.engine.durability
        if self.is_in_batch and level is not self.level:
            return False  # what is in a batch becomes durable together
        self.level = level
        self.frame = frame
        try:
            self._check_allowed(frame)
            decoded = rq.decode_request(frame)
            self._handlers[type(decoded)](self, decoded)
        except NotNowError:
            return False
        except (ProtocolError, CommandError) as error:
            text = str(error)
            # Whatever comes from the storage has that code, the client's own mistakes among it.
            self.refuse(Code.INTERNAL if text.startswith("storage error: ") else Code.INVALID_REQUEST, text)
        except SkegError as error:
            self.refuse(Code.INTERNAL, failure_of(error).text)
        if lane is KEYS:
            self.operations.append(self._numbers[op])
        return True

    def _start_refused(self, refused: Refused) -> bool:
        """The password may have come with it: then it may be as large as the limits are now. Else it is the end."""
        if refused.limits is self._parser.limits:
            self.end()
        else:
            self._parser = FrameParser(self.gate.limits)
            self.receive(bytes(refused.rest))
        return True

    def _check_allowed(self, frame: Frame) -> None:
        if not self.gate.is_passed and frame.op not in _OPEN:
            raise CommandError(NO_AUTH)
        if frame.op in _WRITES:
            if self.engine.is_read_only:
                raise CommandError(READ_ONLY)
            self.batch_bytes += len(frame.payload)
        if frame.flags & _UNSUPPORTED:
            raise CommandError("frames that are compressed or continued are not supported")

    # --- replies

    def say(self, payload: bytes = b"") -> None:
        """The reply to the request that is being begun."""
        frame = self.frame
        self.out.append(ok(frame.version, frame.request_id, payload))

    def refuse(self, code: Code, text: str) -> None:
        """Why that request is not executed."""
        frame = self.frame
        self.out.append(err(frame.version, frame.request_id, code, text))

    def replier(self, index: str | None = None) -> Callable[[Any, Callable[[Any], bytes]], bytes]:
        """What makes the reply to the request that is being begun of a result and of what makes a payload of it."""
        frame = self.frame
        is_silent = bool(frame.flags & _NO_REPLY) and frame.op in _WRITES

        def reply(result: Any, encode: Callable[[Any], bytes]) -> bytes:
            version, number = frame.version, frame.request_id
            if isinstance(result, NotFoundError) and index is None:
                return err(version, number, Code.NOT_FOUND, str(result))
            if isinstance(result, SkegError):
                return err(version, number, Code.INTERNAL, failure_of(result, index).text)
            try:
                return b"" if is_silent else ok(version, number, encode(result))
            except ProtocolError as error:  # longer than readers take
                return err(version, number, Code.INTERNAL, str(error))
            except MissingError as error:
                return err(version, number, Code.NOT_FOUND, str(error))

        return reply

    def submit(self, operations: Sequence[Operation], encode: Callable[[Any], bytes]) -> None:
        """Execute operations on keys; ``encode`` makes the payload of the reply of the first result."""
        reply = self.replier()

        def finish(results: list[Any]) -> bytes:
            return reply(results[0], encode)

        self.engine.keys.add(self, self.level, operations, finish)

    def authenticate(self, password: bytes) -> None:
        """Let the client do everything if the password is right; else `CommandError`."""
        try:
            self.gate.give(password)
        finally:
            self.check_gate()
        self._parser.limits = self.gate.limits

    def run(self, function: Callable[[], Any], encode: Callable[[Any], bytes], index: str | None = None) -> None:
        """Call a function on another thread; ``encode`` makes the payload of its result."""
        reply = self.replier(index)
        slot = self.reserve(ALONE, self._numbers[self.frame.op])
        self.engine.run(function, lambda result: self.settle(slot, reply(result, encode)))

    def change(self, change: Put | Remove, encode: Callable[[Any], bytes], index: str) -> None:
        """Queue a change of an index; ``encode`` makes the payload of its result."""
        reply = self.replier(index)
        slot = self.reserve(CHANGE, self._numbers[self.frame.op])
        self.engine.changes.submit(change._replace(done=lambda result: self.settle(slot, reply(result, encode))))

    def search(self, known: KnownSearch, query: bytes) -> None:
        """Search an index for one query, at once or on a thread; the encoded hits are the payload of the reply."""
        engine, operation = self.engine, self._numbers[self.frame.op]
        if known.room is None or not engine.searches.is_at_once(self.started):
            reply = self.replier(known.name)
            slot = self.reserve(SEARCH, operation, reply_weight(known.plan))

            def done(answer: bytes | SkegError) -> None:
                self.settle(slot, reply(answer, bytes))

            engine.searches.submit(Search(known.plan, query, known.encode, done))
            return
        self.take_from_tick(1)
        quick = engine.rooms.get(known.room).answer
        answer = engine.searches.at_once(known.plan, query, None, known.encode, quick)
        if isinstance(answer, bytes):
            self.say(answer)
        else:
            self.refuse(Code.INTERNAL, failure_of(answer, known.name).text)
        self.operations.append(operation)


_MEASURED_AS = {
    Op.GET: "get", Op.SET: "set", Op.DEL: "del", Op.MGET: "mget", Op.MSET: "mset", Op.EXISTS: "exists",
    Op.MEXISTS: "exists", Op.VSET: "vset", Op.VDEL: "vdel", Op.VGET: "skeg_vget", Op.VSEARCH: "vsearch",
    Op.PING: "ping", Op.STATS: "skeg_stats", Op.SHARDS: "skeg_shards", Op.VINDEX_CREATE: "skeg_vindex_create",
    Op.VINDEX_DROP: "skeg_vindex_drop", Op.VINDEX_LIST: "skeg_vindex_list", Op.AUTH: "auth",
    Op.NATIVE_HELLO: "hello", Op.FLUSH: "flush",
}  # fmt: skip
