"""The blocking client of the binary protocol."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Literal, Self, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from skeg.checks import RESERVED_ID, as_int
from skeg.errors import ServerError
from skeg.net.binary import replies, requests
from skeg.net.binary.frames import Code, Flags
from skeg.net.clients.binary_channel import BinaryChannel
from skeg.net.clients.packing import Vector, pack_vector
from skeg.net.clients.types import Hit, VectorBackend, VectorKind, VectorKindV2

T = TypeVar("T")

_NOT_FOUND = Code.NOT_FOUND.name


class BinaryClient:
    """A connection to a server that speaks the binary protocol; threads may share it, and take turns.

    A connection that broke is made anew by the next call. A call that only reads is repeated then; a write whose fate
    is unknown raises `NotConnected`.

    Parameters
    ----------
    host : str
        Name or address of the server.
    port : int
    timeout : float or None
        Seconds in which a connection has to be made, and in which something has to happen while a reply is awaited;
        None waits as long as it takes.
    version : {1, 2}
        Of the protocol; 2 knows more kinds of indexes, and `native_hello`.
    password : str, optional
        If the server wants one.

    Attributes
    ----------
    version : int
        Of the protocol.
    closed : bool
        Whether `close` was called.

    Raises
    ------
    NotConnected
        Nobody listens there, or does not answer in time.
    ServerError
        The password is wrong.
    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 7379,
        *,
        timeout: float | None = 5.0,
        version: int = 1,
        password: str | None = None,
    ) -> None:
        self._channel = BinaryChannel(host, port, timeout, version, password)

    @classmethod
    def connect(
        cls,
        host: str = "127.0.0.1",
        port: int = 7379,
        *,
        timeout: float | None = 5.0,
        version: int = 1,
        password: str | None = None,
    ) -> Self:
        """Connect, as the constructor does.

        Parameters
        ----------
        host : str
        port : int
        timeout : float or None
            Seconds.
        version : {1, 2}
        password : str, optional
        """
        return cls(host, port, timeout=timeout, version=version, password=password)

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

    # --- the server

    def ping(self) -> None:
        """Wait for an answer."""
        self._ask(requests.Ping(), replies.decode_nothing)

    def native_hello(self) -> tuple[int, int]:
        """What the server can do; needs version 2 of the protocol.

        Returns
        -------
        version : int
            Of the protocol.
        kinds : int
            With bit ``k`` set for each code ``k`` of `VectorKindV2` that it can store.
        """
        return self._ask(requests.NativeHello(), replies.decode_hello)

    def supports_kind(self, kind: VectorKindV2 | str) -> bool:
        """Whether the server can store a kind of vectors; asks it, as `native_hello` does.

        Parameters
        ----------
        kind : VectorKindV2 or str
        """
        code = VectorKindV2.from_string(kind) if isinstance(kind, str) else kind
        return bool(self.native_hello()[1] >> code & 1)

    def stats(self) -> dict[str, int]:
        """Figures of the key-value store.

        Returns
        -------
        dict
            With the keys cache_bytes, cache_evictions, n_keys and cache_budget.
        """
        return self._ask(requests.Stats(), replies.decode_stats)._asdict()

    def shards(self) -> list[dict[str, int]]:
        """Figures of each shard of the key-value store.

        Returns
        -------
        list of dict
            With the key shard_id and those of `stats`.
        """
        shards = self._ask(requests.Shards(), replies.decode_shards)
        return [{"shard_id": number, **figures._asdict()} for number, figures in shards]

    def flush(self) -> None:
        """Wait until everything that was written is durable."""
        self._ask(requests.Flush(), replies.decode_nothing)

    # --- keys

    def get(self, key: bytes) -> bytes | None:
        """Value of a key, None if there is no such key.

        Parameters
        ----------
        key : bytes
        """
        return self._ask_for_one(requests.Get(key), replies.decode_value)

    def set(self, key: bytes, value: bytes, *, no_reply: bool = False, durable: bool = False) -> None:
        """Give a key a value.

        Parameters
        ----------
        key : bytes
        value : bytes
        no_reply : bool
            Don't wait. Whether the server refuses is never known then, but if the connection breaks before a later call
            has got its reply, that call raises `NotConnected`.
        durable : bool
            Have it durable before the server answers, whatever the server does otherwise.
        """
        flags = _flags(durable=durable, no_reply=no_reply)
        self._ask(requests.Set(key, value), replies.decode_nothing, flags)

    def delete(self, key: bytes, *, durable: bool = False) -> bool:
        """Remove a key.

        Parameters
        ----------
        key : bytes
        durable : bool
            As for `set`.

        Returns
        -------
        bool
            Whether it was there.
        """
        return bool(self._ask_for_one(requests.Del(key), replies.decode_flag, _flags(durable=durable)))

    def exists(self, key: bytes) -> bool:
        """Whether a key is there.

        Parameters
        ----------
        key : bytes
        """
        return self._ask(requests.Exists(key), replies.decode_flag)

    def mget(self, keys: Iterable[bytes]) -> list[bytes | None]:
        """Values of keys.

        Parameters
        ----------
        keys : iterable of bytes

        Returns
        -------
        list of bytes or None
            In the order of the keys, None where there is none.
        """
        wanted = list(keys)
        return self._ask(requests.Mget(wanted), replies.decode_values) if wanted else []

    def mset(self, mapping: Mapping[bytes, bytes], *, durable: bool = False) -> None:
        """Give keys values, all of them or none.

        Parameters
        ----------
        mapping : mapping of bytes to bytes
        durable : bool
            As for `set`.
        """
        if mapping:
            self._ask(requests.Mset([*mapping.items()]), replies.decode_nothing, _flags(durable=durable))

    # --- indexes

    def vindex_create(
        self,
        name: str,
        dim: int,
        kind: VectorKind | VectorKindV2 | str = VectorKind.INT8,
        backend: VectorBackend | str = VectorBackend.FLAT,
    ) -> None:
        """Create an index.

        Parameters
        ----------
        name : str
        dim : int
            Numbers of each vector.
        kind : VectorKind, VectorKindV2 or str
            How vectors are stored: a code of the version of the protocol that is spoken, or its name.
        backend : VectorBackend or str
            "flat" looks at every vector, "disk" at a graph on the disk.

        Raises
        ------
        ServerError
            There is an index of that name, or no such kind.
        """
        if isinstance(kind, str):
            kind = VectorKindV2.from_string(kind) if self.version == 2 else VectorKind.from_string(kind)
        if isinstance(backend, str):
            backend = VectorBackend.from_string(backend)
        codes = as_int("kind", kind, 0, 255), as_int("backend", backend, 0, 255)
        self._ask(requests.VindexCreate(name, _u32("dim", dim), *codes), replies.decode_nothing)

    def vindex_drop(self, name: str) -> None:
        """Remove an index and its vectors.

        Parameters
        ----------
        name : str
        """
        self._ask(requests.VindexDrop(name), replies.decode_nothing)

    def vindex_list(self) -> list[dict[str, Any]]:
        """Describe all indexes.

        Returns
        -------
        list of dict
            With the keys name, dim, kind, backend and n_vectors, by name; kind and backend are codes.
        """
        rows = self._ask(requests.VindexList(), replies.decode_indexes)
        return [dict(zip(("name", "dim", "kind", "backend", "n_vectors"), row, strict=True)) for row in rows]

    # --- vectors

    def vset(self, name: str, vec_id: int, vector: Vector, *, durable: bool = False) -> None:
        """Set the vector of an id.

        Parameters
        ----------
        name : str
            Of the index.
        vec_id : int
            From 0 to 2**64 - 2.
        vector : array_like (dim,) or bytes
            Bytes are those of little-endian float32 numbers.
        durable : bool
            As for `set`.
        """
        request = requests.Vset(name, _id(vec_id), pack_vector(vector))
        self._ask(request, replies.decode_nothing, _flags(durable=durable))

    def vget(self, name: str, vec_id: int) -> list[float] | None:
        """Vector of an id, None if there is no such id.

        Parameters
        ----------
        name : str
            Of the index.
        vec_id : int
        """
        vector = self._ask_for_one(requests.Vget(name, _id(vec_id)), replies.decode_vector)
        return None if vector is None else vector.tolist()

    def vdel(self, name: str, vec_id: int, *, durable: bool = False) -> bool:
        """Remove an id.

        Parameters
        ----------
        name : str
            Of the index.
        vec_id : int
        durable : bool
            As for `set`.

        Returns
        -------
        bool
            Whether it was there.
        """
        request = requests.Vdel(name, _id(vec_id))
        return bool(self._ask_for_one(request, replies.decode_flag, _flags(durable=durable)))

    @overload
    def vsearch(
        self, name: str, query: Vector, k: int = 10, l_search: int = 0, *, arrays: Literal[False] = False
    ) -> list[Hit]: ...

    @overload
    def vsearch(
        self, name: str, query: Vector, k: int = 10, l_search: int = 0, *, arrays: Literal[True]
    ) -> tuple[NDArray[np.uint64], NDArray[np.float32]]: ...

    def vsearch(
        self, name: str, query: Vector, k: int = 10, l_search: int = 0, *, arrays: bool = False
    ) -> list[Hit] | tuple[NDArray[np.uint64], NDArray[np.float32]]:
        """The vectors that are nearest to one.

        Parameters
        ----------
        name : str
            Of the index.
        query : array_like (dim,) or bytes
        k : int
            How many.
        l_search : int
            Size of the list of candidates: more find better, and take longer. 0 leaves it to the index.
        arrays : bool
            Return arrays instead of a list.

        Returns
        -------
        list of Hit, or (ids, scores)
            Best first. As arrays they are (n,) uint64 and (n,) float32, n at most k.
        """
        request = requests.Vsearch(name, _u32("k", k), pack_vector(query, "query"), _u32("l_search", l_search))
        ids, scores = self._ask(request, replies.decode_hits)
        return (ids, scores) if arrays else [*map(Hit, ids.tolist(), scores.tolist())]

    def _ask_for_one(self, request: requests.Request, decode: Callable[[bytes], T], flags: int = 0) -> T | None:
        """What `_ask` returns, or None for what the server says is not there."""
        try:
            return self._ask(request, decode, flags)
        except ServerError as error:
            if error.code != _NOT_FOUND:
                raise
            return None

    def _ask(self, request: requests.Request, decode: Callable[[bytes], T], flags: int = 0) -> T:
        op, payload = requests.encode_request(request)
        return decode(self._channel.ask(op, payload, flags))


