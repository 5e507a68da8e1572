"""Quick searches, whose replies one kernel writes: they are those of a search and of its encoding."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

import skeg
from skeg.errors import ClosedError
from skeg.net.binary.replies import encode_hits
from skeg.net.engine.quick import ROOMS_MAX, Room, Rooms
from skeg.net.engine.searches import Plan
from skeg.net.kernels.answer import BINARY
from skeg.net.resp.hits import encode_search

N, DIM = 400, 24
RNG = np.random.default_rng(5)
X = RNG.normal(size=(N, DIM)).astype(np.float32)
QUERIES = RNG.normal(size=(40, DIM)).astype(np.float32)


class QuickSearch:
    """A plan and a room for it."""

    def __init__(self, plan, form):
        self.plan, self.room = plan, Room(plan.target.dim, plan.k, form)

    def answer(self, query):
        return self.room.answer(self.plan, query)


def twin(index, query, k, list_size, form):
    hits = index.search(query, k, search_list_size=list_size)
    return encode_hits(hits.ids, hits.scores) if form == BINARY else encode_search(hits, None, form)


@pytest.fixture(params=["cosine", "l2", "ip"])
def database(request, tmp_path):
    with skeg.open(tmp_path / "data") as database:
        index = database.create_index("x", DIM, metric=request.param, backend="disk")
        index.add(np.arange(N, dtype=np.uint64) ** 3, X)
        index.consolidate(threads=1)
        del index
        yield database


@pytest.mark.parametrize(("k", "list_size"), [(1, None), (10, 17), (10, 5), (128, 128)])
@pytest.mark.parametrize("form", [2, 3, BINARY])
def test_replies_are_those_of_a_search(database, k, list_size, form):
    index = database.index("x")
    search = QuickSearch(Plan(index, k, list_size), form)
    for query in QUERIES:
        assert twin(index, query, k, list_size, form) == search.answer(query.tobytes())


def test_searches_by_turns_do_not_disturb_each_other(database):
    index = database.index("x")
    rooms = Rooms()
    plans = [Plan(index, k, list_size) for k, list_size in ((1, 20), (10, 20), (10, None), (100, 100))]
    for query in QUERIES:
        for plan in plans:
            for form in (2, 3, BINARY):
                expected = twin(index, query, plan.k, plan.list_size, form)
                assert expected == rooms.get((DIM, plan.k, form)).answer(plan, query.tobytes())
        index.search(query, 3, search_list_size=50)
    assert 9 == len({id(rooms.get((DIM, k, form))) for k in (1, 10, 100) for form in (2, 3, BINARY)})


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e38, 1e-42])
def test_what_is_not_usual_is_left_to_others_or_right(database, value):
    index = database.index("x")
    search, query = QuickSearch(Plan(index, 5, 20), 2), np.full(DIM, value, np.float32)
    reply = search.answer(query.tobytes())
    if value < 1:
        assert reply in (None, twin(index, query, 5, 20, 2))
    else:
        assert reply is None
    assert search.answer(QUERIES[0].tobytes()) is not None


def test_a_zero_query_is_answered_if_it_has_an_answer(database):
    index = database.index("x")
    reply = QuickSearch(Plan(index, 5, 20), 2).answer(bytes(4 * DIM))
    if index.metric == "cosine":
        assert reply is None
    else:
        assert twin(index, np.zeros(DIM, np.float32), 5, 20, 2) == reply


def test_rows_in_memory_and_dead_ones_are_left_to_others(database):
    index = database.index("x")
    search = QuickSearch(Plan(index, 5, 20), 2)
    query = QUERIES[0].tobytes()
    assert search.answer(query) is not None
    index.add(7_000_000_000, QUERIES[0])
    assert search.answer(query) is None
    index.consolidate(threads=1)
    assert twin(index, QUERIES[0], 5, 20, 2) == search.answer(query)
    index.delete(7_000_000_000)
    assert search.answer(query) is None
    index.consolidate(threads=1)
    assert twin(index, QUERIES[0], 5, 20, 2) == search.answer(query)


def test_the_default_list_size_is_that_of_the_moment(database):
    index = database.index("x")
    search = QuickSearch(Plan(index, 10, None), 2)
    before = search.answer(QUERIES[0].tobytes())
    index.tune(QUERIES, 0.3)
    assert twin(index, QUERIES[0], 10, None, 2) == search.answer(QUERIES[0].tobytes())
    index.tune(QUERIES, 1.0)
    assert twin(index, QUERIES[0], 10, None, 2) == search.answer(QUERIES[0].tobytes())
    assert before is not None


def test_an_index_that_is_gone_is_closed(database):
    search = QuickSearch(Plan(database.index("x"), 5, 20), 2)
    database.drop_index("x")
    with pytest.raises(ClosedError):
        search.answer(QUERIES[0].tobytes())


def test_an_index_that_was_built_for_reading_too(database, tmp_path):
    path = tmp_path / "data"
    database.close()
    with skeg.open(path, mode="r") as reading:
        index = reading.index("x")
        search = QuickSearch(Plan(index, 10, 17), 3)
        assert [twin(index, q, 10, 17, 3) for q in QUERIES] == [search.answer(q.tobytes()) for q in QUERIES]


def test_few_are_kept():
    rooms = Rooms()
    first = rooms.get((DIM, 1, 2))
    assert rooms.get((DIM, 1, 2)) is first
    for k in range(2, ROOMS_MAX + 2):
        rooms.get((DIM, k, 2))
    assert rooms.get((DIM, 1, 2)) is not first


def test_an_index_does_not_stay_because_it_was_searched(database):
    index = database.index("x")
    rooms = Rooms()
    assert rooms.get((DIM, 5, 2)).answer(Plan(index, 5, 20), QUERIES[0].tobytes()) is not None
    database.drop_index("x")
    gone = weakref.ref(index)
    del index
    gc.collect()
    assert gone() is None
