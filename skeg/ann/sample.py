"""The bundled sample: ten thousand WordNet senses as sentence embeddings, with real queries and their exact answers.

It lives in `datasets/wordnet-10k` of a source checkout and is not part of the installed package; its README says how it
was made.
"""

from __future__ import annotations

import hashlib
from os import PathLike
from pathlib import Path

import attrs
import numpy as np

from skeg.ann.readers import npy_array
from skeg.errors import CorruptError, FormatError, StorageError
from skeg.files import disk_errors
from skeg.mapped import MappedFile

CHECKSUMS = "CHECKSUMS"
_BUNDLED = Path(__file__).resolve().parents[2] / "datasets" / "wordnet-10k"


@attrs.frozen(eq=False)
class WordNet:
    """Senses of WordNet 3.0 and example sentences, embedded by one model.

    Attributes
    ----------
    words
        What each sense is called: synonyms with ", " between them.
    definitions
        What each sense means.
    vectors
        (n, dim) float16, unit length up to rounding, read-only map of the file.
    queries
        (q, dim) float16, likewise.
    query_texts
        The q example sentences.
    truth
        (q, 100) int32: the rows of `vectors` nearest to each query by cosine, best first, exact.
    keys
        WordNet's own names of the n senses: offset in its files and part of speech, such as "02084071n".
    """

    words: list[str] = attrs.field(repr=False)
    definitions: list[str] = attrs.field(repr=False)
    vectors: np.ndarray = attrs.field(repr=lambda array: str(array.shape))
    queries: np.ndarray = attrs.field(repr=lambda array: str(array.shape))
    query_texts: list[str] = attrs.field(repr=False)
    truth: np.ndarray = attrs.field(repr=lambda array: str(array.shape))
    keys: list[str] = attrs.field(repr=False)


def load_wordnet(folder: str | PathLike[str] | None = None, *, verify: bool = False) -> WordNet:
    """Load the bundled sample, or another folder of the same make (`datasets/make_wordnet.py`).

    Parameters
    ----------
    folder : path, optional
        Where the files are; by default `datasets/wordnet-10k` of the source checkout that this module is in.
    verify : bool
        Compare every file with the list `CHECKSUMS` of the folder first.

    Raises
    ------
    StorageError
        There is no such folder or a file is missing.
    CorruptError
        A file does not have its checksum, or files do not have as many rows as they should.
    """
    place = _BUNDLED if folder is None else Path(folder)
    if not place.is_dir():
        problem = (
            "no such folder: the sample is in a source checkout of skeg; give its datasets/wordnet-10k as `folder`"
        )
        raise StorageError(place, problem)
    if verify:
        verify_checksums(place)
    columns = [line.split("\t") for line in _lines(place / "words.tsv")]
    if any(len(fields) != 3 for fields in columns):
        raise FormatError(place / "words.tsv", "needs 3 columns: key, words, definition")
    vectors, queries, truth = (npy_array(MappedFile(place / f"{name}.npy")) for name in ("vectors", "queries", "truth"))
    texts = _lines(place / "queries.txt")
    for name, expected, found in (
        ("words.tsv", len(vectors), len(columns)),
        ("queries.txt", len(queries), len(texts)),
        ("truth.npy", len(queries), len(truth)),
    ):
        if expected != found:
            raise CorruptError(place / name, "has another length", expected=f"{expected} rows", found=str(found))
    keys, words, definitions = (list(column) for column in zip(*columns, strict=True))
    return WordNet(words, definitions, vectors, queries, texts, truth, keys)


def verify_checksums(folder: str | PathLike[str]) -> None:
    """Compare every file that a folder's `CHECKSUMS` lists (as `sha256sum` writes it) with its SHA-256.

    Raises
    ------
    CorruptError
        A file has another checksum.
    FormatError
        A line of `CHECKSUMS` is not "SUM  NAME".
    StorageError
        A file can't be read.
    """
    place = Path(folder)
    for line in _lines(place / CHECKSUMS):
        expected, mark, name = line.partition("  ")
        if not mark:
            raise FormatError(
                place / CHECKSUMS, "has a line without two columns", expected="SUM  NAME", found=repr(line)
            )
        found = _sha256(place / name)
        if found != expected:
            raise CorruptError(place / name, "does not match its checksum", expected=expected, found=found)


def _lines(path: Path) -> list[str]:
    with disk_errors(path, "read"):
        return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def _sha256(path: Path) -> str:
    with disk_errors(path, "read"), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
