"""Commands of RESP on vectors and their indexes; see `calls`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skeg.checks import RESERVED_ID, as_int
from skeg.errors import ParameterError
from skeg.net.clients.calls import Argument, Call, Data, data_or_none, elements, number, ok, text
from skeg.net.clients.packing import Vector, pack_rows, pack_vector, unpack_vector
from skeg.net.clients.types import Hit

HitArrays = tuple[NDArray[np.uint64], NDArray[np.float32]]
"""Ids and scores, best hit first."""

# What a server stores that is told nothing: vectors as they are where all are looked at, small ones on the disk.
_KINDS = {"flat": "f32", "disk": "int8"}


def vindex_create(name: str, dim: int, backend: str, kind: str | None) -> Call[None]:
    """SKEG.VINDEX.CREATE."""
    kind = _KINDS.get(backend.lower(), "f32") if kind is None else kind
    return Call(["SKEG.VINDEX.CREATE", name, as_int("dim", dim, 1), kind, backend], ok)


def on_index(command: str, name: str) -> Call[None]:
    """SKEG.VINDEX.DROP, SKEG.VINDEX.CONSOLIDATE."""
    return Call([command, name], ok)


def vindex_list() -> Call[list[dict[str, str]]]:
    """SKEG.VINDEX.LIST."""

    def decode(reply: Any) -> list[dict[str, str]]:
        lines = filter(None, text(reply).splitlines())
        return [dict(field.split("=", 1) for field in line.split(" ") if "=" in field) for line in lines]

    return Call(["SKEG.VINDEX.LIST"], decode)


def vset(name: str, vec_id: int, vector: Vector, payload: Data | None) -> Call[None]:
    """SKEG.VSET."""
    args: list[Argument] = ["SKEG.VSET", name, _id(vec_id), pack_vector(vector)]
    if payload is not None:
        args += ["PAYLOAD", payload]
    return Call(args, ok)


def vmset(name: str, items: Iterable[tuple[int, Vector, Data | None]]) -> Call[int]:
    """SKEG.VMSET."""
    args: list[Argument] = ["SKEG.VMSET", name]
    for vec_id, vector, payload in items:
        args += [_id(vec_id), pack_vector(vector), payload or b""]
    return Call(args, number)


def vget(name: str, vec_id: int) -> Call[NDArray[np.float32] | None]:
    """SKEG.VGET."""

    def decode(reply: Any) -> NDArray[np.float32] | None:
        packed = data_or_none(reply)
        return None if packed is None else unpack_vector(packed)

    return Call(["SKEG.VGET", name, _id(vec_id)], decode)


def vdel(name: str, vec_id: int) -> Call[int]:
    """SKEG.VDEL."""
    return Call(["SKEG.VDEL", name, _id(vec_id)], number)


def vsearch(
    name: str, query: Vector, *, k: int, l_search: int, with_payload: bool, filter_: str | None, arrays: bool
) -> Call[Any]:
    """SKEG.VSEARCH of one query: a list of `Hit`, or `HitArrays`."""
    tail = _tail(filter_, with_payload=with_payload, arrays=arrays)
    return Call(
        [*_search(name, k, l_search), pack_vector(query, "query"), *tail],
        _decoder(with_payload=with_payload, arrays=arrays),
    )


def vsearch_many(
    name: str, queries: Any, *, k: int, l_search: int, with_payload: bool, filter_: str | None, arrays: bool
) -> Call[Any]:
    """SKEG.VSEARCH of many queries: what `vsearch` gives, for each."""
    packed, count = pack_rows(queries, "queries")
    decode = _decoder(with_payload=with_payload, arrays=arrays)

    def each(reply: Any) -> list[Any]:
        return [decode(row) for row in elements(reply)]

    return Call(
        [
            *_search(name, k, l_search),
            packed,
            *_tail(filter_, with_payload=with_payload, arrays=arrays),
            "BATCH",
            count,
        ],
        each,
    )


def _search(name: str, k: int, l_search: int) -> list[Argument]:
    return ["SKEG.VSEARCH", name, as_int("k", k, 0), as_int("l_search", l_search, 0)]


def _tail(filter_: str | None, *, with_payload: bool, arrays: bool) -> list[Argument]:
    if with_payload and arrays:
        raise ParameterError("with_payload", with_payload, "False with arrays=True")
    args: list[Argument] = ["WITHPAYLOAD"] if with_payload else []
    return args if filter_ is None else [*args, "FILTER", filter_]


def _decoder(*, with_payload: bool, arrays: bool) -> Callable[[Any], Any]:
    if arrays:
        return _arrays
    return _hits_with_payload if with_payload else _hits


def _hits(reply: Any) -> list[Hit]:
    flat = _flat(reply, 2)
    return [*map(Hit, map(int, flat[::2]), map(float, flat[1::2]))]


def _hits_with_payload(reply: Any) -> list[Hit]:
    flat = _flat(reply, 3)
    return [*map(Hit, map(int, flat[::3]), map(float, flat[1::3]), map(data_or_none, flat[2::3]))]


def _arrays(reply: Any) -> HitArrays:
    flat = _flat(reply, 2)
    n = len(flat) // 2
    return np.fromiter(map(int, flat[::2]), np.uint64, n), np.fromiter(map(float, flat[1::2]), np.float32, n)


def _flat(reply: Any, width: int) -> list[Any]:
    """Elements of hits, of which each has so many."""
    flat = elements(reply)
    if len(flat) % width:
        raise TypeError
    return flat


def _id(vec_id: int) -> int:
    return as_int("id", vec_id, 0, RESERVED_ID - 1)
