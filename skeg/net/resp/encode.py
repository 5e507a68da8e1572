"""From values to bytes of RESP: replies of a server, for either version of the protocol, and commands of a client."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

import attrs

from skeg.errors import ParameterError

OK = b"+OK\r\n"
PONG = b"+PONG\r\n"
NULL = {2: b"$-1\r\n", 3: b"_\r\n"}
"""By version of the protocol."""

# A client's text in an error must not end its line and begin another reply.
_PRINTABLE = dict.fromkeys([*range(0x20), 0x7F], "?")


@attrs.frozen
class Status:
    """A short text that says how something went, such as "OK"; no line ends in it.

    Parameters
    ----------
    text : str
    """

    text: str


@attrs.frozen
class ErrorReply:
    """Why a command was not executed; control characters are replaced.

    Parameters
    ----------
    text : str
        Code and message, such as "ERR empty command".
    """

    text: str


def double_text(number: float) -> str:
    """Fewest decimal digits that are read as the same number; without an exponent, and without ".0"."""
    text = repr(number)
    if text.endswith(".0"):
        return text[:-2]
    return format(Decimal(text), "f") if "e" in text else text


def encode(value: object, version: int) -> bytes:
    """A reply.

    Parameters
    ----------
    value : object
        `Status`, `ErrorReply`, int, bytes, str, None, float, bool, or a list, tuple or dict of such.
    version : {2, 3}
        Of the protocol; 2 has no doubles, booleans or maps and gets strings, numbers and arrays for them.

    Returns
    -------
    bytes
    """
    if type(value) is bytes:
        return b"$%d\r\n%b\r\n" % (len(value), value)
    return _ENCODERS[type(value)](value, version)


def encode_command(args: Sequence[bytes | bytearray | memoryview | str | float]) -> bytes:
    """A command.

    Parameters
    ----------
    args : sequence of bytes-like, str, int or float
        Its name and its arguments.

    Returns
    -------
    bytes

    Raises
    ------
    ParameterError
        An argument of another type, or a text with half of a surrogate pair.
    """
    parts: list[bytes | bytearray | memoryview] = [b"*%d\r\n" % len(args)]
    for arg in args:
        data = arg if type(arg) is bytes else _argument(arg)
        parts += (b"$%d\r\n" % len(data), data, b"\r\n")
    return b"".join(parts)


def _argument(arg: Any) -> bytes | bytearray | memoryview:
    if isinstance(arg, str):
        try:
            return arg.encode()
        except UnicodeEncodeError as error:
            raise ParameterError("argument", arg, "a text that can be encoded, or bytes") from error
    if isinstance(arg, bool) or not isinstance(arg, bytes | bytearray | memoryview | int | float):
        raise ParameterError("argument", arg, "bytes, a text or a number")
    if isinstance(arg, memoryview):
        return arg.cast("B") if arg.c_contiguous else arg.tobytes()
    if isinstance(arg, float):
        return double_text(float(arg)).encode()
    return b"%d" % arg if isinstance(arg, int) else arg


def _status(value: Status, _: int) -> bytes:
    return b"+%b\r\n" % value.text.encode()


def _error(value: ErrorReply, _: int) -> bytes:
    return b"-%b\r\n" % value.text.translate(_PRINTABLE).encode(errors="replace")


def _integer(value: int, _: int) -> bytes:
    return b":%d\r\n" % value


def _bulk(value: str, version: int) -> bytes:
    return encode(value.encode(), version)


def _null(_: None, version: int) -> bytes:
    return NULL[version]


def _double(value: float, version: int) -> bytes:
    text = double_text(value)
    return f",{text}\r\n".encode() if version == 3 else _bulk(text, version)


def _boolean(value: bool, version: int) -> bytes:  # noqa: FBT001 - the value that is encoded
    if version == 2:
        return _integer(value, version)
    return b"#t\r\n" if value else b"#f\r\n"


def _array(values: Sequence[object], version: int) -> bytes:
    return b"*%d\r\n%b" % (len(values), b"".join([encode(value, version) for value in values]))


def _map(value: dict[object, object], version: int) -> bytes:
    head = b"%%%d\r\n" % len(value) if version == 3 else b"*%d\r\n" % (2 * len(value))
    return head + b"".join([encode(part, version) for pair in value.items() for part in pair])


_ENCODERS: dict[type, Callable[[Any, int], bytes]] = {
    Status: _status,
    ErrorReply: _error,
    int: _integer,
    str: _bulk,
    type(None): _null,
    float: _double,
    bool: _boolean,
    list: _array,
    tuple: _array,
    dict: _map,
}
