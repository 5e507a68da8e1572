"""Prepares what every engine is given: unit float32 rows, unit queries and the exact answers, as plain .npy files.

Prepared files live in a cache folder under a name made from their sources. They are written under another name first,
so an interrupted run leaves nothing that looks finished. Nothing here holds more than a block of the base in memory.
"""

from __future__ import annotations

import hashlib
import os
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arithmetic import recall_by_threshold

# Depth of the exact answers, which is the k of recall@10.
K = 10
BLOCK_ROWS = 16384


@dataclass(frozen=True)
class DataSet:
    """Prepared files of one experiment; all vectors are float32 of unit length."""

    name: str
    base: Path
    queries: Path
    truth: Path
    n: int
    dim: int
    n_queries: int


def data_sets(options: Namespace) -> Iterator[DataSet]:
    """What the options of a benchmark name, prepared: one set for each number of rows, or one of all."""
    for rows in options.rows or [None]:
        yield prepare(
            options.base,
            options.queries,
            options.truth,
            rows=rows,
            n_queries=options.n_queries,
            cache=options.out / "cache",
        )


def prepare(
    base: Path,
    queries: Path,
    truth: Path | None,
    *,
    rows: int | None,
    n_queries: int,
    cache: Path,
) -> DataSet:
    """Prepare the first `rows` rows of `base` (all when None) and the first `n_queries` queries.

    Exact answers are computed unless `truth` is given and belongs to the whole base.
    """
    cache.mkdir(parents=True, exist_ok=True)
    source = open_vectors(base, "train")
    asked = open_vectors(queries, "test")[:n_queries]
    n = len(source) if rows is None else rows
    if n > len(source):
        raise SystemExit(f"{base} has {len(source)} rows, fewer than the {n} asked for")
    if asked.shape[1] != source.shape[1]:
        raise SystemExit(f"{queries} has {asked.shape[1]} dimensions, {base} has {source.shape[1]}")
    given = truth if n == len(source) else None
    base_file = cache / f"base-{_key(base, n)}.npy"
    query_file = cache / f"queries-{_key(queries, len(asked))}.npy"
    origin = _key(given, len(asked)) if given else "computed"
    truth_file = cache / f"truth-{_key(base, n)}-{_key(queries, len(asked))}-{origin}.npy"
    if not base_file.exists():
        _write_unit_rows(base_file, source, n)
    if not query_file.exists():
        with _published(query_file) as path:
            np.save(path, unit_rows(asked))
    if not truth_file.exists():
        rows32, queries32 = np.load(base_file, mmap_mode="r"), np.load(query_file)
        answers = _checked_truth(given, rows32, queries32) if given else exact_rows(rows32, queries32)
        with _published(truth_file) as path:
            np.save(path, answers)
    name = base.parent.name if base.stem in ("base", "vectors", "base.f16") else base.stem
    return DataSet(name, base_file, query_file, truth_file, n, source.shape[1], len(asked))


def open_vectors(path: Path, dataset: str) -> Any:
    """A sliceable (n, dim) view of a .npy, .fbin, .fvecs, .ivecs, .ibin or ann-benchmarks HDF5 file, read on demand."""
    if path.suffix == ".npy":
        return np.load(path, mmap_mode="r")
    if path.suffix in (".hdf5", ".h5"):
        import h5py  # only these files need it

        return h5py.File(path, "r")[dataset]
    kind = "<f4" if path.suffix in (".fbin", ".fvecs") else "<i4"
    if path.suffix in (".fbin", ".ibin"):
        n, dim = np.fromfile(path, "<u4", 2)
        return np.memmap(path, kind, "r", 8, (int(n), int(dim)))
    if path.suffix in (".fvecs", ".ivecs"):
        dim = int(np.fromfile(path, "<i4", 1)[0])
        return np.memmap(path, kind, "r").reshape(-1, dim + 1)[:, 1:]
    raise SystemExit(f"{path}: don't know this kind of file")


def unit_rows(rows: Any) -> NDArray[np.float32]:
    """Rows scaled to length 1, computed in float64."""
    wide = np.asarray(rows, np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.ascontiguousarray(wide / np.where(lengths == 0, 1, lengths), np.float32)


def exact_rows(base: NDArray[np.float32], queries: NDArray[np.float32], k: int = K) -> NDArray[np.int64]:
    """True row numbers (n_queries, k), best first, by inner product, block by block."""
    best_scores = np.full((len(queries), 0), -np.inf, np.float32)
    best_rows = np.zeros((len(queries), 0), np.int64)
    for start in range(0, len(base), BLOCK_ROWS):
        block = np.asarray(base[start : start + BLOCK_ROWS])
        scores = queries @ block.T
        rows = np.broadcast_to(np.arange(start, start + len(block)), scores.shape)
        best_scores, best_rows = _best(np.hstack([best_scores, scores]), np.hstack([best_rows, rows]), k)
    return best_rows


def _best(
    scores: NDArray[np.float32], rows: NDArray[np.int64], k: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    if scores.shape[1] > k:
        chosen = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        scores, rows = np.take_along_axis(scores, chosen, 1), np.take_along_axis(rows, chosen, 1)
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


def _checked_truth(path: Path, base: NDArray[np.float32], queries: NDArray[np.float32]) -> NDArray[np.int64]:
    """The given answers, refused when the exact ones for some of the queries score better."""
    answers = np.asarray(open_vectors(path, "neighbors")[: len(queries), :K], np.int64)
    if answers.shape != (len(queries), K) or answers.min() < 0 or answers.max() >= len(base):
        raise SystemExit(
            f"{path}: expected ({len(queries)}, >= {K}) row numbers below {len(base)}, found {answers.shape}"
        )
    some = slice(0, 50)
    agreement = recall_by_threshold(answers[some], base, queries[some], exact_rows(base, queries[some]))
    if agreement < 0.99:
        raise SystemExit(f"{path}: only {agreement:.3f} of its first rows are among the exact answers by cosine")
    return answers


def _write_unit_rows(target: Path, source: Any, n: int) -> None:
    with _published(target) as path:
        out = np.lib.format.open_memmap(path, "w+", np.float32, (n, source.shape[1]))
        for start in range(0, n, BLOCK_ROWS):
            out[start : start + BLOCK_ROWS] = unit_rows(source[start : min(start + BLOCK_ROWS, n)])
        out.flush()


def _key(path: Path, n: int) -> str:
    """Names a prepared file: changes with the source's place, size and date and with the row count."""
    status = path.stat()
    text = f"{path.resolve()} {status.st_size} {status.st_mtime_ns}"
    return f"{hashlib.sha256(text.encode()).hexdigest()[:8]}-{n}"


@contextmanager
def _published(target: Path) -> Iterator[Path]:
    """A temporary path that becomes `target` when the block succeeds."""
    temporary = target.with_name(f"unfinished-{os.getpid()}-{target.name}")
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
