"""What a call does to an index that changes, what it refuses and why, and how such an index is opened and closed."""

from __future__ import annotations

import errno
import gc
import os
import weakref

import numpy as np
import pytest

from skeg import ClosedError, LockedError, NotFoundError, ParameterError, ReadOnlyError, StorageError, VectorError
from skeg.ann import Index
from skeg.ann.live.engine import LiveEngine
from skeg.ann.live.writer import Put
from skeg.durability import Durability
from skeg.fileops import File, FileOps
from tests.ann.live.small import contents, limit, no_background
from tests.indexes import built, copied, ids_of, queries, rows, run_python

DIM = 4


@pytest.fixture
def index(tmp_path):
    with Index.create(tmp_path / "index", DIM, metric="l2") as opened:
        yield opened


def vector(i):
    return [float(i % 1000), 1.0, 0.0, -1.0]


def fill(index, ids):
    index.add(list(ids), [vector(i) for i in ids])


# Adding, replacing, deleting


def test_what_is_added_is_there_at_once(index):
    assert 1 == index.add(5, vector(5))
    assert 2 == index.add([9, 7], [vector(9), vector(7)])
    assert ([5, 7, 9], 3) == (index.ids().tolist(), len(index))
    assert vector(7) == index.get(7).tolist()
    assert [vector(9), vector(5)] == index.get([9, 5]).tolist()
    assert 5 in index
    assert 6 not in index
    assert [True, False, True] == index.contains([9, 6, 5]).tolist()
    index.delete(9)
    assert [False, True] == index.contains([9, 5]).tolist()
    index.add(9, vector(9))
    assert [9] == index.search(vector(9), 1).ids.tolist()


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8", "i1", "i8", "u2", "?"])
def test_vectors_of_any_real_dtype_become_float32(index, dtype):
    given = np.array([[1, 0, 1, 1], [0, 1, 1, 0]]).astype(dtype)
    index.add([1, 2], given)
    assert given.astype(np.float32).tolist() == index.get([1, 2]).tolist()
    assert np.float32 == index.get(1).dtype


def test_nothing_is_added_by_no_vectors(index):
    assert 0 == index.add([], np.zeros((0, DIM)))
    assert 0 == index.delete([])
    assert 0 == len(index)


def test_the_largest_and_the_smallest_id_are_ids_like_others(index):
    fill(index, [0, 2**64 - 2])
    assert [0, 2**64 - 2] == index.ids().tolist()
    index.consolidate()
    assert [0, 2**64 - 2] == index.ids().tolist()
    assert 1 == index.delete(2**64 - 2)


def test_adding_an_id_again_replaces_its_vector(index):
    fill(index, [1, 2])
    assert 1 == index.add(1, vector(9))
    assert {1: vector(9), 2: vector(2)} == contents(index)
    index.consolidate()
    assert 1 == index.add(1, vector(8))
    assert {1: vector(8), 2: vector(2)} == contents(index)
    assert [1, 2] == index.search(vector(8), 5).ids.tolist()


def test_what_the_caller_does_to_the_vectors_afterwards_does_not_count(index):
    given = np.array([vector(1), vector(2)], np.float32)
    index.add([1, 2], given)
    given[:] = 7
    index.get(1)[:] = 7
    assert {1: vector(1), 2: vector(2)} == contents(index)


@pytest.mark.parametrize("merged", [False, True])
def test_on_conflict_says_what_becomes_of_ids_that_are_there(index, merged):
    fill(index, [1, 2])
    if merged:
        index.consolidate()
    with pytest.raises(VectorError, match="ids, row 1: expected new ids, found id 2, which the index holds"):
        index.add([3, 2, 1], [vector(7)] * 3, on_conflict="error")
    assert {1: vector(1), 2: vector(2)} == contents(index)
    assert 1 == index.add([3, 2, 1], [vector(7)] * 3, on_conflict="skip")
    assert {1: vector(1), 2: vector(2), 3: vector(7)} == contents(index)
    assert 0 == index.add([1, 2], [vector(7)] * 2, on_conflict="skip")
    index.delete(2)
    assert 1 == index.add(2, vector(8), on_conflict="error")
    assert 3 == index.add([3, 2, 1], [vector(9)] * 3, on_conflict="replace")
    assert 2 == index.add([1, 4], [vector(6)] * 2, on_conflict="update")
    assert {1: vector(6), 2: vector(9), 3: vector(9), 4: vector(6)} == contents(index)


