"""Talks to the worker processes: starts them, asks one at a time, gathers what they answered."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from .arithmetic import Spread, spread
from .data import DataSet
from .memory import Memory

_PACKAGE_PARENT = Path(__file__).resolve().parents[1]

# One native thread unless an engine asks for more; read by OpenMP, BLAS and Rayon when they are loaded.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Sample:
    """One measurement: queries a second and CPU seconds a wall second."""

    qps: float
    cpu_per_wall: float


@dataclass
class Result:
    """Everything measured of one engine on one data set; `problem` says why there is nothing (more).

    `recalls` by parameter, from single queries; `curve` one sample a parameter from the first sweep; `rounds` all
    samples of the interleaved rounds by (parameter, mode); `recalls_by_mode` as `rounds`.
    """

    engine: str
    problem: str | None = None
    built: dict[str, Any] = field(default_factory=dict)
    memory: Memory = field(default_factory=Memory)
    recalls: dict[int, float] = field(default_factory=dict)
    curve: dict[int, Sample] = field(default_factory=dict)
    rounds: dict[tuple[int, str], list[Sample]] = field(default_factory=dict)
    recalls_by_mode: dict[tuple[int, str], float] = field(default_factory=dict)

    def qps(self, parameter: int, mode: str) -> list[float]:
        return [sample.qps for sample in self.rounds.get((parameter, mode), [])]

    def cpu(self, parameter: int, mode: str) -> Spread:
        return spread([sample.cpu_per_wall for sample in self.rounds[parameter, mode]])

    @property
    def build_s(self) -> float:
        return float(self.built["build_s"])

    @property
    def resident_to_search(self) -> int:
        """Bytes of the index as the library counts them, else the anonymous memory that the build left."""
        parts: dict[str, int] = self.built["parts"]
        return sum(parts.values()) or self.built["after"]["anonymous"] - self.built["before"]["anonymous"]


class Client:
    """One worker process; a problem ends it and stays in `result.problem`."""

    def __init__(self, spec: str, data: DataSet, scratch: Path, log: IO[str]) -> None:
        self.result = Result(spec)
        scratch.mkdir(parents=True, exist_ok=True)
        self.folder = Path(tempfile.mkdtemp(prefix="index-", dir=scratch))
        files = [str(path) for path in (data.base, data.queries, data.truth, self.folder)]
        path = os.pathsep.join(filter(None, [str(_PACKAGE_PARENT), os.environ.get("PYTHONPATH")]))
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "harness.worker", spec, *files],  # -P: not whatever lies in the current folder
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, **_ONE_THREAD, "PYTHONPATH": path},
        )

    def ask(self, **request: Any) -> dict[str, Any] | None:
        """Send a request and wait; None when the worker has a problem."""
        if self.result.problem is not None:
            return None
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            line = ""
        else:
            line = self.process.stdout.readline()
        answer = json.loads(line) if line else {"problem": _last_words(self.process)}
        if "problem" in answer:
            self.result.problem = str(answer["problem"])
            return None
        return answer

    def build(self, threads: int) -> None:
        answer = self.ask(do="build", threads=threads)
        if answer is not None:
            self.result.built = answer
            self.result.memory = Memory(**answer["after"])

    def measure(self, parameter: int, mode: str = "single", least_s: float = 0.0) -> Sample | None:
        """One measurement; notes its recall."""
        answer = self.ask(do="measure", parameter=parameter, mode=mode, least_s=least_s)
        if answer is None:
            return None
        self.result.memory = Memory(**answer["memory"])
        self.result.recalls_by_mode[parameter, mode] = answer["recall"]
        if mode == self.modes[0]:
            self.result.recalls[parameter] = answer["recall"]
        return Sample(answer["qps"], answer["cpu_per_wall"])

    @property
    def modes(self) -> list[str]:
        return list(self.result.built.get("modes", ()))

    def close(self) -> None:
        """End the process and remove the index that it wrote."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def _last_words(process: subprocess.Popen[str]) -> str:
    code = process.wait()
    return f"died by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
