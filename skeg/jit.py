"""The one place that spells Numba flags, array types, caching and the choice of a kernel family.

Kernels are serial, release the GIL, allocate nothing and raise nothing. They come in three families that
differ in their dot products only (`skeg.ann.kernels.simd`) and whose integer sums are bit-identical:

- ``avx512``: AVX-512 F/BW/VL/VNNI, 64 products an instruction;
- ``avx2``: AVX2 and FMA;
- ``portable``: plain loops, for every other CPU and for Numba with the JIT disabled.

The family is chosen once per process: from the CPU, or by the environment variable ``SKEG_SIMD``.

Compiled kernels are cached under ``$SKEG_CACHE_DIR``, else ``$XDG_CACHE_HOME/skeg``, else ``~/.cache/skeg``, in a
folder named after a hash of every kernel source, the family and the bounds-check switch. Numba's own cache looks
at the one file that defines a function and so would keep a caller whose helper changed, and it ignores the
bounds-check switch; the folder's name mends both. A cache that can't be written or read costs time, never an error.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast

import numba
from numba.core import caching, config
from numba.core.compiler_lock import global_compiler_lock

from skeg.errors import ParameterError

Family = Literal["avx512", "avx2", "portable"]

FAMILIES: tuple[Family, ...] = ("avx512", "avx2", "portable")

_NEEDS: dict[Family, tuple[str, ...]] = {
    "avx512": ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vnni"),
    "avx2": ("avx2", "fma"),
    "portable": (),
}

# Sums may be reordered and fused. NaN and infinity keep their meaning (`nnan`, `ninf` would delete the tests for them).
FASTMATH = {"reassoc", "contract", "arcp", "nsz"}


def supported_families() -> tuple[Family, ...]:
    """Kernel families that this CPU and this Numba can run, fastest first."""
    if config.DISABLE_JIT:
        return ("portable",)
    from llvmlite import binding

    features = binding.get_host_cpu_features()
    return tuple(f for f in FAMILIES if all(features.get(name) for name in _NEEDS[f]))


def _choose_family() -> Family:
    available = supported_families()
    asked = os.environ.get("SKEG_SIMD")
    if asked is None:
        return available[0]
    for family in available:
        if family == asked:
            return family
    raise ParameterError("SKEG_SIMD", asked, f"one of {', '.join(available)} on this machine")


FAMILY: Family = _choose_family()
JIT_DISABLED: bool = bool(config.DISABLE_JIT)


def _sources_hash() -> str:
    digest = hashlib.sha256()
    here = Path(__file__)
    for path in [here, *sorted(here.parent.glob("*/kernels/*.py"))]:
        digest.update(path.relative_to(here.parent).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def cache_folder() -> Path:
    """Folder that holds the compiled kernels of this version, family and bounds-check setting."""
    base = os.environ.get("SKEG_CACHE_DIR")
    if base is None:
        xdg = os.environ.get("XDG_CACHE_HOME")
        try:
            base = os.path.join(xdg or Path.home() / ".cache", "skeg")
        except RuntimeError:  # no home folder at all
            base = os.path.join(os.path.abspath(os.sep), "nonexistent", "skeg")
    checked = "-boundscheck" if config.BOUNDSCHECK else ""
    return Path(base) / f"{_STAMP}-{FAMILY}{checked}"


_STAMP = _sources_hash()


class _Locator(caching._CacheLocator):
    """Points Numba at `cache_folder`; the folder's name is the freshness stamp."""

    def __init__(self, py_func: Any, py_file: str) -> None:
        self._place = f"{Path(py_file).stem}-{py_func.__code__.co_firstlineno}"

    def get_cache_path(self) -> str:
        return str(cache_folder())

    def get_source_stamp(self) -> str:
        return _STAMP

    def get_disambiguator(self) -> str:
        return self._place

    @classmethod
    def from_function(cls, py_func: Any, py_file: str) -> _Locator:
        return cls(py_func, py_file)


class _CacheImpl(caching.CompileResultCacheImpl):
    _locator_classes = [_Locator]


class _KernelCache(caching.FunctionCache):
    """A cache whose every failure (unwritable folder, full disk, damaged file) means 'compile again'."""

    _impl_class = _CacheImpl

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        try:
            return super().load_overload(sig, target_context)
        except Exception:
            return None

    def save_overload(self, sig: Any, data: Any) -> None:
        try:
            super().save_overload(sig, data)
        except Exception:
            self.disable()


def kernel(*, fastmath: bool = False, inline: bool = False) -> Callable[[Callable[..., Any]], Any]:
    """Decorator of every Numba function in skeg: nopython, `nogil`, cached, numpy error model.

    Kernels are compiled without reference counting (``_nrt=False``), which saves an atomic increment and decrement for
    every array passed on. Hence a kernel may not allocate, a view that a kernel returns to Python is not valid (return
    numbers, write into arguments), and functions compiled by plain ``numba.njit`` must not call kernels.

    Parameters
    ----------
    fastmath : bool
        Allow sums to be reordered and fused (`FASTMATH`); for floating-point dot products only.
    inline : bool
        Force LLVM to inline the function into its callers; for tiny functions in a hot loop.
    """

    def decorate(function: Callable[..., Any]) -> Any:
        options: dict[str, Any] = {
            "nogil": True,
            "error_model": "numpy",
            "fastmath": FASTMATH if fastmath else False,
            "_nrt": False,
        }
        if inline:
            options["forceinline"] = True
        dispatcher = numba.njit(**options)(function)
        if not JIT_DISABLED and not inline:
            dispatcher._cache = _KernelCache(function)
        return dispatcher

    return decorate


def resolve(function: Any, args: tuple[Any, ...]) -> Callable[..., Any]:
    """The compiled form of a kernel for arguments of the types of ``args``, to be called with such arguments only.

    A kernel called by its name looks up the types of all its arguments each time, which costs a microsecond or two for
    a score of arrays. Compiles, or loads from the cache, when that has not happened yet.
    """
    if JIT_DISABLED:
        return cast("Callable[..., Any]", function)
    signature = tuple(numba.typeof(arg) for arg in args)
    function.compile(signature)
    return cast("Callable[..., Any]", function.overloads[signature].entry_point)


# Of a thread that compiles when another one forks, the child would have only the lock, for good.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=global_compiler_lock.acquire,
        after_in_parent=global_compiler_lock.release,
        after_in_child=global_compiler_lock.release,
    )