@pytest.mark.parametrize("merged", [False, True])
def test_an_update_on_conflict_keeps_payloads_that_are_not_replaced(index, merged):
    index.add([1, 2, 3, 4], [vector(1)] * 4, payloads=["n=1", {"n": 2}, "n=3", None])
    if merged:
        index.consolidate()
    index.add([2], [vector(2)], payloads=["n=22"])
    index.add([7, 4, 3, 2, 1], [vector(5)] * 5, payloads=[None, "n=4", b"", None, None], on_conflict="update")
    assert ["n=1", "n=22", b"", "n=4", None] == index.payloads([1, 2, 3, 4, 7])
    index.add([1, 7], [vector(6)] * 2, on_conflict="update")
    index.add(2, vector(6), payloads="n=5", on_conflict="update")
    index.add(1, vector(7), on_conflict="update")
    index.consolidate()
    assert ["n=1", "n=5", b"", "n=4", None] == index.payloads([1, 2, 3, 4, 7])
    assert [4] == index.search(vector(5), 5, filter="n = 4").ids.tolist()
    assert vector(7) == contents(index)[1]
    index.add([1, 2], [vector(6)] * 2)
    assert [None, None] == index.payloads([1, 2]), "replaced with what was given: nothing"
    with pytest.raises(ParameterError, match="payloads"):
        index.add([1, 2], [vector(6)] * 2, payloads=["n=1"], on_conflict="update")


def test_the_row_of_a_conflict_is_the_callers(index, monkeypatch):
    """Vectors are added some at a time; those before stay, as `Index.add` says."""
    limit(monkeypatch, CHUNK_ROWS=4)
    fill(index, [9])
    with pytest.raises(VectorError, match="ids, row 9:"):
        index.add(range(12), [vector(i) for i in range(12)], on_conflict="error")
    assert [*range(8), 9] == index.ids().tolist()


def test_deleting_counts_what_was_there(index):
    fill(index, range(5))
    assert 1 == index.delete(3)
    assert 0 == index.delete(3)
    assert 2 == index.delete([1, 3, 1, 77, 2])
    assert [0, 4] == index.ids().tolist()
    assert 3 not in index
    with pytest.raises(NotFoundError, match="id 1 is not in"):
        index.get([0, 1, 2])
    index.consolidate()
    assert 1 == index.delete(np.array([4, 4], np.uint64))
    assert [0] == index.search(vector(4), 5).ids.tolist()


def test_a_deleted_id_can_be_added_again(index):
    fill(index, [1])
    for _ in range(3):
        index.delete(1)
        index.add(1, vector(2))
        index.consolidate()
        assert {1: vector(2)} == contents(index)


# What is refused


@pytest.mark.parametrize(
    ("vectors", "problem"),
    [
        (np.ones((2, DIM + 1)), "vectors"),
        (np.ones((2, DIM - 1)), "vectors"),
        (np.ones(DIM), "vectors"),
        (np.ones((3, DIM)), "ids: expected 3, one for each vector, found 2"),
        (np.ones((2, DIM), complex), "vectors"),
        ([["a"] * DIM] * 2, "vectors"),
        ([[1, 2, 3, 4], [1, 2, np.nan, 4]], "row 1"),
        ([[np.inf, 2, 3, 4], [1, 2, 3, 4]], "row 0"),
        ([[1, 2, 3, 4], [1e300, 2, 3, 4]], "row 1"),
        ([[1, 2, 3, 4], [1e20, 2, 3, 4]], "row 1"),
    ],
)
def test_vectors_that_can_not_be_are_refused_and_nothing_is_added(index, vectors, problem):
    with pytest.raises(VectorError, match=problem), np.errstate(over="ignore"):
        index.add([1, 2], vectors)
    assert 0 == len(index)


