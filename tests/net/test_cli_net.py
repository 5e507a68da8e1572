from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from skeg.cli_common import Commands
from skeg.cli_net import cli, info, ping
from skeg.net.resp.encode import encode, encode_command
from tests.net.clients.fake import CLOSE, FakeServer

HELLO = (encode_command(["HELLO", 3]), encode({b"proto": 3}, 3))


def run(args, *connections, stdin=None):
    """Exit code, stdout and stderr of a command whose server follows a script."""
    group = Commands("skeg", commands={"ping": ping, "info": info, "cli": cli})
    with FakeServer(*connections) as server:
        name, *rest = args
        found = CliRunner().invoke(group, [name, "--addr", f"127.0.0.1:{server.port}", *rest], input=stdin)
    return found.exit_code, found.stdout, found.stderr


def test_ping_says_how_long_it_took():
    pong = (encode_command(["PING"]), b"+PONG\r\n")
    code, out, _ = run(["ping", "--count", "3", "--json"], [HELLO, pong, pong, pong])
    values = json.loads(out)
    assert (0, "PONG", 3) == (code, values["reply"], values["count"])
    assert 0 < values["latency_ms_min"] <= values["latency_ms_median"] <= values["latency_ms_max"]


def test_a_server_that_is_not_there_is_wrong_usage():
    found = CliRunner().invoke(Commands("skeg", commands={"ping": ping}), ["ping", "--addr", "127.0.0.1:1"])
    assert 2 == found.exit_code
    assert found.stderr.startswith("skeg: 127.0.0.1:1: can't connect")


def test_a_password_is_read_from_a_file(tmp_path):
    (tmp_path / "password").write_bytes(b"s\xffcret\n")
    hello = encode_command(["HELLO", 3, "AUTH", "default", b"s\xffcret"])
    code, _, err = run(["ping", "--password-file", str(tmp_path / "password")], [(hello, b"-WRONGPASS no\r\n")])
    assert (2, "skeg: WRONGPASS no\n") == (code, err)
    code, _, err = run(["cli", "--password-file", str(tmp_path / "password"), "X"], [(hello, b"-WRONGPASS no\r\n")])
    assert (2, "skeg: WRONGPASS no\n") == (code, err)


def test_info_prints_names_and_values():
    steps = [HELLO, (encode_command(["INFO", "keys"]), encode(b"# Keys\r\nkeys:7\r\n", 3))]
    assert (0, "keys: 7\n", "") == run(["info", "keys"], steps)
    assert {"keys": "7"} == json.loads(run(["info", "keys", "--json"], steps)[1])


def test_one_command():
    get = encode_command(["GET", "-k", b"\xff"])
    assert (0, '"v"\n', "") == run(["cli", "GET", "-k", "\udcff"], [HELLO, (get, b"$1\r\nv\r\n")])
    assert (2, "(error) ERR no\n", "") == run(["cli", "GET", "-k", "\udcff"], [HELLO, (get, b"-ERR no\r\n")])


def test_texts_for_people_are_printed_as_they_are():
    steps = [HELLO, (encode_command(["info"]), encode("a:1\nb:\u00e9\n", 3))]
    assert (0, "a:1\nb:\u00e9\n", "") == run(["cli", "info"], steps)


def test_commands_from_stdin():
    steps = [
        HELLO,
        (encode_command(["SET", "k", "a b"]), b"+OK\r\n"),
        (encode_command(["NOPE"]), b"-ERR no\r\n"),
        (encode_command(["INCR", "k"]), CLOSE),
    ]
    again = [HELLO, (encode_command(["DBSIZE"]), b":1\r\n")]
    code, out, err = run(["cli"], steps, again, stdin="SET k 'a b'\n\nGET '\nNOPE\nINCR k\nDBSIZE\nquit\nPING\n")
    assert (0, "OK\n(error) ERR no\n(integer) 1\n") == (code, out)
    assert "skeg: unbalanced quotes in request" == err.splitlines()[0]
    assert err.splitlines()[1].endswith("the server closed the connection")


def test_the_end_of_stdin_ends():
    assert (0, "", "") == run(["cli"], [HELLO], stdin="")


@pytest.mark.parametrize("address", ["", "x", "x:", ":1", "x:65536", "x:y", "::1:6379"])
def test_wrong_addresses(address):
    found = CliRunner().invoke(Commands("skeg", commands={"ping": ping}), ["ping", "--addr", address])
    assert (2, True) == (found.exit_code, "expected HOST:PORT" in found.stderr)
