"""build_index: any source, any parameter, and nothing on the disk unless all went well."""

from __future__ import annotations

import errno
import itertools
import os
import signal

import numpy as np
import pytest

from skeg import ParameterError, StorageError, VectorError, files, mapped
from skeg.ann import Index, budget, build_index
from skeg.ann.format import HOT, SEGMENT
from skeg.ann.params import GraphParams
from tests.indexes import (
    KINDS,
    METRICS,
    built,
    contents,
    copied,
    ids_of,
    nearest,
    queries,
    rows,
    sections,
    start_python,
)

N = 300
STAGES = ("read", "sample", "encode", "graph", "order", "write", "verify", "publish")


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def links_of(path):
    """Neighbor lists, one array a row."""
    hot = sections(path, HOT)
    return np.split(hot["links"], hot["offsets"][1:-1].astype(int))


# What comes out


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_and_metric_is_built_verified_and_finds_what_is_nearest(kind, metric):
    with Index.open(built(kind, metric, N)) as index:
        assert [] == index.verify()
        assert (N, 384, metric, kind) == (len(index), index.dim, index.metric, index.kind)
        hits = index.search(queries(), 10, search_list_size=N, rerank=N)
    for query, found in zip(queries(), hits.ids, strict=True):
        assert nearest(rows(N, metric), query, 10, metric, ids_of(N)).tolist() == found.tolist()


def test_the_opened_index_is_returned(tmp_path):
    with build_index(rows(N), tmp_path / "a") as index:
        assert tmp_path / "a" == index.path
        assert list(range(N)) == index.ids().tolist()
        assert ("cosine", "tq4") == (index.metric, index.kind)
        build = index.stats()["build"]
    params = GraphParams.for_data("cosine", 384)
    expected = {"alpha": params.alpha, "seed": 0, "build_list_size": params.build_list_size}
    assert expected == {name: build[name] for name in expected}
    assert params.max_degree == build["max_degree"]


def test_parameters_are_used_and_stored(tmp_path):
    given = {"max_degree": 5, "build_list_size": 17, "alpha": 1.5, "seed": 3}
    with build_index(rows(N), tmp_path / "a", **given) as index:
        stored = index.stats()["build"]
        assert [] == index.verify()
    degrees = [len(links) for links in links_of(tmp_path / "a")]
    assert given == {name: stored[name] for name in given}
    assert max(degrees) == 5
    assert stored["mean_degree"] == round(float(np.mean(degrees)), 3)


@pytest.mark.parametrize("changed", [{"seed": 1}, {"build_list_size": 8}, {"alpha": 2.0}, {"max_degree": 8}])
def test_each_parameter_changes_the_graph(tmp_path, changed):
    build_index(rows(N), tmp_path / "a", **{"max_degree": 16, **changed}).close()
    build_index(rows(N), tmp_path / "b", max_degree=16).close()
    same = [np.array_equal(a, b) for a, b in zip(links_of(tmp_path / "a"), links_of(tmp_path / "b"), strict=True)]
    assert not all(same)


@pytest.mark.parametrize("options", [{"max_degree": 512}, {"max_degree": 2}, {"build_list_size": 4}, {"alpha": 1}])
def test_parameters_at_their_limits_work(tmp_path, options):
    with build_index(rows(700)[:, :8].copy(), tmp_path / "a", **options) as index:
        assert [] == index.verify()


# Where it comes from


def blocks(vectors, *sizes):
    start = 0
    for size in sizes:
        yield vectors[start : start + size]
        start += size


SOURCES = {
    "float16": lambda x, _: x.astype(np.float16),
    "float64": lambda x, _: x.astype(np.float64),
    "fortran": lambda x, _: np.asfortranarray(x),
    "strided": lambda x, _: np.repeat(x, 2, axis=0)[::2],
    "lists": lambda x, _: x.tolist(),
    "iterator": lambda x, _: blocks(x, 1, 0, 150, 149),
    "iterator of float16": lambda x, _: iter([x.astype(np.float16)]),
    "npy": lambda x, path: save(path / "x.npy", x),
    "npy float16": lambda x, path: str(save(path / "x.npy", x.astype(np.float16))),
}