def test_a_zero_vector_is_refused_under_cosine_only(tmp_path):
    for metric in ("cosine", "ip", "l2"):
        with Index.create(tmp_path / metric, DIM, metric=metric) as index:
            if metric == "cosine":
                with pytest.raises(VectorError, match="row 1: expected a vector that is not zero"):
                    index.add([1, 2], [vector(1), [0] * DIM])
                assert 0 == len(index)
            else:
                assert 2 == index.add([1, 2], [vector(1), [0] * DIM])


@pytest.mark.parametrize("ids", [-1, 2**64 - 1, 2**64, 1.5, "a", None, [-1, 2], [2**64 - 1, 2], [[1], [2]]])
def test_what_is_no_id_is_refused(index, ids):
    with pytest.raises(VectorError, match="ids"):
        index.add(ids, [vector(1)] * np.size(ids))
    with pytest.raises(VectorError, match="ids"):
        index.delete(ids)
    assert 0 == len(index)


def test_an_id_that_comes_twice_is_refused_with_its_row(index):
    with pytest.raises(VectorError, match="ids, row 2: expected ids that differ, found id 5, which row 0 has too"):
        index.add([5, 6, 5], [vector(i) for i in range(3)])
    assert 0 == len(index)


@pytest.mark.parametrize(
    ("payloads", "problem"),
    [
        ([{"a": 1}, {"a": object()}], "row 1"),
        ([3, None], "row 0"),
        ([None, b"x" * (1 << 20)], "row 1"),
        ([None], "payloads"),
        ([None] * 3, "payloads"),
    ],
)
def test_payloads_that_can_not_be_are_refused_and_nothing_is_added(index, payloads, problem):
    with pytest.raises((ParameterError, VectorError), match=problem):
        index.add([1, 2], [vector(1), vector(2)], payloads=payloads)
    assert 0 == len(index)


def test_options_that_are_none_are_refused(index):
    with pytest.raises(ParameterError, match="on_conflict='ignore'"):
        index.add(1, vector(1), on_conflict="ignore")
    for wrong in (2, "sync", None):
        with pytest.raises(ParameterError, match="durability"):
            index.add(1, vector(1), durability=wrong)
        with pytest.raises(ParameterError, match="durability"):
            index.delete(1, durability=wrong)
    assert 0 == len(index)


@pytest.mark.parametrize("live", [False, True])
def test_who_reads_does_not_write(tmp_path, live):
    path = copied(built(n=300), tmp_path)
    if live:
        Index.open(path, mode="rw").close()
    calls = [
        lambda index: index.add(1, rows(1)[0]),
        lambda index: index.delete(1),
        lambda index: index.consolidate(),
    ]
    with Index.open(path) as index:
        for call in calls:
            with pytest.raises(ReadOnlyError, match="opened for reading"):
                call(index)
        assert 300 == len(index)


def test_everything_raises_once_it_is_closed(index):
    fill(index, [1])
    index.close()
    index.close()
    calls = [
        lambda: index.add(2, vector(2)),
        lambda: index.delete(1),
        lambda: index.search(vector(1)),
        lambda: index.search([vector(1)]),
        lambda: index.search(vector(1), exact=True),
        lambda: index.get(1),
        lambda: 1 in index,
        lambda: len(index),
        index.ids,
        index.stats,
        index.verify,
        index.refresh,
        index.consolidate,
        lambda: index.tune([vector(1)]),
    ]
    for call in calls:
        with pytest.raises(ClosedError, match="closed"):
            call()
    assert "closed" in repr(index)


# One writer


def test_a_second_writer_is_refused_while_there_is_one(index):
    with pytest.raises(LockedError):
        Index.open(index.path, mode="rw")
    with Index.open(index.path) as reader:
        assert 0 == len(reader)
    index.close()
    Index.open(index.path, mode="rw").close()


def test_a_writer_in_another_process_is_refused_too(index):
    script = """
import sys
from skeg import LockedError
from skeg.ann import Index
try:
    Index.open(sys.argv[1], mode="rw")
except LockedError as error:
    print(error)
"""
    assert f"pid {os.getpid()}" in run_python(script, index.path)
    index.close()
    assert "" == run_python(script, index.path)


