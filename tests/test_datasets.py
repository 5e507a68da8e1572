"""The bundled sample and the recipes beside it."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from skeg.ann import sample
from skeg.ann.sample import load_wordnet, verify_checksums
from skeg.errors import CorruptError, FormatError, StorageError

DATASETS = Path(__file__).resolve().parents[1] / "datasets"
BUNDLED = DATASETS / "wordnet-10k"
GLOSSES = [
    '00001740 03 n 01 entity 0 001 ~ 00001930 n 0000 | that which exists; "an entity to reckon with"; "short"  \n',
    '00002098 00 a 02 galore(ip) 0 well-to-do_person(a) 1 000 | in great numbers; many; "daisies galore in May!"  \n',
    "00003000 00 a 01 plain 0 000 | without a pattern  \n",
]


@pytest.fixture
def recipe(monkeypatch):
    """Import one of the scripts as they import each other."""
    monkeypatch.syspath_prepend(str(DATASETS))
    return importlib.import_module


def run(script, *arguments):
    command = [sys.executable, str(DATASETS / script), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(DATASETS.parent)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def small_full_set(folder, n=300, q=20):
    """A folder as make_wordnet.py would leave it, cut from the bundled one."""
    folder.mkdir()
    whole = load_wordnet()
    np.save(folder / "vectors.npy", whole.vectors[:n])
    np.save(folder / "queries.npy", whole.queries[:q])
    lines = zip(whole.keys, whole.words, whole.definitions, strict=True)
    (folder / "words.tsv").write_bytes("".join("\t".join(line) + "\n" for line in list(lines)[:n]).encode())
    (folder / "queries.txt").write_bytes("".join(f"{text}\n" for text in whole.query_texts[:q]).encode())
    (folder / "LICENSE").write_text("notice\n")
    assert 0 == run("truth.py", folder / "vectors.npy", folder / "queries.npy", folder / "truth.npy").returncode
    return folder


# The bundled sample


def test_the_sample_has_the_documented_shape_and_checksums():
    found = load_wordnet(verify=True)
    assert ((10_000, 384), np.float16) == (found.vectors.shape, found.vectors.dtype)
    assert ((1000, 384), np.float16) == (found.queries.shape, found.queries.dtype)
    assert ((1000, 100), np.int32) == (found.truth.shape, found.truth.dtype)
    assert [10_000, 10_000, 10_000, 1000] == [
        len(column) for column in (found.words, found.definitions, found.keys, found.query_texts)
    ]
    assert 10_000 == len(set(found.keys))
    assert sum(path.stat().st_size for path in BUNDLED.iterdir()) < 10_500_000


def test_the_sample_is_of_unit_length():
    found = load_wordnet()
    for vectors in (found.vectors, found.queries):
        assert np.abs(np.linalg.norm(vectors[:].astype(float), axis=1) - 1).max() < 2e-4


def test_the_sample_makes_sense_to_a_reader():
    found = load_wordnet()
    query = found.query_texts.index("an endodontic specialist")
    assert "endodontist" == found.words[found.truth[query, 0]]


def test_the_truth_of_the_sample_is_exact():
    """Float16 values are whole multiples of 2^-24, so Python's integers give every inner product exactly."""
    found = load_wordnet()
    base, queries = ((array[:].astype(float) * 2**24).astype(np.int64) for array in (found.vectors, found.queries[:3]))
    lengths = (base.astype(object) ** 2).sum(axis=1)
    for query, expected in zip(queries, found.truth, strict=False):
        products = (base.astype(object) * query.astype(object)).sum(axis=1)
        # cosines a / sqrt(b) are compared by the sign of a and a^2 / b, in fractions scaled to integers
        scores = [(1 if a >= 0 else -1) * ((a * a) << 64) // b for a, b in zip(products, lengths, strict=True)]
        order = sorted(range(len(scores)), key=lambda row: (-scores[row], row))
        assert order[:100] == expected.tolist()


def test_the_sample_is_what_its_recipe_makes(tmp_path):
    """Cutting the sample from itself, all rows and queries, gives the same files."""
    full = shutil.copytree(BUNDLED, tmp_path / "full")
    done = run("subset.py", full, tmp_path / "out", "--nearest", 1)
    assert (0, "") == (done.returncode, done.stderr)
    verify_checksums(tmp_path / "out")
    assert (BUNDLED / "CHECKSUMS").read_bytes() == (tmp_path / "out" / "CHECKSUMS").read_bytes()


# The loader


def test_a_missing_folder_says_which_argument_helps(tmp_path, monkeypatch):
    with pytest.raises(StorageError, match="`folder`"):
        load_wordnet(tmp_path / "gone")
    monkeypatch.setattr(sample, "_BUNDLED", tmp_path / "gone")
    with pytest.raises(StorageError, match="source checkout"):
        load_wordnet()


@pytest.mark.parametrize("name", ["words.tsv", "vectors.npy", "queries.txt", "queries.npy", "truth.npy", "CHECKSUMS"])
def test_a_missing_file_is_named(name, tmp_path):
    folder = shutil.copytree(BUNDLED, tmp_path / "copy")
    (folder / name).unlink()
    with pytest.raises(StorageError, match=name.replace(".", r"\.")):
        load_wordnet(folder, verify=name == "CHECKSUMS")


@pytest.mark.parametrize("name", ["words.tsv", "vectors.npy", "LICENSE"])
def test_a_changed_byte_is_found_on_request(name, tmp_path):
    folder = shutil.copytree(BUNDLED, tmp_path / "copy")
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    load_wordnet(folder)
    with pytest.raises(CorruptError, match=f"{name}: does not match its checksum"):
        load_wordnet(folder, verify=True)


@pytest.mark.parametrize(
    ("name", "text", "error", "message"),
    [
        ("words.tsv", "key\tword\n", FormatError, "3 columns"),
        ("words.tsv", "key\tword\tmeaning\n", CorruptError, "expected 10000 rows, found 1"),
        ("queries.txt", "one\n", CorruptError, "expected 1000 rows, found 1"),
        ("CHECKSUMS", "sum name\n", FormatError, "SUM  NAME"),
    ],
)
def test_texts_that_do_not_fit_are_refused(name, text, error, message, tmp_path):
    folder = shutil.copytree(BUNDLED, tmp_path / "copy")
    (folder / name).write_text(text)
    with pytest.raises(error, match=message):
        load_wordnet(folder, verify=True) if name == "CHECKSUMS" else load_wordnet(folder)


# The recipes


def test_glosses_split_into_definition_and_examples(recipe):
    make_wordnet = recipe("make_wordnet")
    senses = [make_wordnet.parse_sense(line, letter) for line, letter in zip(GLOSSES, "naa", strict=True)]
    assert [
        ("00001740n", ["entity"], "that which exists", ["an entity to reckon with"]),
        ("00002098a", ["galore", "well-to-do person"], "in great numbers; many", ["daisies galore in May!"]),
        ("00003000a", ["plain"], "without a pattern", []),
    ] == senses


def test_dict_files_are_read_in_order_without_their_notice(recipe, tmp_path):
    make_wordnet = recipe("make_wordnet")
    for part in ("noun", "verb", "adj", "adv"):
        (tmp_path / f"data.{part}").write_text("  1 A notice  \n  10 in two lines  \n" + GLOSSES[0])
    assert ["00001740n", "00001740v", "00001740a", "00001740r"] == [s.key for s in make_wordnet.read_senses(tmp_path)]
    assert "A notice\nin two lines\n" == make_wordnet.notice(tmp_path)


@pytest.mark.parametrize(
    ("module", "package", "call"),
    [
        ("make_wordnet", "sentence_transformers", lambda module: module.embed("model", ["text"])),
        ("make_lsa", "sklearn.decomposition", lambda module: module.embed(["text"], ["query"], 2, 0)),
    ],
)
def test_a_missing_package_is_named_with_what_to_install(module, package, call, recipe, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit, match="pip install"):
        call(recipe(module))


def test_exact_top_is_a_full_sort_with_ties_by_row(recipe, rng, monkeypatch):
    truth = recipe("truth")
    monkeypatch.setattr(truth, "BLOCK_ROWS", 7)
    base = rng.integers(-2, 3, (50, 3)).astype(np.float16)
    base[~base.any(axis=1)] = 1
    base = base[rng.integers(0, 50, 60)]  # many ties
    queries = rng.integers(1, 3, (9, 3))
    # signed squared cosines as fractions of small integers: exactly comparable
    top = (base.astype(int) @ queries.T).T
    squared = np.sign(top) * top.astype(object) ** 2 * 5040**3
    scores = squared // (base.astype(int) ** 2).sum(axis=1)
    for k in (1, 10, 60, 100):
        found = truth.exact_top(base, queries, k)
        assert (9, min(k, 60)) == found.shape
        for line, expected in zip(found, scores, strict=True):
            order = sorted(range(60), key=lambda row: (-expected[row], row))[:k]
            assert [expected[row] for row in order] == [expected[row] for row in line]


def test_a_folder_made_from_dict_files_can_be_loaded(recipe, tmp_path, monkeypatch):
    """Everything but the model itself, which a table of random vectors stands for."""
    make_wordnet = recipe("make_wordnet")
    embedded = []

    def embed(model, texts):
        embedded.append(texts)
        return np.random.default_rng(len(texts)).standard_normal((len(texts), 8)).astype(np.float16)

    monkeypatch.setattr(make_wordnet, "embed", embed)
    for part in ("noun", "verb", "adj", "adv"):
        (tmp_path / f"data.{part}").write_text("  1 A notice  \n" + "".join(GLOSSES))
    monkeypatch.setattr(sys, "argv", ["", str(tmp_path), str(tmp_path / "out"), "--queries", "2"])
    make_wordnet.main()
    found = load_wordnet(tmp_path / "out", verify=True)
    assert ["entity: that which exists", "galore, well-to-do person: in great numbers; many"] == embedded[0][:2]
    assert found.query_texts == embedded[1]
    assert {"an entity to reckon with", "daisies galore in May!"} == set(found.query_texts)
    assert ((12, 8), (2, 12)) == (found.vectors.shape, found.truth.shape)


def test_lsa_sets_of_every_dimension_are_cut_from_one_decomposition(recipe, tmp_path, monkeypatch):
    """Everything but the decomposition itself, which the bundled vectors stand for."""
    make_lsa = recipe("make_lsa")
    whole = load_wordnet()

    def embed(texts, queries, dim, seed):
        base, asked = (array[:, :dim].astype(np.float32) for array in (whole.vectors, whole.queries))
        base[7] = 0
        return base[: len(texts)], asked[: len(queries)]

    monkeypatch.setattr(make_lsa, "embed", embed)
    monkeypatch.setattr(sys, "argv", ["", str(BUNDLED), str(tmp_path), "--dims", "5", "9", "--queries", "10"])
    make_lsa.main()
    for dim in (5, 9):
        base, rows, query, truth = (np.load(tmp_path / f"{dim}/{n}.npy") for n in ("base", "rows", "query", "truth"))
        assert ((9999, dim), (10, dim), (10, 100)) == (base.shape, query.shape, truth.shape)
        assert [6, 8] == rows[6:8].tolist()
        assert (query @ base.T).argmax(axis=1).tolist() == truth[:, 0].tolist()


def test_a_subset_has_the_nearest_rows_and_others_of_its_own_choice(tmp_path):
    full = small_full_set(tmp_path / "full")
    done = run("subset.py", full, tmp_path / "out", "--rows", 150, "--queries", 10, "--nearest", 3)
    assert (0, "") == (done.returncode, done.stderr)
    found, whole = load_wordnet(tmp_path / "out", verify=True), load_wordnet(full)
    rows = [whole.keys.index(key) for key in found.keys]
    assert 150 == len(rows)
    assert sorted(rows) == rows
    np.testing.assert_array_equal(whole.vectors[rows], found.vectors)
    assert whole.query_texts[:10] == found.query_texts
    for old, new in zip(whole.truth, found.truth, strict=False):
        assert old[:3].tolist() == [rows[row] for row in new[:3]]
    too_small = run("subset.py", full, tmp_path / "out2", "--rows", 5)
    assert "--rows has to be in" in too_small.stderr


def test_noisy_rows_are_unit_near_their_origin_and_repeatable(tmp_path, recipe):
    base = load_wordnet().vectors[:100]
    np.save(tmp_path / "base.npy", base)
    for name in ("a.npy", "b.npy"):
        done = run("make_noisy.py", tmp_path / "base.npy", tmp_path / name, "--rows", 250)
        assert (0, "") == (done.returncode, done.stderr)
    assert (tmp_path / "a.npy").read_bytes() == (tmp_path / "b.npy").read_bytes()
    noisy = np.load(tmp_path / "a.npy")
    assert ((250, 384), np.float32) == (noisy.shape, noisy.dtype)
    np.testing.assert_allclose(np.linalg.norm(noisy, axis=1), 1, atol=1e-6)
    origin = base[np.arange(250) % 100].astype(np.float32)
    np.testing.assert_allclose((noisy * origin).sum(axis=1), 1 / np.sqrt(1 + 0.3**2), atol=0.03)
    short = np.concatenate(list(recipe("make_noisy").noisy_blocks(base, 40, 0.3, 0)))
    np.testing.assert_array_equal(short, np.concatenate(list(recipe("make_noisy").noisy_blocks(base, 40, 0.3, 0))))


def test_lsa_keeps_rows_that_have_a_direction(recipe):
    vectors, rows = recipe("make_lsa").unit_rows(np.array([[3.0, 4.0], [0.0, 0.0], [0.0, -2.0]]))
    np.testing.assert_array_equal([[0.6, 0.8], [0.0, -1.0]], vectors)
    assert [0, 2] == rows.tolist()


def test_every_recipe_says_how_to_use_it():
    for script in ("make_wordnet.py", "make_lsa.py", "make_noisy.py", "subset.py", "truth.py"):
        assert "usage" in run(script, "--help").stdout
        assert f"datasets/{script}" in (DATASETS / "README.md").read_text(encoding="utf-8")
