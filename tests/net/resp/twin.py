"""A parser of requests that is easy to check by reading: it looks at everything that has arrived, from the start."""

from __future__ import annotations

import re

from skeg.net.limits import Limits


class IncompleteError(Exception):
    """More has to arrive."""


class FatalError(Exception):
    """Nothing can be understood any more."""


def parse(data: bytes, limits: Limits) -> tuple[list[list[bytes] | str], str | None]:
    """Commands, texts of what are none, and why parsing stopped if not for lack of bytes."""
    events: list[list[bytes] | str] = []
    place = 0
    try:
        while place < len(data):
            event, place = request(data, place, limits)
            if event is not None:
                events.append(event)
    except IncompleteError:
        return events, None
    except FatalError as error:
        return events, str(error)
    return events, None


def request(data, place, limits):
    if data[place : place + 1] not in {bytes((b,)) for b in b"*$+-:_#,(!=%~>"}:
        end = data.find(b"\n", place)
        if end < 0:
            raise IncompleteError
        return typed(data[place:end].removesuffix(b"\r"), limits), end + 1
    budget = [limits.request_bytes_max]
    if data[place : place + 1] != b"*":
        _, _, place = element(data, place, limits, budget, 1)
        return "expected Array frame", place
    text, place = line(data, place, limits)
    count = length(text, limits.args_max, "aggregate", has_null=True)
    if not count:
        return "expected Array frame" if count is None else "empty command", place
    elements = []
    for _ in range(count):
        marker, value, place = element(data, place, limits, budget, 1)
        elements.append(value if marker in "$+" else None)
    if elements[0] is None:
        return "command name must be a bulk or simple string", place
    if None in elements:
        return "argument must be a bulk or simple string", place
    return elements, place


def element(data, place, limits, budget, depth):
    """Marker, value and where the next one begins."""
    if place >= len(data):
        raise IncompleteError
    marker = chr(data[place])
    if marker not in "*$+-:_#,(!=%~>":
        raise FatalError(f"unknown type marker: 0x{data[place]:02X}")
    text, place = line(data, place, limits)
    if marker in "$!=":
        size = length(text, limits.bulk_bytes_max, "bulk", has_null=marker == "$")
        if size is None:
            return marker, None, place
        spend(budget, size, limits)
        end = place + size
        if not b"\r\n".startswith(data[end : end + 2]):
            raise FatalError(f"bulk of {size} bytes is not followed by CRLF")
        if len(data) < end + 2:
            raise IncompleteError
        if marker == "=" and (size < 4 or data[place + 3] != 0x3A):
            raise FatalError("invalid verbatim string: missing 3-char fmt + ':' prefix")
        return marker, data[place:end], end + 2
    if marker in "*~>%":
        count = length(text, limits.args_max, "aggregate", has_null=marker == "*")
        if count and depth > limits.depth_max:
            raise FatalError(f"aggregate nesting too deep: {depth}")
        for _ in range((count or 0) * (2 if marker == "%" else 1)):
            _, _, place = element(data, place, limits, budget, depth + 1)
        return marker, None, place
    value = scalar(marker, text)
    if marker == "+":
        spend(budget, len(value), limits)
    return marker, value, place


def spend(budget, size, limits):
    """Count the bytes of a string."""
    budget[0] -= size
    if budget[0] < 0:
        raise FatalError(f"request too large: {limits.request_bytes_max - budget[0]}")


def line(data, place, limits):
    """What follows the marker at a place, and where the next line begins."""
    end = data.find(b"\r\n", place)
    if end < 0:
        raise IncompleteError
    if data[place] in b"+-,(":
        check_length(end - place, limits)
    elif end - place > 24:
        raise FatalError(f"invalid integer: {data[place + 1 : place + 24].decode(errors='replace')}")
    return data[place + 1 : end], end + 2


def check_length(size, limits):
    if size > limits.inline_bytes_max:
        raise FatalError(f"line too long: more than {limits.inline_bytes_max} bytes")


def length(text, limit, what, *, has_null):
    number = integer(text)
    if number == -1 and has_null:
        return None
    if number < 0:
        raise FatalError(f"invalid length: {number}")
    if number > limit:
        raise FatalError(f"{what} too large: {number}")
    return number


def integer(text):
    if not re.fullmatch(rb"[+-]?[0-9]{1,20}", text) or not -(2**63) <= int(text) < 2**63:
        raise FatalError(f"invalid integer: {text.decode(errors='replace')}")
    return int(text)


def scalar(marker, text):
    if marker in "+-":
        try:
            text.decode()
        except UnicodeDecodeError:
            raise FatalError("invalid utf-8 in line") from None
    elif marker == "_" and text:
        raise FatalError("unexpected payload between type marker and CRLF")
    elif marker == "#" and text not in {b"t", b"f"}:
        raise FatalError(f"invalid boolean payload: {list(text)}")
    elif marker == ":":
        integer(text)
    elif marker == "(" and not re.fullmatch(rb"[+-]?[0-9]+", text):
        raise FatalError(f"invalid integer: {text.decode(errors='replace')}")
    elif marker == ",":
        try:
            float(text)
        except ValueError:
            raise FatalError(f"invalid double: {text.decode(errors='replace')}") from None
    return text


def typed(text, limits):
    """Words of a typed line, character by character; None of an empty one."""
    if (text and not (0x20 <= text[0] < 0x7F or text[0] in b"\t\r")) or text[:1] == b"|":
        raise FatalError(f"unknown type marker: 0x{text[0]:02X}")
    check_length(len(text), limits)
    words = []
    blanks = b" \t\n\r\v\f"
    place = 0
    while place < len(text):
        if text[place] in blanks:
            place += 1
            continue
        word, place = one_word(text, place, blanks)
        words.append(word)
    if words and words[0].lower() in {b"post", b"host:"}:
        raise FatalError("HTTP where RESP was expected")
    return words or None


def one_word(text, place, blanks):
    word = bytearray()
    quote = None
    controls = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "a": "\a"}
    while place < len(text):
        byte = text[place]
        if quote is None and byte in blanks:
            return bytes(word), place
        if quote is None and byte in b"\"'":
            quote = byte
        elif quote is not None and byte == quote:
            if place + 1 < len(text) and text[place + 1] not in blanks:
                break
            return bytes(word), place + 1
        elif quote == 0x22 and byte == 0x5C and re.match(rb"\\x[0-9a-fA-F]{2}", text[place:]):
            word.append(int(text[place + 2 : place + 4], 16))
            place += 3
        elif quote == 0x22 and byte == 0x5C and place + 1 < len(text):
            place += 1
            word += controls.get(chr(text[place]), chr(text[place])).encode("latin-1")
        elif quote == 0x27 and text[place : place + 2] == b"\\'":
            word += b"'"
            place += 1
        else:
            word.append(byte)
        place += 1
    if quote is not None:
        raise FatalError("unbalanced quotes in request")
    return bytes(word), place
