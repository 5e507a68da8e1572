"""Who may import whom: strictly downward, read from the syntax trees of the package."""

from __future__ import annotations

import ast
import graphlib
import sys
from fnmatch import fnmatch

import pytest

from tests.source_tree import dotted, functions, imported, imports, modules, tree

# Lowest first. A module imports from the lines before its own, and from its own line where that makes no cycle.
# Every module has to stand here: a new one is placed when it is written.
LAYERS: list[list[str]] = [
    ["skeg.errors"],
    ["skeg.checks", "skeg.binary", "skeg.jit", "skeg.durability"],
    ["skeg.files", "skeg.mapped"],
    ["skeg.fileops", "skeg.signed", "skeg.headers", "skeg.layout", "skeg.container"],
    [
        "skeg.ann.kernels",
        "skeg.ann.kernels.*",
        "skeg.kv.kernels",
        "skeg.kv.kernels.*",
        "skeg.net.kernels",
        "skeg.net.kernels.*",
    ],
    [
        "skeg.ann.arrays",
        "skeg.ann.metric",
        "skeg.ann.params",
        "skeg.ann.parallel",
        "skeg.ann.format",
        "skeg.ann.progress",
    ],
    ["skeg.ann.filters", "skeg.ann.filters.*"],
    ["skeg.ann.hits", "skeg.ann.transform", "skeg.ann.recall"],
    ["skeg.ann.readers", "skeg.ann.tables", "skeg.ann.sources", "skeg.ann.writers", "skeg.ann.sample"],
    ["skeg.ann.pq", "skeg.ann.quantizers"],
    ["skeg.ann.cells", "skeg.ann.exact", "skeg.ann.vamana"],
    [
        "skeg.ann.segment",
        "skeg.ann.tuning",
        "skeg.ann.calibration",
        "skeg.ann.settings",
        "skeg.ann.workspace",
        "skeg.ann.budget",
        "skeg.ann.flatrows",
        "skeg.ann.flatfile",
        "skeg.ann.flatscan",
    ],
    ["skeg.ann.searcher"],
    ["skeg.ann.pipeline"],
    [
        "skeg.ann.live",
        "skeg.ann.live.format",
        "skeg.ann.live.log",
        "skeg.ann.live.maintenance",
        "skeg.ann.live.rows",
        "skeg.ann.live.forks",
    ],
    ["skeg.ann.live.parts"],
    ["skeg.ann.live.selection"],
    ["skeg.ann.live.plan"],
    ["skeg.ann.live.single"],
    ["skeg.ann.live.view"],
    ["skeg.ann.live.searching"],
    ["skeg.ann.live.state"],
    ["skeg.ann.live.writer", "skeg.ann.live.merge", "skeg.ann.live.opening", "skeg.ann.live.backup"],
    ["skeg.ann.live.engine"],
    ["skeg.ann.writable"],
    ["skeg.ann.index", "skeg.ann.flat"],
    ["skeg.ann.fused", "skeg.ann.beginning"],
    ["skeg.ann.build"],
    ["skeg.ann"],
    ["skeg.kv.format", "skeg.kv.manifest", "skeg.kv.cache", "skeg.kv.table"],
    ["skeg.kv.entries", "skeg.kv.index", "skeg.kv.options", "skeg.kv.arguments"],
    ["skeg.kv.batches"],
    ["skeg.kv.hints", "skeg.kv.scan"],
    ["skeg.kv.segments"],
    ["skeg.kv.rounds", "skeg.kv.recovery"],
    ["skeg.kv.log"],
    ["skeg.kv.records"],
    ["skeg.kv.shard"],
    ["skeg.kv.retirement", "skeg.kv.locking", "skeg.kv.pace"],
    ["skeg.kv.snapshot", "skeg.kv.compaction", "skeg.kv.cursor"],
    ["skeg.kv.erasing", "skeg.kv.closing"],
    ["skeg.kv.maintenance", "skeg.kv.verify", "skeg.kv.backup", "skeg.kv.opening"],
    ["skeg.kv.statistics", "skeg.kv.parts"],
    ["skeg.kv.store"],
    ["skeg.kv.aio", "skeg.kv.transfer", "skeg.kv.original"],
    ["skeg.kv"],
    ["skeg.catalog", "skeg.sharding"],
    ["skeg.vector_index"],
    ["skeg.fragments"],
    ["skeg.registry"],
    ["skeg.database"],
    ["skeg"],
    ["skeg.net", "skeg.net.text", "skeg.net.failures", "skeg.net.limits"],
    ["skeg.net.access", "skeg.net.logs", "skeg.net.http", "skeg.net.settings"],
    ["skeg.net.session"],
    ["skeg.net.resp", "skeg.net.resp.*"],
    ["skeg.net.binary", "skeg.net.binary.frames", "skeg.net.binary.kinds", "skeg.net.binary.layouts"],
    ["skeg.net.binary.requests", "skeg.net.binary.replies"],
    ["skeg.net.metrics.state"],
    ["skeg.net.metrics.recording"],
    ["skeg.net.metrics.exposition"],
    ["skeg.net.metrics"],
    ["skeg.net.clients", "skeg.net.clients.*"],
    ["skeg.net.engine", "skeg.net.engine.completions", "skeg.net.engine.keys", "skeg.net.engine.syncs"],
    ["skeg.net.engine.searches", "skeg.net.engine.changes"],
    ["skeg.net.engine.quick"],
    ["skeg.net.engine.engine"],
    ["skeg.net.engine.figures"],
    ["skeg.net.vectors", "skeg.net.known"],
    ["skeg.net.commands.table"],
    ["skeg.net.resp_session", "skeg.net.binary_session"],
    ["skeg.net.commands.*", "skeg.net.binary_commands"],
    ["skeg.net.commands"],
    ["skeg.net.serve", "skeg.net.serve.memory", "skeg.net.serve.warm"],
    ["skeg.net.serve.hub", "skeg.net.serve.listeners", "skeg.net.serve.web"],
    ["skeg.net.serve.connection", "skeg.net.serve.processes"],
    ["skeg.net.serve.server"],
    ["skeg.net.serve.run"],
    ["skeg.report"],
    ["skeg.describe", "skeg.exchange", "skeg.warmup", "skeg.demo"],
    ["skeg.cli_common"],
    ["skeg.cli_kv", "skeg.cli_live", "skeg.cli_net", "skeg.cli_serve"],
    ["skeg.cli"],
    ["skeg.__main__"],
]

