"""Merges: others go on meanwhile, what they do is kept, and what was deleted is gone from the disk."""

from __future__ import annotations

import errno
import os
import threading

import numpy as np
import pytest

from skeg import StorageError, VectorError, files
from skeg.ann import Index, pipeline
from skeg.ann.calibration import Calibration
from skeg.ann.format import read_manifest
from skeg.ann.live import state
from skeg.ann.live.merge import Merge
from skeg.ann.live.rows import LiveRows
from skeg.ann.params import GraphParams
from skeg.ann.pipeline import Pipeline
from skeg.ann.transform import RowTransform
from skeg.ann.vamana import GraphBuilder, batch_spans
from skeg.durability import Durability
from tests.ann.live.small import contents, limit, no_background
from tests.indexes import ids_of, queries, rows

DIM = 4
PATIENCE_S = 60


def vector(i, version=0):
    return [float(i), float(version), 1.0, 0.0]


def fill(index, ids, version=0, **options):
    return index.add(list(ids), [vector(i, version) for i in ids], **options)


def names(index):
    return sorted(file.name for file in index.path.iterdir() if file.name.startswith(("segment-", "log-")))


@pytest.fixture
def index(tmp_path, monkeypatch):
    no_background(monkeypatch)
    with Index.create(tmp_path / "index", DIM, metric="l2", kind="f32", max_degree=8) as opened:
        yield opened


class Held:
    """A merge in another thread that has taken what it merges and waits; `end` lets it go on."""

    def __init__(self, monkeypatch, start):
        self._begun, self._go_on = threading.Event(), threading.Event()
        self.errors = []
        real = Merge.run

        def run(merge, *args, **options):
            self._begun.set()
            assert self._go_on.wait(PATIENCE_S)
            return real(merge, *args, **options)

        def call():
            try:
                start()
            except Exception as error:  # noqa: BLE001 - for the test to look at
                self.errors.append(error)

        monkeypatch.setattr(Merge, "run", run)
        self.thread = threading.Thread(target=call)
        self.thread.start()
        assert self._begun.wait(PATIENCE_S)

    def end(self):
        self._go_on.set()
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()


@pytest.fixture
def held(index, monkeypatch):
    """Begins a merge that waits until it is told to go on."""
    begun = []

    def begin(start=index.consolidate):
        begun.append(Held(monkeypatch, start))
        return begun[-1]

    yield begin
    for merge in begun:
        merge.end()


def reopened(index):
    index.close()
    with Index.open(index.path, mode="rw") as again:
        assert [] == again.verify()
        return contents(again)


# What a merge takes, and leaves


def test_a_merge_changes_nothing_but_where_things_are(index):
    fill(index, range(20))
    index.delete(range(5))
    fill(index, range(10, 15), version=1)
    expected = contents(index)
    for _ in range(3):
        index.consolidate()
        assert expected == contents(index)
        assert [] == index.verify()
    assert expected == reopened(index)


def test_old_segments_and_logs_are_removed(index):
    assert [] == names(index)
    fill(index, range(9))
    assert ["log-000001.skl"] == names(index)
    index.consolidate()
    assert ["segment-000002"] == names(index)
    fill(index, [3], version=1)
    assert ["log-000002.skl", "segment-000002"] == names(index)
    index.consolidate()
    assert ["segment-000003"] == names(index)
    index.consolidate()
    assert ["segment-000003"] == names(index)


def test_leftovers_are_removed_when_the_index_is_opened_for_writing(index):
    fill(index, range(9))
    index.consolidate()
    fill(index, [1], version=1)
    index.close()
    (index.path / "segment-000007").mkdir()
    (index.path / "segment-000007" / "vectors.skg").write_bytes(b"half")
    (index.path / "log-000001.skl").write_bytes(b"old")
    (index.path / "log-000001.skl.new").write_bytes(b"half")
    (index.path / "manifest.json.building-1-0123456789abcdef").write_bytes(b"half")
    with Index.open(index.path) as reader:
        expected = contents(reader)
        assert 6 == len(names(index)) + len(list(index.path.glob("manifest.json.*")))
    with Index.open(index.path, mode="rw") as again:
        assert expected == contents(again)
    assert ["log-000002.skl", "segment-000002"] == names(index)
    assert [] == list(index.path.glob("manifest.json.*"))


@pytest.mark.parametrize("first", [1, 3, 10, 40, 60, 100])
@pytest.mark.parametrize("more", [1, 10, 59, 63])
def test_a_segment_grows_by_any_number_of_rows(index, first, more):
    fill(index, range(first))
    index.consolidate()
    fill(index, range(1000, 1000 + more))
    index.consolidate()
    assert first + more == len(index)
    assert [] == index.verify()
    assert [*range(first)][:5] == index.search(vector(0), min(first, 5)).ids.tolist()


