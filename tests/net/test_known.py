"""What is remembered of searches, and when it is no longer so."""

from __future__ import annotations

import numpy as np
import pytest

import skeg
from skeg.net.binary.frames import Op, pack_frame
from skeg.net.binary.replies import encode_hits
from skeg.net.binary.requests import Vsearch, encode_request
from skeg.net.known import KNOWN_MAX, KnownSearch, KnownSearches
from skeg.net.vectors import plan_of

DIM, N = 4, 30


def rows(seed):
    return np.random.default_rng(seed).normal(size=(N, DIM)).astype(np.float32)


def fill(database, seed, dim=DIM):
    index = database.create_index("x", dim, backend="disk")
    index.add(np.arange(N), rows(seed)[:, :dim])
    index.consolidate(threads=1)
    return index


@pytest.fixture
def database(tmp_path):
    with skeg.open(tmp_path / "data", shards=1) as database:
        fill(database, 1)
        yield database


def known_of(database, k=5, list_size=20):
    return KnownSearch.of("x", plan_of(database.index("x"), k, list_size), bytes, 2)


def test_a_search_is_remembered_for_queries_of_its_dimension(database):
    searches, known = KnownSearches(database), known_of(database)
    assert searches.get("a", 4 * DIM) is None
    searches.add("a", known, 5, 20)
    assert searches.get("a", 4 * DIM) is known
    assert searches.get("a", 4 * DIM + 4) is None
    assert searches.get("b", 4 * DIM) is None
    assert searches.get("a", 4 * DIM) is known


@pytest.mark.parametrize("is_back", [False, True])
def test_it_is_forgotten_with_the_index(database, is_back):
    searches = KnownSearches(database)
    searches.add("a", known_of(database), 5, 20)
    database.drop_index("x")
    if is_back:
        fill(database, 2)
    assert searches.get("a", 4 * DIM) is None
    assert not searches._by_spelling


@pytest.mark.parametrize(("k", "list_size", "is_kept"), [(5, 0, True), (N, N, True), (N + 1, 0, False), (5, 99, False)])
def test_what_depends_on_the_size_of_the_index_is_not_remembered(database, k, list_size, is_kept):
    searches = KnownSearches(database)
    searches.add("a", known_of(database, k, list_size), k, list_size)
    assert is_kept == (searches.get("a", 4 * DIM) is not None)


def test_few_are_remembered(database):
    searches, known = KnownSearches(database), known_of(database)
    for number in range(3 * KNOWN_MAX):
        searches.add(number, known, 5, 20)
        assert len(searches._by_spelling) <= KNOWN_MAX
        assert searches.get(number, 4 * DIM) is known


@pytest.mark.parametrize("dim", [DIM, DIM - 1])
def test_a_binary_client_searches_the_index_of_that_name_now(talk, tmp_path, dim):
    path = tmp_path / "data"
    query = rows(3)[0]

    def request(k):
        op, payload = encode_request(Vsearch("x", k, query.tobytes(), 20))
        return pack_frame(2, op, 7, payload)

    def expected(index, k):
        hits = index.search(query, k, search_list_size=20)
        return pack_frame(2, Op.OK, 7, encode_hits(hits.ids, hits.scores))

    async def work(sessions):
        database = sessions.server.engine.database
        connection, wire = sessions.open("binary")
        index = fill(database, 1)
        replies = [expected(index, k) for k in (5, 5, 6)]
        assert b"".join(replies) == await sessions.ask(connection, wire, b"".join(map(request, (5, 5, 6))))
        database.drop_index("x")
        assert b"not found" in await sessions.ask(connection, wire, request(5))
        index = fill(database, 2, dim)
        answer = await sessions.ask(connection, wire, request(5))
        if dim == DIM:
            assert expected(index, 5) == answer
        else:
            assert b"dim 3 but query has 4" in answer

    talk(work, path=path, mode="rw")
