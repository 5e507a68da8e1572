"""What the command line shows: tables, sizes, a progress bar, saved answers. Nothing here computes or prints.

Results go to stdout, so that they can be piped; progress goes to stderr and only when that is a terminal.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skeg.ann import Hits, Progress

_BAR_WIDTH = 30
_LINE_WIDTH = 100
_REDRAW_EVERY_S = 0.1

# Measured columns, so that their numbers line up.
_DECIMALS = {"recall": 4, "queries_per_second": 0, "latency_ms_p50": 3, "latency_ms_p99": 3}


def as_json(value: Any) -> str:
    """One JSON object; numpy scalars and arrays become numbers and lists, paths become text."""
    return json.dumps(value, ensure_ascii=False, default=_plain)


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def bytes_text(n_bytes: float) -> str:
    """Size in bytes in the unit that leaves one to three digits before the point: `1.5 MiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if n_bytes < 1024:
            return f"{n_bytes:.0f} B" if unit == "B" else f"{n_bytes:,.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:,.1f} TiB"


def duration_text(seconds: float) -> str:
    """Duration as `4.2 s`, `3 min 20 s` or `2 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def cell_text(value: Any, name: str = "") -> str:
    """One table cell: thousands separators; the decimals of its column, else up to four significant digits."""
    if value is None:
        return "-"
    if isinstance(value, bool | str):
        return str(value)
    if name in _DECIMALS:
        return f"{value:,.{_DECIMALS[name]}f}"
    if float(value) == int(value):
        return f"{int(value):,}"
    return f"{value:,.1f}" if abs(value) >= 1000 else f"{value:.4g}"


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of one shape as aligned text, the keys as heads (underscores become spaces)."""
    if not rows:
        return "(nothing)"
    cells = [[name.replace("_", " ") for name in rows[0]], *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in cells) for i in range(len(cells[0]))]
    numeric = [not isinstance(value, str) for value in rows[0].values()]
    return "\n".join(
        "  ".join(
            text.rjust(w) if n else text.ljust(w) for text, w, n in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in cells
    )


def _cells(row: Mapping[str, Any]) -> list[str]:
    return [cell_text(value, name) for name, value in row.items()]


def facts(values: Mapping[str, Any], indent: int = 0) -> str:
    """Names and values, one a line; nested mappings are indented, byte counts are spelled out."""
    lines = []
    for name, value in values.items():
        head = " " * indent + name.replace("_", " ")
        if isinstance(value, Mapping):
            lines.append(f"{head}:")
            lines.append(facts(value, indent + 2))
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            lines.append(f"{head}:")
            lines += [" " * (indent + 2) + line for line in table(value).splitlines()]
        elif isinstance(value, int) and not isinstance(value, bool) and (name == "bytes" or name.endswith("_bytes")):
            lines.append(f"{head}: {bytes_text(value)} ({value:,} bytes)")
        else:
            lines.append(f"{head}: {cell_text(value) if isinstance(value, int | float) else value}")
    return "\n".join(line for line in lines if line)


def answer_rows(hits: Hits) -> list[dict[str, Any]]:
    """One mapping per query: its number, the ids found and their scores, best first, without padding."""
    return [
        {"query": i, "ids": ids[:count].tolist(), "scores": scores[:count].tolist()}
        for i, (ids, scores, count) in enumerate(zip(hits.ids, hits.scores, hits.counts, strict=True))
    ]


def hit_rows(hits: Hits) -> list[dict[str, Any]]:
    """One mapping per hit: query number, rank from 1, id as text (no thousands separators), score."""
    return [
        {"query": row["query"], "rank": rank, "id": f"{vector_id:>20}", "score": f"{score:.6f}"}
        for row in answer_rows(hits)
        for rank, (vector_id, score) in enumerate(zip(row["ids"], row["scores"], strict=True), 1)
    ]


def demo_text(result: Mapping[str, Any]) -> str:
    """What `skeg.demo.run` returns, for a reader."""
    size = f"{result['n_vectors']:,} WordNet definitions x {result['dim']} dimensions"
    settings = f"{result['metric']}, {result['kind']}"
    ready_s, built_s = duration_text(result["kernels_ready_s"]), duration_text(result["build_s"])
    lines = [
        f"skeg {result['version']}, {result['kernels']} kernels",
        f"kernels ready in {ready_s} (compiled once, kept in {result['kernel_cache']})",
        f"index of {size} ({settings}) built in {built_s}, {bytes_text(result['index_bytes'])} on disk",
    ]
    if result["index"] is not None:
        lines.append(f"kept in {result['index']}")
    lines += ["", "Sentences, and the definitions nearest to them in meaning (cosine similarity, words, definition):"]
    for question in result["questions"]:
        lines += ["", f'"{question["question"]}"']
        lines += [_answer(**answer) for answer in question["answers"]]
    lines += [
        "",
        f"{result['n_queries']:,} such sentences, one a call, one thread; recall at 10 against exact search:",
        table(result["rows"]),
        f"exact search: {result['exact_queries_per_second']:,.0f} queries per second",
    ]
    return "\n".join(lines)


def _answer(score: float, words: str, definition: str) -> str:
    return textwrap.fill(
        f"{score:.3f}  {words}: {definition}", _LINE_WIDTH, initial_indent="  ", subsequent_indent=" " * 9
    )


@contextlib.contextmanager
def progress_bar(stream: IO[str] | None = None) -> Iterator[Callable[[Progress], None] | None]:
    """Progress callback that draws on a terminal, and None when `stream` (stderr) is not one.

    Draws with rich when it is installed (extra `cli`), else one plain line. Leaves nothing behind.
    """
    stream = sys.stderr if stream is None else stream
    if not stream.isatty():
        yield None
        return
    if importlib.util.find_spec("rich") is not None:
        with _rich_bar() as callback:
            yield callback
        return
    bar = _PlainBar(stream)
    try:
        yield bar
    finally:
        bar.clear()


class _PlainBar:
    """One line on a terminal, redrawn in place a few times a second."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._drawn = ("", 0.0)

    def __call__(self, progress: Progress) -> None:
        stage, elapsed_s = self._drawn
        if stage == progress.stage and 0 <= progress.elapsed_s - elapsed_s < _REDRAW_EVERY_S:
            return
        self._drawn = (progress.stage, progress.elapsed_s)
        self._stream.write(f"\r\x1b[2K{progress_line(progress)}")
        self._stream.flush()

    def clear(self) -> None:
        self._stream.write("\r\x1b[2K")
        self._stream.flush()


def progress_line(progress: Progress) -> str:
    """`graph  [######........]  43 %  3.1 s, 4.2 s left` for one progress report."""
    share = min(1.0, progress.done / progress.total) if progress.total else 0.0
    filled = round(_BAR_WIDTH * share)
    left = "" if progress.remaining_s is None else f", {duration_text(progress.remaining_s)} left"
    bar = "#" * filled + "." * (_BAR_WIDTH - filled)
    return f"{progress.stage:<10} [{bar}] {share:4.0%}  {duration_text(progress.elapsed_s)}{left}"


@contextlib.contextmanager
def _rich_bar() -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[times]}"),
    )
    with RichProgress(*columns, console=Console(stderr=True), transient=True) as display:
        task = display.add_task("", total=None, times="")

        def show(progress: Progress) -> None:
            left = "" if progress.remaining_s is None else f", {duration_text(progress.remaining_s)} left"
            times = f"{duration_text(progress.elapsed_s)}{left}"
            display.update(
                task, description=progress.stage, completed=progress.done, total=progress.total or None, times=times
            )

        yield show
