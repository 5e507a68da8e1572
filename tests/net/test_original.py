"""Replies are those of the wire's first implementation, recorded, but for the differences that have a reason."""

from __future__ import annotations

from tests.compat.replay import compare, sender
from tests.net.serving import ServerProcess


def test_replies_are_those_that_were_recorded(tmp_path):
    with ServerProcess(tmp_path / "data") as server:
        assert [] == compare(sender(resp=server.ports["resp"], binary=server.ports["binary"]))
