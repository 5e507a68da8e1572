"""The package's source files as syntax trees, for the tests that check the code itself."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "skeg"


@cache
def modules() -> dict[str, Path]:
    """Dotted name -> file of every module of the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text(encoding="utf-8"))


def functions(module: str) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method of a module, nested ones too."""
    return [node for node in ast.walk(tree(module)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def imported(node: ast.stmt) -> list[str]:
    """Dotted names that an import statement loads; a submodule counts as itself, not as its package."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are absolute"
        base = node.module or ""
        return sorted({full if (full := f"{base}.{alias.name}") in modules() else base for alias in node.names})
    return []


def imports(module: str) -> list[tuple[str, ast.stmt]]:
    """(imported module, statement) for every import anywhere in a module."""
    return [(name, node) for node in ast.walk(tree(module)) if isinstance(node, ast.stmt) for name in imported(node)]


def dotted(node: ast.expr) -> str:
    """`a.b.c` of a name, an attribute or a call of one; empty for anything else."""
    if isinstance(node, ast.Call):
        return dotted(node.func)
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""
