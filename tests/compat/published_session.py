"""All that the published client offers, against a server with an empty directory; arguments: ports of RESP and binary.

Run by `published_client.py`, in an environment where `skeg` is that client.
"""

from __future__ import annotations

import pathlib
import struct
import sys
import threading

# Run with -P, so that the `skeg` of the environment is the one that is found.
sys.path.append(str(pathlib.Path(__file__).parent))

from session import Session

import skeg

RESP_PORT, BINARY_PORT = int(sys.argv[1]), int(sys.argv[2])
DIM = 8
VECTORS = [[1.0 if i == j else 0.0 for j in range(DIM)] for i in range(DIM)]
ONES = [1.0] * DIM

session = Session("published client")


def close(found: float, expected: float) -> bool:
    return abs(found - expected) < 1e-5


def strings(protocol: int) -> None:
    with skeg.connect("127.0.0.1", RESP_PORT, protocol=protocol) as c:
        session.equal("ping", b"PONG", c.ping())
        session.equal("ping with a message", b"hi", c.ping(b"hi"))
        session.equal("echo", b"x\r\ny", c.echo(b"x\r\ny"))
        session.equal("get nothing", None, c.get(b"k"))
        c.set(b"k", b"v\x00\xff")
        session.equal("get", b"v\x00\xff", c.get(b"k"))
        session.equal("append", 6, c.append(b"k", b"abc"))
        c.mset({b"a": b"1", b"b": b"2"})
        session.equal("mget", [b"1", None, b"2"], c.mget([b"a", b"missing", b"b"]))
        session.equal("exists", 3, c.exists(b"a", b"a", b"b", b"missing"))
        session.equal("incr", 2, c.incr(b"a"))
        session.equal("decr", 1, c.decr(b"a"))
        session.equal("incrby", 11, c.incrby(b"a", 10))
        session.equal("decrby", 8, c.decrby(b"a", 3))
        session.raises(
            "incr of text", skeg.ServerError, "value is not an integer or out of range", lambda: c.incr(b"k")
        )
        session.equal("delete", 3, c.delete(b"a", b"b", b"k", b"missing"))
        c.select(0)
        session.raises("select", skeg.ServerError, "DB index out of range", lambda: c.select(1))


def greeting() -> None:
    with skeg.RespClient.connect("127.0.0.1", RESP_PORT) as c:
        session.true("hello 2", isinstance(c.hello(2), list))
        found = c.hello(3, client_name="published")
        session.true("hello 3", isinstance(found, dict), found)
        session.equal("hello 3 names the server", b"skeg", found.get(b"server"))
        session.equal("the protocol", 3, found.get(b"proto"))
        session.true("whoami", "single-tenant" in c.skeg_whoami())
        session.true("stats", "cache_bytes=" in c.skeg_stats())
        session.true("shards", c.skeg_shards().startswith("shard=0 "))
        session.raises("auth", skeg.ServerError, "reserved", lambda: c.skeg_auth("a", "b"))


def vectors(protocol: int, backend: str, kind: str) -> None:
    name = f"v{protocol}-{backend}-{kind}"
    with skeg.connect("127.0.0.1", RESP_PORT, protocol=protocol) as c:
        c.vindex_create(name, DIM, backend=backend, kind=kind)
        session.raises(
            "created twice", skeg.ServerError, "already exists", lambda: c.vindex_create(name, DIM, kind=kind)
        )
        for number, vector in enumerate(VECTORS):
            c.vset(name, number, vector, payload=f"n={number} parity={number % 2}".encode())
        c.vset(name, 100, struct.pack(f"<{DIM}f", *ONES))
        rows = {row["name"]: row for row in c.vindex_list()}
        session.equal("listed", {"name": name, "dim": str(DIM), "backend": backend, "n_vectors": str(DIM + 1)},
                      {key: rows[name][key] for key in ("name", "dim", "backend", "n_vectors")})  # fmt: skip
        hits = c.vsearch(name, VECTORS[3], k=2)
        session.equal(f"search in {name}", [3, 100], [hit.id for hit in hits])
        session.true("scores", close(hits[0].score, 1.0) and close(hits[1].score, DIM**-0.5), hits)
        hits = c.vsearch(name, VECTORS[3], k=1, l_search=64, with_payload=True)
        session.equal("payload", b"n=3 parity=1", hits[0].payload)
        hits = c.vsearch(name, VECTORS[3], k=9, filter="parity = 0 AND n >= 2")
        session.equal("filter", {2, 4, 6}, {hit.id for hit in hits})
        session.raises("bad filter", skeg.ServerError, "bad FILTER", lambda: c.vsearch(name, ONES, filter="n ="))
        more = [(200, VECTORS[0], b"n=200"), (201, VECTORS[1], None)]
        session.equal("many at once", 2, c.vmset(name, more))
        c.vindex_consolidate(name)
        session.equal("after consolidating", {3, 100}, {hit.id for hit in c.vsearch(name, VECTORS[3], k=2)})
        session.equal("vdel", (1, 0), (c.vdel(name, 3), c.vdel(name, 3)))
        session.equal("is gone", 100, c.vsearch(name, VECTORS[3], k=1)[0].id)
        c.vindex_drop(name)
        session.raises("dropped", skeg.ServerError, "not found", lambda: c.vsearch(name, ONES))


