"""A database: one folder, one writer, any number of readers, and indexes that are there or not."""

from __future__ import annotations

import os
from pathlib import Path

import h5py
import numpy as np
import pytest

import skeg
from skeg import (
    ClosedError,
    Database,
    ExistsError,
    FormatError,
    LockedError,
    NotFoundError,
    ParameterError,
    ReadOnlyError,
)
from skeg.catalog import read_catalog
from tests.database.small import DIM, IDS, X, opened, state_of, vindexes
from tests.indexes import contents, run_python, start_python


def test_what_was_written_is_there_again(path, shards):
    for mode in ("rw", "r"):
        with opened(path, mode=mode) as db:
            assert (path, mode, shards, False) == (db.path, db.mode, db.shards, db.closed)
            assert b"v" == db.kv.get(b"k")
            live, flat = db.index("live"), db.index("flat")
            assert ("live", DIM, "l2", "f32", "disk") == (live.name, live.dim, live.metric, live.kind, live.backend)
            assert ("flat", "cosine", "int8", "flat") == (flat.name, flat.metric, flat.kind, flat.backend)
            assert (shards, 60, 5) == (len(live.fragments), len(live), len(flat))
            assert X.tolist() == live.get(IDS).tolist()
            assert "live" in db
            assert "other" not in db
            assert live is db.index("live")
        assert db.closed


def test_what_indexes_are_there_is_told_in_order(path):
    with opened(path, mode="r") as db:
        found = [(i.name, i.dim, i.kind, i.backend, i.metric, i.count, i.state, i.problem) for i in db.indexes()]
    assert [
        ("flat", DIM, "int8", "flat", "cosine", 5, "ready", None),
        ("live", DIM, "f32", "disk", "l2", 60, "ready", None),
    ] == found


def test_figures(path, shards):
    with opened(path, mode="r") as db:
        stats = db.stats()
        assert (shards, "r", 1) == (stats["shards"], stats["mode"], stats["kv"]["keys"])
        assert {"flat": 5, "live": 60} == {name: figures["count"] for name, figures in stats["indexes"].items()}
        assert ["flat", "disk"] == [figures["backend"] for figures in stats["indexes"].values()]


def test_a_reader_writes_nothing_at_all(path):
    with opened(path) as db:
        db.build_index("built", X)
    before = state_of(path)
    with opened(path, mode="r") as db:
        assert b"v" == db.kv.get(b"k")
        for info in db.indexes():
            index = db.index(info.name)
            index.search(X[0], 3)
            index.search(X, 3, exact=True)
            index.get(index.ids())
            assert [] == index.verify()
        db.refresh()
        db.stats()
        db.verify()
        for refused in (
            lambda: db.create_index("new", 3),
            lambda: db.build_index("new", X),
            lambda: db.drop_index("live"),
            lambda: db.index("live").add(1, X[0]),
            lambda: db.kv.set(b"a", b""),
        ):
            with pytest.raises(ReadOnlyError):
                refused()
    assert before == state_of(path)


@pytest.mark.parametrize(
    ("heavy", "use"),
    [(heavy, use) for heavy in ("numba", "skeg.ann", "skeg.net") for use in ("create", "open")],
)
def test_a_database_without_an_index_is_opened_without_numba(tmp_path, heavy, use):
    opened(tmp_path / "db").close()
    name = "new" if use == "create" else "db"
    script = f"import sys, skeg; skeg.open(sys.argv[1]).close(); assert {heavy!r} not in sys.modules"
    run_python(script, tmp_path / name)


# Making and dropping


def test_a_name_can_be_taken_once_and_again_when_it_is_free(path, shards):
    with opened(path) as db:
        for attempt in (lambda: db.create_index("live", 3), lambda: db.build_index("live", X)):
            with pytest.raises(ExistsError, match="'live'"):
                attempt()
        before = read_catalog(path)["live"]
        db.drop_index("live")
        assert "live" not in db
        with pytest.raises(NotFoundError, match="'live'"):
            db.index("live")
        with pytest.raises(NotFoundError, match="'live'"):
            db.drop_index("live")
        db.create_index("live", 7)
        assert before.incarnation != read_catalog(path)["live"].incarnation
    assert [f"shard-{i}/vindex-{name}" for i in range(shards) for name in ("flat", "live")] == vindexes(path)
    with opened(path) as db:
        assert (7, 0) == (db.index("live").dim, len(db.index("live")))


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a\0b", ".", "..", "x" * 129, "a.building-1-0123456789abcdef", 3])
def test_no_name_leads_out_of_the_folder(path, name):
    before = contents(path.parent)
    with opened(path) as db:
        for attempt in (lambda: db.create_index(name, 3), lambda: db.build_index(name, X)):
            with pytest.raises(ParameterError, match="name="):
                attempt()
        for attempt in (lambda: db.index(name), lambda: db.drop_index(name)):
            with pytest.raises(NotFoundError):
                attempt()
    assert before.keys() == contents(path.parent).keys()


def test_the_longest_name_can_be_made_built_copied_and_dropped(path):
    names = ["n" * 128, "m" * 128]
    with opened(path) as db:
        db.create_index(names[0], 3)
        db.build_index(names[1], X)
        db.snapshot(path.parent / "copy")
        for name in names:
            db.drop_index(name)
    with opened(path.parent / "copy") as db:
        assert all(name in db for name in names)


