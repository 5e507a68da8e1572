"""The commands that change an index: add, delete, consolidate, and searching with a filter."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from skeg import cli
from skeg.ann import Index
from tests.indexes import rows


def run(*arguments, code=0):
    """Output of `skeg ARGUMENTS`, which has to end with this exit code and without a traceback."""
    result = CliRunner().invoke(cli.main, list(map(str, arguments)))
    assert code == result.exit_code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.output


@pytest.fixture
def folder(tmp_path):
    """An empty index, beside it files of 50 vectors, their ids and payloads."""
    vectors = rows(50)
    Index.create(tmp_path / "index", vectors.shape[1]).close()
    np.save(tmp_path / "vectors.npy", vectors)
    (tmp_path / "ids.txt").write_text("".join(f"{i + 100}\n" for i in range(50)))
    lines = [json.dumps({"even": i % 2 == 0, "n": i}) for i in range(49)]
    (tmp_path / "payloads.ndjson").write_text("\n".join([*lines, "null"]) + "\n")
    return tmp_path


def add(folder, *options, code=0):
    files = (folder / "vectors.npy", "--ids", folder / "ids.txt", "--payloads", folder / "payloads.ndjson")
    return run("add", folder / "index", *files, *options, code=code)


def test_what_is_added_is_found_by_its_payload(folder):
    assert {"index": str(folder / "index"), "rows": 50, "count": 50} == json.loads(add(folder, "--json"))
    found = run(
        "search", folder / "index", "--queries", folder / "vectors.npy", "-k", 3, "--filter", "even = true AND n < 9",
        "--json",
    )  # fmt: skip
    answers = json.loads(found)["answers"]
    assert {100, 102, 104, 106, 108} == {found for answer in answers for found in answer["ids"]}


def test_what_is_deleted_and_merged_is_gone(folder):
    add(folder)
    (folder / "gone.txt").write_text("100\n101\n999\n")
    assert {"index": str(folder / "index"), "deleted": 2, "count": 48} == json.loads(
        run("delete", folder / "index", folder / "gone.txt", "--json")
    )
    facts = json.loads(run("consolidate", folder / "index", "--threads", 1, "--json"))
    assert (48, 0, 0) == (facts["count"], facts["rows_dead"], facts["rows_delta"])
    run("verify", folder / "index")


def test_a_conflict_can_be_refused(folder):
    add(folder)
    assert "id 100, which the index holds" in add(folder, "--on-conflict", "error", code=2)


def test_payloads_that_are_not_json_and_a_filter_that_cannot_be_read_are_told(folder):
    (folder / "payloads.ndjson").write_text("{}\n{\n")
    assert "line 2 is not JSON" in add(folder, code=3)
    wrong = run("search", folder / "index", "--queries", folder / "vectors.npy", "--filter", "n <", code=2)
    assert "position 3: expected a value" in wrong