def administration() -> None:
    """Erasing belongs to tenants, and there are none here; the words are those of a server without any."""
    with skeg.connect("127.0.0.1", RESP_PORT) as c:
        refusals = (
            ("requires an authenticated tenant", lambda: c.subject_erase(b"user:1:")),
            ("multi-tenant backend not configured", lambda: c.tenant_erase("nobody")),
            ("multi-tenant backend not configured", lambda: c.tenant_delete("nobody")),
            ("multi-tenant backend not configured", c.reclaim),
            ("multi-tenant backend not configured", lambda: c.quota_get("nobody")),
            ("multi-tenant backend not configured", lambda: c.qos_get("nobody")),
        )
        for part, call in refusals:
            session.raises("administration", skeg.ServerError, part, call)


def binary(version: int, *, prefer_native: bool) -> None:
    name = f"b{version}-{prefer_native}"
    with skeg.client("127.0.0.1", BINARY_PORT, version=version, prefer_native=prefer_native) as c:
        c.ping()
        session.equal("get nothing", None, c.get(b"bk"))
        c.set(b"bk", b"1")
        c.set(b"bk2", b"2", no_reply=True)
        session.equal("mget", [b"1", None, b"2"], list(c.mget([b"bk", b"missing", b"bk2"])))
        session.equal("delete", (True, False), (c.delete(b"bk"), c.delete(b"bk")))
        c.delete(b"bk2")
        kinds = ("tq4", skeg.VectorKindV2.TQ4) if version == 2 else ("f32", skeg.VectorKind.F32)
        if prefer_native:  # which takes words only
            c.vindex_create(name, DIM, kind=kinds[0], backend="disk")
        else:
            c.vindex_create(name, DIM, kind=kinds[1], backend=skeg.VectorBackend.DISK_VAMANA)
        for number, vector in enumerate(VECTORS):
            c.vset(name, number, vector)
        session.equal("vget", VECTORS[2], list(c.vget(name, 2)))
        session.equal("vget of nothing", None, c.vget(name, 99))
        hits = c.vsearch(name, VECTORS[5], k=1)
        session.true("search", hits[0].id == 5 and close(hits[0].score, 1.0), hits)
        session.equal("vdel", (True, False), (c.vdel(name, 5), c.vdel(name, 5)))
        row = next(row for row in c.vindex_list() if row["name"] == name)
        session.equal("listed", (DIM, DIM - 1), (row["dim"], row["n_vectors"]))
        session.true("stats", c.stats()["n_keys"] >= 0)
        session.true("shards", len(c.shards()) >= 1)
        if version == 2:
            session.equal("native hello", 2, c.native_hello()[0])
            session.true("supports", c.supports_kind("tq4") and c.supports_kind("f32"))
        c.vindex_drop(name)
        # The native implementation has an error class of its own.
        session.raises("dropped", Exception, "not found", lambda: c.vsearch(name, ONES))


def adapter() -> None:
    """As adapters use the client: vectors beside texts under keys, ids of their own, many threads."""
    with skeg.RespClient.connect("127.0.0.1", RESP_PORT) as c:
        for _ in range(2):
            try:
                c.vindex_create("docs", DIM, kind="tq4", backend="disk")
            except skeg.ServerError as error:
                session.true("exists already", "already exists" in str(error), error)
        for number, vector in enumerate(VECTORS):
            c.vset("docs", number, vector)
            c.set(f"docs:{number}".encode(), f"text {number}".encode())

    def ask(number: int) -> None:
        with skeg.RespClient.connect("127.0.0.1", RESP_PORT) as mine:
            for _ in range(20):
                hit = mine.vsearch("docs", VECTORS[number], k=1)[0]
                found = mine.mget([f"docs:{hit.id}".encode()])
                session.equal("text of the hit", [f"text {number}".encode()], found)

    threads = [threading.Thread(target=session.part, args=("thread", lambda n=n: ask(n))) for n in range(DIM)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with skeg.RespClient.connect("127.0.0.1", RESP_PORT) as c:
        session.equal("deleted", (1, 1), (c.vdel("docs", 0), c.delete(b"docs:0")))
        c.vindex_drop("docs")


for number in (2, 3):
    session.part(f"strings, RESP{number}", lambda number=number: strings(number))
    for store in ("flat", "disk"):
        for code in ("f32", "int8", "tq2", "tq4"):
            session.part(f"vectors, RESP{number}, {store}, {code}", lambda n=number, s=store, k=code: vectors(n, s, k))
session.part("greeting", greeting)
session.part("administration", administration)
session.part("adapter", adapter)
for number in (1, 2):
    for native in (False, True):
        what = f"binary, version {number}, {'native' if native else 'pure'}"
        session.part(what, lambda n=number, native=native: binary(n, prefer_native=native))
session.end()
