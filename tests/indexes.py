"""Small indexes of real data that tests share, slow answers to compare with, and Python in another process."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import attrs
import numpy as np

import skeg
from skeg.ann import build_index
from skeg.ann.format import SEGMENT, read_manifest, write_manifest
from skeg.ann.sample import load_wordnet
from skeg.container import Container, Section, write_container

METRICS = ("cosine", "ip", "l2")
KINDS = ("f32", "int8", "tq4", "tq2", "tq1", "binary", "pq")

QUERIES = 40


@functools.cache
def rows(n, metric="cosine"):
    """The first n real vectors, float32; of different lengths where that makes a difference."""
    vectors = load_wordnet().vectors[:n].astype(np.float32)
    if metric != "cosine":
        vectors *= 1 + np.arange(n, dtype=np.float32)[:, None] % 5 / 4
    vectors.flags.writeable = False
    return vectors


@functools.cache
def queries(n=QUERIES):
    """The first n real queries, float32."""
    return load_wordnet().queries[:n].astype(np.float32)


def ids_of(n):
    """Ids that differ, in no order."""
    return np.arange(n, dtype=np.uint64) * np.uint64(7919) % np.uint64(100_003) + np.uint64(5)


@functools.cache
def _place():
    folder = tempfile.mkdtemp(prefix="skeg-tests-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def built(kind="tq4", metric="cosine", n=600):
    """Folder of an index of `rows` with `ids_of`, made once; copy it with `copied` before changing it."""
    return _built(kind, metric, n)


@functools.cache
def _built(kind, metric, n):
    path = _place() / f"{kind}-{metric}-{n}"
    build_index(rows(n, metric), path, ids=ids_of(n), kind=kind, metric=metric, threads=1).close()
    return path


def copied(path, folder):
    """A copy of an index in another folder, free to be damaged."""
    return Path(shutil.copytree(path, folder / "index"))


def contents(folder):
    """Everything below a folder: relative path -> bytes (None for a folder)."""
    found = sorted(Path(folder).rglob("*"))
    return {str(p.relative_to(folder)): None if p.is_dir() else p.read_bytes() for p in found}


def scores_of(vectors, query, metric):
    """Scores (n,) float64 of all rows."""
    x, q = np.asarray(vectors, np.float64), np.asarray(query, np.float64)
    if metric == "l2":
        return -np.square(x - q).sum(axis=1)
    products = x @ q
    return products if metric == "ip" else products / np.linalg.norm(x, axis=1) / np.linalg.norm(q)


def nearest(vectors, query, k, metric, ids=None):
    """Ids of the k best rows by score and then by id."""
    ids = np.arange(len(vectors)) if ids is None else ids
    return ids[np.lexsort((ids, -scores_of(vectors, query, metric)))[:k]]


def sections(index, file):
    """Arrays of one of an index's files, by name."""
    with Container.open(Path(index) / SEGMENT / file) as container:
        return {section.name: container.array(section.name).copy() for section in container.sections}


def rewrite(index, file, meta=None, *, without=(), **arrays):
    """Replace sections of a file, with valid checksums all over: what only a mistake or a malicious hand can make."""
    path = Path(index) / SEGMENT / file
    with Container.open(path) as container:
        old_meta = container.meta
    wanted = {name: array for name, array in (sections(index, file) | arrays).items() if name not in without}
    path.unlink()
    specs = [Section(name, array.dtype, array.shape) for name, array in wanted.items()]
    with write_container(path, {**old_meta, **(meta or {})}, specs) as writer:
        for name, array in wanted.items():
            writer.append(name, array)
    manifest = read_manifest(index)
    write_manifest(index, attrs.evolve(manifest, files={**manifest.files, file: path.stat().st_size}))


def start_python(script, *args, **environment):
    """Start a script in a new process, with its output in a pipe."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *map(str, args)],
        env={**os.environ, "PYTHONPATH": str(Path(skeg.__file__).parents[1]), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_python(script, *args, **environment):
    """Run a script in a new process; gives what it printed. A crash or a hang fails the test that asked."""
    with start_python(script, *args, **environment) as process:
        try:
            out, err = process.communicate(timeout=240)
        finally:
            process.kill()
    assert process.returncode == 0, err
    return out
