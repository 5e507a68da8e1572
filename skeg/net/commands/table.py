"""What a command is, and how it is found."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs

from skeg.net.session import Lane

Run = Callable[[Any, list[bytes]], None]
"""Executes a command of a `RespSession`; the first argument is the name. Raises `CommandError`."""

RunMany = Callable[..., bool]
"""Executes many commands at once, given the session and a list for each argument; False if it can't."""

_CACHED_NAMES = 1024


@attrs.frozen(kw_only=True)
class Command:
    """A command of RESP.

    Parameters
    ----------
    name : str
        In upper case.
    run : callable
    run_many : callable, optional
    arity : (int, int)
        Least and most arguments, the name not counted; -1 for any number.
    lane : Lane
        What it may run beside.
    is_write : bool
        Whether it changes the database: refused by a server in mode "serve".
    is_open : bool
        Whether it may be sent before the password.
    wants : str
        What errors about the number of arguments say is wanted; empty for nothing.
    label : str
        What those errors call it, if not by its name.
    keys : (int, int, int)
        First and last argument that is a key, and the step between them; negative ones count from the end.
    group, summary : str
        For ``COMMAND DOCS``.
    operation : int
        Its number among the operations that are measured; set by `Table`.

    Attributes
    ----------
    counts : range
        How many arguments it may have.
    """

    name: str
    run: Run
    run_many: RunMany | None = None
    arity: tuple[int, int]
    lane: Lane = Lane.KEYS
    is_write: bool = False
    is_open: bool = False
    wants: str = ""
    label: str = ""
    keys: tuple[int, int, int] = (0, 0, 0)
    group: str = "generic"
    summary: str
    operation: int = 0
    counts: range = attrs.field(init=False, repr=False, eq=False)

    @counts.default
    def _counts(self) -> range:
        low, high = self.arity
        return range(low, sys.maxsize if high < 0 else high + 1)

    @property
    def flags(self) -> list[str]:
        """Flags as Redis calls them."""
        flags = ["write" if self.is_write else "readonly"]
        if self.lane is Lane.KEYS:
            flags.append("fast")
        if self.is_open:
            flags.append("no-auth")
        return flags

    @property
    def redis_arity(self) -> int:
        """The number of arguments as Redis counts it: with the name, negative for at least so many."""
        low, high = self.arity
        return low + 1 if low == high else -(low + 1)

    def arity_error(self) -> str:
        """What is said about a wrong number of arguments."""
        wants = f"; want {self.wants}" if self.wants else ""
        return f"wrong number of arguments for '{self.label or self.name}'{wants}"


# Operations that metrics have always had, by command; others are called by their names.
_MEASURED_AS = {
    "GET": "get", "SET": "set", "DEL": "del", "PING": "ping",
    "SKEG.VSET": "vset", "SKEG.VSEARCH": "vsearch", "SKEG.VDEL": "vdel",
}  # fmt: skip


# Operations of the binary protocol that have no command.
_MEASURED_ELSEWHERE = ["flush"]


class Table:
    """All commands, by name in any case.

    Parameters
    ----------
    commands : sequence of Command
    """

    def __init__(self, commands: Sequence[Command]) -> None:
        known = list(_MEASURED_AS.values())
        self.operations = known + [_measured(c.name) for c in commands if c.name not in _MEASURED_AS]
        self.operations += _MEASURED_ELSEWHERE
        numbers = {name: number for number, name in enumerate(self.operations)}
        self._by_name: dict[bytes, Command] = {}
        for command in commands:
            number = numbers[_MEASURED_AS.get(command.name) or _measured(command.name)]
            self._by_name[command.name.encode()] = attrs.evolve(command, operation=number)
        # Names as clients spell them; there are few.
        self._spelled = dict(self._by_name)
        for name, command in self._by_name.items():
            self._spelled[name.lower()] = command

    def find(self, name: bytes) -> Command | None:
        """The command of a name, or None."""
        command = self._spelled.get(name)
        if command is None:
            command = self._by_name.get(name.upper())
            if command is not None and len(self._spelled) < _CACHED_NAMES:
                self._spelled[name] = command
        return command

    def __iter__(self) -> Iterator[Command]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)


def _measured(name: str) -> str:
    return name.lower().replace(".", "_")
