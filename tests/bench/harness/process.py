"""A process of its own for one engine, asked by the names of methods, and the order in which engines take turns.

Standard library only: it is imported before the benchmark's environment is entered.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Self

# Read by OpenMP, BLAS and Rayon when they are loaded.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")


class EngineError(Exception):
    """An engine is absent or failed; the message says how."""


class Worker:
    """A process in which `make(*arguments)` is made with the first request; call the methods of that by name."""

    def __init__(self, make: Callable[..., Any], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, make, arguments), daemon=True)
        self._process.start()
        theirs.close()

    def __call__(self, action: str, *arguments: Any) -> Any:
        try:
            self._connection.send((action, arguments))
            problem, result = self._connection.recv()
        except (EOFError, OSError) as error:
            raise EngineError("its process died") from error
        if problem is not None:
            raise EngineError(problem)
        return result

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._process.join(30)
        self._process.kill()
        self._process.join()


def _serve(connection: Any, make: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    made = None
    while True:
        try:
            action, given = connection.recv()
        except EOFError:
            return
        try:
            if made is None:
                made = make(*arguments)
            connection.send((None, getattr(made, action)(*given)))
        except ImportError as error:
            connection.send((f"absent ({error})", None))
        except Exception as error:  # noqa: BLE001 - reported to the coordinator, which drops this engine
            traceback.print_exc()
            connection.send((f"{type(error).__name__}: {error}".splitlines()[0][:200], None))


@dataclass(kw_only=True)
class Turns:
    """How often each engine is measured, and what is wrong with those that failed."""

    rounds: int
    problems: dict[str, str] = field(default_factory=dict)

    @contextlib.contextmanager
    def dropping(self, engine: str) -> Iterator[None]:
        """An engine that fails is left out from here on, and named below the tables."""
        try:
            yield
        except EngineError as error:
            self.problems[engine] = str(error)

    def interleaved(self, engines: Iterable[str], measure: Callable[[str, int], Any]) -> dict[str, list[Any]]:
        """One figure of each engine and round, engine after engine; every other round goes backwards."""
        found: dict[str, list[Any]] = {engine: [] for engine in engines}
        for number in range(self.rounds):
            for engine in found if number % 2 == 0 else reversed(found):
                with self.dropping(engine):
                    if engine not in self.problems:
                        found[engine].append(measure(engine, number))
        return {engine: rounds for engine, rounds in found.items() if len(rounds) == self.rounds}


def hold_to(threads: int) -> None:
    """Give this process, and those it starts, so many processors (Linux), and native pools so many threads."""
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(threads)))
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
