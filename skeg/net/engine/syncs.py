"""A thread that waits for disks and never has the interpreter's lock, so that who goes on meanwhile is not held up.

A thread of Python waits for that lock after each sync, and then holds it. With one connection that searches beside one
that writes 1,000 vectors a second, the slowest 1 % of searches took 0.28 ms, 0.40 when such a thread wrote the vectors,
and 0.17 while nobody wrote (117,659 x 384, two processors, 29 November 2026).
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import sys
import threading
from collections import deque
from collections.abc import Callable

import numpy as np

from skeg.fileops import sync_data
from skeg.jit import JIT_DISABLED, resolve
from skeg.net.kernels.syncs import WORD_BYTES, serve_syncs

Synced = Callable[[OSError | None], None]
"""Told how a sync ended."""

_WORD = struct.Struct("=i")

IS_NATIVE = sys.platform == "linux" and not JIT_DISABLED


def serve_slowly(channel: socket.socket) -> int:
    """`serve_syncs` in Python: without the JIT, and where a sync is not one call of the system."""
    count = 0
    while data := channel.recv(WORD_BYTES):
        number = 0
        try:
            sync_data(*_WORD.unpack(data))
        except OSError as error:
            number = error.errno or 0
        channel.send(_WORD.pack(number))
        count += 1
    return count


def serve_natively(channel: socket.socket) -> int:
    """`serve_syncs` for a socket."""
    count: int = load()(np.int32(channel.fileno()), np.zeros(1, np.int32))
    return count


def load() -> Callable[..., int]:
    """The kernel, compiled or read from the cache if it has to be."""
    return resolve(serve_syncs, (np.int32(0), np.zeros(1, np.int32)))


class Syncs:
    """The thread; used on the thread of the loop alone. It is started when it is first needed.

    Parameters
    ----------
    loop : asyncio.AbstractEventLoop
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Synced] = deque()
        self._thread: threading.Thread | None = None
        self._channel: socket.socket

    def sync(self, descriptor: int, done: Synced) -> None:
        """Have an open file synced, after those that were asked for before, and ``done`` called by the loop."""
        if self._thread is None:
            self._thread = self._start()
        self._waiting.append(done)
        self._channel.send(_WORD.pack(descriptor))

    def _start(self) -> threading.Thread:
        self._channel, other_end = socket.socketpair()

        def run() -> None:
            with other_end:
                (serve_natively if IS_NATIVE else serve_slowly)(other_end)

        thread = threading.Thread(target=run, name="skeg-syncs", daemon=True)
        thread.start()
        self._loop.add_reader(self._channel, self._told)
        return thread

    def _told(self) -> None:
        data = self._channel.recv(WORD_BYTES)
        if not data:
            self._fail()
            return
        (number,) = _WORD.unpack(data)
        self._waiting.popleft()(OSError(number, os.strerror(number)) if number else None)

    def _fail(self) -> None:
        """The thread has ended by a mistake of ours: nobody knows what it synced. The next sync starts another one."""
        self.close()
        waiting, self._waiting = self._waiting, deque()
        for done in waiting:
            done(OSError(errno.EIO, "the thread that syncs has ended"))

    def close(self) -> None:
        """End the thread, once it has done what it was asked for."""
        if self._thread is None:
            return
        self._loop.remove_reader(self._channel)
        self._channel.shutdown(socket.SHUT_WR)
        self._thread.join()
        self._channel.close()
        self._thread = None
