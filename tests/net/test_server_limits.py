"""What a server puts up with, and what not."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from pathlib import Path

import numpy as np
import pytest

from skeg.errors import NotConnected, ServerError
from tests.net.serving import ServerProcess, ask, command, eventually, read_all

MIB = 1 << 20


GET, SET, VINDEX_DROP = 0x01, 0x02, 0x11


def frame(op, payload, length=None):
    """A frame of the binary protocol, which may announce more than it has."""
    return struct.pack("<2sBBIQII", b"KV", 1, op, 0, 1, len(payload) if length is None else length, 0) + payload


def memory(server, what="VmRSS"):
    """Bytes of a server: VmRSS now, VmHWM at most so far."""
    text = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(text.split(f"{what}:")[1].split()[0]) * 1024


def forget_peak(server):
    """Have VmHWM begin with what there is now, which is returned."""
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")
    return memory(server, "VmHWM")


# --- passwords


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "password").write_text("s3cret\n")
    options = ["--password-file", str(folder / "password")]
    with ServerProcess(folder / "data", *options, metrics=True, stall_timeout_s=2) as server:
        yield server


@pytest.mark.parametrize("version", [2, 3])
def test_nothing_works_before_the_password_over_resp(guarded, version):
    requests = [
        ["PING"], ["GET", "k"], ["SET", "k", "v"], ["NONSENSE"], ["INFO"], ["CLIENT", "LIST"], ["COMMAND"],
        ["CONFIG", "GET", "*"], ["SCAN", 0], ["SKEG.STATS"], ["SKEG.VINDEX.LIST"], ["HELLO", version],
        ["HELLO", version, "SETNAME", "me"],
    ]  # fmt: skip
    with guarded.connect() as sock:
        refused = b"-NOAUTH Authentication required.\r\n" * len(requests)
        assert refused == ask(sock, *[command(*words) for words in requests], until=len(refused))
        wrong = [["AUTH", "x"], ["AUTH", "root", "s3cret"], ["HELLO", version, "AUTH", "default", "x"]]
        answer = ask(sock, *[command(*words) for words in wrong])
        assert 3 * [b"-WRONGPASS invalid username-password pair or user is disabled."] == answer.splitlines()
        assert b"-NOAUTH" == ask(sock, command("PING"))[:7]
        assert b"+OK\r\n" == ask(sock, command("AUTH", "s3cret"), until=5)
        assert b"$1\r\nv\r\n" == ask(sock, command("SET", "k", "v"), command("GET", "k"), until=12)[5:]
        assert b"+RESET\r\n-NOAUTH" == ask(sock, command("RESET"), command("PING"))[:15]
    with guarded.client(protocol=version, password="s3cret") as client:
        assert (b"v", version) == (client.get("k"), client.version)


def test_nothing_works_before_the_password_over_the_binary_protocol(guarded):
    with guarded.binary_client() as client:
        for call in (client.ping, lambda: client.set(b"k", b"v"), client.stats, client.vindex_list):
            with pytest.raises(ServerError, match="Authentication required"):
                call()
    with pytest.raises(ServerError, match="invalid username-password pair"):
        guarded.binary_client(password="s3cre")
    with guarded.binary_client(password="s3cret") as client:
        client.set(b"b", b"v")
        assert b"v" == client.get(b"b")


def test_who_guesses_is_shut_out(guarded):
    """And counted."""
    before = guarded.get("/metrics")[1]
    with guarded.connect() as sock:
        sock.sendall(command("AUTH", "x") * 20)
        assert 10 == read_all(sock).count(b"-WRONGPASS")
    after = guarded.get("/metrics")[1]
    assert 10 == figure(after, "skeg_auth_failures_total") - figure(before, "skeg_auth_failures_total")


def figure(text, name):
    return float(next(line.split()[-1] for line in text.splitlines() if line.startswith(f"{name} ")))


def test_strangers_are_not_believed_much(guarded):
    with guarded.connect() as sock:
        sock.sendall(b"*2\r\n$4\r\nAUTH\r\n$100000\r\n")
        assert b"-ERR protocol: " == read_all(sock)[:15]
    with guarded.connect("binary") as sock:
        sock.sendall(frame(SET, b"", 100_000))
        assert b"" == read_all(sock)


def test_who_never_gives_the_password_has_to_go(guarded):
    """Also if it keeps talking."""
    with guarded.connect() as silent, guarded.connect("binary") as other, guarded.connect() as chatty:
        with contextlib.suppress(ConnectionError):
            while ask(chatty, command("PING"), until=len(b"-NOAUTH Authentication required.\r\n")):
                pass
        assert [b"", b""] == [read_all(silent), read_all(other)]
        guarded.wait_for("no password was given")


# --- connections


def test_too_many_clients(tmp_path):
    """One more is told so, in words that its protocol has, until somebody leaves."""
    with ServerProcess(tmp_path / "data", "--max-clients", "3") as server, server.client() as client:
        with server.connect() as one, server.connect("binary"):
            assert b"+PONG\r\n" == ask(one, b"PING\r\n", until=7)
            for protocol, told in (("resp", b"-ERR max number of clients reached\r\n"), ("binary", b"")):
                with server.connect(protocol) as extra:
                    assert told == read_all(extra)
            assert b"PONG" == client.ping()
            figures = client.info()
            assert ["3", "2"] == [figures["connected_clients"], figures["rejected_connections"]]
        eventually(lambda: client.info()["connected_clients"] == "1")
        with server.connect() as sock:
            assert b"+PONG\r\n" == ask(sock, b"PING\r\n", until=7)


@pytest.mark.parametrize("before", ["", "sys.modules['uvloop'] = None"], ids=["uvloop", "asyncio"])
def test_too_few_files(tmp_path, before):
    """A server that can't take more connections goes on with those that it has, and with new ones later."""
    limit = "resource.setrlimit(resource.RLIMIT_NOFILE, (60, 60))"
    start = f"import resource, sys\n{before}\n{limit}\nfrom skeg.cli import main\nmain()"
    with ServerProcess(tmp_path / "data", launcher=("-c", start)) as server, server.client() as client:
        with contextlib.ExitStack() as stack:
            for _ in range(100):
                stack.enter_context(server.connect())
                client.set("k", "v")
            assert b"v" == client.get("k")

        def connected():
            with contextlib.suppress(NotConnected), server.client() as other:
                return b"v" == other.get("k")

        eventually(connected)
        assert b"PONG" == client.ping()


