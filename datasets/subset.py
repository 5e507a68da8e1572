"""Cut a small set out of a full one; the bundled datasets/wordnet-10k was made by this.

    python datasets/subset.py FULL OUT [--rows 10000] [--queries 1000] [--nearest 5]

FULL is a folder made by make_wordnet.py. The first `--queries` queries are kept. The rows kept are

1. the `--nearest` true nearest rows of every one of them in FULL, so that the best answers to a query are the same as
   over the whole of WordNet and make sense to a reader;
2. as many others as are missing, drawn evenly from all that remain by the order of a hash of their keys.

They stay in the order of FULL. The truth is computed anew among them. The same FULL gives the same bytes everywhere.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
from pathlib import Path

import numpy as np
from texts import read_lines, write_checksums, write_lines
from truth import exact_top

TRUTH_K = 100


def choose_rows(keys: list[str], nearest: np.ndarray, n_rows: int) -> np.ndarray:
    """`n_rows` increasing row numbers: all in `nearest`, and others by the hash of their key."""
    favored = np.unique(nearest)
    if not len(favored) <= n_rows <= len(keys):
        raise SystemExit(f"--rows has to be in {len(favored)} (all nearest rows) .. {len(keys)} (all rows)")
    rest = np.setdiff1d(np.arange(len(keys)), favored)
    by_hash = sorted(rest.tolist(), key=lambda row: hashlib.sha256(keys[row].encode()).digest())
    return np.sort(np.concatenate([favored, np.array(by_hash[: n_rows - len(favored)], dtype=np.int64)]))


def main() -> None:
    """Command line: see the top of this file."""
    parser = argparse.ArgumentParser(description="Cut a small set out of a full one.")
    parser.add_argument("full", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--nearest", type=int, default=5)
    options = parser.parse_args()
    full, out = options.full, options.out
    lines = read_lines(full / "words.tsv")
    nearest = np.load(full / "truth.npy")[: options.queries, : options.nearest]
    rows = choose_rows([line.partition("\t")[0] for line in lines], nearest, options.rows)
    vectors = np.load(full / "vectors.npy", mmap_mode="r")[rows]
    queries = np.load(full / "queries.npy", mmap_mode="r")[: options.queries]

    out.mkdir(parents=True, exist_ok=True)
    write_lines(out / "words.tsv", (lines[row] for row in rows))
    write_lines(out / "queries.txt", read_lines(full / "queries.txt")[: options.queries])
    np.save(out / "vectors.npy", vectors)
    np.save(out / "queries.npy", queries)
    np.save(out / "truth.npy", exact_top(vectors, queries, TRUTH_K))
    shutil.copyfile(full / "LICENSE", out / "LICENSE")
    write_checksums(out)
    print(
        f"{out}: {len(rows):,} rows, {len(np.unique(nearest)):,} of them among the nearest of {len(queries):,} queries"
    )


if __name__ == "__main__":
    main()
