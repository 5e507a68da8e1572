"""A small database, of one shard and of several."""

from __future__ import annotations

import pytest

from tests.database.small import DIM, IDS, X, opened


@pytest.fixture(params=[1, 3])
def shards(request):
    return request.param


@pytest.fixture
def path(tmp_path, shards):
    """A database with two indexes and a key."""
    with opened(tmp_path / "db", shards=shards) as db:
        db.kv.set(b"k", b"v")
        db.create_index("live", DIM, metric="l2", kind="f32").add(IDS, X, payloads=[{"n": i} for i in range(60)])
        db.create_index("flat", DIM, backend="flat", kind="int8").add(IDS[:5], X[:5])
    return tmp_path / "db"
