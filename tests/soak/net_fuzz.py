"""The long fuzzing of the server: the cases of tests/net/test_fuzz_*.py with other seeds, until the time is up.

    python tests/soak/net_fuzz.py [--minutes 10] [--seed 0]

Prints what was done each minute, and ends with 1 at the first case that goes wrong, which is printed with its seed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import random
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MIB = 1024 * 1024
# Seeds after which the server and its database are new.
TURNS = 20
# More than this above what it was after the first server is a leak.
GROWTH_BYTES = 128 * MIB


def main() -> None:
    parser = argparse.ArgumentParser(description="The long fuzzing of the server.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0, help="the first one; the others count up from it")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    start = said = time.monotonic()
    seed, first = options.seed, 0
    while time.monotonic() < start + 60 * options.minutes:
        with tempfile.TemporaryDirectory(prefix="skeg-fuzz-") as folder:
            asyncio.run(serve(Path(folder), seed, start + 60 * options.minutes))
        seed += TURNS
        first = first or resident_bytes()
        if (now := time.monotonic()) - said >= 60:
            said = now
            print(f"{(now - start) / 60:.1f} min: seeds up to {seed:,}, {resident_bytes() / MIB:.0f} MiB", flush=True)
    grown = resident_bytes() - first
    print(f"{seed - options.seed:,} seeds, {grown / MIB:.0f} MiB more than after the first {TURNS}")
    sys.exit(grown > GROWTH_BYTES)


def resident_bytes() -> int:
    """Memory of this process, without what the allocator keeps for threads that are gone."""
    from skeg.net.engine import figures

    with contextlib.suppress(OSError, AttributeError):  # it is glibc that keeps it
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return figures.resident_bytes()


async def serve(folder: Path, seed: int, end: float) -> None:
    """Some seeds on one server."""
    import skeg
    from skeg.net.access import Access
    from skeg.net.commands import TABLE
    from skeg.net.metrics import Metrics
    from skeg.net.serve.server import Server
    from skeg.net.settings import ServerSettings
    from tests.net import fuzzing
    from tests.net.serving import Sessions

    rng = random.Random(seed)
    shards = rng.choice((1, 3))
    settings = ServerSettings(durability=rng.choice(("os", "os", "none", "sync")), workers=rng.choice((None, 1, 2)))
    server = Server(skeg.open(folder / "data", shards=shards), settings, Access(None), Metrics(TABLE.operations))
    server.open(asyncio.get_running_loop())
    sessions = Sessions(server)
    with fuzzing.no_mistakes():
        try:
            await fuzzing.set_up(sessions)
            for turn in range(seed, seed + TURNS):
                if time.monotonic() > end:
                    break
                await one(sessions, turn, shards)
        finally:
            with contextlib.closing(server.hub):
                await server.engine.close()


async def one(sessions: object, seed: int, shards: int) -> None:
    """All cases of one seed."""
    from tests.net import fuzz_model, fuzzing

    for name in fuzzing.STREAMS:
        await fuzzing.fuzz(sessions, name, f"soak {seed}")
    await fuzzing.come_and_go(sessions, f"soak {seed}")
    await fuzz_model.compare(sessions, f"soak {seed}", connections=4, turns=3)


if __name__ == "__main__":
    main()
