"""What every test shares: where compiled kernels are kept, real data, seeded randomness, property-test settings.

The kernel folder has to be chosen before anything imports Numba, hence at the top of this file. It outlives the run, so
that a second run starts warm; `skeg.jit` names its subfolders after a hash of all kernel sources, the kernel family and
the bounds-check switch, so that lanes and edited kernels never see each other's code.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

# A shell's background jobs ignore Ctrl-C, and so would the processes that tests start in order to interrupt them.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Scripts that tests start in other folders find the code under test, installed or not.
_ROOT = str(Path(__file__).resolve().parent.parent)
os.environ["PYTHONPATH"] = os.pathsep.join([_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])])

_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "skeg-tests"
os.environ.setdefault("SKEG_CACHE_DIR", str(_CACHE))
os.environ.setdefault("MPLBACKEND", "Agg")

import hypothesis  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

# No deadline: the first example of a property may have to compile a kernel.
hypothesis.settings.register_profile("local", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")


@pytest.fixture
def rng() -> np.random.Generator:
    """Seeded generator: the same numbers in every run."""
    return np.random.default_rng(20260101)


@pytest.fixture(scope="session")
def wordnet():
    """The bundled set: real text embeddings, real queries, their exact answers."""
    from skeg.ann.sample import load_wordnet

    return load_wordnet()
