from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skeg.ann.hits import MISSING_ID, Hits
from skeg.net.resp.encode import encode
from skeg.net.resp.hits import encode_hits, encode_search

pytestmark = pytest.mark.kernels

# Scores of all sizes, those that are too extreme for the kernel among them.
SCORES = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=12)
VERSIONS = st.sampled_from([2, 3])


def arrays(ids, scores):
    return np.array(ids, np.uint64), np.array(scores, np.float32)


def flat(ids, scores, payloads=None):
    """The hits of one query as one list, for `encode`."""
    values = []
    for place, (id_, score) in enumerate(zip(ids, scores, strict=True)):
        values += [b"%d" % id_, float(score)] + ([] if payloads is None else [payloads[place]])
    return values


def some_ids(scores):
    return [(i * 7919 * 10**15) % (2**64 - 1) for i in range(len(scores))]


@settings(max_examples=300, deadline=None)
@given(SCORES, VERSIONS, st.booleans())
def test_hits_are_a_flat_array_of_what_encode_makes_of_their_parts(scores, version, with_payload):
    ids = some_ids(scores)
    payloads = [None if i % 3 == 0 else b"p" * i for i in range(len(scores))] if with_payload else None
    expected = encode(flat(ids, scores, payloads), version)
    assert expected == encode_hits(*arrays(ids, scores), payloads, version)
    rows = None if payloads is None else [payloads]
    assert expected == encode_search(Hits(*arrays(ids, scores), "cosine"), rows, version)


@settings(max_examples=200, deadline=None)
@given(st.lists(SCORES, min_size=1, max_size=5), VERSIONS, st.booleans())
def test_hits_of_many_are_an_array_of_those_of_each(rows, version, with_payload):
    width = max(map(len, rows))
    ids, scores = np.full((len(rows), width), MISSING_ID, np.uint64), np.full((len(rows), width), -np.inf, np.float32)
    expected, payloads = [], []
    for row, found in enumerate(rows):
        ids[row, : len(found)], scores[row, : len(found)] = arrays(some_ids(found), found)
        payloads.append([b"p"] * len(found))
        expected.append(flat(some_ids(found), found, payloads[-1] if with_payload else None))
    hits = Hits(ids, scores, "cosine")
    assert encode(expected, version) == encode_search(hits, payloads if with_payload else None, version)


def test_bytes_of_hits():
    found = arrays([2**64 - 2, 7], [1.0, 0.1])
    assert b"*4\r\n$20\r\n18446744073709551614\r\n,1\r\n$1\r\n7\r\n,0.10000000149011612\r\n" == encode_hits(
        *found, None, 3
    )
    assert b"*3\r\n$1\r\n7\r\n$2\r\n-0\r\n$-1\r\n" == encode_hits(*arrays([7], [-0.0]), [None], 2)
    assert b"*0\r\n" == encode_hits(*arrays([], []), None, 2)


@pytest.mark.parametrize("score", [1e-20, 1e20, np.finfo(np.float32).max, np.finfo(np.float32).tiny, 1e-45])
def test_one_score_that_the_kernel_can_not_write_among_others(score):
    ids, scores = arrays([1, 2, 3], [0.5, score, -2.0])
    assert encode(flat([1, 2, 3], scores), 2) == encode_hits(ids, scores, None, 2)
    hits = Hits(np.stack([ids, ids]), np.stack([scores[::-1], scores]), "l2")
    assert encode([flat([1, 2, 3], scores[::-1]), flat([1, 2, 3], scores)], 3) == encode_search(hits, None, 3)
