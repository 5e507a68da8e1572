"""A search and its reply by one kernel, beside one after the other; in every way in which kernels run."""

from __future__ import annotations

import numpy as np
import pytest

from skeg.ann.fused import call_search
from skeg.ann.index import Index
from skeg.net.binary.replies import encode_hits
from skeg.net.kernels.answer import BINARY, UNANSWERED, search_and_write
from skeg.net.kernels.hits import HEAD_BYTES_MAX, HIT_BYTES_MAX, pack_hits
from skeg.net.resp.encode import encode
from tests.indexes import built, queries

pytestmark = pytest.mark.kernels

GUARD = 0xAA


@pytest.fixture(scope="module")
def index():
    with Index.open(built("int8", n=40)) as index:
        yield index


def reply_of(index, query, k, form):
    """What the kernel writes, or the number that it gives instead."""
    scores, room = np.empty(k, np.float32), 4 + 12 * k if form == BINARY else HEAD_BYTES_MAX + HIT_BYTES_MAX * k
    out = np.full(room + 1, GUARD, np.uint8)
    rest = (np.empty(k, np.uint64), scores, scores.view(np.uint32), form, out[:room])
    end = call_search(index, search_and_write, query, k, 20, rest)
    assert GUARD == out[room]
    return end if end < 0 else out[:end].tobytes()


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("k", [1, 10, 60])
def test_it_is_a_search_and_its_reply(index, k, version):
    """Of 60 hits there are but 40."""
    for query in queries(5):
        hits = index.search(query, k, search_list_size=20)
        values = [value for hit in zip(hits.ids.tolist(), hits.scores.tolist(), strict=True) for value in hit]
        expected = encode([str(value) if isinstance(value, int) else value for value in values], version)
        assert expected == reply_of(index, query, k, version)


@pytest.mark.parametrize("k", [1, 10, 60])
def test_it_is_a_search_and_its_reply_in_the_binary_protocol(index, k):
    for query in queries(5):
        hits = index.search(query, k, search_list_size=20)
        assert encode_hits(hits.ids, hits.scores) == reply_of(index, query, k, BINARY)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_ids_and_scores_of_any_bits_are_packed(count):
    ids = np.array([2**64 - 2, 0, 0x0123456789ABCDEF], np.uint64)
    scores = np.array([-0.0, np.inf, 1e-42], np.float32)
    out = np.full(4 + 12 * count + 1, GUARD, np.uint8)
    end = pack_hits(ids, scores.view(np.uint32), count, out)
    assert encode_hits(ids[:count], scores[:count]) == out[:end].tobytes()
    assert [GUARD] == out[end:].tolist()


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_a_query_that_can_not_be_is_not_answered(index, value):
    assert UNANSWERED == reply_of(index, np.full(index.dim, value, np.float32), 10, 2)
    assert UNANSWERED == reply_of(index, np.full(index.dim, value, np.float32), 10, BINARY)
