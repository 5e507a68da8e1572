"""The long soak of the key-value log: real processes that are killed, and simulated power cuts.

    python tests/soak/kv.py [--kill-rounds 1000] [--crash-points 20000] [--seed 0] [--dir FOLDER]

Prints how many rounds, crash points and acknowledged writes there were and how many of these were lost; ends with 1
when any was. A store that lost something stays in the folder that is named then.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Complaints that are printed, of each kind of round; the first ones tell most.
_SHOWN = 10


def main() -> None:
    parser = argparse.ArgumentParser(description="The long soak of the key-value log.")
    parser.add_argument("--kill-rounds", type=int, default=1000)
    parser.add_argument("--crash-points", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0, help="of all choices; only the moment of a kill is up to chance")
    parser.add_argument("--dir", type=Path, help="where the killed stores are (default: the system's temporary folder)")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    folder = Path(tempfile.mkdtemp(prefix="skeg-soak-", dir=options.dir))
    lost = kill(options.kill_rounds, options.seed, folder) + cut(options.crash_points, options.seed)
    if any(folder.iterdir()):
        print(f"kept: {folder}")
    else:
        shutil.rmtree(folder)
    print(f"lost writes: {lost}")
    sys.exit(lost > 0)


def kill(rounds: int, seed: int, folder: Path) -> int:
    """Rounds of tests/kv/killer.py; returns how many times something was lost."""
    from tests.kv.killer import Killer

    start = time.monotonic()
    with Killer(folder, seed) as killer:
        report = killer.report
        while report.rounds < rounds:
            known = len(report.complaints)
            killer.round()
            for complaint in report.complaints[known:_SHOWN]:
                print(complaint)
            if report.rounds % 100 == 0 or report.rounds == rounds:
                print(
                    f"{report.rounds:,} rounds of kill -9, {report.acknowledged:,} acknowledged operations, "
                    f"{report.under_way:,} under way, {len(report.complaints)} lost, {time.monotonic() - start:.0f} s",
                    flush=True,
                )
    return len(report.complaints)


def cut(points: int, seed: int) -> int:
    """Crash points of tests/kv/test_crash_points.py; returns how many of them lost something."""
    from tests.kv.test_crash_points import run_crash_points

    start = time.monotonic()
    reached, lost = run_crash_points(seed, points)
    for complaint in lost[:_SHOWN]:
        print(complaint)
    print(f"{reached:,} crash points, {len(lost)} lost, {time.monotonic() - start:.0f} s")
    return len(lost)


if __name__ == "__main__":
    main()
