"""Small databases that tests of them share."""

from __future__ import annotations

from pathlib import Path

import numpy as np

import skeg
from skeg.catalog import folder_of
from skeg.kv import StoreOptions

DIM = 4
X = np.random.default_rng(5).normal(size=(60, DIM)).astype(np.float32)
IDS = np.arange(60, dtype=np.uint64) * np.uint64(3)

CALM = StoreOptions(background=False)


def opened(path, **how):
    return skeg.open(path, options=CALM, **how)


def state_of(folder):
    """Bytes and time of change of everything below a folder."""
    return {
        str(file.relative_to(folder)): (file.stat().st_mtime_ns, file.read_bytes() if file.is_file() else None)
        for file in sorted(Path(folder).rglob("*"))
    }


def vindexes(folder):
    return sorted(str(place.relative_to(folder)) for place in Path(folder).glob("shard-*/vindex-*"))


def damage(path, name, shard=0):
    """Cut the files of a fragment of an index; gives its folder."""
    folder = path / f"shard-{shard}" / folder_of(name)
    for file in folder.rglob("*.sk*"):
        file.write_bytes(file.read_bytes()[:10])
    (folder / "manifest.json").write_bytes(b"{")
    return folder
