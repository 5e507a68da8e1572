"""Scanning and walking among some of the rows beside the same over Python lists."""

from __future__ import annotations

import numpy as np
import pytest

from skeg.ann.kernels.admit import (
    SCAN_ROWS,
    Admission,
    Aim,
    begin_among,
    is_admitted,
    note,
    scan_rows,
    scan_run,
    sweep_admitted,
    walk_admitted,
)
from skeg.ann.kernels.cells import CELLS, REGIONS, ROWS_A_CELL, Cells
from skeg.ann.kernels.score import Codes, Query
from skeg.ann.kernels.walk import DAMAGED, next_epoch
from tests import reference

pytestmark = pytest.mark.kernels

SHARES = [0.0, 0.1, 0.5, 1.0]


def aim_of(keys=400, k=1, margin=np.inf, slack=np.inf, floor=-np.inf):
    return Aim(np.int64(keys), np.int64(k), np.float32(margin), np.float32(slack), np.float32(floor))


AIMS = {
    "everything": aim_of(),
    "one": aim_of(1),
    "few": aim_of(4, k=3),
    "more hits than room": aim_of(3, k=10, margin=0.1, slack=0.1),
    "within nothing": aim_of(k=2, margin=0, slack=0),
    "within a margin": aim_of(k=3, margin=0.8, slack=0.3),
    "slack beyond the margin": aim_of(6, k=2, margin=0.1, slack=1.0),
    "a near floor": aim_of(k=1, margin=0.1, slack=0.2, floor=-6.0),
    "a far floor": aim_of(k=1, margin=0.1, slack=0.2, floor=1.5),
}


class Scene:
    """Rows with random codes, a query, everybody's estimate, and which rows are admitted."""

    def __init__(self, rng, n, share=0.5, *, ties=False, cells=(), usable=True):
        self.n = n
        self.query = Query(
            rng.integers(-127, 128, 128).astype(np.int8), np.zeros(1, np.float32), np.float32(0.01), np.float32(5),
            np.float32(1),
        )  # fmt: skip
        self.codes, self.estimates = self.coded(rng, n, ties)
        self.alive = (rng.random(n) < share**0.5).astype(np.uint8)
        self.wanted = (rng.random(n) < share**0.5).astype(np.uint8)
        self.admitted = [bool(a and w) for a, w in zip(self.alive, self.wanted, strict=True)]
        self.cells = np.cumsum([0, *(size for region in cells for size in region)]).astype(np.uint32)
        self.regions = np.cumsum([0, *(len(region) for region in cells)]).astype(np.uint32)
        self.centroids, self.centroid_estimates = self.coded(rng, len(self.cells) + len(self.regions) - 2, ties)
        marks = reference.mark_usable(self.regions.tolist(), self.cells.tolist(), self.wanted) if usable else []
        self.admission = Admission(self.alive, self.wanted, np.array(marks, np.uint8))
        self.found = np.zeros(401, np.int64)
        self.use_scratch(400, 400)

    def use_scratch(self, capacity, room):
        self.capacity, self.room = capacity, room
        scratch = reference.scratch_for(max(self.n, len(self.centroid_estimates)), capacity, room)
        self.scratch = scratch._replace(tags=np.zeros(self.n, np.uint8))
        next_epoch(self.scratch)

    def coded(self, rng, n, ties):
        codes = rng.integers(0, 256, (n, 64)).astype(np.uint8)
        factors = np.stack([np.full(n, 0.01), rng.standard_normal(n)], axis=1).astype(np.float32)
        if ties and n:
            codes[:] = codes[0]
            factors[:, 1] = rng.integers(0, 3, n)
        packed = Codes(4, codes, factors, np.zeros((1, 1), np.float32))
        return packed, reference.score_rows(packed, self.query, range(n))

    def keys(self, rows):
        return [reference.pack(-self.estimates[row], row) for row in rows]

    def keys_admitted(self, rows):
        return self.keys([row for row in rows if self.admitted[row]])

    def scanned(self, rows, aim, n_found=0):
        rows = np.array(rows, np.uint32)
        return scan_rows(self.codes, self.query, rows, self.admission, aim, self.found, np.int64(n_found))

    def scanned_run(self, first, stop, aim, n_found=0):
        ends = np.int64(first), np.int64(stop)
        return scan_run(
            self.codes, self.query, *ends, self.admission, aim, self.scratch, self.found, np.int64(n_found)
        )  # fmt: skip

    def swept(self, first, stop, aim, hops, state=(0, 0)):
        walking = np.int64(self.capacity), np.int64(hops), self.found
        ends, state = (np.int64(first), np.int64(stop)), (np.int64(state[0]), np.int64(state[1]))
        return sweep_admitted(self.codes, self.query, *ends, self.admission, aim, self.scratch, walking, state)

    def begun(self, aim, hops, root=0):
        """(keys in the pool or `DAMAGED`, the pool, keys found, rows seen)."""
        self.scratch.counters[:] = 0
        walking = np.int64(self.capacity), np.int64(hops), self.found
        cells = Cells(self.regions, self.cells, root)
        size, n_found = begin_among(
            cells, self.centroids, self.codes, self.query, self.admission, aim, self.scratch, walking
        )
        return size, self.scratch.pool[: max(size, 0)].tolist(), self.found[:n_found].tolist(), self.seen()

    def seen(self):
        return np.flatnonzero(self.scratch.tags == self.scratch.epoch[0]).tolist()

    def walked(self, graph, aim, state, *, hops=1, n_expand=400, longest=None):
        """(keys found, [rows scored, rows expanded]) or `DAMAGED`."""
        self.scratch.counters[:] = 0
        longest = max(int((graph.ends.astype(np.int64) - graph.starts).max()), 1) if longest is None else longest
        walking = np.int64(self.capacity), np.int64(hops), self.found
        n_found = walk_admitted(
            graph, self.codes, self.query, np.int64(n_expand), self.admission, aim, self.scratch,
            np.zeros(longest, np.int64), walking, (np.int64(state[0]), np.int64(state[1])),
        )  # fmt: skip
        if n_found == DAMAGED:
            return DAMAGED
        return self.found[:n_found].tolist(), self.scratch.counters[:2].tolist()

    def start_at(self, rows, aim, hops=1):
        """(state, what the twin of a walk begins with) after some rows were swept one by one."""
        state, seen = (0, 0), []
        next_epoch(self.scratch)
        for row in rows:
            state = self.swept(row, row + 1, aim, hops, state)
            seen.append(row)
        return state, (self.scratch.pool[: state[0]].tolist(), self.found[: state[1]].tolist(), seen)