def save(path, array):
    np.save(path, array)
    return path


@pytest.mark.parametrize("source", SOURCES)
def test_the_index_does_not_depend_on_where_the_vectors_come_from(tmp_path, source):
    """The bundled vectors are float16, so that every dtype here holds the same numbers."""
    given = SOURCES[source](rows(N), tmp_path)
    build_index(given, tmp_path / "a", ids=ids_of(N), threads=1).close()
    assert contents(built(n=N)) == contents(tmp_path / "a")


def test_the_source_is_left_alone_and_not_needed_later(tmp_path):
    vectors = rows(N).copy()
    path = save(tmp_path / "x.npy", vectors)
    with build_index(path, tmp_path / "a") as index:
        assert vectors.tobytes() == np.load(path).tobytes()
        path.unlink()
        np.testing.assert_array_equal(vectors, index.get(np.arange(N)))


def test_integer_vectors_are_real_numbers(tmp_path, rng):
    vectors = rng.integers(0, 256, (N, 9), np.uint8)
    with build_index(vectors, tmp_path / "a", metric="l2") as index:
        np.testing.assert_array_equal(vectors.astype(np.float32), index.get(np.arange(N)))
        assert [7, 0.0] == [*index.search(vectors[7], 1).ids.tolist(), *index.search(vectors[7], 1).distances.tolist()]


@pytest.mark.parametrize("form", ["array", "list", "int8", "npy", "text"])
def test_ids_come_from_arrays_and_files(tmp_path, form):
    ids = np.arange(N)[::-1] % 128 if form == "int8" else ids_of(N).astype(np.int64)
    n = 128 if form == "int8" else N
    ids = ids[-n:]
    given = {"list": ids.tolist, "int8": lambda: ids.astype(np.int8)}.get(form, lambda: ids)()
    if form == "npy":
        given = save(tmp_path / "ids.npy", ids)
    elif form == "text":
        given = tmp_path / "ids.txt"
        given.write_text("\n".join(map(str, ids)))
    with build_index(rows(n), tmp_path / "a", ids=given) as index:
        assert sorted(ids.tolist()) == index.ids().tolist()
        np.testing.assert_array_equal(rows(n), index.get(ids))


@pytest.mark.parametrize("kind", KINDS)
def test_the_smallest_indexes_work(tmp_path, kind):
    """One dimension, an odd number of them; one, two and three vectors; more hits wanted than there are."""
    for metric in METRICS:
        for dim in (1, 5):
            for n in (1, 2, 3):
                vectors = rows(n)[:, :dim].copy()
                path = tmp_path / f"{metric}-{dim}-{n}"
                with build_index(vectors, path, kind=kind, metric=metric, ids=ids_of(n), threads=1) as index:
                    assert [] == index.verify()
                    hits = index.search(vectors[0], 10)
                    assert nearest(vectors, vectors[0], 10, metric, ids_of(n)).tolist() == hits.ids.tolist()
                    assert [n] * 2 == index.search(vectors[[0, 0]], 10).counts.tolist()


@pytest.mark.parametrize("metric", METRICS)
def test_equal_vectors_are_all_found(tmp_path, metric):
    """Distances of zero everywhere: every row is still reachable, and ties come by ascending id."""
    with build_index(np.repeat(rows(1), N, axis=0), tmp_path / "a", metric=metric, ids=ids_of(N)) as index:
        assert [] == index.verify()
        hits = index.search(rows(1)[0], 20, search_list_size=N, rerank=N)
        assert sorted(ids_of(N).tolist())[:20] == hits.ids.tolist()
        assert 1 == len(set(hits.scores.tolist()))


@pytest.mark.parametrize("metric", ["ip", "l2"])
def test_zero_vectors_are_vectors_unless_the_metric_is_cosine(tmp_path, metric):
    vectors = rows(N).copy()
    vectors[[3, 7]] = 0
    with build_index(vectors, tmp_path / "a", metric=metric) as index:
        assert [] == index.verify()
        hits = index.search(np.zeros(384), N, search_list_size=N)
        assert N == len(hits)
        assert 0 == hits.scores.max()


# What is refused, leaving nothing


