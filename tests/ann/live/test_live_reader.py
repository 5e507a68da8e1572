"""Readers of an index that another one writes to: they see what was there when they looked last, and it stays so."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from skeg import ReadOnlyError
from skeg.ann import Index
from skeg.ann.live.opening import Replay
from skeg.durability import Durability
from tests.ann.live.small import contents, no_background
from tests.indexes import built, copied, ids_of, queries, rows, run_python

DIM = 3


def vector(i, version=0):
    return [float(i), float(version), 1.0]


@pytest.fixture
def writer(tmp_path, monkeypatch):
    no_background(monkeypatch)
    with Index.create(tmp_path / "index", DIM, metric="l2", kind="f32") as opened:
        opened.add([1, 2], [vector(1), vector(2)])
        yield opened


@pytest.fixture
def reader(writer):
    with Index.open(writer.path) as opened:
        yield opened


def test_a_reader_sees_what_was_written_when_it_looks_again(writer, reader):
    before = contents(reader)
    writer.add(3, vector(3))
    writer.add(1, vector(1, 5))
    writer.delete(2)
    assert before == contents(reader)
    assert reader.refresh()
    assert {1: vector(1, 5), 3: vector(3)} == contents(reader)
    assert [1, 3] == sorted(reader.search(vector(1), 9).ids.tolist())
    assert not reader.refresh()


def test_a_reader_sees_what_was_written_before_and_after_a_merge(writer, reader):
    for i in range(3, 7):
        writer.add(i, vector(i))
        writer.consolidate()
        writer.delete(i - 2)
        before = contents(reader)
        assert [] == reader.verify()
        assert sorted(before) == sorted(reader.search(vector(1), 9).ids.tolist())
        assert reader.refresh()
        assert contents(writer) == contents(reader)
        assert not reader.refresh()


def test_a_reader_sees_an_index_that_was_emptied_and_one_that_was_tuned(writer, reader):
    writer.consolidate()
    writer._searcher.tune({"list_size": 99})
    assert reader.refresh()
    assert 99 == reader.search(vector(1), 1).stats["list_size"]
    writer.delete([1, 2])
    writer.consolidate()
    assert reader.refresh()
    assert {} == contents(reader)


def test_a_reader_does_not_see_what_is_in_the_writers_memory_only(writer, reader):
    writer.add(3, vector(3), durability=Durability.NONE)
    assert not reader.refresh()
    assert 3 not in reader
    writer.add(4, vector(4), durability=Durability.OS)
    assert reader.refresh()
    assert [1, 2, 3, 4] == reader.ids().tolist()


def test_a_reader_follows_writers_that_come_and_go(writer, reader):
    writer.close()
    for i in range(3, 6):
        with Index.open(writer.path, mode="rw") as again:
            again.add(i, vector(i))
            if i == 4:
                again.consolidate()
        assert reader.refresh()
        assert list(range(1, i + 1)) == reader.ids().tolist()


def test_the_writer_itself_sees_everything(writer):
    writer.add(3, vector(3))
    assert 3 in writer
    assert not writer.refresh()


def test_a_reader_in_another_process_sees_the_same(writer):
    writer.consolidate()
    writer.add([3, 4], [vector(3), vector(4)])
    script = """
import sys
from skeg.ann import Index
with Index.open(sys.argv[1]) as index:
    print(index.ids().tolist(), index.search([3, 0, 1], 1).ids.tolist())
"""
    assert "[1, 2, 3, 4] [3]\n" == run_python(script, writer.path)


def test_a_reader_that_looks_while_a_merge_ends_sees_one_or_the_other(writer, reader, monkeypatch):
    """The writer may remove logs between what the reader reads first, the manifest, and what it reads then."""
    real = Replay.run
    turns = []

    def run(replay):
        if not turns:
            turns.append(1)
            writer.add(3, vector(3))
            writer.consolidate()
            writer.add(4, vector(4))
            writer.consolidate()
            writer.add(5, vector(5))
        return real(replay)

    monkeypatch.setattr(Replay, "run", run)
    reader.refresh()
    reader.refresh()
    assert contents(writer) == contents(reader)


def test_a_reader_can_be_opened_while_a_merge_ends(writer, monkeypatch):
    real = Replay.run
    turns = []

    def run(replay):
        if not turns:
            turns.append(1)
            writer.add(3, vector(3))
            writer.consolidate()
            writer.add(4, vector(4))
        return real(replay)

    monkeypatch.setattr(Replay, "run", run)
    with Index.open(writer.path) as reader:
        assert contents(writer) == contents(reader)


def test_threads_that_look_at_once_apply_nothing_twice(writer, reader, monkeypatch):
    real = Replay._read
    inside, over = [], []

    def read(replay):
        inside.append(1)
        over.append(len(inside))
        threading.Event().wait(0.02)  # gives the others a chance to come in as well
        try:
            return real(replay)
        finally:
            inside.pop()

    monkeypatch.setattr(Replay, "_read", read)
    for i in range(10, 20):
        writer.add(i, vector(i))
    threads = [threading.Thread(target=reader.refresh) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 == max(over)
    assert contents(writer) == contents(reader)
    assert reader.stats()["rows_delta"] == writer.stats()["rows_delta"]


# Readers that opened the index before it ever changed


def test_a_reader_of_an_index_that_never_changed_sees_when_it_does(tmp_path):
    path = copied(built(n=300), tmp_path)
    with Index.open(path) as reader, Index.open(path, mode="rw") as writer:
        writer.add(7_000_000, rows(1)[0])
        assert 7_000_000 not in reader
        assert reader.refresh()
        assert 7_000_000 in reader
        writer.consolidate()
        assert reader.refresh()
        assert contents(writer) == contents(reader)


def test_a_reader_of_an_index_that_never_changed_searches_on_whatever_a_writer_does(tmp_path):
    path = copied(built(n=300), tmp_path)
    with Index.open(path) as reader, Index.open(path, mode="rw") as writer:
        before = reader.search(queries()).ids.tolist()
        writer.delete(ids_of(300)[:100])
        writer.consolidate()
        assert before == reader.search(queries()).ids.tolist()
        np.testing.assert_array_equal(rows(300)[0], reader.get(int(ids_of(300)[0])))


def test_a_reader_that_tunes_does_not_undo_what_a_writer_did(tmp_path):
    path = copied(built(n=300), tmp_path)
    with Index.open(path) as reader:
        with Index.open(path, mode="rw") as writer:
            writer.add(7_000_000, rows(1)[0])
        with pytest.raises(ReadOnlyError):
            reader._searcher.tune({"list_size": 99})
    with Index.open(path, mode="rw") as writer:
        assert 7_000_000 in writer
