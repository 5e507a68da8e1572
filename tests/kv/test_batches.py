"""Batches made by few calls, against records made one by one."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skeg.kv import batches
from skeg.kv import format as fmt
from skeg.kv.batches import KERNEL_MEMBERS, Batch, Packer
from skeg.kv.entries import HASH_MASK, KeyHash

pytestmark = pytest.mark.kernels

PLACE = fmt.place_of(0xA5A5_0123_4567_89AB, 7)
SEED = 0xFEDC_BA98_7654_3210


def packer(by_kernel: bool, mask: int = HASH_MASK) -> Packer:
    made = Packer(KeyHash(SEED, mask))
    if by_kernel:
        made.use_kernels()
    return made


PACKERS = {by_kernel: packer(by_kernel) for by_kernel in (False, True)}


def pack_one_by_one(items: dict[bytes, bytes], offset: int, seq: int, durable: int) -> tuple[bytes, list[int]]:
    """The batch, and where its members stand."""
    members, places = b"", []
    for i, (key, value) in enumerate(items.items()):
        places.append(offset + fmt.RECORD_BYTES + len(members))
        members += fmt.pack_record(PLACE, places[-1], fmt.VALUE, seq + i, key, value, fmt.MEMBER * 8)
    return fmt.pack_batch(PLACE, offset, seq, members, durable), places


def check(items: dict[bytes, bytes], by_kernel: bool, offset: int = 64, seq: int = 1, durable: int = 64) -> None:
    expected, places = pack_one_by_one(items, offset, seq, durable)
    batch = Batch.of(items)
    assert [fmt.record_bytes(len(key), len(value)) for key, value in items.items()] == batch.sizes.tolist()
    assert places == batch.offsets(offset).tolist()
    assert (len(items), len(expected)) == (len(batch), batch.nbytes)
    with mock.patch.object(batches, "KERNEL_MEMBERS", 1):
        data, hashes = PACKERS[by_kernel].pack(batch, PLACE, offset, seq, durable)
    assert isinstance(data, bytes)
    assert expected == data
    assert [KeyHash(SEED).hash(key) for key in items] == hashes.tolist()


@pytest.mark.parametrize("by_kernel", [False, True])
@given(
    items=st.dictionaries(st.binary(max_size=40), st.binary(max_size=100), min_size=1, max_size=5),
    seq=st.integers(0, 2**48 - 6),
    offset=st.integers(8, 2**26 - 1).map(lambda n: n * 8),
    durable=st.integers(8, 2**26 - 1).map(lambda n: n * 8),
)
def test_a_batch_has_the_bytes_of_its_records(by_kernel, items, seq, offset, durable):
    check(items, by_kernel, offset, seq, durable)


@pytest.mark.parametrize("by_kernel", [False, True])
@pytest.mark.parametrize("klen", [0, 1, 3, 4, 8, 9, 16, 17, 128, 129, 240, 241, 1025, 65_535])
def test_lengths_at_which_hashes_are_computed_otherwise(by_kernel, klen):
    check({bytes(klen): b"", bytes(klen) + b"x" if klen < 65_535 else b"x": b"v" * klen, b"y": b"z"}, by_kernel)


@pytest.mark.parametrize("by_kernel", [False, True])
def test_a_large_value_among_small_ones_at_the_end_of_the_numbers(by_kernel, rng):
    large = rng.bytes(300_001)
    check({b"a": b"1", b"b": large, b"c": b""}, by_kernel, (256 << 20) - 64, 2**48 - 3, 256 << 20)


@pytest.mark.parametrize("mask", [0, 1, 0xFF])
def test_hashes_are_masked_and_never_0(mask):
    items = {b"%d" % i: b"" for i in range(KERNEL_MEMBERS)}
    by_hand, by_kernel = (
        packer(kernel, mask).pack(Batch.of(items), PLACE, 64, 1, 64).hashes for kernel in (False, True)
    )
    assert by_hand.tolist() == by_kernel.tolist()
    assert min(by_hand) > 0
    assert max(by_hand) <= max(mask, 1)


@pytest.mark.parametrize("n", [1, KERNEL_MEMBERS - 1, KERNEL_MEMBERS, KERNEL_MEMBERS + 1])
def test_the_kernel_does_what_is_large_enough(n):
    made = packer(True)
    made._kernel = mock.Mock(wraps=made._kernel)
    batch = Batch.of({b"%d" % i: b"v" for i in range(n)})
    assert made.pack(batch, PLACE, 64, 1, 64).data == PACKERS[False].pack(batch, PLACE, 64, 1, 64).data
    assert (n >= KERNEL_MEMBERS) == made._kernel.called


def test_a_batch_whose_values_are_all_empty():
    items = {np.int64(i).tobytes(): b"" for i in range(100)}
    check(items, by_kernel=True)