@pytest.mark.parametrize("source", ["array", "iterator", "npy"])
@pytest.mark.parametrize("row", [0, 150, N - 1])
@pytest.mark.parametrize(
    ("metric", "value"), [("ip", np.nan), ("l2", np.inf), ("cosine", -np.inf), ("l2", 1e30), ("cosine", 0)]
)
def test_a_row_that_cannot_be_used_is_named(tmp_path, metric, value, row, source):
    vectors = rows(N).copy()
    if value == 0:
        vectors[row] = 0
    else:
        vectors[row, 17] = value
    place = tmp_path / "x.npy"
    given = {
        "array": lambda: vectors,
        "iterator": lambda: blocks(vectors, 100, 200),
        "npy": lambda: save(place, vectors),
    }
    with pytest.raises(VectorError, match=f"row {row}") as caught:
        build_index(given[source](), tmp_path / "a", metric=metric)
    assert row == caught.value.row
    assert source != "npy" or str(place) == caught.value.what
    assert [] == list(tmp_path.glob("a*"))


@pytest.mark.parametrize("kind", ["tq4", "pq", "binary"])
def test_rows_are_counted_in_the_source_and_not_in_the_sample(tmp_path, rng, kind):
    vectors = rng.standard_normal((20_050, 2), np.float32)
    vectors[17_123] = 0
    with pytest.raises(VectorError, match="source, row 17123: expected a vector that is not zero"):
        build_index(vectors, tmp_path / "a", kind=kind)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_of_several_bad_rows_the_first_is_named(tmp_path, rng, threads):
    vectors = rng.standard_normal((9000, 2), np.float32)
    vectors[[2100, 4500, 8000]] = np.nan
    with pytest.raises(VectorError, match="row 2100"):
        build_index(vectors, tmp_path / "a", metric="ip", threads=threads)


@pytest.mark.parametrize(
    ("ids", "row"),
    [
        (np.append(np.arange(N - 1), 7), N - 1),
        (np.append(np.arange(N - 1), -1), N - 1),
        (np.append(np.arange(N - 1, dtype=np.uint64), np.uint64(2**64 - 1)), N - 1),
        (np.arange(N - 1), None),
        ([], None),
        (np.arange(N)[:, None] + [0, 1], None),
        (np.arange(N) + 0.5, 0),
        ("abc", None),
        (7, None),
    ],
)
def test_ids_that_cannot_be_used_are_refused(tmp_path, ids, row):
    with pytest.raises((VectorError, ParameterError)) as caught:
        build_index(rows(N), tmp_path / "a", ids=ids)
    assert row == getattr(caught.value, "row", None)
    assert {} == contents(tmp_path)


EMPTY = {
    "no rows": lambda: np.zeros((0, 8)),
    "no list": list,
    "no blocks": lambda: iter(()),
    "empty blocks": lambda: iter([np.zeros((0, 8))]),
    "no columns": lambda: np.zeros((8, 0)),
    "one dimension": lambda: np.zeros(8),
    "three dimensions": lambda: np.zeros((2, 2, 2)),
    "objects": lambda: np.array([[None, 1]]),
    "text": lambda: np.array([["a", "b"]]),
    "complex": lambda: np.ones((3, 3), complex),
    "ragged": lambda: [[1, 2], [3]],
    "blocks of different dimension": lambda: iter([np.ones((2, 3)), np.ones((2, 4))]),
}


@pytest.mark.parametrize("source", EMPTY)
def test_sources_without_vectors_are_refused(tmp_path, source):
    with pytest.raises(VectorError):
        build_index(EMPTY[source](), tmp_path / "a")
    assert {} == contents(tmp_path)


@pytest.mark.parametrize("name", ["missing.npy", "a.csv", "."])
def test_source_files_that_cannot_be_read_are_refused(tmp_path, name):
    with pytest.raises((StorageError, ParameterError), match=name):
        build_index(tmp_path / name if name != "." else ".", tmp_path / "a")
    assert {} == contents(tmp_path)


