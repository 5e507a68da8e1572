from __future__ import annotations

import socket

import pytest

from skeg.errors import NotConnected, ParameterError
from skeg.net.clients.link import Link
from tests.net.clients.fake import CLOSE, SILENCE, FakeServer


def test_bytes_go_and_come():
    with FakeServer([(b"abc", b"def"), (b"ghi", b"")]) as server:
        link = Link("127.0.0.1", server.port, 5)
        link.send(b"abc")
        assert b"def" == link.recv()
        link.send(memoryview(b"ghi"))
        link.close()


def test_the_end_of_the_connection_closes_the_link():
    with FakeServer([(b"", CLOSE)]) as server:
        link = Link("127.0.0.1", server.port)
        with pytest.raises(NotConnected, match=f"127.0.0.1:{server.port}: the server closed the connection"):
            link.recv()
        assert link.closed
        with pytest.raises(NotConnected, match="the connection was closed"):
            link.send(b"x")


def test_a_timeout_closes_the_link():
    with FakeServer([(b"", SILENCE)]) as server:
        link = Link("127.0.0.1", server.port, 0.05)
        with pytest.raises(NotConnected, match=r"no reply: nothing happened for 0\.05 s"):
            link.recv()
        assert link.closed
        with pytest.raises(NotConnected):
            link.recv()


def test_a_server_that_does_not_read_is_not_waited_for():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        link = Link("127.0.0.1", listening.getsockname()[1], 0.1)
        with pytest.raises(NotConnected, match="can't send: nothing happened"):
            link.send(bytes(50_000_000))
        assert link.closed


def test_a_link_is_quiet_until_something_arrives():
    with FakeServer([(b"a", b"b"), (b"c", CLOSE)]) as server:
        link = Link("127.0.0.1", server.port, 5)
        assert link.is_quiet()
        link.send(b"a")
        assert link._poll.poll(5000)
        assert not link.is_quiet()
        link.recv()
        assert link.is_quiet()
        link.send(b"c")
        assert link._poll.poll(5000)
        assert not link.is_quiet()
        link.close()
        assert not link.is_quiet()


@pytest.mark.parametrize(("port", "timeout"), [(-1, 1), (65_536, 1), ("x", 1), (1, 0), (1, "x"), (1, float("nan"))])
def test_wrong_parameters(port, timeout):
    with pytest.raises(ParameterError):
        Link("127.0.0.1", port, timeout)
