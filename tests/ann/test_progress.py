"""Progress reports: not too many, never past the end, with an estimate that can be believed."""

from __future__ import annotations

import pytest

from skeg.ann import Progress, progress
from skeg.ann.progress import REPORT_EVERY_S, SHARES, Reporter


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests move by hand."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_the_shares_of_the_stages_are_all_of_a_build():
    assert 1.0 == pytest.approx(sum(SHARES.values()))


def test_without_a_callback_nothing_happens():
    report = Reporter(None).stage("graph", 10)
    assert report(5) is None


def test_a_stage_reports_its_begin_and_its_end_and_little_in_between(clock):
    reports = []
    report = Reporter(reports.append).stage("graph", 1000)
    for done in range(1, 1001):
        clock[0] += REPORT_EVERY_S / 100
        report(done)
    assert [0, *range(100, 1001, 100)] == pytest.approx([r.done for r in reports], abs=2)
    assert {("graph", 1000)} == {(r.stage, r.total) for r in reports}
    assert 1000 == reports[-1].done


@pytest.mark.parametrize("step_s", [0, REPORT_EVERY_S / 10])
def test_a_stage_of_unknown_length_reports_no_more_often(clock, step_s):
    reports = []
    report = Reporter(reports.append).stage("read", 0)
    for done in range(1, 101):
        clock[0] += step_s
        report(done)
    assert len(reports) <= 1 + 100 * step_s / REPORT_EVERY_S + 1
    assert all(r.done == r.total for r in reports)


def test_nobody_guesses_before_there_is_something_to_go_by(clock):
    reports = []
    reporter = Reporter(reports.append)
    reporter.stage("read", 10)
    clock[0] += REPORT_EVERY_S / 2
    reporter.stage("sample", 10)
    assert [Progress("read", 0, 10, 0.0, None), Progress("sample", 0, 10, REPORT_EVERY_S / 2, None)] == [
        reports[0],
        Progress(**{**as_dict(reports[1]), "elapsed_s": round(reports[1].elapsed_s, 9)}),
    ]


def as_dict(report):
    return {name: getattr(report, name) for name in ("stage", "done", "total", "elapsed_s", "remaining_s")}


def test_the_estimate_is_right_when_stages_take_their_shares(clock):
    """A build of 100 seconds in all."""
    reports = []
    reporter = Reporter(reports.append)
    for stage, share in SHARES.items():
        report = reporter.stage(stage, 50)
        for done in range(1, 51):
            clock[0] += 100 * share / 50
            report(done)
    guesses = [r for r in reports if r.remaining_s is not None]
    assert len(guesses) > 200
    for r in guesses:
        assert 100 - r.elapsed_s == pytest.approx(r.remaining_s, abs=1e-6)
    assert list(SHARES) == list(dict.fromkeys(r.stage for r in reports))
