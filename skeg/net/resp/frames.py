"""What parsers of both directions do alike: they find the frames of RESP in bytes that arrive in chunks.

A chunk is split at every CR LF; the pieces are headers, lines and strings. A string that holds a CR LF itself is put
together from several pieces. What is incomplete at the end of a chunk is kept as parsed so far, so no byte is read
twice, and nothing is believed before it arrives: counts and lengths are compared with the limits on their header line,
and no memory is taken for them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from skeg.errors import ProtocolError
from skeg.net.limits import Limits
from skeg.net.resp.lines import SCALARS, Scalar, check_start, check_verbatim, parse_count, parse_length

CRLF = b"\r\n"

_STRINGS = frozenset(b"$!=")
_AGGREGATES = frozenset(b"*%~>|")


class Headers(dict[bytes, int]):
    """What plain headers of one marker announce; -1 for all others, which have to be looked at more closely."""

    def __init__(self, marker: bytes) -> None:
        super().__init__((b"%b%d" % (marker, n), n) for n in range(64))
        self._marker = marker

    def __missing__(self, header: bytes) -> int:
        digits = header[1:]
        if header[:1] != self._marker or not digits.isdigit() or len(digits) > 9:
            return -1
        number = int(digits)
        if len(self) < 4096 and header == b"%b%d" % (self._marker, number):
            self[header] = number
        return number


LENGTHS = Headers(b"$")


class Frames(ABC):
    """Base of the parsers.

    Parameters
    ----------
    limits : Limits

    Attributes
    ----------
    limits : Limits
        May be replaced at any time.
    error : str or None
        Why nothing can be understood any more; what came before was returned, what comes after is ignored.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.error: str | None = None
        self._left = 0  # elements that are still to come of what is being parsed
        self._line = bytearray()  # the beginning of a line
        self._string = bytearray()  # the beginning of a string
        self._wanted = -1  # length of a string that is incomplete, -1 outside of strings
        self._marker = 0  # its marker

    # --- what the two directions do with frames

    _markers: frozenset[int]  # that may begin a frame

    @abstractmethod
    def _take(self, marker: int, value: Scalar) -> None:
        """Take a frame that holds no others; an aggregate without elements comes as None."""

    @abstractmethod
    def _open(self, marker: int, count: int) -> None:
        """Begin an aggregate of at least one element, or pair."""

    @abstractmethod
    def _announce(self, length: int) -> None:
        """Refuse a string of so many bytes, which is not too long by itself."""

    # --- chunks

    def _stop(self, error: ProtocolError) -> None:
        """Take nothing any more."""
        self.error = str(error)
        self._line.clear()
        self._string.clear()
        self._wanted = -1

    def _resume(self, data: bytes) -> bytes:
        """Take the rest of what was incomplete, and return what follows it; nothing as long as it stays incomplete."""
        if self._wanted >= 0:
            missing = self._wanted + len(CRLF) - len(self._string)
            self._string += data[:missing]
            self._check_end_of_string()
            if len(data) < missing:
                return b""
            del self._string[self._wanted :]
            string = bytes(self._string)
            self._string = bytearray()
            self._wanted = -1
            self._take_string(self._marker, string)
            return data[missing:]
        if self._line:
            line = self._line
            looked_at = max(len(line) - 1, 0)
            line += data
            if line.find(self._line_end(), looked_at) < 0:
                self._check_line()
                return b""
            data = bytes(line)
            line.clear()
        return data

    def _keep(self, tail: bytes) -> None:
        """Keep the beginning of a line for the next chunk."""
        self._line += tail
        self._check_line()

    def _line_end(self) -> bytes:
        return CRLF

    def _check_line(self) -> None:
        check_start(self._line_so_far(), self._markers, self.limits.inline_bytes_max)

    def _line_so_far(self) -> bytearray:
        """The beginning of a line, without what may be half of its end."""
        line = self._line
        return line[:-1] if len(line) > 1 and line[-1] == 0x0D else line

    # --- frames

    def _parse(self, pieces: list[bytes], place: int) -> int:
        """Go on until `_left` is 0, or to the end of the pieces, of which the last is not a whole one.

        Returns
        -------
        int
            The first piece that was not used, which is the last one if it is the beginning of a line.
        """
        end = len(pieces) - 1
        limits = self.limits
        while self._left and place < end:
            line = pieces[place]
            place += 1
            marker = line[0] if line else 0x0D
            if marker == 0x24 and place < end:  # $
                size = LENGTHS[line]
                if len(pieces[place]) == size <= limits.bulk_bytes_max:
                    self._announce(size)
                    self._take(marker, pieces[place])
                    place += 1
                    continue
            check_start(line or b"\r", self._markers, limits.inline_bytes_max)
            if marker in _STRINGS:
                length = parse_length(marker, line[1:], limits.bulk_bytes_max)
                if length is None:
                    self._take(marker, None)
                else:
                    self._announce(length)
                    place = self._gather(pieces, place, marker, length)
            elif marker in _AGGREGATES:
                count = parse_count(marker, line[1:], limits.args_max)
                if count:
                    self._open(marker, count)
                else:
                    self._take_empty(marker, count)
            else:
                self._take(marker, SCALARS[marker](line[1:]))
        return place

    def _take_empty(self, marker: int, _: int | None) -> None:
        self._take(marker, None)

    def _take_string(self, marker: int, string: bytes) -> None:
        if marker == 0x3D:  # =
            check_verbatim(string)
        self._take(marker, string)

    def _gather(self, pieces: list[bytes], place: int, marker: int, length: int) -> int:
        """Put a string together that holds CR LF, or begin one that is incomplete."""
        end = len(pieces) - 1
        last = place
        size = len(pieces[place])
        while size < length and last < end:
            last += 1
            size += len(CRLF) + len(pieces[last])
        self._wanted = length
        self._marker = marker
        self._string += CRLF.join(pieces[place : last + 1])
        if last < end:
            self._resume(CRLF)
        else:
            self._check_end_of_string()
        return last + 1

    def _check_end_of_string(self) -> None:
        if not CRLF.startswith(self._string[self._wanted :]):
            raise ProtocolError(f"bulk of {self._wanted} bytes is not followed by CRLF")
