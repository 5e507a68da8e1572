"""Several processes that share ports: one accepts connections and deals them out to those that serve.

A connection stays with its process. Dealing them out one after another keeps the processes equally busy, which neither
a shared listening socket nor ``SO_REUSEPORT`` does with few connections. What the processes read is in memory once:
files are mapped, and what was loaded before they were forked is shared until it is written to.
"""

from __future__ import annotations

import logging
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Mapping

from skeg.net.serve.listeners import place_of

RESTART_S = 1.0
"""Seconds until another process takes the place of one that died."""

_CHANNEL = getattr(socket, "SOCK_SEQPACKET", socket.SOCK_STREAM)

Serve = Callable[[int, socket.socket], None]
"""What a process does: given its number and the channel on which connections come, returns when that is closed."""


class Processes:
    """The processes of a server, and the one that looks after them.

    Parameters
    ----------
    count : int
    sockets : mapping
        Listening sockets by protocol.
    serve : callable
        Run in each process.
    drain_timeout_s : float
        Seconds that the processes get to finish what they began.
    """

    def __init__(self, count: int, sockets: Mapping[str, socket.socket], serve: Serve, drain_timeout_s: float) -> None:
        self._sockets = sockets
        self._serve = serve
        self._drain_timeout_s = drain_timeout_s
        self._log = logging.getLogger("skeg.server")
        self._channels: list[socket.socket | None] = [None] * count
        self._pids: list[int] = [0] * count
        # When which are to be started in the place of those that died.
        self._due: dict[int, float] = {}
        self._next = 0
        self._is_stopping = False

    def run(self, started: Callable[[], None]) -> None:
        """Deal out connections until SIGTERM or SIGINT, then stop the processes and wait for them."""
        wake, woken = socket.socketpair()
        for sock in (wake, woken):
            sock.setblocking(False)
        signal.set_wakeup_fd(wake.fileno())
        for name in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(name, self._note)
        with selectors.DefaultSelector() as selector:
            for protocol, sock in self._sockets.items():
                selector.register(sock, selectors.EVENT_READ, protocol)
                self._log.info("listening on %s (%s)", place_of(sock), protocol)
            selector.register(woken, selectors.EVENT_READ)
            for number in range(len(self._pids)):
                self._fork(number)
            started()
            while not self._is_stopping:
                for key, _ in selector.select(self._patience()):
                    if key.fileobj is woken:
                        woken.recv(4096)
                        self._bury_dead()
                    else:
                        self._deal(key.data)
                self._replace_dead()
        self._stop()

    def _note(self, number: int, _: object) -> None:
        if number != signal.SIGCHLD:
            self._is_stopping = True

    def _fork(self, number: int) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, _CHANNEL)
        pid = os.fork()
        if pid == 0:
            self._become(number, ours, theirs)
        theirs.close()
        ours.setblocking(False)  # who does not take connections keeps nobody else from it
        self._channels[number], self._pids[number] = ours, pid
        self._log.info("process started", extra={"number": number, "pid": pid})

    def _become(self, number: int, ours: socket.socket, theirs: socket.socket) -> None:
        """In the new process: serve, and never return."""
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for name in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
                signal.signal(name, signal.SIG_DFL)
            ours.close()
            for channel in self._channels:
                if channel is not None:
                    channel.close()
            for sock in self._sockets.values():
                sock.close()
            self._serve(number, theirs)
            code = 0
        except BaseException:  # noqa: BLE001 - whatever it is, it ends here and not in what the parent was doing
            self._log.exception("process failed", extra={"number": number})
        finally:
            logging.shutdown()
            os._exit(code)

    def _deal(self, name: str) -> None:
        """Accept a connection and send it to the next process."""
        try:
            connection, _ = self._sockets[name].accept()
        except OSError as error:  # gone again, or too many open files: the others go on
            self._log.warning("can't accept: %s", error.strerror)
            time.sleep(0.01)
            return
        with connection:
            for _ in self._channels:
                self._next = (self._next + 1) % len(self._channels)
                channel = self._channels[self._next]
                if channel is not None and _send(channel, name, connection):
                    return
        self._log.warning("connection refused: no process takes it")

    def _bury_dead(self) -> None:
        """Note which processes have died, and when others are to take their places."""
        for number, pid in enumerate(self._pids):
            if self._is_stopping or not pid or os.waitpid(pid, os.WNOHANG)[0] == 0:
                continue
            self._log.error("process died", extra={"number": number, "pid": pid})
            channel = self._channels[number]
            if channel is not None:
                channel.close()
            self._channels[number], self._pids[number] = None, 0
            self._due[number] = time.monotonic() + RESTART_S

    def _patience(self) -> float | None:
        """Seconds until a process is to be started, None if none is."""
        return max(min(self._due.values()) - time.monotonic(), 0.0) if self._due else None

    def _replace_dead(self) -> None:
        now = time.monotonic()
        for number in [number for number, due in self._due.items() if due <= now]:
            del self._due[number]
            self._fork(number)

    def _stop(self) -> None:
        for sock in self._sockets.values():
            sock.close()
        for channel in self._channels:
            if channel is not None:
                channel.close()
        alive = [pid for pid in self._pids if pid]
        for pid in alive:
            _signal(pid, signal.SIGTERM)
        end = time.monotonic() + self._drain_timeout_s + 5
        for pid in alive:
            while os.waitpid(pid, os.WNOHANG)[0] == 0:
                if time.monotonic() > end:
                    _signal(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                    break
                time.sleep(0.01)


def _send(channel: socket.socket, name: str, connection: socket.socket) -> bool:
    try:
        socket.send_fds(channel, [name.encode()], [connection.fileno()])
    except OSError:  # the process has died, or does not come to taking connections
        return False
    return True


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
