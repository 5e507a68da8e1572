"""The command line: one call each, answers on stdout, exit codes, nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import click
import numpy as np
import pytest
from click.testing import CliRunner

import skeg
from skeg import cli
from skeg.ann import FlatIndex, Index, exact_search
from skeg.container import Container
from skeg.errors import SkegError, StorageError

N, DIM, K = 500, 24, 5


def run(*arguments, code=0):
    """Result of a command that has to end with this exit code and without a traceback."""
    result = CliRunner().invoke(cli.main, [str(argument) for argument in arguments])
    assert code == result.exit_code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def clustered(n, seed=1):
    generator = np.random.default_rng(seed)
    centers = np.random.default_rng(0).normal(size=(20, DIM))
    return (centers[generator.integers(0, 20, n)] + 0.5 * generator.normal(size=(n, DIM))).astype(np.float32)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with base.npy, queries.npy and the index made of them, all for reading only."""
    folder = tmp_path_factory.mktemp("cli")
    np.save(folder / "base.npy", clustered(N))
    np.save(folder / "queries.npy", clustered(20, seed=2))
    run("build", folder / "base.npy", folder / "made.index")
    return folder


@pytest.fixture
def copied(files, tmp_path):
    """A copy of the index that a test may change."""
    return shutil.copytree(files / "made.index", tmp_path / "copied.index")


def flip_last_byte_of_data(index, name="index.skg"):
    """Change one byte of the last section of a file of the index; return the file's path."""
    (path,) = index.rglob(name)
    with Container.open(path) as container:
        section = container.sections[-1]
        pattern = container.array(section.name).tobytes()[-8:]
    data = bytearray(path.read_bytes())
    data[data.rindex(pattern) + 7] ^= 1
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", "made.index"),
        ("verify", "made.index"),
        ("search", "made.index", "--queries", "queries.npy"),
        ("evaluate", "made.index", "--queries", "queries.npy", "--list-sizes", "10,20"),
    ],
)
def test_every_command_prints_text_or_one_json_object(files, arguments):
    """And nothing on stderr: it is no terminal here."""
    paths = [files / a if (files / a).exists() else a for a in arguments]
    text, as_json = run(*paths), run(*paths, "--json")
    assert text.stdout.strip()
    assert "{" not in text.stdout[:1]
    assert isinstance(json.loads(as_json.stdout), dict)
    assert ("", "") == (text.stderr, as_json.stderr)


def test_build_answers_with_the_facts_of_the_index(files, tmp_path):
    (tmp_path / "ids.txt").write_text("".join(f"{10 * row}\n" for row in range(N)))
    options = ["--ids", tmp_path / "ids.txt", "--metric", "l2", "--kind", "int8", "--degree", 16, "--list-size", 24]
    options += ["--alpha", 1.1, "--threads", 1, "--seed", 3, "--memory-limit", "500MB", "--json"]
    result = run("build", files / "base.npy", tmp_path / "out.index", *options)
    assert str(tmp_path / "out.index") == json.loads(result.stdout)["index"]
    assert result.stderr == ""
    with Index.open(tmp_path / "out.index") as index:
        assert (N, "l2", "int8") == (len(index), index.metric, index.kind)
        assert 10 in index
        assert 11 not in index


def test_search_prints_what_the_library_finds(files):
    queries = np.load(files / "queries.npy")
    with Index.open(files / "made.index") as index:
        expected = index.search(queries, K)
    result = run("search", files / "made.index", "--queries", files / "queries.npy", "-k", K, "--json")
    answers = json.loads(result.stdout)["answers"]
    assert expected.ids.tolist() == [answer["ids"] for answer in answers]
    np.testing.assert_array_equal(expected.scores, np.array([a["scores"] for a in answers], dtype=np.float32))


def test_exact_search_is_exact(files):
    expected = exact_search(np.load(files / "base.npy"), np.load(files / "queries.npy"), K)
    result = run("search", files / "made.index", "--queries", files / "queries.npy", "-k", K, "--exact", "--json")
    assert expected.ids.tolist() == [answer["ids"] for answer in json.loads(result.stdout)["answers"]]


def test_search_takes_a_flat_index_too(files, tmp_path):
    flat = FlatIndex.create(tmp_path / "flat.index", DIM)
    flat.add(np.arange(N), np.load(files / "base.npy"))
    flat.save(tmp_path / "flat.index")
    flat.close()
    result = run("search", tmp_path / "flat.index", "--queries", files / "queries.npy", "-k", K, "--json")
    expected = exact_search(np.load(files / "base.npy"), np.load(files / "queries.npy"), K)
    assert expected.ids.tolist() == [answer["ids"] for answer in json.loads(result.stdout)["answers"]]
    assert json.loads(run("verify", tmp_path / "flat.index", "--json").stdout)["ok"]
    assert "flat" in run("inspect", tmp_path / "flat.index").stdout


