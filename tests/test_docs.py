"""Everything public is written down, and what is written down works."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys

import click
import pytest

import skeg.errors
from skeg.cli import main
from tests.source_tree import ROOT, tree

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)

# ```python block, directly followed by a ```text block with what it prints (may be absent).
EXAMPLE = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)


def mentioned(name: str) -> bool:
    """Whether a name stands in a code span or block of README or docs."""
    return re.search(
        rf"(?<![\w-]){re.escape(name)}(?![\w-])", "\n".join(re.findall(r"```.*?```|`[^`\n]+`", TEXT, re.DOTALL))
    )


def commands(group: click.Group = main, words: str = "") -> dict[str, click.Command]:
    """Every command by the words that call it, such as `kv get`."""
    found = {}
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            found |= commands(command, f"{words}{name} ")
        else:
            found[f"{words}{name}"] = command
    return found


def options() -> list[tuple[str, str]]:
    return [
        (name, max(parameter.opts, key=len))
        for name, command in commands().items()
        for parameter in command.params
        if isinstance(parameter, click.Option)
    ]


def public_members() -> list[str]:
    """`Class.member` for every public method and property of the classes that the packages export."""
    packages = [importlib.import_module(name) for name in ("skeg.ann", "skeg.kv")]
    exported = [getattr(package, name) for package in packages for name in package.__all__]
    classes = [member for member in exported if inspect.isclass(member) and not issubclass(member, int)]
    return [f"{c.__name__}.{name}" for c in classes for name in dir(c) if not name.startswith("_")]


@pytest.mark.parametrize("package", ["skeg", "skeg.ann", "skeg.kv"])
def test_every_public_name_is_documented(package):
    names = set(importlib.import_module(package).__all__) - {"__version__", "ann", "kv"}
    assert set() == {name for name in names if not mentioned(name)}


def test_every_method_and_property_is_documented():
    assert [] == [name for name in public_members() if not mentioned(name.split(".")[1])]


def test_every_error_is_documented_and_exported():
    errors = {node.name for node in tree("skeg.errors").body if isinstance(node, ast.ClassDef)}
    assert set() == {name for name in errors if not mentioned(name)}
    assert set() == errors - set(skeg.__all__)


@pytest.mark.parametrize("name", commands())
def test_every_command_is_documented(name):
    assert mentioned(f"skeg {name}") or re.search(rf"^skeg {name}\b", TEXT, re.MULTILINE)
    assert commands()[name].help


@pytest.mark.parametrize(("command", "option"), options())
def test_every_option_is_documented_with_its_command(command, option):
    """In the section of docs/reference.md that is named after the command."""
    section = re.search(rf"^### `skeg {command}\b.*?(?=^##|\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert section is not None
    assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", section.group())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_inside_the_project_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [] == [target for target in targets if not (page.parent / target).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_examples_run_and_print_what_they_say(page, tmp_path):
    """All examples of a page, in order, as one script in an empty folder; `...` in the output stands for anything."""
    examples = EXAMPLE.findall(page.read_text(encoding="utf-8"))
    script = tmp_path / "examples.py"
    script.write_text("\n".join(code for code, _ in examples), encoding="utf-8")
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = re.escape("".join(output for _, output in examples)).replace(r"\.\.\.", ".*")
    assert re.fullmatch(expected, done.stdout), done.stdout
