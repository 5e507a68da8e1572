"""What a user waits for before the first answer: import, open, compilation.

    python tests/bench/startup.py [--main-job "python -m skeg demo"]

- `import skeg` in a new process (and whether it drags numba in);
- warm cache: a new process that opens an index and answers one query, from its start to its end;
- empty cache: the whole main job, given as a command, with SKEG_CACHE_DIR in a new folder.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from compare import add_data_options, complete_data_options
from harness.environment import add_options, enter

IMPORT = """
import sys, time
start = time.perf_counter()
import skeg
print(time.perf_counter() - start, "numba" in sys.modules)
"""

BUILD = """
import sys
from skeg.ann import build_index
build_index(sys.argv[1], sys.argv[2]).close()
"""

ANSWER = """
import sys, time
import numpy
from skeg.ann import Index
query = numpy.load(sys.argv[2], mmap_mode="r")[0].astype("float32")
with Index.open(sys.argv[1]) as index:
    ids, scores = index.search(query, 10)
assert len(ids) == 10
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="What a user waits for before the first answer.")
    add_data_options(parser)
    parser.add_argument("--main-job", help="command of the whole main job, to be timed with an empty cache")
    add_options(parser)
    options = parser.parse_args()
    complete_data_options(options)
    enter(options)
    # Only inside the benchmark's environment: these need what it holds.
    from harness import report
    from harness.environment import machine, versions
    from harness.goals import Goal, goal_table

    found = {}
    imported = [python(IMPORT).stdout.split() for _ in range(options.rounds + 1)][1:]
    found["import_s"] = median(float(seconds) for seconds, _ in imported)
    found["import_with_numba"] = float(any(numba == "True" for _, numba in imported))
    with tempfile.TemporaryDirectory() as folder:
        index = str(Path(folder) / "index")
        python(BUILD, str(options.base), index)
        waits = [timed(python, ANSWER, index, str(options.queries)) for _ in range(options.rounds + 1)]
        found["first_answer_s"] = median(waits[1:])  # the first one warmed the caches
    if options.main_job:
        found["main_job_s"] = empty_cache(options.main_job)
    goals = [
        Goal("import skeg, s", found["import_s"], 0.1, at_most=True, digits=3),
        Goal("import skeg brings numba in (1: yes)", found["import_with_numba"], 0, at_most=True, digits=0),
        Goal("warm cache: new process, open, first answer, s", found["first_answer_s"], 1.5, 0.7, at_most=True),
        Goal("empty cache: whole main job, s", found.get("main_job_s"), 60, 30, at_most=True, digits=1),
    ]
    report.show([goal_table("start-up", goals)], options.out / "startup.md")
    row = {
        "what": "startup",
        "machine": machine(),
        "versions": versions(["pyskeg", "numpy", "numba", "llvmlite"]),
        **found,
    }
    report.append_json(options.out / "startup.jsonl", [row])


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run some code in a new process; its failure ends the benchmark with its own message."""
    outcome = subprocess.run(
        [sys.executable, "-P", "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    if outcome.returncode != 0:
        raise SystemExit(f"start-up benchmark stopped:\n{outcome.stderr}")
    return outcome


def timed(action: Callable[..., object], *arguments: str) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    action(*arguments)
    return time.perf_counter() - start


def empty_cache(command: str) -> float:
    """Seconds of a command whose kernels have to be compiled first; `python` means this environment's."""
    words = shlex.split(command)
    if words[0] in ("python", "python3"):
        words[0] = sys.executable
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "SKEG_CACHE_DIR": folder, "NUMBA_CACHE_DIR": folder}
        start = time.perf_counter()
        outcome = subprocess.run(words, stdout=subprocess.DEVNULL, env=environment, check=False)
        wall = time.perf_counter() - start
    if outcome.returncode != 0:
        raise SystemExit(f"{command} ended with exit code {outcome.returncode}")
    return wall


if __name__ == "__main__":
    main()
