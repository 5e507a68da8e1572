"""Tables, sizes and the progress bar of the command line."""

from __future__ import annotations

import contextlib
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest

from skeg import report


class Terminal(io.StringIO):
    def isatty(self):
        return True


def step(stage="graph", done=25, total=100, elapsed_s=1.0, remaining_s=3.0):
    return SimpleNamespace(stage=stage, done=done, total=total, elapsed_s=elapsed_s, remaining_s=remaining_s)


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536 * 1024, "1.5 MiB"),
        (2**40, "1.0 TiB"),
        (2**52, "4,096.0 TiB"),
    ],
)
def test_bytes_are_shown_in_binary_units(n_bytes, text):
    assert text == report.bytes_text(n_bytes)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (59.9, "59.9 s"), (200, "3 min 20 s"), (3599.9, "1 h 00 min"), (7500, "2 h 05 min")],
)
def test_durations_are_shown_in_two_units_at_most(seconds, text):
    assert text == report.duration_text(seconds)


def test_json_takes_numpy_values_and_paths(tmp_path):
    values = {"n": np.uint64(2**64 - 1), "x": np.float32(0.5), "ids": np.arange(3), "path": tmp_path}
    assert {"n": 2**64 - 1, "x": 0.5, "ids": [0, 1, 2], "path": str(tmp_path)} == json.loads(report.as_json(values))


def test_table_aligns_numbers_right_and_text_left():
    rows = [{"name": "a", "n_rows": 1234567}, {"name": "long", "n_rows": 0.12345}]
    assert ["name     n rows", "a     1,234,567", "long     0.1235"] == report.table(rows).splitlines()
    assert report.table([]) == "(nothing)"


def test_measured_columns_have_decimals_of_their_own():
    rows = [{"recall": r, "queries_per_second": q, "latency_ms_p50": 0.01239} for r, q in ((1.0, 12345.6), (0.95, 7))]
    lines = ["recall  queries per second  latency ms p50", "1.0000              12,346           0.012"]
    assert [*lines, "0.9500                   7           0.012"] == report.table(rows).splitlines()


def test_facts_nest_and_spell_out_bytes():
    values = {"dim": 3, "index_bytes": 2048, "build": {"seed": 0, "alpha": None}, "files": [{"name": "a", "bytes": 1}]}
    expected = ["dim: 3", "index bytes: 2.0 KiB (2,048 bytes)", "build:", "  seed: 0", "  alpha: None", "files:"]
    assert [*expected, "  name  bytes", "  a         1"] == report.facts(values).splitlines()


def test_padding_of_short_answers_is_not_shown():
    hits = SimpleNamespace(
        ids=np.array([[7, 2**64 - 1]], dtype=np.uint64),
        scores=np.array([[0.5, -np.inf]], np.float32),
        counts=np.array([1]),
    )
    assert [{"query": 0, "ids": [7], "scores": [0.5]}] == report.answer_rows(hits)
    assert [1] == [row["rank"] for row in report.hit_rows(hits)]


@pytest.mark.parametrize(
    ("done", "total", "share"),
    [(0, 100, "  0%"), (25, 100, " 25%"), (100, 100, "100%"), (7, 0, "  0%"), (9, 3, "100%")],
)
def test_progress_line_names_stage_share_and_time_left(done, total, share):
    line = report.progress_line(step(done=done, total=total))
    assert line.startswith("graph ")
    assert share in line
    assert line.endswith("1.0 s, 3.0 s left")
    assert "left" not in report.progress_line(step(remaining_s=None))


def test_progress_is_off_when_stderr_is_not_a_terminal():
    stream = io.StringIO()
    with report.progress_bar(stream) as callback:
        assert callback is None
    assert stream.getvalue() == ""


def test_plain_bar_redraws_seldom_and_leaves_an_empty_line(monkeypatch):
    monkeypatch.setattr(report.importlib.util, "find_spec", lambda _: None)
    stream = Terminal()
    with report.progress_bar(stream) as callback:
        for elapsed_s in (0.0, 0.01, 0.02, 0.5):
            callback(step(elapsed_s=elapsed_s))
        callback(step(stage="verify", elapsed_s=0.51))
    drawn = stream.getvalue().split("\r\x1b[2K")
    assert ["", "graph", "graph", "verify", ""] == [line.split(" ")[0] for line in drawn]


def test_bar_is_cleared_when_the_work_fails(monkeypatch):
    monkeypatch.setattr(report.importlib.util, "find_spec", lambda _: None)
    stream = Terminal()
    with contextlib.suppress(KeyboardInterrupt), report.progress_bar(stream) as callback:
        callback(step())
        raise KeyboardInterrupt
    assert stream.getvalue().endswith("\r\x1b[2K")


def test_rich_draws_when_it_is_installed(capsys):
    with report.progress_bar(Terminal()) as callback:
        callback(step())
        callback(step(stage="verify", done=1, total=0, remaining_s=None))
    assert capsys.readouterr().out == ""
