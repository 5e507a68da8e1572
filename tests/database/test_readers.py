"""Readers beside a writer, copies of what is in use, and forks."""

from __future__ import annotations

import shutil
import threading

import numpy as np
import pytest

from skeg import (
    ClosedError,
    CorruptError,
    ExistsError,
    StorageError,
)
from skeg.catalog import NAME
from skeg.kv import Durability
from tests.database.small import DIM, IDS, X, damage, opened
from tests.indexes import run_python


def test_a_reader_sees_what_was_done_when_it_looks_again(path):
    with opened(path) as db, opened(path, mode="r") as reader:
        kept, gone = reader.index("flat"), reader.index("live")
        assert not reader.refresh()
        db.drop_index("live")
        db.create_index("new", 3).add(5, [1, 2, 3])
        db.index("flat").add(99, X[7])
        assert ["flat", "live"] == [info.name for info in reader.indexes()]
        assert reader.refresh()
        assert ["flat", "new"] == [info.name for info in reader.indexes()]
        assert kept is reader.index("flat")
        assert 99 in kept
        assert [5] == reader.index("new").ids().tolist()
        with pytest.raises(ClosedError):
            gone.search(X[0])
        assert not reader.refresh()


def test_a_reader_tells_an_index_from_another_of_its_name(path):
    with opened(path) as db, opened(path, mode="r") as reader:
        db.drop_index("live")
        db.create_index("live", DIM, metric="l2", kind="f32").add(1, X[0])
        assert reader.refresh()
        assert [1] == reader.index("live").ids().tolist()


def test_a_reader_tries_again_what_it_could_not_open(path, tmp_path):
    folder = path / "shard-0" / "vindex-live"
    shutil.copytree(folder, tmp_path / "kept")
    damage(path, "live")
    with opened(path, mode="r") as reader:
        with pytest.raises(CorruptError):
            reader.index("live")
        assert not reader.refresh()
        shutil.rmtree(folder)
        shutil.copytree(tmp_path / "kept", folder)
        assert reader.refresh()
        assert 60 == len(reader.index("live"))


def test_a_writer_has_nothing_to_see(path):
    with opened(path) as db:
        db.index("live").add(1, X[0])
        assert not db.refresh()


def test_readers_open_while_indexes_come_and_go(path):
    stop = threading.Event()
    with opened(path) as db:

        def change():
            i = 0
            while not stop.is_set():
                db.create_index(f"n{i % 3}", 3 + i % 2)
                db.drop_index(f"n{i % 3}")
                i += 1

        thread = threading.Thread(target=change)
        thread.start()
        try:
            with opened(path, mode="r") as watcher:
                for _ in range(15):
                    with opened(path, mode="r") as reader:
                        assert {"flat", "live"} <= {info.name for info in reader.indexes()}
                        assert 60 == len(reader.index("live"))
                    watcher.refresh()
                    assert 60 == len(watcher.index("live"))
        finally:
            stop.set()
            thread.join()


def test_searches_end_well_or_closed_when_their_index_is_dropped(path):
    """Never with a crash, an error of another kind, or wrong hits."""
    with opened(path) as db:
        expected = db.index("live").search(X[0], 5).ids.tolist()
        outcomes = []

        def search(index):
            while True:
                try:
                    outcomes.append(index.search(X[0], 5).ids.tolist())
                except ClosedError:
                    outcomes.append("closed")
                    return

        threads = [threading.Thread(target=search, args=(db.index("live"),)) for _ in range(3)]
        for thread in threads:
            thread.start()
        while len(outcomes) < 50:
            pass
        db.drop_index("live")
        for thread in threads:
            thread.join()
        assert {"closed", str(expected)} == {found if found == "closed" else str(found) for found in outcomes}


