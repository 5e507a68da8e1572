"""Commands on vector indexes."""

from __future__ import annotations

import json
from typing import Any

from skeg.ann.hits import Hits
from skeg.errors import ProtocolError
from skeg.net.commands.table import Command
from skeg.net.engine.changes import Put, Remove
from skeg.net.engine.searches import Encode
from skeg.net.failures import CommandError
from skeg.net.known import KnownSearch
from skeg.net.resp.encode import Status
from skeg.net.resp.hits import encode_search
from skeg.net.resp_session import RespSession, index_name, name_text
from skeg.net.session import Lane
from skeg.net.text import U32_MAX, unsigned
from skeg.net.vectors import DIM_MAX, ID_MAX, check_dim, plan_of

_OK = Status("OK")

KINDS = ("f32", "int8", "binary", "tq1", "tq2", "tq4")
BACKENDS = ("flat", "disk")

BATCH_MAX = 4096
"""Queries of one command."""


# --- indexes


def vindex_list(session: RespSession, _: list[bytes]) -> None:
    """SKEG.VINDEX.LIST."""
    database = session.engine.database

    def lines() -> bytes:
        rows = [
            f"name={i.name} dim={i.dim} kind={i.kind} backend={i.backend} n_vectors={i.count}"
            + ("" if i.state == "ready" else f" state={i.state}")
            for i in database.indexes()
        ]
        return "".join(f"{row}\n" for row in rows).encode()

    session.run(lines)


def vindex_create(session: RespSession, args: list[bytes]) -> None:
    """SKEG.VINDEX.CREATE name dim [kind] backend; the kind is chosen by dimension if it is not given."""
    name_text(args[1])
    dim = unsigned(args[2], U32_MAX)
    if dim is None:
        raise CommandError("dim must be a non-negative u32")
    kind = _choice("kind", args[3], KINDS) if len(args) == 5 else None
    backend = _choice("backend", args[-1], BACKENDS)
    name = index_name(args[1])
    if dim == 0:
        raise CommandError("storage error: vindex dim must be positive")
    if dim > DIM_MAX:
        raise CommandError(f"storage error: vindex dim {dim}: at most {DIM_MAX}")

    def create() -> Status:
        session.engine.create_index(name, dim, kind, backend)
        return _OK

    session.run(create, name)


def _choice(what: str, word: bytes, choices: tuple[str, ...]) -> str:
    """One of some words, in any case, or its number."""
    try:
        text = word.decode().lower()
    except UnicodeDecodeError as error:
        raise CommandError(f"{what} must be UTF-8") from error
    if text in choices:
        return text
    if len(text) == 1 and text in "012345"[: len(choices)]:
        return choices[int(text)]
    raise CommandError(f"unknown {what} '{text[:128]}'; expected {' | '.join(choices)}")


def vindex_drop(session: RespSession, args: list[bytes]) -> None:
    """SKEG.VINDEX.DROP name."""
    name = index_name(args[1])

    def drop() -> Status:
        session.engine.database.drop_index(name)
        return _OK

    session.run(drop, name)


def vindex_consolidate(session: RespSession, args: list[bytes]) -> None:
    """SKEG.VINDEX.CONSOLIDATE name."""
    name, index = session.index(args[1])

    def consolidate() -> Status:
        index.consolidate(threads=1)
        return _OK

    session.run(consolidate, name, is_long=True)


# --- vectors


def vset(session: RespSession, args: list[bytes]) -> None:
    """SKEG.VSET name id vector [PAYLOAD blob]."""
    if len(args) == 5:
        raise CommandError(session.command_error())
    payload = None
    if len(args) == 6:
        if args[4].upper() != b"PAYLOAD":
            raise CommandError("SKEG.VSET expected PAYLOAD before the blob")
        payload = args[5]
    vector_id = _id(args[2])
    _check_floats(args[3])
    name, index = session.index(args[1])
    check_dim(name, index, args[3], "vector")
    put = Put(index, [vector_id], args[3], [payload], session.level, _nobody)
    session.change(put, name, lambda _: _OK)


