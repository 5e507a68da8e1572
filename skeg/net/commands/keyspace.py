"""Commands on all keys."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial

from skeg.net.commands.table import Command
from skeg.net.failures import CommandError
from skeg.net.resp_session import RespSession
from skeg.net.session import Lane
from skeg.net.text import unsigned

COUNT_MAX = 10_000
"""Keys of one step of a SCAN."""

STEP_BYTES = 1 << 20
"""Bytes of keys after which a step ends, however many were asked for."""

_KEYS_AT_ONCE = 256

_PATTERN_BYTES_MAX = 1024


def dbsize(session: RespSession, _: list[bytes]) -> None:
    """DBSIZE; after all that was asked for before, as it is not one of the store's operations."""
    store = session.engine.database.kv
    session.run(lambda: len(store))


def scan(session: RespSession, args: list[bytes]) -> None:
    """SCAN cursor [MATCH pattern] [COUNT n] [TYPE name]."""
    cursor = unsigned(args[1])
    if cursor is None:
        raise CommandError("invalid cursor")
    count, pattern, kind = 10, None, b"string"
    options = args[2:]
    if len(options) % 2:
        raise CommandError("syntax error")
    for word, value in zip(options[::2], options[1::2], strict=True):
        match word.upper():
            case b"MATCH":
                pattern = value
            case b"COUNT":
                wanted = unsigned(value)
                if not wanted:
                    raise CommandError("value is not an integer or out of range")
                count = min(wanted, COUNT_MAX)
            case b"TYPE":
                kind = value.lower()
            case _:
                raise CommandError("syntax error")
    matches = _matcher(pattern)
    store = session.engine.database.kv

    def step() -> list[object]:
        keys: list[bytes] = []
        after, left, room = cursor, count, STEP_BYTES
        while left > 0 and room > 0:
            after, some = store.scan_keys(after, min(left, _KEYS_AT_ONCE))
            left -= max(len(some), 1)
            room -= sum(map(len, some))
            keys += filter(matches, some)
            if after == 0:
                break
        return [b"%d" % after, keys if kind == b"string" else []]

    session.run(step)


def _matcher(pattern: bytes | None) -> Callable[[bytes], bool]:
    """Whether a key is like a pattern of `*`, `?`, `[abc]` and escapes."""
    if pattern is None or pattern == b"*":
        return lambda _: True
    _compiled(pattern)  # which refuses what is too long
    return partial(glob_match, pattern)


def glob_match(pattern: bytes, key: bytes) -> bool:
    r"""Whether a key is like a pattern of ``*``, ``?``, ``[abc]``, ``[a-c]``, ``[^a]``, and ``\`` before others.

    Takes as long as the key is, whatever the pattern: bit i of `places` says whether the first i tokens take what was
    looked at so far.
    """
    takes, stays, end = _compiled(pattern)
    places = 1
    for byte in key:
        places = (places & takes[byte]) << 1 | places & stays
        if not places:
            return False
    return bool(places & end)


@lru_cache(64)
def _compiled(pattern: bytes) -> tuple[list[int], int, int]:
    """The places of a pattern, as bits, that each byte takes a step from; those behind ``*``; that at its end."""
    if len(pattern) > _PATTERN_BYTES_MAX:
        raise CommandError(f"pattern of {len(pattern)} bytes: at most {_PATTERN_BYTES_MAX}")
    takes = [0] * 256
    stays, place = 0, 1
    for token in _tokens(pattern):
        if token is None:
            stays |= place
            continue
        for byte in token:
            takes[byte] |= place
        place <<= 1
    return takes, stays, place


_ANY = frozenset(range(256))


def _tokens(pattern: bytes) -> list[frozenset[int] | None]:
    """What each place of a pattern takes: a set of bytes, or None for ``*``."""
    tokens: list[frozenset[int] | None] = []
    i = 0
    while i < len(pattern):
        byte = pattern[i : i + 1]
        if byte == b"*":
            if not tokens or tokens[-1] is not None:
                tokens.append(None)
        elif byte == b"?":
            tokens.append(_ANY)
        elif byte == b"[":
            chosen, i = _class(pattern, i + 1)
            tokens.append(chosen)
            continue
        else:
            if byte == b"\\" and i + 1 < len(pattern):
                i += 1
            tokens.append(frozenset((pattern[i],)))
        i += 1
    return tokens


def _class(pattern: bytes, i: int) -> tuple[frozenset[int], int]:
    """The bytes of a class that begins at `i`, and where it ends; one that is not closed ends with the pattern."""
    negated = pattern[i : i + 1] == b"^"
    i += negated
    chosen: set[int] = set()
    while i < len(pattern) and pattern[i] != 0x5D:
        if pattern[i] == 0x5C and i + 1 < len(pattern):
            i += 1
        elif pattern[i + 1 : i + 2] == b"-" and i + 2 < len(pattern) and pattern[i + 2] != 0x5D:
            low, high = sorted((pattern[i], pattern[i + 2]))
            chosen.update(range(low, high + 1))
            i += 3
            continue
        chosen.add(pattern[i])
        i += 1
    return (_ANY - chosen if negated else frozenset(chosen)), i + 1


COMMANDS = [
    Command(name="DBSIZE", run=dbsize, arity=(0, 0), lane=Lane.ALONE, group="server", summary="Number of keys"),
    Command(
        name="SCAN", run=scan, arity=(1, -1), lane=Lane.ALONE,
        summary="Some keys, and where to go on: SCAN cursor [MATCH pattern] [COUNT n] [TYPE string]",
    ),
]  # fmt: skip
