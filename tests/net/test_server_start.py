"""When a server starts, and when it refuses to."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time

import pytest

from skeg.errors import ServerError
from tests.net.serving import PATIENCE_S, ServerProcess, refusal


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return sock.getsockname()[1]


def test_who_can_connect_is_served(filled):
    """The port opens when everything is recovered; whoever tries before is refused."""
    path, vectors = filled
    port = free_port()
    tries = []
    end = time.monotonic() + PATIENCE_S

    def connect_and_ask():
        while time.monotonic() < end:
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port), 20) as sock:
                sock.sendall(b"GET key:7\r\n")
                tries.append(sock.recv(100))
                return
            tries.append(None)
            time.sleep(0.005)

    asking = threading.Thread(target=connect_and_ask, daemon=True)
    asking.start()
    with ServerProcess(path, "--mode", "serve", port=port) as server, server.client() as client:
        asking.join()
        assert [b"$7\r\nvalue 7\r\n"] == [answer for answer in tries if answer is not None]
        assert len(tries) > 1
        assert 7 == client.vsearch("disk", vectors[7], k=1)[0].id
    said = "".join(server.lines)
    assert said.index("index is ready index=disk") < said.index("listening on") < said.index(": ready")


def test_port_0_takes_any_that_is_free(tmp_path):
    with ServerProcess(tmp_path / "a", metrics=True) as one, ServerProcess(tmp_path / "b", metrics=True) as other:
        ports = [*one.ports.values(), *other.ports.values()]
        assert (6, 6) == (len(ports), len({*ports}))
        assert all(ports)


def test_a_port_that_is_taken(tmp_path):
    """It says so, and leaves neither a lock nor a port behind."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, said = refusal(tmp_path / "data", "--metrics-port", str(port))
    assert (3, f"skeg: 127.0.0.1:{port}: can't listen: Address already in use\n") == (code, said)
    with ServerProcess(tmp_path / "data"):
        pass


@pytest.mark.parametrize(
    ("options", "expected", "says"),
    [
        (["--colour", "red"], 2, "No such option"),
        (["--mode", "readonly"], 2, "--mode"),
        (["--processes", "2"], 2, "processes"),
        (["--addr", "0.0.0.0"], 2, "password_file"),
        (["--addr", "127.0.0.2"], 2, "password_file"),
        (["--addr", "192.0.2.1", "--insecure"], 3, "can't listen"),
        (["--password-file", "{tmp}/nothing"], 3, "can't read the password"),
        (["--password-file", "{tmp}/empty"], 2, "password_file"),
        (["--config", "{tmp}/nothing"], 3, "nothing"),
        (["--config", "{tmp}/unknown"], 2, "colour"),
        (["--config", "{tmp}/broken"], 3, "not a TOML file"),
        (["--mode", "serve"], 3, "data"),
    ],
)
def test_what_does_not_start(tmp_path, options, expected, says):
    """Neither does it make a directory, or show a traceback."""
    for name, text in (("empty", ""), ("unknown", "colour = 1"), ("broken", "= 1")):
        (tmp_path / name).write_text(text)
    code, said = refusal(tmp_path / "data", *[option.format(tmp=tmp_path) for option in options])
    assert expected == code, said
    assert says in said
    assert "Traceback" not in said
    assert (options[-1] == "--insecure") == (tmp_path / "data").exists()


def test_options_go_before_the_file(tmp_path):
    options = ["--max-clients", "9", "--log-format", "json"]
    with (
        ServerProcess(tmp_path / "data", *options, max_clients=7, durability="os", log_format="text") as server,
        server.client() as client,
    ):
        assert {b"maxclients": b"9", b"durability": b"os"} == client.execute(
            "CONFIG", "GET", "maxclients", "durability"
        )
        assert "skeg.server" == json.loads(server.lines[0])["logger"]
        # Any free port was asked for: the one that was taken is told.
        assert {b"port": b"%d" % server.ports["resp"]} == client.execute("CONFIG", "GET", "port")


@pytest.mark.parametrize("options", [["--insecure"], ["--password-file", "{tmp}/password"]])
def test_others_may_reach_a_server_that_is_told_so(tmp_path, options):
    (tmp_path / "password").write_text("secret\n")
    options = [option.format(tmp=tmp_path) for option in options]
    with ServerProcess(tmp_path / "data", "--addr", "127.0.0.2", *options, binary=False) as server:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.ports["resp"]), 20)
        with socket.create_connection(("127.0.0.2", server.ports["resp"]), 20) as sock:
            sock.sendall(b"PING\r\n")
            expected = b"+PONG" if options == ["--insecure"] else b"-NOAUTH Authentication required."
            assert expected + b"\r\n" == sock.recv(100)


def test_a_second_server_on_a_directory(tmp_path):
    """It is refused, and told who has it; the first goes on, beside those that only read."""
    data = tmp_path / "data"
    with ServerProcess(data) as server, server.client() as client:
        client.set("k", "v")
        code, said = refusal(data)
        assert (3, True) == (code, f"{data}/lock: already open for writing: pid {server.process.pid} on" in said), said
        with ServerProcess(data, "--mode", "serve") as reader, reader.client() as reading:
            client.set("k", "w")
            assert b"v" == reading.get("k")  # as it was when it started
        assert b"w" == client.get("k")


def test_another_number_of_shards(filled, tmp_path):
    """Keys would be looked for where they are not: it is refused, and what the directory has is the default."""
    path, _ = filled
    code, said = refusal(path, "--mode", "serve", "--shards", "2")
    assert (2, True) == (code, "shards" in said), said
    with ServerProcess(path, "--mode", "serve", "--shards", "3") as server, server.client() as client:
        assert (300, 3) == (client.dbsize(), client.skeg_shards().count("shard="))
        with pytest.raises(ServerError, match="read-only"):
            client.set("k", "v")