@pytest.mark.parametrize(
    "arguments", [{"dim": 0}, {"dim": 65_537}, {"dim": "3"}, {"kind": "zip"}, {"metric": "far"}, {"backend": "ram"}]
)
def test_what_can_not_be_made_leaves_nothing(path, arguments):
    before = vindexes(path)
    with opened(path) as db:
        with pytest.raises(ParameterError, match=next(iter(arguments))):
            db.create_index("new", **({"dim": 3} | arguments))
        assert "new" not in db
        assert before == vindexes(path)
        db.create_index("new", 3)


def test_a_build_that_fails_leaves_nothing_and_names_the_row_of_the_source(path):
    before = vindexes(path)
    bad = X.copy()
    bad[17, 0] = np.nan
    with opened(path) as db:
        with pytest.raises(skeg.VectorError, match="row 17"):
            db.build_index("new", bad)
        with pytest.raises(skeg.VectorError, match="ids"):
            db.build_index("new", X, ids=IDS[1:])
        with pytest.raises(skeg.VectorError, match="ids"):
            db.build_index("new", X, ids=np.zeros(60, np.uint64))
        with pytest.raises(skeg.VectorError, match="at least one vector"):
            db.build_index("new", X[:0])
        with pytest.raises(ParameterError):
            db.build_index("new", X, kind="zip")
        assert before == vindexes(path)
        assert 60 == len(db.build_index("new", X))


def test_a_built_index_can_be_changed_and_is_found_again(path):
    with opened(path) as db:
        index = db.build_index("built", X, ids=IDS, metric="l2", seed=3)
        assert "disk" == index.backend
        index.add(1, X[0] + 1)
        index.delete(IDS[0])
    with opened(path) as db:
        index = db.index("built")
        assert sorted([1, *IDS[1:].tolist()]) == index.ids().tolist()
        assert [1] == index.search(X[0] + 1, 1).ids.tolist()
        assert [] == db.verify()


def test_a_build_with_few_vectors_leaves_fragments_empty(tmp_path):
    with opened(tmp_path / "db", shards=5) as db:
        index = db.build_index("one", X[:1], metric="l2", max_degree=8)
        assert [0] == index.search(X[0], 3).ids.tolist()
        assert 1 == sum(len(fragment) > 0 for fragment in index.fragments)
        index.add(IDS[1:], X[1:])
        assert 60 == len(index)


def test_sources_of_a_build(tmp_path, shards):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "ids.npy", IDS)

    with opened(tmp_path / "db", shards=shards) as db:
        index = db.build_index("file", tmp_path / "x.npy", ids=tmp_path / "ids.npy")
        assert X.tolist() == index.get(IDS).tolist()
        if shards == 1:
            assert 60 == len(db.build_index("blocks", iter([X[:20], X[20:]])))
        else:
            with pytest.raises(skeg.VectorError, match="read once for each shard"):
                db.build_index("blocks", iter([X[:20], X[20:]]))


def test_rows_that_can_not_be_taken_by_number_are_divided(tmp_path, shards):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = X
    with opened(tmp_path / "db", shards=shards) as db:
        index = db.build_index("h5", f"{tmp_path / 'x.h5'}::x")
        assert X.tolist() == index.get(np.arange(60)).tolist()


# Who may


def test_a_second_writer_is_refused(path):
    with opened(path) as db:
        with pytest.raises(LockedError):
            opened(path)
        with opened(path, mode="r") as reader:
            assert 60 == len(reader.index("live"))
        assert 60 == len(db.index("live"))


def test_a_second_process_is_refused(path):
    script = "import sys, skeg; db = skeg.open(sys.argv[1]); print('open', flush=True); sys.stdin.read()"
    with start_python(script, path) as process:
        try:
            assert "open\n" == process.stdout.readline()
            with pytest.raises(LockedError, match=f"pid {process.pid}"):
                opened(path)
        finally:
            process.kill()
    opened(path).close()


def test_the_number_of_shards_stays(path, shards):
    opened(path, shards=shards).close()
    with pytest.raises(ParameterError, match="shards=2"):
        opened(path, shards=2)


@pytest.mark.parametrize("how", [{"mode": "w"}, {"shards": 0}, {"shards": 257}, {"options": 3}])
def test_arguments_that_can_not_be(tmp_path, how):
    with pytest.raises(ParameterError):
        skeg.open(tmp_path / "db", **how)


def test_there_has_to_be_one_to_read(tmp_path):
    with pytest.raises(FormatError):
        opened(tmp_path / "none", mode="r")
    with pytest.raises(FormatError):
        opened(Path(__file__).parent)


def test_a_closed_database_refuses_everything(path):
    db = opened(path)
    index = db.index("live")
    db.close()
    db.close()
    calls = (db.indexes, db.stats, db.refresh, db.verify, lambda: db.index("live"), lambda: db.create_index("x", 3))
    more = (lambda: db.drop_index("live"), lambda: db.snapshot(path.parent / "copy"), lambda: index.search(X[0]))
    for call in (*calls, *more, lambda: len(index), lambda: db.kv.get(b"k")):
        with pytest.raises(ClosedError):
            call()
    assert "closed" in repr(db)


def test_names_of_the_library():
    assert skeg.Database is Database
    assert {"open", "Database"} <= set(dir(skeg))
    assert os.path.basename(skeg.open.__code__.co_filename) == "database.py"
