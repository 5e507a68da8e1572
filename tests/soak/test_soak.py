"""The long tests start and end well: here they run for some seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parent


@pytest.mark.parametrize(
    "command",
    [
        ["kv.py", "--kill-rounds", "1", "--crash-points", "3"],
        ["ann_live.py", "--rounds", "1"],
        ["net.py", "--minutes", "0.05"],
        ["net.py", "--kill", "--rounds", "1"],
        ["net_fuzz.py", "--minutes", "0.03"],
    ],
)
def test_a_short_run_ends_well(tmp_path, command):
    program, *options = command
    folder = [] if program == "net_fuzz.py" else ["--dir", str(tmp_path)]
    run = subprocess.run(
        [sys.executable, str(SOAK / program), *options, *folder],
        cwd=SOAK.parent.parent, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip
    assert 0 == run.returncode, run.stdout[-3000:] + run.stderr[-3000:]
