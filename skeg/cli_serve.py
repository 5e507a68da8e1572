"""The command that serves a database: arguments in, one library call.

Library modules are imported inside the command, as in `skeg.cli`.
"""

from __future__ import annotations

import logging
import tomllib
from pathlib import Path
from typing import Any

import click

from skeg.errors import FormatError
from skeg.files import disk_errors

_port = click.IntRange(0, 65_535)


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--addr", help="Address to listen at. [default: 127.0.0.1]")
@click.option("--port", type=_port, help="Port of RESP, 0 for any that is free. [default: 6379]")
@click.option("--binary-port", type=_port, help="Port of the binary protocol. [default: 7379]")
@click.option("--no-binary", is_flag=True, help="Don't speak the binary protocol.")
@click.option("--metrics-port", type=_port, help="Port of HTTP: /metrics, /livez, /readyz. [default: none]")
@click.option(
    "--mode", type=click.Choice(["rw", "serve"]), help="serve: for reading only, writes nothing. [default: rw]"
)
@click.option("--shards", type=int, help="Shards of a database that is made. [default: 1]")
@click.option(
    "--workers",
    type=int,
    help="Threads that answer all searches, in each process. [default: one for each processor, but for quick searches]",
)
@click.option("--processes", type=int, help="Processes that share the ports, with --mode serve. [default: 1]")
@click.option(
    "--durability",
    type=click.Choice(["sync", "os", "none"]),
    help="What writes survive unless a connection chooses. [default: sync]",
)
@click.option(
    "--password-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File whose first line is the password that clients have to give.",
)
@click.option("--insecure", is_flag=True, help="Listen without a password where others can reach it.")
@click.option("--max-clients", type=int, help="Connections at a time, in each process. [default: 10000]")
@click.option("--idle-timeout", "idle_timeout_s", type=float, help="Seconds; 0 for ever. [default: 0]")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="[default: info]")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="Form of a line. [default: text]")
@click.option(
    "--config",
    type=click.Path(dir_okay=False, path_type=Path),
    help="TOML file of settings, by the names of skeg.net.ServerSettings; options go before it.",
)
def serve(data: Path, config: Path | None, no_binary: bool, insecure: bool, **options: Any) -> None:
    """Serve the database directory DATA to any Redis client, and over a binary protocol.

    Stops at SIGTERM or Ctrl-C: requests that have arrived are answered, everything is committed. The log goes to
    stderr; its line "ready" says that clients can connect.
    """
    from skeg.net.logs import set_up
    from skeg.net.serve.run import serve as run
    from skeg.net.settings import ServerSettings

    given = {name: value for name, value in options.items() if value is not None}
    given |= {"insecure": True} if insecure else {}
    given |= {"binary_port": None} if no_binary else {}
    settings = ServerSettings.of({**_read(config), **given})
    set_up(settings.log_level, settings.log_format)
    log = logging.getLogger("skeg.server")
    run(data, settings, lambda _: log.info("ready"))


def _read(config: Path | None) -> dict[str, Any]:
    """The settings in a TOML file."""
    if config is None:
        return {}
    with disk_errors(config, "read the settings"):
        text = config.read_bytes()
    try:
        return tomllib.loads(text.decode())
    except ValueError as error:
        raise FormatError(config, f"not a TOML file ({error})") from error
