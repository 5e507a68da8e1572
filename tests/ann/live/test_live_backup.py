"""Copies of an index that is in use: whole, and no older than the call."""

from __future__ import annotations

import shutil
import threading

import numpy as np
import pytest

from skeg import ClosedError, StorageError
from skeg.ann import Index
from skeg.ann.format import read_manifest
from skeg.ann.live import backup
from skeg.durability import Durability
from tests.ann.live.small import contents, no_background
from tests.indexes import built, copied

DIM = 3


def vector(i):
    return [float(i), 1.0, -1.0]


@pytest.fixture
def index(tmp_path, monkeypatch):
    no_background(monkeypatch)
    with Index.create(tmp_path / "index", DIM, metric="l2", kind="f32") as opened:
        opened.add([1, 2], [vector(1), vector(2)], payloads=["a=1", None])
        yield opened


def test_a_copy_holds_what_is_merged_what_is_logged_and_what_is_in_memory(index, tmp_path):
    index.consolidate()
    index.add(3, vector(3))
    index.delete(1)
    index.add(4, vector(4), durability=Durability.NONE)
    expected = contents(index)
    index.snapshot(tmp_path / "copy")
    index.add(5, vector(5))
    for mode in ("r", "rw"):
        with Index.open(tmp_path / "copy", mode=mode) as copy:
            assert expected == contents(copy)
            assert [] == copy.verify()
            assert [None] * 3 == copy.payloads([2, 3, 4])
    with Index.open(tmp_path / "copy", mode="rw") as copy:
        copy.add(5, vector(5))
        copy.consolidate()
        assert contents(index) == contents(copy)


@pytest.mark.parametrize("emptied", [False, True])
def test_an_index_without_rows_is_copied(tmp_path, emptied):
    with Index.create(tmp_path / "index", DIM) as index:
        if emptied:
            index.add(1, vector(1))
            index.delete(1)
            index.consolidate()
        index.snapshot(tmp_path / "copy")
    with Index.open(tmp_path / "copy", mode="rw") as copy:
        assert 0 == len(copy)
        copy.add(1, vector(1))


def test_an_index_that_never_changed_is_copied_byte_by_byte(tmp_path):
    path = copied(built(), tmp_path)
    with Index.open(path) as index:
        index.snapshot(tmp_path / "copy")
        assert 0 == index.generation
    for file in path.rglob("*.*"):
        if file.is_file():
            assert file.read_bytes() == (tmp_path / "copy" / file.relative_to(path)).read_bytes()


def test_a_reader_copies_beside_a_writer_that_is_in_the_middle_of_a_record(index, tmp_path):
    """Its log ends in what was not written whole, and in space that is reserved: neither is copied."""
    (log,) = index.path.glob("log-*.skl")
    whole = log.read_bytes()
    index.add(3, vector(3))
    torn = log.read_bytes()
    end = len(torn.rstrip(b"\0"))
    log.write_bytes(torn[: end - 1] + b"?" + torn[end:])
    with Index.open(index.path) as reader:
        reader.snapshot(tmp_path / "copy")
    copy = (tmp_path / "copy" / log.name).read_bytes()
    assert whole.rstrip(b"\0") == copy.rstrip(b"\0")
    assert len(copy) < len(copy.rstrip(b"\0")) + 8
    log.write_bytes(torn)


def test_a_merge_in_the_middle_begins_the_copy_anew(index, tmp_path, monkeypatch):
    real = backup._copy_file
    merges = [0]

    def copy_file(source, folder, name, size):
        if name.startswith("log") and merges[0] < 3:
            merges[0] += 1
            index.add(10 + merges[0], vector(merges[0]))
            index.consolidate()
        return real(source, folder, name, size)

    monkeypatch.setattr(backup, "_copy_file", copy_file)
    index.snapshot(tmp_path / "copy")
    assert 1 <= merges[0]
    with Index.open(tmp_path / "copy", mode="rw") as copy:
        assert contents(index) == contents(copy)
        assert [] == copy.verify()
    names = {file.name for file in (tmp_path / "copy").iterdir()}
    assert 1 == sum(name.startswith("segment-") for name in names)


def test_an_index_that_is_merged_for_ever_is_given_up(index, tmp_path, monkeypatch):
    real = backup._copy_file

    def copy_file(source, folder, name, size):
        index.add(9, vector(9))
        index.consolidate()
        index.add(9, vector(9))
        return real(source, folder, name, size)

    monkeypatch.setattr(backup, "_copy_file", copy_file)
    monkeypatch.setattr(backup, "COPY_TRIES", 3)
    with pytest.raises(StorageError):
        index.snapshot(tmp_path / "copy")
    assert not (tmp_path / "copy").exists()


def test_a_file_that_is_missing_is_an_error_and_leaves_nothing(index, tmp_path):
    index.consolidate()
    segment = index.path / read_manifest(index.path).segment / "vectors.skg"
    shutil.move(segment, tmp_path / "away")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(StorageError, match=r"vectors\.skg"):
        index.snapshot(tmp_path / "copy")
    (tmp_path / "away").rename(segment)
    segment.write_bytes(segment.read_bytes()[:-8])
    with pytest.raises(StorageError, match="cut short"):
        index.snapshot(tmp_path / "copy")
    assert set(tmp_path.iterdir()) <= set(before)


def test_nothing_is_replaced_and_nothing_closed_is_copied(index, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(StorageError):
        index.snapshot(tmp_path / "there")
    index.close()
    with pytest.raises(ClosedError):
        index.snapshot(tmp_path / "copy")


def test_what_was_acknowledged_before_is_copied_while_others_write_and_merge(tmp_path):
    stop = threading.Event()
    done = [0]
    with Index.create(tmp_path / "index", DIM, metric="l2") as index:

        def write():
            i = 0
            while not stop.is_set():
                index.add(np.arange(i, i + 10), [vector(j) for j in range(i, i + 10)], durability=Durability.OS)
                i += 10
                done[0] = i
                if i % 300 == 0:
                    index.consolidate(threads=1)

        thread = threading.Thread(target=write)
        thread.start()
        try:
            for attempt in range(8):
                before = done[0]
                index.snapshot(tmp_path / f"copy{attempt}")
                with Index.open(tmp_path / f"copy{attempt}") as copy:
                    ids = copy.ids().tolist()
                    assert list(range(len(ids))) == ids  # in the order of writing
                    assert len(ids) >= before
                    assert [] == copy.verify()
        finally:
            stop.set()
            thread.join()


def test_generations_are_counted(index):
    before = index.generation
    index.consolidate()
    assert before + 1 == index.generation
