"""Threads that share out numbered pieces of work."""

from __future__ import annotations

import threading
import time

import pytest

from skeg.ann.parallel import Workers, available_cpus, spans, thread_count
from skeg.errors import ParameterError


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("n_pieces", [0, 1, 2, 50])
def test_every_piece_is_done_once(threads, n_pieces):
    done = []
    with Workers(threads) as workers:
        workers.run(n_pieces, lambda piece, worker: done.append((piece, worker)))
    assert list(range(n_pieces)) == sorted(piece for piece, _ in done)
    assert {worker for _, worker in done} <= set(range(threads))


def test_a_worker_number_is_never_in_use_twice_at_a_time():
    """Scratch memory is kept by worker number."""
    busy, clashes = set(), []

    def work(piece, worker):
        if worker in busy:
            clashes.append(piece)
        busy.add(worker)
        time.sleep(0.001)
        busy.discard(worker)

    with Workers(3) as workers:
        workers.run(60, work)
    assert [] == clashes


def test_pieces_run_at_the_same_time_on_several_threads():
    meeting = threading.Barrier(3)
    with Workers(3) as workers:
        workers.run(3, lambda *_: meeting.wait(timeout=20))
    assert not meeting.broken


def test_one_thread_works_on_the_calling_thread_in_order():
    seen = []
    with Workers(1) as workers:
        workers.run(4, lambda piece, worker: seen.append((piece, worker, threading.current_thread())))
    assert [(piece, 0, threading.current_thread()) for piece in range(4)] == seen


@pytest.mark.parametrize("threads", [1, 3])
def test_the_first_error_is_raised_and_stops_the_handing_out(threads):
    started = []

    def work(piece, worker):
        started.append(piece)
        if piece == 4:
            raise ValueError("piece 4")

    with Workers(threads) as workers:
        with pytest.raises(ValueError, match="piece 4"):
            workers.run(10_000, work)
        assert len(started) < 10_000
        after = []
        workers.run(3, lambda piece, _: after.append(piece))
    assert [0, 1, 2] == sorted(after)


@pytest.mark.parametrize("threads", [1, 3])
def test_an_interrupt_on_the_calling_thread_stops_the_work_and_waits_for_pieces_under_way(threads):
    started, ended = [], []

    def work(piece, worker):
        started.append(piece)
        time.sleep(0.002)
        ended.append(piece)

    def interrupt():
        raise KeyboardInterrupt

    with Workers(threads) as workers:
        with pytest.raises(KeyboardInterrupt):
            workers.run(10_000, work, interrupt)
        assert len(started) < 10_000
        assert sorted(started) == sorted(ended)


@pytest.mark.parametrize("threads", [1, 2])
def test_done_is_called_on_the_calling_thread_and_after_the_last_piece(threads):
    finished, calls = [], []

    def done():
        calls.append((threading.current_thread(), len(finished)))

    with Workers(threads) as workers:
        workers.run(5, lambda piece, _: finished.append(piece), done)
    assert {threading.current_thread()} == {thread for thread, _ in calls}
    assert 5 == calls[-1][1]


def test_thread_count_is_what_was_asked_for_or_one_a_processor():
    assert 3 == thread_count(3)
    assert available_cpus() == thread_count(None) >= 1


@pytest.mark.parametrize("bad", [0, -1, 1025, 1.5, "2", True])
def test_a_thread_count_that_makes_no_sense_is_refused(bad):
    with pytest.raises(ParameterError, match="threads"):
        thread_count(bad)


def test_spans_cover_everything_once():
    assert [] == spans(0, 4)
    assert [(0, 3)] == spans(3, 4)
    assert [(0, 4), (4, 8), (8, 9)] == spans(9, 4)
