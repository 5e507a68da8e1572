"""Conversations in RESP: all commands with good and bad arguments, frames of all kinds, vectors, payloads, filters."""

from __future__ import annotations

from collections.abc import Iterator

from tests.bench.harness import net_wire as wire
from tests.bench.harness.net_wire import command
from tests.compat.reasons import (
    COMPLEMENT,
    EMPTY_RANGE,
    ENDS,
    ESCAPED,
    FINITE,
    FIRST,
    INLINE,
    KEPT_ZEROS,
    KNOWN,
    LISTED,
    NAMES,
    NO_DIRECTION,
    PLACED,
    SPELLED,
    STRICT,
    VECTOR_2D,
    VECTORS,
    WORDED,
    Made,
    floats,
)


def words(line: str, *more: wire.Word) -> bytes:
    """A command given as words with blanks between them, and arguments that are bytes."""
    return command(*line.split(), *more)


def _lines() -> Iterator[tuple[str, str | None]]:
    """Single commands, one connection each, that need nothing and leave nothing."""
    for line in (
        "PING", "ping", "PiNg", "PING a", "PING a b", "ECHO", "ECHO a", "ECHO a b", "SELECT", "SELECT 0", "SELECT 1",
        "SELECT -1", "SELECT x", "SELECT +0", "SELECT 00", "SELECT 0 1", "HELLO 1", "HELLO 4", "HELLO x", "HELLO -2",
        "HELLO 256", "HELLO AUTH a b", "HELLO 2 AUTH a", "HELLO 2 SETNAME", "HELLO 2 WHAT", "HELLO 2 SETNAME me",
        "HELLO 2 what x", "GET", "GET a b", "SET", "SET k", "DEL", "EXISTS", "MGET", "MSET", "MSET k", "MSET k v x",
        "INCR", "INCR a b", "DECR", "DECR a b", "INCRBY", "INCRBY ctr", "INCRBY ctr abc", "INCRBY ctr 1 2",
        "INCRBY ctr 1_0", "INCRBY ctr 9223372036854775808", "INCRBY ctr 1.5", "DECRBY", "DECRBY ctr",
        "DECRBY ctr abc", "DECRBY ctr -9223372036854775808", "APPEND", "APPEND k", "APPEND k v x", "GET missing",
        "MGET missing missing", "EXISTS missing", "DEL missing", "FOO", "foo bar", "SETX k", "SKEG.STATS x",
        "SKEG.SHARDS x", "SKEG.WHOAMI", "SKEG.WHOAMI x", "SKEG.AUTH", "SKEG.AUTH a b", "SKEG.FOO", "skeg.foo",
        "SKEG.VINDEX.LIST", "SKEG.VINDEX.LIST x", "SKEG.VINDEX.CREATE x 8 int8", "SKEG.VINDEX.CREATE x abc int8 flat",
        "SKEG.VINDEX.CREATE x -1 int8 flat", "SKEG.VINDEX.CREATE x 0 int8 flat", "SKEG.VINDEX.CREATE x 0 int8 disk",
        "SKEG.VINDEX.CREATE x 4294967296 int8 flat", "SKEG.VINDEX.CREATE x 8 pq flat",
        "SKEG.VINDEX.CREATE x 8 PQ disk", "SKEG.VINDEX.CREATE x 8 6 flat", "SKEG.VINDEX.CREATE x 8 int8 ssd",
        "SKEG.VINDEX.CREATE x 8 int8 2", "SKEG.VINDEX.CREATE a::b 8 int8 flat", "SKEG.VINDEX.CREATE a/b 8 int8 flat",
        "SKEG.VINDEX.CREATE .. 8 int8 flat", "SKEG.VINDEX.CREATE . 8 int8 flat", "SKEG.VINDEX.CREATE a..b 8 int8 flat",
        "SKEG.VINDEX.CREATE a::b 8 pq flat", "SKEG.VINDEX.CREATE a/b x int8 flat", "SKEG.VINDEX.DROP",
        "SKEG.VINDEX.DROP none", "SKEG.VINDEX.DROP a b", "SKEG.VINDEX.DROP a::b", "SKEG.VINDEX.DROP ../x",
        "SKEG.VINDEX.CONSOLIDATE", "SKEG.VINDEX.CONSOLIDATE none", "SKEG.VINDEX.CONSOLIDATE a/b", "SKEG.VSET",
        "SKEG.VSET v 1", "SKEG.VSET v 1 abcd x", "SKEG.VSET v -1 abcd", "SKEG.VSET v x abcd", "SKEG.VSET v 1 abc",
        "SKEG.VSET none 1 abcd", "SKEG.VSET none 1 abcd PAYLOAD x", "SKEG.VSET none 1 abcd LOAD x",
        "SKEG.VSET a/b 1 abcd", "SKEG.VSET a/b x abcd", "SKEG.VSET none 18446744073709551616 abcd", "SKEG.VMSET",
        "SKEG.VMSET none", "SKEG.VMSET none 1 abcd", "SKEG.VMSET none 1 abcd p", "SKEG.VMSET none 1 abcd p 2",
        "SKEG.VMSET none x abcd p", "SKEG.VMSET none 1 abc p", "SKEG.VDEL", "SKEG.VDEL v", "SKEG.VDEL none 1",
        "SKEG.VDEL none x", "SKEG.VDEL none 1 2", "SKEG.VDEL a/b 1", "SKEG.VSEARCH", "SKEG.VSEARCH v 1 0",
        "SKEG.VSEARCH none 1 0 abcd", "SKEG.VSEARCH none x 0 abcd", "SKEG.VSEARCH none -1 0 abcd",
        "SKEG.VSEARCH none 1 x abcd", "SKEG.VSEARCH none 1 -1 abcd", "SKEG.VSEARCH none 1 4294967296 abcd",
        "SKEG.VSEARCH none 1 0 abc", "SKEG.VSEARCH none 1 0 abcd FILTER", "SKEG.VSEARCH none 1 0 abcd WHAT",
        "SKEG.VSEARCH none 1 0 abcd WITHPAYLOAD", "SKEG.VSEARCH none 1 0 abcd FILTER a=1",
        "SKEG.VSEARCH a/b 1 0 abcd", "INCRBYFLOAT k 1", "EXPIRE k 1", "TTL k", "KEYS missing",
        "UNLINK missing", "TOUCH missing", "FLUSHDB X", "MULTI", "SUBSCRIBE x", "WAIT 0 0", "LPUSH k v", "HSET k f v",
        "SKEG.QUOTA.SET", "SKEG.QUOTA.GET", "SKEG.QOS.SET", "SKEG.QOS.GET", "SKEG.TENANT.ERASE", "SKEG.TENANT.DELETE",
        "SKEG.TENANT.ERASE x", "SKEG.SUBJECT.ERASE", "SKEG.SUBJECT.ERASE nobody:", "SKEG.RECLAIM", "SKEG.RECLAIM x",
    ):  # fmt: skip
        yield line, None
    for line in (
        "AUTH x", "CLIENT ID", "COMMAND COUNT", "INFO server", "CONFIG GET save", "QUIT", "RESET", "STRLEN missing",
        "TYPE missing", "SETNX", "GETSET", "GETDEL missing", "SCAN 0", "DBSIZE", "SET k v NX", "SET k v BAD",
        "SKEG.VGET none 1", "SKEG.DURABILITY",
    ):  # fmt: skip
        yield line, KNOWN
    yield "SKEG.VSEARCH none 1 0 abcd WITHPAYLOAD FILTER a=1 X", "searches take more arguments"
    for line in ("SKEG.VINDEX.CREATE", "SKEG.VINDEX.CREATE x", "SKEG.VINDEX.CREATE x 8 int8 flat y"):
        yield line, WORDED
    yield "HELLO 2 AUTH user wrong", "a password is an error where none is needed, as with Redis"