# Which kernels those of a package may call.
BESIDE = {
    "skeg.ann.kernels": ("skeg.ann.kernels",),
    "skeg.kv.kernels": ("skeg.kv.kernels",),
    "skeg.net.kernels": ("skeg.net.kernels", "skeg.ann.kernels"),
}

# The packages of kernels, each with those of its modules that are made of intrinsics.
KERNELS = {
    "skeg.ann.kernels": ("skeg.ann.kernels.simd", "skeg.ann.kernels.bundle"),
    "skeg.kv.kernels": ("skeg.kv.kernels.intrinsics",),
    "skeg.net.kernels": (),
}

CORE = {"numpy", "numba", "llvmlite", "xxhash", "attrs", "click"}

# Imports inside functions, each with its reason; everything else is imported at the top of its file.
LATE_IMPORTS: dict[str, dict[str, str]] = {
    "skeg.jit": {"llvmlite": "the CPU's features are not needed with the JIT disabled"},
    "skeg.cli": {"skeg.*": "`skeg --help` answers without loading Numba"},
    "skeg.cli_kv": {"skeg.*": "as skeg.cli"},
    "skeg.cli_live": {"skeg.*": "as skeg.cli"},
    "skeg.cli_net": {"skeg.*": "as skeg.cli"},
    "skeg.cli_serve": {"skeg.*": "as skeg.cli"},
    "skeg.net.serve.run": {"uvloop": "optional extra `server`"},
    "skeg.kv.scan": {"skeg.*": "a small store opens without loading Numba"},
    "skeg.kv.batches": {"skeg.*": "as skeg.kv.scan"},
    "skeg.kv.index": {"skeg.*": "as skeg.kv.scan"},
    "skeg.kv.shard": {"skeg.*": "as skeg.kv.scan"},
    "skeg.kv.original": {"skeg.*": "as skeg.kv.scan"},
    "skeg.registry": {"skeg.*": "a database without indexes opens without loading Numba"},
    "skeg.database": {"skeg.*": "as skeg.registry"},
    "skeg.report": {"rich.*": "optional extra `cli`"},
    "skeg.ann.tables": {"h5py": "optional extra `bench`", "pyarrow*": "optional extra `parquet`"},
}

OPTIONAL = {"rich", "h5py", "pyarrow", "uvloop"}


def layer(module: str) -> int:
    exact = [i for i, names in enumerate(LAYERS) if module in names]
    if exact:
        return exact[0]
    return next(i for i, names in enumerate(LAYERS) if any(fnmatch(module, name) for name in names))


