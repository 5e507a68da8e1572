"""A server that is killed under load loses nothing that it has acknowledged."""

from __future__ import annotations

import contextlib

from tests.bench.harness.net_server import default_command
from tests.soak.net_killer import Killer


def test_kill_under_pipelined_load(tmp_path):
    """Keys, counters, batches and vectors, over both protocols, with durability "sync" and "os"."""
    with contextlib.closing(Killer(default_command(), tmp_path, seed=4)) as killer:
        for _ in range(4):
            killer.round()
        assert [] == killer.complaints
        assert [] == [type(lane).__name__ for lane in killer.lanes if not lane.acknowledged]
    assert [] == killer.complaints
