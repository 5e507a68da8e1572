"""Bytes out of a seed: what clients may send, sound, wrong and hostile."""

from __future__ import annotations

import struct

from skeg.net.binary.frames import HEADER, Op, pack_frame
from skeg.net.commands import TABLE
from tests.net.serving import command

SILENT = 0x02

NUMBERS = [
    b"0", b"1", b"2", b"3", b"10", b"-1", b"+1", b"007", b"00", b"-0", b"", b" 1", b"1 ", b"1_0", b"0x10", b"1e3",
    b"4294967295", b"4294967296", b"9223372036854775807", b"9223372036854775808", b"-9223372036854775808",
    b"18446744073709551614", b"18446744073709551615", b"18446744073709551616", b"9" * 100, b"0" * 70 + b"1",
    b"1" * 5000, "٣".encode(), "\uff11".encode(), b"nan", b"inf", b"-inf", b"1.5", b"\x00", b"1\x00", b"1\r\n", b"\xff",
]  # fmt: skip

NAMES = [
    b"a", b"b", b"c0", b"none", b"A", b".", b"..", b"../../etc/passwd", b"a/b", b"a\x00", b"", b" ",
    b"a::b", b"x" * 128, b"x" * 129, b"x" * 255, b"x" * 65_535, b"x" * 65_536, b"x" * 70_000, "ä".encode(), b"\xff\xfe",
    b"a\r\n+OK", b"-", b".building-x", b"CON", b"*", b"{}%s%n",
]  # fmt: skip

KEYS = [
    b"k1",
    b"k2",
    b"k3",
    b"alive",
    b"n",
    b"",
    b"\x00vp",
    b"x" * 65_535,
    b"x" * 65_536,
    b"\xff",
    b"a b",
    b"*",
    b"\r\n",
]

FLOATS = [0.0, -0.0, 1.0, -1.0, 0.5, 3.4e38, 1e-45, float("nan"), float("inf"), float("-inf")]

WORDS = [
    b"NX", b"XX", b"GET", b"MATCH", b"COUNT", b"TYPE", b"string", b"WITHPAYLOAD", b"FILTER", b"BATCH", b"PAYLOAD",
    b"AUTH", b"SETNAME", b"LIST", b"INFO", b"DOCS", b"SETINFO", b"LIB-NAME", b"LIB-VER", b"GETKEYS", b"flat", b"disk",
    b"f32", b"int8", b"binary", b"tq1", b"tq2", b"tq4", b"sync", b"os", b"none", b"all", b"server", b"withpayload",
]  # fmt: skip


def vector(rng, dim=None):
    """Packed floats, most of them four sound ones."""
    dim = rng.choice((4, 4, 4, 4, 4, 0, 1, 3, 5, 8, 300)) if dim is None else dim
    if rng.random() < 0.7:
        return struct.pack(f"<{dim}f", *[rng.uniform(-1, 1) for _ in range(dim)])
    return struct.pack(f"<{dim}f", *rng.choices(FLOATS, k=dim)) + rng.randbytes(rng.choice((0, 0, 1, 2, 3)))


def filter_text(rng, depth=0):
    """An expression that may be sound, deep, long, or senseless."""
    kind = rng.randrange(12 if depth < 5 else 6)
    field, value = (
        rng.choice(("n", "s", "'q'", "é", "NOT", "")),
        rng.choice(("1", "-5", "x", "1.5", "'a b'", "true", "(")),
    )
    if kind < 3:
        return f"{field} {rng.choice(('=', '!=', '<', '<=', '>', '>=', '<>', '=='))} {value}"
    if kind == 3:
        return f"{field} BETWEEN {rng.choice(('9', 'x', '1'))} AND {rng.choice(('1', '5', 'a'))}"
    if kind == 4:
        return f"{field} IN ({', '.join([value] * rng.choice((0, 1, 3, 50)))})"
    if kind == 5:
        return f"{field} EXISTS"
    if kind < 8:
        word = rng.choice((" AND ", " OR ", " or ", " "))
        return word.join(filter_text(rng, depth + 1) for _ in range(rng.choice((2, 2, 3))))
    if kind == 8:
        return f"NOT {filter_text(rng, depth + 1)}"
    if kind == 9:
        return f"({filter_text(rng, depth + 1)})"
    deep = rng.choice((1, 60, 64, 65, 5000))
    return rng.choice(
        ("(" * deep + "n = 1" + ")" * deep, "NOT " * deep + "n = 1", "n = 1 AND " * deep, "'" * deep, "x" * deep)
    )


def payload(rng):
    """Bytes that may have fields."""
    return rng.choice(
        (b"", b"n=1", b"n=5 s=x", b"n=x s=1 s=2", b"\xff\x00", b"n" * 300, b"=", b"n==1", rng.randbytes(20))
    )


