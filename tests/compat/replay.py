"""Sends scripts to a server and compares what comes with what the original said.

from tests.compat.replay import compare, sender
assert compare(sender(resp=port, binary=other_port)) == []
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from tests.bench.harness.net_wire import HEADER, MAGIC, OP_OK, OP_PING, command, connected, frame
from tests.compat.scripts import Script, scripts

RECORDED = Path(__file__).parent / "original-0.7.0.json"

# A server that has said nothing for so long waits for more.
SILENCE_S = 1.0
CLOSED, SILENT = b"<closed>", b"<silent>"

Send = Callable[[str, Sequence[bytes]], bytes]
"""Sends the requests of one script, by protocol, on a new connection; returns all that came and how it ended."""

# The last request of every script; what follows the replies tells that there are no more of them.
_LAST = {"resp": command("ECHO", "<the end>"), "binary": frame(OP_PING, 2**63 + 1)}
_LAST_REPLY = {
    "resp": b"$9\r\n<the end>\r\n",
    "binary": HEADER.pack(MAGIC, 1, OP_OK, 0, 2**63 + 1, 0, 0),
}

# What differs from run to run, and between the releases.
_MASKS = (
    (re.compile(rb"\$2\r\nid\r\n:\d+\r\n"), rb"$2\r\nid\r\n:#\r\n"),
    (re.compile(rb"\$7\r\nversion\r\n\$\d+\r\n[^\r]*\r\n"), rb"$7\r\nversion\r\n$#\r\n"),
    # STATS: its first line, and that metrics follow behind an empty one. SHARDS: any number of lines.
    (re.compile(rb"\$\d+\r\ncache_bytes=\d+ evictions=\d+ n_keys=\d+ budget=\d+\n\n(.+\n|\n)+\r\n"), rb"<stats>"),
    (re.compile(rb"\$\d+\r\n(shard=\d+ cache_bytes=\d+ evictions=\d+ n_keys=\d+ budget=\d+\n)+\r\n"), rb"<shards>"),
    # The same of the binary protocol, told by the numbers of their requests.
    (re.compile(rb"(KV\x01\xc0\0{4}\x81{8}\x20\0{7}).{32}", re.DOTALL), rb"\1<stats>"),
    (re.compile(rb"(KV\x01\xc0\0{4}\x83{8}).{8}.\0{3}(.{36})+", re.DOTALL), rb"\1<shards>"),
)


def sender(resp: int, binary: int, pause_s: float = 0.001) -> Send:
    """Sends to servers at ports of this machine; between the requests of a script it pauses."""
    ports = {"resp": resp, "binary": binary}

    def send(protocol: str, requests: Sequence[bytes]) -> bytes:
        return exchange(ports[protocol], protocol, requests, pause_s)

    return send


def exchange(port: int, protocol: str, requests: Sequence[bytes], pause_s: float) -> bytes:
    """What a server answers, without the answer to our last request; ends with `CLOSED` or `SILENT` if that is so."""
    last, found = _LAST_REPLY[protocol], bytearray()
    with connected(port, SILENCE_S) as link:
        # A server that has closed the connection takes no more, but what it had said can still be read.
        with suppress(ConnectionError):
            for request in (*requests, _LAST[protocol]):
                link.sendall(request)
                time.sleep(pause_s)  # so that they arrive one by one
        try:
            while not found.endswith(last):
                piece = link.recv(1 << 18)
                if not piece:
                    return bytes(found) + CLOSED
                found += piece
        except TimeoutError:
            return bytes(found) + SILENT
        except ConnectionError:
            return bytes(found) + CLOSED
    return bytes(found[: -len(last)])


def masked(reply: bytes) -> bytes:
    """A reply without what differs from run to run."""
    for pattern, instead in _MASKS:
        reply = pattern.sub(instead, reply)
    return reply


def record(send: Send) -> dict[str, str]:
    """What a server answers to each script, as text in which every byte is one character."""
    return {script.name: masked(send(script.protocol, script.requests)).decode("latin-1") for script in scripts()}


def recorded() -> dict[str, str]:
    """What the original answered."""
    found: dict[str, str] = json.loads(RECORDED.read_text())
    return found


def compare(send: Send, theirs: dict[str, str] | None = None) -> list[str]:
    """Run every script; returns a complaint for each whose answer is not what it has to be.

    Parameters
    ----------
    send : callable
    theirs : dict, optional
        Answers by the names of scripts; those that were recorded by default.
    """
    expected = recorded() if theirs is None else theirs
    complaints = []
    for script in scripts():
        ours = masked(send(script.protocol, script.requests)).decode("latin-1")
        if script.name not in expected:
            complaints.append(f"{script.name}: not recorded")
        else:
            complaints += judge(script, expected[script.name], ours)
    return complaints


def judge(script: Script, theirs: str, ours: str) -> list[str]:
    """No complaint when the answers are the same, or differ and are said to."""
    if script.why is None and ours != theirs:
        return [f"{script.name}\n  original: {theirs!r}\n  ours:     {ours!r}"]
    if script.why is not None and ours == theirs:
        return [f"{script.name}: no difference, though {script.why!r}: {ours!r}"]
    return []
