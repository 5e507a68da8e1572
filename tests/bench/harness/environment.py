"""The benchmark's virtual environment: made once, filled with the peers and this checkout, then entered.

Standard library only, because it runs before anything is installed. A distribution that can't be installed is written
down with pip's reason and reported as absent by whoever wants to use it.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import venv
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements.txt"

# Set for the process that runs inside the environment, so that it doesn't enter again.
_INSIDE = "SKEG_BENCH_ENVIRONMENT"
_STAMP = "skeg-bench.json"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options shared by all benchmark scripts."""
    parser.add_argument(
        "--env",
        type=Path,
        default=ROOT / ".bench-env",
        help="folder of the benchmark's virtual environment (made when missing)",
    )
    parser.add_argument("--python", type=Path, help="use this Python as it is instead of --env")
    parser.add_argument("--out", type=Path, default=ROOT / "bench-results", help="folder for results and prepared data")


def enter(options: argparse.Namespace) -> None:
    """Run the calling script again inside the environment; returns only when it already is."""
    if _INSIDE in os.environ:
        return
    python = str(options.python if options.python is not None else create(options.env))
    sys.stdout.flush()
    os.execve(python, [python, *sys.argv], {**os.environ, _INSIDE: python})


def create(folder: Path) -> Path:
    """Make or complete the virtual environment in `folder`; returns its Python.

    Nothing is installed again while requirements.txt and pyproject.toml stay the same; remove it to start afresh.
    """
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    wanted = hashlib.sha256(REQUIREMENTS.read_bytes() + _project_file()).hexdigest()
    stamp = folder / _STAMP
    if python.exists() and stamp.exists() and json.loads(stamp.read_text())["wanted"] == wanted:
        return python
    print(f"preparing {folder} (once; a few minutes)", file=sys.stderr, flush=True)
    venv.create(folder, with_pip=True)
    targets = [[line] for line in required_distributions()] + [["--editable", str(ROOT)]]
    absent = {}
    for target in targets:
        problem = _install(python, target)
        if problem is not None:
            absent[target[-1]] = problem
            print(f"absent: {target[-1]}: {problem}", file=sys.stderr, flush=True)
    stamp.write_text(json.dumps({"wanted": wanted, "absent": absent}, indent=1))
    return python


def required_distributions() -> list[str]:
    """Lines of requirements.txt without comments."""
    lines = (line.partition("#")[0].strip() for line in REQUIREMENTS.read_text().splitlines())
    return [line for line in lines if line]


def _project_file() -> bytes:
    path = ROOT / "pyproject.toml"
    return path.read_bytes() if path.exists() else b""


def _install(python: Path, target: list[str]) -> str | None:
    """Install one target; returns pip's last error line when that fails."""
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *target]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    if outcome.returncode == 0:
        return None
    errors = [line for line in outcome.stderr.splitlines() if line.strip()]
    return errors[-1] if errors else f"pip ended with {outcome.returncode}"


def versions(distributions: Iterable[str]) -> dict[str, str]:
    """Installed version of each distribution, or "absent"."""
    found = {}
    for name in distributions:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "absent"
    return found


def machine() -> dict[str, str | int]:
    """What the figures depend on beside the code: CPU, cores, system, Python."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return {
        "cpu": model,
        "cores": os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