def test_a_batch_of_a_graph_that_goes_on_fits_into_its_room():
    """Rows are inserted in batches, whose sizes depend on how many there are already."""
    params = GraphParams.for_data("l2", 2, max_degree=4)
    transform = RowTransform.rotating(np.zeros(2, np.float32), "l2", 0)
    for n in (2, 10, 20, 50, 100, 130, 1000):
        some = LiveRows(transform, params, n)
        builder = GraphBuilder(some._graph._builder._build, params, np.arange(n, dtype=np.uint32), some._graph._workers)
        for start in range(1, n):
            assert max(stop - begin for begin, stop in batch_spans(n, start)) <= len(builder._batch.degrees), (n, start)


def test_many_rows_at_a_time_become_a_segment_at_once(index, monkeypatch):
    limit(monkeypatch, MERGE_ROWS_MIN=16)
    fill(index, range(10))
    assert 20 == fill(index, range(5, 25), version=1)
    assert ["segment-000002"] == names(index)
    expected = {i: vector(i, int(i >= 5)) for i in range(25)}
    assert expected == contents(index)
    bad = [vector(i) for i in range(20)]
    bad[17][1] = np.nan
    with pytest.raises(VectorError, match="row 17"):
        index.add(range(20), bad)
    assert expected == contents(index)
    assert expected == reopened(index)


def test_a_merge_waits_until_it_pays(tmp_path, monkeypatch):
    """Until then rows stay in memory; afterwards they are merged without being asked."""
    limit(monkeypatch, MERGE_ROWS_MIN=16, CHUNK_ROWS=4)
    merged = threading.Event()
    swap = state.State.swap

    def swapped(*args):
        swap(*args)
        merged.set()

    monkeypatch.setattr(state.State, "swap", swapped)
    with Index.create(tmp_path / "index", DIM, metric="l2", kind="f32") as index:
        for i in range(15):
            fill(index, [i])
        assert not merged.is_set()
        fill(index, [15])
        assert merged.wait(PATIENCE_S)
        merged.clear()
        index.delete(range(6))  # more than a few dead rows are worth a merge too
        assert merged.wait(PATIENCE_S)
        assert list(range(6, 16)) == index.ids().tolist()


def test_what_tune_has_stored_survives_a_merge(tmp_path):
    n = 300
    with Index.create(tmp_path / "index", 384) as index:
        index.add(ids_of(n), rows(n))
        index.consolidate()
        index._searcher.tune({"list_size": 77, "tuned_recall": 0.9, "tuned_k": 5})
        assert 77 == index.search(queries()[0], 5).stats["list_size"]
        index.add(1, rows(1)[0])
        index.consolidate()
        assert 77 == index.search(queries()[0], 5).stats["list_size"]
        size = index.tune(queries(), 0.9)
        index.delete(1)
        assert size == index.search(queries()[0]).stats["list_size"]
    with Index.open(index.path) as reader:
        assert size == reader.search(queries()[0]).stats["list_size"]


# Others meanwhile


def test_what_is_written_during_a_merge_is_kept(index, held):
    fill(index, range(10))
    index.consolidate()
    fill(index, range(10, 20))
    merge = held()
    fill(index, [30, 31])  # new
    fill(index, [0, 10], version=1)  # replaced: of the segment, in memory
    assert 4 == index.delete([1, 11, 30, 99, 2])
    fill(index, [2], version=2)  # deleted and added again
    fill(index, [0], version=3)
    expected = {i: vector(i) for i in range(20)}
    expected |= {31: vector(31), 10: vector(10, 1), 2: vector(2, 2), 0: vector(0, 3)}
    del expected[1], expected[11]
    assert expected == contents(index)
    merge.end()
    assert [] == merge.errors
    assert expected == contents(index)
    assert sorted(expected) == sorted(index.search(vector(0), 50).ids.tolist())
    assert expected == reopened(index)


def test_what_is_written_while_many_rows_are_added_is_kept(index, held, monkeypatch):
    limit(monkeypatch, MERGE_ROWS_MIN=8)
    fill(index, range(6))
    merge = held(lambda: fill(index, range(3, 20), version=1))
    fill(index, [4], version=2)
    index.delete([5, 0])
    merge.end()
    expected = {i: vector(i, int(i >= 3)) for i in range(1, 20)} | {4: vector(4, 2)}
    del expected[5]
    assert expected == contents(index)
    assert expected == reopened(index)


def test_searches_see_the_old_and_the_new_during_a_merge(index, held):
    fill(index, range(10))
    merge = held()
    fill(index, [10])
    index.delete(0)
    assert list(range(1, 11)) == sorted(index.search(vector(0), 50).ids.tolist())
    assert list(range(1, 11)) == sorted(index.search(vector(0), 50, exact=True).ids.tolist())
    with Index.open(index.path) as reader:
        assert list(range(1, 11)) == reader.ids().tolist()
    merge.end()
    assert list(range(1, 11)) == sorted(index.search(vector(0), 50).ids.tolist())


