"""Vectors and true ids read whole from files, answers written to files: what the command line moves in and out."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skeg.ann import Hits
from skeg.ann.sources import open_source
from skeg.errors import ParameterError
from skeg.files import AnyPath, atomic_write_bytes
from skeg.report import answer_rows, as_json

_ROWS_PER_READ = 65_536


def read_rows(path: AnyPath) -> NDArray[Any]:
    """All rows of a file that `open_source` can read, as one array (n, dim) of the file's dtype."""
    with open_source(path) as source:
        blocks = list(source.blocks(_ROWS_PER_READ))
        return np.concatenate(blocks) if blocks else np.empty((0, source.dim), dtype=source.dtype)


def check_answers_path(path: AnyPath) -> None:
    """Refuse a file name that `save_answers` has no format for (ParameterError), before the work is done."""
    if Path(path).suffix not in {".npy", ".ndjson"}:
        raise ParameterError("out", str(path), "a file name that ends in .npy or .ndjson")


def save_answers(path: AnyPath, hits: Hits) -> None:
    """Write answers of many queries.

    Parameters
    ----------
    path : path
        `.npy`: the ids, uint64 (n_queries, k), padded with 2^64 - 1. `.ndjson`: one JSON object a line with query
        number, ids and scores, without padding.
    hits : Hits
        Of a batch of queries.

    Raises
    ------
    ParameterError
        Another file name.
    StorageError
        The file can't be written.
    """
    check_answers_path(path)
    if Path(path).suffix == ".npy":
        buffer = io.BytesIO()
        np.save(buffer, hits.ids, allow_pickle=False)
        atomic_write_bytes(path, buffer.getvalue())
    else:
        lines = [as_json(row) + "\n" for row in answer_rows(hits)]
        atomic_write_bytes(path, "".join(lines).encode())
