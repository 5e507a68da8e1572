"""Many keys at a time that have values already, in memory or not, by kernels and without, beside a dict."""

from __future__ import annotations

import random

import pytest

from skeg.fileops import File
from skeg.kv import Durability, Store, StoreOptions
from skeg.kv.batches import KERNEL_MEMBERS
from skeg.kv.store import open_store

KEYS = [b"k%d" % i for i in range(4 * KERNEL_MEMBERS)]
ALL_BITS = 2**64 - 1


@pytest.mark.kernels
@pytest.mark.parametrize("by_kernel", [False, True])
@pytest.mark.parametrize("mask", [0x3, 0xFF, ALL_BITS])
@pytest.mark.parametrize("cache_bytes", [0, 20_000, 1 << 20])
def test_a_store_does_what_a_dict_does(tmp_path, by_kernel, mask, cache_bytes):
    rng = random.Random(f"{mask} {cache_bytes}")
    options = StoreOptions(cache_bytes=cache_bytes, segment_bytes=20_000)
    model = {}
    with open_store(tmp_path / "store", options=options, hash_mask=mask) as store:
        if by_kernel:
            store._parts.shards[0].use_kernels()
        for _ in range(120):
            some = rng.sample(KEYS, rng.randrange(1, len(KEYS)))
            level = rng.choice([*Durability])
            match rng.randrange(5):
                case 0 | 1:
                    items = {key: bytes(rng.choices(b"ab", k=rng.randrange(5))) for key in some}
                    store.set_many(items, durability=level)
                    model |= items
                case 2:
                    for key in some[:5]:
                        store.set(key, b"alone", durability=level)
                        model[key] = b"alone"
                case 3:
                    for key in some[:3]:
                        assert store.delete(key, durability=level) == (model.pop(key, None) is not None)
                case 4:
                    assert [model.get(key) for key in some] == [store.get(key) for key in some]
        assert model == dict(store.scan())
        assert len(model) == len(store)
        assert [] == store.verify()
    if mask == ALL_BITS:
        with Store.open(tmp_path / "store", mode="r") as store:
            assert model == dict(store.scan())


@pytest.mark.parametrize("count", [1, KERNEL_MEMBERS - 1, KERNEL_MEMBERS, 3 * KERNEL_MEMBERS])
def test_writing_keys_that_are_in_memory_reads_nothing(tmp_path, count, monkeypatch):
    items = dict.fromkeys(KEYS[:count], b"old")
    with Store.open(tmp_path / "store") as store:
        store.set_many(items)
        assert [b"old"] * count == [store.get(key) for key in items]
        with monkeypatch.context() as patch:
            patch.setattr(File, "pread", lambda *_: pytest.fail("something was read"))
            store.set_many(dict.fromkeys(items, b"new"))
            assert [b"new"] * count == [store.get(key) for key in items]
