"""Slow, obvious twins of the kernels, and small inputs for them.

A twin says in plain Python or NumPy what a kernel computes. Integer results have to be equal; where a kernel works in
float32 without reordering, the twin does the same operations on ``np.float32`` and its results have to be equal too;
elsewhere twins work in float64 and are compared with a tolerance.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from skeg.ann.kernels import prune
from skeg.ann.kernels.score import Codes
from skeg.ann.kernels.walk import Entries, Graph, Scratch
from skeg.ann.metric import METRICS
from skeg.ann.quantizers import UniformQuantizer
from skeg.ann.transform import RowTransform
from skeg.ann.vamana import BuildRows

F32 = np.float32
MISSING_ID = 2**64 - 1

# Around one, two and four vector registers, powers of two and their neighbors, odd numbers.
DIMS = (1, 2, 3, 16, 17, 63, 64, 65, 100)
BITS = (1, 2, 4, 8)


# Keys


def order_of(distance):
    """The float32's bits as a sign-and-magnitude number, negative ones mirrored: order-preserving."""
    bits = int(F32(distance).view(np.int32))
    return bits if bits >= 0 else -(bits & 0x7FFFFFFF) - 1


def pack(distance, row):
    return order_of(distance) * 2**32 + row * 2


def distance_of(key):
    """The float32 in a key."""
    bits = key >> 32
    return np.int32(bits if bits >= 0 else bits ^ 0x7FFFFFFF).view(F32)


def keys_of(distances, rows):
    """Sorted keys of the given rows."""
    return np.array(sorted(pack(distances[row], int(row)) for row in rows), np.int64)


# Codes


