"""The manifest of a store."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh3_64_hexdigest, xxh3_64_intdigest, xxh3_128_digest

from skeg.errors import CorruptError, FormatError, StorageError, VersionTooNewError
from skeg.kv.manifest import SHARDS_MAX, Manifest, pack_manifest, unpack_manifest
from skeg.signed import pack_signed

MANIFEST = Manifest(3, bytes(range(16)), 0xAB, 2**64 - 1)
FIELDS = {
    "format": "skeg-kv",
    "version": 1,
    "shards": 3,
    "store_id": bytes(range(16)).hex(),
    "hash_seed": f"{0xAB:016x}",
    "salt": "f" * 16,
}


def test_the_bytes_of_a_manifest():
    rest = (
        b'"format":"skeg-kv","hash_seed":"00000000000000ab","salt":"ffffffffffffffff","shards":3,'
        b'"store_id":"000102030405060708090a0b0c0d0e0f","version":1}'
    )
    digest = xxh3_64_hexdigest(b"{" + rest).encode()
    assert b'{"checksum":"' + digest + b'",' + rest == pack_manifest(MANIFEST)
    assert MANIFEST == unpack_manifest(pack_manifest(MANIFEST), "p")


@given(
    shards=st.integers(1, SHARDS_MAX),
    store_id=st.binary(min_size=16, max_size=16),
    hash_seed=st.integers(0, 2**64 - 1),
    salt=st.integers(0, 2**64 - 1),
)
def test_any_manifest_is_read_as_it_was_written(shards, store_id, hash_seed, salt):
    manifest = Manifest(shards, store_id, hash_seed, salt)
    assert manifest == unpack_manifest(pack_manifest(manifest), "p")


def test_any_bit_changed_is_noticed():
    data = pack_manifest(MANIFEST)
    for bit in range(8 * len(data)):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(StorageError) as caught:
            unpack_manifest(bytes(changed), "p")
        assert isinstance(caught.value, CorruptError | FormatError)


def test_a_manifest_cut_anywhere_is_noticed():
    data = pack_manifest(MANIFEST)
    for length in range(len(data)):
        with pytest.raises(CorruptError):
            unpack_manifest(data[:length], "p")


@pytest.mark.parametrize("version", [2, 10**30])
def test_a_newer_version_is_named_however_it_is_signed(version):
    newer = pack_signed(FIELDS | {"version": version, "shards": ["something", "else"]})
    for data in (newer, newer.replace(b'"checksum":"', b'"signature":"')):
        with pytest.raises(VersionTooNewError, match=f"expected version 1, found {version}"):
            unpack_manifest(data, "p")


@pytest.mark.parametrize("version", [None, True, "1", 1.0, [1]])
def test_a_version_that_is_no_integer_is_damage(version):
    with pytest.raises(CorruptError, match="manifest version: expected an integer"):
        unpack_manifest(pack_signed(FIELDS | {"version": version}), "p")


@pytest.mark.parametrize(
    "change",
    [
        {"shards": 0},
        {"shards": -1},
        {"shards": SHARDS_MAX + 1},
        {"shards": True},
        {"shards": "3"},
        {"shards": 3.0},
        {"shards": None},
        {"store_id": "00" * 15},
        {"store_id": "00" * 17},
        {"store_id": "zz" * 16},
        {"store_id": 5},
        {"hash_seed": "no hex"},
        {"hash_seed": 5},
        {"salt": ""},
        {"salt": None},
    ],
)
def test_impossible_values_are_damage_though_the_checksum_holds(change):
    with pytest.raises(CorruptError, match=r"impossible values|missing or out of range"):
        unpack_manifest(pack_signed(FIELDS | change), "p")


@pytest.mark.parametrize("missing", ["shards", "store_id", "hash_seed", "salt"])
def test_a_missing_field_is_damage(missing):
    with pytest.raises(CorruptError, match=f"missing or out of range .*{missing}"):
        unpack_manifest(pack_signed({name: value for name, value in FIELDS.items() if name != missing}), "p")


@pytest.mark.parametrize("format_", ["skeg-index", None, 7])
def test_another_format_is_no_store(format_):
    with pytest.raises(FormatError, match="not the manifest of a key-value store"):
        unpack_manifest(pack_signed(FIELDS | {"format": format_}), "p")


def test_each_shard_has_an_id_and_a_salt_of_its_own():
    """So that files of one shard never pass for those of another."""
    shard = xxh3_128_digest(bytes(range(16)) + b"\2\0\0\0")
    assert (shard, xxh3_64_intdigest(shard, 2**64 - 1)) == (MANIFEST.shard_id(2), MANIFEST.shard_salt(2))
    many = Manifest.create(SHARDS_MAX)
    assert SHARDS_MAX == len({many.shard_id(number) for number in range(SHARDS_MAX)})
    assert SHARDS_MAX == len({many.shard_salt(number) for number in range(SHARDS_MAX)})


def test_new_stores_have_secrets_of_their_own():
    made = [Manifest.create(2) for _ in range(50)]
    assert {2} == {manifest.shards for manifest in made}
    assert {16} == {len(manifest.store_id) for manifest in made}
    for name in ("store_id", "hash_seed", "salt"):
        assert len({getattr(manifest, name) for manifest in made}) == 50
    assert max(manifest.hash_seed for manifest in made) >= 2**60
    assert max(manifest.salt for manifest in made) >= 2**60
