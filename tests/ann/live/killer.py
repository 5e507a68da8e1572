"""A real process that works on an index is killed again and again; what it had acknowledged must be there afterwards.

    python -m tests.ann.live.killer INDEX JOURNAL SEED      (the process that is killed; `Killer` starts it)

The process opens the index and works on it in several *lanes* (threads). Each owns some ids, so what it has
acknowledged is an exact state. It writes to the journal what it is about to do, and when that has returned. An
operation that was under way may have happened, or some of its steps, in their order: a call that adds many vectors adds
them some at a time. In between the index links and merges in the background, and lanes ask for that too.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import threading
import time
import traceback
import types
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from skeg.ann import Index
from skeg.durability import Durability
from tests.ann.live.small import limit

ROOT = Path(__file__).resolve().parents[3]
LANES = 4
IDS_A_LANE = 200
DIM = 6
CHUNK = 16
ROUNDS_A_FOLDER = 8

# A process that has not begun after so long hangs.
PATIENCE_S = 120.0

State = dict[int, int]


def vector(vector_id: int, version: int) -> list[float]:
    return [float(vector_id % 97), float(vector_id), float(version % 1000), float(version // 1000), 1.0, -1.0]


# ---------------------------------------------------------------------------------------------------------------------
# The process that is killed.


def work(path: Path, journal: int, seed: int) -> None:
    """Open the index and work on it in all lanes, until killed."""
    limit(types.SimpleNamespace(setattr=setattr), MERGE_ROWS_MIN=64, CHUNK_ROWS=CHUNK, SCAN_ROWS=40, LINK_ROWS=16)
    index = Index.open(path, mode="rw")
    os.write(journal, b"open\n")
    lanes = [random.Random(seed * LANES + lane) for lane in range(LANES)]
    threads = [threading.Thread(target=_lane, args=(index, journal, *lane)) for lane in enumerate(lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _lane(index: Index, journal: int, lane: int, rng: random.Random) -> None:
    try:
        version = int(time.time() * 1000) % 900_000
        while True:
            version += 1
            _operate(index, journal, lane, version, rng)
    except BaseException:  # noqa: BLE001 - the parent complains
        os.write(journal, f"failed {traceback.format_exc()!r}\n".encode())
        os._exit(1)


def _operate(index: Index, journal: int, lane: int, version: int, rng: random.Random) -> None:
    mine = range(lane * IDS_A_LANE, (lane + 1) * IDS_A_LANE)
    level = rng.choice((Durability.OS, Durability.OS, Durability.SYNC))
    what = rng.choices(("add", "delete", "many", "consolidate", "search"), (12, 6, 1, 0.3, 3))[0]
    ids = rng.sample(mine, rng.randrange(1, CHUNK) if what != "many" else rng.randrange(CHUNK, IDS_A_LANE))
    if what == "consolidate":
        index.consolidate(threads=1)
        return
    if what == "search":
        index.search(np.array(vector(ids[0], version)), 10)
        index.search([vector(i, version) for i in ids], 10)
        return
    named = ",".join(map(str, ids))
    os.write(journal, f"begin {lane} {what} {version} {named}\n".encode())
    if what == "delete":
        index.delete(ids, durability=level)
    else:
        payloads = [{"version": version}] * len(ids) if version % 2 else None
        index.add(ids, [vector(i, version) for i in ids], payloads=payloads, durability=level)
    os.write(journal, f"end {lane}\n".encode())


# ---------------------------------------------------------------------------------------------------------------------
# What may be left.


@dataclass
class Lane:
    """The ids that one lane owns: what is acknowledged, and the steps of what is under way."""

    state: State = field(default_factory=dict)
    steps: list[tuple[str, int, list[int]]] = field(default_factory=list)

    def begin(self, what: str, version: int, ids: list[int]) -> None:
        if what == "delete":
            ids = sorted(ids)
        self.steps = [(what, version, ids[at : at + CHUNK]) for at in range(0, len(ids), CHUNK)]

    def end(self) -> None:
        self.state = self.possible()[-1]
        self.steps = []

    def possible(self) -> list[State]:
        """States after each number of steps."""
        states = [dict(self.state)]
        for what, version, ids in self.steps:
            after = dict(states[-1])
            for i in ids:
                if what == "delete":
                    after.pop(i, None)
                else:
                    after[i] = version
            states.append(after)
        return states


class Oracle:
    """What the journal says."""

    def __init__(self) -> None:
        self.lanes = [Lane() for _ in range(LANES)]
        self.acknowledged = self.under_way = 0
        self.complaints: list[str] = []

    def follow(self, journal: bytes) -> None:
        """Take note of the whole lines of a journal."""
        for line in journal.decode().splitlines()[: journal.count(b"\n")]:
            match line.split(" ", 1):
                case ["begin", rest]:
                    lane, what, version, ids = rest.split(" ")
                    self.lanes[int(lane)].begin(what, int(version), list(map(int, ids.split(","))))
                case ["end", lane]:
                    self.lanes[int(lane)].end()
                    self.acknowledged += 1
                case ["failed", error]:
                    self.complaints.append(error)

    def compare(self, found: State) -> None:
        """Complain about what an index holds unless it may; then that counts as acknowledged."""
        for number, lane in enumerate(self.lanes):
            mine = {i: version for i, version in found.items() if i // IDS_A_LANE == number}
            self.under_way += bool(lane.steps)
            if mine not in lane.possible():
                last = lane.possible()[-1]
                wrong = {i: (mine.get(i), lane.state.get(i), last.get(i)) for i in {*mine, *lane.state, *last}}
                wrong = {
                    i: some for i, some in wrong.items() if some[0] not in some[1:] or some[1] == some[2] != some[0]
                }
                self.complaints.append(f"lane {number}: id: (found, acknowledged, under way): {wrong}")
            lane.state, lane.steps = mine, []


def versions(index: Index) -> State:
    """Version of each id of an index, whose vectors have to be whole."""
    ids = index.ids()
    found = {}
    for i, row in zip(ids.tolist(), index.get(ids).tolist(), strict=True):
        version = int(row[2] + 1000 * row[3])
        assert vector(i, version) == row, f"vector of id {i}: {row}"
        found[i] = version
    return found


class Killer:
    """Starts processes that work on an index, kills each, and looks at what is left."""

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder = folder
        self.rounds = 0
        self.oracle = Oracle()
        self._rng = random.Random(seed)
        self._path: Path | None = None

    def round(self) -> None:
        """One process, from its start to the comparison; a folder that something was lost in stays."""
        if self._path is None or self.rounds % ROUNDS_A_FOLDER == 0:
            self._begin()
        path = self._path
        assert path is not None
        self.rounds += 1
        journal = path.with_suffix(".journal")
        journal.write_bytes(b"")
        known = len(self.oracle.complaints)
        self._run(path, journal)
        self.oracle.follow(journal.read_bytes())
        try:
            self._look(path)
        except Exception as error:  # noqa: BLE001 - whatever it is, the index can't be used
            self.oracle.complaints.append(f"{path}: {error!r}")
        if len(self.oracle.complaints) > known:
            self._path = None

    def _begin(self) -> None:
        if self._path is not None:
            shutil.rmtree(self._path)
        self._path = self.folder / f"index-{self.rounds}"
        kind, metric = self._rng.choice(("tq4", "f32", "int8")), self._rng.choice(("cosine", "l2", "ip"))
        Index.create(self._path, DIM, metric=metric, kind=kind, max_degree=8).close()
        self.oracle.lanes = [Lane() for _ in range(LANES)]

    def _run(self, path: Path, journal: Path) -> None:
        arguments = [sys.executable, "-m", "tests.ann.live.killer", path, journal, self._rng.randrange(1 << 30)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        process = subprocess.Popen(list(map(str, arguments)), cwd=ROOT, env=environment)
        try:
            deadline = time.monotonic() + PATIENCE_S
            while not journal.stat().st_size and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)
            time.sleep(self._rng.random() ** 2)  # the moment is up to chance
            if process.poll() is not None:
                self.oracle.complaints.append(f"the process ended with {process.returncode}")
            elif not journal.stat().st_size:
                self.oracle.complaints.append("the process did not open the index")
        finally:
            process.kill()
            process.wait()

    def _look(self, path: Path) -> None:
        with Index.open(path) as reader:
            found = versions(reader)
        with Index.open(path, mode="rw") as index:
            assert found == versions(index), "reader and writer differ"
            self.oracle.compare(found)
            for error in index.verify():
                raise error
            hits = index.search(np.ones(DIM), 10, exact=True)
            assert min(10, len(found)) == len(set(hits.ids.tolist()))
            if self._rng.random() < 0.3:
                index.consolidate()
                assert found == versions(index), "a merge changed something"

    def close(self) -> None:
        """Remove what is left of an index that nothing is wrong with."""
        if self._path is not None:
            shutil.rmtree(self._path)
            for journal in self.folder.glob("*.journal"):
                journal.unlink()


if __name__ == "__main__":
    work(Path(sys.argv[1]), os.open(sys.argv[2], os.O_WRONLY | os.O_APPEND), int(sys.argv[3]))
