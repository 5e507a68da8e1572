"""The client of RESP for asyncio."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from skeg.checks import as_int
from skeg.errors import NotConnected, ProtocolError, ServerError
from skeg.net.clients import calls, vector_calls
from skeg.net.clients.calls import Argument, Arguments, Call, Data, is_read
from skeg.net.clients.channel import Choices
from skeg.net.clients.packing import Vector
from skeg.net.clients.types import Hit
from skeg.net.clients.vector_calls import HitArrays
from skeg.net.limits import Limits
from skeg.net.resp.encode import encode_command
from skeg.net.resp.replies import Push, ReplyParser

T = TypeVar("T")


class _Connection(asyncio.Protocol):
    """Replies go to whoever asked, in order. What is asked in one turn of the loop is sent together."""

    def __init__(self, peer: str) -> None:
        self._peer = peer
        self._loop = asyncio.get_running_loop()
        self._parser = ReplyParser(Limits())
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._out: list[bytes] = []
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._transport: asyncio.Transport | None = None
        self.ended = self._loop.create_future()  # with the reason
        self.is_open = True

    async def ask(self, data: bytes) -> Any:
        """Send a command and wait for its reply."""
        await self._may_write.wait()
        if not self.is_open:
            raise NotConnected(f"{self._peer}: the connection was closed")
        reply = self._loop.create_future()
        self._waiting.append(reply)
        if not self._out:
            self._loop.call_soon(self._flush)
        self._out.append(data)
        return await reply

    def end(self, error: NotConnected | ProtocolError) -> None:
        """Close the connection; nobody gets a reply any more."""
        if not self.is_open:
            return
        self.is_open = False
        self._may_write.set()
        if self._transport is not None:
            self._transport.abort()
        for reply in self._waiting:
            if not reply.done():
                reply.set_exception(type(error)(str(error)))  # each its own: tracebacks grow
        self._waiting.clear()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        assert isinstance(transport, asyncio.Transport), "asked for a stream"
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        self.end(NotConnected(f"{self._peer}: {error or 'the server closed the connection'}"))
        self.ended.set_result(None)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        for value in self._parser.feed(data):
            if type(value) is Push:
                continue
            if not self._waiting:
                self.end(ProtocolError(f"{self._peer}: a reply that nobody asked for"))
                return
            reply = self._waiting.popleft()
            if not reply.done():  # else the caller was cancelled
                reply.set_result(value)
        if self._parser.error is not None:
            self.end(ProtocolError(f"{self._peer}: reply of the server: {self._parser.error}"))

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._may_write.clear()

    def resume_writing(self) -> None:
        """See `asyncio.Protocol`."""
        self._may_write.set()

    def _flush(self) -> None:
        data = b"".join(self._out)
        self._out.clear()
        if self.is_open and self._transport is not None:
            self._transport.write(data)


class AsyncClient:
    """A connection to a server that tasks share: their commands go out together, and none waits for another's reply.

    A connection that broke is made anew by the next call, with the same user, name and choices. A call that only reads
    is repeated then; a write whose fate is unknown raises `NotConnected`. A reply that does not come in time ends the
    connection. Made by `connect`; arguments, results and errors of the methods are those of `RespClient`.
    """

    def __init__(self, host: str, port: int, timeout: float | None) -> None:
        self._host = host
        self._port = port
        self._timeout = timeout
        self._choices = Choices()
        self._connecting = asyncio.Lock()
        self._connection: _Connection | None = None
        self._closed = False

    @classmethod
    async def connect(
        cls,
        host: str = "127.0.0.1",
        port: int = 6379,
        *,
        timeout: float | None = 5.0,  # noqa: ASYNC109 - of every call
        protocol: int = 3,
        password: Data | None = None,
        username: str = "default",
    ) -> Self:
        """Connect to a server and agree on the version of the protocol.

        Parameters
        ----------
        host : str
            Name or address.
        port : int
        timeout : float or None
            Seconds in which a connection has to be made, and each call has to be answered; None waits as long as it
            takes.
        protocol : {2, 3}
            Version of RESP.
        password : str or bytes, optional
            If the server wants one.
        username : str
            Whose password it is.

        Raises
        ------
        NotConnected
            Nobody listens there, or does not answer in time.
        ServerError
            The password is wrong or missing.
        """
        client = cls(host, as_int("port", port, 0, 65_535), timeout)
        try:
            await client._run(calls.hello(protocol, None if password is None else (username, password), None))
        except BaseException:
            await client.close()
            raise
        return client

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection; calls that wait raise `NotConnected`."""
        self._closed = True
        connection = self._connection
        if connection is not None:
            connection.end(NotConnected("the client was closed"))
            await connection.ended

    # --- commands

    async def execute(self, *args: Argument) -> Any:
        """Execute any command.

        Parameters
        ----------
        *args : bytes-like, str, int or float
            Its name and its arguments.
        """
        return await self._run(calls.execute(args))

    async def ping(self, message: Data | None = None) -> bytes:
        """Ask whether the server answers.

        Parameters
        ----------
        message : bytes or str, optional
        """
        return await self._run(calls.ping(message))

    async def info(self, section: str | None = None) -> dict[str, str]:
        """What the server says about itself.

        Parameters
        ----------
        section : str, optional
            Only about this.
        """
        return await self._run(calls.info(section))

    async def get(self, key: Data) -> bytes | None:
        """Value of a key.

        Parameters
        ----------
        key : bytes or str
        """
        return await self._run(calls.get(key))

    async def set(self, key: Data, value: Data) -> None:
        """Set the value of a key.

        Parameters
        ----------
        key, value : bytes or str
        """
        await self._run(calls.set_(key, value))

    async def delete(self, *keys: Data) -> int:
        """Delete keys, and count those that were there.

        Parameters
        ----------
        *keys : bytes or str
        """
        return await self._run(calls.of_keys("DEL", keys))

    async def mget(self, keys: Iterable[Data]) -> list[bytes | None]:
        """Values of keys.

        Parameters
        ----------
        keys : iterable of bytes or str
        """
        return await self._run(calls.mget(keys))

    async def mset(self, pairs: Mapping[bytes, Data] | Mapping[str, Data]) -> None:
        """Set the values of keys.

        Parameters
        ----------
        pairs : mapping
            From keys to values.
        """
        await self._run(calls.mset(pairs))

    async def vset(self, name: str, vec_id: int, vector: Vector, *, payload: Data | None = None) -> None:
        """Set the vector of an id.

        Parameters
        ----------
        name : str
            Of the index.
        vec_id : int
        vector : array_like (dim,) or bytes
        payload : bytes or str, optional
        """
        await self._run(vector_calls.vset(name, vec_id, vector, payload))

    async def vmset(self, name: str, items: Iterable[tuple[int, Vector, Data | None]]) -> int:
        """Set the vectors of many ids, and count them.

        Parameters
        ----------
        name : str
            Of the index.
        items : iterable of (int, array_like or bytes, bytes or str or None)
            Ids, vectors and payloads.
        """
        return await self._run(vector_calls.vmset(name, items))

    async def vget(self, name: str, vec_id: int) -> NDArray[np.float32] | None:
        """Vector of an id.

        Parameters
        ----------
        name : str
            Of the index.
        vec_id : int
        """
        return await self._run(vector_calls.vget(name, vec_id))

    async def vdel(self, name: str, vec_id: int) -> int:
        """Delete the vector of an id; 1 if it was there.

        Parameters
        ----------
        name : str
            Of the index.
        vec_id : int
        """
        return await self._run(vector_calls.vdel(name, vec_id))

    @overload
    async def vsearch(
        self,
        name: str,
        query: Vector,
        *,
        k: int = ...,
        l_search: int = ...,
        with_payload: bool = ...,
        filter: str | None = ...,
        arrays: Literal[False] = ...,
    ) -> list[Hit]: ...

    @overload
    async def vsearch(
        self,
        name: str,
        query: Vector,
        *,
        k: int = ...,
        l_search: int = ...,
        with_payload: bool = ...,
        filter: str | None = ...,
        arrays: Literal[True],
    ) -> HitArrays: ...

    async def vsearch(
        self,
        name: str,
        query: Vector,
        *,
        k: int = 10,
        l_search: int = 0,
        with_payload: bool = False,
        filter: str | None = None,  # noqa: A002 - the word for it, here and in other libraries
        arrays: bool = False,
    ) -> list[Hit] | HitArrays:
        """Find the vectors that are closest to a query.

        Parameters
        ----------
        name : str
            Of the index.
        query : array_like (dim,) or bytes
        k : int
            How many at most.
        l_search : int
            Vectors of a graph that are kept in view; 0: as the index says.
        with_payload : bool
            Whether hits come with their payloads.
        filter : str, optional
            What payloads have to be like.
        arrays : bool
            Return arrays of ids and scores instead of hits.
        """
        call = vector_calls.vsearch(
            name, query, k=k, l_search=l_search, with_payload=with_payload, filter_=filter, arrays=arrays
        )
        return await self._run(call)

    # --- the connection

    async def _run(self, call: Call[T]) -> T:
        data = encode_command(call.args)
        try:
            async with asyncio.timeout(self._timeout):
                reply = await self._ask(call.args, data)
        except TimeoutError:
            error = NotConnected(f"{self._host}:{self._port}: no reply for {self._timeout} s")
            if self._connection is not None:
                self._connection.end(error)
            raise error from None
        self._choices.note(call.args, reply)
        return call.result(reply)

    async def _ask(self, args: Arguments, data: bytes) -> Any:
        before = self._connection
        connection = await self._connected()
        try:
            return await connection.ask(data)
        except NotConnected:
            if connection is not before or self._closed or not is_read(args):
                raise
        return await (await self._connected()).ask(data)

    async def _connected(self) -> _Connection:
        connection = self._connection
        if connection is not None and connection.is_open:
            return connection
        async with self._connecting:
            if self._closed:
                raise NotConnected("the client was closed")
            if self._connection is None or not self._connection.is_open:
                self._connection = await self._connect()
            return self._connection

    async def _connect(self) -> _Connection:
        peer = f"{self._host}:{self._port}"
        try:
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(peer), self._host, self._port
            )
        except OSError as error:
            raise NotConnected(f"{peer}: can't connect: {error.strerror or error}") from error
        try:
            await self._restore(connection)
        except BaseException:
            connection.end(NotConnected(f"{peer}: the connection was closed"))
            raise
        return connection

    async def _restore(self, connection: _Connection) -> None:
        for args in self._choices.commands():
            reply = await connection.ask(encode_command(args))
            if isinstance(reply, ServerError):
                raise reply
