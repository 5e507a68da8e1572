"""The commands that talk to a server: arguments in, requests over one connection, replies out.

Library modules are imported inside the commands, as in `skeg.cli`.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skeg.cli_common import EXIT_USAGE, json_option, show
from skeg.errors import NotConnected, ProtocolError, ServerError

if TYPE_CHECKING:
    from skeg.net.clients.channel import Channel
    from skeg.net.clients.resp import RespClient

# Commands whose replies are written for people.
_TEXTS = frozenset({b"INFO", b"CLIENT", b"SKEG.STATS", b"SKEG.SHARDS", b"SKEG.VINDEX.LIST"})


def _address(_: click.Context, __: click.Parameter, text: str) -> tuple[str, int]:
    """Host and port of `localhost:6379` or `[::1]:6379`."""
    match = re.fullmatch(r"(?:\[([^\]]+)\]|([^:]+)):(\d{1,5})", text)
    if match is None or int(match[3]) > 65_535:
        raise click.BadParameter(f"{text!r}: expected HOST:PORT, such as 127.0.0.1:6379")
    return match[1] or match[2], int(match[3])


def _server(command: Callable[..., None]) -> Callable[..., None]:
    """Options that say which server."""
    address = click.option(
        "--addr",
        callback=_address,
        default="127.0.0.1:6379",
        show_default=True,
        metavar="HOST:PORT",
        help="Where the server listens.",
    )
    password = click.option(
        "--password-file",
        type=click.Path(dir_okay=False, path_type=Path),
        help="File whose first line is the password of the server.",
    )
    return address(password(command))


@click.command()
@_server
@click.option("--count", type=click.IntRange(min=1), default=1, show_default=True, help="How many times.")
@json_option
def ping(addr: tuple[str, int], password_file: Path | None, count: int, json_output: bool) -> None:
    """Ask a server whether it answers, and print how long that took."""
    with _client(addr, password_file) as client:
        times_ms = []
        for _ in range(count):
            start = time.perf_counter()
            client.ping()
            times_ms.append(round((time.perf_counter() - start) * 1e3, 3))
    latency = {"min": min(times_ms), "median": round(statistics.median(times_ms), 3), "max": max(times_ms)}
    named = {f"latency_ms_{name}": value for name, value in latency.items()}
    show({"server": f"{addr[0]}:{addr[1]}", "reply": "PONG", "count": count, **named}, json_output)


@click.command()
@_server
@click.argument("section", required=False)
@json_option
def info(addr: tuple[str, int], password_file: Path | None, section: str | None, json_output: bool) -> None:
    """Print what a server says about itself, or only about SECTION."""
    with _client(addr, password_file) as client:
        show(client.info(section), json_output)


# Options of the command line end where the command for the server begins.
@click.command("cli", context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True})
@_server
@click.argument("words", nargs=-1, metavar="[COMMAND [ARGUMENTS]...]")
def cli(addr: tuple[str, int], password_file: Path | None, words: tuple[str, ...]) -> None:
    """Send COMMAND to a server and print the reply; exit with 2 if it is an error.

    Without COMMAND, read commands from the terminal or from stdin, one a line: words, which may stand in quotes.
    """
    from skeg.net.clients.channel import Channel
    from skeg.net.clients.show import ShownParser

    with contextlib.closing(Channel(*addr, None, ShownParser)) as channel:
        login = [] if password_file is None else ["AUTH", "default", _password(password_file)]
        _ask(channel, ["HELLO", 3, *login])
        if words:
            if isinstance(
                _print_reply(channel, [word.encode(errors="surrogateescape") for word in words]), ServerError
            ):
                sys.exit(EXIT_USAGE)
            return
        for line in _lines(f"{addr[0]}:{addr[1]}> "):
            _execute(channel, line)


def _execute(channel: Channel, line: str) -> None:
    """Execute a line; what goes wrong is shown, and the next line is another try."""
    from skeg.net.resp.inline import split_inline

    try:
        words = split_inline(line.encode(errors="surrogateescape"))
        if words:
            _print_reply(channel, words)
    except (NotConnected, ProtocolError) as error:
        click.echo(f"skeg: {error}", err=True)


def _print_reply(channel: Channel, words: list[bytes]) -> Any:
    from skeg.net.clients.show import shown

    (reply,) = channel.ask([words])
    if isinstance(reply, bytes) and words[0].upper() in _TEXTS:
        click.echo(reply.rstrip(b"\n"))
    else:
        click.echo(shown(reply))
    return reply


def _ask(channel: Channel, words: list[Any]) -> None:
    (reply,) = channel.ask([words])
    if isinstance(reply, ServerError):
        raise reply


def _lines(prompt: str) -> Iterator[str]:
    """Lines of a person, who has a prompt and can edit, or of a program, up to the end or "quit"."""
    is_typed = sys.stdin.isatty()
    if is_typed:
        with contextlib.suppress(ImportError):  # not everywhere
            importlib.import_module("readline")  # `input` uses it then
    while True:
        try:
            line = input(prompt if is_typed else "")
        except EOFError:
            if is_typed:
                click.echo()
            return
        if line.strip().lower() in {"quit", "exit"}:
            return
        yield line


def _client(addr: tuple[str, int], password_file: Path | None) -> RespClient:
    from skeg.net.clients.resp import connect

    return connect(*addr, password=None if password_file is None else _password(password_file))


def _password(file: Path) -> bytes:
    from skeg.net.access import read_password

    return read_password(file)
