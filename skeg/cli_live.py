"""The commands that change an index: arguments in, one library call, results out.

Library modules are imported inside the commands, as in `skeg.cli`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import IO, Any

import click

from skeg import report
from skeg.cli_common import existing_path, json_option, show
from skeg.errors import FormatError

_index = click.argument("index", type=existing_path)

# Rows added by one call: some megabytes.
_ROWS_A_CALL = 16_384


@click.command()
@_index
@click.argument("source")
@click.option("--ids", required=True, metavar="FILE", help="Ids of the rows: .npy, .ibin or .ivecs, or .txt.")
@click.option(
    "--payloads",
    type=click.File("rb"),
    metavar="FILE",
    help="What goes with each row: a JSON object, text or null a line.",
)
@click.option(
    "--on-conflict",
    type=click.Choice(["replace", "update", "error", "skip"]),
    default="replace",
    show_default=True,
    help="What to do about ids that the index holds.",
)
@json_option
def add(index: Path, source: str, ids: str, payloads: IO[bytes] | None, on_conflict: str, json_output: bool) -> None:
    """Add the vectors in the file SOURCE to the graph index INDEX."""
    from skeg.ann import Index
    from skeg.ann.sources import open_source, read_ids

    given = None if payloads is None else _read_payloads(payloads)
    with open_source(source) as rows, Index.open(index, mode="rw") as opened:
        row_ids = read_ids(ids)
        done = 0
        for block in rows.blocks(_ROWS_A_CALL):
            stop = done + len(block)
            some = None if given is None else given[done:stop]
            opened.add(row_ids[done:stop], block, payloads=some, on_conflict=on_conflict)
            done = stop
        show({"index": str(index), "rows": done, "count": len(opened)}, json_output)


@click.command()
@_index
@click.argument("ids", metavar="FILE")
@json_option
def delete(index: Path, ids: str, json_output: bool) -> None:
    """Delete the ids in FILE (.npy, .ibin, .ivecs, or .txt with one a line) from the graph index INDEX."""
    from skeg.ann import Index
    from skeg.ann.sources import read_ids

    with Index.open(index, mode="rw") as opened:
        deleted = opened.delete(read_ids(ids))
        show({"index": str(index), "deleted": deleted, "count": len(opened)}, json_output)


@click.command()
@_index
@click.option("--threads", type=int, help="Threads to use. [default: all cores]")
@json_option
def consolidate(index: Path, threads: int | None, json_output: bool) -> None:
    """Merge what was written to the graph index INDEX into one new segment, and give back the space of what is gone."""
    from skeg.ann import Index

    with report.progress_bar() as progress, Index.open(index, mode="rw") as opened:
        opened.consolidate(threads=threads, progress=progress)
        values = opened.stats()
    show({"index": str(index), **values}, json_output)


def _read_payloads(file: IO[bytes]) -> list[Any]:
    """A JSON value a line."""
    payloads = []
    for number, line in enumerate(file, 1):
        try:
            payloads.append(json.loads(line))
        except ValueError as error:
            raise FormatError(file.name, f"line {number} is not JSON ({error})") from error
    return payloads
