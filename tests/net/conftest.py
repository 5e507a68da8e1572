from __future__ import annotations

import asyncio
import contextlib

import numpy as np
import pytest

import skeg
from skeg.net.access import Access
from skeg.net.commands import TABLE
from skeg.net.engine import engine
from skeg.net.metrics import Metrics
from skeg.net.serve.server import Server
from skeg.net.settings import ServerSettings
from tests.net.serving import Sessions

PATIENCE_S = 60


@pytest.fixture
def talk(tmp_path, monkeypatch):
    """Runs ``work(sessions)`` against the sessions of a server, in a loop of its own; the server is closed after it.

    With ``patience_s`` 0 it leaves every commit to a thread.
    """

    def run(work, *, mode="rw", password=None, path=tmp_path / "data", patience_s=60.0, **settings):
        monkeypatch.setattr(engine, "COMMIT_S", patience_s)

        async def limited():
            chosen = ServerSettings(mode="serve" if mode == "r" else "rw", **settings)
            database = skeg.open(path, mode=mode, shards=settings.get("shards"))
            server = Server(database, chosen, Access(password), Metrics(TABLE.operations))
            server.open(asyncio.get_running_loop())
            try:
                async with asyncio.timeout(PATIENCE_S):
                    return await work(Sessions(server))
            finally:
                with contextlib.closing(server.hub):
                    await server.engine.close()

        return asyncio.run(limited())

    return run


@pytest.fixture(scope="session")
def filled(tmp_path_factory):
    """A database of 3 shards that tests copy, or only read, and its vectors.

    Keys ``key:0`` to ``key:299``, and ids 0 to 299 of the indexes *flat* and *disk*, whose payloads say ``n=0`` and on.
    """
    path = tmp_path_factory.mktemp("filled") / "data"
    vectors = np.random.default_rng(5).standard_normal((300, 16)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with skeg.open(path, shards=3) as database:
        database.kv.set_many({b"key:%d" % n: b"value %d" % n for n in range(300)})
        for backend in ("flat", "disk"):
            index = database.create_index(backend, 16, kind="f32", backend=backend)
            index.add(np.arange(300, dtype=np.uint64), vectors, payloads=[b"n=%d" % n for n in range(300)])
            index.consolidate(threads=1)
    return path, vectors
