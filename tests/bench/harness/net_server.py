"""Servers as processes of their own, ended when the `with` block does. Standard library only."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Self

from .net_wire import Resp
from .process import EngineError

START_S = 120.0
STOP_S = 60.0

_LISTENING = re.compile(r"listening on \S+:(\d+) \((\w+)\)")
_READY = re.compile(r"\bready$", re.MULTILINE)


class ServerGoneError(EngineError):
    """A server did not start, or ended by itself; the message has the end of its log."""


def default_command() -> str:
    """skeg of the environment that runs this."""
    return shlex.join([sys.executable, "-m", "skeg"])


class Server:
    """A process whose output goes to a file.

    Parameters
    ----------
    words : sequence of str
        Its command.
    log : path
        The file, which is replaced.
    ports_in : callable
        Ports by protocol, told from the text of the log; None while clients can't connect.
    cores : sequence of int, optional
        Processors that it may use; all that we may use by default.
    """

    def __init__(
        self,
        words: Sequence[str],
        log: Path,
        ports_in: Callable[[str], dict[str, int] | None],
        cores: Sequence[int] | None = None,
    ) -> None:
        self.log = log
        self._out: IO[bytes] = log.open("wb")
        before = os.sched_getaffinity(0)
        try:
            if cores is not None:
                os.sched_setaffinity(0, cores)  # a process inherits them
            self.started = time.perf_counter()
            self.process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=self._out, stderr=self._out, start_new_session=True
            )
        finally:
            os.sched_setaffinity(0, before)
        try:
            self.ports = self._wait(ports_in)
        except BaseException:
            self.kill()
            raise

    def _wait(self, ports_in: Callable[[str], dict[str, int] | None]) -> dict[str, int]:
        end = self.started + START_S
        while time.perf_counter() < end:
            has_ended = self.process.poll() is not None
            ports = ports_in(self.log.read_text(errors="replace"))
            if has_ended:
                raise ServerGoneError(f"the server ended with {self.process.returncode}:\n{self.tail()}")
            if ports is not None:
                return ports
            time.sleep(0.002)
        raise ServerGoneError(f"the server was not ready after {START_S:.0f} s:\n{self.tail()}")

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def port(self) -> int:
        """That of RESP."""
        return self.ports["resp"]

    def tail(self) -> str:
        """The last lines that it printed."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-12:])

    def check(self) -> None:
        """Raise `ServerGoneError` when it has ended."""
        if self.process.poll() is not None:
            raise ServerGoneError(f"the server ended with {self.process.returncode}:\n{self.tail()}")

    def stop(self) -> int:
        """Ask it to end; returns its exit code."""
        self.process.terminate()
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired as error:
            raise ServerGoneError(f"the server did not end {STOP_S:.0f} s after SIGTERM:\n{self.tail()}") from error
        finally:
            self.kill()

    def kill(self) -> None:
        """End it and all of its processes at once, as a crash does."""
        if not self._out.closed:
            # It leads a group of its own, in which its processes are.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self._out.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and not self._out.closed:
            self.stop()
        self.kill()


def ports_of_skeg(log: str) -> dict[str, int] | None:
    """Ports by protocol, once the log says that the server is ready."""
    if not _READY.search(log):
        return None
    return {name: int(port) for port, name in _LISTENING.findall(log)}


def skeg(command: str, data: Path, log: Path, *options: str, cores: Sequence[int] | None = None) -> Server:
    """`skeg serve` on free ports."""
    words = [*shlex.split(command), "serve", str(data), "--port", "0", "--binary-port", "0", *options]
    return Server(words, log, ports_of_skeg, cores)


def build(command: str, source: Path, data: Path, name: str) -> None:
    """`skeg build` of an index in one shard of a new database."""
    words = [*shlex.split(command), "build", str(source), str(data), "--name", name, "--shards", "1"]
    outcome = subprocess.run(words, capture_output=True, text=True, check=False)
    if outcome.returncode != 0:
        raise ServerGoneError(f"{shlex.join(words)} ended with {outcome.returncode}:\n{outcome.stderr}")


def redis(folder: Path, *options: str, cores: Sequence[int] | None = None) -> Server:
    """A redis-server that keeps its files in a folder, which is made."""
    folder.mkdir()
    port = free_port()
    words = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", "", *options]
    return Server(words, folder / "log", lambda _: answering({"resp": port}), cores)


def free_port() -> int:
    """A port that nobody listens at just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answering(ports: dict[str, int]) -> dict[str, int] | None:
    """The ports, once the one of RESP answers, or the other one accepts connections."""
    try:
        if "resp" in ports:
            with Resp(ports["resp"], 5.0) as link:
                link.must("PING")
        else:
            socket.create_connection(("127.0.0.1", ports["binary"]), 5.0).close()
    except OSError:
        return None
    return ports