def pack_digits(digits, bits):
    """Code row of one digit a dimension, in the layout described in `skeg.ann.kernels.simd`."""
    slots = 8 // bits
    code = np.zeros(len(digits) // slots, np.uint8)
    for dimension, digit in enumerate(digits):
        block, inside = divmod(dimension, 64 * slots)
        slot, byte = divmod(inside, 64)
        code[block * 64 + byte] += int(digit) << (slot * bits)
    return code


def unpack_digits(code, bits):
    """Inverse of `pack_digits`."""
    slots = 8 // bits
    digits = np.zeros(len(code) * slots, np.int64)
    for dimension in range(len(digits)):
        block, inside = divmod(dimension, 64 * slots)
        slot, byte = divmod(inside, 64)
        digits[dimension] = (int(code[block * 64 + byte]) >> (slot * bits)) & ((1 << bits) - 1)
    return digits


def center_of(bits):
    return 128.0 if bits == 8 else ((1 << bits) - 1) / 2


def encode_uniform(row, square, bits, clip):
    """Digits, as real numbers before rounding down, and a function from digits to the scale; float64."""
    row = np.asarray(row, np.float64)
    step = clip * np.sqrt(float(square) / len(row)) or 1.0
    if bits == 8:
        places = np.clip(row / step, -127, 127) + 128.5
    else:
        places = np.clip(row / step + 2 ** (bits - 1), 0, 2**bits - 0.5)

    def scale(digits):
        product = float(row @ (digits - center_of(bits)))
        return float(square) / product if product > 0 else 0.0

    return places, scale


# Rotation and preparation


def hadamard(x):
    """Walsh-Hadamard transform by its matrix: entry (i, j) is -1 to the number of bits that i and j share."""
    n = len(x)
    matrix = np.array([[(-1.0) ** (i & j).bit_count() for j in range(n)] for i in range(n)])
    return matrix @ np.asarray(x, np.float64)


def rotate(x, signs):
    x = np.array(x, np.float64)
    dim = len(x)
    window = 2 ** (dim.bit_length() - 1)
    half = dim // 2
    for number, row in enumerate(signs):
        x *= row
        start = dim - window if number % 2 else 0
        x[start : start + window] = hadamard(x[start : start + window]) / np.sqrt(window)
        if window < dim:
            left, right = x[:half].copy(), x[dim - half :].copy()
            x[:half] = (left + right) / np.sqrt(2)
            x[dim - half :] = (left - right) / np.sqrt(2)
    return x


def turn_rows(raw, metric, mean, signs):
    raw = np.asarray(raw, np.float64)
    if metric == METRICS["cosine"]:
        raw = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    return np.array([rotate(row - mean, signs) for row in raw])


def prepare_query(raw, metric, mean, signs):
    """The turned query in float64; its int8 form is this over the step, rounded."""
    return rotate(raw - mean if metric == METRICS["l2"] else raw, signs)


def score_rows(codes, query, rows):
    """Estimates in float32, in the order of operations of the kernel; exact for packed codes.

    Factors without a second column have no offset.
    """
    result = []
    for row in rows:
        if codes.scheme == 0:
            product = F32(np.asarray(codes.vectors[row], np.float64) @ query.table)
        elif codes.scheme == 16:
            product = F32(sum(float(query.table[m * 256 + c]) for m, c in enumerate(codes.codes[row].tolist())))
        else:
            digits = unpack_digits(codes.codes[row], codes.scheme)
            product = F32(int(digits @ query.digits[: len(digits)].astype(np.int64)))
        estimate = F32(codes.factors[row, 0] * query.step) * F32(product - query.bias)
        if codes.factors.shape[1] == 2:
            estimate += F32(codes.factors[row, 1] * query.weight)
        result.append(estimate)
    return np.array(result, np.float32)


def exact_scores(vectors, query, metric):
    """Scores of all vectors in float64."""
    vectors, query = np.asarray(vectors, np.float64), np.asarray(query, np.float64)
    if metric == METRICS["l2"]:
        return -np.square(vectors - query).sum(axis=1)
    products = vectors @ query
    if metric == METRICS["ip"]:
        return products
    norms = np.linalg.norm(vectors, axis=1) * np.linalg.norm(query)
    return np.divide(products, norms, out=np.zeros(len(products)), where=norms > 0)


def rerank(scores, ids, rows, k, known=()):
    """(id, score) of the best k of the given rows, best first, equal scores by id.

    Known hits, (id, score) as well, compete unless one of the rows has their id.
    """
    hits = [(int(ids[r]), scores[r]) for r in rows]
    replaced = {number for number, _ in hits}
    hits += [hit for hit in known if hit[0] not in replaced]
    return sorted(hits, key=lambda hit: (-hit[1], hit[0]))[:k]


# k-means


def nearest_centroid(point, centroids):
    """Least |c|^2 / 2 - <x, c> in float32, coordinate by coordinate; the lowest number wins ties."""
    costs = np.square(centroids).sum(axis=1) * F32(0.5)
    for j, value in enumerate(point):
        costs = costs - F32(value) * centroids[:, j]
    return int(np.argmin(costs))


def encode_pq(row, square, codebook):
    """Code and scale (float64) of one row."""
    sub_dim = codebook.shape[2]
    padded = np.zeros(codebook.shape[0] * sub_dim, np.float32)
    padded[: len(row)] = row
    parts = padded.reshape(-1, sub_dim)
    code = [nearest_centroid(part, codebook[m]) for m, part in enumerate(parts)]
    rebuilt = np.concatenate([codebook[m, c] for m, c in enumerate(code)])
    product = float(padded.astype(np.float64) @ rebuilt)
    return code, float(square) / product if product > 0 else 0.0


# Graphs


def lists_of(graph):
    """Neighbor lists of a `Graph` as Python lists."""
    return [graph.links[s:e].tolist() for s, e in zip(graph.starts.tolist(), graph.ends.tolist(), strict=True)]


def graph_of(lists, slots=None):
    """A `Graph` with room for ``slots`` neighbors a row."""
    slots = slots or max(1, *(len(neighbors) for neighbors in lists))
    links = np.zeros(len(lists) * slots, np.uint32)
    starts = np.arange(len(lists), dtype=np.uint32) * np.uint32(slots)
    ends = starts.copy()
    for row, neighbors in enumerate(lists):
        links[starts[row] : starts[row] + len(neighbors)] = neighbors
        ends[row] += len(neighbors)
    return Graph(links, starts, ends)


def random_lists(rng, n, degree):
    """Random neighbor lists without repeats or self-loops, some of them empty."""
    return [[int(v) for v in rng.permutation(n)[: rng.integers(0, degree + 1)] if v != row] for row in range(n)]


def scratch_for(n, list_size, room, n_expanded=None):
    return Scratch(
        pool=np.zeros(list_size + 1, np.int64),
        tags=np.zeros(n, np.uint8),
        epoch=np.zeros(1, np.uint8),
        todo=np.zeros(room, np.int64),
        expanded=np.zeros(n if n_expanded is None else n_expanded, np.int64),
        counters=np.zeros(4, np.int64),
        keys=np.zeros(max(n, 2), np.int64),
        products=np.zeros(max(n, 2), np.int32),
        estimates=np.zeros(max(n, 2), np.float32),
    )


def entries_of(codes, rows):
    """`Entries` of rows with these codes."""
    rows = np.array(rows, np.uint32)
    return Entries(rows, Codes(codes.scheme, codes.codes[rows], codes.factors[rows], codes.vectors))


def last_within(pool, k, reach):
    """The largest key at most ``reach`` behind the k-th of a pool."""
    if len(pool) < k or reach == np.inf:
        return float("inf")
    return pack(F32(distance_of(pool[k - 1]) + F32(reach)), 0) | 0xFFFFFFFF


def offered(pool, key, bounds):
    """A pool after a key was offered to it: the nearest ``capacity`` of all, none too far behind the k-th."""
    reach = max(bounds.margin, bounds.slack)
    if key > last_within(pool, bounds.k, reach):
        return pool
    pool = sorted([*pool, key])[: bounds.capacity]
    return [kept for kept in pool if kept <= last_within(pool, bounds.k, reach)]


def walk(lists, pool, seen, estimates, bounds):
    """(keys of the pool, rows expanded in order, number of rows scored) of a best-first walk from what is in the pool.

    Again and again the nearest row that is not expanded yet among the first ``n_expand`` of the pool is expanded, if it
    is within the margin of the k-th: its neighbors not in ``seen`` are offered to the pool.
    """
    seen, expanded, scored = set(seen), [], 0
    while True:
        waiting = [key for key in pool[: bounds.n_expand] if key // 2 % 2**31 not in expanded]
        if not waiting or waiting[0] > last_within(pool, bounds.k, bounds.margin):
            return pool, expanded, scored
        row = waiting[0] // 2 % 2**31
        expanded.append(row)
        for neighbor in lists[row]:
            if neighbor not in seen:
                seen.add(neighbor)
                scored += 1
                pool = offered(pool, pack(-estimates[neighbor], neighbor), bounds)


def nearest_cells(regions, estimates, n_regions_wanted, n_cells_wanted, usable=()):
    """Numbers of the nearest cells among those of the nearest regions; estimates of regions come first.

    ``usable``, in the same order as estimates, is 0 for regions and cells that don't count; empty if all do.
    """
    n_regions = len(regions) - 1
    counts = [bool(mark) for mark in usable] or [True] * len(estimates)
    useful = [r for r in range(n_regions) if counts[r]]
    near = sorted(useful, key=lambda r: pack(-estimates[r], r))[:n_regions_wanted]
    cells = [c for r in near for c in range(regions[r], regions[r + 1]) if counts[n_regions + c]]
    return sorted(cells, key=lambda c: pack(-estimates[n_regions + c], c))[:n_cells_wanted]


def mark_usable(regions, cells, wanted):
    """1 for each region and then for each cell that has a wanted row, 0 for the others."""
    of_cells = [int(any(wanted[start:stop])) for start, stop in pairwise(cells)]
    return [int(any(of_cells[start:stop])) for start, stop in pairwise(regions)] + of_cells


def begin_in_cells(found, cells, root, estimates, bounds, rows_a_cell):
    """(pool, rows seen) after the rows of the cells found, then the root, were offered."""
    seen = [row for c in found for row in range(cells[c], min(cells[c + 1], cells[c] + rows_a_cell))]
    if root not in seen:
        seen.append(root)
    pool = []
    for row in seen:
        pool = offered(pool, pack(-estimates[row], row), bounds)
    return pool, seen


def last_admitted(found, aim, reach):
    """The largest key at most ``reach`` behind the k-th admitted one, or behind the floor if that is farther."""
    if len(found) < aim.k or reach == np.inf:
        return float("inf")
    return pack(F32(max(distance_of(found[aim.k - 1]), aim.floor) + F32(reach)), 0) | 0xFFFFFFFF


def nearest_admitted(keys, aim):
    """Of the keys of admitted rows the nearest, as many as there is room for, none too far behind the k-th."""
    found = sorted(keys)[: aim.keys]
    return [key for key in found if key <= last_admitted(found, aim, aim.slack)]


def scanned_admitted(keys, aim):
    """The same of a scan, which leaves out what is behind the floor by more than the slack."""
    bounded = aim.floor > -np.inf and aim.slack < np.inf
    return nearest_admitted([key for key in keys if not bounded or distance_of(key) <= F32(aim.floor + aim.slack)], aim)


def unseen_admitted(lists, row, seen, admitted, hops, room):
    """What an expansion scores, which is added to ``seen``: neighbors not seen yet.

    With two hops those that are admitted, and after them the admitted neighbors of those that are not, up to ``room``.
    """
    todo, bridges = [], []
    for neighbor in lists[row]:
        if neighbor not in seen:
            seen.add(neighbor)
            (todo if hops == 1 or admitted[neighbor] else bridges).append(neighbor)
    for neighbor in [other for bridge in bridges for other in lists[bridge]]:
        if admitted[neighbor] and neighbor not in seen and len(todo) < room:
            seen.add(neighbor)
            todo.append(neighbor)
    return todo


def walk_admitted(lists, begun, estimates, admitted, aim, capacity, n_expand, hops=1, room=10**9):
    """(keys of the pool, keys found, rows expanded in order, number of rows scored) of a walk among admitted rows.

    begun = (pool, found, rows seen). Again and again the nearest row that is not expanded yet among the first
    ``n_expand`` of the pool is expanded, if it is within the margin of the k-th admitted one: what it leads to is
    offered to ``found``, if admitted, and to the pool.
    """
    pool, found, seen = list(begun[0]), list(begun[1]), set(begun[2])
    expanded, scored = [], 0
    while True:
        waiting = [key for key in pool[:n_expand] if key // 2 % 2**31 not in expanded]
        if not waiting or waiting[0] > last_admitted(found, aim, aim.margin):
            return pool, found, expanded, scored
        row = waiting[0] // 2 % 2**31
        expanded.append(row)
        for neighbor in unseen_admitted(lists, row, seen, admitted, hops, room):
            scored += 1
            key = pack(-estimates[neighbor], neighbor)
            if admitted[neighbor]:
                found = nearest_admitted([*found, key], aim)
            if key <= last_admitted(found, aim, aim.margin):
                pool = sorted([*pool, key])[:capacity]


def decode_rows(codes, scales, dim):
    """Vectors that 8-bit codes stand for, float32."""
    return (codes[:, :dim].astype(np.float32) - F32(128)) * scales[:, None]


def assign_rows(points, centroids):
    """Squared distances (m, c) in float64, of which an assignment has to take the least."""
    return np.square(points[:, None].astype(np.float64) - centroids[None].astype(np.float64)).sum(axis=2)


def sum_rows(points, labels, count):
    """(sums, counts) of each label's points, added in order in float32."""
    sums, counts = np.zeros((count, points.shape[1]), np.float32), np.zeros(count, int)
    for point, label in zip(points, labels, strict=True):
        sums[label] += point
        counts[label] += 1
    return sums, counts


def train_centroids(points, centroids, rounds):
    """Centroids after so many rounds of Lloyd's k-means; one that no point is nearest to stays."""
    centroids = centroids.astype(np.float64)
    for _ in range(rounds):
        labels = assign_rows(points, centroids).argmin(axis=1)
        for c in set(labels.tolist()):
            centroids[c] = points[labels == c].mean(axis=0, dtype=np.float64)
    return centroids


def sum_cells(vectors, cells, is_cosine):
    """Sum of the vectors of each cell, with length 1 under cosine."""
    if is_cosine:
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.array([vectors[start:stop].sum(axis=0, dtype=np.float64) for start, stop in pairwise(cells)])


def reach(lists, source, reached):
    """Rows newly reached from ``source``, breadth first."""
    if source in reached:
        return []
    found, seen = [source], {source, *reached}
    for row in found:
        for neighbor in lists[row]:
            if neighbor not in seen:
                seen.add(neighbor)
                found.append(neighbor)
    return found


def square_distance(rows, a, b):
    """Squared distance from 8-bit codes, in float32 as the kernel."""
    left, right = rows.codes[a].astype(np.int64) - 128, rows.codes[b].astype(np.int64) - 128
    inner = F32(F32(rows.scales[a] * rows.scales[b]) * F32(int(left @ right))) + F32(rows.tails[a] * rows.tails[b])
    return max(F32(F32(rows.squares[a] + rows.squares[b]) - F32(2) * inner), F32(0))


def robust_prune(rows, target, candidates, alpha, max_degree):
    """Candidates by rising distance, but none that a chosen one is nearer to, by alpha, than the target."""
    kept = []
    for key in sorted(pack(square_distance(rows, c, target), c) for c in candidates):
        candidate = key // 2 % 2**31
        limit = square_distance(rows, candidate, target)
        if all(F32(F32(alpha) * square_distance(rows, candidate, other)) > limit for other in kept):
            kept.append(candidate)
        if len(kept) == max_degree:
            break
    return kept


def patch_list(lists, before, new_row, rows, alpha, max_degree, most=10**9):
    """The list of a row that was ``before`` in an older graph; new_row: the row now of each there, -1 if it is gone.

    A neighbor that is gone is replaced by the first `PATCH_LINKS` of its own list, and all are pruned, or rather the
    nearest ``most`` of them.
    """
    if all(new_row[neighbor] >= 0 for neighbor in lists[before]):
        return [new_row[neighbor] for neighbor in lists[before]]
    row, candidates = new_row[before], set()
    for neighbor in lists[before]:
        places = [neighbor] if new_row[neighbor] >= 0 else lists[neighbor][: prune.PATCH_LINKS]
        candidates |= {new_row[place] for place in places}
    candidates -= {-1, row}
    nearest = sorted(candidates, key=lambda c: pack(square_distance(rows, c, row), c))[:most]
    return robust_prune(rows, row, nearest, alpha, max_degree)


def group_by_target(points, neighbors, degrees):
    """Sources of each target, both in order of mention."""
    groups = {}
    for source, row, degree in zip(points.tolist(), neighbors.tolist(), degrees.tolist(), strict=True):
        for target in row[:degree]:
            groups.setdefault(target, []).append(source)
    return groups


def find_rows(ids, wanted):
    """Row of each wanted id, -1 where there is none."""
    places = {int(i): row for row, i in enumerate(ids)}
    return [places.get(int(i), -1) for i in wanted]


# Small inputs


def build_rows(vectors, metric="l2", bits=4):
    """Codes and distances of ``vectors`` (n, dim) float32 as a build makes them."""
    transform = RowTransform.fit(vectors, metric, 0)
    turned, squares = transform.apply(vectors)
    steering, fine = UniformQuantizer(f"tq{bits}", transform, bits), UniformQuantizer("int8", transform, 8)
    codes, scales = steering.encode(turned, squares)
    fine_codes, fine_scales = fine.encode(turned, squares)
    sums = (fine_codes.astype(np.int32) - 128).sum(axis=1, dtype=np.int32)
    tails = np.zeros(len(vectors), np.float32)
    if metric == "ip":
        tails = np.sqrt(squares.max() - squares).astype(np.float32)
        squares = np.full_like(squares, squares.max())
    offsets = tails if metric == "ip" else squares * F32(-0.5)
    factors = np.stack([scales, offsets], axis=1)
    return BuildRows(
        Codes(steering.scheme, codes, factors, np.zeros((1, 1), np.float32)),
        prune.Rows(fine_codes, fine_scales, sums, squares, tails),
        METRICS[metric],
    )
