"""What a server tells of itself: metrics and health over HTTP, and its log."""

from __future__ import annotations

import contextlib
import json
import re

import pytest

from skeg.net.serve.web import WEB_MAX
from tests.net.serving import ServerProcess, ask, eventually


@pytest.fixture(scope="module")
def server(filled):
    options = ["--mode", "serve", "--log-format", "json", "--log-level", "debug"]
    with ServerProcess(filled[0], *options, metrics=True, max_clients=3) as server:
        yield server


@pytest.fixture
def alone(server):
    """The server, once it knows that those who were there before are gone."""
    eventually(lambda: figures(server)["skeg_connections"] == 0)
    return server


def figures(server):
    status, text = server.get("/metrics")
    assert 200 == status
    return {
        name: float(value)
        for name, value in (line.rsplit(" ", 1) for line in text.splitlines() if line and line[0] != "#")
    }


def test_health(server):
    assert [200, 200, 404] == [server.get(path)[0] for path in ("/livez", "/readyz", "/nothing")]


def test_who_opens_connections_for_metrics_without_end_is_refused(server):
    """Those that say nothing end by themselves; here some end sooner, and there is room again."""
    with contextlib.ExitStack() as stack:
        idle = [stack.enter_context(server.connect("metrics")) for _ in range(WEB_MAX)]
        with server.connect("metrics") as refused, contextlib.suppress(ConnectionResetError):
            assert b"" == refused.recv(1)
        for sock in idle[:3]:
            sock.close()
        eventually(lambda: is_healthy(server))


def is_healthy(server):
    with contextlib.suppress(OSError):
        return 200 == server.get("/livez")[0]


def test_counts_grow_as_clients_ask(alone, filled):
    before = figures(alone)
    with alone.client() as client, alone.binary_client() as binary:
        for n in range(7):
            client.get(f"key:{n}")
        with client.pipeline() as pipe:
            for n in range(100):
                pipe.get(f"key:{n}")
        binary.get(b"key:1")
        for n in range(3):
            client.vsearch("disk", filled[1][n])
        client.vsearch_many("flat", filled[1][:4])
        client.execute("INFO")
        during = figures(alone)
    for op, expected in (("get", 108), ("vsearch", 4), ("hello", 1), ("info", 1), ("set", 0)):
        for name in ("skeg_ops_total", "skeg_op_duration_seconds_count"):
            counted = f'{name}{{op="{op}"}}'
            assert expected == during.get(counted, 0) - before.get(counted, 0), op
    assert 2 == during["skeg_connections"] - before["skeg_connections"]
    assert 0 < during['skeg_op_duration_seconds_sum{op="get"}']
    buckets = [during[name] for name in during if name.startswith('skeg_op_duration_seconds_bucket{op="get"')]
    assert (26, sorted(buckets)) == (len(buckets), buckets)
    assert 600 == during["skeg_vindex_vectors"]


def test_metrics_are_the_same_over_resp(alone):
    with alone.client() as client:
        text = client.skeg_stats()
    names = {line.split()[0] for line in text.split("\n\n", 1)[1].splitlines() if line and line[0] != "#"}
    told = {name for name in figures(alone) if "skeg_stats" not in name}  # that is counted by asking
    assert told == {name for name in names if "skeg_stats" not in name}
    assert re.match(r"cache_bytes=\d+ evictions=\d+ n_keys=300 budget=\d+\n\n", text)


def test_the_log_is_json_line_by_line(alone):
    """With who came, who was refused, and why."""
    with alone.client(), alone.client(), alone.connect() as third, alone.connect() as fourth:
        assert b"+PONG\r\n" == ask(third, b"PING\r\n", until=7)
        assert b"-ERR max number of clients reached\r\n" == fourth.recv(100)
        peer = "{}:{}".format(*fourth.getsockname())
    alone.wait_for("too many clients")
    said = [json.loads(line) for line in [*alone.lines]]
    assert {"time", "level", "logger", "message"} <= set.intersection(*map(set, said))
    assert {"debug", "info", "warning"} >= {entry["level"] for entry in said}
    (refused,) = [entry for entry in said if "too many clients" in entry["message"]]
    assert ("warning", peer) == (refused["level"], refused["peer"])
    (ready,) = [entry for entry in said if entry["message"] == "index is ready" and entry["index"] == "disk"]
    assert (300, 16) == (ready["vectors"], ready["dim"])


def test_a_line_of_text(filled):
    """Quiet servers say what is wrong only."""
    with ServerProcess(filled[0], "--mode", "serve") as server:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z INFO    skeg\.server: ready\n", server.lines[-1])
