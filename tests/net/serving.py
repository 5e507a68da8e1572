"""A server for tests: in a process of its own, or only its sessions, without sockets."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import socket
import subprocess
import sys
import time

LISTENING = re.compile(r"listening on (\S+):(\d+) \((\w+)\)")


class ServerProcess:
    """`skeg serve` on a directory, on free ports of 127.0.0.1; ends with the ``with`` block."""

    def __init__(self, data, *options, binary=True, metrics=False):
        self.command = [sys.executable, "-m", "skeg", "serve", str(data), "--port", "0"]
        self.command += ["--binary-port", "0"] if binary else ["--no-binary"]
        self.command += ["--metrics-port", "0"] if metrics else []
        self.command += list(options)
        self.ports = {}
        self.lines = []

    def start(self):
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        for line in self.process.stderr:
            self.lines.append(line)
            if match := LISTENING.search(line):
                self.ports[match[3]] = int(match[2])
            if line.rstrip().endswith(": ready"):
                return self
        self.process.wait()
        msg = f"the server ended with {self.process.returncode}: {''.join(self.lines)}"
        raise AssertionError(msg)

    def stop(self, number=signal.SIGTERM):
        """End it; return its exit code."""
        self.process.send_signal(number)
        with contextlib.suppress(ValueError):
            self.lines += self.process.stderr.readlines()
        self.process.stderr.close()
        return self.process.wait(30)

    def connect(self, protocol="resp"):
        return socket.create_connection(("127.0.0.1", self.ports[protocol]), 20)

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.stop()
        elif not self.process.stderr.closed:
            self.process.stderr.close()


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

    def write(self, data):
        self.written += data

    def set_write_buffer_limits(self, high):
        self.high = high

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
