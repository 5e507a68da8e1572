"""The text of metrics: the old half line by line, the new half by its samples, all of it readable by Prometheus."""

from __future__ import annotations

import platform
import re

import skeg
from skeg.net.metrics import IndexState, Metrics, ProcessState, State, render
from skeg.net.metrics.state import FIELDS

KEPT = ["get", "set", "del", "vset", "vsearch", "vdel", "ping"]

SAMPLE = re.compile(
    r'([a-z_]+)((?:\{[a-z]+="(?:[^"\\\n]|\\[\\"n])*"(?:,[a-z]+="(?:[^"\\\n]|\\[\\"n])*")*\})?) ([0-9.]+)'
)

STATE = State(
    is_ready=True, started=1234.5, segments=1, segments_compacting=2, live_bytes=3, log_bytes=4, compactions_running=5,
    vectors_bytes=6, indexes=[IndexState("a", 3, 100), IndexState('o"d\\d\n', 0, 1)],
)  # fmt: skip


def recorded():
    """Metrics in which something has been counted, with the numbers 1, 2, 3... in what is published."""
    metrics = Metrics([*KEPT, "mget", "hello"])
    metrics.observe(0, 5e-6)
    metrics.observe(0, 2e-6)
    metrics.observe(7, 100.0)
    metrics.error(7)
    metrics.batch_size(3)
    metrics.auth_failure()
    metrics.publish(ProcessState(**{name: number for number, name in enumerate(FIELDS, 1)}))
    return metrics


def samples(text):
    found = {}
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, labels, value = SAMPLE.fullmatch(line).groups()
            assert name + labels not in found
            found[name + labels] = value
    return found


def histogram_lines(operation, cumulated, total):
    bounds = [f"{2**i // 10**6}.{2**i % 10**6:06d}" for i in range(25)] + ["+Inf"]
    name = "skeg_op_duration_seconds"
    return [
        *(f'{name}_bucket{{op="{operation}",le="{le}"}} {count}' for le, count in zip(bounds, cumulated, strict=True)),
        f'{name}_count{{op="{operation}"}} {cumulated[-1]}',
        f'{name}_sum{{op="{operation}"}} {total}',
    ]


def test_the_first_half_line_by_line():
    expected = [
        "# HELP skeg_ops_total Total number of operations served.",
        "# TYPE skeg_ops_total counter",
        'skeg_ops_total{op="get"} 2',
        *(f'skeg_ops_total{{op="{name}"}} 0' for name in KEPT[1:]),
        'skeg_ops_total{op="mget"} 1',
        'skeg_ops_total{op="hello"} 0',
        "",
        "# HELP skeg_op_duration_seconds Operation duration in seconds.",
        "# TYPE skeg_op_duration_seconds histogram",
        *histogram_lines("get", [0, 1, 1, *[2] * 23], "0.000007"),
        *(line for name in KEPT[1:] for line in histogram_lines(name, [0] * 26, "0")),
        *histogram_lines("mget", [0] * 25 + [1], "100"),
        "",
        "# TYPE skeg_cache_hits_total counter",
        "skeg_cache_hits_total 9",
        "# TYPE skeg_cache_misses_total counter",
        "skeg_cache_misses_total 10",
        "# TYPE skeg_cache_evictions_total counter",
        "skeg_cache_evictions_total 11",
        "# TYPE skeg_compaction_runs_total counter",
        "skeg_compaction_runs_total 12",
        "# TYPE skeg_compaction_bytes_total counter",
        "skeg_compaction_bytes_total 13",
        "# TYPE skeg_vlog_syncs_total counter",
        "skeg_vlog_syncs_total 14",
        "# TYPE skeg_vlog_group_commit_batches_total counter",
        "skeg_vlog_group_commit_batches_total 15",
        "",
        "# TYPE skeg_vlog_segments_live gauge",
        "skeg_vlog_segments_live 1",
        "# TYPE skeg_vlog_segments_compacting gauge",
        "skeg_vlog_segments_compacting 2",
        "# TYPE skeg_vlog_live_bytes gauge",
        "skeg_vlog_live_bytes 3",
        "# TYPE skeg_vlog_total_bytes gauge",
        "skeg_vlog_total_bytes 4",
        "# TYPE skeg_compaction_in_progress gauge",
        "skeg_compaction_in_progress 5",
        "# TYPE skeg_vindex_size_bytes gauge",
        "skeg_vindex_size_bytes 6",
        "# TYPE skeg_vindex_vectors gauge",
        "skeg_vindex_vectors 101",
        "",
    ]
    assert expected == render(recorded(), STATE).split("\n")[: len(expected)]


def test_samples_of_the_second_half():
    text = render(recorded(), STATE)
    found = samples(text[text.index("# HELP skeg_build_info") :])
    batches = dict(zip(["1", "2", "4", "8", "16", "32", "64", "+Inf"], [0, 0, 1, 1, 1, 1, 1, 1], strict=True))
    expected = {
        f'skeg_build_info{{version="{skeg.__version__}",python="{platform.python_version()}"}}': "1",
        "skeg_ready": "1",
        "skeg_connections": "1",
        "skeg_connections_total": "5",
        "skeg_connections_rejected_total": "6",
        **{f'skeg_errors_total{{op="{name}"}}': "0" for name in KEPT},
        'skeg_errors_total{op="mget"}': "1",
        'skeg_errors_total{op="hello"}': "0",
        'skeg_index_generation{index="a"}': "3",
        'skeg_index_generation{index="o\\"d\\\\d\\n"}': "0",
        'skeg_index_vectors{index="a"}': "100",
        'skeg_index_vectors{index="o\\"d\\\\d\\n"}': "1",
        'skeg_queue_depth{queue="searches"}': "2",
        'skeg_queue_depth{queue="changes"}': "3",
        **{f'skeg_search_batch_size_bucket{{le="{le}"}}': str(count) for le, count in batches.items()},
        "skeg_search_batch_size_count": "1",
        "skeg_search_batch_size_sum": "3",
        "skeg_input_bytes_total": "7",
        "skeg_output_bytes_total": "8",
        "skeg_auth_failures_total": "1",
        "process_resident_memory_bytes": "4",
        "process_start_time_seconds": "1234.5",
    }
    assert [*expected.items()] == [*found.items()]


def test_every_sample_belongs_to_a_type_that_was_announced_once():
    kinds = {}
    for line in render(recorded(), STATE).splitlines():
        if line.startswith("# TYPE"):
            _, _, name, kind = line.split(" ")
            assert name not in kinds
            kinds[name] = kind
        elif line and not line.startswith("#"):
            name = re.match(r"[a-z_]+", line).group()
            family = name if name in kinds else name.rsplit("_", 1)[0]
            assert family == [*kinds][-1]
            assert (family != name) == (kinds[family] == "histogram")
            assert (kinds[family] == "counter") == name.endswith("_total")


def test_small_sums_have_no_exponent():
    metrics = Metrics(KEPT)
    metrics.observe(0, 4e-9)
    assert 'skeg_op_duration_seconds_sum{op="get"} 0.000000004\n' in render(metrics, STATE)


def test_a_text_ends_with_a_line():
    text = render(Metrics(KEPT), STATE)
    assert text.endswith("\n")
    assert not text.endswith("\n\n")
