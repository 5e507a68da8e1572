"""The blocking client of RESP."""

from __future__ import annotations

import re
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from skeg.checks import as_int
from skeg.errors import ParameterError, ServerError
from skeg.net.clients import calls
from skeg.net.clients.calls import Argument, Call, Data
from skeg.net.clients.channel import Channel
from skeg.net.clients.key_commands import KeyCommands
from skeg.net.clients.server_commands import ServerCommands
from skeg.net.clients.vector_commands import VectorCommands

T = TypeVar("T")

_BATCH_BYTES = 32 << 10
"""About how many bytes of commands are sent before their replies are read.

So many fit between the two sides even while nobody reads, so neither waits for the other to read first.
"""


class RespClient(KeyCommands, VectorCommands, ServerCommands):
    """A connection to a server; threads may share it, and take turns.

    A connection that broke is made anew by the next call, with the same user, name and choices. A call that only reads
    is repeated then; a write whose fate is unknown raises `NotConnected`.

    Parameters
    ----------
    host : str
        Name or address of the server.
    port : int
    timeout : float or None
        Seconds in which a connection has to be made, and in which something has to happen while a reply is awaited;
        None waits as long as it takes.

    Attributes
    ----------
    version : int
        Of the protocol; 2 until `hello` has asked for 3.
    closed : bool
        Whether `close` was called.

    Raises
    ------
    NotConnected
        Nobody listens there, or does not answer in time.
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 6379, timeout: float | None = 5.0) -> None:
        self._channel = Channel(host, port, timeout)

    @classmethod
    def connect(cls, host: str = "127.0.0.1", port: int = 6379, *, timeout: float | None = 5.0) -> Self:
        """Connect without agreeing on anything, as the constructor does.

        Parameters
        ----------
        host : str
        port : int
        timeout : float or None
            Seconds.
        """
        return cls(host, port, timeout)

    @property
    def version(self) -> int:
        """Version of the protocol."""
        return self._channel.version

    @property
    def closed(self) -> bool:
        """Whether the client was closed."""
        return self._channel.closed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; closing it again does nothing."""
        self._channel.close()

    def execute(self, *args: Argument) -> Any:
        """Execute any command.

        Parameters
        ----------
        *args : bytes-like, str, int or float
            Its name and its arguments.

        Returns
        -------
        object
            The reply: bytes, int, float, bool, None, or lists and dicts of them, in which errors are `ServerError`
            objects.

        Raises
        ------
        ServerError
            The server refused.
        NotConnected
            The connection broke, or no reply came in time.
        """
        return self._run(calls.execute(args))

    def scan_iter(
        self, match: Data | None = None, *, prefix: Data | None = None, count: int | None = None
    ) -> Iterator[bytes]:
        r"""Go through the keys, in no particular order. One that comes or goes meanwhile may be seen or not.

        Parameters
        ----------
        match : bytes or str, optional
            Pattern of the keys, in which ``* ? [abc]`` and ``\`` mean something.
        prefix : bytes or str, optional
            How the keys begin, instead of a pattern.
        count : int, optional
            About how many keys to ask for at a time.

        Yields
        ------
        bytes
            Keys; each that is there all the time at least once.
        """
        if match is not None and prefix is not None:
            raise ParameterError("prefix", prefix, "None with a pattern")
        if prefix is not None:
            match = _pattern_of(prefix)
        cursor = 0
        while True:
            cursor, keys = self.scan(cursor, match=match, count=count)
            yield from keys
            if cursor == 0:
                return

    def pipeline(self) -> Pipeline:
        """Collect commands that are sent together, in a ``with`` block.

        Returns
        -------
        Pipeline
        """
        return Pipeline(self._channel)

    def _run(self, call: Call[T]) -> T:
        return call.result(self._channel.ask([call.args])[0])


class Pipeline(KeyCommands, VectorCommands, ServerCommands):
    """Commands that wait to be sent together. Its methods are those of the client, but return None.

    Leaving the ``with`` block sends what waits, unless an exception did it.

    Attributes
    ----------
    results : list
        What the methods of the client would have returned, in order, for everything that was sent; for what the server
        refused, the `ServerError`.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._waiting: list[Call[Any]] = []
        self.results: list[Any] = []

    def __len__(self) -> int:
        """Commands that wait."""
        return len(self._waiting)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.send()

    def execute(self, *args: Argument) -> None:
        """Add any command.

        Parameters
        ----------
        *args : bytes-like, str, int or float
            Its name and its arguments.
        """
        self._run(calls.execute(args))

    def send(self) -> list[Any]:
        """Send what waits, and wait for the replies.

        Returns
        -------
        list
            Results of what was sent now, in order; they are added to `results` too.

        Raises
        ------
        NotConnected
            The connection broke. `results` has those that are known; of the other commands, any may have been executed.
        """
        waiting, self._waiting = self._waiting, []
        start = len(self.results)
        for batch in _batches(waiting):
            replies = self._channel.ask([call.args for call in batch])
            self.results += [_result(call, reply) for call, reply in zip(batch, replies, strict=True)]
        return self.results[start:]

    def _run(self, call: Call[T]) -> T:
        self._waiting.append(call)
        return cast("T", None)  # see the class


def connect(
    host: str = "127.0.0.1",
    port: int = 6379,
    *,
    timeout: float | None = 5.0,
    protocol: int = 3,
    password: Data | None = None,
    username: str = "default",
) -> RespClient:
    """Connect to a server and agree on the version of the protocol.

    Parameters
    ----------
    host : str
        Name or address.
    port : int
    timeout : float or None
        Seconds; see `RespClient`.
    protocol : {2, 3}
        Version of RESP.
    password : str or bytes, optional
        If the server wants one.
    username : str
        Whose password it is.

    Returns
    -------
    RespClient

    Raises
    ------
    NotConnected
        Nobody listens there, or does not answer in time.
    ServerError
        The password is wrong or missing.
    """
    as_int("protocol", protocol, 2, 3)
    client = RespClient(host, port, timeout)
    try:
        client.hello(protocol, auth=None if password is None else (username, password))
    except BaseException:
        client.close()
        raise
    return client


def _pattern_of(prefix: Data) -> bytes:
    start = prefix.encode() if isinstance(prefix, str) else bytes(prefix)
    return re.sub(rb"([*?\[\]^\\])", rb"\\\1", start) + b"*"


def _result(call: Call[Any], reply: Any) -> Any:
    try:
        return call.result(reply)
    except ServerError as error:
        return error


def _size(arg: Argument) -> int:
    """About how many bytes an argument is on the wire."""
    size = arg.nbytes if isinstance(arg, memoryview) else 8 if isinstance(arg, int | float) else len(arg)
    return size + 8


def _batches(waiting: list[Call[Any]]) -> Iterator[list[Call[Any]]]:
    batch: list[Call[Any]] = []
    size = 0
    for call in waiting:
        length = sum(map(_size, call.args))
        if batch and size + length > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(call)
        size += length
    if batch:
        yield batch
