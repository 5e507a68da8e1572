"""Lines of RESP: what follows a marker, up to CR LF. Both directions read them in the same way.

Whatever is wrong is a `ProtocolError`; its text is what a server tells the client, behind "-ERR protocol: ".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from skeg.errors import ProtocolError, ServerError

INTEGER_MIN, INTEGER_MAX = -(2**63), 2**63 - 1

HEADER_BYTES_MAX = 24
"""Of a line that holds a number only: marker, sign and 20 digits fit."""

HEADERS = frozenset(b"$*%~>|!=:_#")
"""Markers of lines that are never longer than `HEADER_BYTES_MAX`."""

MARKERS = HEADERS | frozenset(b"+-,(")
"""Of all frames there are."""

_INTEGER = re.compile(rb"[+-]?[0-9]{1,20}")
_BIG_INTEGER = re.compile(rb"[+-]?[0-9]{1,1000}")
_DOUBLE = re.compile(rb"[+-]?(?:inf(?:inity)?|nan|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[+-]?[0-9]+)?)", re.IGNORECASE)

_SHOWN_BYTES_MAX = 64

Scalar = bytes | int | float | bool | ServerError | None


def parse_integer(text: bytes) -> int:
    """A number of 64 bits; stricter than `int`, which takes blanks, underscores and digits of other scripts."""
    if not _INTEGER.fullmatch(text) or not INTEGER_MIN <= (number := int(text)) <= INTEGER_MAX:
        raise ProtocolError(f"invalid integer: {_shown(text)}")
    return number


def parse_length(marker: int, text: bytes, limit: int) -> int | None:
    """Bytes of a string, None for the null of RESP2."""
    length = parse_integer(text)
    if length < 0 and (length != -1 or marker != 0x24):  # only `$` has a null
        raise ProtocolError(f"invalid length: {length}")
    if length > limit:
        raise ProtocolError(f"bulk too large: {length}")
    return None if length == -1 else length


def parse_count(marker: int, text: bytes, limit: int) -> int | None:
    """Elements of an aggregate, pairs of one whose ``marker`` is that of maps; None for the null of RESP2."""
    count = parse_integer(text)
    if count < 0 and (count != -1 or marker != 0x2A):  # only `*` has a null
        raise ProtocolError(f"invalid length: {count}")
    if count > limit:
        raise ProtocolError(f"aggregate too large: {count}")
    return None if count == -1 else count


def parse_error(text: bytes) -> ServerError:
    """What an error says: a code in capital letters, if it has one, and the message."""
    _check_text(text)
    code, blank, message = text.decode().partition(" ")
    if blank and code.isupper():
        return ServerError(message, code)
    return ServerError(text.decode())


def check_verbatim(data: bytes) -> None:
    """Refuse a verbatim string that does not begin with three characters of its format and a colon."""
    if data[3:4] != b":":
        raise ProtocolError("invalid verbatim string: missing 3-char fmt + ':' prefix")


def check_depth(depth: int, limit: int) -> None:
    """Refuse an aggregate that would be one of too many inside of each other."""
    if depth > limit:
        raise ProtocolError(f"aggregate nesting too deep: {depth}")


def check_start(line: bytes | bytearray, markers: frozenset[int], text_bytes_max: int) -> None:
    """Refuse the beginning of a line that can't become a good one any more, so that it is not waited for."""
    marker = line[0]
    if marker not in markers:
        raise ProtocolError(f"unknown type marker: 0x{marker:02X}")
    if marker in HEADERS:
        if len(line) > HEADER_BYTES_MAX:
            raise ProtocolError(f"invalid integer: {_shown(line[1:HEADER_BYTES_MAX])}")
    elif len(line) > text_bytes_max:
        raise ProtocolError(f"line too long: more than {text_bytes_max} bytes")


def _text(text: bytes) -> bytes:
    _check_text(text)
    return text


def _null(text: bytes) -> None:
    if text:
        raise ProtocolError("unexpected payload between type marker and CRLF")


def _boolean(text: bytes) -> bool:
    if text not in {b"t", b"f"}:
        raise ProtocolError(f"invalid boolean payload: {list(text)}")
    return text == b"t"


def _double(text: bytes) -> float:
    if not _DOUBLE.fullmatch(text):
        raise ProtocolError(f"invalid double: {_shown(text)}")
    return float(text)


def _big_integer(text: bytes) -> int:
    if not _BIG_INTEGER.fullmatch(text):
        raise ProtocolError(f"invalid integer: {_shown(text)}")
    return int(text)


def _check_text(text: bytes) -> None:
    try:
        text.decode()
    except UnicodeDecodeError:
        raise ProtocolError("invalid utf-8 in line") from None


def _shown(text: bytes | bytearray) -> str:
    """What stood in a line, as far as it fits a message; `ErrorReply` replaces control characters."""
    return text[:_SHOWN_BYTES_MAX].decode(errors="replace")


SCALARS: Mapping[int, Callable[[bytes], Scalar]] = {
    ord("+"): _text,
    ord("-"): parse_error,
    ord(":"): parse_integer,
    ord("_"): _null,
    ord("#"): _boolean,
    ord(","): _double,
    ord("("): _big_integer,
}
"""What the text of a line means, by marker."""
