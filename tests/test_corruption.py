"""Damaged index files: a typed error or an answer, never a crash or a hang, and `verify` notices every bit."""

from __future__ import annotations

import itertools
import os
import shutil

import numpy as np
import pytest

from skeg import StorageError
from skeg.ann import Index, build_index
from skeg.ann.format import HOT, MANIFEST, SEGMENT, VECTORS
from skeg.container import Container
from tests.indexes import KINDS, METRICS, built, contents, copied, ids_of, queries, rows, run_python

N = 200
FILES = (MANIFEST, f"{SEGMENT}/{HOT}", f"{SEGMENT}/{VECTORS}")


def places_of(path, inside=3):
    """Offsets worth damaging: around every boundary of a file, a spread over the header, some inside every section."""
    size = path.stat().st_size
    edges = {0, 8, 12, 16, 24, 28, 32, 40, 64, size}
    if path.suffix == ".skg":
        with Container.open(path) as container:
            for name in container._entries:
                entry = container._entry(name)
                edges |= {entry.offset, entry.offset + entry.length}
                edges |= {int(x) for x in np.linspace(entry.offset, entry.offset + entry.length, inside + 2)[1:-1]}
            edges |= set(range(64, min(entry.offset for entry in container._entries.values()), 29))
    else:
        edges |= set(range(0, size, 17))
    return sorted({place + step for place in edges for step in (-1, 0, 1) if 0 <= place + step < size})


@pytest.mark.parametrize("kind", ["tq4", "f32", "pq"])
@pytest.mark.parametrize("file", FILES)
def test_a_file_cut_short_is_not_opened(tmp_path, kind, file):
    index = copied(built(kind, n=N), tmp_path)
    whole = (index / file).read_bytes()
    for length in places_of(index / file):
        (index / file).write_bytes(whole[:length])
        with pytest.raises(StorageError) as caught:
            Index.open(index)
        assert str(index / file) == caught.value.path, length
    (index / file).write_bytes(whole + b"\0")
    with pytest.raises(StorageError):
        Index.open(index)
    (index / file).write_bytes(whole)
    Index.open(index).close()


@pytest.mark.parametrize("file", FILES)
def test_a_missing_file_is_named(tmp_path, file):
    index = copied(built(n=N), tmp_path)
    (index / file).unlink()
    with pytest.raises(StorageError) as caught:
        Index.open(index)
    assert caught.value.path in {str(index / file), str(index)}
    (index / file).mkdir()
    with pytest.raises(StorageError, match=file):
        Index.open(index)


def test_a_missing_segment_is_named(tmp_path):
    index = copied(built(n=N), tmp_path)
    shutil.rmtree(index / SEGMENT)
    with pytest.raises(StorageError, match=SEGMENT):
        Index.open(index)


FLIPS = """
import sys
from pathlib import Path
import numpy as np
from skeg import SkegError
from skeg.ann import Index

np.seterr(all="ignore")
index, n_checked, n_opened = Path(sys.argv[1]), 0, 0
queries = np.load(sys.argv[2])
ids = Index.open(index).ids()
wanted = [int(i) for i in ids[:3]]
for line in open(sys.argv[3]):
    name, offset, bit = line.split()
    path, offset, bit = index / name, int(offset), int(bit)
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[offset] ^= 1 << bit
    path.write_bytes(damaged)
    noticed = False
    try:
        opened = Index.open(index)
    except SkegError:
        noticed = True
    else:
        n_opened += 1
        calls = [
            lambda: opened.search(queries[0]),
            lambda: opened.search(queries, 5, search_list_size=100, threads=1),
            lambda: opened.search(queries, 5, exact=True, threads=1),
            lambda: opened.get(wanted),
            lambda: opened.ids(),
            lambda: opened.stats(),
            lambda: wanted[0] in opened,
        ]
        for call in calls:
            try:
                call()
            except SkegError:
                pass
        try:
            noticed = opened.verify() != []
        except SkegError:
            noticed = True
        opened.close()
    path.write_bytes(whole)
    assert noticed, line
    n_checked += 1
assert Index.open(index).verify() == []
print(n_checked, n_opened)
"""


