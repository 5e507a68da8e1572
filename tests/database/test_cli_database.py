"""The command line and databases: an index is built into one, and it is inspected and checked."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

import skeg
from skeg import cli
from tests.database.small import IDS, X, damage, opened


def run(*arguments, code=0):
    result = CliRunner().invoke(cli.main, [str(argument) for argument in arguments])
    assert code == result.exit_code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


@pytest.fixture
def source(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "ids.npy", IDS)
    return tmp_path / "x.npy"


def test_an_index_is_built_into_a_database_that_is_made(source, tmp_path):
    told = run(
        "build", source, tmp_path / "db", "--name", "docs", "--shards", 3, "--metric", "l2", "--ids",
        tmp_path / "ids.npy", "--json",
    )  # fmt: skip
    values = json.loads(told.stdout)
    assert ("docs", 3, 60, "l2") == tuple(values[name] for name in ("name", "shards", "count", "metric"))
    run("build", source, tmp_path / "db", "--name", "more")
    with skeg.open(tmp_path / "db", mode="r") as db:
        assert ["docs", "more"] == [info.name for info in db.indexes()]
        assert sorted(IDS.tolist()) == db.index("docs").ids().tolist()


def test_wrong_usage_is_2_and_what_is_in_the_way_3(source, tmp_path):
    assert "--shards needs --name" in run("build", source, tmp_path / "db", "--shards", 2, code=2).stderr
    assert not (tmp_path / "db").exists()
    assert "name=" in run("build", source, tmp_path / "db", "--name", "a/b", code=2).stderr
    run("build", source, tmp_path / "db", "--name", "docs")
    assert "'docs'" in run("build", source, tmp_path / "db", "--name", "docs", code=3).stderr
    assert "shards=2" in run("build", source, tmp_path / "db", "--name", "b", "--shards", 2, code=2).stderr
    run("build", source, tmp_path / "index")
    told = run("build", source, tmp_path / "index", "--name", "docs", code=3).stderr
    assert "not the manifest of a key-value store" in told


def test_inspect_tells_what_is_in_a_database_and_its_catalogue(source, tmp_path):
    run("build", source, tmp_path / "db", "--name", "docs", "--shards", 2)
    values = json.loads(run("inspect", tmp_path / "db", "--json").stdout)
    assert ("database directory", 2, 60) == (values["what"], values["shards"], values["indexes"]["docs"]["count"])
    assert "indexes.json" in {file["file"] for file in values["files"]}
    values = json.loads(run("inspect", tmp_path / "db" / "indexes.json", "--json").stdout)
    assert ("catalogue of indexes", ["docs"]) == (values["what"], [index["name"] for index in values["indexes"]])
    assert "docs:" in run("inspect", tmp_path / "db").stdout


def test_verify_finds_what_is_wrong(source, tmp_path):
    with opened(tmp_path / "db") as db:
        db.kv.set(b"k", b"value")
    run("build", source, tmp_path / "db", "--name", "docs")
    for path in ("db", "db/indexes.json", "db/shard-0/vindex-docs"):
        assert "no findings" in run("verify", tmp_path / path).stdout
    folder = damage(tmp_path / "db", "docs")
    assert str(folder) in run("verify", tmp_path / "db", code=1).stdout
    with opened(tmp_path / "db") as db:
        db.drop_index("docs")
    run("verify", tmp_path / "db")
    catalogue = tmp_path / "db" / "indexes.json"
    catalogue.write_bytes(catalogue.read_bytes()[:-1])
    run("verify", tmp_path / "db", code=1)
    run("verify", catalogue, code=1)