FILTERS = (
    "n=1", "n = 2", "n<=1", "n < 1", "n BETWEEN 1 AND 2", "n between 1 and 2", "tag=a", "tag = z",
    "tag IN (a,b)", "tag in ( a )", "n EXISTS", "missing EXISTS", "tag=a AND n=1", "tag=a OR n=3",
    "(tag=a OR tag=b) AND n>=1", "tag=a AND NOT n=1", "n=1 OR n=2 AND tag=b",
    "NOT (tag=a OR tag=b OR tag=c) AND n EXISTS", "n BETWEEN 1 AND 3",
)  # fmt: skip
ZEROS = ("n >= 2", "n > 2")
BAD_FILTERS = (
    "", " ", "n", "n ==", "n > = 1", "= 1", "(n=1", "n=1)", "n=1 n=2", "n=", "n IN", "n IN (", "n IN (1", "n IN (1,",
    "n IN (1 2)", "n IN ()", "n BETWEEN", "n BETWEEN 1", "n BETWEEN 1 2", "n BETWEEN 1 AND", "AND", "NOT",
    "n=1 AND", "and=1", "n ! 1",
)  # fmt: skip


def made() -> Iterator[Made]:
    for line, why in _lines():
        yield line, (words(line),), why
    yield from _frames()
    yield from _pairs()
    yield from _vectors()


