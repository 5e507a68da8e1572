"""No crash loses what was acknowledged: processes that end and power cuts, at every call that changes the disk."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from skeg.ann import Index, build_index
from skeg.durability import Durability
from tests.ann.live.crashing import CHANGING, NAMES, WRITING, Dead, Machine
from tests.ann.live.small import contents, limit, no_background

DIM = 3
SYNC, OS, NONE = Durability.SYNC, Durability.OS, Durability.NONE


@pytest.fixture(autouse=True)
def _alone(monkeypatch):
    """Nothing happens in the background, eight rows at a time become a segment, and `Machine` knows of syncs."""
    no_background(monkeypatch)
    limit(monkeypatch, MERGE_ROWS_MIN=8)
    for name in ("fsync", "fdatasync"):
        monkeypatch.setattr(os, name, lambda _: None)


def vector(vector_id, version):
    return np.array([vector_id, version, 1], np.float32)


class Session:
    """An index in use beside a dict of the versions of its vectors.

    Attributes
    ----------
    states : list of dict
        What was acknowledged after each operation; the last one may be under way.
    durable : int
        The first of them that a power cut may leave.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.states = [{}]
        self.durable = 0
        self.acknowledged = 0
        self.index = None

    def open(self):
        self.index = Index.open(self.path, mode="rw")

    def _do(self, call, after, durability):
        self.states.append(after)
        call()
        self.acknowledged = len(self.states) - 1
        if durability is SYNC:
            self.durable = self.acknowledged

    def add(self, ids, version, durability=SYNC, payloads=None):
        vectors = [vector(i, version) for i in ids]
        after = self.states[-1] | dict.fromkeys(ids, version)
        self._do(lambda: self.index.add(ids, vectors, payloads=payloads, durability=durability), after, durability)

    def delete(self, ids, durability=SYNC):
        after = {i: version for i, version in self.states[-1].items() if i not in ids}
        self._do(lambda: self.index.delete(ids, durability=durability), after, durability)

    def consolidate(self):
        self._do(lambda: self.index.consolidate(threads=1), self.states[-1], SYNC)

    def tune(self):
        self.index._searcher.tune({"list_size": 70})

    def close(self):
        self._do(self.index.close, self.states[-1], SYNC)

    def abandon(self):
        """Give up the lock, as the system does for a dead process, and nothing else."""
        if self.index is not None and self.index._engine._lock is not None:
            self.index._engine._lock.release()
        self.index = None


def whole_life(session):
    session.open()
    session.add([1, 2, 3], 1)
    session.delete([2])
    session.add([3, 4], 2, payloads=["a=1", {"b": 2}])
    session.add([5, 6], 1, OS)
    session.delete([1], OS)
    session.consolidate()
    session.add([1], 3)
    session.add([7], 1, NONE)
    session.delete([3, 4], NONE)
    session.add([5], 2, SYNC, [b"\0\xff"])
    session.tune()
    session.consolidate()
    session.add(list(range(4, 14)), 4)  # so many become a segment at once
    session.add([14], 1)
    session.close()
    session.open()
    session.add([15], 1)
    session.delete(list(range(16)))
    session.consolidate()
    session.add([1, 2], 5)
    session.close()


def vectors_of(known):
    return {i: vector(i, version).tolist() for i, version in known.items()}


def check(path, allowed, *, go_on=True):
    """What is left opens for reading and writing, holds one of the allowed states, and can be used."""
    with Index.open(path) as reader:
        found = contents(reader)
    with Index.open(path, mode="rw") as index:
        assert found == contents(index)
        held = next((known for known in allowed if vectors_of(known) == found), None)
        assert held is not None, f"{found} is none of {allowed}"
        assert [] == index.verify()
        names = {file.name for file in path.iterdir()}
        assert {"manifest.json", "writer.lock"} == {n for n in names if not n.startswith(("log-", "segment-"))}
        assert len(held) == len(index)
        hits = index.search(np.ones(DIM), 30)
        assert sorted(held) == sorted(hits.ids.tolist())
        if not go_on:
            return
        index.add(99, vector(99, 1))
        index.delete(list(held)[:1])
        index.consolidate(threads=1)
        assert [] == index.verify()
        after = contents(index)
        assert {99, *list(held)[1:]} == set(after)
        segments = [file.name for file in path.iterdir() if file.name.startswith(("segment-", "log-"))]
        assert 1 == len(segments)
    with Index.open(path) as reader:
        assert after == contents(reader)


def die(template, folder, script, last=None, *, torn=False):
    """Run a script on a copy of a folder, up to call number ``last``; gives the machine, to be closed, and session."""
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder)
    machine = Machine(folder, last, torn=torn)
    session = Session(folder / "index")
    with machine.running():
        try:
            script(session)
        except Dead:
            assert machine.is_dead
        finally:
            session.abandon()
    return machine, session


