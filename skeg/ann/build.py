"""Offline construction of a graph index that appears whole or not at all."""

from __future__ import annotations

from typing import Any

from skeg.ann.format import write_manifest
from skeg.ann.index import Index
from skeg.ann.metric import metric_number
from skeg.ann.parallel import Workers, thread_count
from skeg.ann.params import GraphParams, default_kind
from skeg.ann.pipeline import Pipeline
from skeg.ann.progress import ProgressCallback, Reporter
from skeg.ann.quantizers import KINDS
from skeg.ann.sources import open_source
from skeg.checks import as_choice
from skeg.files import AnyPath, BuildFolder


def build_index(
    source: Any,
    path: AnyPath,
    *,
    ids: Any = None,
    metric: str = "cosine",
    kind: str | None = None,
    max_degree: int | None = None,
    build_list_size: int | None = None,
    alpha: float | None = None,
    threads: int | None = None,
    seed: int = 0,
    memory_limit: int | None = None,
    progress: ProgressCallback | None = None,
) -> Index:
    """Build a Vamana index of ``source`` in the new folder ``path`` and open it.

    Parameters
    ----------
    source : array_like (n, dim), path or iterator of arrays
        Vectors of any real dtype; see `skeg.ann.sources.open_source` for the files that can be read. A source in a
        memory-mapped file may be larger than RAM.
    path : path
        Folder of the new index; must not exist.
    ids : array_like (n,) of integers, or path, optional
        Id of each vector, unique, below 2**64 - 1; by default the row numbers.
    metric : {"cosine", "ip", "l2"}
        What "near" means: cosine similarity, inner product, or Euclidean distance.
    kind : str, optional
        Codes that steer the search, one of `skeg.ann.quantizers.KINDS`; by default chosen by dimension.
    max_degree, build_list_size, alpha
        See `GraphParams`; by default chosen by metric and dimension.
    threads : int, optional
        By default one for each processor. The index does not depend on it.
    seed : int
        Decides everything random: the same data and seed give the same files on one kind of CPU.
    memory_limit : int, optional
        Bytes of anonymous memory to stay under; large work arrays then live in temporary files beside the index.
    progress : callable, optional
        Called with `Progress` at most ten times a second.

    Returns
    -------
    Index
        Opened read-only.

    Raises
    ------
    ParameterError
        A parameter out of range, or a memory limit below what the build needs.
    VectorError
        No rows; a row that is not finite, or zero under cosine; ids that repeat or do not match the rows.
    StorageError
        ``path`` exists, can't be written, or the disk is full; the source can't be read.
    """
    metric_number(metric)
    reporter = Reporter(progress)
    with open_source(source) as opened:
        kind = as_choice("kind", kind if kind is not None else default_kind(opened.dim), KINDS)
        params = GraphParams.for_data(
            metric, opened.dim, max_degree=max_degree, build_list_size=build_list_size, alpha=alpha, seed=seed
        )
        with BuildFolder(path) as folder, Workers(thread_count(threads)) as workers:
            pipeline = Pipeline(folder.path, metric, kind, params, workers, memory_limit, reporter)
            manifest = pipeline.run(opened, ids)
            reporter.stage("publish", 1)
            write_manifest(folder.path, manifest)
            folder.publish()
    return Index.open(path)
