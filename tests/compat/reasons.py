"""Why this server answers otherwise than the wire's first implementation, where it does; and vectors to be sent."""

from __future__ import annotations

import struct

Made = tuple[str, tuple[bytes, ...], str | None]
"""Name of a script, its requests, and why the answer differs, if it does."""

KNOWN = "a command that the first implementation does not know"
INLINE = "inline commands are understood"
ESCAPED = "control bytes in an error's text are replaced, so that a client can't forge replies"
LISTED = "the kind that was declared is listed"
FINITE = "vectors that are not finite are refused"
NAMES = "one rule for index names in every protocol"
STRICT = "an argument out of range is refused instead of being believed"
VERSION_2 = "version 2 of the binary protocol is spoken"
OFFERED = "an operation that the first implementation refuses"
ENDS = "a bulk without its end is an error at once, instead of waiting for more"
COMPLEMENT = "NOT keeps everything that its operand does not, also what has no fields"
EMPTY_RANGE = "a reversed range keeps nothing"
KEPT_ZEROS = "a number with zeros in front is a word, and no number"
PLACED = "an error in a filter says where it is"
CODED = "what the client did wrong has a code of its own"
ONE_WAY = "NO_REPLY is meant for every write"

WORDED = "the words of releases before 0.7, which clients' tests look for"
SPELLED = "a counter is spelled in one way, as with Redis"
NO_DIRECTION = "a vector of zeros has no direction and is refused under cosine"


def floats(*numbers: float) -> bytes:
    return struct.pack(f"<{len(numbers)}f", *numbers)


# Their cosines with the first one are 1, .5, 0, -.5 and -1: exact in float32, and no two alike.
FIRST = floats(1, 0, 0, 0)
VECTORS = (FIRST, floats(1, 1, 1, 1), floats(0, 1, 0, 0), floats(-1, 1, 1, 1), floats(-1, 0, 0, 0))
VECTOR_2D = floats(1, 0)
