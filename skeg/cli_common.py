"""What all commands share: exit codes, errors as messages, common arguments, how results are shown."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from skeg import report
from skeg.errors import CorruptError, SkegError, StorageError

EXIT_OK = 0
EXIT_FINDING = 1
EXIT_USAGE = 2
EXIT_FILE = 3
EXIT_INTERRUPTED = 130

# First match counts: what is wrong with a file is 3, everything else about a request is 2.
EXIT_CODES: tuple[tuple[type[SkegError], int], ...] = ((StorageError, EXIT_FILE), (SkegError, EXIT_USAGE))

existing_path = click.Path(exists=True, path_type=Path)
json_option = click.option("--json", "json_output", is_flag=True, help="Print one JSON object.")


class Commands(click.Group):
    """Turns the library's errors and Ctrl-C into a message and an exit code, never a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except SkegError as error:
            click.echo(f"skeg: {error}", err=True)
            ctx.exit(next(code for kind, code in EXIT_CODES if isinstance(error, kind)))
        except KeyboardInterrupt:
            click.echo("skeg: interrupted", err=True)
            ctx.exit(EXIT_INTERRUPTED)


def show(values: dict[str, Any], json_output: bool) -> None:
    """Print named values: a table, or one JSON object."""
    click.echo(report.as_json(values) if json_output else report.facts(values))


def show_findings(path: Path, findings: Sequence[CorruptError], json_output: bool) -> None:
    """Print what a check found, and exit with 1 if that is anything."""
    if json_output:
        facts = [_facts(finding) for finding in findings]
        click.echo(report.as_json({"path": str(path), "ok": not findings, "findings": facts}))
    else:
        click.echo("\n".join(map(str, findings)) or f"{path}: no findings")
    sys.exit(EXIT_FINDING if findings else EXIT_OK)


def _facts(finding: CorruptError) -> dict[str, Any]:
    known = {name: getattr(finding, name) for name in ("path", "problem", "offset", "expected", "found")}
    return {**{name: value for name, value in known.items() if value is not None}, "message": str(finding)}
