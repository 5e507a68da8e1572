"""Asks this server and the original the same, and compares every byte of what they answer.

    python tests/compat/original.py [--original FOLDER] [--server-command "python -m skeg"] [--record]

The original is built with `cargo install` into FOLDER when it isn't there; both serve empty directories. Prints
what differs without a reason, or has a reason and does not differ (`reasons.py`), and ends with 1 if anything did.
--record keeps what the original answered, for `replay.compare`, which needs no original; this server is not asked then.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.bench.harness import net_server  # noqa: E402
from tests.compat import replay  # noqa: E402
from tests.compat.scripts import scripts  # noqa: E402

if TYPE_CHECKING:
    from tests.compat.replay import Send

VERSION = "0.7.0"
# The original carries out vector commands that arrive together in any order; this is enough for one after another.
PAUSE_S = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare this server with the original, byte for byte.")
    parser.add_argument(
        "--original", type=Path, default=ROOT / "bench-results" / "original", help="where it is, or will be"
    )
    parser.add_argument("--server-command", default=net_server.default_command(), help="what `serve` comes behind")
    parser.add_argument("--record", action="store_true", help=f"write {replay.RECORDED.name}; our server is not asked")
    parser.add_argument("--differences", action="store_true", help="also print what differs with a reason")
    options = parser.parse_args()
    install(options.original)
    with tempfile.TemporaryDirectory(prefix="skeg-compat-") as folder:
        with serving_original(options.original, Path(folder)) as send:
            theirs = replay.record(send)
        if options.record:
            replay.RECORDED.write_text(json.dumps(theirs, indent=0) + "\n")
            print(f"{len(theirs)} scripts recorded")
            return
        with net_server.skeg(options.server_command, Path(folder) / "ours", Path(folder) / "ours.log") as server:
            ours = replay.record(replay.sender(server.ports["resp"], server.ports["binary"]))
    complaints = []
    for script in scripts():
        complaints += replay.judge(script, theirs[script.name], ours[script.name])
        if options.differences and script.why is not None:
            print(
                f"{script.name}: {script.why}\n  original: {theirs[script.name]!r}\n  ours:     {ours[script.name]!r}"
            )
    print(*complaints, sep="\n")
    print(f"{len(theirs)} scripts, {len(complaints)} complaints")
    sys.exit(len(complaints) > 0)


def install(folder: Path) -> None:
    """Build the original, unless it is there."""
    if (folder / "bin" / "skeg-resp3").exists():
        return
    if shutil.which("cargo") is None:
        raise SystemExit("the original is not there, and there is no cargo to build it with")
    print(f"building the original in {folder} (once; many minutes)", flush=True)
    subprocess.run(["cargo", "install", "skeg-server", "--version", VERSION, "--root", str(folder)], check=True)


@contextmanager
def serving_original(installed: Path, folder: Path) -> Iterator[Send]:
    """Both servers of the original on directories of their own: one holds its directory for itself."""
    with ExitStack() as stack:
        ports = {}
        for binary, protocol in (("skeg-resp3", "resp"), ("skeg", "binary")):
            port = ports[protocol] = net_server.free_port()
            words = [str(installed / "bin" / binary), "--addr", f"127.0.0.1:{port}", "--data-dir", str(folder / binary)]
            server = net_server.Server(
                words, folder / f"{binary}.log", lambda _, at={protocol: port}: net_server.answering(at)
            )
            # It handles no signals, so it can only be killed.
            stack.callback(server.kill)
        yield replay.sender(ports["resp"], ports["binary"], PAUSE_S)


if __name__ == "__main__":
    main()
