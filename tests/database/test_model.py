"""Whatever is done to a database, in whatever order: it holds what dicts hold, and so it is found again."""

from __future__ import annotations

import random

import numpy as np
import pytest

from skeg import ExistsError, NotFoundError, VectorError
from skeg.kv import Durability
from tests.ann.live.small import check_hits, limit
from tests.database.small import opened

DIM = 3
NAMES = ["a", "b", "long-name.0"]


class Model:
    """A database beside dicts: name -> (metric, id -> (vector, payload)), and key -> value."""

    def __init__(self, path, shards, seed):
        self.path = path
        self.rng = random.Random(seed)
        self.indexes = {}
        self.kv = {}
        self.db = opened(path, shards=shards)

    def vector(self):
        return [float(self.rng.randrange(-5, 6)) for _ in range(DIM - 1)] + [1.0]

    def ids(self, most=12):
        return self.rng.sample(range(40), self.rng.randrange(1, most))

    def level(self):
        return self.rng.choice(list(Durability))

    def create(self):
        name, metric = self.rng.choice(NAMES), self.rng.choice(["cosine", "ip", "l2"])
        backend = self.rng.choice(["disk", "flat"])
        if name in self.indexes:
            with pytest.raises(ExistsError):
                self.db.create_index(name, DIM)
            return
        self.db.create_index(name, DIM, metric=metric, backend=backend)
        self.indexes[name] = (metric, {})

    def build(self):
        name, ids = self.rng.choice(NAMES), self.ids(30)
        if name in self.indexes:
            return
        vectors = [self.vector() for _ in ids]
        self.db.build_index(name, np.array(vectors), ids=ids, metric="l2", threads=1)
        self.indexes[name] = ("l2", {i: (v, None) for i, v in zip(ids, vectors, strict=True)})

    def drop(self):
        name = self.rng.choice(NAMES)
        if name not in self.indexes:
            with pytest.raises(NotFoundError):
                self.db.drop_index(name)
            return
        self.db.drop_index(name)
        del self.indexes[name]

    def some(self):
        name = self.rng.choice(sorted(self.indexes))
        return self.db.index(name), self.indexes[name][1]

    def add(self):
        index, known = self.some()
        ids = self.ids()
        vectors = [self.vector() for _ in ids]
        payloads = [self.rng.choice([None, {"n": self.rng.randrange(5)}]) for _ in ids]
        how = self.rng.choice(["replace", "replace", "skip", "error"])
        new = {i: (v, p) for i, v, p in zip(ids, vectors, payloads, strict=True) if how == "replace" or i not in known}
        if how == "error" and len(new) < len(ids):
            with pytest.raises(VectorError, match="which the index holds"):
                index.add(ids, vectors, payloads=payloads, on_conflict=how)
            return
        assert len(new) == index.add(ids, vectors, payloads=payloads, on_conflict=how, durability=self.level())
        known.update(new)

    def update(self):
        index, known = self.some()
        ids = [i for i in self.ids() if i in known]
        if ids:
            vectors = [self.vector() for _ in ids]
            assert len(ids) == index.update(ids, vectors, durability=self.level())
            known.update({i: (v, known[i][1]) for i, v in zip(ids, vectors, strict=True)})

    def delete(self):
        index, known = self.some()
        ids = self.ids()
        assert len(set(ids) & set(known)) == index.delete(ids, durability=self.level())
        for i in ids:
            known.pop(i, None)

    def search(self):
        index, known = self.some()
        query, k = self.vector(), self.rng.choice([1, 3, 50])
        exact = self.rng.random() < 0.5
        number = self.rng.randrange(5)
        text = self.rng.choice([None, f"n <= {number}"])
        matching = {
            i: vector
            for i, (vector, payload) in known.items()
            if text is None or (payload is not None and payload["n"] <= number)
        }
        if exact or index.backend == "flat" or k == 50:
            hits = index.search(query, k, exact=exact, filter=text, with_payload=True)
            check_hits(hits, matching, query, k, index.metric)
            assert [known[i][1] for i in hits.ids.tolist()] == hits.payloads

    def merge(self):
        self.some()[0].consolidate(threads=1)

    def keys(self):
        key = b"%d" % self.rng.randrange(20)
        match self.rng.randrange(4):
            case 0:
                assert (self.kv.pop(key, None) is not None) == self.db.kv.delete(key, durability=self.level())
            case 1:
                assert self.kv.get(key) == self.db.kv.get(key)
            case 2:
                self.db.kv.compact()
            case _:
                self.kv[key] = b"v%d" % self.rng.randrange(100)
                self.db.kv.set(key, self.kv[key], durability=self.level())

    def reopen(self):
        self.db.close()
        with opened(self.path, mode="r") as reader:
            self.check(reader)
        self.db = opened(self.path)
        self.check(self.db)

    def check(self, db):
        assert sorted(self.indexes) == [info.name for info in db.indexes()]
        for name, (metric, known) in self.indexes.items():
            index = db.index(name)
            assert (metric, len(known)) == (index.metric, len(index))
            assert sorted(known) == index.ids().tolist()
            if known:
                assert [vector for vector, _ in known.values()] == index.get(list(known)).tolist()
                assert [payload for _, payload in known.values()] == index.payloads(list(known))
        assert self.kv == dict(db.kv.scan())
        assert [] == db.verify()

    def step(self):
        needs_index = [self.add, self.add, self.update, self.delete, self.search, self.search, self.merge]
        always = [self.create, self.build, self.drop, self.keys, self.keys, self.reopen]
        self.rng.choice(always + (needs_index * 3 if self.indexes else []))()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shards", [1, 3])
def test_a_database_holds_what_dicts_hold(tmp_path, monkeypatch, shards, seed):
    limit(monkeypatch, MERGE_ROWS_MIN=16)
    model = Model(tmp_path / "db", shards, seed)
    try:
        for _ in range(90):
            model.step()
        model.check(model.db)
        model.db.snapshot(tmp_path / "copy")
    finally:
        model.db.close()
    with opened(tmp_path / "copy") as copy:
        model.check(copy)
