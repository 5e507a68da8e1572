"""Commands about the connection itself."""

from __future__ import annotations

from typing import Any

import skeg
from skeg.durability import Durability
from skeg.net.commands.table import Command
from skeg.net.failures import NO_AUTH, CommandError
from skeg.net.resp.encode import Status
from skeg.net.resp_session import RespSession
from skeg.net.text import signed, unsigned

_OK = Status("OK")
_PONG = Status("PONG")

_NAME_BYTES_MAX = 256


def ping(session: RespSession, args: list[bytes]) -> None:
    """PING [message]."""
    if len(args) > 2:
        raise CommandError(f"PING accepts 0 or 1 arguments, got {len(args) - 1}")
    session.say(args[1] if len(args) == 2 else _PONG)


def echo(session: RespSession, args: list[bytes]) -> None:
    """ECHO message."""
    if len(args) != 2:
        raise CommandError(f"ECHO requires exactly 1 argument, got {len(args) - 1}")
    session.say(args[1])


def select(session: RespSession, args: list[bytes]) -> None:
    """SELECT 0."""
    number = signed(args[1])
    if number is None:
        raise CommandError("invalid DB index")
    if number != 0:
        raise CommandError("DB index out of range (skeg only supports DB 0)")
    session.say(_OK)


def auth(session: RespSession, args: list[bytes]) -> None:
    """AUTH [user] password."""
    user = args[1] if len(args) == 3 else b"default"
    session.authenticate(user, args[-1])
    session.say(_OK)


def hello(session: RespSession, args: list[bytes]) -> None:
    """HELLO [2 | 3 [AUTH user password] [SETNAME name]]; nothing changes if any of it is wrong."""
    version, login, name = _hello_clauses(session, args)
    if login is not None:
        session.authenticate(*login)
    if not session.gate.is_passed:
        raise CommandError(NO_AUTH, "NOAUTH")
    session.version = version
    if name is not None:
        session.name = name
    session.say(
        {
            b"server": b"skeg",
            b"version": skeg.__version__.encode(),
            b"proto": version,
            b"id": session.number,
            b"mode": b"standalone",
            b"role": b"replica" if session.engine.is_read_only else b"master",
            b"modules": [],
        }
    )


def _hello_clauses(session: RespSession, args: list[bytes]) -> tuple[int, tuple[bytes, bytes] | None, bytes | None]:
    """Version, login and name that a HELLO asks for."""
    version = session.version
    if len(args) > 1:
        wanted = unsigned(args[1], 255)
        if wanted not in (2, 3):
            raise CommandError("HELLO: invalid protover, expected 2 or 3")
        version = wanted
    login = name = None
    rest = iter(args[2:])
    for word in rest:
        match word.upper():
            case b"AUTH":
                user, password = next(rest, None), next(rest, None)
                if user is None or password is None:
                    raise CommandError("HELLO: AUTH requires username and password")
                login = (user, password)
            case b"SETNAME":
                name = next(rest, None)
                if name is None:
                    raise CommandError("HELLO: SETNAME requires a name")
                _check_client_name(name)
            case _:
                shown = word.upper().decode() if word.isascii() else "<binary>"
                raise CommandError(f"HELLO: unknown clause '{shown}'")
    return version, login, name


def _check_client_name(name: bytes) -> None:
    if len(name) > _NAME_BYTES_MAX or any(not 0x21 <= byte <= 0x7E for byte in name):
        raise CommandError("Client names cannot contain spaces, newlines or special characters.")


def quit_(session: RespSession, _: list[bytes]) -> None:
    """QUIT."""
    session.say(_OK)
    session.end()


def reset(session: RespSession, _: list[bytes]) -> None:
    """RESET."""
    session.reset()
    session.say(Status("RESET"))


def durability(session: RespSession, args: list[bytes]) -> None:
    """SKEG.DURABILITY [sync | os | none]: of this connection's writes from now on."""
    if len(args) == 1:
        session.say(session.level.name.lower().encode())
        return
    name = args[1].upper().decode(errors="replace")
    if name not in Durability.__members__:
        raise CommandError("durability must be sync, os or none")
    session.choose_level(Durability[name])
    session.say(_OK)


def client(session: RespSession, args: list[bytes]) -> None:
    """CLIENT subcommand [...]."""
    word, rest = args[1].upper(), args[2:]
    match word, len(rest):
        case b"ID", 0:
            session.say(session.number)
        case b"GETNAME", 0:
            session.say(session.name or None)
        case b"SETNAME", 1:
            _check_client_name(rest[0])
            session.name = rest[0]
            session.say(_OK)
        case b"SETINFO", 2:
            _set_info(session, rest)
        case b"INFO", 0:
            session.say(f"{session.describe()}\n".encode())
        case b"LIST", _:
            session.say("".join(f"{line}\n" for line in session.engine.traffic.clients()).encode())
        case ((b"NO-EVICT" | b"NO-TOUCH"), 1):
            session.say(_OK)
        case _:
            shown = args[1][:128].decode(errors="replace")
            raise CommandError(f"unknown subcommand or wrong number of arguments for '{shown}'. Try CLIENT LIST.")


def _set_info(session: RespSession, rest: list[bytes]) -> None:
    attribute, value = rest[0].upper(), rest[1]
    if attribute not in (b"LIB-NAME", b"LIB-VER"):
        raise CommandError(f"Unrecognized option '{rest[0][:128].decode(errors='replace')}'")
    _check_client_name(value)
    name, version = session.library
    session.library = (value, version) if attribute == b"LIB-NAME" else (name, value)
    session.say(_OK)


_CONNECTION: Any = {"group": "connection"}

COMMANDS = [
    Command(name="PING", run=ping, arity=(0, -1), summary="PONG, or the message", **_CONNECTION),
    Command(name="ECHO", run=echo, arity=(0, -1), summary="The message", **_CONNECTION),
    Command(name="SELECT", run=select, arity=(1, 1), summary="There is one database, 0", **_CONNECTION),
    Command(name="AUTH", run=auth, arity=(1, 2), is_open=True, summary="Give the password", **_CONNECTION),
    Command(
        name="HELLO", run=hello, arity=(0, -1), is_open=True,
        summary="Choose the protocol: HELLO [2 | 3 [AUTH user password] [SETNAME name]]", **_CONNECTION,
    ),
    Command(name="QUIT", run=quit_, arity=(0, -1), is_open=True, summary="Close the connection", **_CONNECTION),
    Command(
        name="RESET", run=reset, arity=(0, 0), is_open=True, summary="Make the connection as new", **_CONNECTION
    ),
    Command(name="CLIENT", run=client, arity=(1, -1), summary="About this connection and others", **_CONNECTION),
    Command(
        name="SKEG.DURABILITY", run=durability, arity=(0, 1), summary="What this connection's writes survive",
        **_CONNECTION,
    ),
]  # fmt: skip
