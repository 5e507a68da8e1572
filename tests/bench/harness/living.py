"""The sums behind the figures of indexes that change: which rows a filter keeps, who is alive, what should be found."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .arithmetic import recall_by_threshold
from .data import BLOCK_ROWS, K, exact_rows, unit_rows

# Times that centers are drawn in search of a cell of about the size that was asked for, and what is about the size.
DRAWS = 32
CLOSE_SIZE = 0.05
# Length of the noise that makes a new vector of an old one: their cosine is about .98.
NOISE = 0.2

Rows = NDArray[np.int64]
Mask = NDArray[np.bool_]
Vectors = NDArray[np.float32]


def scattered(n: int, share: float, rng: np.random.Generator) -> Mask:
    """A share of n rows, anywhere, but at least `K`."""
    mask = np.zeros(n, np.bool_)
    mask[rng.permutation(n)[: max(round(share * n), K)]] = True
    return mask


def clustered(base: Vectors, share: float, rng: np.random.Generator) -> Mask:
    """About a share of the rows that lie together: all that are nearer to one of some random rows than to the others.

    1 / share rows are drawn, so that a cell has the size on the average; the cell that is nearest to that is taken. It
    is drawn again while none is within 5 %, and has at least `K` rows.
    """
    n = len(base)
    wanted, best, mask = max(share * n, K), np.inf, np.ones(n, np.bool_)
    for _ in range(DRAWS):
        centers = base[np.sort(rng.choice(n, min(max(round(1 / share), 2), n), replace=False))]
        nearest = np.concatenate(
            [(base[at : at + BLOCK_ROWS] @ centers.T).argmax(axis=1) for at in range(0, n, BLOCK_ROWS)]
        )
        sizes = np.bincount(nearest, minlength=len(centers))
        errors = np.where(sizes >= K, np.abs(sizes - wanted), np.inf)
        cell = int(errors.argmin())
        if errors[cell] < best:
            best, mask = float(errors[cell]), nearest == cell
        if best <= CLOSE_SIZE * wanted:
            break
    return mask


def answers_among(base: Vectors, queries: Vectors, rows: Rows) -> Rows:
    """True row numbers (n_queries, at most K), best first, where only some rows can be found."""
    return rows[exact_rows(base[rows], queries, min(K, len(rows)))]


def recall_among(found: Rows, base: Vectors, queries: Vectors, truth: Rows, may: Mask) -> float:
    """Recall of the rows that were found, at the width of the truth; a row that can't be found is a miss."""
    return recall_by_threshold(only(found, may), base, queries, truth, truth.shape[1])


def complete_share(found: Rows, may: Mask) -> float:
    """Share of queries that got K different rows, or all there are, each of which can be found."""
    rows = np.sort(only(found, may), axis=1)
    new = rows >= 0
    new[:, 1:] &= rows[:, 1:] != rows[:, :-1]
    return float((new.sum(axis=1) >= min(K, int(may.sum()))).mean())


def only(found: Rows, may: Mask) -> Rows:
    """The rows, with -1 for those that can't be found."""
    inside = (found >= 0) & (found < len(may))
    return np.where(inside & may[np.where(inside, found, 0)], found, -1)


def churn_groups(n: int, rounds: int, rng: np.random.Generator) -> list[Rows]:
    """n rows in `rounds + 1` random groups of the same size, but for the last, which also has what is left over.

    Of the first `rounds` one is deleted each round, and the one that was deleted the round before comes back; in the
    first round that is the last group, which was not there at the beginning.
    """
    size = n // (rounds + 1)
    return np.split(rng.permutation(n), [size * (i + 1) for i in range(rounds)])


class Ledger:
    """Which rows are in an index, and by which ids; each time a row is added it gets an id that was never used."""

    def __init__(self, n: int) -> None:
        self.id_of = np.full(n, -1, np.int64)
        self._row_of = np.zeros(0, np.int64)

    @property
    def alive(self) -> Mask:
        return self.id_of >= 0

    @property
    def rows(self) -> Rows:
        return np.flatnonzero(self.alive)

    def add(self, rows: Rows) -> Rows:
        """New ids for rows that are not there."""
        assert not self.alive[rows].any()
        ids = np.arange(len(self._row_of), len(self._row_of) + len(rows))
        self._row_of = np.concatenate([self._row_of, rows])
        self.id_of[rows] = ids
        return ids

    def remove(self, rows: Rows) -> Rows:
        """The ids of rows that are there and now are not."""
        ids = self.id_of[rows]
        assert (ids >= 0).all()
        self.id_of[rows] = -1
        return ids

    def rows_of(self, ids: NDArray[np.integer]) -> Rows:
        """Row of each id; -1 for one that is not in the index, or no longer."""
        known = (ids >= 0) & (ids < len(self._row_of))
        rows = self._row_of[np.where(known, ids, 0).astype(np.int64)]
        return np.where(known & (self.id_of[rows] == ids.astype(np.int64)), rows, -1)


def new_vectors(rows: Vectors, start: int, count: int) -> Vectors:
    """Vectors (count, dim) of an endless supply, from one of them on: the rows, then rows with noise."""
    numbers = np.arange(start, start + count)
    made = rows[numbers % len(rows)]
    noise = np.random.default_rng(start).standard_normal(made.shape, np.float32) * (NOISE / rows.shape[1] ** 0.5)
    return unit_rows(made + noise * (numbers >= len(rows))[:, None])