def test_answers_go_to_a_file_when_asked(files, tmp_path):
    search = ("search", files / "made.index", "--queries", files / "queries.npy", "-k", K)
    run(*search, "--out", tmp_path / "found.npy")
    run(*search, "--out", tmp_path / "found.ndjson")
    ids = np.load(tmp_path / "found.npy")
    lines = [json.loads(line) for line in (tmp_path / "found.ndjson").read_text().splitlines()]
    assert ((20, K), np.uint64) == (ids.shape, ids.dtype)
    assert ids.tolist() == [line["ids"] for line in lines]
    assert list(range(20)) == [line["query"] for line in lines]


def test_evaluate_accepts_truth_from_a_file(files, tmp_path):
    truth = exact_search(np.load(files / "base.npy"), np.load(files / "queries.npy"), 10).ids
    np.save(tmp_path / "truth.npy", truth.astype(np.int32))
    evaluate = (
        "evaluate",
        files / "made.index",
        "--queries",
        files / "queries.npy",
        "--list-sizes",
        "10,200",
        "--json",
    )
    given = json.loads(run(*evaluate, "--truth", tmp_path / "truth.npy").stdout)["rows"]
    computed = json.loads(run(*evaluate).stdout)["rows"]
    assert [10, 200] == [row["search_list_size"] for row in given]
    assert [row["recall"] for row in computed] == [row["recall"] for row in given]
    assert given[0]["recall"] <= given[1]["recall"] == 1.0


def test_tune_stores_the_list_size_it_prints(files, copied):
    result = run("tune", copied, "--queries", files / "queries.npy", "--recall", 0.9, "--json")
    with Index.open(copied) as index:
        assert index.tune(np.load(files / "queries.npy"), recall=0.9) == json.loads(result.stdout)["search_list_size"]


def test_inspect_tells_what_each_file_is(files):
    assert "500" in run("inspect", files / "made.index").stdout
    for path in [p for p in (files / "made.index").rglob("*") if p.is_file()]:
        assert json.loads(run("inspect", path, "--json").stdout)["what"]


def test_verify_names_a_damaged_file_and_exits_with_1(copied):
    path = flip_last_byte_of_data(copied)
    text = run("verify", copied, code=1)
    assert str(path) in text.stdout
    findings = json.loads(run("verify", copied, "--json", code=1).stdout)
    assert findings["ok"] is False
    assert str(path) == findings["findings"][0]["path"]
    assert str(path) in run("verify", path, code=1).stdout


@pytest.mark.parametrize("name", ["index.skg", "vectors.skg", "manifest.json"])
def test_truncated_file_is_a_finding_for_verify_and_3_for_others(files, copied, name):
    (path,) = copied.rglob(name)
    path.write_bytes(path.read_bytes()[:-1])
    assert name in run("verify", copied, code=1).stdout
    result = run("search", copied, "--queries", files / "queries.npy", code=3)
    assert name in result.stderr
    assert result.stdout == ""


def test_file_of_another_kind_is_3(files):
    assert "base.npy" in run("inspect", files / "base.npy", code=3).stderr
    assert "base.npy" in run("verify", files / "base.npy", code=3).stderr


def test_directory_that_is_no_index_is_3(tmp_path, files):
    for command in (
        ["inspect", tmp_path],
        ["verify", tmp_path],
        ["search", tmp_path, "--queries", files / "queries.npy"],
    ):
        assert str(tmp_path) in run(*command, code=3).stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["build", "absent.npy", "x.index"],
        ["build", "base.npy", "x.index", "--metric", "euclid"],
        ["build", "base.npy", "x.index", "--kind", "int9"],
        ["build", "base.npy", "x.index", "--memory-limit", "many"],
        ["build", "base.npy", "x.index", "--degree", "-1"],
        ["build", "notes.txt", "x.index"],
        ["build", "nan.npy", "x.index"],
        ["search", "made.index"],
        ["search", "made.index", "--queries", "queries.npy", "-k", "0"],
        ["search", "made.index", "--queries", "wide.npy"],
        ["search", "made.index", "--queries", "queries.npy", "--out", "answers.csv"],
        ["evaluate", "made.index", "--queries", "queries.npy", "--list-sizes", "10;20"],
        ["tune", "made.index", "--queries", "queries.npy", "--recall", "1.5"],
        ["fly"],
    ],
    ids=" ".join,
)
def test_wrong_use_is_2_and_makes_nothing(files, tmp_path, monkeypatch, arguments):
    for name in ("base.npy", "queries.npy", "made.index"):
        (tmp_path / name).symlink_to(files / name)
    (tmp_path / "notes.txt").write_text("no vectors here")
    np.save(tmp_path / "nan.npy", np.full((3, DIM), np.nan, dtype=np.float32))
    np.save(tmp_path / "wide.npy", np.zeros((3, DIM + 1), dtype=np.float32))
    monkeypatch.chdir(tmp_path)
    before = sorted(os.listdir(tmp_path))
    result = run(*arguments, code=2)
    assert result.stderr.strip()
    assert result.stdout == ""
    assert before == sorted(os.listdir(tmp_path))