BAD_PARAMETERS = [
    {"metric": "dot"},
    {"metric": None},
    {"kind": "tq3"},
    {"kind": 4},
    {"max_degree": 1},
    {"max_degree": 513},
    {"max_degree": 2.5},
    {"max_degree": True},
    {"build_list_size": 3},
    {"build_list_size": "64"},
    {"alpha": 0.99},
    {"alpha": float("nan")},
    {"threads": 0},
    {"threads": 1.0},
    {"seed": -1},
    {"seed": 2**63},
    {"memory_limit": 0},
    {"memory_limit": "1G"},
    {"memory_limit": budget.BASE_BYTES},
]


@pytest.mark.parametrize("bad", BAD_PARAMETERS, ids=str)
def test_a_parameter_out_of_range_is_named(tmp_path, bad):
    with pytest.raises(ParameterError) as caught:
        build_index(rows(N), tmp_path / "a", **bad)
    assert next(iter(bad)) == caught.value.parameter
    assert {} == contents(tmp_path)


# Where it goes


@pytest.mark.parametrize("name", ["my index", "вектор-索引-ü", ".hidden", "n" * 200, "a.skeg", "ü" * 100])
def test_any_name_will_do(tmp_path, name):
    build_index(rows(20), str(tmp_path / name)).close()
    with Index.open(tmp_path / name) as index:
        assert 20 == len(index)
    assert [name] == os.listdir(tmp_path)


def test_a_relative_path_stays_the_same_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with build_index(rows(20), "a/") as index:
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert tmp_path / "a" == index.path
        assert index.tune(rows(20), 0.9) > 0
    assert "a" not in os.listdir(tmp_path / "elsewhere")


@pytest.mark.parametrize("what", ["index", "empty folder", "file", "dangling link"])
def test_what_exists_is_not_replaced(tmp_path, what):
    target = tmp_path / "index"
    {
        "index": lambda: copied(built(n=N), tmp_path),
        "empty folder": target.mkdir,
        "file": lambda: target.write_bytes(b"mine"),
        "dangling link": lambda: target.symlink_to(tmp_path / "nowhere"),
    }[what]()
    before = os.listdir(tmp_path), contents(target)
    with pytest.raises(StorageError, match="already exists") as caught:
        build_index(rows(N), target)
    assert str(target) == caught.value.path
    assert before == (os.listdir(tmp_path), contents(target))


@pytest.mark.parametrize("name", ["missing/a", "file/a", "n" * 256, ""])
def test_a_path_that_cannot_be_is_refused(tmp_path, name):
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(StorageError):
        build_index(rows(N), f"{tmp_path}/{name}" if name else "")
    assert {"file": b"x"} == contents(tmp_path)


def test_a_read_only_folder_is_refused(tmp_path, monkeypatch):
    def read_only(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(files.os, "mkdir", read_only)
    with pytest.raises(StorageError, match=os.strerror(errno.EROFS)) as caught:
        build_index(rows(N), tmp_path / "a")
    assert str(tmp_path / "a") == caught.value.path
    assert {} == contents(tmp_path)


def fails_in(stage, monkeypatch, module, name, failure=no_space):
    """Let a function fail while a stage is under way; gives the progress callback that watches the stages."""
    original, now = getattr(module, name), []

    def sometimes(*args, **options):
        return (failure if now[-1:] == [stage] else original)(*args, **options)

    monkeypatch.setattr(module, name, sometimes)
    return lambda progress: now.append(progress.stage)


@pytest.mark.parametrize(
    ("stage", "module", "name"),
    [
        ("read", files, "_write"),
        ("encode", mapped, "preallocate"),
        ("graph", mapped, "preallocate"),
        ("write", os, "mkdir"),
        ("write", files, "_write"),
        ("write", files, "fsync_file"),
        ("publish", files, "_write"),
        ("publish", files, "fsync_file"),
        ("publish", os, "rename"),
    ],
)
def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch, stage, module, name):
    limit = budget.BASE_BYTES + N * (budget.BYTES_A_ROW + 1)
    progress = fails_in(stage, monkeypatch, module, name)
    with pytest.raises(StorageError, match=os.strerror(errno.ENOSPC)) as caught:
        build_index(iter([rows(N)]), tmp_path / "a", memory_limit=limit, threads=1, progress=progress)
    assert caught.value.path.startswith(str(tmp_path / "a"))
    monkeypatch.undo()
    assert {} == contents(tmp_path)


