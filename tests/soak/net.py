"""The long soak of the server: mixed load for hours, or kill -9 again and again.

    python tests/soak/net.py [--minutes 60] [--seed 0] [--dir FOLDER] [--server-command "python -m skeg"]
    python tests/soak/net.py --kill [--rounds 200] ...

Mixed load: keys and values, vectors, searches, indexes, connections that come and go, slow readers, over both
protocols; every reply is compared with what it has to be. Prints what was done and the memory of the server each
minute, and ends with 1 when anything was wrong, or memory grows. With --kill: what was acknowledged must be there after
each crash. A directory that lost something stays in the folder that is named then.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
# Complaints that are printed; the first ones tell most.
_SHOWN = 10
MIB = 1024 * 1024
# Memory is compared between the second fifth of the time and the last one; more growth than this is too much.
GROWTH, GROWTH_BYTES = 0.1, 32 * MIB
# Before that, caches and buffers still fill.
GROWTH_MINUTES = 5


def main() -> None:
    parser = argparse.ArgumentParser(description="The long soak of the server.")
    parser.add_argument("--minutes", type=float, default=60.0, help="of mixed load")
    parser.add_argument("--kill", action="store_true", help="kill the server again and again instead")
    parser.add_argument("--rounds", type=int, default=200, help="of --kill")
    parser.add_argument("--seed", type=int, default=0, help="of all choices but the moment of each step")
    parser.add_argument("--dir", type=Path, help="where the directories are (default: the system's temporary folder)")
    parser.add_argument("--server-command", help="what `serve` comes behind (default: that of this environment)")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    from tests.bench.harness.net_server import default_command

    command = options.server_command or default_command()
    folder = Path(tempfile.mkdtemp(prefix="skeg-soak-", dir=options.dir))
    if options.kill:
        wrong = kill(options.rounds, options.seed, folder, command)
    else:
        wrong = mix(60 * options.minutes, options.seed, folder, command)
    if wrong:
        print(f"kept: {folder}")
    else:
        shutil.rmtree(folder)
    print(f"wrong: {wrong}")
    sys.exit(wrong > 0)


def mix(seconds: float, seed: int, folder: Path, command: str) -> int:
    """Mixed load; returns how many things were wrong."""
    from tests.bench.harness import net_server
    from tests.bench.harness.net_memory import weigh
    from tests.bench.harness.net_wire import Resp
    from tests.soak.net_lanes import DIM, INDEX, Report, lanes

    report, weights = Report(), []
    with net_server.skeg(command, folder / "data", folder / "server.log", "--durability", "os") as server:
        with Resp(server.port) as link:
            link.must("SKEG.VINDEX.CREATE", INDEX, DIM, "int8", "disk")
        running = lanes(server.ports, report, seed)
        for lane in running:
            lane.thread.start()
        start = said = time.monotonic()
        while (now := time.monotonic()) < start + seconds and server.process.poll() is None:
            weights.append(weigh(server.pid).rss)
            if now - said >= 60:
                said = now
                print(progress(now - start, report.done, weights[-1]), flush=True)
            time.sleep(min(5.0, seconds / 50))
        report.stop.set()
        for lane in running:
            lane.thread.join(150)
        server.check()
    print(progress(time.monotonic() - start, report.done, weights[-1]))
    tell(report.errors)
    hung = [lane.name for lane in running if lane.thread.is_alive()]
    if hung:
        print(f"did not come to an end: {', '.join(hung)}")
    return report.done["errors"] + len(hung) + (grows(weights) and seconds >= 60 * GROWTH_MINUTES)


def tell(complaints: list[str]) -> None:
    """One line each."""
    print("".join(f"{complaint}\n" for complaint in complaints), end="", flush=True)


def progress(seconds: float, done: dict[str, int], weight: int) -> str:
    """One line about what was done so far."""
    counts = ", ".join(f"{count:,} {what}" for what, count in sorted(done.items()))
    return f"{seconds / 60:.1f} min: {counts}; {weight / MIB:.0f} MiB"


def grows(weights: list[int]) -> bool:
    """Whether memory is larger at the end than early on; says how much."""
    fifth = max(len(weights) // 5, 1)
    early, late = median(weights[fifth : 2 * fifth] or weights), median(weights[-fifth:])
    print(f"memory: {early / MIB:.1f} MiB early on, {late / MIB:.1f} MiB at the end, most {max(weights) / MIB:.1f} MiB")
    return late - early > max(GROWTH * early, GROWTH_BYTES)


def kill(rounds: int, seed: int, folder: Path, command: str) -> int:
    """Rounds of net_killer.py; returns how many times something was wrong."""
    from tests.soak.net_killer import Killer

    start = time.monotonic()
    killer = Killer(command, folder, seed)
    while killer.rounds < rounds:
        known = len(killer.complaints)
        killer.round()
        tell(killer.complaints[known:_SHOWN])
        if killer.rounds % 20 == 0 or killer.rounds == rounds:
            print(
                f"{killer.rounds:,} rounds of kill -9, {killer.acknowledged:,} acknowledged changes, "
                f"{len(killer.complaints)} lost, {time.monotonic() - start:.0f} s",
                flush=True,
            )
    known = len(killer.complaints)
    killer.close()
    tell(killer.complaints[known:_SHOWN])
    return len(killer.complaints)


if __name__ == "__main__":
    main()