def calls_of(template, folder, script):
    """Names of all the calls that change the disk."""
    machine, _ = die(template, folder, script)
    machine.close()
    return machine.calls


@pytest.fixture
def template(tmp_path):
    """A folder with an empty index."""
    folder = tmp_path / "template"
    folder.mkdir()
    Index.create(folder / "index", DIM, metric="l2", kind="f32", max_degree=8).close()
    return folder


@pytest.fixture
def left(tmp_path):
    """A place for what is left; empty again when it was looked at."""

    @contextlib.contextmanager
    def place():
        yield tmp_path / "left"
        shutil.rmtree(tmp_path / "left")

    return place


def test_nothing_that_was_synced_is_lost(template, tmp_path, left):
    calls = calls_of(template, tmp_path / "disk", whole_life)
    assert set(CHANGING) <= {*calls, "write", "ftruncate", "rename"}
    for last in range(1, len(calls) + 1):
        machine, session = die(template, tmp_path / "disk", whole_life, last)
        allowed = session.states[session.durable :]
        with left() as place:
            check(machine.killed(place) / "index", allowed, go_on=last % 4 == 0)
        for turn, names in enumerate(NAMES, 1):
            with left() as place:
                check(machine.power_cut(place, names=names) / "index", allowed, go_on=last % 4 == turn)
        machine.close()


def test_half_a_write_is_none(template, tmp_path, left):
    for last, name in enumerate(calls_of(template, tmp_path / "disk", whole_life), 1):
        if name in WRITING:
            machine, session = die(template, tmp_path / "disk", whole_life, last, torn=True)
            machine.close()
            with left() as place:
                check(machine.killed(place) / "index", session.states[session.durable :], go_on=last % 4 == 0)


def test_what_the_system_was_given_survives_the_process(template, tmp_path, left):
    def script(session):
        session.open()
        session.add([1, 2], 1, OS)
        session.add([2], 2, OS)
        session.consolidate()
        session.delete([1], OS)

    for last in range(1, len(calls_of(template, tmp_path / "disk", script)) + 1):
        machine, session = die(template, tmp_path / "disk", script, last)
        machine.close()
        with left() as place:
            check(machine.killed(place) / "index", session.states[session.acknowledged :], go_on=False)


def test_a_crash_while_opening_after_a_crash_loses_nothing(template, tmp_path, left):
    def again(session):
        session.open()
        session.add([1], 9)
        session.close()

    calls = calls_of(template, tmp_path / "disk", whole_life)
    for first in range(7, len(calls), 41):
        machine, session = die(template, tmp_path / "disk", whole_life, first)
        machine.close()
        before = machine.killed(tmp_path / "before")
        allowed = session.states[session.durable :]
        allowed += [known | {1: 9} for known in allowed]
        for last in range(1, len(calls_of(before, tmp_path / "disk", again)) + 1):
            machine, _ = die(before, tmp_path / "disk", again, last)
            for names in NAMES:
                with left() as place:
                    check(machine.power_cut(place, names=names) / "index", allowed, go_on=last == 1)
            machine.close()
        shutil.rmtree(before)


def test_an_index_that_never_changed_is_whole_at_any_step_of_its_first_opening(tmp_path, left):
    folder = tmp_path / "template"
    folder.mkdir()
    known = dict.fromkeys(range(20), 1)
    build_index([vector(i, 1) for i in known], folder / "index", ids=list(known), metric="l2", kind="f32").close()

    def script(session):
        session.states = [known]
        session.open()
        session.add([3, 30], 2)
        session.consolidate()

    for last in range(1, len(calls_of(folder, tmp_path / "disk", script)) + 1):
        machine, session = die(folder, tmp_path / "disk", script, last)
        for names in NAMES:
            with left() as place:
                check(
                    machine.power_cut(place, names=names) / "index",
                    [known, *session.states[session.durable :]],
                    go_on=last % 4 == 0,
                )
        machine.close()


def test_a_new_index_is_there_whole_or_not_at_all(tmp_path, left):
    folder = tmp_path / "template"
    folder.mkdir()

    def script(session):
        session.index = Index.create(session.path, DIM, metric="l2", kind="f32")

    for last in range(1, len(calls_of(folder, tmp_path / "disk", script)) + 1):
        machine, _ = die(folder, tmp_path / "disk", script, last)
        for names in NAMES:
            with left() as place:
                path = machine.power_cut(place, names=names) / "index"
                if not path.exists():
                    Index.create(path, DIM, metric="l2", kind="f32").close()
                check(path, [{}], go_on=False)
        machine.close()
