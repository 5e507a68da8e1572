"""Commands of RESP as clients know them: the arguments that are sent, and what the reply means.

The blocking client, the one for asyncio and pipelines share these.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, TypeVar

from skeg.checks import as_choice, as_int
from skeg.errors import ParameterError, ProtocolError, ServerError

T = TypeVar("T")

Data = bytes | bytearray | memoryview | str
"""A key or a value; text is sent as UTF-8."""

Argument = Data | int | float
Arguments = Sequence[Argument]

_READS = frozenset(
    b"COMMAND DBSIZE ECHO EXISTS GET INFO MGET PING SCAN STRLEN SKEG.SHARDS SKEG.STATS SKEG.VGET"
    b" SKEG.VINDEX.LIST SKEG.VSEARCH SKEG.WHOAMI".split()
)

_INTEGER_MIN, _INTEGER_MAX = -(2**63), 2**63 - 1


class Call(NamedTuple, Generic[T]):
    """One command.

    Attributes
    ----------
    args : sequence
        Its name and its arguments.
    decode : callable
        From a reply to the result; raises TypeError or ValueError for one that the command does not have.
    """

    args: Arguments
    decode: Callable[[Any], T]

    def result(self, reply: Any) -> T:
        """What a reply means.

        Raises
        ------
        ServerError
            The server refused.
        ProtocolError
            No such reply belongs to the command.
        """
        if isinstance(reply, ServerError):
            raise reply
        try:
            return self.decode(reply)
        except (TypeError, ValueError) as error:
            raise ProtocolError(f"{name_of(self.args).decode()}: unexpected reply {reply!r:.200}") from error


class Caller(ABC):
    """Base of whatever executes calls."""

    @abstractmethod
    def _run(self, call: Call[T]) -> T:
        """Have it executed, and return its result."""


def name_of(args: Arguments) -> bytes:
    """Name of a command, in upper case."""
    name = args[0]
    return (name.encode() if isinstance(name, str) else bytes(name) if isinstance(name, bytes) else b"").upper()


def is_read(args: Arguments) -> bool:
    """Whether a command changes nothing, so that it may be sent again when its reply got lost."""
    return name_of(args) in _READS


# --- replies


def whatever(reply: Any) -> Any:
    """Any reply, as it is."""
    return reply


def ok(reply: Any) -> None:
    """OK, which says nothing."""
    if reply != b"OK":
        raise TypeError


def data(reply: Any) -> bytes:
    """A string."""
    if not isinstance(reply, bytes):
        raise TypeError
    return reply


def text(reply: Any) -> str:
    """A string of UTF-8."""
    return data(reply).decode()


def data_or_none(reply: Any) -> bytes | None:
    """A string, or that there is none."""
    return None if reply is None else data(reply)


def number(reply: Any) -> int:
    """An integer."""
    if isinstance(reply, bool) or not isinstance(reply, int):
        raise TypeError
    return reply


def elements(reply: Any) -> list[Any]:
    """An array."""
    if not isinstance(reply, list):
        raise TypeError
    return reply


def _values(reply: Any) -> list[bytes | None]:
    return [data_or_none(value) for value in elements(reply)]


def _fields(reply: Any) -> dict[str, str]:
    lines = text(reply).splitlines()
    return dict(line.split(":", 1) for line in lines if ":" in line and not line.startswith("#"))


def _page(reply: Any) -> tuple[int, list[bytes]]:
    cursor, keys = elements(reply)
    return int(cursor), [data(key) for key in elements(keys)]


# --- commands of connections


def execute(args: Arguments) -> Call[Any]:
    """Any command."""
    if not args:
        raise ParameterError("args", args, "a command")
    return Call(args, whatever)


def hello(version: int, auth: tuple[Data, Data] | None, name: str | None) -> Call[Any]:
    """HELLO."""
    args: list[Argument] = ["HELLO", as_int("version", version, 2, 3)]
    if auth is not None:
        args += ["AUTH", *auth]
    if name is not None:
        args += ["SETNAME", name]
    return Call(args, whatever)


def ping(message: Data | None) -> Call[bytes]:
    """PING."""
    return Call(["PING"] if message is None else ["PING", message], data)


def info(section: str | None) -> Call[dict[str, str]]:
    """INFO."""
    return Call(["INFO"] if section is None else ["INFO", section], _fields)


def durability(level: str | None) -> Call[str]:
    """SKEG.DURABILITY."""
    if level is None:
        return Call(["SKEG.DURABILITY"], text)
    chosen = as_choice("level", level, ("sync", "os", "none"))

    def decode(reply: Any) -> str:
        ok(reply)
        return chosen

    return Call(["SKEG.DURABILITY", chosen], decode)


# --- commands on keys


def get(key: Data) -> Call[bytes | None]:
    """GET."""
    return Call(["GET", key], data_or_none)


def set_(key: Data, value: Data) -> Call[None]:
    """SET."""
    return Call(["SET", key, value], ok)


def of_keys(name: str, keys: Iterable[Data]) -> Call[int]:
    """DEL, EXISTS: of one or more keys, to a number."""
    args = [name, *keys]
    if len(args) == 1:
        raise ParameterError("keys", (), "at least one key")
    return Call(args, number)


def mget(keys: Iterable[Data]) -> Call[list[bytes | None]]:
    """MGET."""
    return Call(["MGET", *keys], _values)


def mset(pairs: Mapping[Any, Data]) -> Call[None]:
    """MSET."""
    return Call(["MSET", *(part for pair in pairs.items() for part in pair)], ok)


def append(key: Data, value: Data) -> Call[int]:
    """APPEND."""
    return Call(["APPEND", key, value], number)


def counted(name: str, key: Data, *delta: int) -> Call[int]:
    """INCR, DECR, INCRBY, DECRBY."""
    return Call([name, key, *(as_int("delta", step, _INTEGER_MIN, _INTEGER_MAX) for step in delta)], number)


def scan(cursor: int, match: Data | None, count: int | None) -> Call[tuple[int, list[bytes]]]:
    """SCAN."""
    args: list[Argument] = ["SCAN", as_int("cursor", cursor, 0)]
    if match is not None:
        args += ["MATCH", match]
    if count is not None:
        args += ["COUNT", as_int("count", count, 1)]
    return Call(args, _page)
