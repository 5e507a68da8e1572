"""Waiting for disks, one file after the other, without the interpreter: a thread that runs this never has its lock.

Calls of the system's C library by their names, as Linux has them. There is nothing here that Python could run: see
`skeg.net.engine.syncs` for what does the same where this can't be used.
"""

from __future__ import annotations

from typing import Any

from numba import types

from skeg.jit import kernel

WORD_BYTES = 4
"""Bytes of a message."""

_EINTR = 4
_INT, _SIZE = types.int32, types.uint64

_read = types.ExternalFunction("read", types.int64(_INT, types.voidptr, _SIZE))
_write = types.ExternalFunction("write", types.int64(_INT, types.voidptr, _SIZE))
_fdatasync = types.ExternalFunction("fdatasync", _INT(_INT))
_errno_location = types.ExternalFunction("__errno_location", types.voidptr())
_memcpy = types.ExternalFunction("memcpy", types.voidptr(types.voidptr, types.voidptr, _SIZE))


@kernel()
def _errno(room: Any) -> Any:
    """Number of the last error of this thread."""
    _memcpy(room.ctypes, _errno_location(), WORD_BYTES)
    return room[0]


@kernel()
def serve_syncs(channel: Any, room: Any) -> Any:
    """Sync files as long as there is anybody who asks.

    Parameters
    ----------
    channel : int32
        Descriptor of a socket. Through it come descriptors of files, an int32 each; back go, as int32 and in this
        order, 0 for a file that was synced, or the number of the error. It ends when the other end is closed.
    room : ndarray (1,) int32
        Work space.

    Returns
    -------
    int
        How many were asked for.
    """
    count = 0
    while True:
        taken = _read(channel, room.ctypes, WORD_BYTES)
        if taken < 0 and _errno(room) == _EINTR:
            continue
        if taken != WORD_BYTES:
            return count
        room[0] = 0 if _fdatasync(room[0]) == 0 else _errno(room)
        _write(channel, room.ctypes, WORD_BYTES)
        count += 1
