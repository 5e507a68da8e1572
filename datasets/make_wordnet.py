"""The whole of WordNet 3.0 as sentence embeddings: 117,659 senses, with example sentences as queries.

    python datasets/make_wordnet.py DICT OUT [--model all-MiniLM-L6-v2] [--queries 5000] [--seed 0]

DICT is the folder with WordNet's `data.noun`, `data.verb`, `data.adj` and `data.adv` (Debian's package wordnet-base has
it at /usr/share/wordnet; WordNet's own archive calls it `dict`). OUT receives:

    words.tsv     a line for each sense: key, words, definition (UTF-8, tabs between)
    vectors.npy   (n, dim) float16 unit vectors of each line's words and definition
    queries.txt   example sentences, drawn at random from all senses
    queries.npy   (q, dim) float16 unit vectors of them
    truth.npy     (q, 100) int32: rows of vectors.npy nearest to each query by cosine
    LICENSE       the notice at the top of data.noun
    CHECKSUMS     SHA-256 of the files above

A gloss such as `the act of sailing; "the ship sails on"` is split at its quotation marks: definition first, then
example sentences. Vectors differ in the last bits between machines and versions of the model's packages.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from texts import write_checksums, write_lines
from truth import exact_top

PARTS = ("noun", "verb", "adj", "adv")
LETTERS = {"noun": "n", "verb": "v", "adj": "a", "adv": "r"}
BATCH = 64
TRUTH_K = 100
QUERY_CHARS_MIN = 12  # shorter quotations are single words and parts of phrases
QUOTATION = re.compile(r'[;\s]*"([^"]*)"')


class Sense(NamedTuple):
    """One synset."""

    key: str
    words: list[str]
    definition: str
    examples: list[str]


def read_senses(folder: Path) -> Iterator[Sense]:
    """The senses of WordNet's data files, in their order: nouns, verbs, adjectives, adverbs."""
    for part in PARTS:
        with open(folder / f"data.{part}", encoding="utf-8") as lines:
            for line in lines:
                if not line.startswith("  "):  # the licence
                    yield parse_sense(line, LETTERS[part])


def parse_sense(line: str, letter: str) -> Sense:
    """A line of a data file: offset, file, part, number of words in hexadecimal, (word, id) pairs, pointers | gloss."""
    record, _, gloss = line.partition("|")
    fields = record.split()
    n_words = int(fields[3], 16)
    words = [re.sub(r"\((a|p|ip)\)$", "", word).replace("_", " ") for word in fields[4 : 4 + 2 * n_words : 2]]
    definition, examples = split_gloss(gloss)
    return Sense(fields[0] + letter, words, definition, examples)


def split_gloss(gloss: str) -> tuple[str, list[str]]:
    """The definition, which is what remains without quotations, and the quotations that are long enough for a query."""
    definition = QUOTATION.sub("", gloss).strip(' ;"\n')
    quoted = (text.strip() for text in QUOTATION.findall(gloss))
    return definition, [text for text in quoted if len(text) >= QUERY_CHARS_MIN]


def notice(folder: Path) -> str:
    """WordNet's licence: the numbered lines that open data.noun, without their numbers."""
    with open(folder / "data.noun", encoding="utf-8") as lines:
        text = [re.sub(r"^ +[0-9]+ ", "", line).rstrip() for line in lines if line.startswith("  ")]
    return "\n".join(text).strip() + "\n"


def embed(model: str, texts: list[str]) -> np.ndarray:
    """Unit vectors of `texts` by a sentence-transformers model: (n, dim) float16."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise SystemExit("make_wordnet.py needs a package: pip install sentence-transformers") from error
    encoder = SentenceTransformer(model)
    vectors = encoder.encode(texts, batch_size=BATCH, normalize_embeddings=True, show_progress_bar=True)
    return np.asarray(vectors, dtype=np.float16)


def main() -> None:
    """Command line: see the top of this file."""
    parser = argparse.ArgumentParser(description="Embed the whole of WordNet.")
    parser.add_argument("dict", type=Path, help="folder with data.noun, data.verb, data.adj and data.adv")
    parser.add_argument("out", type=Path)
    parser.add_argument("--model", default="all-MiniLM-L6-v2")
    parser.add_argument("--queries", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    senses = list(read_senses(options.dict))
    sentences = sorted({text for sense in senses for text in sense.examples})
    drawn = np.random.default_rng(options.seed).permutation(len(sentences))[: options.queries]
    sentences = [sentences[i] for i in drawn]
    options.out.mkdir(parents=True, exist_ok=True)
    names = [", ".join(sense.words) for sense in senses]
    lines = [f"{sense.key}\t{name}\t{sense.definition}" for sense, name in zip(senses, names, strict=True)]
    write_lines(options.out / "words.tsv", lines)
    write_lines(options.out / "queries.txt", sentences)
    (options.out / "LICENSE").write_bytes(notice(options.dict).encode())
    texts = [f"{name}: {sense.definition}" for sense, name in zip(senses, names, strict=True)]
    vectors = embed(options.model, texts)
    queries = embed(options.model, sentences)
    np.save(options.out / "vectors.npy", vectors)
    np.save(options.out / "queries.npy", queries)
    np.save(options.out / "truth.npy", exact_top(vectors, queries, TRUTH_K))
    write_checksums(options.out)


if __name__ == "__main__":
    main()
