"""Metrics and health over HTTP/1.1, without sockets: one request, one response, and the connection is closed.

/metrics    what Prometheus reads
/livez      200 while the process does anything at all
/readyz     200 while it takes requests, else 503; the body says why
/           links to these
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

HEAD_BYTES_MAX = 8 << 10

_REASONS = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}

_METRICS_TYPE = "text/plain; version=0.0.4"
_TEXT_TYPE = "text/plain; charset=utf-8"
_HTML_TYPE = "text/html; charset=utf-8"

_PAGE = """<!doctype html>
<html><head><title>skeg</title></head>
<body>
<p><a href="/metrics">/metrics</a>, <a href="/livez">/livez</a>, <a href="/readyz">/readyz</a></p>
</body></html>
"""


class _Response(NamedTuple):
    status: int
    body: str
    content_type: str = _TEXT_TYPE


def respond(
    request_head: bytes,
    metrics: Callable[[], str],
    live: Callable[[], bool],
    ready: Callable[[], tuple[bool, str]],
) -> bytes | None:
    """The response to a request.

    Parameters
    ----------
    request_head : bytes
        What has arrived of it.
    metrics : callable
        Makes the text of the metrics.
    live : callable
        Whether the process works.
    ready : callable
        Whether it takes requests, and a word about that.

    Returns
    -------
    bytes or None
        None while the head is incomplete.
    """
    end = _end_of_head(request_head)
    if end > HEAD_BYTES_MAX or (end < 0 and len(request_head) > HEAD_BYTES_MAX):
        return _bytes(_Response(431, "request too large\n"), has_body=True)
    if end < 0:
        return None
    words = request_head.split(b"\n", 1)[0].rstrip(b"\r").split(b" ")
    if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
        return _bytes(_Response(400, "not a request of HTTP/1\n"), has_body=True)
    method, target, _ = words
    if method not in {b"GET", b"HEAD"}:
        return _bytes(_Response(405, "only GET and HEAD\n"), has_body=True)
    return _bytes(_route(target.split(b"?", 1)[0], metrics, live, ready), has_body=method == b"GET")


def _end_of_head(data: bytes) -> int:
    """Where the empty line ends that ends a head, or -1; a line may end without CR."""
    ends = [place + len(mark) for mark in (b"\r\n\r\n", b"\n\n") if (place := data.find(mark)) >= 0]
    return min(ends, default=-1)


def _route(
    path: bytes, metrics: Callable[[], str], live: Callable[[], bool], ready: Callable[[], tuple[bool, str]]
) -> _Response:
    if path == b"/metrics":
        return _Response(200, metrics(), _METRICS_TYPE)
    if path == b"/livez":
        return _Response(200, "live\n") if live() else _Response(503, "not live\n")
    if path == b"/readyz":
        is_ready, why = ready()
        return _Response(200 if is_ready else 503, f"{why}\n")
    if path == b"/":
        return _Response(200, _PAGE, _HTML_TYPE)
    return _Response(404, "404\n")


def _bytes(response: _Response, *, has_body: bool) -> bytes:
    status, text, content_type = response
    body = text.encode()
    lines = [
        f"HTTP/1.1 {status} {_REASONS[status]}",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        *(["Allow: GET, HEAD"] if status == 405 else []),
        "Connection: close",
    ]
    head = "\r\n".join([*lines, "", ""]).encode()
    return head + body if has_body else head
