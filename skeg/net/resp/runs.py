r"""Commands of one kind that arrive together, recognized without looking at each.

Clients that pipeline send the same command again and again. Split at ``\r\n``, a chunk of n such commands of m words is
a list in which the same things stand every 2 m + 1 places: the header ``*m``, sizes and words. That is checked column
by column, at the speed of C. A split at a ``\r\n`` inside of a word goes unnoticed by nobody: some word is then shorter
than its size says.
"""

from __future__ import annotations

import re

import attrs

RUN_MIN = 4
"""Commands below which looking at each is as quick."""

RUN_BYTES_MIN = 80
"""No run of two words is shorter."""

_WORDS_MAX = 3
_SIZE_MAX = 512

_SIZES = [b"$%d" % size for size in range(_SIZE_MAX)]


@attrs.frozen
class Run:
    """``count`` commands of one name; ``columns[i]`` has the argument i of each."""

    name: bytes
    columns: list[list[bytes]]

    @property
    def count(self) -> int:
        """How many commands."""
        return len(self.columns[0])

    def commands(self) -> list[list[bytes]]:
        """The commands one by one."""
        return [[self.name, *arguments] for arguments in zip(*self.columns, strict=True)]


# A command of two words, or of three, up to the second; and what is between the second and the third.
_HEAD = re.compile(rb"\*([23])\r\n\$([0-9]{1,2})\r\n([A-Za-z.]+)\r\n\$([0-9]{1,3})\r\n")
_BETWEEN = re.compile(rb"\r\n\$([0-9]{1,3})\r\n")


def find_run(data: bytes) -> Run | None:
    """The run that a chunk is, or None if it is not one: then nothing is said about it.

    Parameters
    ----------
    data : bytes
        From the beginning of a command.
    """
    if data[-2:] != b"\r\n":
        return None
    return _find_alike(data) or _find_by_columns(data)


def _find_alike(data: bytes) -> Run | None:
    """A run of commands whose words have the same sizes."""
    head = _HEAD.match(data)
    if head is None or int(head[2]) != len(head[3]):
        return None
    # If words of those sizes are all that stands between heads that are the same, then no head is in a word.
    size = int(head[4])
    words = data[head.end() : -2].split(b"\r\n" + head[0])
    if len(words) < RUN_MIN:
        return None
    if head[1] == b"2":
        return Run(head[3], [words]) if {*map(len, words)} == {size} else None
    between = _BETWEEN.match(data, head.end() + size)
    if between is None:
        return None
    # Of words of one size, each has to hold such a piece for its halves to be shorter; so none has two.
    halves = between[0].join(words).split(between[0])
    keys, values = halves[::2], halves[1::2]
    if {*map(len, words)} != {size + len(between[0]) + int(between[1])} or len(halves) != 2 * len(words):
        return None
    if {*map(len, keys)} != {size} or {*map(len, values)} != {int(between[1])}:
        return None
    return Run(head[3], [keys, values])


def _find_by_columns(data: bytes) -> Run | None:
    """A run of any commands of one name, word by word."""
    n_words = data[1] - 0x30 if data[:1] == b"*" and data[2:4] == b"\r\n" else 0
    if not 2 <= n_words <= _WORDS_MAX:
        return None
    tokens = data.split(b"\r\n")
    tokens.pop()
    stride = 2 * n_words + 1
    count, rest = divmod(len(tokens), stride)
    if rest or count < RUN_MIN:
        return None
    same = (tokens[0], tokens[1], tokens[2])
    if any(tokens[i::stride].count(same[i]) != count for i in range(3)) or same[1] != b"$%d" % len(same[2]):
        return None
    columns = [tokens[i::stride] for i in range(4, stride, 2)]
    for i, column in enumerate(columns):
        sizes = [*map(len, column)]
        if max(sizes) >= _SIZE_MAX or [*map(_SIZES.__getitem__, sizes)] != tokens[3 + 2 * i :: stride]:
            return None
    return Run(same[2], columns)
