"""Settings of a server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from skeg.checks import as_choice, as_int, as_number
from skeg.durability import Durability
from skeg.errors import ParameterError

PORT_MAX = 65_535

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def _int(low: int, high: int | None = None) -> Any:
    def check(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        as_int(attribute.name, value, low, high)

    return check


def _optional_port(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None:
        as_int(attribute.name, value, 0, PORT_MAX)


def _optional_int(low: int) -> Any:
    def check(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        if value is not None:
            as_int(attribute.name, value, low, 1024)

    return check


def _seconds(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    as_number(attribute.name, value, 0)


def _choice(*choices: str) -> Any:
    def check(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        as_choice(attribute.name, value, choices)

    return check


def _path(value: Any) -> Path | None:
    return None if value is None else Path(value)


@attrs.frozen(kw_only=True)
class ServerSettings:
    """How a database is served.

    Parameters
    ----------
    addr : str
        Address to listen at. Any but loopback needs a password, or ``insecure``.
    port, binary_port, metrics_port : int, optional
        Ports of RESP, of the binary protocol and of HTTP; 0 takes any that is free, None none.
    mode : {"rw", "serve"}
        For reading and writing, or for reading only, which writes nothing to the disk.
    workers : int, optional
        Threads that search in each process, and answer all searches. By default its part of the processors, and quick
        searches are answered without them.
    processes : int
        Processes that share the ports, 1 to 256; more than one in mode "serve" only.
    durability : {"sync", "os", "none"}
        Of writes of connections that chose none.
    password_file : path, optional
        File whose first line is the password that clients have to give.
    insecure : bool
        Listen without a password where others can reach it.
    max_clients : int
        Connections at a time, in each process.
    max_indexes : int
        Indexes from which on clients can't make another one.
    max_request_bytes : int
        Largest request.
    max_buffered_bytes : int
        Bytes of requests that have not arrived whole, over all connections of a process.
    max_reply_bytes : int
        Largest reply.
    cache_bytes : int
        Memory for values that were read, in each process.
    idle_timeout_s : float
        Seconds after which a connection that sends nothing is closed; 0 never.
    stall_timeout_s : float
        Seconds that a client may take to send the rest of a request, to take a reply, or to give its password.
    drain_timeout_s : float
        Seconds that requests under way get when the server stops.
    shards : int, optional
        Shards of a database that is made.
    log_level : {"debug", "info", "warning", "error"}
        Least level of what is logged.
    log_format : {"text", "json"}
        Form of a line of the log.
    """

    addr: str = "127.0.0.1"
    port: int | None = attrs.field(default=6379, validator=_optional_port)
    binary_port: int | None = attrs.field(default=7379, validator=_optional_port)
    metrics_port: int | None = attrs.field(default=None, validator=_optional_port)
    mode: str = attrs.field(default="rw", validator=_choice("rw", "serve"))
    workers: int | None = attrs.field(default=None, validator=_optional_int(1))
    processes: int = attrs.field(default=1, validator=_int(1, 256))
    durability: str = attrs.field(default="sync", validator=_choice("sync", "os", "none"))
    password_file: Path | None = attrs.field(default=None, converter=_path)
    insecure: bool = False
    max_clients: int = attrs.field(default=10_000, validator=_int(1, 1_000_000))
    max_indexes: int = attrs.field(default=1000, validator=_int(0, 1_000_000))
    max_request_bytes: int = attrs.field(default=64 << 20, validator=_int(1 << 16, 512 << 20))
    max_buffered_bytes: int = attrs.field(default=256 << 20, validator=_int(1 << 20))
    max_reply_bytes: int = attrs.field(default=64 << 20, validator=_int(1 << 16, 1 << 30))
    cache_bytes: int = attrs.field(default=128 << 20, validator=_int(0))
    idle_timeout_s: float = attrs.field(default=0, validator=_seconds)
    stall_timeout_s: float = attrs.field(default=60, validator=_seconds)
    drain_timeout_s: float = attrs.field(default=10, validator=_seconds)
    shards: int | None = attrs.field(default=None, validator=_optional_int(1))
    log_level: str = attrs.field(default="info", validator=_choice("debug", "info", "warning", "error"))
    log_format: str = attrs.field(default="text", validator=_choice("text", "json"))

    def __attrs_post_init__(self) -> None:
        if self.port is None and self.binary_port is None:
            raise ParameterError("port", None, "a port, or one of the binary protocol")
        if self.processes > 1 and self.mode != "serve":
            raise ParameterError("processes", self.processes, "1 in mode 'rw': one process writes")
        if self.addr not in LOOPBACK and self.password_file is None and not self.insecure:
            raise ParameterError("addr", self.addr, "a loopback address, or a password_file (or insecure)")

    @property
    def default_durability(self) -> Durability:
        """The level as the library has it."""
        return Durability[self.durability.upper()]

    @classmethod
    def names(cls) -> list[str]:
        """Names of all settings."""
        return [field.name for field in attrs.fields(cls)]

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> ServerSettings:
        """Settings of a mapping, as a configuration file has them.

        Parameters
        ----------
        values : mapping
            Settings by name.

        Raises
        ------
        ParameterError
            A name that is none, or a value that can't be.
        """
        for name in values:
            if name not in cls.names():
                raise ParameterError("setting", name, f"one of {', '.join(cls.names())}")
        return cls(**values)
