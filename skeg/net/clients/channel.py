"""Requests and replies over one connection, which is made anew when it broke and nothing can be done twice by that."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from skeg.errors import NotConnected, ProtocolError, ServerError
from skeg.net.clients.calls import Arguments, is_read, name_of
from skeg.net.clients.link import Link
from skeg.net.limits import Limits
from skeg.net.resp.encode import encode_command
from skeg.net.resp.replies import Push, ReplyParser

_CHOICES = (b"AUTH", b"HELLO", b"SELECT", b"CLIENT", b"SKEG.DURABILITY")


class Choices:
    """What a client has chosen for its connection, so that another connection can be told."""

    def __init__(self) -> None:
        self._made: dict[bytes, Arguments] = {}

    @property
    def version(self) -> int:
        """Version of the protocol."""
        made = self._made.get(b"HELLO")
        return 2 if made is None else int(made[1])

    def note(self, args: Arguments, reply: Any) -> None:
        """Remember a command if it made a choice and was not refused."""
        name = name_of(args)
        if isinstance(reply, ServerError) or len(args) < 2 or name not in _CHOICES:
            if name == b"RESET" and not isinstance(reply, ServerError):
                self._made.clear()
            return
        if name != b"CLIENT" or name_of(args[1:]) == b"SETNAME":
            self._made[name] = args

    def commands(self) -> list[Arguments]:
        """What to send on a new connection, in an order that a server takes."""
        return [self._made[name] for name in _CHOICES if name in self._made]


class Channel:
    """Connect at once; any thread may ask.

    Parameters
    ----------
    host : str
    port : int
    timeout : float or None
        See `Link`.
    parser : type
        What makes values of replies.

    Raises
    ------
    NotConnected
    """

    def __init__(self, host: str, port: int, timeout: float | None, parser: type[ReplyParser] = ReplyParser) -> None:
        self._make_parser = parser
        self._peer = (host, port, timeout)
        self._choices = Choices()
        self._lock = threading.Lock()
        self.closed = False
        self._link = Link(host, port, timeout)
        self._parser = parser(Limits())

    @property
    def version(self) -> int:
        """Version of the protocol that was agreed on."""
        return self._choices.version

    def ask(self, commands: Sequence[Arguments]) -> list[Any]:
        """Send commands together and wait for all replies; errors of the server are among them.

        A connection that is found dead before anything is sent is made anew. So is one that breaks later, once, if all
        commands are reads; of others nobody knows whether they were executed.

        Raises
        ------
        NotConnected
            There is no reply, or none in time; the connection is closed, and the next call makes another.
        ProtocolError
            Something else than replies came; likewise.
        ServerError
            A new connection was refused what the one before was granted, such as a password.
        """
        data = b"".join(map(encode_command, commands))
        with self._lock:
            if self.closed:
                raise NotConnected("the client was closed")
            is_new = not self._link.is_quiet()
            if is_new:
                self._reconnect()
            try:
                replies = self._exchange(data, len(commands))
            except NotConnected as error:
                if is_new or isinstance(error.__cause__, TimeoutError) or not all(map(is_read, commands)):
                    raise
                self._reconnect()
                replies = self._exchange(data, len(commands))
            for args, reply in zip(commands, replies, strict=True):
                self._choices.note(args, reply)
        return replies

    def close(self) -> None:
        """Close the connection for good."""
        self.closed = True
        self._link.close()

    def _reconnect(self) -> None:
        self._link.close()
        self._link = Link(*self._peer)
        self._parser = self._make_parser(Limits())
        commands = self._choices.commands()
        for reply in self._exchange(b"".join(map(encode_command, commands)), len(commands)):
            if isinstance(reply, ServerError):
                self._link.close()
                raise reply

    def _exchange(self, data: bytes, count: int) -> list[Any]:
        try:
            self._link.send(data)
            return self._receive(count)
        except BaseException:  # Ctrl-C too: what is still to come would be taken for the reply to something else
            self._link.close()
            raise

    def _receive(self, count: int) -> list[Any]:
        link, parser = self._link, self._parser
        replies: list[Any] = []
        while len(replies) < count:
            replies += [reply for reply in parser.feed(link.recv()) if type(reply) is not Push]
            if parser.error is not None:
                raise ProtocolError(f"reply of the server: {parser.error}")
        if len(replies) > count:
            raise ProtocolError(f"expected {count} replies, found {len(replies)}")
        return replies
