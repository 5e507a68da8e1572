"""What is done before the first client comes: kernels are compiled, and what searches read first is in memory."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from skeg.database import Database, open_database
from skeg.errors import SkegError
from skeg.jit import JIT_DISABLED, cache_folder
from skeg.kv import AsyncStore
from skeg.net.engine import syncs
from skeg.net.engine.quick import Room
from skeg.net.engine.searches import Plan
from skeg.net.resp.hits import encode_search
from skeg.vector_index import VectorIndex

MARK = "served"
"""File beside the compiled kernels that says that those of a server are among them."""

_DIM, _ROWS = 32, 40

_log = logging.getLogger("skeg.server")


def warm(database: Database) -> None:
    """Search every index once: kernels are loaded, and the pages of the upper levels are in memory."""
    if compile_kernels() and database.mode == "rw":
        _load_kernels(database)
    for info in database.indexes():
        if info.state != "ready":
            _log.error("index is damaged: %s", info.problem, extra={"index": info.name})
            continue
        index = database.index(info.name)
        if len(index):
            _search(index)
        _log.info("index is ready", extra={"index": info.name, "vectors": len(index), "dim": index.dim})


def compile_kernels() -> bool:
    """Have all that clients may ask for done once on this machine; whether that was done, now or before.

    It takes a minute, which the first client would have to wait. Where kernels can't be kept, it is left out: whoever
    starts the server would wait each time.
    """
    if JIT_DISABLED:
        return False
    mark = cache_folder() / MARK
    if mark.exists():
        return True
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=mark.parent):  # kernels can be kept
            pass
        _log.info("compiling kernels, once on this machine")
        _rehearse()
        mark.touch()
    except (OSError, SkegError) as error:
        _log.warning("kernels will be compiled when they are needed: %s", error)
        return False
    return True


def _load_kernels(database: Database) -> None:
    """Load what changes ask for, which is there, compiled: 0.2 s, which those who search meanwhile would wait."""
    try:
        _rehearse()
    except (OSError, SkegError) as error:
        _log.warning("kernels will be loaded when they are needed: %s", error)
        return
    _use_kernels(database)


def _use_kernels(database: Database) -> None:
    with AsyncStore(database.kv) as store:
        store.use_kernels()
    if syncs.IS_NATIVE:
        syncs.load()


def _rehearse() -> None:
    """Do all that clients may ask for, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="skeg-serve-") as folder:
        _use_everything(Path(folder) / "data")


def _use_everything(path: Path) -> None:
    """Make a database at a path and do with it all that clients may ask for."""
    vectors = np.random.default_rng(0).normal(size=(_ROWS, _DIM)).astype(np.float32)
    ids = np.arange(_ROWS, dtype=np.uint64)
    payloads: list[Any] = ["n=1"] * _ROWS
    with open_database(path, shards=1) as database:
        _use_kernels(database)
        database.kv.set_many({b"%d" % number: b"" for number in range(_ROWS)})
        for backend in ("disk", "flat"):
            index = database.create_index(backend, _DIM, backend=backend)
            index.add(ids, vectors, payloads=payloads)
            _search(index)
            index.delete(ids[:1])
            index.consolidate(threads=1)
            _search(index)
            index.add(ids[:1], vectors[:1])
            _search(index)
            index.get(ids)


def _search(index: VectorIndex) -> None:
    query = np.zeros(index.dim, np.float32)
    query[0] = 1
    for queries in (query, np.stack([query, query])):
        queries.flags.writeable = False  # as those are that clients send: kernels are made for each kind
        encode_search(index.search(queries, 10, threads=1), None, 2)
        index.search(queries, 1, threads=1, filter="n = 1")
    plan = Plan(index, 10, None)
    if plan.is_quick:
        Room(index.dim, 10, 2).answer(plan, query.tobytes())