def client(
    addr: str = "127.0.0.1",
    port: int = 7379,
    *,
    prefer_native: bool = True,  # noqa: ARG001 - other clients choose by it between two implementations
    version: int = 1,
    timeout: float | None = 5.0,
    password: str | None = None,
) -> BinaryClient:
    """Connect to a server that speaks the binary protocol.

    Parameters
    ----------
    addr : str
        Name or address.
    port : int
    prefer_native : bool
        Has no effect: there is one implementation.
    version : {1, 2}
        Of the protocol.
    timeout : float or None
        Seconds; see `BinaryClient`.
    password : str, optional
        If the server wants one.

    Returns
    -------
    BinaryClient

    Raises
    ------
    NotConnected
        Nobody listens there, or does not answer in time.
    ServerError
        The password is wrong.
    """
    return BinaryClient(addr, port, timeout=timeout, version=version, password=password)


def _flags(*, durable: bool = False, no_reply: bool = False) -> int:
    return (Flags.WAIT_DURABLE if durable else 0) | (Flags.NO_REPLY if no_reply else 0)


def _u32(parameter: str, value: int) -> int:
    return as_int(parameter, value, 0, 2**32 - 1)


def _id(vec_id: int) -> int:
    return as_int("id", vec_id, 0, RESERVED_ID - 1)