def value(rng):
    """Any bytes, seldom many."""
    size = rng.choice((0, 1, 2, 10, 100, 1000, 20_000 if rng.random() < 0.2 else 3))
    return rng.choice((rng.randbytes(size), b"%d" % rng.randrange(-5, 100), b"\r\n" * min(size, 50)))


def argument(rng):
    """Anything that somewhere may be an argument."""
    kind = rng.randrange(8)
    if kind == 0:
        return vector(rng)
    if kind == 1:
        return filter_text(rng).encode()
    if kind == 2:
        return value(rng)
    return rng.choice((NUMBERS, NUMBERS, NAMES, KEYS, WORDS)[rng.randrange(5)])


def _index(rng):
    return rng.choice((b"a", b"b", b"c0")) if rng.random() < 0.85 else rng.choice(NAMES)


def _id(rng):
    return b"%d" % rng.randrange(6) if rng.random() < 0.85 else rng.choice(NUMBERS)


def _key(rng):
    return rng.choice(KEYS[:5]) if rng.random() < 0.85 else rng.choice(KEYS)


def _keys(rng):
    return [_key(rng) for _ in range(rng.choice((1, 2, 5)))]


def _create(rng):
    kind = rng.choice((b"f32", b"int8", b"binary", b"tq1", b"tq2", b"tq4", b"0", b"9"))
    dim = rng.choice((b"4", b"4", b"8", b"1", b"65536", b"65537"))
    return [rng.choice((b"a", b"b", b"c0", b"a")), dim, kind, rng.choice((b"flat", b"disk", b"1", b"tape"))]


def _vsearch(rng):
    k = rng.choice((b"1", b"3", b"100", b"0", b"4294967295", b"99999999999"))
    count = rng.choice((1, 1, 1, 2, 5))
    words = [_index(rng), k, rng.choice((b"0", b"0", b"10", b"4294967295")), vector(rng, 4 * count)]
    if count > 1:
        words += [b"BATCH", b"%d" % count]
    if rng.random() < 0.4:
        words.append(b"WITHPAYLOAD")
    if rng.random() < 0.4:
        words += [b"FILTER", filter_text(rng).encode()]
    return words


def _vmset(rng):
    return [_index(rng), *[w for _ in range(rng.choice((1, 2, 9))) for w in (_id(rng), vector(rng, 4), payload(rng))]]


# Arguments that make sense, by command; others get anything.
SENSIBLE = {
    b"PING": lambda rng: [value(rng)][: rng.randrange(2)],
    b"ECHO": lambda rng: [value(rng)],
    b"GET": lambda rng: [_key(rng)],
    b"SET": lambda rng: [_key(rng), value(rng), *rng.choice(([], [], [b"NX"], [b"XX"], [b"GET"], [b"NX", b"GET"]))],
    b"SETNX": lambda rng: [_key(rng), value(rng)],
    b"GETSET": lambda rng: [_key(rng), value(rng)],
    b"GETDEL": lambda rng: [_key(rng)],
    b"STRLEN": lambda rng: [_key(rng)],
    b"TYPE": lambda rng: [_key(rng)],
    b"APPEND": lambda rng: [_key(rng), value(rng)],
    b"MGET": _keys,
    b"DEL": _keys,
    b"EXISTS": _keys,
    b"MSET": lambda rng: [w for key in _keys(rng) for w in (key, value(rng))],
    b"INCR": lambda rng: [_key(rng)],
    b"DECRBY": lambda rng: [_key(rng), rng.choice(NUMBERS)],
    b"SCAN": lambda rng: [
        rng.choice(NUMBERS),
        b"MATCH",
        rng.choice((b"*", b"k?", b"[", b"[^a-", b"\\")),
        b"COUNT",
        b"100",
    ],
    b"SKEG.VINDEX.CREATE": _create,
    b"SKEG.VINDEX.DROP": lambda rng: [_index(rng)],
    b"SKEG.VINDEX.CONSOLIDATE": lambda rng: [_index(rng)],
    b"SKEG.VSET": lambda rng: [_index(rng), _id(rng), vector(rng, 4), *rng.choice(([], [b"PAYLOAD", payload(rng)]))],
    b"SKEG.VMSET": _vmset,
    b"SKEG.VDEL": lambda rng: [_index(rng), _id(rng)],
    b"SKEG.VGET": lambda rng: [_index(rng), _id(rng)],
    b"SKEG.VSEARCH": _vsearch,
}

# Left out: what ends or changes the connection, which has cases of its own.
COMMANDS = sorted(entry.name.encode() for entry in TABLE if entry.name not in {"QUIT", "RESET", "AUTH"})
VECTOR_COMMANDS = [name for name in SENSIBLE if name.startswith(b"SKEG.")]