def _frames() -> Iterator[Made]:
    """Frames of all kinds, good and bad."""
    ping = command("PING")
    yield "nothing is a command", (b"*0\r\n", ping), None
    yield "null array", (b"*-1\r\n", ping), None
    yield "top-level frames that are no arrays", (b"+OK\r\n", b":1\r\n", b"$1\r\na\r\n", b"$-1\r\n", ping), None
    yield "top-level frames of RESP3", (b"_\r\n", b"#t\r\n", b",1.5\r\n", b"(12\r\n", b"~0\r\n", b"%0\r\n", ping), None
    yield "a simple string is a name", (b"*1\r\n+PING\r\n", b"*2\r\n+ECHO\r\n+a b\r\n"), None
    yield "a name that is none", (b"*1\r\n:1\r\n", b"*1\r\n$-1\r\n", b"*1\r\n*0\r\n", ping), None
    yield "arguments that are none", (b"*2\r\n$3\r\nGET\r\n:1\r\n", b"*2\r\n$3\r\nGET\r\n$-1\r\n", ping), None
    yield "an argument before the number of arguments", (b"*3\r\n$4\r\nPING\r\n:1\r\n$1\r\na\r\n", ping), None
    yield "a name that is no text", (b"*1\r\n$2\r\n\xff\xfe\r\n", ping), None
    yield "a long argument", (command("ECHO", b"x" * 5000),), None
    yield "bytes of all kinds", (command("ECHO", bytes(range(256))),), None
    yield "empty arguments", (command("ECHO", ""), command(""), ping), None
    yield "a length with a sign", (b"*+1\r\n$+4\r\nPING\r\n",), None
    yield "a length with zeros", (b"*01\r\n$04\r\nPING\r\n",), None
    for bad in (b"*x\r\n", b"*-2\r\n", b"*\r\n", b"*1_0\r\n", b"* 1\r\n", b"*1048577\r\n", b"*9223372036854775808\r\n",
                b"*1\r\n$x\r\n", b"*1\r\n$-2\r\n", b"*1\r\n$536870913\r\n", b"*1\r\n$\r\n", b"*?\r\n",
                b"*2\r\n$4\r\nPING\r\n|1\r\n", b"*2\r\n$4\r\nPING\r\n#x\r\n", b"*2\r\n$4\r\nPING\r\n,x\r\n",
                b"*2\r\n$4\r\nPING\r\n_x\r\n", b"*2\r\n$4\r\nPING\r\n(1x\r\n", b"*2\r\n$4\r\nPING\r\n%-1\r\n",
                b"*2\r\n$4\r\nPING\r\n=2\r\nab\r\n", b"*2\r\n$4\r\nPING\r\n=5\r\nabcde\r\n",
                b"*2\r\n$4\r\nPING\r\n:x\r\n", b"*1\r\n+\xff\r\n"):  # fmt: skip
        yield f"fatal {bad!r}", (ping, bad, ping), None
    for line in (b"PING\r\n", b"\r\n", b"FOO bar\r\n", b"GET\r\n"):
        yield f"inline {line!r}", (line,), INLINE
    yield "deep nesting", (ping, b"*1\r\n" * 200), None
    yield "a bulk that is longer than it says", (b"*1\r\n$4\r\nPINGS\r\n",), ENDS
    yield "an unknown name with line ends", (command("A\r\n+OK"), ping), ESCAPED
    yield "an unknown name with other letters", (command("é"), command("naïve")), None
    yield "an unknown kind with line ends", (words("SKEG.VINDEX.CREATE x 8", "a\r\nb", "flat"), ping), ESCAPED
    yield "statistics", (command("SKEG.STATS"), command("SKEG.SHARDS")), None
    for version in (2, 3):
        yield f"greeting {version}", (words(f"HELLO {version} SETNAME me SETNAME you"), ping, command("HELLO")), None
    yield "a wrong greeting changes nothing", (words("HELLO 5"), words("HELLO 3 X"), words("GET missing")), None


