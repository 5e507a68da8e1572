"""``manifest.json`` of a store: what never changes after its creation. This module is the file's specification.

The file has the form of `skeg.signed`, with the keys ``format`` ("skeg-kv"), ``version`` (1), ``shards`` (int),
``store_id`` (32 hexadecimal digits), ``hash_seed`` and ``salt`` (16 each).

It is the last thing that the creation of a store writes, so a folder with a manifest is a whole store.
"""

from __future__ import annotations

import secrets

import attrs
from xxhash import xxh3_64_intdigest, xxh3_128_digest

from skeg.errors import CorruptError, VersionTooNewError
from skeg.files import AnyPath
from skeg.signed import check_signed, pack_signed, parse_signed

NAME = "manifest.json"
FORMAT = "skeg-kv"
VERSION = 1
BYTES_MAX = 1 << 16
SHARDS_MAX = 256


@attrs.frozen
class Manifest:
    """What the manifest says.

    Parameters
    ----------
    shards : int
        Number of shards, 1 to 256.
    store_id : bytes
        16 random bytes.
    hash_seed : int
        Random seed of the key hashes, so that nobody can prepare keys that collide.
    salt : int
        Random number behind the places of records, see `shard_salt` and `skeg.kv.format`.
    """

    shards: int
    store_id: bytes
    hash_seed: int
    salt: int

    @classmethod
    def create(cls, shards: int) -> Manifest:
        """A manifest for a new store."""
        return cls(shards, secrets.token_bytes(16), secrets.randbits(64), secrets.randbits(64))

    def shard_id(self, number: int) -> bytes:
        """16 bytes that every segment and hint of a shard carries: XXH3-128 of the store id and the shard's number."""
        return xxh3_128_digest(self.store_id + number.to_bytes(4, "little"))

    def shard_salt(self, number: int) -> int:
        """What is in the place of every record of a shard: XXH3-64 of the shard id, with the salt as its seed."""
        return xxh3_64_intdigest(self.shard_id(number), self.salt)


def pack_manifest(manifest: Manifest) -> bytes:
    """Bytes of manifest.json."""
    return pack_signed(
        {
            "format": FORMAT,
            "version": VERSION,
            "shards": manifest.shards,
            "store_id": manifest.store_id.hex(),
            "hash_seed": f"{manifest.hash_seed:016x}",
            "salt": f"{manifest.salt:016x}",
        }
    )


def unpack_manifest(data: bytes, path: AnyPath) -> Manifest:
    """Read the bytes of the file `path`.

    Raises
    ------
    FormatError
        Not the manifest of a key-value store.
    VersionTooNewError
        Written by a newer skeg.
    CorruptError
        Damaged.
    """
    fields = parse_signed(data, path, FORMAT, "the manifest of a key-value store")
    version = fields.get("version")
    if type(version) is not int:
        raise CorruptError(path, "manifest version", expected="an integer", found=repr(version))
    if version > VERSION:
        raise VersionTooNewError(path, "written by a newer skeg", expected=f"version {VERSION}", found=str(version))
    check_signed(data, fields, path)
    try:
        manifest = Manifest(
            fields["shards"],
            bytes.fromhex(fields["store_id"]),
            int(fields["hash_seed"], 16),
            int(fields["salt"], 16),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptError(path, f"manifest with a field missing or out of range ({error})") from error
    if type(manifest.shards) is not int or not 1 <= manifest.shards <= SHARDS_MAX or len(manifest.store_id) != 16:
        raise CorruptError(path, "manifest holds impossible values", expected="1 to 256 shards", found=str(manifest))
    return manifest
