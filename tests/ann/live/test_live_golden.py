"""The folder of a changing index that was written by the first version is read, replayed and written to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from skeg.ann import Index

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
FOUND = json.loads((GOLDEN / "live-1.0.json").read_text(encoding="utf-8"))


@pytest.fixture
def folder(tmp_path):
    return Path(shutil.copytree(GOLDEN / "live-1.0", tmp_path / "index"))


@pytest.mark.parametrize("mode", ["r", "rw"])
def test_everything_is_found_again(folder, mode):
    with Index.open(folder, mode=mode) as index:
        query = index.get(7)
        assert FOUND["ids"] == index.ids().tolist()
        assert FOUND["nearest"] == index.search(query, k=5).ids.tolist()
        assert FOUND["filtered"] == index.search(query, k=5, filter="year >= 2000 AND lang IN (de, fr)").ids.tolist()
        assert FOUND["payloads"] == index.payloads([0, 3, 80, 89])
        assert FOUND["vector of 3"] == index.get(3).tolist()
        assert [] == index.verify()


def test_it_can_be_written_to_and_merged(folder):
    with Index.open(folder, mode="rw") as index:
        index.add(4, np.ones(8), payloads={"year": 1999})
        index.consolidate(threads=1)
        assert sorted([*FOUND["ids"], 4]) == index.ids().tolist()
        assert [] == index.verify()
    with Index.open(folder) as index:
        assert {"year": 1999} == index.payloads(4)
        assert FOUND["payloads"] == index.payloads([0, 3, 80, 89])
