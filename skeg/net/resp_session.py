"""A connection that speaks RESP: from bytes to commands, from results to bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from skeg.catalog import check_name
from skeg.durability import Durability
from skeg.errors import ParameterError, SkegError
from skeg.kv.aio import Operation
from skeg.net.access import Gate
from skeg.net.commands.table import Command, Table
from skeg.net.engine.changes import Put, Remove
from skeg.net.engine.engine import Engine
from skeg.net.engine.searches import Search
from skeg.net.failures import NO_AUTH, READ_ONLY, CommandError, failure_of
from skeg.net.known import KnownSearch, KnownSearches
from skeg.net.resp.encode import ErrorReply
from skeg.net.resp.encode import encode as encode_value
from skeg.net.resp.requests import Malformed, Refused, RequestParser
from skeg.net.resp.runs import RUN_BYTES_MIN, Run, find_run
from skeg.net.session import ALONE, AT_ONCE_MAX, CHANGE, KEYS, SEARCH, Lane, Link, NotNowError, Session
from skeg.net.vectors import index_named, reply_weight
from skeg.vector_index import VectorIndex

MANY = 512
"""Words of a command from which on it is executed on a thread of its own: about 3 ms."""


class RespSession(Session):
    """See `Session`; what commands need of a connection is here.

    Parameters
    ----------
    link : Link
    engine : Engine
    table : Table
    gate : Gate
    number : int
        Of the connection.
    """

    FULL = b"-ERR max number of clients reached\r\n"

    def __init__(self, link: Link, engine: Engine, table: Table, gate: Gate, number: int) -> None:
        super().__init__(link, gate)
        self.engine = engine
        self.table = table
        self.number = number
        self.version = 2
        self.name = b""
        self.level = engine.durability
        self.library = (b"", b"")
        self.searches = KnownSearches(engine.database)
        self.command: Command | None = None  # the last one
        self.operation = 0
        self._parser = RequestParser(gate.limits)

    # --- requests

    def receive(self, data: bytes) -> None:
        """Parse what arrived; what can't be parsed ends the connection after the replies to what came before."""
        if not self.is_ending:
            self._read(data)

    def _read(self, data: bytes) -> None:
        parser = self._parser
        refused = parser.refused
        if refused is not None:  # it has not begun yet
            if refused.rest:
                refused.rest += data
            return
        if not self.pending:
            request = parser.repeated(data)
            if request is not None:
                self.inbox.append(request)
                return
            if len(data) >= RUN_BYTES_MIN and self.gate.is_passed:
                run = find_run(data)
                if run is not None:
                    self.inbox.append(run)
                    return
        self.inbox += parser.feed(data)
        self.pending = parser.pending
        if parser.refused is not None:
            self.inbox.append(parser.refused)

    def start(self, request: Any) -> bool:
        """Begin a command."""
        if type(request) is not list:
            return self._start_run(request) if type(request) is Run else self._start_malformed(request)
        command = self.table.find(request[0])
        if command is None:
            return self._start_unknown(request[0])
        # What concerns many keys would hold up everybody else: it gets a thread.
        lane = command.lane if len(request) <= MANY else ALONE
        if (self.slots or lane is not KEYS) and not self._admits(lane):
            return False
        self.command = command
        self.operation = command.operation
        try:
            if not self.gate.is_passed and not command.is_open:
                raise CommandError(NO_AUTH, "NOAUTH")  # noqa: TRY301 - one place that answers errors
            if len(request) - 1 not in command.counts:
                raise CommandError(command.arity_error())  # noqa: TRY301 - likewise
            if command.is_write:
                self._check_writable()
                self.batch_bytes += sum(map(len, request))
            command.run(self, request)
        except NotNowError:
            return False
        except (CommandError, SkegError) as error:
            self.say(refusal(failure_of(error) if isinstance(error, SkegError) else error))
            self.engine.metrics.error(command.operation)
        if lane is KEYS:
            self.operations.append(command.operation)
        return True

    def _start_run(self, run: Run) -> bool:
        """Begin many commands of one kind, at once or one by one."""
        command = self.table.find(run.name)
        if self.slots and not self._admits(KEYS):
            return False
        if command is not None and command.run_many is not None and len(run.columns) in command.counts:
            is_allowed = self.gate.is_passed and not (command.is_write and self.engine.is_read_only)
            if is_allowed and command.run_many(self, *run.columns):
                if command.is_write:
                    self.batch_bytes += max(map(len, run.columns[-1]))
                self.command = command
                self.operations += [command.operation] * run.count
                return True
        self.inbox.popleft()
        self.inbox.extendleft(reversed(run.commands()))
        return self.start(self.inbox[0])

    def _start_malformed(self, request: Malformed | Refused) -> bool:
        if self.slots and self.lane is not KEYS:
            return False
        if type(request) is Refused and request.rest and request.limits is not self._parser.limits:
            # The password came with it, in time: it may be as large as the limits are now.
            self._parser = RequestParser(self.gate.limits)
            self._read(bytes(request.rest))
            return True
        self.say(ErrorReply(f"ERR {request.text}"))
        if type(request) is Refused:
            self.end()
        return True

    def _start_unknown(self, name: bytes) -> bool:
        if self.slots and self.lane is not KEYS:
            return False
        if not self.gate.is_passed:
            self.say(ErrorReply(f"NOAUTH {NO_AUTH}"))
        else:
            self.say(ErrorReply(f"ERR {_unknown(name)}"))
        return True

    def _admits(self, lane: Lane) -> bool:
        return self.admits(lane) and (lane is KEYS or not self.engine.is_full)

    def _check_writable(self) -> None:
        if self.engine.is_read_only:
            raise CommandError(READ_ONLY, "READONLY")

    def authenticate(self, user: bytes, password: bytes) -> None:
        """Let the client do everything if the password is right; else `CommandError`."""
        try:
            self.gate.give(password, user)
        finally:
            self.check_gate()
        self._parser.limits = self.gate.limits

    def reset(self) -> None:
        """Forget what the client has chosen, its password included."""
        self.choose_level(self.engine.durability)
        self.version = 2
        self.name = b""
        self.gate.reset()
        self._parser.limits = self.gate.limits

    def choose_level(self, level: Durability) -> None:
        """Have writes be so durable from now on; what is written in one tick is so together."""
        if self.is_in_batch and level is not self.level:
            raise NotNowError
        self.level = level

    def describe(self) -> str:
        """Words about the connection, as CLIENT LIST shows them."""
        facts: dict[str, Any] = {
            "id": self.number,
            "name": self.name.decode(),
            "db": 0,
            "resp": self.version,
            "cmd": self.command.name.lower() if self.command else "NULL",
            "durability": self.level.name.lower(),
            "waiting": len(self.slots),
            "lib-name": self.library[0].decode(),
            "lib-ver": self.library[1].decode(),
        }
        return " ".join(f"{name}={value}" for name, value in facts.items())

    # --- replies

    def say(self, value: Any) -> None:
        """The next reply."""
        data = encode_value(value, self.version)
        self.out.append(data)
        self.out_bytes += len(data)

    def submit(self, operations: Sequence[Operation], finish: Callable[..., Any]) -> None:
        """Execute operations on keys; ``finish``, given their results, makes the value of the reply."""
        self.engine.keys.add(self, self.level, operations, self._replier(finish))

    def _replier(self, finish: Callable[..., Any]) -> Callable[[list[Any]], bytes]:
        """What makes a reply of the results of operations, of which one may be an error."""
        version = self.version

        def reply(results: list[Any]) -> bytes:
            for result in results:
                if isinstance(result, SkegError):
                    return encode_value(refusal(failure_of(result)), version)
            try:
                return encode_value(finish(*results), version)
            except CommandError as error:
                return encode_value(refusal(error), version)

        return reply

    def submit_in_steps(self, operations: Sequence[Operation], finish: Callable[..., Any]) -> None:
        """Execute more operations on keys than should be executed at a time, as `submit` does."""
        reply = self._replier(finish)
        slot = self.reserve(ALONE, self.operation)

        def done(results: Any) -> None:
            self.settle(slot, reply([results] if isinstance(results, SkegError) else results))

        self.engine.keys.in_steps(self.level, operations, done)

    def run(self, function: Callable[[], Any], index: str | None = None, *, is_long: bool = False) -> None:
        """Call a function on another thread; its result is the value of the reply. ``index`` is what it is about."""
        version = self.version
        slot = self.reserve(ALONE, self.operation)

        def done(result: Any) -> None:
            if isinstance(result, SkegError):
                result = refusal(failure_of(result, index))
            self.settle(slot, encode_value(result, version))

        self.engine.run(function, done, is_long=is_long)

    def search(self, known: KnownSearch, queries: bytes, count: int | None = None) -> None:
        """Search an index for one query, or for as many; the encoded hits are the reply."""
        engine = self.engine
        if known.room is None or (count or 1) > AT_ONCE_MAX or not engine.searches.is_at_once(self.started):
            self.queue_search(known, queries, count=count)
            return
        self.take_from_tick(count or 1)
        quick = engine.rooms.get(known.room).answer if count is None else None
        answer = engine.searches.at_once(known.plan, queries, count, known.encode, quick)
        if isinstance(answer, bytes):
            self.out.append(answer)
            self.out_bytes += len(answer)
        else:
            self.say(refusal(failure_of(answer, known.name)))
        self.operations.append(self.operation)

    def queue_search(self, known: KnownSearch, queries: bytes, **how: Any) -> None:
        """Have a thread search; ``how`` as of `Search`."""
        version, plan = self.version, known.plan
        weight = reply_weight(plan, how.get("count") or 1, with_payload=how.get("with_payload", False))
        slot = self.reserve(SEARCH, self.operation, weight)

        def done(result: Any) -> None:
            if isinstance(result, SkegError):
                result = encode_value(refusal(failure_of(result, known.name)), version)
            self.settle(slot, result)

        self.engine.searches.submit(Search(plan, queries, known.encode, done, **how))

    def change(self, change: Put | Remove, index: str, finish: Callable[[Any], Any]) -> None:
        """Queue a change of an index; ``finish`` makes the value of the reply of its result."""
        version = self.version
        slot = self.reserve(CHANGE, self.operation)

        def done(result: Any) -> None:
            value = refusal(failure_of(result, index)) if isinstance(result, SkegError) else finish(result)
            self.settle(slot, encode_value(value, version))

        self.engine.changes.submit(change._replace(done=done))

    def command_error(self) -> str:
        """What is said about the arguments of the command that runs."""
        return "" if self.command is None else self.command.arity_error()

    # --- arguments

    def index(self, name: bytes) -> tuple[str, VectorIndex]:
        """Name of an index and the index itself; `CommandError` if there is none."""
        text = index_name(name)
        return text, index_named(self.engine.database, text)


def refusal(error: CommandError) -> ErrorReply:
    """An error as a value of a reply."""
    return ErrorReply(f"{error.code} {error.text}")


def name_text(name: bytes) -> str:
    """A name as text, whatever it is."""
    try:
        return name.decode()
    except UnicodeDecodeError as error:
        raise CommandError("name must be UTF-8") from error


def _unknown(name: bytes) -> str:
    """What is said about a command that there is not."""
    try:
        return f"unknown command '{name.upper().decode()[:128]}'"
    except UnicodeDecodeError:
        return "invalid utf-8 in command name"


def index_name(name: bytes) -> str:
    """The name of an index, or `CommandError` if it can't be one."""
    text = name_text(name)
    if "::" in text:
        raise CommandError("VINDEX name must not contain '::' (reserved for tenant scoping)")
    try:
        check_name(text)
    except ParameterError as error:
        raise CommandError("VINDEX name: 1-255 chars, [A-Za-z0-9._-] only, no '..'") from error
    return text
