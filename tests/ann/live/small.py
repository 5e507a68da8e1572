"""Indexes of a few vectors that merge and link as large ones do, and what a dict says they hold."""

from __future__ import annotations

import importlib
import pkgutil

import numpy as np

import skeg.ann.live
from skeg.ann.live.maintenance import Background
from tests.indexes import scores_of


def limit(monkeypatch, **limits):
    """Change constants of `skeg.ann.live` wherever they are known, as ``MERGE_ROWS_MIN=8``."""
    known = dict.fromkeys(limits, False)
    for found in pkgutil.iter_modules(skeg.ann.live.__path__, "skeg.ann.live."):
        module = importlib.import_module(found.name)
        for name, value in limits.items():
            if hasattr(module, name):
                known[name] = True
                monkeypatch.setattr(module, name, value)
    assert all(known.values()), f"no such constant: {known}"


def no_background(monkeypatch):
    """Nothing happens but what a test asks for."""
    monkeypatch.setattr(Background, "wake", lambda *_: None)


def contents(index):
    """id -> vector of all that is there."""
    ids = index.ids()
    return {int(i): vector.tolist() for i, vector in zip(ids, index.get(ids), strict=True)}


def check_hits(hits, known, query, k, metric):
    """Hits of one query are the k best of a dict id -> vector, by score: of equal ones any may come."""
    ids, scores = np.asarray(hits.ids), np.asarray(hits.scores)
    assert min(k, len(known)) == len(ids) == len(set(ids.tolist()))
    if not known:
        return
    true = dict(zip(known, scores_of(np.array(list(known.values())), query, metric).tolist(), strict=True))
    assert set(ids.tolist()) <= set(true)
    np.testing.assert_allclose(scores, [true[i] for i in ids.tolist()], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(scores, sorted(true.values(), reverse=True)[:k], rtol=1e-5, atol=1e-5)
