"""Work space that is used again: for other parts, other settings, and other filters than the last time."""

from __future__ import annotations

import numpy as np
import pytest

from skeg.ann import Index
from skeg.ann.kernels.search import OK
from skeg.ann.live.single import SingleSearch
from tests.ann.live.small import check_hits, no_background


@pytest.fixture
def index(tmp_path, monkeypatch):
    """120 vectors in a segment, 40 in memory, ids in that order."""
    no_background(monkeypatch)
    with Index.create(tmp_path / "index", 6, metric="l2", kind="f32", max_degree=8) as opened:
        opened.add(np.arange(120), vectors(120))
        opened.consolidate()
        opened.add(np.arange(120, 160), vectors(40, seed=1))
        yield opened


def vectors(n, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 6)).astype(np.float32)


def test_one_search_does_not_see_what_another_asked_for(index):
    """k, list size, filters and what is there change from call to call, in any order."""
    known = dict(enumerate([*vectors(120), *vectors(40, seed=1)]))
    rng = np.random.default_rng(2)
    for turn in range(120):
        query, k = rng.standard_normal(6).astype(np.float32), int(rng.integers(1, 40))
        allowed = rng.choice(200, int(rng.integers(1, 150)), replace=False) if turn % 3 else None
        some = known if allowed is None else {i: known[i] for i in allowed.tolist() if i in known}
        size = int(rng.integers(160, 400)) if turn % 2 else 160
        check_hits(index.search(query, k, search_list_size=size, rerank=160, filter=allowed), some, query, k, "l2")
        if turn % 5 == 0:
            known[turn] = rng.standard_normal(6).astype(np.float32)
            index.add(turn, known[turn])
        if turn % 7 == 0:
            gone = int(rng.choice(list(known)))
            assert 1 == index.delete(gone)
            del known[gone]
        if turn in {40, 80}:
            index.consolidate()


def test_a_search_among_rows_that_come_after_it_began_begins_anew(index):
    """The newest part is empty when the search begins; the row that is in it at the end took another's place."""
    index.consolidate()
    index.delete(3)
    engine = index._engine
    rows = engine.view.rows[-1]
    real = type(engine.view.searches[0]).strategy
    calls = []

    def strategy(self, *args, **options):
        found = real(self, *args, **options)
        calls.append(self.part)
        if len(calls) == 2:  # both parts were looked at
            index.add(5, [9.0] * 6)
        return found

    assert 0 == rows.count
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(engine.view.searches[0]), "strategy", strategy)
        hits = index.search([9.0] * 6, 1)
    assert [5] == hits.ids.tolist()


def test_work_space_that_grows_for_one_part_does_not_move_under_another(index):
    """Rows that came meanwhile are looked at in the first place; the next search looks at their part in the second."""
    view = index._engine.view
    single, settings = SingleSearch(2), view.settings
    query = np.float32([9] * 6)
    index.add(500, query)
    ids, scores = np.zeros(3, np.uint64), np.zeros(3, np.float32)
    for size in (3, 50, 400):
        wanted = settings.get(3, size, size)
        asked = [(search, search.strategy(wanted, None), None) for search in view.searches]
        both = single.run(query, asked, 0, ids, scores)
        assert (OK, 3, 500) == (*both[:2], ids[0])
        larger = view.searches[1].strategy(settings.get(3, 2 * size, 2 * size), None)
        assert (OK, 3) == single.run(query, [(view.searches[1], larger, None)], 0, ids, scores)[:2]
        assert both == single.run(query, asked, 0, ids, scores)