def all_errors(kind=SkegError):
    return [kind, *(e for child in kind.__subclasses__() for e in all_errors(child))]


@pytest.mark.parametrize("kind", all_errors(), ids=lambda kind: kind.__name__)
def test_every_error_has_an_exit_code_and_no_traceback(kind, monkeypatch):
    """Trouble with a file is 3, every other error 2."""

    @click.command()
    def fail():
        error = kind.__new__(kind)
        error.__dict__.update(path="p", problem="q", offset=None, expected=None, found=None, what="w", row=None)
        error.__dict__.update(parameter="p", value=b"1", key=b"k", feature="f", extra="e", field=None, position=0)
        error.__dict__.update(message="m", code="ERR")
        raise error

    monkeypatch.setitem(cli.main.commands, "fail", fail)
    result = run("fail", code=3 if issubclass(kind, StorageError) else 2)
    assert result.stderr.startswith("skeg: ")


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("1048576", 2**20), ("2GiB", 2**31), ("500MB", 500_000_000), ("1.5 kib", 1536), ("3b", 3), ("1TB", 10**12)],
)
def test_sizes_are_read_in_binary_and_decimal_units(text, n_bytes):
    assert n_bytes == cli._size(text)


def test_version_and_help_name_everything():
    assert skeg.__version__ in run("--version").stdout
    shown = run("--help").stdout
    assert [] == [name for name in cli.main.commands if name not in shown]


def test_warmup_fills_the_cache(tmp_path):
    """In a process of its own, with an empty cache folder."""
    environment = os.environ | {"SKEG_CACHE_DIR": str(tmp_path / "kernels")}
    command = [sys.executable, "-m", "skeg", "warmup", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert str(tmp_path / "kernels") in json.loads(done.stdout)["kernel_cache"]
    assert any((tmp_path / "kernels").rglob("*.nbi"))
    assert done.stderr == ""


def test_demo_answers_in_words(tmp_path):
    result = json.loads(run("demo", tmp_path / "kept.index", "--json").stdout)
    assert (10_000, 384) == (result["n_vectors"], result["dim"])
    assert all(answer["definition"] for question in result["questions"] for answer in question["answers"])
    with Index.open(tmp_path / "kept.index") as index:
        assert len(index) == 10_000


def test_paths_may_hold_spaces_and_letters_of_any_language(files, tmp_path):
    folder = tmp_path / "Ordner mit Leerzeichen" / "ключ 鍵"
    folder.mkdir(parents=True)
    shutil.copy(files / "base.npy", folder / "große Tabelle.npy")
    run("build", folder / "große Tabelle.npy", folder / "索引 1.index")
    assert json.loads(run("verify", folder / "索引 1.index", "--json").stdout)["ok"]


def test_command_runs_as_a_program(files):
    """With stderr on a terminal the bar is drawn there; stdout stays clean."""
    master, slave = os.openpty()
    target = files / "program.index"
    command = [sys.executable, "-m", "skeg", "build", files / "base.npy", target, "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=slave)
    os.close(slave)
    drawn = b""
    with open(master, "rb", buffering=0) as terminal:
        while chunk := _read(terminal):  # while it runs: a terminal that nobody reads stops whoever draws on it
            drawn += chunk
    out, _ = process.communicate()
    assert 0 == process.returncode
    assert str(target) == json.loads(out)["index"]
    assert b"\x1b[" in drawn


def _read(terminal):
    try:
        return terminal.read(4096)
    except OSError:  # Linux reports the closed other end this way
        return b""


def test_ctrl_c_is_130_and_leaves_nothing(tmp_path):
    """Interrupted in the middle of the build: neither an index nor a temporary folder, no traceback."""
    np.save(tmp_path / "base.npy", np.random.default_rng(0).normal(size=(60_000, 96)).astype(np.float32))
    command = [sys.executable, "-m", "skeg", "build", "base.npy", "out.index", "--threads", "1"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("out.index.building-*")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert out == ""
    assert ["base.npy"] == os.listdir(tmp_path)