@pytest.mark.parametrize(("alive", "wanted"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_row_is_admitted_if_it_is_alive_and_wanted(alive, wanted):
    marks = np.array([1 - alive, alive], np.uint8), np.array([1 - wanted, wanted], np.uint8)
    assert (alive and wanted) == is_admitted(Admission(*marks, np.zeros(0, np.uint8)), np.int64(1))


@pytest.mark.parametrize("aim", AIMS)
@pytest.mark.parametrize("distances", ["different", "equal", "few"])
def test_keys_noted_in_any_order_leave_the_nearest(rng, aim, distances):
    aim = AIMS[aim]
    values = {"different": rng.standard_normal(30) * 3, "equal": np.zeros(30), "few": rng.integers(-2, 3, 30) / 4}
    keys = [reference.pack(distance, row) for row, distance in enumerate(values[distances])]
    for _ in range(4):
        found, n_found = np.zeros(401, np.int64), np.int64(0)
        order = rng.permutation(30)
        for done, i in enumerate(order, 1):
            n_found = note(found, np.int64(n_found), aim, np.int64(keys[i]))
            assert reference.nearest_admitted([keys[j] for j in order[:done]], aim) == found[:n_found].tolist()


@pytest.mark.parametrize("n", [1, 2, 17, 48])
@pytest.mark.parametrize("aim", AIMS)
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("ties", [False, True])
def test_scans_find_the_nearest_admitted_rows(rng, n, aim, share, ties):
    aim = AIMS[aim]
    scene = Scene(rng, n, share, ties=ties)
    rows = rng.permutation(n)[: rng.integers(1, n + 1)].tolist()
    expected = reference.scanned_admitted(scene.keys_admitted(rows), aim)
    assert expected == scene.found[: scene.scanned(rows, aim)].tolist()
    first, stop = sorted(rng.integers(0, n + 1, 2).tolist())
    expected = reference.scanned_admitted(scene.keys_admitted(range(first, stop)), aim)
    assert expected == scene.found[: scene.scanned_run(first, stop, aim)].tolist()


@pytest.mark.parametrize("aim", AIMS)
def test_a_scan_adds_to_what_was_found_before(rng, aim):
    aim = AIMS[aim]
    scene = Scene(rng, 40)
    expected = reference.scanned_admitted(scene.keys_admitted(range(40)), aim)
    n_found = scene.scanned(range(30, 40), aim, scene.scanned(range(10), aim))
    assert expected == scene.found[: scene.scanned_run(10, 30, aim, n_found)].tolist()


def test_a_scan_of_no_rows_changes_nothing(rng):
    scene = Scene(rng, 4, 1.0)
    assert 0 == scene.scanned([], aim_of())
    assert 0 == scene.scanned_run(4, 4, aim_of())
    n_found = scene.scanned(range(3), aim_of())
    before = scene.found[:3].tolist()
    assert 3 == n_found == scene.scanned([], aim_of(), n_found) == scene.scanned_run(2, 2, aim_of(), n_found)
    assert before == scene.found[:3].tolist()


@pytest.mark.parametrize("n", [SCAN_ROWS, SCAN_ROWS + 1, 2 * SCAN_ROWS + 30])
def test_long_runs_are_scanned_whole(rng, n):
    aim = aim_of(20, k=5, slack=1.0)
    scene = Scene(rng, n)
    expected = reference.scanned_admitted(scene.keys_admitted(range(3, n)), aim)
    assert expected == scene.found[: scene.scanned_run(3, n, aim)].tolist()
    scene.found[:] = 0
    size, n_found = scene.swept(3, n, aim, 1)
    assert expected == scene.found[:n_found].tolist()
    assert sorted(scene.keys(range(3, n)))[: scene.capacity] == scene.scratch.pool[:size].tolist()
    assert list(range(3, n)) == scene.seen()


@pytest.mark.parametrize("hops", [1, 2])
@pytest.mark.parametrize("capacity", [1, 5, 400])
@pytest.mark.parametrize("share", SHARES)
def test_a_sweep_offers_rows_not_seen_before_to_both_pools(rng, hops, capacity, share):
    for aim in AIMS.values():
        scene = Scene(rng, 40, share)
        scene.use_scratch(capacity, 400)
        state = scene.swept(5, 15, aim, hops)
        size, n_found = scene.swept(10, 30, aim, hops, scene.swept(12, 12, aim, hops, state))
        walked_by = scene.keys(range(5, 30)) if hops == 1 else scene.keys_admitted(range(5, 30))
        assert sorted(walked_by)[:capacity] == scene.scratch.pool[:size].tolist()
        assert reference.nearest_admitted(scene.keys_admitted(range(5, 30)), aim) == scene.found[:n_found].tolist()
        assert list(range(5, 30)) == scene.seen()


CELL_SIZES = {
    "one row": [[1]],
    "one cell": [[7]],
    "many": [[5, 1], [3], [2, 2, 2, 7], [1], [8, 3, 1], [4, 4], [6]],
    "empty cells": [[0, 3], [0], [2, 0, 1]],
}


@pytest.mark.parametrize("case", CELL_SIZES)
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("hops", [1, 2])
@pytest.mark.parametrize("usable", [False, True])
@pytest.mark.parametrize("ties", [False, True])
def test_a_walk_begins_in_the_nearest_cells_that_have_wanted_rows(rng, case, share, hops, usable, ties):
    for aim in (AIMS["everything"], AIMS["within a margin"]):
        sizes = CELL_SIZES[case]
        n = sum(map(sum, sizes))
        scene = Scene(rng, n, share, ties=ties, cells=sizes, usable=usable)
        root = int(rng.integers(n))
        found = reference.nearest_cells(
            scene.regions.tolist(), scene.centroid_estimates, REGIONS, CELLS, scene.admission.usable
        )
        rows = {root, *(row for cell in found for row in range(scene.cells[cell], scene.cells[cell + 1]))}
        pool = scene.keys(rows) if hops == 1 else scene.keys_admitted(rows)
        expected = len(pool), sorted(pool), reference.nearest_admitted(scene.keys_admitted(rows), aim), sorted(rows)
        assert expected == scene.begun(aim, hops, root)


def test_a_walk_where_no_row_is_wanted_begins_at_the_root(rng):
    scene = Scene(rng, 30, 0.0, cells=[[5, 5], [20]])
    assert (1, scene.keys([3]), [], [3]) == scene.begun(aim_of(), 1, root=3)
    assert (0, [], [], [3]) == scene.begun(aim_of(), 2, root=3)


def test_of_a_huge_cell_only_so_many_rows_are_swept(rng):
    scene = Scene(rng, ROWS_A_CELL + 30, 1.0, cells=[[ROWS_A_CELL + 30]])
    assert list(range(ROWS_A_CELL)) == scene.begun(aim_of(), 1)[3]


@pytest.mark.parametrize(
    ("name", "place", "value"),
    [("regions", 0, 3), ("regions", 1, 2**32 - 1), ("cells", 0, 8), ("cells", 1, 2**32 - 1), ("cells", 2, 16)],
)
def test_damaged_borders_of_cells_are_reported(rng, name, place, value):
    scene = Scene(rng, 15, 1.0, cells=[[5, 10]])
    getattr(scene, name)[place] = value
    assert DAMAGED == scene.begun(aim_of(), 1)[0]


def check_walk(scene, lists, aim, starts, *, hops=1, n_expand=400):
    """That a walk from some rows does what its twin does."""
    graph = reference.graph_of(lists)
    state, begun = scene.start_at(starts, aim, hops)
    actual = scene.walked(graph, aim, state, hops=hops, n_expand=n_expand)
    pool, found, expanded, scored = reference.walk_admitted(
        lists, begun, scene.estimates, scene.admitted, aim, scene.capacity, n_expand, hops, scene.room
    )
    assert (found, [scored, len(expanded)]) == actual
    assert pool == (scene.scratch.pool[: len(pool)] & ~1).tolist()
    flagged = [bool(key & 1) for key in scene.scratch.pool[: len(pool)].tolist()]
    assert [key // 2 % 2**31 in expanded for key in pool] == flagged


@pytest.mark.parametrize("n", [1, 2, 17, 40])
@pytest.mark.parametrize("aim", AIMS)
@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("hops", [1, 2])
@pytest.mark.parametrize("ties", [False, True])
def test_walk_finds_expands_and_counts_what_its_twin_does(rng, n, aim, share, hops, ties):
    for capacity, n_expand in ((1, 1), (6, 6), (6, 3), (60, 60)):
        scene = Scene(rng, n, share, ties=ties)
        scene.use_scratch(capacity, 64)
        lists = reference.random_lists(rng, n, 6)
        starts = rng.permutation(n)[: rng.integers(1, 4)].tolist()
        check_walk(scene, lists, AIMS[aim], starts, hops=hops, n_expand=n_expand)


@pytest.mark.parametrize("room", [4, 5, 7, 12])
def test_a_step_by_two_hops_scores_as_many_rows_as_there_is_room_for(rng, room):
    for share in (0.3, 0.7):
        scene = Scene(rng, 40, share)
        scene.use_scratch(60, room)
        lists = [neighbors[:4] for neighbors in reference.random_lists(rng, 40, 6)]
        check_walk(scene, lists, aim_of(), range(3), hops=2)


@pytest.mark.parametrize("room", [4, 5, 15, 16, 17])
def test_a_step_by_two_hops_ends_where_there_is_no_more_room(rng, room):
    """From row 0 four rows that are not admitted lead to sixteen that are."""
    scene = Scene(rng, 21)
    scene.use_scratch(60, room)
    scene.alive[:] = scene.wanted[:] = [0] * 5 + [1] * 16
    scene.alive[0] = scene.wanted[0] = 1
    scene.admitted = [bool(a and w) for a, w in zip(scene.alive, scene.wanted, strict=True)]
    lists = [[1, 2, 3, 4], *([5 + 4 * i + j for j in range(4)] for i in range(4)), *[[]] * 16]
    check_walk(scene, lists, aim_of(), [0], hops=2)
    assert min(room, 16) == scene.scratch.counters[0]


@pytest.mark.parametrize(
    ("gone", "one_hop", "two_hops"),
    [([], [0, 1, 2, 3], [0, 1, 2, 3]), ([1], [0, 2, 3], [0, 2, 3]), ([1, 2], [0, 3], [0]), ([0], [1, 2, 3], [])],
)
def test_one_hop_passes_through_all_rows_and_two_hops_through_one_that_is_not_admitted(rng, gone, one_hop, two_hops):
    """The chain 0 -> 1 -> 2 -> 3."""
    scene = Scene(rng, 4, 1.0)
    scene.wanted[gone] = 0
    for hops, expected in ((1, one_hop), (2, two_hops)):
        state, _ = scene.start_at([0], aim_of(), hops)
        found, _ = scene.walked(reference.graph_of([[1], [2], [3], []]), aim_of(), state, hops=hops)
        assert sorted(scene.keys(expected)) == found


@pytest.mark.parametrize("hops", [1, 2])
def test_neighbors_that_are_named_twice_and_the_row_itself_count_once(rng, hops):
    lists = [[1, 1, 2, 0], [1, 3, 3, 0], [4, 2, 4, 1], [5, 5], [0], [2, 3]]
    for share in SHARES:
        scene = Scene(rng, 6, share)
        check_walk(scene, lists, aim_of(), [0, 2], hops=hops)


def test_nothing_to_walk_by_leaves_what_was_found(rng):
    scene = Scene(rng, 4, 1.0)
    n_found = scene.scanned(range(2), aim_of())
    assert (sorted(scene.keys(range(2))), [0, 0]) == scene.walked(
        reference.graph_of([[1], [2], [3], [0]]), aim_of(), (0, n_found)
    )


@pytest.mark.parametrize("hops", [1, 2])
def test_scratch_can_be_used_again_and_again(rng, hops):
    """Tags wrap around after 255 walks and must not remember rows of an earlier one."""
    scene = Scene(rng, 6, 0.6)
    graph = reference.graph_of([[1, 2], [2, 3], [3, 4], [4, 5], [5, 0], [0, 1]])
    answers = []
    for _ in range(600):
        state, _ = scene.start_at([0, 1], aim_of(), hops)
        answers.append(scene.walked(graph, aim_of(), state, hops=hops))
    assert all(answer == answers[0] for answer in answers)


DAMAGE = [
    ("links", 0, 4), ("links", 1, 2**32 - 1), ("links", 7, 2**31), ("ends", 0, 2**32 - 1), ("ends", 3, 9),
    ("starts", 0, 3), ("starts", 3, 2**32 - 1),
]  # fmt: skip


@pytest.mark.parametrize(("field", "place", "value"), DAMAGE)
@pytest.mark.parametrize("admitted", [[0], [0, 1, 2, 3]])
@pytest.mark.parametrize("hops", [1, 2])
def test_a_damaged_graph_is_reported(rng, field, place, value, admitted, hops):
    """With two hops and one admitted row all other lists are read as those of bridges."""
    scene = Scene(rng, 4, 1.0)
    scene.wanted[:] = np.isin(range(4), admitted)
    graph = reference.graph_of([[1, 3], [2, 3], [3, 0], [0, 1]])
    getattr(graph, field)[place] = value
    state, _ = scene.start_at([0], aim_of(), hops)
    assert DAMAGED == scene.walked(graph, aim_of(), state, hops=hops, longest=2)


@pytest.mark.parametrize("hops", [1, 2])
def test_a_list_longer_than_the_work_space_is_damage(rng, hops):
    """The first list, and with two hops that of a bridge."""
    scene = Scene(rng, 5, 1.0)
    graph = reference.graph_of([[1, 2, 3], [], [], [], []])
    for longest, verdict in ((3, 4), (2, DAMAGED)):
        state, _ = scene.start_at([0], aim_of(), hops)
        result = scene.walked(graph, aim_of(), state, hops=hops, longest=longest)
        assert verdict == (DAMAGED if result == DAMAGED else len(result[0]))
    scene.wanted[1] = 0
    graph = reference.graph_of([[1], [2, 3, 4], [], [], []])
    for longest, verdict in ((3, 4), (2, DAMAGED)):
        state, _ = scene.start_at([0], aim_of(), hops)
        result = scene.walked(graph, aim_of(), state, hops=hops, longest=longest)
        assert verdict == (DAMAGED if result == DAMAGED else len(result[0]))


@pytest.mark.parametrize("hops", [1, 2])
def test_random_damage_ends_in_an_answer_or_a_report(rng, hops):
    for _ in range(60):
        scene = Scene(rng, 16, 0.4)
        scene.use_scratch(8, 16)
        graph = reference.graph_of(reference.random_lists(rng, 16, 5))
        longest = len(graph.links) // 16
        for field in (graph.links, graph.starts, graph.ends):
            field[rng.integers(len(field))] = rng.choice([0, 15, 16, 100, 2**31, 2**32 - 1])
        state, _ = scene.start_at(rng.permutation(16)[:3].tolist(), aim_of(), hops)
        result = scene.walked(graph, aim_of(), state, hops=hops, longest=longest)
        assert result == DAMAGED or len(result[0]) <= sum(scene.admitted)
