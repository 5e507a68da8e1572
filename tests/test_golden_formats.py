"""Indexes written by the first version of each format are opened and answer as they did then."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from skeg.ann import Index
from skeg.ann.format import read_manifest
from tests.indexes import KINDS, METRICS, nearest

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = ["index-1.0"]
CASES = [(version, case) for version in VERSIONS for case in json.loads((GOLDEN / f"{version}.json").read_text())]


@pytest.fixture(scope="module", params=CASES, ids=[case for _, case in CASES])
def golden(request):
    """Folder of an index, what went into it, and what came out."""
    version, case = request.param
    with np.load(GOLDEN / f"{version}.npz") as arrays:
        return GOLDEN / case, dict(arrays), json.loads((GOLDEN / f"{version}.json").read_text())[case]


def test_every_kind_and_metric_has_a_golden_index():
    names = [case.split("-") for _, case in CASES]
    assert set(KINDS) == {name[2] for name in names}
    assert set(METRICS) == {name[3] for name in names}
    assert {case for _, case in CASES} == {path.parent.name for path in GOLDEN.glob("index-*/manifest.json")}


def test_the_golden_files_are_small():
    assert sum(path.stat().st_size for path in GOLDEN.rglob("*")) < 300_000


def test_an_old_index_is_opened_and_in_order(golden):
    path, given, _ = golden
    version = tuple(map(int, path.name.split("-")[1].split(".")))
    assert version == read_manifest(path).version
    with Index.open(path) as index:
        assert [] == index.verify()
        assert sorted(given["ids"].tolist()) == index.ids().tolist()
        np.testing.assert_array_equal(given["vectors"], index.get(given["ids"]))
        assert {"seed": 0, "max_degree": 8, "build_list_size": 16} == {
            name: index.stats()["build"][name] for name in ("seed", "max_degree", "build_list_size")
        }


def test_an_old_index_answers_as_it_did(golden):
    path, given, answers = golden
    with Index.open(path) as index:
        for options in ({"exact": True}, {"search_list_size": 40, "rerank": 40}):
            hits = index.search(given["queries"], 10, **options)
            assert answers["ids"] == hits.ids.tolist()
            np.testing.assert_allclose(answers["scores"], hits.scores, rtol=1e-5, atol=1e-6)


def test_the_answers_are_right(golden):
    path, given, answers = golden
    metric = path.name.split("-")[3]
    for query, found in zip(given["queries"], answers["ids"], strict=True):
        assert nearest(given["vectors"], query, 10, metric, given["ids"]).tolist() == found