def words(rng, names=None):
    """A command, with arguments of which most make sense."""
    names = names or (sorted(SENSIBLE) if rng.random() < 0.6 else COMMANDS)
    name = rng.choice(names)
    if rng.random() < 0.03:
        name = rng.choice((b"", b"NOPE", b"GET\r\n+OK", b"\xff", b"SKEG.", b"x" * 5000))
    sensible = SENSIBLE.get(name)
    if sensible is not None and rng.random() < 0.8:
        args = sensible(rng)
    else:
        args = [argument(rng) for _ in range(rng.choice((0, 1, 1, 2, 2, 3, 4, 5, 7)))]
    if rng.random() < 0.05:
        args = rng.choice((args[:-1], [*args, argument(rng)], args[::-1]))
    if rng.random() < 0.1:
        name = rng.choice((name.lower(), name.title()))
    return [name, *args]


def pipeline(rng, count, names=None):
    """Commands with marks between them; now and then one that comes many times, or is typed."""
    parts = []
    while len(parts) < count:
        one = command(*words(rng, names))
        if rng.random() < 0.1 and len(one) < 500:
            parts += [one] * rng.randrange(2, 40)
        elif rng.random() < 0.05:
            parts.append(rng.choice((b"PING\r\n", b"\r\n", b'SET k1 "a b"\n', b"*0\r\n", b":1\r\n", b"GET k1\r\n")))
        else:
            parts.append(one)
        if rng.random() < 0.2:
            parts.append(command("ECHO", f"mark {len(parts)}"))
    return b"".join(parts)


def mutated(rng, data):
    """The data with some bytes other, gone, twice, or elsewhere."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        if not out:
            break
        at, size = rng.randrange(len(out)), rng.choice((1, 2, 4, 16, 100))
        match rng.randrange(6):
            case 0:
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                out[at] = rng.choice(b"\r\n$*+-:_%~|\x00\xff0129")
            case 2:
                del out[at : at + size]
            case 3:
                out[at:at] = out[at : at + size]
            case 4:
                place = rng.randrange(len(out))
                out[place:place] = out[at : at + size]
            case _:
                out[at:at] = rng.randbytes(size)
    return bytes(out[: rng.randrange(len(out) + 1)] if rng.random() < 0.2 else out)


def _short(data):
    return struct.pack("<H", len(data) & 0xFFFF) + data


def _frame_payload(rng, op):
    """A payload, sound more often than not."""
    name, vector_id = (
        _short(_index(rng)[:65_535]),
        struct.pack("<Q", rng.choice((0, 1, 2, 3, 4, 5, 2**64 - 1, 2**64 - 2))),
    )
    floats = vector(rng, rng.choice((4, 4, 4, 3, 0)))
    dim = struct.pack("<I", len(floats) // 4)
    keys = [_short(_key(rng)[:65_535]) for _ in range(rng.choice((0, 1, 3)))]
    count = struct.pack("<I", len(keys))
    key, some = _key(rng)[:65_535], value(rng)
    match op:
        case Op.GET | Op.DEL | Op.EXISTS | Op.AUTH:
            return _short(key)
        case Op.SET:
            return struct.pack("<HI", len(key), len(some)) + key + some
        case Op.MGET | Op.MEXISTS:
            return count + b"".join(keys)
        case Op.MSET:
            return count + b"".join(struct.pack("<HI", len(k) - 2, len(some)) + k[2:] + some for k in keys)
        case Op.VINDEX_CREATE:
            return name + struct.pack("<IBB", rng.choice((4, 4, 0, 8, 2**32 - 1)), rng.randrange(8), rng.randrange(3))
        case Op.VINDEX_DROP:
            return name
        case Op.VSET:
            return name + vector_id + dim + floats
        case Op.VGET | Op.VDEL:
            return name + vector_id
        case Op.VSEARCH:
            k = struct.pack("<I", rng.choice((0, 1, 5, 2**32 - 1)))
            return name + k + dim + floats + rng.choice((b"", struct.pack("<I", rng.choice((0, 10, 2**32 - 1))), b"\0"))
        case _:
            return rng.randbytes(rng.choice((0, 0, 5)))


def frame(rng, number):
    """A frame of any op, its flags and its payload right more often than not."""
    op = rng.choice([*Op])
    data = _frame_payload(rng, op)
    if rng.random() < 0.2:
        data = mutated(rng, data)
    flags = rng.choice((0, 0, 0, SILENT, 1, 1 | SILENT, 0x40, 0x80, rng.randrange(256)))
    return pack_frame(rng.choice((1, 2)), op, number, data, flags)


def frames(rng, count):
    """Frames with ids that count up."""
    return b"".join(frame(rng, number) for number in range(1, count + 1))


def broken_header(rng):
    """A header that no server takes."""
    fields = [0x564B, 1, int(Op.PING), 0, 5, 0, 0]
    at = rng.randrange(5)
    wrong = (rng.randrange(0x564B), 7, 0x33, 0x100 << rng.randrange(20), (16 << 20) + 1)[at]
    fields[(0, 1, 2, 3, 5)[at]] = wrong
    return HEADER.pack(*fields) + rng.randbytes(30)
