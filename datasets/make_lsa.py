"""Hard sets from the same texts: TF-IDF and truncated SVD (latent semantic analysis) of WordNet's definitions.

    python datasets/make_lsa.py FULL OUT --dims 96 768 1024 [--queries 1000] [--seed 0]

FULL is a folder made by make_wordnet.py; only its texts are used. One decomposition is made at the largest
dimension and cut for the smaller ones. OUT/DIM/ receives:

    base.npy    (n, DIM) float32 unit vectors, one for each synset that shares a word with the vocabulary
    rows.npy    (n,) int32: which line of words.tsv each of them is
    query.npy   (q, DIM) float32 unit vectors: example sentences projected in the same way
    truth.npy   (q, 100) int32: rows of base.npy nearest by cosine

LSA vectors of short texts crowd together and have many near-equal neighbors, so graph indexes need wider
candidate lists here than on sentence embeddings of the same size.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from texts import read_lines
from truth import exact_top

MIN_DOCUMENTS = 2  # a word of one definition only says nothing about its neighbors
POWER_ITERATIONS = 4


def embed(texts: list[str], queries: list[str], dim: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """LSA coordinates of `texts` and `queries`: two float32 arrays (n, dim), (q, dim), not normalized."""
    try:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError as error:
        raise SystemExit("make_lsa.py needs scikit-learn: pip install scikit-learn") from error
    weights = TfidfVectorizer(sublinear_tf=True, min_df=MIN_DOCUMENTS, stop_words="english", dtype=np.float32)
    documents = weights.fit_transform(texts)
    reduce = TruncatedSVD(n_components=dim, n_iter=POWER_ITERATIONS, random_state=seed)
    base = reduce.fit_transform(documents)
    return base.astype(np.float32), reduce.transform(weights.transform(queries)).astype(np.float32)


def unit_rows(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows of `vectors` that have a direction, at unit length, and which rows they were."""
    lengths = np.linalg.norm(vectors, axis=1)
    rows = np.flatnonzero(lengths > 1e-6)
    return vectors[rows] / lengths[rows, None], rows


def main() -> None:
    """Command line: see the top of this file."""
    parser = argparse.ArgumentParser(description="LSA vectors of WordNet's definitions.")
    parser.add_argument("full", type=Path, help="folder with words.tsv and queries.txt")
    parser.add_argument("out", type=Path)
    parser.add_argument("--dims", type=int, nargs="+", default=[96, 768, 1024])
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    texts = [" ".join(line.split("\t")[1:]) for line in read_lines(options.full / "words.tsv")]
    sentences = read_lines(options.full / "queries.txt")
    base, queries = embed(texts, sentences, max(options.dims), options.seed)
    for dim in options.dims:
        folder = options.out / str(dim)
        folder.mkdir(parents=True, exist_ok=True)
        cut, rows = unit_rows(base[:, :dim])
        asked = unit_rows(queries[:, :dim])[0][: options.queries]
        np.save(folder / "base.npy", cut)
        np.save(folder / "rows.npy", rows.astype(np.int32))
        np.save(folder / "query.npy", asked)
        np.save(folder / "truth.npy", exact_top(cut, asked, 100))
        print(f"{folder}: {len(cut):,} x {dim}, {len(asked):,} queries")


if __name__ == "__main__":
    main()