def ours(module: str) -> list[str]:
    """Modules of the package that a module imports, at the top of the file or inside functions."""
    return [name for name, _ in imports(module) if name.split(".")[0] == "skeg"]


def in_type_checking(module: str) -> set[ast.stmt]:
    blocks = [n for n in ast.walk(tree(module)) if isinstance(n, ast.If) and dotted(n.test) == "TYPE_CHECKING"]
    return {statement for block in blocks for statement in block.body}


@pytest.mark.parametrize("module", modules())
def test_every_module_has_a_place_in_the_layers(module):
    assert any(fnmatch(module, name) for names in LAYERS for name in names)


@pytest.mark.parametrize("module", modules())
def test_imports_run_downward(module):
    types_only = in_type_checking(module)
    names = [name for name, node in imports(module) if name.split(".")[0] == "skeg" and node not in types_only]
    upward = [name for name in names if layer(name) > layer(module)]
    assert [] == upward


def test_imports_make_no_cycle():
    graph = {
        module: {name for name, node in imports(module) if name in modules() and node not in in_type_checking(module)}
        for module in modules()
    }
    graphlib.TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("module", modules())
def test_third_party_packages_are_the_core_dependencies(module):
    outside = {name.split(".")[0] for name, _ in imports(module)} - set(sys.stdlib_module_names) - {"skeg"}
    late = {pattern.split(".")[0].rstrip("*") for pattern in LATE_IMPORTS.get(module, {})} & OPTIONAL
    assert set() == outside - CORE - late


@pytest.mark.parametrize("module", [name for name in modules() if name.startswith(tuple(KERNELS))])
def test_kernels_know_only_numpy_numba_jit_and_other_kernels(module):
    allowed = (
        "__future__",
        "typing",
        "functools",
        "ctypes",
        "numpy",
        "numba",
        "llvmlite",
        "skeg.jit",
        *BESIDE[next(package for package in KERNELS if module.startswith(package))],
    )
    foreign = [name for name, _ in imports(module) if not any(name == a or name.startswith(f"{a}.") for a in allowed)]
    assert [] == foreign


@pytest.mark.parametrize("module", modules())
def test_numba_is_spelled_in_one_place(module):
    """Decorators of Numba stand in skeg.jit; intrinsics in the kernels that are made of them only."""
    if module == "skeg.jit":
        return
    used = {dotted(decorator) for function in functions(module) for decorator in function.decorator_list}
    numba_names = {name for name in used if name.split(".")[-1] in {"jit", "njit", "vectorize", "guvectorize", "cfunc"}}
    roots = {name.split(".")[0] for name, _ in imports(module)}
    # `typing` has an `overload` too.
    intrinsics = {name for name in used if "numba" in roots and name.split(".")[-1] in {"intrinsic", "overload"}}
    assert set() == numba_names
    assert not intrinsics or module.startswith(tuple(name for names in KERNELS.values() for name in names))
    if not module.startswith(tuple(KERNELS)):
        assert [] == [name for name, _ in imports(module) if name.split(".")[0] in {"numba", "llvmlite"}]


@pytest.mark.parametrize("module", modules())
def test_imports_inside_functions_are_listed_with_a_reason(module):
    allowed = LATE_IMPORTS.get(module, {})
    statements = {node for f in functions(module) for node in ast.walk(f) if isinstance(node, ast.stmt)}
    late = {name for node in statements for name in imported(node)}
    assert set() == {name for name in late if not any(fnmatch(name, pattern) for pattern in allowed)}


@pytest.mark.parametrize("module", modules())
def test_the_disk_is_written_through_one_door(module):
    """Only files, fileops and mapped (and the container on top of them) map, rename, sync or remove files."""
    doors = {"skeg.files", "skeg.fileops", "skeg.mapped", "skeg.container"}
    low_level = {"mmap", "fcntl", "msvcrt", "shutil"} & {name.split(".")[0] for name, _ in imports(module)}
    calls = {dotted(node.func) for node in ast.walk(tree(module)) if isinstance(node, ast.Call)}
    writes = calls & {
        "os.replace",
        "os.rename",
        "os.fsync",
        "os.remove",
        "os.unlink",
        "os.mkdir",
        "os.makedirs",
        "os.write",
    }
    assert module in doors or not low_level
    assert module in doors or not writes


@pytest.mark.parametrize("module", modules())
def test_environment_variables_are_read_in_two_places(module):
    reads = [
        node for node in ast.walk(tree(module)) if isinstance(node, ast.Attribute) and dotted(node) == "os.environ"
    ]
    assert module in {"skeg.cli", "skeg.jit"} or not reads
