"""Compile every kernel ahead of its first use, by using every feature once on a few vectors or keys."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from skeg.ann import FlatIndex, Index, Progress, build_index
from skeg.ann.metric import METRICS
from skeg.ann.quantizers import KINDS
from skeg.jit import FAMILY, JIT_DISABLED, cache_folder
from skeg.kv.batches import Packer
from skeg.kv.entries import KeyHash
from skeg.kv.index import Index as Locations
from skeg.kv.scan import Walk, scan_by_kernel
from skeg.net.serve.warm import compile_kernels

# More vectors than a build batch starts with, so that links are pruned and reversed too.
_ROWS = 600
_DIM = 32


def warm_up(*, progress: Callable[[Progress], None] | None = None) -> dict[str, Any]:
    """Build, search and verify a small index of every kind and metric, and use the kernels of the key-value store.

    Parameters
    ----------
    progress : callable, optional
        Called with `Progress` after each kind of index.

    Returns
    -------
    dict
        Kernel family, folder of the compiled kernels, files in it and seconds taken.
    """
    vectors = np.random.default_rng(0).normal(size=(_ROWS, _DIM)).astype(np.float32)
    work = [(kind, metric) for kind in KINDS for metric in METRICS]
    start = time.perf_counter()
    scan_by_kernel(bytes(64), 0, Walk(0, compacted=False, last_seq=0), KeyHash(0))
    if not JIT_DISABLED:
        Packer(KeyHash(0)).use_kernels()
        Locations().use_kernels()
        compile_kernels()
    with tempfile.TemporaryDirectory(prefix="skeg-warmup-") as folder:
        for done, (kind, metric) in enumerate(work, 1):
            _use(vectors, kind, metric, Path(folder) / f"{kind}-{metric}.index")
            if progress is not None:
                elapsed_s = time.perf_counter() - start
                left_s = elapsed_s / done * (len(work) - done)
                progress(Progress("compile", done, len(work), elapsed_s, left_s))
    return {
        "kernels": FAMILY,
        "kernel_cache": str(cache_folder()),
        "files": len(list(cache_folder().glob("*"))),
        "elapsed_s": time.perf_counter() - start,
    }


def _use(vectors: np.ndarray, kind: str, metric: str, path: Path) -> None:
    with build_index(vectors, path, kind=kind, metric=metric, threads=2) as index:
        index.search(vectors[0], k=5)
        index.search(vectors[:5], k=5, threads=2)
        index.search(vectors[:5], k=5, exact=True)
        index.verify()
    with Index.open(path, mode="rw") as index:
        index.delete(np.arange(100))
        index.search(vectors[0], k=5)
        index.search(vectors[:5], k=5)
        index.search(vectors[0], k=5, filter=np.arange(150))
        index.consolidate(threads=1)
    with FlatIndex.create(None, _DIM, kind=kind, metric=metric) as flat:
        flat.add(np.arange(len(vectors)), vectors)
        flat.search(vectors[0], k=5)
        flat.search(vectors[:5], k=5)
