"""The command `skeg`: arguments in, one library call, results out.

Results go to stdout (`--json`: one JSON object), progress to stderr and only on a terminal. Library
modules are imported inside the commands, so that `--help` answers at once.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import click

import skeg
from skeg import report
from skeg.cli_common import Commands, existing_path, json_option, show, show_findings
from skeg.cli_kv import kv
from skeg.cli_live import add, consolidate, delete
from skeg.cli_net import cli, info, ping
from skeg.cli_serve import serve

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def _size(text: str) -> int:
    """Bytes of `2GiB`, `500MB` or `1048576`."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", text)
    if match is None or match.group(2).upper() not in _UNITS:
        raise click.BadParameter(f"{text!r}: expected a size such as 2GiB, 500MB or 1048576")
    return int(float(match.group(1)) * _UNITS[match.group(2).upper()])


def _numbers(text: str) -> list[int]:
    """Numbers of `16,32,64`."""
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise click.BadParameter(f"{text!r}: expected numbers separated by commas, such as 16,32,64")
    return [int(number) for number in text.split(",")]


def _rows_file(text: str) -> str:
    """An existing file, or `FILE::MEMBER` for a dataset or column in one."""
    if not (Path(text).is_file() or Path(text.rpartition("::")[0]).is_file()):
        raise click.BadParameter(f"{text!r}: no such file")
    return text


_queries = click.option(
    "--queries", type=_rows_file, metavar="FILE", required=True, help="File of query vectors, in any format of SOURCE."
)
_k = click.option("-k", "k", type=int, default=10, show_default=True, help="Answers per query.")
_threads = click.option("--threads", type=int, help="Threads to use. [default: all cores]")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(skeg.__version__, prog_name="skeg")
def main() -> None:
    """Build vector indexes from embedding files, search, check and serve them; read and change key-value stores.

    Exit codes: 0 fine, 1 a check found something, 2 wrong usage, 3 a file is damaged, of another kind or can't be used,
    130 interrupted.
    """


@main.command()
@click.argument("source", type=_rows_file)
@click.argument("index", type=click.Path(path_type=Path))
@click.option(
    "--ids", type=_rows_file, metavar="FILE", help="Ids of the rows: .npy, .ibin or .ivecs, or .txt with one id a line."
)
@click.option("--metric", type=click.Choice(["cosine", "ip", "l2"]), default="cosine", show_default=True)
@click.option("--kind", help="Codes: f32, int8, tq4, tq2, tq1, binary or pq. [default: chosen]")
@click.option("--degree", "max_degree", type=int, help="Most links a node may have. [default: chosen]")
@click.option("--list-size", "build_list_size", type=int, help="Candidates kept while building. [default: chosen]")
@click.option("--alpha", type=float, help="Pruning slack, 1 or more. [default: chosen]")
@_threads
@click.option("--seed", type=int, default=0, show_default=True, help="The same seed gives the same index.")
@click.option(
    "--memory-limit", type=_size, metavar="SIZE", help="Memory that the build may allocate, such as 2GiB or 500MB."
)
@click.option("--name", help="Build the index of this name in the database INDEX, which is made if it is missing.")
@click.option("--shards", type=int, help="With --name: shards of a database that is made.  [default: 1]")
@json_option
def build(
    source: str,
    index: Path,
    ids: str | None,
    name: str | None,
    shards: int | None,
    json_output: bool,
    **settings: Any,
) -> None:
    """Build the graph index INDEX (a directory) from the vectors in SOURCE.

    With --name, INDEX is a database directory, which may hold many indexes.

    SOURCE is .npy, .fbin, .u8bin, .i8bin, .ibin, .fvecs, .bvecs, .ivecs, .hdf5 or .parquet; FILE::MEMBER names a
    dataset of an HDF5 file or a column of a Parquet file.
    """
    from skeg.ann import build_index
    from skeg.ann.sources import read_ids

    if shards is not None and name is None:
        raise click.UsageError("--shards needs --name: an index directory of its own has none")
    row_ids = None if ids is None else read_ids(ids)
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(report.progress_bar())
        if name is None:
            built = stack.enter_context(build_index(source, index, ids=row_ids, progress=progress, **settings))
            values = {"index": str(index), **built.stats()}
        else:
            database = stack.enter_context(skeg.open(index, shards=shards))
            named = database.build_index(name, source, ids=row_ids, progress=progress, **settings)
            values = {"database": str(index), "name": name, "shards": database.shards, **named.stats()}
    show(values, json_output)


