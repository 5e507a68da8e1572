"""A large set from a small one: copies of its rows with a little Gaussian noise.

    python datasets/make_noisy.py BASE.npy OUT.npy [--rows 1000000] [--noise 0.3] [--seed 0]

Row i of OUT is row i mod n of BASE plus noise whose expected length is `--noise` times the length of a unit
vector, brought back to unit length, float32. With 0.3 the copies of one row have a cosine of about 0.92 with each
other: nearer than most neighbors in BASE, so the set is one of many small tight clusters laid over real structure.
It is good for sizes and speeds; quote recall from real sets.

Constant memory: BASE is a memory map, OUT is written block by block. The same seed gives the same bytes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from skeg.ann.writers import write_npy

BLOCK_ROWS = 8192  # part of the recipe: each block draws from its own random stream


def noisy_blocks(base: np.ndarray, n_rows: int, noise: float, seed: int) -> Iterator[np.ndarray]:
    """Blocks of unit float32 rows, `n_rows` in all; `base` is (n, dim) of unit rows."""
    dim = base.shape[1]
    for start in range(0, n_rows, BLOCK_ROWS):
        rows = np.arange(start, min(start + BLOCK_ROWS, n_rows)) % len(base)
        stream = np.random.default_rng([seed, start // BLOCK_ROWS])
        block = stream.standard_normal((len(rows), dim), dtype=np.float32)
        block *= np.float32(noise / np.sqrt(dim))
        block += base[rows]
        block /= np.linalg.norm(block, axis=1, keepdims=True)
        yield block


def main() -> None:
    """Command line: see the top of this file."""
    parser = argparse.ArgumentParser(description="A large set by noise around the rows of a small one.")
    parser.add_argument("base", type=Path, help="(n, dim) .npy of unit rows")
    parser.add_argument("out", type=Path, help="(rows, dim) float32 .npy to write")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--noise", type=float, default=0.3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    base = np.load(options.base, mmap_mode="r")
    write_npy(options.out, noisy_blocks(base, options.rows, options.noise, options.seed), dim=base.shape[1])


if __name__ == "__main__":
    main()