def test_an_index_that_could_not_be_opened_is_not_locked(index):
    index.close()
    manifest = index.path / "manifest.json"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole[:-5])
    with pytest.raises(StorageError):
        Index.open(index.path, mode="rw")
    manifest.write_bytes(whole)
    Index.open(index.path, mode="rw").close()


# Opening again


@pytest.mark.parametrize("level", Durability)
def test_what_was_written_is_there_when_the_index_is_opened_again(index, level):
    index.add([1, 2, 3], [vector(i) for i in (1, 2, 3)], durability=level)
    index.add(2, vector(9), durability=level)
    index.delete(3, durability=level)
    index.close()
    for mode in ("r", "rw"):
        with Index.open(index.path, mode=mode) as again:
            assert {1: vector(1), 2: vector(9)} == contents(again)
    with Index.open(index.path, mode="rw") as again:
        fill(again, [4])
    with Index.open(index.path) as again:
        assert [1, 2, 4] == again.ids().tolist()


def test_an_index_that_was_built_can_be_written_to(tmp_path):
    n, more = 300, 20
    path = copied(built(n=n), tmp_path)
    with Index.open(path, mode="rw") as index:
        assert n == len(index)
        index.add(range(200_000, 200_000 + more), rows(n + more)[n:])
        index.delete(ids_of(n)[:5])
        expected = index.search(queries(), exact=True)
        assert expected.ids.tolist() == index.search(queries(), search_list_size=n, rerank=n).ids.tolist()
    for merged in (False, True):
        with Index.open(path, mode="rw") as index:
            if merged:
                index.consolidate()
            assert {*ids_of(n)[5:].tolist(), *range(200_000, 200_000 + more)} == set(index.ids().tolist())
            assert expected.ids.tolist() == index.search(queries(), exact=True).ids.tolist()
            assert [] == index.verify()


def test_an_index_needs_a_place_of_its_own(index):
    with pytest.raises(StorageError, match="already exists"):
        Index.create(index.path, DIM)
    with pytest.raises(StorageError):
        Index.create(index.path / "none" / "index", DIM)
    for wrong in ({"dim": 0}, {"metric": "l1"}, {"kind": "f16"}, {"max_degree": 0}):
        with pytest.raises(ParameterError):
            Index.create(index.path.parent / "other", **{"dim": 3, **wrong})
    assert not (index.path.parent / "other").exists()
    with pytest.raises(ParameterError, match="mode"):
        Index.open(index.path, mode="w")


def test_stats_tell_what_is_not_merged(index):
    names = ("count", "rows_delta", "rows_dead", "merges", "maintenance_error")
    assert (0, 0, 0, 0, None) == tuple(index.stats()[name] for name in names)
    fill(index, range(10))
    index.delete([0, 1])
    assert (8, 10, 2, 0, None) == tuple(index.stats()[name] for name in names)
    assert index.stats()["bytes_log"] > 10 * 4 * DIM
    index.consolidate()
    assert (8, 0, 0, 1, None) == tuple(index.stats()[name] for name in names)
    index.delete(2)
    assert (7, 0, 1, 1, None) == tuple(index.stats()[name] for name in names)
    assert index.stats()["bytes_reclaimable"] > 0


# Disks that are full, or fail


class FaultyFile(File):
    """A file of `FaultyOps`."""

    def __init__(self, file, ops):
        super().__init__(file._descriptor)
        file._descriptor = -1
        self._ops = ops

    def pwrite(self, data, offset):
        self._ops.may("write")
        return super().pwrite(data, offset)

    def write_through(self, data, offset):
        self._ops.may("write")
        self._ops.may("sync")
        return super().write_through(data, offset)

    def sync(self):
        self._ops.may("sync")
        super().sync()


class FaultyOps(FileOps):
    """Calls that are in ``errors`` fail, with that."""

    def __init__(self):
        self.errors = {}

    def may(self, verb):
        if verb in self.errors:
            raise OSError(self.errors[verb], "injected")

    def open(self, path, *, write=False, create=False):
        return FaultyFile(super().open(path, write=write, create=create), self)


