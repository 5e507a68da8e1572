"""Any sequence of calls does to an index what it does to a dict, and a search finds what comparing with all finds."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from skeg import NotFoundError, VectorError
from skeg.ann import Index
from skeg.ann.beginning import begin_add
from skeg.durability import Durability
from tests.ann.live.small import check_hits, contents, limit, no_background

DIM = 4
CHUNK = 4
MERGED = 8

# Few ids, so that most calls meet what others did; few numbers, so that vectors repeat.
some_ids = st.integers(0, 40)
vectors = st.lists(st.integers(-2, 2), min_size=DIM, max_size=DIM).filter(any)
rows = st.dictionaries(some_ids, vectors, max_size=12)
levels = st.sampled_from(Durability)


class Model(RuleBasedStateMachine):
    """An index beside a dict, and a reader of it beside what was written when it looked last."""

    @initialize(metric=st.sampled_from(["cosine", "ip", "l2"]), kind=st.sampled_from(["f32", "int8", "tq4"]))
    def create(self, metric, kind):
        self.folder = Path(tempfile.mkdtemp(prefix="skeg-live-model-"))
        self.metric, self.copies = metric, 0
        self.index = Index.create(self.folder / "index", DIM, metric=metric, kind=kind, max_degree=8)
        self.reader = Index.open(self.index.path)
        self.state, self.written, self.read = {}, {}, {}

    def did(self, level=Durability.SYNC):
        if level > Durability.NONE:
            self.written = dict(self.state)

    @rule(given=rows, level=levels)
    def add(self, given, level):
        merges = self.index.stats()["merges"]
        added = self.index.add(list(given), np.reshape(list(given.values()), (-1, DIM)), durability=level)
        assert len(given) == added
        self.state.update(given)
        if given:
            self.did(level if merges == self.index.stats()["merges"] else Durability.SYNC)

    @rule(vector_id=some_ids, vector=vectors, level=levels)
    def add_one(self, vector_id, vector, level):
        self.add({vector_id: vector}, level)

    @rule(vector_id=some_ids, vector=vectors, level=levels)
    def begin_one(self, vector_id, vector, level):
        begun = begin_add(self.index, [vector_id], [vector], None, "update", level)
        if begun is None:
            self.index.add([vector_id], [vector], durability=level)
        else:
            if begun.descriptor is not None:
                os.fdatasync(begun.descriptor)
            assert 1 == begun.finish()
        self.state[vector_id] = vector
        self.did(level)

    @rule(given=rows)
    def add_what_is_new(self, given):
        new = {i: vector for i, vector in given.items() if i not in self.state}
        some = np.reshape(list(given.values()), (-1, DIM))
        assert len(new) == self.index.add(list(given), some, on_conflict="skip")
        self.state.update(new)
        if given:
            self.did()

    @rule(given=rows)
    def add_unless_there(self, given):
        """Vectors go to the index some at a time: those before the first that fails stay."""
        items = list(given.items())
        chunks = [items[start : start + CHUNK] for start in range(0, len(items), CHUNK)]
        good = [chunk for chunk in chunks if not any(i in self.state for i, _ in chunk)]
        first_bad = next((n for n, chunk in enumerate(chunks) if chunk not in good), None)
        some = np.reshape(list(given.values()), (-1, DIM))
        if first_bad is None:
            assert len(given) == self.index.add(list(given), some, on_conflict="error")
        else:
            with pytest.raises(VectorError) as caught:
                self.index.add(list(given), some, on_conflict="error")
            assert [i in self.state for i in given].index(True) == caught.value.row
        for chunk in chunks[:first_bad]:
            self.state.update(chunk)
            self.did()

    @rule(ids=st.lists(some_ids, max_size=12), level=levels)
    def delete(self, ids, level):
        there = {i for i in ids if i in self.state}
        assert len(there) == self.index.delete(ids, durability=level)
        for i in there:
            del self.state[i]
        if ids:
            self.did(level)

    @rule(ids=st.lists(some_ids, max_size=4))
    def get(self, ids):
        if all(i in self.state for i in ids):
            np.testing.assert_array_equal(np.reshape([self.state[i] for i in ids], (-1, DIM)), self.index.get(ids))
        else:
            with pytest.raises(NotFoundError):
                self.index.get(ids)
        assert [i in self.state for i in ids] == [i in self.index for i in ids]

    @rule(query=vectors, k=st.integers(1, 20), exact=st.booleans())
    def search(self, query, k, exact):
        check_hits(self.index.search(query, k, exact=exact), self.state, query, k, self.metric)
        check_hits(self.reader.search(query, k, exact=exact), self.read, query, k, self.metric)

    @rule(queries=st.lists(vectors, min_size=1, max_size=3), k=st.integers(1, 20))
    def search_many(self, queries, k):
        many = self.index.search(queries, k)
        for row, query in enumerate(queries):
            count = int(many.counts[row])
            one = self.index.search(query, k)
            assert one.ids.tolist() == many.ids[row, :count].tolist()
            assert one.scores.tolist() == many.scores[row, :count].tolist()

    @rule()
    def consolidate(self):
        self.index.consolidate(threads=1)
        self.did()
        assert (0, 0) == (self.index.stats()["rows_dead"], self.index.stats()["rows_delta"])

    @rule()
    def work_in_the_background(self):
        self.index._engine._link()
        self.index._engine._writing().flush()
        self.index._engine._merge_if_wanted()
        self.did()

    @rule()
    def link(self):
        self.index._engine._link()

    @rule()
    def refresh(self):
        changed = self.reader.refresh()
        assert changed or self.written == self.read
        self.read = dict(self.written)
        assert self.read == contents(self.reader)
        assert not self.reader.refresh()
        self.reader._engine._link()

    @rule()
    def reopen(self):
        self.index.close()
        self.did()
        self.index = Index.open(self.index.path, mode="rw")

    @rule()
    def be_killed(self):
        """The folder as a killed process leaves it: what was written is there."""
        copy = self.folder / f"killed-{self.copies}"
        self.copies += 1
        shutil.copytree(self.index.path, copy)
        for mode in ("r", "rw"):
            with Index.open(copy, mode=mode) as left:
                assert self.written == contents(left)
                assert [] == left.verify()
        shutil.rmtree(copy)

    @invariant()
    def holds_the_same(self):
        if hasattr(self, "index"):
            assert len(self.state) == len(self.index)
            assert sorted(self.state) == self.index.ids().tolist()
            assert len(self.read) == len(self.reader)

    def teardown(self):
        if hasattr(self, "index"):
            assert self.state == contents(self.index)
            assert self.read == contents(self.reader)
            assert [] == self.index.verify()
            self.index.close()
            self.reader.close()
            with Index.open(self.index.path) as reader:
                assert self.state == contents(reader)
            shutil.rmtree(self.folder)


def test_an_index_does_what_a_dict_does(monkeypatch):
    no_background(monkeypatch)
    limit(monkeypatch, MERGE_ROWS_MIN=MERGED, CHUNK_ROWS=CHUNK, SCAN_ROWS=6, LINK_ROWS=2)
    run_state_machine_as_test(
        Model,
        settings=settings(
            max_examples=60,
            stateful_step_count=30,
            deadline=None,
            report_multiple_bugs=False,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
