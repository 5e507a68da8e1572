"""Whatever call a process ends at while an index is made, built or dropped: it is there as a whole, or not at all."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from skeg.catalog import read_catalog
from tests.ann.live.crashing import Dead, Machine
from tests.ann.live.small import no_background
from tests.database.small import opened, vindexes

DIM = 3
X = np.eye(DIM, dtype=np.float32)


def first(db):
    db.create_index("new", DIM, metric="l2", kind="f32")


def build(db):
    db.build_index("new", X, metric="l2", kind="f32", threads=1)


def drop(db):
    db.drop_index("old")


SCRIPTS = {"first": first, "create": first, "build": build, "drop": drop}


@pytest.fixture
def template(tmp_path, monkeypatch):
    no_background(monkeypatch)

    def make(script):
        folder = tmp_path / "template"
        folder.mkdir()
        with opened(folder / "db", shards=2) as db:
            db.kv.set(b"k", b"v")
            if script != "first":
                db.create_index("old", DIM, metric="l2", kind="f32").add([0, 1, 2], X)
        return folder

    return make


def run(template, folder, script, last=None):
    """Run a script on a copy of a folder, up to call number ``last``; gives the machine, to be closed."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder)
    db = opened(folder / "db")
    machine = Machine(folder, last)
    with machine.running():
        try:
            SCRIPTS[script](db)
        except Dead:
            assert machine.is_dead
    return machine


def check(path, allowed):
    """A reader and a writer find one of the sets of names that are allowed, and work; gives which."""
    with opened(path, mode="r") as reader:
        found = {info.name for info in reader.indexes()}
        assert ["ready"] * len(found) == [info.state for info in reader.indexes()]
    with opened(path) as db:
        assert found == {info.name for info in db.indexes()}
        assert found in allowed
        assert {f"shard-{i}/vindex-{name}" for name in found for i in range(2)} == set(vindexes(path))
        assert b"v" == db.kv.get(b"k")
        assert [] == db.verify()
        for name in found:
            assert len(db.index(name)) in ((3,) if name == "old" else (0, 3))
        for name in {"old", "new"} - found:
            db.create_index(name, DIM)
    assert {"old", "new"} == set(read_catalog(path))
    return found


@pytest.mark.parametrize("script", SCRIPTS)
def test_an_index_is_there_as_a_whole_or_not_at_all(template, tmp_path, script):
    folder = template(script)
    before = set() if script == "first" else {"old"}
    after = set() if script == "drop" else before | {"new"}
    machine = run(folder, tmp_path / "disk", script)
    count = len(machine.calls)
    machine.close()
    seen = []
    # Of a build, whose files nobody knows before it ends, not every call.
    for last in [*range(1, count + 1, 9 if script == "build" else 2), count - 1, count]:
        machine = run(folder, tmp_path / "disk", script, last)
        for left in (machine.killed, lambda target, m=machine: m.power_cut(target, names="synced")):
            place = left(tmp_path / "left")
            seen.append(check(place / "db", (before, after)))
            shutil.rmtree(place)
        machine.close()
    assert before in seen
    assert after in seen


def test_what_was_made_or_dropped_when_the_call_returned_stays_so(template, tmp_path):
    for script, expected in (("create", {"old", "new"}), ("drop", set())):
        folder = template(script)
        machine = run(folder, tmp_path / "disk", script)
        place = machine.power_cut(tmp_path / "left", names="synced")
        assert expected == check(place / "db", (expected,))
        machine.close()
        for used in (folder, place):
            shutil.rmtree(used)