def test_merges_take_turns(index, held):
    fill(index, range(10))
    merge = held()
    fill(index, [11])
    second = threading.Thread(target=index.consolidate)
    second.start()
    merge.end()
    second.join(PATIENCE_S)
    assert ({}, 2) == ({} if not index.stats()["rows_delta"] else index.stats(), index.stats()["merges"])


def test_an_index_can_be_closed_only_once_a_merge_is_over(index, held):
    """The next writer would not know what this one is making."""
    fill(index, range(10))
    merge = held()
    closed = threading.Thread(target=index.close)
    closed.start()
    closed.join(0.2)
    assert closed.is_alive(), "closed in the middle of a merge"
    merge.end()
    closed.join(PATIENCE_S)
    with Index.open(index.path, mode="rw") as again:
        assert {i: vector(i) for i in range(10)} == contents(again)


def test_writers_wait_for_a_merge_rather_than_pile_up_parts(index, held, monkeypatch):
    limit(monkeypatch, MERGE_ROWS_MIN=8, CHUNK_ROWS=4)
    fill(index, range(4))
    merge = held(lambda: index.consolidate(threads=1))
    done = threading.Event()

    def write():
        for i in range(100, 150):
            fill(index, [i])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    assert not done.wait(0.2)
    assert len(index._engine._state.view.rows) <= 3
    merge.end()
    assert done.wait(PATIENCE_S)
    writer.join()
    assert [*range(4), *range(100, 150)] == index.ids().tolist()


# Merges that fail


@pytest.fixture
def full_disk(monkeypatch):
    """Files that are written as a whole, as segments are, find the disk full while the list is not empty."""
    full = []
    real = files._write

    def write(descriptor, data):
        if full:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(descriptor, data)

    monkeypatch.setattr(files, "_write", write)
    return full


def test_a_merge_that_fails_leaves_everything_as_it_was(index, full_disk):
    fill(index, range(10))
    index.consolidate()
    fill(index, range(5, 15), version=1)
    index.delete(0)
    expected = contents(index)
    for i in range(3):
        full_disk.append(True)
        with pytest.raises(StorageError, match="No space left"):
            index.consolidate()
        full_disk.clear()
        fill(index, [20 + i])
        expected[20 + i] = vector(20 + i)
        assert expected == contents(index)
        assert sorted(expected) == sorted(index.search(vector(0), 50).ids.tolist())
    assert "segment-000003" not in names(index)
    index.close()
    with Index.open(index.path, mode="rw") as again:
        assert expected == contents(again)
        again.consolidate()
        assert expected == contents(again)
        assert ["segment-000003"] == names(again)


def test_many_rows_that_find_the_disk_full_are_not_there(index, full_disk, monkeypatch):
    limit(monkeypatch, MERGE_ROWS_MIN=8)
    fill(index, range(5))
    full_disk.append(True)
    with pytest.raises(StorageError, match="No space left"):
        fill(index, range(20), version=1)
    full_disk.clear()
    assert {i: vector(i) for i in range(5)} == contents(index)
    assert {i: vector(i) for i in range(5)} == reopened(index)


def test_a_merge_in_the_background_that_fails_is_told(tmp_path, full_disk, monkeypatch):
    limit(monkeypatch, MERGE_ROWS_MIN=8)
    failed, merged = threading.Event(), threading.Event()
    thaw, swap = state.State.thaw, state.State.swap
    monkeypatch.setattr(state.State, "thaw", lambda self: (thaw(self), failed.set()))
    monkeypatch.setattr(state.State, "swap", lambda self, *args: (swap(self, *args), merged.set()))
    monkeypatch.setattr("skeg.ann.live.maintenance.RETRY_AFTER_S", 0.05)
    with Index.create(tmp_path / "index", DIM, metric="l2", kind="f32") as index:
        fill(index, range(7))
        full_disk.append(True)
        fill(index, [7])
        for _ in range(2):  # it is tried again
            assert failed.wait(PATIENCE_S)
            failed.clear()
        assert list(range(8)) == index.ids().tolist()
        assert "No space left" in _soon(lambda: index.stats()["maintenance_error"])
        full_disk.clear()
        assert merged.wait(PATIENCE_S)
        assert _soon(lambda: index.stats()["maintenance_error"] is None)
        assert list(range(8)) == index.ids().tolist()


def _soon(value):
    """What a function gives once that is true; the thread that works in the background may be just behind."""
    for _ in range(PATIENCE_S * 100):
        found = value()
        if found:
            return found
        threading.Event().wait(0.01)
    raise AssertionError("never came true")


