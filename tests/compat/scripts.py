"""Conversations with the wire's first implementation, and why ours may end differently.

A script is one connection: its requests are sent one write each, without waiting, so every script of several requests
is pipelined as well. Scripts run in their order on one server; a script leaves nothing behind that a later one would
see. Those of RESP run twice, as they are and behind HELLO 3.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.bench.harness.net_wire import command
from tests.compat import binary_scripts, resp_scripts


@dataclass(frozen=True)
class Script:
    """One connection: what is sent, and why the answer differs from the original's, if it does."""

    name: str
    protocol: str
    requests: tuple[bytes, ...]
    why: str | None = None


def scripts() -> list[Script]:
    """All of them, in the order in which they run."""
    found = []
    for name, requests, why in resp_scripts.made():
        found.append(Script(f"resp2: {name}", "resp", requests, why))
        found.append(Script(f"resp3: {name}", "resp", (command("HELLO", 3), *requests), why))
    found += [Script(f"binary: {name}", "binary", requests, why) for name, requests, why in binary_scripts.made()]
    return found
