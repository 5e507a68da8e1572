"""What redis-py has to find: port, protocol and parser ("pure" or "hiredis") as arguments.

Run by `redis_clients.py`, in an environment where redis-py is installed.
"""

from __future__ import annotations

import contextlib
import pathlib
import struct
import sys
import threading

sys.path.append(str(pathlib.Path(__file__).parent))

import redis
from session import Session

PORT, PROTOCOL, PARSER = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
E1, E2 = struct.pack("<8f", 1, *[0] * 7), struct.pack("<8f", 0, 1, *[0] * 6)

session = Session(f"redis-py {redis.__version__}, {PARSER}, RESP{PROTOCOL}")


def connect(**options: object) -> redis.Redis:
    return redis.Redis(host="127.0.0.1", port=PORT, protocol=PROTOCOL, socket_timeout=30, **options)


def refused(part: str, *words: object) -> None:
    session.raises(" ".join(map(str, words)), redis.ResponseError, part, lambda: r.execute_command(*words))


def strings() -> None:
    session.equal("ping", True, r.ping())
    session.equal("echo", b"a", r.echo("a"))
    session.equal("set", True, r.set("k1", "hello"))
    session.equal("get", b"hello", r.get("k1"))
    session.equal("get nothing", None, r.get("missing"))
    session.equal("mset", True, r.mset({"a": 1, "b": 2, "c": 3}))
    session.equal("mget", [b"1", b"2", None, b"3"], r.mget("a", "b", "missing", "c"))
    session.equal("exists", 2, r.exists("k1", "a", "missing"))
    session.equal("del", 2, r.delete("k1", "a", "missing"))
    r.set("counter", 10)
    counted = [r.incr("counter"), r.incrby("counter", 5), r.decr("counter"), r.decrby("counter", 3)]
    session.equal("counters", [11, 16, 15, 12], counted)
    session.equal("append", 4, r.append("counter", "34"))
    session.equal("binary", True, r.set(b"\x00\r\n\xff", b"\r\n\x00" * 1000))
    session.equal("binary back", b"\r\n\x00" * 1000, r.get(b"\x00\r\n\xff"))
    r.delete("b", "c", "counter", b"\x00\r\n\xff")


def errors() -> None:
    session.equal("select", True, r.execute_command("SELECT", 0) in (True, b"OK"))
    refused("DB index out of range", "SELECT", 1)
    for name, words in (("GET", []), ("SET", ["k"]), ("DEL", []), ("MSET", ["k", "v", "x"])):
        refused(f"wrong number of arguments for '{name}'", name, *words)
    refused("value is not an integer or out of range", "INCRBY", "ctr", "abc")
    refused("want name dim", "SKEG.VINDEX.CREATE", "x")
    refused("unknown command 'SKEG.FOO'", "SKEG.FOO")
    session.equal("goes on", True, r.ping())


def text(*words: object) -> str:
    found = r.execute_command(*words)
    return found.decode() if isinstance(found, bytes) else str(found)


def vectors() -> None:
    session.true("stats", "cache_bytes=" in text("SKEG.STATS"))
    session.true("whoami", "single-tenant" in text("SKEG.WHOAMI"))
    session.equal("create", b"OK", r.execute_command("SKEG.VINDEX.CREATE", "v", 8, "int8", "flat"))
    listed = text("SKEG.VINDEX.LIST")
    session.true("list", "name=v" in listed and "dim=8" in listed, listed)
    session.equal("vset", b"OK", r.execute_command("SKEG.VSET", "v", 1, E1))
    session.equal("vset", b"OK", r.execute_command("SKEG.VSET", "v", 2, E2, "PAYLOAD", "n=2"))
    found = r.execute_command("SKEG.VSEARCH", "v", 1, 32, E1)
    session.equal("vsearch", (b"1", 1.0), (found[0], float(found[1])))
    found = r.execute_command("SKEG.VSEARCH", "v", 5, 32, E1, "WITHPAYLOAD", "FILTER", "n = 2")
    session.equal("filter", [b"2", b"n=2"], [found[0], found[2]])
    session.equal("vdel", 1, r.execute_command("SKEG.VDEL", "v", 2))
    session.equal("drop", b"OK", r.execute_command("SKEG.VINDEX.DROP", "v"))


def pipelines() -> None:
    with r.pipeline(transaction=False) as pipe:
        for number in range(500):
            pipe.set(f"p{number}", number)
            pipe.get(f"p{number}")
        found = pipe.execute()
    session.equal("pipeline", [str(n).encode() for n in range(500)], found[1::2])
    with r.pipeline(transaction=False) as pipe:
        pipe.get("p1").execute_command("NONSENSE")
        pipe.get("p2")
        found = pipe.execute(raise_on_error=False)
    session.true(
        "an error in a pipeline", found[0] == b"1" and isinstance(found[1], Exception) and found[2] == b"2", found
    )
    session.equal("delete many", 500, r.delete(*[f"p{number}" for number in range(500)]))


def administration() -> None:
    """Commands beside the original's, as redis-py reads them."""
    r.mset({f"scan:{number}": number for number in range(50)})
    session.equal("scan", 50, len(set(r.scan_iter(match="scan:*", count=7))))
    session.true("dbsize", r.dbsize() >= 50)
    session.true("info", "redis_version" in r.info() or r.info(), "empty")
    session.equal("set nx", (True, None), (r.set("nx", 1, nx=True), r.set("nx", 2, nx=True)))
    session.equal("set xx", (None, True), (r.set("scan:none", 1, xx=True), r.set("nx", 3, xx=True)))
    session.equal("getdel", b"3", r.getdel("nx"))
    session.equal("strlen", 2, r.strlen("scan:10"))
    session.equal("type", [b"string", b"none"], [r.type("scan:10"), r.type("missing")])
    session.true("client id", r.client_id() > 0)
    session.true("client name", named() in ("me", b"me"), named())
    session.true("command", r.command_count() > 20 if hasattr(r, "command_count") else True)
    r.delete(*[f"scan:{number}" for number in range(50)])


def named() -> object:
    with contextlib.closing(connect(client_name="me")) as other:
        return other.client_getname()


def many() -> None:
    pool = connect(max_connections=10)

    def work(number: int) -> None:
        for turn in range(100):
            pool.incr("shared")
            pool.set(f"t{number}", turn)
            session.equal("own key", str(turn).encode(), pool.get(f"t{number}"))

    threads = [threading.Thread(target=session.part, args=("thread", lambda n=n: work(n))) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    session.equal("no increment is lost", b"800", pool.get("shared"))
    pool.delete("shared", *[f"t{number}" for number in range(8)])
    pool.close()


parser = redis.connection.DefaultParser.__name__
session.true("the parser that is meant", ("Hiredis" in parser) == (PARSER == "hiredis"), parser)
r = connect()
for part in (strings, errors, vectors, pipelines, administration, many):
    session.part(part.__name__, part)
r.close()
session.end()