def _pairs() -> Iterator[Made]:
    """Keys and values."""
    yield "set and get", tuple(map(words, ("SET a 1", "GET a", "EXISTS a a b", "DEL a a", "GET a"))), None
    yield "empty key and value", (command("SET", "", ""), command("GET", ""), command("DEL", "")), None
    value = bytes(range(256)) * 9
    yield (
        "a binary value",
        (command("SET", b"\x00\xff", value), command("GET", b"\x00\xff"), command("DEL", b"\x00\xff")),
        None,
    )
    yield "many", tuple(map(words, ("MSET a 1 b 2 a 3", "MGET a x b a", "EXISTS a b x", "DEL a x b"))), None
    yield "counters", tuple(map(words, (
        "INCR n", "INCR n", "DECR n", "INCRBY n 10", "DECRBY n 3", "INCRBY n -20", "INCRBY n +5", "INCRBY n 007",
        "GET n", "DEL n", "DECR n", "DEL n", "DECRBY n 5", "DEL n",
    ))), None  # fmt: skip
    yield "counters at the ends", tuple(map(words, (
        "SET n 9223372036854775807", "INCR n", "INCRBY n 1", "DECR n", "SET n -9223372036854775808", "DECR n",
        "DECRBY n 1", "INCRBY n -1", "GET n", "DEL n",
    ))), None  # fmt: skip
    for text in ("abc", "1.5", " 1", "1 ", "1_0", "", "+7", "-0", "007", "9223372036854775808"):
        requests = (command("SET", "n", text), command("INCR", "n"), command("GET", "n"), command("DEL", "n"))
        yield f"a counter from {text!r}", requests, SPELLED if text in {"+7", "-0", "007"} else None
    yield "append", tuple(map(words, ("APPEND a ab", "APPEND a cde", "GET a", "DEL a"))), None
    batch = [command("SET", f"k{i}", i) for i in range(100)]
    batch += [command("GET", f"k{i}") for i in range(100)]
    batch += [command("DEL", *[f"k{i}" for i in range(100)])]
    yield "two hundred in one write", (b"".join(batch),), None
    yield "a command in three pieces", (b"*2\r\n$4\r\nEC", b"HO\r\n$5\r\nhe", b"llo\r\n"), None


def _vectors() -> Iterator[Made]:
    drop = words("SKEG.VINDEX.DROP v")
    kinds = ("f32", "int8", "binary", "tq2", "tq4")
    for backend in ("flat", "disk"):
        for kind in kinds:
            requests = (words(f"SKEG.VINDEX.CREATE v 4 {kind} {backend}"), *_filled(), *_searches(), drop)
            yield f"vectors, {kind} {backend}", requests, None
    for kind, backend in (("F32", "FLAT"), ("0", "0"), ("5", "1")):
        requests = (words(f"SKEG.VINDEX.CREATE v 4 {kind} {backend}"), drop)
        yield f"kind {kind} and backend {backend}", requests, None
    for kind, dim in (("tq1", 12), ("tq2", 6), ("tq4", 3)):
        yield (
            f"{kind} of {dim} dimensions",
            (words(f"SKEG.VINDEX.CREATE v {dim} {kind} flat"), drop),
            "any dimension has any kind",
        )
    yield "no kind", (words("SKEG.VINDEX.CREATE v 4 flat"), drop), None
    create = words("SKEG.VINDEX.CREATE v 4 f32 flat")
    yield "created twice", (create, create, words("SKEG.VINDEX.CREATE v 5 f32 disk"), drop, drop), None
    for kind in kinds:
        listed = (
            words(f"SKEG.VINDEX.CREATE v 4 {kind} flat"),
            words("SKEG.VSET v 1", FIRST),
            words("SKEG.VINDEX.LIST"),
            drop,
        )
        yield f"listing {kind}", listed, None if kind == "f32" else LISTED
    name = "n" * 248
    yield "a long name", (words(f"SKEG.VINDEX.CREATE {name} 4 f32 flat"), words(f"SKEG.VINDEX.DROP {name}")), NAMES
    yield "a name that is too long", (words(f"SKEG.VINDEX.CREATE {'n' * 256} 4 f32 flat"),), None
    yield "an empty name", (command("SKEG.VINDEX.CREATE", "", "4", "f32", "flat"),), None
    yield "another dimension", (
        create, words("SKEG.VSET v 1", VECTOR_2D), words("SKEG.VSEARCH v 1 0", VECTOR_2D), words("SKEG.VSET v 1", b""),
        words("SKEG.VMSET v 1", VECTOR_2D, b""), drop,
    ), None  # fmt: skip
    yield "vectors that are not finite", (
        create, words("SKEG.VSET v 1", floats(float("nan"), 0, 0, 0)),
        words("SKEG.VSET v 2", floats(float("inf"), 0, 0, 0)), words("SKEG.VINDEX.LIST"), drop,
    ), FINITE  # fmt: skip
    yield "the vector without length", (
        create, words("SKEG.VSET v 1", floats(0, 0, 0, 0)), words("SKEG.VSEARCH v 1 0", FIRST), drop,
    ), NO_DIRECTION  # fmt: skip
    for number in (0, 2**63, 2**64 - 1):
        requests = (create, words(f"SKEG.VSET v {number}", FIRST), words("SKEG.VSEARCH v 1 0", FIRST), drop)
        yield f"the id {number}", requests, STRICT if number == 2**64 - 1 else None
    yield (
        "ids in other spellings",
        (create, words("SKEG.VSET v +5", FIRST), words("SKEG.VSET v 05", FIRST), words("SKEG.VDEL v 5"), drop),
        None,
    )
    yield from _payloads(create, drop)


