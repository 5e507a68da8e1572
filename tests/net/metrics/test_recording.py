"""Counts of processes: exact, in buckets that include their bounds, summed over the rows that processes share."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections import Counter

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skeg.net.metrics import Metrics, ProcessState
from skeg.net.metrics.state import FIELDS, GAUGES

OPERATIONS = ["get", "set", "mget"]


def state(**values):
    return ProcessState(**(dict.fromkeys(FIELDS, 0) | values))


def bucket_twin(nanoseconds):
    """The first of 25 bounds that is not below, else the last bucket."""
    return next((i for i in range(25) if nanoseconds <= 2**i * 1000), 25)


# Durations


@pytest.mark.parametrize(
    ("nanoseconds", "bucket"),
    [
        (0, 0), (1, 0), (1000, 0), (1001, 1), (2000, 1), (2001, 2), (4000, 2), (2**24 * 1000, 24),
        (2**24 * 1000 + 1, 25), (2**50, 25),
    ],
)  # fmt: skip
def test_bounds_belong_to_their_buckets(nanoseconds, bucket):
    metrics = Metrics(OPERATIONS)
    metrics.observe(1, nanoseconds / 1e9)
    assert bucket_twin(nanoseconds) == bucket
    assert [int(i == bucket) for i in range(26)] == metrics.durations(1).counts


@given(durations=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2**36)), max_size=20))
def test_histograms_are_those_of_the_naive_twin(durations):
    metrics = Metrics(OPERATIONS)
    for operation, nanoseconds in durations:
        metrics.observe(operation, nanoseconds / 1e9)
    for operation in range(3):
        seen = [int(nanoseconds / 1e9 * 1e9) for number, nanoseconds in durations if number == operation]
        counts = Counter(map(bucket_twin, seen))
        assert ([counts[i] for i in range(26)], sum(seen)) == metrics.durations(operation)
    assert len(durations) == metrics.total()


@given(operations=st.lists(st.integers(0, 2), min_size=1, max_size=9))
def test_many_requests_are_counted_like_one_after_another(operations):
    together, single = Metrics(OPERATIONS), Metrics(OPERATIONS)
    together.answered(operations, time.perf_counter() - 100)
    for operation in operations:
        single.observe(operation, 100)
    for operation in range(3):
        counts, total = together.durations(operation)
        assert (counts, total // 10**11) == (single.durations(operation).counts, operations.count(operation))


def test_no_requests_are_counted_as_none():
    metrics = Metrics(OPERATIONS)
    metrics.answered([], time.perf_counter())
    assert not metrics.total()


def test_errors_belong_to_operations_and_are_no_requests():
    metrics = Metrics(OPERATIONS)
    metrics.error(1)
    metrics.error(1)
    metrics.error(2)
    assert [0, 2, 1] == [metrics.errors(operation) for operation in range(3)]
    assert 0 == metrics.total()


# Batches and passwords


def test_sizes_of_batches_from_many_threads():
    metrics = Metrics(OPERATIONS)

    def work():
        for size in (1, 2, 3, 4, 5, 64, 65):
            for _ in range(200):
                metrics.batch_size(size)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ([800, 800, 1600, 800, 0, 0, 800, 800], 800 * 144) == metrics.batch_sizes()


def test_wrong_passwords():
    metrics = Metrics(OPERATIONS)
    metrics.auth_failure()
    metrics.auth_failure()
    assert 2 == metrics.auth_failures()


# What processes know of themselves


def test_what_is_published_replaces_what_was():
    metrics = Metrics(OPERATIONS)
    assert state() == metrics.published()
    for values in (dict.fromkeys(FIELDS, 5), dict(zip(FIELDS, range(10, 30), strict=False))):
        metrics.publish(state(**values))
        assert state(**values) == metrics.published()


def test_rows_are_summed():
    rows = Metrics.shared_rows(OPERATIONS, 3)
    processes = [Metrics(OPERATIONS, rows, number) for number in range(3)]
    for number, metrics in enumerate(processes):
        metrics.observe(0, 1e-6, number + 1)
        metrics.error(0)
        metrics.batch_size(2)
        metrics.auth_failure()
        metrics.publish(state(connections=number, input_bytes=10 * number))
    for metrics in processes:
        assert 6 == metrics.total()
        assert ([6] + [0] * 25, 6000) == metrics.durations(0)
        assert (3, 3) == (metrics.errors(0), metrics.auth_failures())
        assert ([0, 3] + [0] * 6, 6) == metrics.batch_sizes()
        assert state(connections=3, input_bytes=30) == metrics.published()


def test_slots_do_not_overlap():
    """Whatever is counted shows up once."""
    count = {
        "durations": lambda metrics: metrics.observe(2, 100.0),
        "errors": lambda metrics: metrics.error(2),
        "batches": lambda metrics: metrics.batch_size(1000),
        "failures": Metrics.auth_failure,
        "published": lambda metrics: metrics.publish(state(connections=1)),
    }
    for name, act in count.items():
        metrics = Metrics(OPERATIONS)
        act(metrics)
        seen = {
            "durations": metrics.total(),
            "errors": sum(map(metrics.errors, range(3))),
            "batches": sum(metrics.batch_sizes().counts),
            "failures": metrics.auth_failures(),
            "published": sum(attrs.astuple(metrics.published())),
        }
        assert {other: int(other == name) for other in count} == seen


def test_a_process_that_takes_the_place_of_another_continues_its_counts_and_forgets_its_gauges():
    rows = Metrics.shared_rows(OPERATIONS, 2)
    first = Metrics(OPERATIONS, rows, 1)
    first.observe(0, 1e-6)
    first.publish(state(**dict.fromkeys(FIELDS, 7)))
    second = Metrics(OPERATIONS, rows, 1)
    assert 1 == second.total()
    assert state(**{name: 0 if name in GAUGES else 7 for name in FIELDS}) == second.published()
    second.publish(state(**dict.fromkeys(FIELDS, 2)))
    second.publish(state(**dict.fromkeys(FIELDS, 3)))
    assert state(**{name: 3 if name in GAUGES else 10 for name in FIELDS}) == second.published()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # newer Pythons warn of forks where threads are
def test_forked_processes_count_in_rows_that_all_see():
    rows = Metrics.shared_rows(OPERATIONS, 2)
    context = multiprocessing.get_context("fork")

    def work(number):
        metrics = Metrics(OPERATIONS, rows, number)
        for _ in range(1000):
            metrics.observe(number, 1e-3)

    processes = [context.Process(target=work, args=(number,)) for number in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    metrics = Metrics(OPERATIONS, rows, 0)
    assert [1000, 1000, 0] == [sum(metrics.durations(operation).counts) for operation in range(3)]


def test_rows_begin_with_zeros():
    rows = Metrics.shared_rows(OPERATIONS, 2)
    assert (np.int64, 2, 0) == (rows.dtype, len(rows), rows.any())
