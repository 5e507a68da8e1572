"""Metrics and health over HTTP: whole responses to whole requests, and to nothing else."""

from __future__ import annotations

import pytest

from skeg.net.http import HEAD_BYTES_MAX, respond

HOST = b"Host: localhost\r\n\r\n"


def ask(request, *, live=True, ready=True):
    return respond(request, lambda: "metrics é\n", lambda: live, lambda: (ready, "starting" if not ready else "ready"))


def get(target, **state):
    """Status, body and headers of a response to GET."""
    head, body = ask(b"GET " + target + b" HTTP/1.1\r\n" + HOST, **state).split(b"\r\n\r\n", 1)
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    assert str(len(body)) == headers["Content-Length"]
    assert "close" == headers["Connection"]
    return int(first.split(" ")[1]), body.decode(), headers


def test_a_response_byte_for_byte():
    expected = (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\nContent-Length: 11\r\n"
        b"Cache-Control: no-store\r\nConnection: close\r\n\r\nmetrics \xc3\xa9\n"
    )
    assert expected == ask(b"GET /metrics HTTP/1.1\r\n" + HOST)
    assert expected[:-11] == ask(b"HEAD /metrics HTTP/1.1\r\n" + HOST)


@pytest.mark.parametrize(
    ("target", "status", "body"),
    [
        (b"/metrics", 200, "metrics é\n"), (b"/metrics?name=x&name=y", 200, "metrics é\n"), (b"/livez", 200, "live\n"),
        (b"/readyz", 200, "ready\n"), (b"/readyz?", 200, "ready\n"), (b"/metrics/", 404, "404\n"),
        (b"/x", 404, "404\n"), (b"*", 404, "404\n"), (b"/../metrics", 404, "404\n"), (b"/%6detrics", 404, "404\n"),
    ],
)  # fmt: skip
def test_paths(target, status, body):
    assert (status, body) == get(target)[:2]


def test_the_page_links_to_the_others():
    status, body, headers = get(b"/")
    assert (200, "text/html; charset=utf-8") == (status, headers["Content-Type"])
    assert all(f'href="{path}"' in body for path in ("/metrics", "/livez", "/readyz"))


def test_health_is_told_by_the_status():
    assert (503, "not live\n") == get(b"/livez", live=False)[:2]
    assert (503, "starting\n") == get(b"/readyz", ready=False)[:2]
    assert 200 == get(b"/livez", ready=False)[0]


@pytest.mark.parametrize("method", [b"POST", b"PUT", b"DELETE", b"OPTIONS", b"get"])
def test_other_methods_are_refused(method):
    response = ask(method + b" /metrics HTTP/1.1\r\n" + HOST)
    assert response.startswith(b"HTTP/1.1 405 Method Not Allowed\r\n")
    assert b"\r\nAllow: GET, HEAD\r\n" in response


@pytest.mark.parametrize(
    "request_",
    [b"GET /metrics\r\n\r\n", b"*1\r\n\r\n", b"\r\n\r\n", b"GET  /metrics HTTP/1.1\r\n\r\n", b"GET / HTTP/2\r\n\r\n"],
)
def test_what_is_no_request_is_refused(request_):
    assert ask(request_).startswith(b"HTTP/1.1 400 Bad Request\r\n")


def test_nothing_is_said_before_the_head_is_whole():
    request = b"GET /livez HTTP/1.0\r\nHost: x\r\n\r\n"
    assert [None] * len(request) == [ask(request[:count]) for count in range(len(request))]
    assert ask(request).startswith(b"HTTP/1.1 200 OK\r\n")


def test_lines_may_end_without_carriage_return():
    assert ask(b"GET /livez HTTP/1.1\nHost: x\n\n").startswith(b"HTTP/1.1 200 OK\r\n")


def test_what_follows_the_head_is_ignored():
    assert ask(b"GET /livez HTTP/1.1\r\n" + HOST + b"x" * 10_000).startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_head_is_limited():
    start = b"GET /livez HTTP/1.1\r\nX: "
    fitting = start + b"x" * (HEAD_BYTES_MAX - len(start) - 4) + b"\r\n\r\n"
    too_large = b"HTTP/1.1 431 Request Header Fields Too Large\r\n"
    assert ask(fitting).startswith(b"HTTP/1.1 200 OK\r\n")
    assert ask(start + fitting).startswith(too_large)
    assert ask(fitting[:-1]) is None
    assert ask(b"x" * HEAD_BYTES_MAX) is None
    assert ask(b"x" * (HEAD_BYTES_MAX + 1)).startswith(too_large)
