"""How the golden indexes were made: `python tests/golden/make_indexes.py`, once for each version of the format.

Readers have to open them as long as they read that version, so this is run again only beside a new one.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from skeg.ann import build_index
from skeg.ann.format import VERSION
from skeg.ann.sample import load_wordnet

HERE = Path(__file__).parent
CASES = [
    ("f32", "cosine"),
    ("int8", "ip"),
    ("tq4", "cosine"),
    ("tq4", "l2"),
    ("tq2", "l2"),
    ("tq1", "cosine"),
    ("binary", "ip"),
    ("pq", "l2"),
]


def main() -> None:
    """Write one folder for each case, the vectors in them, and what searches have to find."""
    name = f"index-{VERSION[0]}.{VERSION[1]}"
    wordnet = load_wordnet()
    factors = 1 + np.arange(40, dtype=np.float32)[:, None] % 3 / 2
    vectors = wordnet.vectors[:40, :16].astype(np.float32) * factors
    queries = wordnet.queries[:5, :16].astype(np.float32)
    ids = np.arange(40, dtype=np.uint64)[::-1] * 1000 + 2**40
    answers = {}
    for kind, metric in CASES:
        case = f"{name}-{kind}-{metric}"
        options = {"max_degree": 8, "build_list_size": 16, "threads": 1}
        with build_index(vectors, HERE / case, ids=ids, kind=kind, metric=metric, **options) as index:
            hits = index.search(queries, 10, exact=True)
            answers[case] = {"ids": hits.ids.tolist(), "scores": hits.scores.tolist()}
    np.savez(HERE / f"{name}.npz", vectors=vectors, queries=queries, ids=ids)
    (HERE / f"{name}.json").write_text(json.dumps(answers, indent=1) + "\n")


if __name__ == "__main__":
    main()