@pytest.mark.parametrize(
    ("kind", "metric"), [*zip(KINDS, itertools.cycle(METRICS)), ("f32", "l2"), ("tq4", "cosine"), ("pq", "ip")]
)
def test_a_flipped_bit_never_crashes_and_is_always_noticed(tmp_path, kind, metric):
    """In a process of its own, which has to live to the end."""
    index = copied(built(kind, metric, N), tmp_path)
    np.save(tmp_path / "queries.npy", queries(4))
    chance = np.random.default_rng(7)
    flips = [(f, place, chance.integers(8)) for f in FILES for place in places_of(index / f)]
    before = contents(index)
    (tmp_path / "flips").write_text("".join(f"{f} {place} {bit}\n" for f, place, bit in flips))
    checked, opened = map(int, run_python(FLIPS, index, tmp_path / "queries.npy", tmp_path / "flips").split())
    assert len(flips) == checked
    assert 20 < opened < checked
    assert before == contents(index)


@pytest.mark.parametrize("damage", ["ones", "zeros", "noise"])
@pytest.mark.parametrize("kind", ["tq4", "f32", "pq"])
def test_sections_full_of_rubbish_never_crash(tmp_path, kind, damage):
    """Whole sections instead of bits, one at a time and all at once."""
    index = copied(built(kind, n=N), tmp_path)
    np.save(tmp_path / "queries.npy", queries(4))
    output = run_python(RUBBISH, index, tmp_path / "queries.npy", damage)
    assert "survived\n" == output


RUBBISH = """
import sys
from pathlib import Path
import numpy as np
from skeg import SkegError
from skeg.ann import Index
from skeg.container import Container

np.seterr(all="ignore")
index, queries, damage = Path(sys.argv[1]), np.load(sys.argv[2]), sys.argv[3]
chance = np.random.default_rng(5)
for path in sorted(index.glob("*/*.skg")):
    whole = path.read_bytes()
    with Container.open(path) as container:
        places = [(e.offset, e.length) for e in container._entries.values() if e.length]
    for choice in [[place] for place in places] + [places]:
        damaged = bytearray(whole)
        for offset, length in choice:
            noise = chance.integers(0, 256, length, np.uint8).tobytes()
            rubbish = {"ones": b"\\xff" * length, "zeros": bytes(length), "noise": noise}[damage]
            damaged[offset : offset + length] = rubbish
        path.write_bytes(damaged)
        calls = [
            lambda opened: opened.search(queries[0]),
            lambda opened: opened.search(queries, 5, search_list_size=100, threads=1),
            lambda opened: opened.search(queries, 5, exact=True, threads=1),
            lambda opened: opened.get([5]),
            lambda opened: opened.ids(),
        ]
        try:
            opened = Index.open(index)
        except SkegError:
            opened = None
        for call in calls if opened else []:
            try:
                call(opened)
            except SkegError:
                pass
        if opened and damaged != whole:
            try:
                raise SystemExit(f"not noticed: {choice}") if opened.verify() == [] else SkegError
            except SkegError:
                opened.close()
        path.write_bytes(whole)
print("survived")
"""


@pytest.mark.parametrize("file", FILES)
def test_files_of_two_indexes_are_not_mixed_up(tmp_path, file):
    """Another seed of the same vectors: sizes and shapes may well agree."""
    index = copied(built(n=N), tmp_path)
    other = tmp_path / "other"
    build_index(rows(N)[::-1].copy(), other, ids=ids_of(N), seed=9).close()
    os.replace(other / file, index / file)
    try:
        opened = Index.open(index)
    except StorageError:
        return
    with opened:
        assert opened.verify() != []
