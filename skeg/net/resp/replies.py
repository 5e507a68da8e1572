"""What servers send, as it arrives: from chunks of bytes to values, of RESP2 and RESP3 alike.

Strings and texts are bytes, verbatim ones without their format; both kinds of errors are `ServerError` objects, arrays
and sets lists, maps dicts. Attributes are left out. What a server sends on its own is a `Push`.
"""

from __future__ import annotations

from typing import Any

import attrs

from skeg.errors import ProtocolError
from skeg.net.limits import Limits
from skeg.net.resp.frames import CRLF, Frames
from skeg.net.resp.lines import MARKERS, Scalar, check_depth, parse_error


@attrs.frozen
class Push:
    """What a server sends without having been asked.

    Parameters
    ----------
    values : list
    """

    values: list[Any]


class _Aggregate:
    """One whose elements are arriving."""

    __slots__ = ("marker", "size", "values")

    def __init__(self, marker: int, count: int) -> None:
        self.marker = marker
        self.size = 2 * count if marker in _PAIRED else count
        self.values: list[Any] = []


class ReplyParser(Frames):
    """Feed it what arrives on one connection.

    Parameters
    ----------
    limits : Limits
        Those of strings, lines, aggregates and depth count.

    Attributes
    ----------
    error : str or None
        Why nothing can be understood any more; what came before was returned, what comes after is ignored.
    """

    _markers = MARKERS

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self._left = 1  # there is always another reply
        self._open_ones: list[_Aggregate] = []  # outermost first
        self._replies: list[Any] = []

    def feed(self, data: bytes) -> list[Any]:
        """Take a chunk of any length.

        Parameters
        ----------
        data : bytes

        Returns
        -------
        list
            The values that it completes, in order.
        """
        replies = self._replies = []
        if self.error is None:
            try:
                pieces = self._resume(data).split(CRLF)
                place = self._parse(pieces, 0)
                if place < len(pieces) and pieces[-1]:
                    self._keep(pieces[-1])
            except ProtocolError as error:
                self._stop(error)
                self._open_ones.clear()
        return replies

    def _open(self, marker: int, count: int) -> None:
        check_depth(len(self._open_ones), self.limits.depth_max)
        self._open_ones.append(_Aggregate(marker, count))

    def _announce(self, length: int) -> None:
        """Any string will do that is not too long by itself."""

    def _take_empty(self, marker: int, count: int | None) -> None:
        if count is None:
            self._take(marker, None)
        else:
            self._end(_Aggregate(marker, 0))

    def _take(self, marker: int, value: Scalar) -> None:
        if marker == 0x3D and isinstance(value, bytes):  # =
            value = value[4:]
        elif marker == 0x21 and isinstance(value, bytes):  # !
            value = parse_error(value)
        self._add(value)

    def _add(self, value: Any) -> None:
        """Put a whole value where it belongs, and end the aggregate of which it is the last element."""
        if not self._open_ones:
            self._replies.append(value)
            return
        inner = self._open_ones[-1]
        inner.values.append(value)
        if len(inner.values) == inner.size:
            self._open_ones.pop()
            self._end(inner)

    def _end(self, whole: _Aggregate) -> None:
        values = whole.values
        if whole.marker == 0x25:  # %
            self._add(_as_dict(values))
        elif whole.marker == 0x3E:  # >
            self._add(Push(values))
        elif whole.marker != 0x7C:  # attributes end without being a value
            self._add(values)


_PAIRED = frozenset(b"%|")


def _as_dict(values: list[Any]) -> dict[Any, Any]:
    try:
        return dict(zip(values[::2], values[1::2], strict=True))
    except TypeError:  # a list or a map
        raise ProtocolError("a key of a map is an aggregate") from None
