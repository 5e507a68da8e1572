"""Make the golden folder of an index that changes: a segment with payloads, and a log of what came after.

    python tests/golden/make_live.py

To be run when the format changes, with a new version in the name; files of released versions are never made again.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from skeg.ann import Index

HERE = Path(__file__).resolve().parent
NAME = "live-1.0"
DIM = 8


def vectors(n: int) -> np.ndarray:
    """Whole numbers, so that every machine gets the same scores."""
    return np.random.default_rng(5).integers(-9, 10, (n, DIM)).astype(np.float32)


def main() -> None:
    """Write the folder, and beside it what has to be found in it."""
    rows = vectors(90)
    payloads = [
        {"year": 1990 + i % 30, "price": i / 4, "new": i % 2 == 0, "lang": "en" if i % 3 else "fr", "tags": ["a", "é"]}
        for i in range(80)
    ]
    with Index.create(HERE / NAME, DIM, metric="l2", kind="int8") as index:
        index.add(np.arange(80), rows[:80], payloads=payloads)
        index.consolidate(threads=1)
        index.add(np.arange(80, 90), rows[80:], payloads=["year=2001 lang=de"] * 9 + [None])
        index.add(3, rows[0] * 2)
        index.delete([4, 5, 85])
        found = {
            "ids": index.ids().tolist(),
            "nearest": index.search(rows[7], k=5).ids.tolist(),
            "filtered": index.search(rows[7], k=5, filter="year >= 2000 AND lang IN (de, fr)").ids.tolist(),
            "payloads": index.payloads([0, 3, 80, 89]),
            "vector of 3": index.get(3).tolist(),
        }
    (HERE / NAME / "writer.lock").unlink()
    (HERE / f"{NAME}.json").write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
