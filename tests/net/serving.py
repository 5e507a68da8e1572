"""A server for tests: in a process of its own, or only its sessions, without sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection
from pathlib import Path

from skeg.net.clients.binary import client
from skeg.net.clients.resp import connect

LISTENING = re.compile(r"listening on (\S+):(\d+) \((\w+)\)")
READY = r'(: |"message": ")ready("}|$)'

PATIENCE_S = 60
"""A server that has said nothing for so long hangs."""

AS_MODULE = ("-m", "skeg")
WITHOUT_UVLOOP = ("-c", "import sys; sys.modules['uvloop'] = None; from skeg.cli import main; main()")


class ServerProcess:
    """`skeg serve` on a directory, on free ports of 127.0.0.1; ends with the ``with`` block.

    Settings that have no option go into a file beside the directory.
    """

    def __init__(self, data, *options, binary=True, metrics=False, port=0, launcher=AS_MODULE, **settings):
        self.command = [sys.executable, *launcher, "serve", str(data), "--port", str(port)]
        self.command += ["--binary-port", "0"] if binary else ["--no-binary"]
        self.command += ["--metrics-port", "0"] if metrics else []
        self.command += list(options)
        if settings:
            config = Path(f"{data}.toml")
            # What JSON makes of numbers, flags and words is TOML.
            config.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items()))
            self.command += ["--config", str(config)]
        self.ports = {}
        self.lines = []
        self._said = threading.Condition()
        self._is_over = False

    def start(self):
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        # All the time: nobody can write to a pipe that is full.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.wait_for(READY)
        except AssertionError:
            self.process.kill()
            self.wait()
            raise
        for match in filter(None, map(LISTENING.search, self.lines)):
            self.ports[match[3]] = int(match[2])
        return self

    def _read(self):
        for line in self.process.stderr:
            with self._said:
                self.lines.append(line)
                self._said.notify_all()
        with self._said:
            self._is_over = True
            self._said.notify_all()

    def wait_for(self, pattern):
        """Return the first line of the log that is like a pattern, once it is there."""
        with self._said:
            is_known = self._said.wait_for(lambda: self._is_over or self.find(pattern), PATIENCE_S)
            found = self.find(pattern)
        if found is None:
            msg = f"{'the server ended' if is_known else 'still'} without {pattern!r}: {''.join(self.lines)}"
            raise AssertionError(msg)
        return found

    def find(self, pattern):
        return next((line for line in self.lines if re.search(pattern, line)), None)

    def wait(self):
        """Exit code, once it has ended with all of its processes: each of them has the log open."""
        self._reader.join(PATIENCE_S)
        assert not self._reader.is_alive(), "a process of the server is left"
        self.process.stderr.close()
        return self.process.wait(PATIENCE_S)

    def stop(self, number=signal.SIGTERM):
        """End it; return its exit code."""
        self.process.send_signal(number)
        return self.wait()

    def client(self, **options):
        return connect(port=self.ports["resp"], timeout=PATIENCE_S, **options)

    def binary_client(self, **options):
        return client(port=self.ports["binary"], timeout=PATIENCE_S, **options)

    def get(self, path):
        """Status and text that HTTP answers."""
        with contextlib.closing(HTTPConnection("127.0.0.1", self.ports["metrics"], timeout=PATIENCE_S)) as link:
            link.request("GET", path)
            response = link.getresponse()
            return response.status, response.read().decode()

    def connect(self, protocol="resp"):
        return socket.create_connection(("127.0.0.1", self.ports[protocol]), 20)

    def __enter__(self):
        return self.start()

    def __exit__(self, kind, *_):
        if self.process.stderr.closed:
            return
        if kind is not None:  # it may hang: that is not what is to be told then
            self.process.kill()
        elif self.process.poll() is None:
            self.process.terminate()
        self.wait()


def refusal(data, *options):
    """Exit code and message of a server that does not start."""
    found = subprocess.run(
        [sys.executable, *AS_MODULE, "serve", str(data), "--port", "0", "--no-binary", *options],
        capture_output=True, stdin=subprocess.DEVNULL, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    return found.returncode, found.stderr


def eventually(function):
    """Call a function until it returns something true, which is returned."""
    end = time.monotonic() + PATIENCE_S
    while not (found := function()):
        assert time.monotonic() < end, f"{function} still returns {found!r}"
        time.sleep(0.02)
    return found


def read_all(sock):
    """What arrives until the server closes the connection."""
    received = bytearray()
    sock.settimeout(PATIENCE_S)
    with contextlib.suppress(ConnectionResetError):
        while piece := sock.recv(1 << 18):
            received += piece
    return bytes(received)


def ask(sock, *requests, until=None):
    """Send bytes and return what comes back, up to a number of bytes or until nothing more comes for a while."""
    sock.sendall(b"".join(requests))
    received = b""
    sock.settimeout(20 if until else 0.3)
    with contextlib.suppress(TimeoutError):
        while until is None or len(received) < until:
            piece = sock.recv(1 << 16)
            if not piece:
                break
            received += piece
    return received


def command(*words):
    """A command of RESP as bytes."""
    parts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


class Wire(asyncio.Transport):
    """What a connection writes to when there is no socket."""

    def __init__(self):
        super().__init__()
        self.written = bytearray()
        self.is_closed = False
        self.is_reading = True
        self.untaken = 0

    def write(self, data):
        self.written += data

    def set_write_buffer_limits(self, high):
        self.high = high

    def get_write_buffer_size(self):
        return self.untaken

    def pause_reading(self):
        self.is_reading = False

    def resume_reading(self):
        self.is_reading = True

    def close(self):
        self.is_closed = True

    def abort(self):
        self.is_closed = True


class Sessions:
    """The sessions of a server, driven by hand inside of a running loop."""

    def __init__(self, server):
        self.server = server

    def open(self, protocol="resp"):
        connection = self.server.protocol(protocol)()
        wire = Wire()
        connection.connection_made(wire)
        return connection, wire

    async def settle(self, connection, timeout_s=20):
        """Return when all that arrived is answered."""
        end = time.monotonic() + timeout_s
        session = connection.session
        await asyncio.sleep(0)
        while session.inbox or session.slots or connection.is_queued or session.out:
            if session.is_paused:
                return
            assert time.monotonic() < end, (session.inbox, session.slots)
            await asyncio.sleep(0.0005)
        await asyncio.sleep(0)

    async def ask(self, connection, wire, data):
        """What a connection answers."""
        before = len(wire.written)
        connection.data_received(data)
        await self.settle(connection)
        return bytes(wire.written[before:])
