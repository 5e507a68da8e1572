"""Headers of logs: 64 bytes that begin with a magic and a version and end with their checksum."""

from __future__ import annotations

import struct

from skeg.binary import checksum
from skeg.errors import CorruptError, FormatError, VersionTooNewError
from skeg.files import AnyPath

HEADER_BYTES = 64

_START = struct.Struct("<8sI")
_SUM = struct.Struct("<Q")


def sign_header(data: bytes) -> bytes:
    """The header whose first 56 bytes are ``data``."""
    return data + _SUM.pack(checksum(data))


def check_header(data: bytes, path: AnyPath, called: str, *, magic: bytes, version: int) -> None:
    """Check the header at the start of the file ``path``.

    Raises
    ------
    FormatError
        Another magic; the message says "not a `called`".
    VersionTooNewError
        Written by a newer skeg.
    CorruptError
        Too short, or the checksum does not hold.
    """
    if len(data) < HEADER_BYTES:
        problem = f"{called} header cut short"
        raise CorruptError(path, problem, offset=0, expected=f"{HEADER_BYTES} bytes", found=f"{len(data)} bytes")
    found, written_by = _START.unpack_from(data)
    if found != magic:
        raise FormatError(path, f"not a {called}", offset=0, expected=repr(magic), found=repr(found))
    if _SUM.unpack_from(data, HEADER_BYTES - 8)[0] != checksum(data[: HEADER_BYTES - 8]):
        raise CorruptError(path, f"{called} header does not match its checksum", offset=HEADER_BYTES - 8)
    if written_by > version:
        problem = f"{called} of a newer version"
        raise VersionTooNewError(path, problem, offset=8, expected=f"at most {version}", found=str(written_by))
