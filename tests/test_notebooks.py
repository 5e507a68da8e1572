"""The notebooks run from top to bottom, and are stored without outputs."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.source_tree import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_there_are_notebooks():
    assert ["quickstart.ipynb", "recall_vs_latency.ipynb"] == [path.name for path in NOTEBOOKS]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stored_clean(path):
    """Format 4.5, a unique id per cell, no outputs and no execution counts."""
    notebook = read(path)
    assert (4, 5) == (notebook["nbformat"], notebook["nbformat_minor"])
    assert len(notebook["cells"]) == len({cell["id"] for cell in notebook["cells"]})
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [([], None)] * len(code) == [(cell["outputs"], cell["execution_count"]) for cell in code]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path):
    """Every code cell, in order, in one fresh process in an empty folder; cells hold plain Python only."""
    cells = ["".join(cell["source"]) for cell in read(path)["cells"] if cell["cell_type"] == "code"]
    script = tmp_path / f"{path.stem}.py"
    script.write_text("\n\n".join(f"# cell {n}\n{source}" for n, source in enumerate(cells, 1)), encoding="utf-8")
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout
