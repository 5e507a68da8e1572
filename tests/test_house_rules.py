"""Rules of this project's code that no linter knows."""

from __future__ import annotations

import ast
import importlib
import inspect
import re

import pytest

from tests.source_tree import ROOT, dotted, functions, modules, tree

MODULE_LINES_MAX = 500
FUNCTION_LINES_MAX = 80

# Modules that talk to a person; all others return values and call back.
MAY_PRINT = {"skeg.cli", "skeg.cli_common", "skeg.cli_kv", "skeg.cli_net"}

PUBLIC_NAMES = {
    "skeg": [
        "BinaryClient",
        "ClosedError",
        "CorruptError",
        "Database",
        "ExistsError",
        "FilterError",
        "FormatError",
        "Hit",
        "LockedError",
        "MissingExtraError",
        "NotConnected",
        "NotFoundError",
        "ParameterError",
        "ProtocolError",
        "ReadOnlyError",
        "RespClient",
        "ServerError",
        "SkegError",
        "StorageError",
        "ValueTypeError",
        "VectorBackend",
        "VectorError",
        "VectorKind",
        "VectorKindV2",
        "VersionTooNewError",
        "__version__",
        "ann",
        "client",
        "connect",
        "kv",
        "net",
        "open",
    ],
    "skeg.ann": [
        "Durability",
        "FlatIndex",
        "Hits",
        "Index",
        "Progress",
        "build_index",
        "exact_search",
        "recall_at_k",
    ],
    "skeg.kv": ["AsyncStore", "Durability", "Store", "StoreOptions", "Ticket"],
    "skeg.net": [
        "AsyncClient",
        "BinaryClient",
        "ConnectionPool",
        "Hit",
        "RespClient",
        "ServerSettings",
        "VectorBackend",
        "VectorKind",
        "VectorKindV2",
        "client",
        "connect",
        "run_server",
    ],
}

FUNCTION = ast.FunctionDef | ast.AsyncFunctionDef


def public_functions(module: str) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Public functions of a module and public methods of its public classes."""
    found: list[ast.FunctionDef | ast.AsyncFunctionDef] = []
    for node in tree(module).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            found += [n for n in node.body if isinstance(n, FUNCTION) and not n.name.startswith("_")]
        elif isinstance(node, FUNCTION) and not node.name.startswith("_"):
            found.append(node)
    # What `typing.overload` decorates are signatures; the function itself comes behind them.
    return [f for f in found if "overload" not in {dotted(decorator) for decorator in f.decorator_list}]


def documented_parameters(docstring: str) -> list[str] | None:
    """Names in the numpydoc section `Parameters`, in order; None when there is no such section."""
    section = re.search(r"^Parameters\n-+\n(.*?)(?=^\S[^\n]*\n-+\n|\Z)", docstring, re.MULTILINE | re.DOTALL)
    if section is None:
        return None
    heads = re.findall(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: :.*)?$", section.group(1), re.MULTILINE)
    return [name.strip().lstrip("*") for head in heads for name in head.split(",")]


def signature_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    arguments = function.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args)]
    names += [arguments.vararg.arg] if arguments.vararg else []
    names += [a.arg for a in arguments.kwonlyargs]
    names += [arguments.kwarg.arg] if arguments.kwarg else []
    return [name for name in names if name not in {"self", "cls"}]


@pytest.mark.parametrize("module", modules())
def test_public_names_have_docstrings(module):
    classes = [n for n in tree(module).body if isinstance(n, ast.ClassDef) and not n.name.startswith("_")]
    assert ast.get_docstring(tree(module)), "the module itself"
    assert [] == [n.name for n in [*classes, *public_functions(module)] if not ast.get_docstring(n)]


@pytest.mark.parametrize("module", modules())
def test_documented_parameters_exist(module):
    """A `Parameters` section names parameters of the signature, in their order; internal calls may leave some out."""
    for function in functions(module):
        documented = documented_parameters(ast.get_docstring(function) or "") or []
        existing = signature_parameters(function)
        assert [name for name in existing if name in documented] == documented, function.name


@pytest.mark.parametrize("package", PUBLIC_NAMES)
def test_exported_calls_document_all_their_parameters(package):
    """What a user calls says what each argument is."""
    exported = [getattr(importlib.import_module(package), name) for name in importlib.import_module(package).__all__]
    classes = [base for c in exported if inspect.isclass(c) for base in c.__mro__ if base.__module__.startswith("skeg")]
    methods = [m for c in classes for name, m in vars(c).items() if not name.startswith("_")]
    for call in [*exported, *(getattr(method, "__func__", method) for method in methods)]:
        if inspect.isfunction(call):
            names = [name for name in inspect.signature(call).parameters if name not in {"self", "cls"}]
            documented = documented_parameters(inspect.getdoc(call) or "")
            assert names == (documented or []), call.__qualname__


@pytest.mark.parametrize("package", PUBLIC_NAMES)
def test_public_names_are_pinned(package):
    module = importlib.import_module(package)
    assert PUBLIC_NAMES[package] == sorted(module.__all__)
    assert [] == [name for name in module.__all__ if not hasattr(module, name)]
    assert set() == set(module.__all__) - set(dir(module))


@pytest.mark.parametrize("module", modules())
def test_library_modules_do_not_print(module):
    calls = {dotted(node.func) for node in ast.walk(tree(module)) if isinstance(node, ast.Call)}
    assert module in MAY_PRINT or not calls & {"print", "click.echo", "click.secho", "sys.stdout.write"}


@pytest.mark.parametrize("module", modules())
def test_no_exception_is_swallowed(module):
    """`except Exception: pass` hides our own bugs."""
    handlers = [node for node in ast.walk(tree(module)) if isinstance(node, ast.ExceptHandler)]
    broad = [h for h in handlers if h.type is None or dotted(h.type) in {"Exception", "BaseException"}]
    assert [] == [h.lineno for h in broad if all(isinstance(s, ast.Pass | ast.Continue) for s in h.body)]


@pytest.mark.parametrize("module", modules())
def test_modules_and_functions_stay_readable(module):
    assert modules()[module].read_text(encoding="utf-8").count("\n") <= MODULE_LINES_MAX
    lengths = {f.name: (f.end_lineno or f.lineno) - f.lineno + 1 for f in functions(module)}
    assert {} == {name: length for name, length in lengths.items() if length > FUNCTION_LINES_MAX}


def test_nothing_is_left_for_later():
    """No notes to ourselves, no unfinished function, no test that is skipped or expected to fail."""
    later = re.compile(r"\b(TO[D]O|FIX[M]E|XX[X]|HAC[K])\b|pytest\.(skip|xfai[l])|mark\.(skip|xfai[l])")
    files = [path for folder in ("skeg", "tests", "datasets") for path in (ROOT / folder).rglob("*.py")]
    assert [] == [
        f"{path.name}: {m.group()}" for path in files if (m := later.search(path.read_text(encoding="utf-8")))
    ]
    raised = {dotted(n.exc) for m in modules() for n in ast.walk(tree(m)) if isinstance(n, ast.Raise) and n.exc}
    assert "NotImplementedError" not in raised


def test_typing_marker_is_shipped():
    assert (ROOT / "skeg" / "py.typed").is_file()
