r"""What clients send, as it arrives: from chunks of bytes to commands.

A command is an array of strings, or a line with words (`split_inline`).

If the pieces of a chunk (see `Frames`) are as long as the headers before them say, then no string holds a CR LF and
these pieces are the arguments; nothing else has to be looked at.
"""

from __future__ import annotations

from typing import NamedTuple

import attrs

from skeg.errors import ProtocolError
from skeg.net.limits import Limits
from skeg.net.resp.frames import CRLF, LENGTHS, Frames, Headers
from skeg.net.resp.inline import split_inline
from skeg.net.resp.lines import MARKERS, Scalar, check_depth, check_start, parse_count

# What an argument takes in memory beside its bytes, the head of an object and a place in a list; a command, about.
_ARGUMENT_BYTES = 48

_ARGUMENTS = frozenset(b"$+")

# A typed line begins with one of these; `|` marks attributes, which only servers send.
_TYPED = frozenset(range(0x20, 0x7F)) - frozenset(b"|") | frozenset(b"\t\r")


@attrs.frozen
class Malformed:
    """A request that is whole but can't be a command; the connection may go on.

    Parameters
    ----------
    text : str
        Why, for the client.
    """

    text: str


@attrs.define
class Refused:
    """A request that can't be understood, or is too large, before the connection ends.

    Parameters
    ----------
    text : str
        Why, for the client.
    limits : Limits
        That it was compared with.
    rest : bytearray
        The request and what follows it; empty if it began in another chunk, or was typed.
    """

    text: str
    limits: Limits
    rest: bytearray


_COUNTS = Headers(b"*")
_length_of = LENGTHS.__getitem__


class _Shape(NamedTuple):
    """What chunks that were one command have in common: all but the last two arguments."""

    length: int
    head: bytes  # all before the first of the two
    middle: bytes  # what stands between them
    first: int  # where the first begins
    end: int  # where it ends
    last: int  # where the last begins
    args: list[bytes]  # the arguments before them
    limits: Limits  # that the lengths do not exceed