class OwnError(Exception):
    pass


@pytest.mark.parametrize("error", [OwnError, KeyboardInterrupt])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("stage", STAGES)
def test_an_exception_of_the_callback_ends_the_build_and_leaves_nothing(tmp_path, stage, error, threads):
    def progress(report):
        if report.stage == stage:
            raise error

    with pytest.raises(error):
        build_index(iter([rows(N)]), tmp_path / "a", threads=threads, progress=progress)
    assert {} == contents(tmp_path)


# The graph of this build takes far longer than the test.
LONG_BUILD = """
import sys
from skeg.ann import build_index
from skeg.ann.sample import load_wordnet

def progress(report):
    if report.stage == "graph" and report.done > 200:
        print("graph", flush=True)

build_index(load_wordnet().vectors, sys.argv[1], build_list_size=4000, max_degree=512, threads=2, progress=progress)
"""


def stop_long_build(target, number):
    """Exit code of a process that got a signal while it built a graph."""
    with start_python(LONG_BUILD, target) as process:
        try:
            assert "graph\n" == process.stdout.readline()
            process.send_signal(number)
            process.communicate(timeout=60)
        finally:
            process.kill()
    return process.returncode


def test_control_c_ends_a_build_and_leaves_nothing(tmp_path):
    assert -signal.SIGINT == stop_long_build(tmp_path / "a", signal.SIGINT)
    assert {} == contents(tmp_path)


def test_what_a_killed_build_leaves_is_no_index_and_goes_with_the_next_build(tmp_path):
    assert -signal.SIGKILL == stop_long_build(tmp_path / "a", signal.SIGKILL)
    assert not (tmp_path / "a").exists()
    assert 1 == len(os.listdir(tmp_path))
    with build_index(rows(20), tmp_path / "a") as index:
        assert 20 == len(index)
    assert ["a"] == os.listdir(tmp_path)


# Memory and progress


def test_a_memory_limit_moves_work_to_files_and_changes_nothing(tmp_path, monkeypatch):
    reserved = []
    original = budget.scratch_array
    monkeypatch.setattr(budget, "scratch_array", lambda *args: reserved.append(args[1]) or original(*args))
    limit = budget.BASE_BYTES + N * (budget.BYTES_A_ROW + 1)
    build_index(rows(N), tmp_path / "a", ids=ids_of(N), threads=1, memory_limit=limit).close()
    assert len(reserved) >= 3
    assert contents(built(n=N)) == contents(tmp_path / "a")


def test_a_memory_limit_that_is_too_small_says_what_is_needed(tmp_path):
    least = budget.BASE_BYTES + N * (budget.BYTES_A_ROW + 1)
    with pytest.raises(ParameterError, match=f"at least {least} bytes"):
        build_index(rows(N), tmp_path / "a", threads=1, memory_limit=least - 1)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("source", ["array", "iterator"])
def test_progress_goes_through_all_stages_in_order(tmp_path, source, threads):
    reports = []
    given = rows(600) if source == "array" else blocks(rows(600), 250, 350)
    build_index(given, tmp_path / "a", threads=threads, progress=reports.append).close()
    stages = [report.stage for report in reports]
    assert list(STAGES) == list(dict.fromkeys(stages))
    assert stages == sorted(stages, key=STAGES.index)
    for earlier, later in itertools.pairwise(reports):
        assert earlier.elapsed_s <= later.elapsed_s
        assert earlier.stage != later.stage or earlier.done <= later.done
    assert all(0 <= report.done <= report.total for report in reports)
    assert {"encode": 600, "graph": 600, "write": 600} == {
        report.stage: report.done for report in reports if report.stage in {"encode", "graph", "write"}
    }
    assert all(report.remaining_s is None or report.remaining_s >= 0 for report in reports)


def test_the_segment_folder_is_the_one_the_format_names():
    assert {"manifest.json", SEGMENT, f"{SEGMENT}/vectors.skg", f"{SEGMENT}/{HOT}"} == set(contents(built(n=N)))
