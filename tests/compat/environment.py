"""What the commands of this folder share: a virtual environment of clients, and a server to talk to."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))

from tests.bench.harness import net_server  # noqa: E402


def add_options(parser: argparse.ArgumentParser, name: str) -> None:
    """Options that all of them have; `name` is that of the environment's folder."""
    parser.add_argument(
        "--env", type=Path, default=ROOT / "bench-results" / name, help="folder of the environment, made when missing"
    )
    parser.add_argument("--server-command", default=net_server.default_command(), help="what `serve` comes behind")


def environment(folder: Path, requirements: Sequence[str]) -> Path:
    """The Python of an environment that holds some distributions; nothing is installed twice."""
    python, stamp = folder / "bin" / "python", folder / "installed"
    if not stamp.exists() or stamp.read_text().split() != list(requirements):
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *requirements], check=True)
        stamp.write_text("\n".join(requirements))
    return python


@contextmanager
def serving(command: str, password: str = "") -> Iterator[net_server.Server]:
    """A server on an empty directory; it asks for a password if one is given."""
    with tempfile.TemporaryDirectory(prefix="skeg-compat-") as folder:
        data = Path(folder)
        options = []
        if password:
            (data / "password").write_text(password)
            (data / "password").chmod(0o600)
            options = ["--password-file", str(data / "password")]
        with net_server.skeg(command, data / "data", data / "log", *options) as server:
            yield server


def run(python: Path | str, script: str, *arguments: str) -> int:
    """Run a script of this folder; returns its exit code."""
    # Without the checkout on its path: the published client has the name of this package.
    return subprocess.run([python, "-P", str(HERE / script), *arguments], cwd=HERE, check=False).returncode