@pytest.fixture
def faulty(index, monkeypatch):
    """An index on a disk that can be made to fail, and the disk."""
    no_background(monkeypatch)
    index.close()
    ops = FaultyOps()
    with Index(index.path, LiveEngine(index.path, writable=True, ops=ops)) as opened:
        fill(opened, [1])
        yield opened, ops
        ops.errors.clear()


def test_a_full_disk_refuses_a_write_and_takes_the_next(faulty):
    index, ops = faulty
    ops.errors["write"] = errno.ENOSPC
    for call in (lambda: fill(index, [2, 3]), lambda: index.delete(1)):
        with pytest.raises(StorageError, match="can't write the log"):
            call()
    assert {1: vector(1)} == contents(index)
    ops.errors.clear()
    fill(index, [4])
    assert 1 == index.delete(1)
    index.close()
    with Index.open(index.path) as again:
        assert [4] == again.ids().tolist()


def test_what_was_acknowledged_in_memory_waits_for_room(faulty):
    index, ops = faulty
    index.add(2, vector(2), durability=Durability.NONE)
    ops.errors["write"] = errno.ENOSPC
    with pytest.raises(StorageError, match="can't write"):
        fill(index, [3])
    assert [1, 2] == index.ids().tolist()
    ops.errors.clear()
    index.close()
    with Index.open(index.path) as again:
        assert [1, 2] == again.ids().tolist()


def test_after_a_sync_that_failed_the_index_is_read_only_until_it_is_opened_again(faulty):
    index, ops = faulty
    ops.errors["sync"] = errno.EIO
    with pytest.raises(StorageError, match="can't write the log"):
        fill(index, [2])
    ops.errors.clear()
    for call in (lambda: fill(index, [3]), lambda: index.delete(1), index.consolidate):
        with pytest.raises(StorageError, match="open the index again"):
            call()
    assert {1: vector(1)} == contents(index)
    assert [1] == index.search(vector(1), 5).ids.tolist()
    index.close()
    with Index.open(index.path, mode="rw") as again:
        assert 1 in again
        fill(again, [3])


def test_an_interrupted_write_ends_writing_until_the_index_is_opened_again(index, monkeypatch):
    """Nobody knows whether it was logged; other writes that waited for it are told so too."""
    no_background(monkeypatch)
    fill(index, [1])

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(type(index._engine._state), "put", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fill(index, [2])
    with pytest.raises(StorageError, match="open the index again"):
        fill(index, [3])
    index.close()
    with Index.open(index.path, mode="rw") as again:
        assert [1, 2] == again.ids().tolist()
        fill(again, [3])


def test_an_index_that_was_closed_is_gone_without_a_collection(tmp_path):
    """Its rows are large, and who counts objects to know when to collect does not see that."""
    gc.collect()
    gc.disable()
    try:
        index = Index.create(tmp_path / "x", DIM)
        index.add(np.arange(30), [vector(i) for i in range(30)])
        index.search(vector(3), 5)
        index.consolidate(threads=1)
        index.delete(4)
        index.search([vector(3)], 5, filter=[1, 2, 3])
        view = index._engine.view
        gone = [*map(weakref.ref, view.rows), weakref.ref(view.segment), weakref.ref(view)]
        del view
        index.close()
        assert [None] * len(gone) == [some() for some in gone], "whoever still has the index keeps its rows"
        gone = weakref.ref(index._engine)
        del index
        assert gone() is None
    finally:
        gc.enable()


def test_a_change_that_waited_until_the_index_was_closed_is_not_made(index):
    fill(index, [1, 2])
    writer, view = index._engine._writer, index._engine.view
    index.close()
    with pytest.raises(ClosedError, match="closed"):
        writer.submit(Put(np.array([3], np.uint64), np.stack([vector(3)]), [], "replace", Durability.SYNC))
    assert 2 == len(view), "a search that is under way has not lost its rows"
    with Index.open(index.path) as again:
        assert {1, 2} == contents(again).keys()


def test_a_reader_that_waited_until_it_was_closed_does_not_catch_up(index):
    fill(index, [1, 2])
    reader = Index.open(index.path)
    engine = reader._engine
    fill(index, [3])
    reader.close()
    with pytest.raises(ClosedError, match="closed"):
        engine.refresh()