@pytest.mark.parametrize("error", [StorageError("x", "too many open files"), KeyboardInterrupt()], ids=repr)
def test_a_segment_that_was_published_is_kept_whatever_happens_then(index, monkeypatch, error):
    """The manifest on the disk names it: no later merge may remove it before another one took its place."""
    fill(index, range(10))
    index.consolidate()
    fill(index, range(10, 14))
    real = state.State.open_part

    def open_part(*args):
        raise error

    monkeypatch.setattr(state.State, "open_part", open_part)
    with pytest.raises(type(error)):
        index.consolidate()
    monkeypatch.setattr(state.State, "open_part", real)
    expected = {i: vector(i) for i in range(14)}
    assert expected == contents(index)
    with Index.open(index.path) as reader:
        assert expected == contents(reader)
    run = Pipeline.run

    def look(*args):
        with Index.open(index.path) as reader:  # as after a crash just now
            assert expected == contents(reader)
        return run(*args)

    monkeypatch.setattr(Pipeline, "run", look)
    index.consolidate()
    assert expected == contents(index)
    assert expected == reopened(index)


# Nothing of what was deleted stays


def traces(folder, *secrets):
    """Files in which any of some bytes stand."""
    found = {}
    for file in folder.rglob("*"):
        if file.is_file():
            data = file.read_bytes()
            found[file.name] = [n for n, secret in enumerate(secrets) if secret in data]
    return sorted(name for name, hits in found.items() if hits)


@pytest.mark.parametrize("kind", ["f32", "tq4"])
@pytest.mark.parametrize("how", ["deleted", "replaced"])
@pytest.mark.parametrize("where", ["log", "segment"])
def test_nothing_of_what_was_deleted_is_left_by_a_merge(tmp_path, monkeypatch, kind, how, where):
    no_background(monkeypatch)
    rng = np.random.default_rng(5)
    vectors = rng.standard_normal((40, 16)).astype(np.float32)
    payloads = [{"secret": f"of row {i}, which nobody else may read"} for i in range(40)]
    with Index.create(tmp_path / "index", 16, kind=kind) as index:
        index.add(range(40), vectors, payloads=payloads)
        if where == "segment":
            index.consolidate()
        secrets = [part for i in (3, 7) for part in (vectors[i].tobytes(), payloads[i]["secret"].encode())]
        assert [] != traces(index.path, *secrets)
        if how == "deleted":
            index.delete([3, 7])
        else:
            index.add([3, 7], rng.standard_normal((2, 16)))
        index.consolidate()
        assert [] == traces(index.path, *secrets)
        assert [] != traces(index.path, vectors[4].tobytes())
        assert [] != traces(index.path, payloads[4]["secret"].encode())
    assert [] == traces(index.path, *secrets)


def test_nothing_is_left_of_what_was_added_and_deleted_between_merges(index):
    fill(index, range(10))
    index.consolidate()
    secret = np.array([0.123, 4.567, 8.9, 1.011], np.float32)
    index.add(77, secret, durability=Durability.NONE)
    index.delete(77, durability=Durability.NONE)
    index.consolidate()
    assert [] == traces(index.path, secret.tobytes())
    assert ["segment-000003"] == names(index)


def test_nothing_is_left_of_what_was_deleted_during_a_merge_by_the_next(index, held):
    secret = np.array([0.123, 4.567, 8.9, 1.011], np.float32)
    fill(index, range(10))
    index.add(77, secret)
    merge = held()
    index.delete(77)
    merge.end()
    assert [] != traces(index.path, secret.tobytes())
    index.consolidate()
    assert [] == traces(index.path, secret.tobytes())


def test_an_index_is_calibrated_again_when_enough_has_changed(index, monkeypatch):
    """A quarter of the rows came or went; what was measured before is kept until then, also when it is opened again."""
    measured = iter([Calibration([[10, 0.1], [20, number]], 0.01) for number in (1.0, 2.0, 3.0)])
    monkeypatch.setattr(pipeline, "calibrate", lambda *_: next(measured))

    def merged():
        index.consolidate()
        search = read_manifest(index.path).search
        return search["margins"][1][1], search.get("changed", 0)

    fill(index, range(100))
    assert (1.0, 0) == merged()
    fill(index, range(100, 110))
    assert (1.0, 10) == merged()
    index.delete(range(5))
    assert (1.0, 15) == merged()
    fill(index, range(50, 55), version=1)
    assert (1.0, 25) == merged()  # five rows went, five came
    index.delete(range(5, 7))
    assert (2.0, 0) == merged()
    fill(index, range(1000, 1200))  # most of it is new: built afresh
    assert (3.0, 0) == merged()
