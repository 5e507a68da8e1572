"""Exact nearest neighbors by cosine: the ground truth of every set in this folder.

    python datasets/truth.py BASE.npy QUERIES.npy TRUTH.npy [--k 100] [--first 1000]

Inner products are accumulated in float64. For float16 vectors of unit length they are not only accurate but
exact: every float16 is a multiple of 2^-24, so every product is a multiple of 2^-48, and sums below 32 of such
multiples fit the 53 bits of a float64 whatever the order of summation. The truth of a float16 set is therefore the
same on every machine. Equal scores are ordered by row.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

BLOCK_ROWS = 8192


def exact_top(base: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """The rows of `base` (n, dim) nearest to each of `queries` (q, dim) by cosine: (q, min(k, n)) int32, best first.

    Reads `base` in blocks, so it may be a memory map of any size.
    """
    points = np.asarray(queries, dtype=np.float64)
    scores = np.empty((len(points), 0))
    rows = np.empty((len(points), 0), dtype=np.int64)
    for start in range(0, len(base), BLOCK_ROWS):
        block = np.asarray(base[start : start + BLOCK_ROWS], dtype=np.float64)
        lengths = np.sqrt(np.einsum("ij,ij->i", block, block))
        here = np.broadcast_to(np.arange(start, start + len(block)), (len(points), len(block)))
        scores, rows = _best(
            np.hstack([scores, points @ block.T / lengths]),
            np.hstack([rows, here]),
            k,
        )
    return rows.astype(np.int32)


def _best(scores: np.ndarray, rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k best columns of each line by (score descending, row ascending), sorted so."""
    if scores.shape[1] > k:
        # A partition alone would choose freely among scores equal to the k-th, so keep all of those and sort.
        threshold = np.partition(scores, scores.shape[1] - k, axis=1)[:, -k]
        keep = scores >= threshold[:, None]
        width = int(keep.sum(axis=1).max())
        kept = np.argsort(~keep, axis=1, kind="stable")[:, :width]
        scores, rows = np.take_along_axis(scores, kept, 1), np.take_along_axis(rows, kept, 1)
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


def main() -> None:
    """Command line: see the top of this file."""
    parser = argparse.ArgumentParser(description="Exact nearest rows by cosine.")
    parser.add_argument("base", type=Path, help="(n, dim) .npy")
    parser.add_argument("queries", type=Path, help="(q, dim) .npy")
    parser.add_argument("out", type=Path, help="(q, k) int32 .npy to write")
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--first", type=int, default=None, help="only the first so many queries")
    options = parser.parse_args()
    queries = np.load(options.queries)[: options.first]
    np.save(options.out, exact_top(np.load(options.base, mmap_mode="r"), queries, options.k))


if __name__ == "__main__":
    main()