def test_idle_clients_have_to_go(tmp_path):
    """Not those that wait for a reply, or say something now and then."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(ServerProcess(tmp_path / "data", "--idle-timeout", "2.5"))
        busy, idle, other = (stack.enter_context(server.connect(p)) for p in ("resp", "resp", "binary"))
        busy.sendall(command("SET", "k", "v"))
        assert b"+OK\r\n" == busy.recv(100)
        gone = []
        for sock in (idle, other):
            sock.settimeout(0.2)
        while len(gone) < 2:
            assert b"+PONG\r\n" == ask(busy, b"PING\r\n", until=7)
            for sock in {idle, other} - {*gone}:
                with contextlib.suppress(TimeoutError):
                    assert b"" == sock.recv(1)
                    gone.append(sock)
        server.wait_for("connection closed: idle")
        assert b"+PONG\r\n" == ask(busy, b"PING\r\n", until=7)


def test_silence_begins_with_what_was_heard_last(talk):
    """Not with the last time that the server looked."""

    async def work(sessions):
        connection, _ = sessions.open()
        await asyncio.sleep(0.1)
        before = connection._hub.time()
        connection.data_received(b"PING\r\n")
        assert before <= connection.last_heard
        connection.pause_writing()
        assert before <= connection.stalled
        assert before <= sessions.open()[0].opened

    talk(work)


# --- memory


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    data = tmp_path_factory.mktemp("strict") / "data"
    with ServerProcess(
        data, stall_timeout_s=3, max_buffered_bytes=16 * MIB, max_request_bytes=8 * MIB, max_reply_bytes=8 * MIB
    ) as server:
        yield server


def test_half_a_request_stalls(strict):
    """What came before is answered; somebody who is only silent may stay."""
    halves = [("resp", b"*2\r\n$3\r\nGET\r\n$5\r\nke"), ("resp", b"PIN"), ("binary", frame(GET, b"\x05\x00ke", 7))]
    with contextlib.ExitStack() as stack:
        silent = [stack.enter_context(strict.connect(protocol)) for protocol in ("resp", "binary")]
        stalled = [stack.enter_context(strict.connect(protocol)) for protocol, _ in halves]
        for sock, (protocol, half) in zip(stalled, halves, strict=True):
            sock.sendall((command("PING") if protocol == "resp" else b"") + half)
        assert [b"+PONG\r\n", b"+PONG\r\n", b""] == [*map(read_all, stalled)]
        strict.wait_for("the rest of a request did not come")
        for sock in silent:
            sock.setblocking(False)
            with pytest.raises(BlockingIOError):
                sock.recv(1)


def test_a_client_that_never_reads(strict):
    """Its gigabyte of replies is not made, others are served meanwhile, and it is disconnected."""
    with strict.client() as client, strict.connect() as deaf:
        client.set("large", b"v" * MIB)
        assert MIB == len(client.get("large"))
        before = memory(strict)
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
        deaf.sendall(command("GET", "large") * 1000)
        deaf.sendall(command("MGET", *["large"] * 5) * 100)
        most = answered = 0
        while strict.find("it does not take its replies") is None:
            assert MIB == len(client.get("large"))
            client.set("k", str(answered))
            answered += 1
            most = max(most, memory(strict))
        assert answered > 10
        assert most - before < 64 * MIB
        assert len(read_all(deaf)) < 64 * MIB


def test_requests_that_many_begin_and_nobody_ends(strict):
    """All of them together get so much memory; whoever has most of it is closed."""
    before = forget_peak(strict)
    with contextlib.ExitStack() as stack:
        small = stack.enter_context(strict.connect())
        small.sendall(b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$10\r\nabc")
        large = [stack.enter_context(strict.connect()) for _ in range(8)]
        for sock in large:
            with contextlib.suppress(ConnectionError):
                sock.sendall(b"*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$8000000\r\n" + b"x" * 7_000_000)
        strict.wait_for("too many bytes of unfinished requests")
        assert b"+OK\r\n" == ask(small, b"defghij\r\n", until=5)
    assert memory(strict, "VmHWM") - before < 64 * MIB


def test_requests_and_replies_that_are_too_large(strict):
    with strict.client() as client:
        client.set("k", b"x" * (8 * MIB - 1000))
        with pytest.raises(ServerError, match="reply of up to"):
            client.mget(["k", "k"])
        with pytest.raises((ServerError, NotConnected)):
            client.set("k", b"x" * (8 * MIB + 1))
    with strict.connect() as sock:
        sock.sendall(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\n" % (8 * MIB + 1))
        assert b"-ERR protocol: " == read_all(sock)[:15]


FLOATS = np.eye(8, dtype=np.float32)[0].tobytes()
HUGE = [2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1]

HOSTILE = [
    *[b"*%d\r\n" % n for n in HUGE],
    *[b"*1\r\n$%d\r\n" % n for n in HUGE],
    *[b"*2\r\n$3\r\nGET\r\n$-%d\r\n" % n for n in HUGE],
    b"*262144\r\n" + b"$0\r\n\r\n" * 50_000,
    b"*1\r\n" * 100_000,
    b"x" * 1_000_000,
    b"\x00" * 1_000_000,
    b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$8000000\r\n" + b"x" * 1_000_000,
    *[command("SKEG.VSEARCH", "v", n, 0, FLOATS) for n in HUGE],
    *[command("SKEG.VSEARCH", "v", 1, n, FLOATS) for n in HUGE],
    *[command("SKEG.VSEARCH", "v", n, 2**32 - 1, FLOATS, "WITHPAYLOAD") for n in HUGE],
    *[command("SKEG.VSEARCH", "v", 10, 0, FLOATS, "BATCH", n) for n in HUGE],
    *[command("SKEG.VINDEX.CREATE", "huge", n, "f32", "flat") for n in HUGE],
    *[command("SKEG.VSET", "v", n, FLOATS) for n in HUGE],
    *[command("SCAN", n, "COUNT", n) for n in HUGE],
    command("SKEG.VSEARCH", "v", 1, 0, FLOATS, "FILTER", "(" * 1_000_000),
    command("SKEG.VSEARCH", "v", 1, 0, FLOATS, "FILTER", "NOT " * 100_000 + "a = 1"),
    command("SCAN", 0, "MATCH", "*a" * 500_000),
    command("DEL", *["k"] * 200_000),
    command("CLIENT", "SETNAME", "x" * 1_000_000),
    command("x" * 1_000_000),
]


def test_hostile_requests_over_resp(strict):
    """Each costs its connection at most; memory stays, and everybody else is served."""
    hammer(strict, "resp", HOSTILE)


def test_hostile_requests_over_the_binary_protocol(strict):
    hostile = [frame(op, b"", n) for op in (0x00, GET, SET, 0xC0) for n in (2**24, 2**24 + 1, 2**31, 2**32 - 1)]
    # Counts and lengths of all kinds that say "4 billion", and names that end nowhere.
    ends = [b"", b"\x01\x00v", b"\x01v"]
    hostile += [frame(op, end + b"\xff" * 64) for op in range(256) for end in ends if op != VINDEX_DROP]
    hammer(strict, "binary", hostile)


def hammer(server, protocol, hostile):
    with server.client() as client:
        if "v" not in {row["name"] for row in client.vindex_list()}:
            client.vindex_create("v", 8, backend="disk", kind="f32")
        client.vmset("v", [(n, np.eye(8, dtype=np.float32)[n], b"a=1") for n in range(8)])
        client.vsearch("v", FLOATS, k=1)
        before = forget_peak(server)
        with contextlib.ExitStack() as stack:
            sockets = []
            for data in hostile:
                sock = stack.enter_context(server.connect(protocol))
                sockets.append(sock)
                with contextlib.suppress(ConnectionError):
                    sock.sendall(data)
                assert b"PONG" == client.ping()
            for sock in sockets:
                sock.settimeout(0.01)
                with contextlib.suppress(TimeoutError, ConnectionError):
                    sock.recv(1 << 16)
            assert 0 == client.vsearch("v", FLOATS, k=1)[0].id
        assert memory(server, "VmHWM") - before < 64 * MIB
        assert "internal error" not in "".join(server.lines)
        assert server.find("Traceback") is None
