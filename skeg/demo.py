"""The main job on the bundled data: index real text embeddings, answer questions in words, measure recall and speed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import skeg
from skeg.ann import Index, Progress, build_index
from skeg.ann.sample import WordNet, load_wordnet
from skeg.files import AnyPath
from skeg.jit import FAMILY, cache_folder

# Sentences whose answers a reader can judge at a glance, found by meaning: the words of the sentence are others.
QUESTIONS = (285, 559, 167, 299)
ANSWERS_PER_QUESTION = 3

_QUERIES_TIMED = 1000
_QUERIES_TIMED_EXACT = 100
_WARM_UP_ROWS = 500


def run(path: AnyPath | None = None, *, progress: Callable[[Progress], None] | None = None) -> dict[str, Any]:
    """Build an index of the bundled set, ask it questions and measure it.

    Parameters
    ----------
    path : path, optional
        Directory to make for the index; by default a temporary one that is gone afterwards.
    progress : callable, optional
        Called with `Progress` once before kernels are compiled or loaded, then while the index is built.

    Returns
    -------
    dict
        What was built and where, seconds taken, questions with their answers, and one row of recall and speed per
        search list size; plain numbers and text throughout.

    Raises
    ------
    StorageError
        The bundled data is missing (it is part of a clone, not of the installed package), or `path` can't be made.
    """
    data = load_wordnet()
    with tempfile.TemporaryDirectory(prefix="skeg-demo-") as folder:
        if progress is not None:
            progress(Progress("compile", 0, 0, 0.0, None))
        ready_s = _compile_kernels(data, Path(folder) / "warm-up.index")
        target = Path(folder) / "wordnet.index" if path is None else Path(path)
        start = time.perf_counter()
        with build_index(data.vectors, target, metric="cosine", progress=progress) as index:
            build_s = time.perf_counter() - start
            return {
                "version": skeg.__version__,
                "kernels": FAMILY,
                "kernel_cache": str(cache_folder()),
                "kernels_ready_s": ready_s,
                "n_vectors": len(index),
                "dim": index.dim,
                "kind": index.kind,
                "metric": index.metric,
                "index": None if path is None else str(path),
                "index_bytes": sum(file.stat().st_size for file in target.rglob("*") if file.is_file()),
                "build_s": build_s,
                "questions": [_ask(index, data, number) for number in QUESTIONS],
                "n_queries": min(_QUERIES_TIMED, len(data.queries)),
                "rows": index.evaluate(data.queries[:_QUERIES_TIMED], k=10, truth=data.truth[:_QUERIES_TIMED]),
                "exact_queries_per_second": _exact_speed(index, data.queries[:_QUERIES_TIMED_EXACT]),
            }


def _compile_kernels(data: WordNet, path: Path) -> float:
    """Build and search a small index once, so that later times are of the work alone; return the seconds it took."""
    start = time.perf_counter()
    with build_index(data.vectors[:_WARM_UP_ROWS], path, metric="cosine") as index:
        index.search(data.queries[0], k=10)
        index.search(data.queries[0], k=10, exact=True)
    return time.perf_counter() - start


def _ask(index: Index, data: WordNet, number: int) -> dict[str, Any]:
    """One query in words and its answers in words."""
    rows, scores = index.search(data.queries[number], k=ANSWERS_PER_QUESTION)
    answers = [
        {"score": float(score), "words": data.words[row], "definition": data.definitions[row]}
        for row, score in zip(rows.tolist(), scores, strict=True)
    ]
    return {"question": data.query_texts[number], "answers": answers}


def _exact_speed(index: Index, queries: np.ndarray) -> float:
    """Queries per second of exact search, one query a call on one thread."""
    start = time.perf_counter()
    for query in queries:
        index.search(query, k=10, exact=True, threads=1)
    return len(queries) / (time.perf_counter() - start)
