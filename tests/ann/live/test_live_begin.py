"""Changes that are begun, and finished when the file is synced."""

from __future__ import annotations

import errno
import os
import threading

import numpy as np
import pytest

from skeg import ClosedError, ReadOnlyError, StorageError, VectorError
from skeg.ann import Index
from skeg.ann.beginning import begin_add, begin_delete
from skeg.ann.live.engine import LiveEngine
from skeg.ann.live.state import CHUNK_ROWS
from skeg.durability import Durability
from tests.ann.live.small import contents, no_background
from tests.ann.live.test_live_index import DIM, FaultyOps, fill, vector

LEVELS = pytest.mark.parametrize("level", Durability)


@pytest.fixture
def ops():
    return FaultyOps()


@pytest.fixture
def index(tmp_path, monkeypatch, ops):
    """An index with one vector and a log, on a disk that can be made to fail."""
    no_background(monkeypatch)
    Index.create(tmp_path / "index", DIM).close()
    with Index(tmp_path / "index", LiveEngine(tmp_path / "index", writable=True, ops=ops)) as opened:
        fill(opened, [1])
        yield opened
        ops.errors.clear()


def added(index, *ids, level=Durability.SYNC, payloads=None):
    return begin_add(index, list(ids), [vector(i) for i in ids], payloads, "replace", level)


def synced(begun):
    if begun.descriptor is not None:
        os.fdatasync(begun.descriptor)
    return begun.finish()


def opened_again(index):
    index.close()
    with Index.open(index.path) as again:
        return contents(again)


@LEVELS
def test_what_is_begun_is_seen_when_it_is_finished(index, level):
    begun = added(index, 2, 3, level=level, payloads=["n=2", "n=3"])
    assert (level is Durability.SYNC) == (begun.descriptor is not None)
    assert {1} == contents(index).keys()
    assert [1] == index.search(vector(2), 5).ids.tolist()
    assert 2 == synced(begun)
    assert {i: vector(i) for i in (1, 2, 3)} == contents(index)
    assert ["n=2", "n=3"] == index.payloads([2, 3])
    begun = begin_delete(index, [3, 1, 3, 7], level)
    assert 3 == len(contents(index))
    assert 2 == synced(begun)
    assert {2: vector(2)} == contents(index) == opened_again(index)


@LEVELS
def test_an_update_leaves_payloads_as_they_are(index, level):
    synced(added(index, 2, 3, payloads=["n=2", None]))
    begun = begin_add(index, [3, 2], [vector(8), vector(9)], [b"new", None], "update", level)
    assert vector(2) == contents(index)[2]
    assert 2 == synced(begun)
    assert {1: vector(1), 2: vector(9), 3: vector(8)} == contents(index)
    assert ["n=2", b"new"] == index.payloads([2, 3])
    assert begin_add(index, [2, 1], [vector(4), vector(5)], None, "skip", level).finish() == 0
    assert vector(9) == opened_again(index)[2]


def test_nothing_needs_a_sync_if_nothing_is_written(index):
    begun = begin_delete(index, [7], Durability.SYNC)
    assert begun.descriptor is None
    assert 0 == begun.finish()


def test_a_sync_is_for_what_was_acknowledged_before_it_too(index):
    synced(added(index, 2, level=Durability.OS))
    begun = begin_delete(index, [7], Durability.SYNC)
    assert 0 == synced(begun)
    assert begun.descriptor is not None


def test_others_wait_until_it_is_finished(index):
    begun = added(index, 2)
    assert added(index, 3) is None
    assert begin_delete(index, [1], Durability.SYNC) is None
    thread = threading.Thread(target=lambda: index.delete([1, 2]))
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    assert {1} == contents(index).keys()
    synced(begun)
    thread.join(60)
    assert not contents(index)
    synced(added(index, 3))
    assert {3} == contents(index).keys() == opened_again(index).keys()


@pytest.mark.parametrize("bad", [[np.nan] * DIM, [0.0] * DIM])
def test_what_fails_is_not_begun_and_leaves_nothing(index, bad):
    before = index.stats()["bytes_log"]
    assert begin_add(index, [2, 3], [vector(2), bad], None, "replace", Durability.SYNC) is None
    assert before == index.stats()["bytes_log"]
    with pytest.raises(VectorError):
        index.add([2, 3], [vector(2), bad])
    for arguments in (([2, 2], [vector(2)] * 2), ([2], [[1.0] * (DIM + 1)])):
        with pytest.raises(VectorError):
            begin_add(index, *arguments, None, "replace", Durability.SYNC)
    assert 1 == synced(added(index, 2))
    assert {1, 2} == contents(index).keys() == opened_again(index).keys()


def test_it_begins_neither_a_log_nor_a_part(index, monkeypatch, tmp_path):
    with Index.create(tmp_path / "empty", DIM) as empty:
        assert added(empty, 1) is None
        fill(empty, [1])
        assert 1 == synced(added(empty, 2))
    monkeypatch.setattr(type(index._engine._state), "room", CHUNK_ROWS - 1)
    assert added(index, 2) is None


def test_a_full_disk_is_told_by_who_does_it_then(index, ops):
    ops.errors["write"] = errno.ENOSPC
    assert added(index, 2) is None
    with pytest.raises(StorageError, match="can't write the log"):
        fill(index, [2])
    ops.errors.clear()
    synced(added(index, 3))
    assert {1, 3} == contents(index).keys() == opened_again(index).keys()


def test_after_a_sync_that_failed_nothing_is_written_any_more(index):
    begun = added(index, 2)
    with pytest.raises(StorageError, match="can't sync the log"):
        begun.finish(OSError(errno.EIO, os.strerror(errno.EIO)))
    assert {1} == contents(index).keys()
    assert added(index, 3) is None
    with pytest.raises(StorageError, match="open the index again"):
        fill(index, [3])
    assert 1 in opened_again(index)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, MemoryError])
def test_an_interrupted_change_ends_writing_and_holds_nobody_up(index, monkeypatch, interruption):
    def interrupted(*_):
        raise interruption

    begun = added(index, 2)
    with monkeypatch.context() as patch:
        patch.setattr(type(index._engine._state), "put", interrupted)
        with pytest.raises(interruption):
            synced(begun)
    with pytest.raises(StorageError, match="open the index again"):
        fill(index, [3])
    assert {1, 2} == opened_again(index).keys()


def test_an_interrupted_beginning_ends_writing_and_holds_nobody_up(index, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(index._engine._writer.log), "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            added(index, 2)
    with pytest.raises(StorageError, match="open the index again"):
        fill(index, [3])


def test_only_an_open_index_that_is_written_to_takes_changes(index):
    with Index.open(index.path) as reader, pytest.raises(ReadOnlyError):
        added(reader, 2)
    index.close()
    with pytest.raises(ClosedError):
        added(index, 2)