class RequestParser(Frames):
    """Feed it what arrives on one connection.

    Parameters
    ----------
    limits : Limits
        May be replaced at any time.

    Attributes
    ----------
    error : str or None
        Why nothing can be understood any more; what came before was returned, what comes after is ignored.
    refused : Refused or None
        The request that it is about.
    """

    _markers = MARKERS - frozenset(b"|")  # attributes are for replies

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self._commands: list[list[bytes] | Malformed] = []
        self.refused: Refused | None = None
        self._last = _Shape(-1, b"", b"", 0, 0, 0, [], limits)
        self._reset()

    def _reset(self) -> None:
        """Be between two commands."""
        self._args: list[bytes] = []
        self._held = 0  # memory that they take; that of the command itself included
        self._bytes = 0  # of strings of the command, announced ones included
        self._problem: str | None = None  # why it can't be one
        self._inner: list[int] = []  # elements left of aggregates in it, outermost first

    @property
    def pending(self) -> int:
        """Bytes of memory that an incomplete request takes; 0 only between requests."""
        return self._held + len(self._string) + len(self._line)

    def repeated(self, data: bytes) -> list[bytes] | None:
        """The command of a chunk that differs from one before it in the last two arguments only, of the same lengths.

        Clients ask for the same with other keys, values or vectors. What was parsed once does not have to be again:
        everything is where the same lengths say. None if it is not so, or if `feed` has begun with a command.

        Parameters
        ----------
        data : bytes
        """
        length, head, middle, first, end, last, args, limits = self._last
        if len(data) != length or not data.startswith(head) or not data.startswith(middle, end):
            return None
        if data[-2:] != CRLF or limits is not self.limits or self.error is not None or self._held or self._line:
            return None
        return [*args, data[first:end], data[last:-2]]

    def _remember(self, data: bytes, args: list[bytes] | Malformed) -> None:
        """Note a chunk that was a command with these arguments and nothing else."""
        if isinstance(args, Malformed) or len(args) < 2:
            return
        size, last_size = len(args[-2]), len(args[-1])
        middle = b"\r\n$%d\r\n" % last_size
        end = len(data) - 2 - last_size - len(middle)
        head = data[: end - size]
        # Else an argument came in another form than that of a plain string.
        if data.startswith(middle, end) and head.endswith(b"\r\n$%d\r\n" % size) and head[:1] == b"*":
            last = end + len(middle)
            self._last = _Shape(len(data), head, middle, len(head), end, last, args[:-2], self.limits)

    def feed(self, data: bytes) -> list[list[bytes] | Malformed]:
        """Take a chunk of any length.

        Parameters
        ----------
        data : bytes

        Returns
        -------
        list
            For each request that it completes, in order, the name of the command and its arguments as they were sent,
            or a `Malformed`.
        """
        if self.error is not None:
            return []
        commands = self._commands = []
        is_whole = not self.pending
        pieces: list[bytes] = []
        first = -1  # where the request begins that is looked at; -1 if that was in another chunk
        try:
            if self._line or self._wanted >= 0:
                data = self._resume(data)
            pieces = data.split(CRLF)
            end = len(pieces) - 1  # behind the last CR LF
            place = self._parse(pieces, 0) if self._left else 0
            limits = self.limits
            count_max = limits.args_max
            if len(data) > limits.bulk_bytes_max or len(data) > limits.request_bytes_max:
                count_max = 0  # what is looked at more closely may exceed a limit
            while place < end:
                first = place
                count = _COUNTS[pieces[place]]
                stop = place + 2 * count + 1
                if 0 < count <= count_max and stop <= end:
                    args = pieces[place + 2 : stop : 2]
                    if [*map(_length_of, pieces[place + 1 : stop : 2])] == [*map(len, args)]:
                        commands.append(args)
                        place = stop
                        continue
                place = self._begin(pieces, place)
                place = self._parse(pieces, place)
            if place == end and pieces[end]:
                first = first if self._left else end
                self._keep(pieces[end])
            elif is_whole and len(commands) == 1 and not self.pending:
                self._remember(data, commands[0])
        except ProtocolError as error:
            self._stop(error)
            self._reset()
            # Of what was typed, some lines of the piece may have been taken.
            is_known = first >= 0 and pieces[first][:1] == b"*"
            rest = CRLF.join(pieces[first:]) if is_known else b""
            self.refused = Refused(f"protocol: {error}", self.limits, bytearray(rest))
        return commands

    # --- commands

    def _begin(self, pieces: list[bytes], place: int) -> int:
        """Begin a command, or take the whole one of a line that was typed."""
        line = pieces[place]
        if not line or line[0] not in MARKERS:
            rest = self._typed(line)
            if rest and rest[0] in MARKERS:
                pieces[place] = rest
                return place
            self._type(rest)
            return place + 1
        if line[0] != 0x2A:  # *
            self._problem = "expected Array frame"
            self._left = 1
            self._held = _ARGUMENT_BYTES
            return place
        self._check_array(line)
        return place + 1

    def _check_array(self, line: bytes) -> None:
        check_start(line, self._markers, 0)
        count = parse_count(line[0], line[1:], self.limits.args_max)
        if count:
            self._left = count
            self._held = _ARGUMENT_BYTES
        else:
            self._commands.append(Malformed("expected Array frame" if count is None else "empty command"))

    def _announce(self, length: int) -> None:
        self._bytes += length
        if self._bytes > self.limits.request_bytes_max:
            raise ProtocolError(f"request too large: {self._bytes}")

    def _open(self, marker: int, count: int) -> None:
        """Begin an aggregate inside a command, of which only the end is of interest."""
        check_depth(len(self._inner) + 1, self.limits.depth_max)
        self._refuse()
        self._inner.append(2 * count if marker == 0x25 else count)  # %

    def _take(self, marker: int, value: Scalar) -> None:
        """Take an element of the command or of an aggregate in it, and end all that end with it."""
        if marker == 0x2B and isinstance(value, bytes):  # +, a string that was not announced
            self._announce(len(value))
        if marker not in _ARGUMENTS or not isinstance(value, bytes) or self._inner:
            self._refuse()
        elif self._problem is None:
            self._args.append(value)
            self._held += len(value) + _ARGUMENT_BYTES
        while self._inner:
            self._inner[-1] -= 1
            if self._inner[-1]:
                return
            self._inner.pop()
        self._left -= 1
        if not self._left:
            self._commands.append(self._args if self._problem is None else Malformed(self._problem))
            self._reset()

    def _refuse(self) -> None:
        """Note that what is being parsed is no command; the first reason counts."""
        if self._problem is not None:
            return
        what = "argument" if self._args else "command name"
        self._problem = f"{what} must be a bulk or simple string"
        self._args = []
        self._held = _ARGUMENT_BYTES

    # --- lines that were typed

    def _line_end(self) -> bytes:
        return CRLF if self._left or self._line[0] in MARKERS else b"\n"

    def _keep(self, tail: bytes) -> None:
        if not self._left and tail[0] not in MARKERS:
            tail = self._typed(tail)
        if tail:
            super()._keep(tail)

    def _check_line(self) -> None:
        if self._left or self._line[0] in MARKERS:
            super()._check_line()
        else:
            self._check_typed(self._line_so_far())

    def _typed(self, text: bytes) -> bytes:
        """Take the typed lines at the beginning, which end in LF; return what begins like a frame or does not end."""
        *lines, rest = text.split(b"\n")
        for i, line in enumerate(lines):
            if line and line[0] in MARKERS:
                return b"\n".join([*lines[i:], rest])
            self._type(line)
        return rest

    def _type(self, line: bytes) -> None:
        self._check_typed(line)
        words = split_inline(line)
        if words:
            self._commands.append(words)

    def _check_typed(self, line: bytes | bytearray) -> None:
        """Refuse what nobody types, such as the beginning of TLS."""
        first = line[0] if line else 0x20
        if first not in _TYPED:
            raise ProtocolError(f"unknown type marker: 0x{first:02X}")
        if len(line) > self.limits.inline_bytes_max:
            raise ProtocolError(f"line too long: more than {self.limits.inline_bytes_max} bytes")
