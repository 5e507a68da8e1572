"""What a plain import loads: services and scripts that only want the version or an error pay for nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache

import pytest


@cache
def modules_after(statement: str) -> set[str]:
    code = f"{statement}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


@pytest.mark.parametrize("heavy", ["numba", "llvmlite", "numpy", "click", "xxhash", "attrs", "asyncio", "socket"])
@pytest.mark.parametrize("package", ["skeg", "skeg.net"])
def test_import_skeg_and_its_network_loads_no_dependency(package, heavy):
    assert heavy not in modules_after(f"import {package}")


@pytest.mark.parametrize("heavy", ["numba", "llvmlite", "asyncio", "skeg.database", "skeg.ann", "skeg.net.serve"])
@pytest.mark.parametrize("name", ["connect", "client", "Hit", "VectorKind"])
def test_clients_are_loaded_without_what_servers_need(name, heavy):
    assert heavy not in modules_after(f"import skeg\nskeg.{name}")


@pytest.mark.parametrize("name", ["AsyncClient", "ConnectionPool", "ServerSettings"])
def test_only_running_a_server_loads_numba(name):
    loaded = modules_after(f"import skeg.net\nskeg.net.{name}")
    assert not {"numba", "skeg.database", "skeg.net.serve"} & loaded
    assert {"numba", "skeg.database", "skeg.net.serve"} <= modules_after("import skeg.net\nskeg.net.run_server")


@pytest.mark.parametrize("heavy", ["numba", "llvmlite", "numpy"])
@pytest.mark.parametrize("command", ["", "build", "search", "verify", "serve", "ping"])
def test_help_of_the_command_loads_neither_numba_nor_numpy(command, heavy):
    silent = "import contextlib, io, skeg.cli\nwith contextlib.redirect_stdout(io.StringIO()):"
    arguments = [*command.split(), "--help"]
    assert heavy not in modules_after(f"{silent} skeg.cli.main({arguments}, standalone_mode=False)")


@pytest.mark.parametrize("heavy", ["numba", "llvmlite", "skeg.ann", "skeg.net"])
def test_the_store_is_imported_and_opened_without_numba_and_indexes(heavy, tmp_path):
    use = f"with Store.open({str(tmp_path / 'store')!r}) as store:\n    store.set_many({{b'a': b'1', b'b': b'2'}})"
    assert heavy not in modules_after(f"from skeg.kv import Store\n{use}\nassert 2 == len(Store.open(store.path))")


def test_indexes_are_loaded_on_first_use():
    loaded = modules_after("import skeg\nskeg.ann.Index")
    assert {"numba", "numpy", "skeg.ann.index"} <= loaded


@pytest.mark.parametrize("optional", ["rich", "h5py", "pyarrow", "matplotlib", "uvloop"])
def test_extras_are_loaded_only_by_the_feature_that_needs_them(optional):
    assert optional not in modules_after("import skeg.ann, skeg.cli, skeg.net\nskeg.net.run_server")