def test_one_of_many_makes_an_index(path):
    made = []
    with opened(path) as db:

        def make():
            try:
                made.append(db.create_index("new", 3))
            except ExistsError:
                made.append(None)

        threads = [threading.Thread(target=make) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert 1 == sum(index is not None for index in made)
        assert db.index("new") in made


# Copies


def test_a_copy_is_a_database_with_everything(path, tmp_path):
    with opened(path) as db:
        db.index("live").consolidate()
        db.index("live").add(1, X[3], durability=Durability.NONE)
        db.kv.set(b"late", b"1", durability=Durability.NONE)
        db.snapshot(tmp_path / "copy")
        db.index("live").add(2, X[4])
        with pytest.raises(StorageError):
            db.snapshot(tmp_path / "copy")
    with opened(tmp_path / "copy") as copy:
        assert [] == copy.verify()
        assert sorted([1, *IDS.tolist()]) == copy.index("live").ids().tolist()
        assert {"n": 3} == copy.index("live").payloads(9)
        assert 5 == len(copy.index("flat"))
        assert [b"v", b"1"] == copy.kv.mget([b"k", b"late"])
        copy.index("live").add(2, X[4])


def test_a_reader_copies_and_a_database_without_indexes_is_copied(path, tmp_path):
    with opened(path, mode="r") as db:
        db.snapshot(tmp_path / "copy")
    with opened(tmp_path / "copy", mode="r") as copy:
        assert (60, 5) == (len(copy.index("live")), len(copy.index("flat")))
    with opened(tmp_path / "empty") as db:
        db.snapshot(tmp_path / "none")
    assert not (tmp_path / "none" / NAME).exists()
    opened(tmp_path / "none").close()


def test_a_copy_holds_what_was_acknowledged_before_while_others_write_merge_and_drop(path, tmp_path):
    rng = np.random.default_rng(0)
    stop = threading.Event()
    done = [0]
    with opened(path) as db:
        live = db.index("live")

        def write():
            i = 1000
            while not stop.is_set():
                live.add(np.arange(i, i + 20), rng.normal(size=(20, DIM)), durability=Durability.OS)
                db.kv.set(b"n", b"%d" % i)
                i += 20
                done[0] = i
                if i % 200 == 0:
                    live.consolidate(threads=1)

        def come_and_go():
            while not stop.is_set():
                db.create_index("brief", 3)
                db.drop_index("brief")

        threads = [threading.Thread(target=write), threading.Thread(target=come_and_go)]
        for thread in threads:
            thread.start()
        try:
            for attempt in range(4):
                before = done[0]
                db.snapshot(tmp_path / f"copy{attempt}")
                with opened(tmp_path / f"copy{attempt}") as copy:
                    assert [] == copy.verify()
                    ids = copy.index("live").ids()
                    assert set(range(1000, before)) | set(IDS.tolist()) <= set(ids.tolist())
                    assert before <= int(copy.kv.get(b"n") or 0) + 20
        finally:
            stop.set()
            for thread in threads:
                thread.join()


# Forks

FORK = """
import os, signal, sys, threading, warnings
import numpy as np
import skeg
from skeg import ClosedError

warnings.simplefilter("ignore", DeprecationWarning)  # newer Pythons warn of forks where threads are
path, x = sys.argv[1], np.load(sys.argv[2])
writer = skeg.open(path)
reader = skeg.open(path, mode="r")
written, read = writer.index("live"), reader.index("live")

def use(n):
    reader.refresh()
    assert n <= len(read) and reader.kv.get(b"k") == b"v"
    assert (0, [b"k"]) == reader.kv.scan_keys()
    assert [(b"k", b"v")] == list(reader.kv.scan())
    for exact in (False, True):
        assert read.search(x, 5, exact=exact).ids.shape == (len(x), 5)
        assert len(read.search(x[0], 5, exact=exact)) == 5
    assert read.get(read.ids()).shape == (len(read), x.shape[1])
    assert [] == reader.verify()

use(60)
stop = threading.Event()
def go_on():
    while not stop.is_set():
        reader.refresh(), read.search(x, 5), reader.kv.get(b"k"), reader.kv.get(b"none")
thread = threading.Thread(target=go_on)
thread.start()
for generation in range(4):
    first = 1000 + 400 * generation
    written.add(np.arange(first, first + 400), np.resize(x, (400, x.shape[1])) + first)
    child = os.fork()
    if child == 0:
        signal.alarm(60)  # a child that hangs
        status = 1
        try:
            use(60 + 400 * (generation + 1))
            for refused in (
                lambda: written.search(x), lambda: written.add(1, x[0]), lambda: writer.index("live"),
                lambda: writer.create_index("new", 3), lambda: writer.kv.get(b"k"),
            ):
                try:
                    refused()
                except ClosedError:
                    continue
                raise AssertionError("did not raise")
            writer.close(), reader.close()
            status = 0
        finally:
            os._exit(status)
    use(60 + 400 * (generation + 1))
    assert os.waitpid(child, 0)[1] == 0
stop.set()
thread.join()
written.add(1, x[0])
writer.close()
with skeg.open(path) as again:
    assert len(again.index("live")) == 60 + 4 * 400 + 1
print("survived")
"""


def test_a_child_goes_on_reading_and_leaves_writing_to_the_parent(path, tmp_path):
    np.save(tmp_path / "x.npy", X)
    assert "survived\n" == run_python(FORK, path, tmp_path / "x.npy")


def test_a_child_does_not_keep_the_parents_lock(path):
    script = """
import os, sys, skeg
db = skeg.open(sys.argv[1])
a, b = os.pipe()
if os.fork() == 0:
    os.close(b)
    os.read(a, 1)  # until the parent is gone
    os._exit(0)
db.close()
skeg.open(sys.argv[1]).close()
print("free")
"""
    assert "free\n" == run_python(script, path)
