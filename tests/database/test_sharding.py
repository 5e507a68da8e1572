"""Which shard a vector belongs to: part of the format, and what clients may rely on."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_intdigest

from skeg.sharding import shard_of, shards_of

PRIME = 2**61 - 1
KNOWN = {
    0: 0xC77B3ABB6F87ACD9,
    1: 0x2FBC593564DB792E,
    42: 0xD5A6F8C838DF27C8,
    2**64 - 1: 0x5111C7E47D784413,
}


@pytest.mark.parametrize(("vector_id", "hashed"), KNOWN.items())
@pytest.mark.parametrize("shards", [2, 3, 7, 256, PRIME])
def test_known_hashes(vector_id, hashed, shards):
    assert hashed % shards == shard_of(vector_id, shards)
    assert [hashed % shards] == shards_of(np.array([vector_id], np.uint64), shards).tolist()


@given(st.lists(st.integers(0, 2**64 - 1), max_size=20), st.integers(1, 256))
def test_one_id_and_many_agree_with_the_hash(ids, shards):
    expected = [xxh3_64_intdigest(i.to_bytes(8, "little")) % shards for i in ids]
    assert expected == shards_of(np.array(ids, np.uint64), shards).tolist()
    assert expected == [shard_of(i, shards) for i in ids]