def vmset(session: RespSession, args: list[bytes]) -> None:
    """SKEG.VMSET name (id vector payload)+; an empty payload is none. Of an id that comes again the last counts."""
    if len(args) % 3 != 2:
        raise CommandError(session.command_error())
    # By ids as bytes: hashes of numbers are known, and a client could choose thousands that are alike.
    items: dict[bytes, tuple[int, bytes, bytes | None]] = {}
    for at in range(2, len(args), 3):
        vector_id = _id(args[at])
        _check_floats(args[at + 1])
        spelled = b"%d" % vector_id
        items.pop(spelled, None)
        items[spelled] = (vector_id, args[at + 1], args[at + 2] or None)
    name, index = session.index(args[1])
    ids, vectors, payloads = map(list, zip(*items.values(), strict=True))
    for vector in vectors:
        check_dim(name, index, vector, "vector")
    put = Put(index, ids, b"".join(vectors), payloads, session.level, _nobody)
    count = (len(args) - 2) // 3
    session.change(put, name, lambda _: count)


def vdel(session: RespSession, args: list[bytes]) -> None:
    """SKEG.VDEL name id."""
    vector_id = _id(args[2])
    name, index = session.index(args[1])
    session.change(Remove(index, vector_id, session.level, _nobody), name, int)


def vget(session: RespSession, args: list[bytes]) -> None:
    """SKEG.VGET name id."""
    vector_id = _id(args[2])
    name, index = session.index(args[1])
    session.run(lambda: index.get(vector_id).tobytes() if vector_id in index else None, name)


def _id(text: bytes) -> int:
    vector_id = unsigned(text)
    if vector_id is None:
        raise CommandError("id must be a non-negative u64")
    if vector_id > ID_MAX:
        raise CommandError(f"id must be at most {ID_MAX}")
    return vector_id


def _check_floats(vector: bytes) -> None:
    if len(vector) % 4:
        raise CommandError("vector byte length must be a multiple of 4 (f32 LE)")


def _nobody(_: Any) -> None:
    """Stands in for what the session puts in."""


# --- searching


def vsearch(session: RespSession, args: list[bytes]) -> None:
    """SKEG.VSEARCH name k l_search vector [WITHPAYLOAD] [FILTER expression] [BATCH n]."""
    if len(args) != 5:
        _vsearch_with_tail(session, args)
        return
    queries = args[4]
    spelled = (args[1], args[2], args[3], session.version)
    known = session.searches.get(spelled, len(queries))
    if known is not None:
        session.search(known, queries)
        return
    k, list_size = _numbers(args)
    _check_floats(queries)
    name, index = session.index(args[1])
    check_dim(name, index, queries, "query")
    plan = plan_of(index, k, list_size)
    if plan is None:
        session.say([])
        return
    known = KnownSearch.of(name, plan, _encoder(session), session.version)
    session.searches.add(spelled, known, k, list_size)
    session.search(known, queries)


def _numbers(args: list[bytes]) -> tuple[int, int]:
    """K and l_search."""
    k = unsigned(args[2])
    if k is None:
        raise CommandError("k must be a non-negative integer")
    list_size = unsigned(args[3], U32_MAX)
    if list_size is None:
        raise CommandError("l_search must be a non-negative u32")
    return k, list_size


def _vsearch_with_tail(session: RespSession, args: list[bytes]) -> None:
    k, list_size = _numbers(args)
    queries = args[4]
    _check_floats(queries)
    with_payload, condition, count = _tail(args[5:])
    name, index = session.index(args[1])
    if count is None:
        check_dim(name, index, queries, "query")
    elif len(queries) != 4 * index.dim * count:
        wanted = f"{count} queries of dim {index.dim}"
        raise CommandError(f"storage error: vindex '{name}': {len(queries)} bytes are not {wanted}")
    plan = plan_of(index, k, list_size, count or 1, with_payload=with_payload)
    if plan is None:
        session.say([] if count is None else [[]] * count)
        return
    known = KnownSearch.of(name, plan, _encoder(session, with_payload=with_payload), session.version)
    if condition is None and not with_payload:
        session.search(known, queries, count)
    else:
        session.queue_search(known, queries, count=count, filter=condition, with_payload=with_payload)


