"""Random pipelines on several connections at once are answered as a model says: see `tests.net.fuzz_model`."""

from __future__ import annotations

import pytest

from tests.net.fuzz_model import compare
from tests.net.fuzzing import no_mistakes


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize(("durability", "patience_s"), [("sync", 0.0), ("sync", 60.0), ("os", 60.0)])
@pytest.mark.parametrize("workers", [None, 2])
def test_replies_are_those_of_a_dict(talk, shards, durability, patience_s, workers):
    async def work(sessions):
        for seed in range(2):
            await compare(sessions, seed, connections=5, turns=4)

    with no_mistakes():
        talk(work, shards=shards, durability=durability, patience_s=patience_s, workers=workers)
