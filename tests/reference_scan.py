"""Slow, obvious twins of the kernels that look at every row."""

from __future__ import annotations

import numpy as np

from tests import reference

GROUP = 16


def vector_norms(vectors):
    """Norms in float64."""
    return np.sqrt(np.square(np.asarray(vectors, np.float64)).sum(axis=1))


def nearest_rows(scores, k, ids=None):
    """(ids, scores, count) of the best k scores, best first, equal ones by id; padded."""
    ids = range(len(scores)) if ids is None else ids
    best = sorted(zip(scores.tolist(), map(int, ids), strict=True), key=lambda hit: (-hit[0], hit[1]))[:k]
    missing = k - len(best)
    return (
        [number for _, number in best] + [reference.MISSING_ID] * missing,
        [score for score, _ in best] + [-np.inf] * missing,
        len(best),
    )


def top_bits(codes, bits, dim):
    """(n, dim) highest bits of the digits of packed code rows."""
    digits = np.array([reference.unpack_digits(code, bits)[:dim] for code in codes]).reshape(len(codes), dim)
    return digits >> (bits - 1), digits


def sketch_rows(codes, factors, bits, dim):
    """(groups, factors) of sketches; float64 factors."""
    n_groups = -(-len(codes) // GROUP)
    tops, digits = top_bits(codes, bits, dim)
    groups = np.zeros((n_groups, -(-dim // 32), GROUP, 4), np.uint8)
    out = np.zeros((n_groups, 2, GROUP))
    for row in range(len(codes)):
        group, lane = divmod(row, GROUP)
        for d in range(dim):
            word, inside = divmod(d, 32)
            slot, byte = divmod(inside, 4)
            groups[group, word, lane, byte] += int(tops[row, d]) << slot
        away = np.abs(digits[row] - reference.center_of(bits))
        correction = 2 * (away @ away) / away.sum() if bits > 1 and away.sum() > 0 else 1.0
        out[group, 0, lane] = factors[row, 0] * correction
        out[group, 1, lane] = factors[row, 1]
    return groups.reshape(n_groups, -1), out


def sketch_products(groups, digits):
    """(n_queries, 16 * n_groups) products of sketches with digits (n_queries, dim)."""
    words = groups.reshape(len(groups), -1, GROUP, 4)
    bits = (words[..., None] >> np.arange(8)) & 1  # group, word, lane, byte, slot
    by_dimension = bits.transpose(0, 2, 1, 4, 3).reshape(len(groups) * GROUP, -1)
    dim = digits.shape[1]
    return digits.astype(np.int64) @ by_dimension[:, :dim].T.astype(np.int64)


def scan(estimates, depth, scores, k, ids):
    """Hits of a scan: the best ``depth`` rows by estimate, equal ones by id, and of those the best k by score."""
    order = sorted(range(len(ids)), key=lambda row: (-estimates[row], int(ids[row])))[:depth]
    return nearest_rows(scores[order], k, [ids[row] for row in order])
