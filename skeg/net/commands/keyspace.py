"""Commands on all keys."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from skeg.net.commands.table import Command
from skeg.net.failures import CommandError
from skeg.net.resp_session import RespSession
from skeg.net.session import Lane
from skeg.net.text import unsigned

COUNT_MAX = 10_000
"""Keys of one step of a SCAN."""

_PATTERN_BYTES_MAX = 1024


def dbsize(session: RespSession, _: list[bytes]) -> None:
    """DBSIZE."""
    session.say(len(session.engine.database.kv))


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
        after, keys = store.scan_keys(cursor, count)
        return [b"%d" % after, [key for key in keys if matches(key)] if kind == b"string" else []]

    session.run(step)


@lru_cache(64)
def _matcher(pattern: bytes | None) -> Callable[[bytes], bool]:
    """Whether a key is like a pattern of `*`, `?`, `[abc]` and escapes."""
    if pattern is None or pattern == b"*":
        return lambda _: True
    if len(pattern) > _PATTERN_BYTES_MAX:
        raise CommandError(f"pattern of {len(pattern)} bytes: at most {_PATTERN_BYTES_MAX}")
    return lambda key: glob_match(pattern, key)


def glob_match(pattern: bytes, key: bytes) -> bool:
    r"""Whether a key is like a pattern of ``*``, ``?``, ``[abc]``, ``[a-c]``, ``[^a]``, and ``\`` before others.

    Takes at most the product of the lengths: when a part does not fit, only the last ``*`` takes one byte more.
    """
    tokens = _tokens(pattern)
    at = place = 0
    star = -1
    resume = 0
    while place < len(key):
        if at < len(tokens) and tokens[at] is None:
            star, resume = at, place
            at += 1
        elif at < len(tokens) and key[place] in (tokens[at] or ()):
            at += 1
            place += 1
        elif star >= 0:
            resume += 1
            at, place = star + 1, resume
        else:
            return False
    return all(token is None for token in tokens[at:])


_ANY = frozenset(range(256))


@lru_cache(64)
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
    Command(name="DBSIZE", run=dbsize, arity=(0, 0), group="server", summary="Number of keys"),
    Command(
        name="SCAN", run=scan, arity=(1, -1), lane=Lane.ALONE,
        summary="Some keys, and where to go on: SCAN cursor [MATCH pattern] [COUNT n] [TYPE string]",
    ),
]  # fmt: skip
