"""Commands that people type: words with blanks between them, on one line."""

from __future__ import annotations

import re

from skeg.errors import ProtocolError

_BLANKS = re.compile(rb"[ \t\n\r\v\f]*")

# A word is made of plain bytes and quoted parts; behind a closing quote it ends.
_PLAIN = re.compile(rb"[^ \t\n\r\v\f\"']*")
_QUOTED = re.compile(
    rb'"(?P<double>(?:[^"\\]|\\.)*)"(?=[ \t\n\r\v\f]|$)'
    rb"|'(?P<single>(?:[^'\\]|\\'|\\(?!'))*)'(?=[ \t\n\r\v\f]|$)",
    re.DOTALL,
)
_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_CONTROL = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"a": b"\a"}

# A browser that was talked into sending a form here begins so; its lines must not be taken for commands.
_HTTP = {b"post", b"host:"}


def split_inline(line: bytes) -> list[bytes]:
    r"""Words of a line without its end; none of an empty one.

    In double quotes, ``\n \r \t \b \a \xHH`` mean what they do in Python and ``\`` quotes any other character; in
    single quotes, ``\'`` is the only escape.

    Raises
    ------
    ProtocolError
        A quote is not closed, or something follows it at once; or this is HTTP.
    """
    words = []
    place = _skip(_BLANKS, line, 0)
    while place < len(line):
        end = _skip(_PLAIN, line, place)
        word = line[place:end]
        if line[end : end + 1] in {b'"', b"'"}:
            quoted = _QUOTED.match(line, end)
            if quoted is None:
                raise ProtocolError("unbalanced quotes in request")
            word += _unquoted(quoted)
            end = quoted.end()
        words.append(word)
        place = _skip(_BLANKS, line, end)
    if words and words[0].lower() in _HTTP:
        raise ProtocolError("HTTP where RESP was expected")
    return words


def _skip(pattern: re.Pattern[bytes], line: bytes, place: int) -> int:
    found = pattern.match(line, place)
    assert found is not None, "both patterns match nothing at all"
    return found.end()


def _unquoted(quoted: re.Match[bytes]) -> bytes:
    single: bytes | None = quoted["single"]
    if single is not None:
        return single.replace(b"\\'", b"'")
    return _ESCAPE.sub(_unescaped, quoted["double"])


def _unescaped(escape: re.Match[bytes]) -> bytes:
    if escape[1] is not None:
        return bytes.fromhex(escape[1].decode())
    return _CONTROL.get(escape[2], escape[2])
