from __future__ import annotations

import asyncio
import contextlib

import pytest

import skeg
from skeg.net.access import Access
from skeg.net.commands import TABLE
from skeg.net.metrics import Metrics
from skeg.net.serve.server import Server
from skeg.net.settings import ServerSettings
from tests.net.serving import Sessions

PATIENCE_S = 60


@pytest.fixture
def talk(tmp_path):
    """Runs ``work(sessions)`` against the sessions of a server, in a loop of its own; the server is closed after it."""

    def run(work, *, mode="rw", password=None, path=tmp_path / "data", **settings):
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
                    await asyncio.to_thread(server.engine.close)

        return asyncio.run(limited())

    return run
