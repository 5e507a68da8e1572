"""Makes golden/store-1, a store as version 1 of the formats writes it: ``python -m tests.kv.make_golden FOLDER``.

The store's manifest is fixed, so that the same bytes come out of every run. It was left without being closed: its last
segment has records behind what its hint speaks of, then reserved space; one closed segment has no hint.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from skeg.kv.manifest import Manifest, pack_manifest
from skeg.kv.options import StoreOptions
from skeg.kv.store import open_store

NAME = "store-1"
MANIFEST = Manifest(1, bytes(range(16)), 0x0123456789ABCDEF, 0xFEDCBA9876543210)

EXPECTED = {
    b"": b"the empty key",
    b"empty value": b"",
    b"batch 0": b"first of a batch",
    b"batch 1": bytes(range(100)),
    b"batch 2": b"last of a batch",
    b"old": b"never changed, moved by compaction",
    b"changed": b"for the second time",
    b"rotated": b"r" * 300,
    b"after": b"behind the hint",
    b"large": b"0123456789abcdef" * 300,
}

_OPTIONS = StoreOptions(segment_bytes=512, cache_bytes=0, background=False)


def make(target: Path) -> None:
    """Make the store in a new folder."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder) / NAME
        (work / "shard-0").mkdir(parents=True)
        (work / "manifest.json").write_bytes(pack_manifest(MANIFEST))
        with open_store(work, options=_OPTIONS) as store:
            store.set(b"old", EXPECTED[b"old"])
            store.set(b"changed", b"c" * 200)
            store.set(b"deleted", b"d" * 200)
            store.set(b"changed", b"once")
            store.set(b"gone", b"g" * 250)
            store.delete(b"gone")
            store.compact()
            store.set(b"", EXPECTED[b""])
            store.set_many({key: value for key, value in EXPECTED.items() if key.startswith(b"batch")})
            store.delete(b"deleted")
            store.set(b"rotated", EXPECTED[b"rotated"])
            store.set(b"large", EXPECTED[b"large"])
            store.set(b"changed", EXPECTED[b"changed"])
        with open_store(work, options=_OPTIONS) as store:
            store.set(b"empty value", b"")
            store.set_many({b"after": EXPECTED[b"after"], b"deleted": b"again"})
            store.delete(b"deleted")
            hints = sorted((work / "shard-0").glob("*.hint"))
            shutil.copytree(work, target, ignore=shutil.ignore_patterns("lock", hints[1].name))


if __name__ == "__main__":
    make(Path(sys.argv[1]))
