"""The long soak of indexes that change: real processes that are killed under load.

    python tests/soak/ann_live.py [--rounds 500] [--seed 0] [--dir FOLDER]

Prints how many rounds and acknowledged operations there were and how many of these were lost; ends with 1 when any was.
An index that lost something stays in the folder that is named then.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Complaints that are printed; the first ones tell most.
_SHOWN = 10


def main() -> None:
    parser = argparse.ArgumentParser(description="The long soak of indexes that change.")
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="of all choices but the moment of a kill and of each step")
    parser.add_argument("--dir", type=Path, help="where the indexes are (default: the system's temporary folder)")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    folder = Path(tempfile.mkdtemp(prefix="skeg-soak-", dir=options.dir))
    lost = kill(options.rounds, options.seed, folder)
    if lost:
        print(f"kept: {folder}")
    else:
        shutil.rmtree(folder)
    print(f"lost: {lost}")
    sys.exit(lost > 0)


def kill(rounds: int, seed: int, folder: Path) -> int:
    """Rounds of tests/ann/live/killer.py; returns how many times something was wrong."""
    from tests.ann.live.killer import Killer

    start = time.monotonic()
    killer = Killer(folder, seed)
    oracle = killer.oracle
    while killer.rounds < rounds:
        known = len(oracle.complaints)
        killer.round()
        for complaint in oracle.complaints[known:_SHOWN]:
            print(complaint)
        if killer.rounds % 50 == 0 or killer.rounds == rounds:
            print(
                f"{killer.rounds:,} rounds of kill -9, {oracle.acknowledged:,} acknowledged operations, "
                f"{oracle.under_way:,} under way, {len(oracle.complaints)} lost, {time.monotonic() - start:.0f} s",
                flush=True,
            )
    killer.close()
    return len(oracle.complaints)


if __name__ == "__main__":
    main()
