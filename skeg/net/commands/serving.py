"""Commands about the server."""

from __future__ import annotations

from typing import Any

from skeg.net.commands.keyspace import glob_match
from skeg.net.commands.table import Command
from skeg.net.engine.figures import SECTIONS, config_values, info_text, shards_text, stats_text
from skeg.net.failures import CommandError
from skeg.net.resp.encode import Status
from skeg.net.resp_session import RespSession
from skeg.net.session import Lane

_NAMES_MAX = 64
"""Names, or patterns, of one command about commands or settings."""


def _few(words: list[bytes]) -> list[bytes]:
    if len(words) > _NAMES_MAX:
        raise CommandError(f"{len(words)} names or patterns: at most {_NAMES_MAX}")
    return words


def info(session: RespSession, args: list[bytes]) -> None:
    """INFO [section ...]."""
    wanted = dict.fromkeys(word.lower().decode(errors="replace") for word in args[1:])
    every = not wanted or not wanted.keys().isdisjoint({"all", "default", "everything"})
    engine = session.engine
    session.run(lambda: info_text(engine, SECTIONS if every else tuple(wanted)).encode())


def stats(session: RespSession, _: list[bytes]) -> None:
    """SKEG.STATS."""
    engine = session.engine
    session.run(lambda: stats_text(engine).encode())


def shards(session: RespSession, _: list[bytes]) -> None:
    """SKEG.SHARDS."""
    engine = session.engine
    session.run(lambda: shards_text(engine).encode())


def whoami(session: RespSession, _: list[bytes]) -> None:
    """SKEG.WHOAMI."""
    session.say(b"tenant=%b mode=single-tenant" % (b"0" * 32))


def reserved(_: RespSession, __: list[bytes]) -> None:
    """SKEG.AUTH."""
    raise CommandError("SKEG.AUTH is reserved; use HELLO 3 AUTH user pass for now (v0.2)")


def config(session: RespSession, args: list[bytes]) -> None:
    """CONFIG GET pattern [pattern ...]."""
    if args[1].upper() != b"GET" or len(args) < 3:
        shown = args[1][:128].decode(errors="replace")
        raise CommandError(f"unknown subcommand or wrong number of arguments for '{shown}'. Try CONFIG GET.")
    patterns = [pattern.lower() for pattern in _few(args[2:])]
    values = config_values(session.engine)
    session.say(
        {
            name.encode(): value.encode()
            for name, value in values.items()
            if any(glob_match(pattern, name.encode()) for pattern in patterns)
        }
    )


def command(session: RespSession, args: list[bytes]) -> None:
    """COMMAND [COUNT | LIST | INFO [name ...] | DOCS [name ...] | GETKEYS command ...]."""
    table = session.table
    if len(args) == 1:
        session.say([_row(entry) for entry in table])
        return
    word, names = args[1].upper(), args[2:]
    match word:
        case b"COUNT":
            session.say(len(table))
        case b"LIST":
            session.say([entry.name.lower().encode() for entry in table])
        case b"INFO":
            found = [table.find(name) for name in _few(names)] if names else list(table)
            session.say([None if entry is None else _row(entry) for entry in found])
        case b"DOCS":
            found = [table.find(name) for name in _few(names)] if names else list(table)
            session.say({entry.name.lower().encode(): _docs(entry) for entry in found if entry is not None})
        case b"GETKEYS":
            session.say(_keys_of(session, names))
        case _:
            shown = args[1][:128].decode(errors="replace")
            raise CommandError(f"unknown subcommand '{shown}'. Try COMMAND COUNT.")


def _row(entry: Command) -> list[Any]:
    return [entry.name.lower().encode(), entry.redis_arity, [Status(flag) for flag in entry.flags], *entry.keys]


def _docs(entry: Command) -> dict[bytes, Any]:
    return {b"summary": entry.summary.encode(), b"group": entry.group.encode()}


def _keys_of(session: RespSession, words: list[bytes]) -> list[bytes]:
    entry = session.table.find(words[0]) if words else None
    if entry is None or len(words) - 1 not in entry.counts:
        raise CommandError("Invalid command specified, or invalid number of arguments for it")
    first, last, step = entry.keys
    if not first:
        raise CommandError("The command has no key arguments")
    return words[first : (len(words) + 1 + last if last < 0 else last + 1) : step]


def _of_tenants(text: str) -> Any:
    def run(_: RespSession, __: list[bytes]) -> None:
        raise CommandError(text)

    return run


_NO_TENANTS = _of_tenants("multi-tenant backend not configured")
_NO_TENANT = _of_tenants("SKEG.SUBJECT.ERASE requires an authenticated tenant")

_SERVER: Any = {"group": "server"}
_OF_TENANTS: Any = {"group": "server", "summary": "Not on a server without tenants"}

COMMANDS = [
    Command(name="INFO", run=info, arity=(0, -1), lane=Lane.ALONE, summary="Figures of the server", **_SERVER),
    Command(name="CONFIG", run=config, arity=(1, -1), summary="Settings: CONFIG GET pattern", **_SERVER),
    Command(name="COMMAND", run=command, arity=(0, -1), summary="The commands", **_SERVER),
    Command(name="SKEG.STATS", run=stats, arity=(0, 0), lane=Lane.ALONE, summary="Figures and metrics", **_SERVER),
    Command(name="SKEG.SHARDS", run=shards, arity=(0, 0), lane=Lane.ALONE, summary="Figures by shard", **_SERVER),
    Command(name="SKEG.WHOAMI", run=whoami, arity=(0, 0), summary="Who the client is", **_SERVER),
    Command(name="SKEG.AUTH", run=reserved, arity=(0, -1), summary="Reserved", **_SERVER),
    Command(
        name="SKEG.QUOTA.SET", run=_NO_TENANTS, arity=(3, 3), wants="tenant max_vectors max_disk_bytes", **_OF_TENANTS
    ),
    Command(name="SKEG.QUOTA.GET", run=_NO_TENANTS, arity=(1, 1), wants="tenant", **_OF_TENANTS),
    Command(
        name="SKEG.QOS.SET", run=_NO_TENANTS, arity=(4, 4), wants="tenant rate burst max_concurrent", **_OF_TENANTS
    ),
    Command(name="SKEG.QOS.GET", run=_NO_TENANTS, arity=(1, 1), wants="tenant", **_OF_TENANTS),
    Command(name="SKEG.TENANT.ERASE", run=_NO_TENANTS, arity=(1, 1), **_OF_TENANTS),
    Command(name="SKEG.TENANT.DELETE", run=_NO_TENANTS, arity=(1, 1), **_OF_TENANTS),
    Command(name="SKEG.RECLAIM", run=_NO_TENANTS, arity=(0, 0), **_OF_TENANTS),
    Command(name="SKEG.SUBJECT.ERASE", run=_NO_TENANT, arity=(1, 1), **_OF_TENANTS),
]  # fmt: skip
