"""Everything public is written down, and what is written down works."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
import tomllib
from contextlib import ExitStack
from pathlib import Path

import attrs
import click
import pytest

import skeg.errors
from skeg.cli import main
from skeg.net.binary.frames import Code, Flags, Op
from skeg.net.commands import TABLE
from skeg.net.metrics import Metrics, ProcessState, State, render
from skeg.net.metrics.state import FIELDS
from skeg.net.settings import ServerSettings
from tests.net.serving import ServerProcess
from tests.source_tree import ROOT, tree

PACKAGES = ["skeg", "skeg.ann", "skeg.kv", "skeg.net"]
SUBMODULES = {"ann", "kv", "net"}

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)

# Examples that connect do so to a server on an empty directory, at the port that is the default here.
CONNECTS = re.compile(r"\bskeg\.(connect|client)\(")
DEFAULTS = """\
import skeg
skeg.connect.__defaults__ = "127.0.0.1", {resp}
skeg.client.__defaults__ = "127.0.0.1", {binary}
skeg.net.AsyncClient.connect.__func__.__defaults__ = "127.0.0.1", {resp}
"""
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


def options_of(command: str) -> list[str]:
    parameters = commands()[command].params
    return [max(parameter.opts, key=len) for parameter in parameters if isinstance(parameter, click.Option)]


def public_members() -> list[str]:
    """`Class.member` for every public method and property of the classes that the packages export."""
    packages = [importlib.import_module(name) for name in PACKAGES]
    exported = {getattr(package, name) for package in packages for name in package.__all__ if name not in SUBMODULES}
    classes = [c for c in exported if inspect.isclass(c) and not issubclass(c, BaseException)]
    ours = [(c, base) for c in classes for base in c.__mro__ if base.__module__.startswith("skeg")]
    return sorted({f"{c.__name__}.{name}" for c, base in ours for name in vars(base) if not name.startswith("_")})


def rows(heading: str) -> list[list[str]]:
    """Cells of the rows of all tables in a section of docs/server.md, those of the heads too."""
    text = (ROOT / "docs" / "server.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section is not None
    lines = [line for line in section[1].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def codes(heading: str, first: str) -> dict[int, str]:
    """Names by the numbers in front of them, in the table whose head begins so."""
    table = rows(heading)
    start = next(i for i, row in enumerate(table) if row[0] == first) + 2
    found = {}
    for number, name, *_ in table[start:]:
        if not number.startswith("0x"):
            break
        found[int(number, 16)] = name.strip("`")
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_documented(package):
    names = set(importlib.import_module(package).__all__) - {"__version__", *SUBMODULES}
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


@pytest.mark.parametrize(("command", "option"), [(name, option) for name in commands() for option in options_of(name)])
def test_every_option_is_documented_with_its_command(command, option):
    """In the section of docs/reference.md that is named after the command."""
    section = re.search(rf"^### `skeg {command}\b.*?(?=^##|\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert section is not None
    assert re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", section.group())


def test_every_setting_of_a_server_is_documented_with_its_option_and_default():
    options = set(options_of("serve"))
    documented = {}
    for name, option, default, _ in rows("Settings")[2:]:
        value = default.strip("`")
        documented[name.strip("`")] = None if value == "none" else tomllib.loads(f"value = {value}")["value"]
        assert option.strip("`") in options | {""}
    assert {field.name: field.default for field in attrs.fields(ServerSettings)} == documented
    text = "".join(map(str, rows("Settings")))
    assert set() == {option for option in options if f"`{option}`" not in text} - {"--config"}


def test_every_command_of_the_server_is_documented():
    documented = [name for row in rows("Commands") for name in re.findall(r"`([A-Z][A-Z.]*)", row[0])]
    assert sorted(command.name for command in TABLE) == sorted(documented)


def test_every_metric_is_documented_with_its_kind():
    process = ProcessState(**dict.fromkeys(FIELDS, 0))
    numbers = {f.name: 0 for f in attrs.fields(State)}
    metrics = Metrics(TABLE.operations)
    metrics.publish(process)
    kinds = re.findall(r"^# TYPE (\w+) (\w+)$", render(metrics, State(**numbers | {"indexes": []})), re.MULTILINE)
    documented = {(name, row[1]) for row in rows("Metrics and logs")[2:] for name in re.findall(r"`(\w+)`", row[0])}
    assert set(kinds) == documented


def test_every_code_of_the_binary_protocol_is_documented():
    heading = "The binary protocol"
    assert {int(op): op.label for op in Op} == codes(heading, "op")
    assert {int(flag): flag.name for flag in Flags} == codes(heading, "flag")
    assert {int(code): code.name for code in Code} == codes(heading, "code")


def anchors(page: Path) -> set[str]:
    """What the headings of a page can be linked by."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.add(name if name not in found else f"{name}-1")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_inside_the_project_lead_somewhere(page):
    targets = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8"))
    for name, anchor in targets:
        target = page.parent / name if name else page
        assert target.exists(), name
        assert not anchor or anchor in anchors(target), anchor


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_examples_run_and_print_what_they_say(page, tmp_path):
    """All examples of a page, in order, as one script in an empty folder; `...` in the output stands for anything."""
    examples = EXAMPLE.findall(page.read_text(encoding="utf-8"))
    code = "\n".join(code for code, _ in examples)
    script = tmp_path / "examples.py"
    with ExitStack() as stack:
        if CONNECTS.search(code):
            server = stack.enter_context(ServerProcess(tmp_path / "served"))
            code = DEFAULTS.format(**server.ports) + code
        script.write_text(code, encoding="utf-8")
        done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    expected = re.escape("".join(output for _, output in examples)).replace(r"\.\.\.", ".*")
    assert re.fullmatch(expected, done.stdout), done.stdout