def _tail(words: list[bytes]) -> tuple[bool, str | None, int | None]:
    """What follows a query: whether payloads are wanted, the filter, and the number of queries."""
    with_payload, condition, count = False, None, None
    rest = iter(words)
    for word in rest:
        match word.upper():
            case b"WITHPAYLOAD":
                with_payload = True
            case b"FILTER":
                text = next(rest, None)
                if text is None:
                    raise CommandError("SKEG.VSEARCH FILTER needs an expression")
                try:
                    condition = text.decode()
                except UnicodeDecodeError as error:
                    raise CommandError("filter must be UTF-8") from error
            case b"BATCH":
                count = unsigned(next(rest, b""), BATCH_MAX)
                if not count:
                    raise CommandError(f"SKEG.VSEARCH BATCH needs a number of queries from 1 to {BATCH_MAX}")
            case _:
                shown = word[:128].decode(errors="replace")
                raise CommandError(f"unexpected SKEG.VSEARCH argument; want WITHPAYLOAD or FILTER, got '{shown}'")
    return with_payload, condition, count


def _encoder(session: RespSession, *, with_payload: bool = False) -> Encode:
    version, most = session.version, session.engine.max_reply_bytes

    def encode(hits: Hits) -> bytes:
        if not with_payload:
            return encode_search(hits, None, version)
        given = [hits.payloads] if hits.ids.ndim == 1 else hits.payloads
        rows = [blobs(payloads) for payloads in given or []]
        _check_size(rows, most)
        return encode_search(hits, rows, version)

    return encode


def _check_size(rows: list[list[bytes | None]], most: int) -> None:
    wanted = sum([len(blob) for row in rows for blob in row if blob])
    if wanted > most:
        raise ProtocolError(f"reply with payloads of {wanted} bytes: at most {most} are sent")


def blobs(payloads: list[Any] | None) -> list[bytes | None]:
    """Payloads as bytes: text as UTF-8, mappings as JSON."""
    return [
        payload
        if payload is None or isinstance(payload, bytes)
        else (payload if isinstance(payload, str) else json.dumps(payload, ensure_ascii=False)).encode()
        for payload in payloads or []
    ]


_VECTOR: Any = {"group": "vector"}

COMMANDS = [
    Command(
        name="SKEG.VINDEX.LIST", run=vindex_list, arity=(0, 0), lane=Lane.ALONE, summary="The indexes", **_VECTOR
    ),
    Command(
        name="SKEG.VINDEX.CREATE", run=vindex_create, arity=(3, 4), lane=Lane.ALONE, is_write=True,
        wants="name dim kind backend", summary="Make an index", **_VECTOR,
    ),
    Command(
        name="SKEG.VINDEX.DROP", run=vindex_drop, arity=(1, 1), lane=Lane.ALONE, is_write=True,
        summary="Remove an index with its vectors", **_VECTOR,
    ),
    Command(
        name="SKEG.VINDEX.CONSOLIDATE", run=vindex_consolidate, arity=(1, 1), lane=Lane.ALONE, is_write=True,
        summary="Merge what was written to an index", **_VECTOR,
    ),
    Command(
        name="SKEG.VSET", run=vset, arity=(3, 5), lane=Lane.CHANGE, is_write=True,
        wants="name id vector [PAYLOAD blob]", summary="Set a vector", **_VECTOR,
    ),
    Command(
        name="SKEG.VMSET", run=vmset, arity=(4, -1), lane=Lane.CHANGE, is_write=True,
        wants="name (id vector payload)+", summary="Set many vectors", **_VECTOR,
    ),
    Command(
        name="SKEG.VDEL", run=vdel, arity=(2, 2), lane=Lane.CHANGE, is_write=True, wants="name id",
        summary="Delete a vector", **_VECTOR,
    ),
    Command(
        name="SKEG.VGET", run=vget, arity=(2, 2), lane=Lane.ALONE, wants="name id", summary="A stored vector",
        **_VECTOR,
    ),
    Command(
        name="SKEG.VSEARCH", run=vsearch, arity=(4, 9), lane=Lane.SEARCH,
        wants="name k l_search vector [WITHPAYLOAD] [FILTER expr]",
        summary="Nearest vectors of one query, or with BATCH n of many", **_VECTOR,
    ),
]  # fmt: skip