def _filled() -> list[bytes]:
    return [words(f"SKEG.VSET v {number}", vector) for number, vector in enumerate(VECTORS)]


def _searches() -> list[bytes]:
    """Searches, deletes and overwrites whose answers have no ties."""
    return [
        words("SKEG.VSEARCH v 3 0", FIRST), words("SKEG.VSEARCH v 10 64", FIRST), words("SKEG.VSEARCH v 0 0", FIRST),
        words("SKEG.VDEL v 0"), words("SKEG.VDEL v 0"), words("SKEG.VDEL v 77"), words("SKEG.VSEARCH v 2 0", FIRST),
        words("SKEG.VSET v 4", FIRST), words("SKEG.VSEARCH v 2 32", FIRST), words("SKEG.VINDEX.CONSOLIDATE v"),
        words("SKEG.VSEARCH v 4 100", FIRST, "withpayload"),
    ]  # fmt: skip


PAYLOADS = (b"n=1 tag=a", b"n=2 tag=b", b"n=3 tag=a tag=b", b"n=007 x", None)


def _payloads(create: bytes, drop: bytes) -> Iterator[Made]:
    filled = [
        words(f"SKEG.VSET v {number}", vector)
        if payload is None
        else words(f"SKEG.VSET v {number}", vector, "payload", payload)
        for number, (vector, payload) in enumerate(zip(VECTORS, PAYLOADS, strict=True))
    ]
    yield "payloads", (
        create, *filled, words("SKEG.VSEARCH v 5 0", FIRST, "WITHPAYLOAD", "WITHPAYLOAD"),
        words("SKEG.VSET v 4", VECTORS[4], "PAYLOAD", b""), words("SKEG.VSEARCH v 5 0", FIRST, "WITHPAYLOAD"),
        words("SKEG.VDEL v 1"), words("SKEG.VSET v 1", VECTORS[1]),
        words("SKEG.VSEARCH v 5 0", FIRST, "WITHPAYLOAD"), drop,
    ), None  # fmt: skip
    yield "a payload that is not given again", (
        create, words("SKEG.VSET v 1", FIRST, "PAYLOAD", "old"), words("SKEG.VSET v 1", FIRST),
        words("SKEG.VSEARCH v 1 0", FIRST, "WITHPAYLOAD"), drop,
    ), None  # fmt: skip
    many = [part for number, vector in enumerate(VECTORS) for part in (str(number), vector, PAYLOADS[number] or b"")]
    yield "many vectors", (
        create, command("SKEG.VMSET", "v", *many), words("SKEG.VSEARCH v 5 0", FIRST, "WITHPAYLOAD"),
        words("SKEG.VMSET v x", FIRST, b""), words("SKEG.VMSET v 1", b"abc", b""), words("SKEG.VINDEX.LIST"), drop,
    ), None  # fmt: skip
    yield "payloads of an index that was dropped", (
        create, *filled, drop, create, *_filled(), words("SKEG.VSEARCH v 5 0", FIRST, "WITHPAYLOAD"), drop,
    ), None  # fmt: skip
    reasons = {None: FILTERS, KEPT_ZEROS: ZEROS, PLACED: BAD_FILTERS, COMPLEMENT: ("NOT n=1", "NOT n EXISTS")}
    for why, conditions in reasons.items():
        for condition in conditions:
            requests = (create, *filled, words("SKEG.VSEARCH v 5 0", FIRST, "FILTER", condition), drop)
            yield f"filter {condition!r}", requests, why
    reversed_range = (create, *filled, words("SKEG.VSEARCH v 5 0", FIRST, "FILTER", "n BETWEEN 3 AND 1"), drop)
    yield "filter with a reversed range", reversed_range, EMPTY_RANGE
    both = (create, *filled, words("SKEG.VSEARCH v 5 0", FIRST, "FILTER", "tag=a", "WITHPAYLOAD"), drop)
    yield "filter and payloads", both, None
    yield "filter that is no text", (create, words("SKEG.VSEARCH v 5 0", FIRST, "FILTER", b"\xff"), drop), None
