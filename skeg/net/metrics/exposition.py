"""Metrics as text, in the format 0.0.4 of Prometheus.

The first half has the names, the order and the layout that dashboards of the wire's first implementation read; what
has been added since comes behind that.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from skeg import __version__
from skeg.net.metrics.recording import BATCH_BOUNDS, DURATION_BOUNDS, Histogram, Metrics
from skeg.net.metrics.state import ProcessState, State

# These have histograms from the start, all others once they are used.
_KEPT = frozenset(("get", "set", "del", "vset", "vsearch", "vdel", "ping"))

_DURATIONS = [f"{2**i / 1e6:.6f}" for i in range(DURATION_BOUNDS)]
_BATCHES = [str(2**i) for i in range(BATCH_BOUNDS)]


class _Family(NamedTuple):
    """One metric: its samples are written behind its name."""

    name: str
    kind: str
    help: str
    samples: Iterable[tuple[str, float]]

    def text(self) -> str:
        lines = "".join(f"{self.name}{labels} {_number(value)}\n" for labels, value in self.samples)
        return f"# HELP {self.name} {self.help}\n# TYPE {self.name} {self.kind}\n{lines}"


def render(metrics: Metrics, state: State) -> str:
    """The text of all metrics.

    Parameters
    ----------
    metrics : Metrics
        `Metrics.publish` has just been told about this process.
    state : State
    """
    processes = metrics.published()
    blocks = [
        _operations(metrics).text(),
        _durations(metrics).text(),
        _plain("counter", _counters(processes)),
        _plain("gauge", _gauges(state)),
        "".join(family.text() for family in _added(metrics, processes, state)),
    ]
    return "\n".join(blocks)


# --- as they have always been


def _operations(metrics: Metrics) -> _Family:
    counts = [
        (_labels(op=name), sum(metrics.durations(operation).counts))
        for operation, name in enumerate(metrics.operations)
    ]
    return _Family("skeg_ops_total", "counter", "Total number of operations served.", counts)


def _durations(metrics: Metrics) -> _Family:
    samples = []
    for operation, name in enumerate(metrics.operations):
        histogram = metrics.durations(operation)
        if name in _KEPT or any(histogram.counts):
            samples += _samples(histogram, _DURATIONS, 1e9, op=name)
    return _Family("skeg_op_duration_seconds", "histogram", "Operation duration in seconds.", samples)


def _samples(histogram: Histogram, bounds: list[str], per_unit: float, **labels: str) -> list[tuple[str, float]]:
    """Count and sum stand behind the buckets."""
    samples: list[tuple[str, float]] = []
    count = 0
    for bound, in_bucket in zip([*bounds, "+Inf"], histogram.counts, strict=True):
        count += in_bucket
        samples.append((f"_bucket{_labels(**labels, le=bound)}", count))
    return [*samples, (f"_count{_labels(**labels)}", count), (f"_sum{_labels(**labels)}", histogram.total / per_unit)]


def _plain(kind: str, values: Mapping[str, int]) -> str:
    return "".join(f"# TYPE {name} {kind}\n{name} {value}\n" for name, value in values.items())


def _counters(processes: ProcessState) -> dict[str, int]:
    return {
        "skeg_cache_hits_total": processes.cache_hits,
        "skeg_cache_misses_total": processes.cache_misses,
        "skeg_cache_evictions_total": processes.cache_evictions,
        "skeg_compaction_runs_total": processes.compactions,
        "skeg_compaction_bytes_total": processes.compacted_bytes,
        "skeg_vlog_syncs_total": processes.syncs,
        "skeg_vlog_group_commit_batches_total": processes.commits,
    }


def _gauges(state: State) -> dict[str, int]:
    return {
        "skeg_vlog_segments_live": state.segments,
        "skeg_vlog_segments_compacting": state.segments_compacting,
        "skeg_vlog_live_bytes": state.live_bytes,
        "skeg_vlog_total_bytes": state.log_bytes,
        "skeg_compaction_in_progress": state.compactions_running,
        "skeg_vindex_size_bytes": state.vectors_bytes,
        "skeg_vindex_vectors": sum(index.vectors for index in state.indexes),
    }


# --- added since


def _added(metrics: Metrics, processes: ProcessState, state: State) -> list[_Family]:
    versions = _labels(version=__version__, python=platform.python_version())
    errors = [(_labels(op=name), metrics.errors(operation)) for operation, name in enumerate(metrics.operations)]
    queues = {"searches": processes.searches_waiting, "changes": processes.changes_waiting}
    batches = _samples(metrics.batch_sizes(), _BATCHES, 1)
    generations = [(_labels(index=index.name), index.generation) for index in state.indexes]
    vectors = [(_labels(index=index.name), index.vectors) for index in state.indexes]
    waiting = [(_labels(queue=name), depth) for name, depth in queues.items()]
    return [
        _Family("skeg_build_info", "gauge", "Always 1; the labels are versions.", [(versions, 1)]),
        _one("skeg_ready", "gauge", "1 while requests are taken.", int(state.is_ready)),
        _one("skeg_connections", "gauge", "Connections now.", processes.connections),
        _one("skeg_connections_total", "counter", "Connections accepted.", processes.connections_accepted),
        _one("skeg_connections_rejected_total", "counter", "Connections refused.", processes.connections_rejected),
        _Family("skeg_errors_total", "counter", "Operations that were answered with an error.", errors),
        _Family("skeg_index_generation", "gauge", "Generation of an index.", generations),
        _Family("skeg_index_vectors", "gauge", "Vectors of an index.", vectors),
        _Family("skeg_queue_depth", "gauge", "Requests that wait for a thread.", waiting),
        _Family("skeg_search_batch_size", "histogram", "Queries that were searched together.", batches),
        _one("skeg_input_bytes_total", "counter", "Bytes received.", processes.input_bytes),
        _one("skeg_output_bytes_total", "counter", "Bytes sent.", processes.output_bytes),
        _one("skeg_auth_failures_total", "counter", "Wrong passwords.", metrics.auth_failures()),
        _one("process_resident_memory_bytes", "gauge", "Resident memory of all processes.", processes.resident_bytes),
        _one("process_start_time_seconds", "gauge", "Start of the server, in seconds since 1970.", state.started),
    ]


def _one(name: str, kind: str, text: str, value: float) -> _Family:
    return _Family(name, kind, text, [("", value)])


def _labels(**labels: str) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    # Without an exponent, as ever.
    return str(value) if isinstance(value, int) else np.format_float_positional(value, trim="-")