@main.command()
@click.argument("index", type=existing_path)
@_queries
@_k
@click.option("--list-size", type=int, help="Candidates kept during the walk. [default: stored in the index]")
@click.option("--filter", "condition", metavar="TEXT", help="Only vectors whose payloads match, as 'year > 1990'.")
@click.option("--exact", is_flag=True, help="Compare with every vector instead of walking the graph.")
@_threads
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write .npy (ids) or .ndjson instead.")
@json_option
def search(
    index: Path,
    queries: str,
    k: int,
    list_size: int | None,
    condition: str | None,
    out: Path | None,
    json_output: bool,
    **how: Any,
) -> None:
    """Print the K nearest vectors of every query vector.

    --out FILE.npy saves the ids (uint64, queries x K); --out FILE.ndjson saves ids and scores, one query a line.
    """
    from skeg.describe import open_index
    from skeg.exchange import check_answers_path, read_rows, save_answers

    if out is not None:
        check_answers_path(out)
    if list_size is not None:
        how["search_list_size"] = list_size
    if condition is not None:
        how["filter"] = condition
    with open_index(index) as opened:
        hits = opened.search(read_rows(queries), k, **how)
    if out is not None:
        save_answers(out, hits)
        show({"out": str(out), "queries": len(hits.ids), "k": k}, json_output)
    elif json_output:
        click.echo(report.as_json({"k": k, "answers": report.answer_rows(hits)}))
    else:
        click.echo(report.table(report.hit_rows(hits)))


@main.command()
@click.argument("path", type=existing_path)
@json_option
def inspect(path: Path, json_output: bool) -> None:
    """Say what PATH (a database, an index directory or any file in one) is and holds."""
    from skeg.describe import describe

    show(describe(path), json_output)


@main.command()
@click.argument("path", type=existing_path)
@json_option
def verify(path: Path, json_output: bool) -> None:
    """Check PATH (a database, an index directory or a file in one) and exit with 1 when something is wrong.

    Checks the checksum of every section, the degree and reachability of every node, and the code of every vector.
    """
    from skeg.describe import check

    show_findings(path, check(path), json_output)


@main.command()
@click.argument("index", type=existing_path)
@_queries
@_k
@click.option(
    "--truth", type=_rows_file, metavar="FILE", help="File of the true ids (queries x K or more). [default: computed]"
)
@click.option("--list-sizes", type=_numbers, metavar="N,N,...", help="Search list sizes to measure, such as 16,32,64.")
@json_option
def evaluate(
    index: Path, queries: str, k: int, truth: str | None, list_sizes: list[int] | None, json_output: bool
) -> None:
    """Measure recall, queries per second and latency of INDEX over search list sizes."""
    from skeg.ann import Index
    from skeg.exchange import read_rows

    with Index.open(index) as opened:
        true_ids = None if truth is None else read_rows(truth)
        rows = opened.evaluate(read_rows(queries), k, truth=true_ids, list_sizes=list_sizes)
    click.echo(report.as_json({"k": k, "rows": rows}) if json_output else report.table(rows))


@main.command()
@click.argument("index", type=existing_path)
@_queries
@click.option("--recall", type=float, required=True, help="Recall at 10 to reach, between 0 and 1.")
@json_option
def tune(index: Path, queries: str, recall: float, json_output: bool) -> None:
    """Find the smallest search list size that reaches a recall, and store it in INDEX."""
    from skeg.ann import Index
    from skeg.exchange import read_rows

    with Index.open(index) as opened:
        list_size = opened.tune(read_rows(queries), recall=recall)
    show({"index": str(index), "recall": recall, "search_list_size": list_size}, json_output)


@main.command()
@json_option
def warmup(json_output: bool) -> None:
    """Compile every kernel into the cache, so that the first search of a new process starts at once."""
    from skeg.warmup import warm_up

    with report.progress_bar() as progress:
        values = warm_up(progress=progress)
    show(values, json_output)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path), required=False)
@json_option
def demo(folder: Path | None, json_output: bool) -> None:
    """Index the bundled text embeddings, answer questions in words, show recall and speed.

    The index is kept when FOLDER, the directory to make for it, is given.
    """
    from skeg.demo import run

    with report.progress_bar() as progress:
        result = run(folder, progress=progress)
    click.echo(report.as_json(result) if json_output else report.demo_text(result))


for _command in (add, delete, consolidate, kv, serve, ping, info, cli):
    main.add_command(_command)
