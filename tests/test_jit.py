"""The choice of a kernel family and the cache of compiled kernels."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import llvmlite.binding
import numpy as np
import pytest

from skeg import jit
from skeg.ann.kernels.prepare import square_sum
from skeg.errors import ParameterError

AVX2 = {"avx2": True, "fma": True}
AVX512 = dict.fromkeys(("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512vnni"), True)

# Compiles one kernel, and tells whether it came from the cache.
PROGRAM = """
import numpy as np
from skeg.ann.kernels.prepare import square_sum
print(square_sum(np.ones(3, np.float32)), sum(square_sum.stats.cache_hits.values()))
"""


def run(cache, **environment):
    """Output of a new process with a cache folder of its own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SKEG_", "NUMBA_"))}
    root = str(Path(jit.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        env={**kept, "SKEG_CACHE_DIR": str(cache), "PYTHONPATH": root, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stdout.split() if done.returncode == 0 else done.stderr


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({}, ("portable",)),
        ({"avx2": True, "fma": False}, ("portable",)),
        (AVX2, ("avx2", "portable")),
        ({**AVX2, **AVX512}, ("avx512", "avx2", "portable")),
        ({**AVX2, **AVX512, "avx512vnni": False}, ("avx2", "portable")),
    ],
)
def test_families_are_those_whose_instructions_the_cpu_has(monkeypatch, features, expected):
    monkeypatch.setattr(jit.config, "DISABLE_JIT", 0)
    monkeypatch.setattr(llvmlite.binding, "get_host_cpu_features", lambda: features)
    assert expected == jit.supported_families()


def test_without_the_compiler_only_plain_loops_work(monkeypatch):
    monkeypatch.setattr(jit.config, "DISABLE_JIT", 1)
    assert ("portable",) == jit.supported_families()


def test_the_fastest_family_is_taken_unless_another_is_asked_for(monkeypatch):
    monkeypatch.delenv("SKEG_SIMD", raising=False)
    assert jit.supported_families()[0] == jit._choose_family()
    monkeypatch.setenv("SKEG_SIMD", "portable")
    assert "portable" == jit._choose_family()


@pytest.mark.parametrize("asked", ["sse", "", "AVX2"])
def test_an_unknown_family_is_refused_with_the_known_ones_named(monkeypatch, asked):
    monkeypatch.setenv("SKEG_SIMD", asked)
    with pytest.raises(ParameterError, match=r"SKEG_SIMD=.*one of .*portable"):
        jit._choose_family()


def test_a_family_that_this_cpu_lacks_is_refused(monkeypatch):
    monkeypatch.setattr(llvmlite.binding, "get_host_cpu_features", dict)
    monkeypatch.setenv("SKEG_SIMD", "avx512")
    with pytest.raises(ParameterError, match="one of portable on this machine"):
        jit._choose_family()


def test_the_cache_lies_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.setenv("SKEG_CACHE_DIR", str(tmp_path / "own"))
    assert tmp_path / "own" == jit.cache_folder().parent
    monkeypatch.delenv("SKEG_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert tmp_path / "xdg" / "skeg" == jit.cache_folder().parent
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tmp_path / ".cache" / "skeg" == jit.cache_folder().parent


def test_a_user_without_a_home_gets_no_cache_and_no_error(monkeypatch):
    def homeless():
        raise RuntimeError("no home")

    monkeypatch.delenv("SKEG_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(jit.Path, "home", homeless)
    assert not jit.cache_folder().parent.exists()


def test_families_and_bounds_checks_never_share_a_folder(monkeypatch):
    folders = set()
    for family in jit.FAMILIES:
        for checked in (0, 1):
            monkeypatch.setattr(jit, "FAMILY", family)
            monkeypatch.setattr(jit.config, "BOUNDSCHECK", checked)
            folders.add(jit.cache_folder())
    assert 6 == len(folders)


def test_the_folder_s_name_changes_with_every_kernel_source(monkeypatch, tmp_path):
    package = Path(jit.__file__).parent
    copy = tmp_path / "skeg"
    for kernels in package.glob("*/kernels"):
        shutil.copytree(kernels, copy / kernels.relative_to(package))
    shutil.copy(package / "jit.py", copy)
    monkeypatch.setattr(jit, "__file__", str(copy / "jit.py"))
    assert jit._STAMP == jit._sources_hash()
    stamps = {jit._STAMP}
    sources = [copy / "jit.py", *copy.glob("*/kernels/*.py")]
    for source in sources:
        source.write_bytes(source.read_bytes() + b"\n")
        stamps.add(jit._sources_hash())
    assert len(sources) + 1 == len(stamps)


def test_a_second_process_takes_kernels_from_the_cache(tmp_path):
    assert ["3.0", "0"] == run(tmp_path)
    assert ["3.0", "1"] == run(tmp_path)
    assert ["3.0", "0"] == run(tmp_path, SKEG_SIMD="portable"), "another family, another folder"


@pytest.mark.parametrize("content", [b"", b"not a pickle", None])
def test_a_damaged_cache_is_compiled_again(tmp_path, content):
    assert ["3.0", "0"] == run(tmp_path)
    files = [path for path in tmp_path.rglob("*.nb?") if path.is_file()]
    assert files
    for path in files:
        path.write_bytes(path.read_bytes()[:-9] if content is None else content)
    assert "3.0" == run(tmp_path)[0]


def test_a_cache_that_can_not_be_written_costs_time_only(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_bytes(b"in the way")
    assert ["3.0", "0"] == run(blocked / "below")
    assert b"in the way" == blocked.read_bytes()


def test_a_cache_path_with_spaces_and_other_letters(tmp_path):
    strange = tmp_path / "mön cache ☃"
    assert ["3.0", "0"] == run(strange)
    assert ["3.0", "1"] == run(strange)


def test_an_unknown_family_stops_the_first_import_of_a_kernel(tmp_path):
    error = run(tmp_path, SKEG_SIMD="mmx")
    assert "ParameterError: SKEG_SIMD='mmx': expected one of" in error


def test_no_compiler_at_all_still_computes(tmp_path):
    error = run(tmp_path, NUMBA_DISABLE_JIT="1")
    assert "AttributeError" in error, "a plain function has no statistics of a cache"
    assert [] == list(tmp_path.iterdir())


@pytest.mark.kernels
def test_a_resolved_kernel_is_the_kernel():
    x = np.arange(5, dtype=np.float32)
    assert 30 == jit.resolve(square_sum, (x,))(x)
