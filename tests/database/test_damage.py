"""What is wrong with one index is that one's trouble, and no error of the disk leaves half of anything."""

from __future__ import annotations

import shutil

import pytest

from skeg import (
    CorruptError,
    ExistsError,
    StorageError,
)
from skeg.ann import Index
from skeg.catalog import NAME, write_catalog
from tests.database.small import DIM, damage, opened, vindexes
from tests.indexes import contents


@pytest.mark.parametrize("mode", ["rw", "r"])
def test_a_damaged_index_is_in_quarantine_and_all_else_works(path, shards, mode):
    folder = damage(path, "live", shards - 1)
    before = contents(folder)
    with opened(path, mode=mode) as db:
        infos = {info.name: info for info in db.indexes()}
        assert ("quarantined", 0, DIM) == (infos["live"].state, infos["live"].count, infos["live"].dim)
        assert str(folder) in infos["live"].problem
        assert "ready" == infos["flat"].state
        assert {"state": "quarantined", "problem": infos["live"].problem} == db.stats()["indexes"]["live"]
        for _ in range(2):
            with pytest.raises(CorruptError) as caught:
                db.index("live")
            assert infos["live"].problem == str(caught.value)
        assert [infos["live"].problem] == [str(finding) for finding in db.verify()]
        assert 5 == len(db.index("flat"))
        assert b"v" == db.kv.get(b"k")
        assert "live" in db
        with pytest.raises(CorruptError):
            db.snapshot(path.parent / "copy")
        assert not (path.parent / "copy").exists()
        if mode == "rw":
            with pytest.raises(ExistsError):
                db.create_index("live", DIM)
    after = contents(folder)
    assert before == {name: data for name, data in after.items() if name in before}
    assert after.keys() - before.keys() <= {"writer.lock"}


def test_a_damaged_index_can_be_dropped_and_made_anew(path):
    damage(path, "live")
    with opened(path) as db:
        db.drop_index("live")
        db.create_index("live", 9)
    with opened(path) as db:
        assert [("flat", "ready"), ("live", "ready")] == [(info.name, info.state) for info in db.indexes()]
        assert [] == db.verify()


def test_a_fragment_that_is_missing_or_another_is_damage(path, shards):
    shutil.rmtree(path / f"shard-{shards - 1}" / "vindex-live")
    with opened(path) as db, pytest.raises(StorageError):
        db.index("live")
    shutil.copytree(path / f"shard-{shards - 1}" / "vindex-flat", path / f"shard-{shards - 1}" / "vindex-live")
    with opened(path) as db, pytest.raises(CorruptError, match="another index"):
        db.index("live")


@pytest.mark.parametrize("mode", ["rw", "r"])
def test_a_damaged_catalogue_refuses_and_nothing_is_removed(path, mode):
    data = (path / NAME).read_bytes()
    (path / NAME).write_bytes(data.replace(b"live", b"life"))
    before = vindexes(path)
    with pytest.raises(CorruptError, match="checksum"):
        opened(path, mode=mode)
    (path / NAME).unlink()
    with pytest.raises(CorruptError, match="missing"):
        opened(path, mode=mode)
    assert before == vindexes(path)
    (path / NAME).write_bytes(data)
    opened(path, mode=mode).close()  # whoever was refused holds no lock


def test_verify_finds_a_catalogue_that_was_damaged_since(path):
    with opened(path, mode="r") as db:
        (path / NAME).write_bytes((path / NAME).read_bytes()[:-5])
        assert ["manifest is not valid JSON"] == [finding.problem for finding in db.verify()]


def test_folders_that_the_catalogue_does_not_name_go_with_the_next_writer(path, shards):
    before = vindexes(path)
    for name in ("vindex-gone", "vindex-live.building-999999-0123456789abcdef"):
        shutil.copytree(path / "shard-0" / "vindex-live", path / "shard-0" / name)
    (path / "shard-0" / "other").mkdir()
    opened(path, mode="r").close()
    assert len(before) + 2 == len(vindexes(path))
    opened(path).close()
    assert before == vindexes(path)
    assert (path / "shard-0" / "other").is_dir()


# An error of the disk in the middle


@pytest.mark.parametrize("step", ["catalogue", "second fragment", "after"])
def test_an_index_that_could_not_be_made_is_not_there(tmp_path, monkeypatch, step):
    with opened(tmp_path / "db", shards=2) as db:
        db.create_index("old", 3)
        real = Index.create.__func__
        made = []

        def create(cls, path, dim, **how):
            made.append(path)
            if len(made) == 2:
                raise StorageError(path, "no space")
            return real(cls, path, dim, **how)

        def write(folder, entries):
            if step == "after":
                write_catalog(folder, entries)
            raise StorageError(folder, "no space")

        if step == "second fragment":
            monkeypatch.setattr(Index, "create", classmethod(create))
        else:
            monkeypatch.setattr("skeg.registry.write_catalog", write)
        if step == "after":  # what was done counts
            db.create_index("new", 3)
        else:
            with pytest.raises(StorageError, match="no space"):
                db.create_index("new", 3)
        assert ["shard-0/vindex-old", "shard-1/vindex-old"] == [n for n in vindexes(tmp_path / "db") if "old" in n]
        assert (step == "after") == any("new" in n for n in vindexes(tmp_path / "db"))
        monkeypatch.undo()
        if step != "after":
            db.create_index("new", 3)
        assert 0 == len(db.index("new"))
    with opened(tmp_path / "db") as db:
        assert ["new", "old"] == [info.name for info in db.indexes()]


def test_an_index_that_could_not_be_dropped_is_still_there(path, monkeypatch):
    def refuse(folder, _entries):
        raise StorageError(folder, "no space")

    with opened(path) as db:
        monkeypatch.setattr("skeg.registry.write_catalog", refuse)
        with pytest.raises(StorageError, match="no space"):
            db.drop_index("live")
        assert 60 == len(db.index("live"))
