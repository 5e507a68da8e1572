"""What a server answers over RESP, without sockets: bytes in, bytes out."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from tests.net.serving import command

OK = b"+OK\r\n"


def floats(*numbers):
    return struct.pack(f"<{len(numbers)}f", *numbers)


def answers(talk, *requests, hello=False, **how):
    """What one connection is told, request by request."""

    async def work(sessions):
        connection, wire = sessions.open()
        if hello:
            await sessions.ask(connection, wire, command("HELLO", 3))
        return [await sessions.ask(connection, wire, request) for request in requests]

    return talk(work, **how)


def answer(talk, *words, **how):
    (found,) = answers(talk, command(*words), **how)
    return found


# --- connection


def test_hello_tells_what_the_server_is(talk):
    two, three, again = answers(talk, command("HELLO"), command("hello", "3", "SETNAME", "me"), command("HELLO"))
    assert two.startswith(b"*14\r\n$6\r\nserver\r\n$4\r\nskeg\r\n$7\r\nversion\r\n")
    assert two.endswith(
        b"$5\r\nproto\r\n:2\r\n$2\r\nid\r\n:1\r\n$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n"
        b"$7\r\nmodules\r\n*0\r\n"
    )
    assert three.startswith(b"%7\r\n$6\r\nserver\r\n")
    assert three == again


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["HELLO", "4"], "HELLO: invalid protover, expected 2 or 3"),
        (["HELLO", "AUTH", "u", "p"], "HELLO: invalid protover, expected 2 or 3"),
        (["HELLO", "3", "AUTH", "u"], "HELLO: AUTH requires username and password"),
        (["HELLO", "3", "SETNAME"], "HELLO: SETNAME requires a name"),
        (["HELLO", "3", "what"], "HELLO: unknown clause 'WHAT'"),
        (["HELLO", "3", b"\xff"], "HELLO: unknown clause '<binary>'"),
        (["PING", "a", "b"], "PING accepts 0 or 1 arguments, got 2"),
        (["ECHO"], "ECHO requires exactly 1 argument, got 0"),
        (["SELECT", "1"], "DB index out of range (skeg only supports DB 0)"),
        (["SELECT", "x"], "invalid DB index"),
        (["SELECT"], "wrong number of arguments for 'SELECT'"),
        (["GET"], "wrong number of arguments for 'GET'"),
        (["GET", "a", "b"], "wrong number of arguments for 'GET'"),
        (["SET", "k"], "wrong number of arguments for 'SET'"),
        (["DEL"], "wrong number of arguments for 'DEL'"),
        (["MSET", "k", "v", "x"], "wrong number of arguments for 'MSET'"),
        (["INCR"], "wrong number of arguments for 'INCR/DECR'"),
        (["DECRBY", "k"], "wrong number of arguments for 'INCRBY/DECRBY'"),
        (["INCRBY", "k", "abc"], "value is not an integer or out of range"),
        (["DECRBY", "k", "-9223372036854775808"], "value out of range"),
        (["SKEG.FOO"], "unknown command 'SKEG.FOO'"),
        (["what\r\n+OK"], "unknown command 'WHAT??+OK'"),
        (["SKEG.AUTH", "x"], "SKEG.AUTH is reserved; use HELLO 3 AUTH user pass for now (v0.2)"),
        (["SKEG.VINDEX.CREATE", "x"], "wrong number of arguments for 'SKEG.VINDEX.CREATE'; want name dim kind backend"),
        (["SKEG.VINDEX.CREATE", "a::b", 4, "f32", "disk"],
         "VINDEX name must not contain '::' (reserved for tenant scoping)"),
        (["SKEG.VINDEX.CREATE", "../x", 4, "f32", "disk"], "VINDEX name: 1-255 chars, [A-Za-z0-9._-] only, no '..'"),
        (["SKEG.VINDEX.CREATE", "x", -1, "f32", "disk"], "dim must be a non-negative u32"),
        (["SKEG.VINDEX.CREATE", "x", 0, "f32", "disk"], "storage error: vindex dim must be positive"),
        (["SKEG.VINDEX.CREATE", "x", 4, "F64", "disk"],
         "unknown kind 'f64'; expected f32 | int8 | binary | tq1 | tq2 | tq4"),
        (["SKEG.VINDEX.CREATE", "x", 4, "f32", "tape"], "unknown backend 'tape'; expected flat | disk"),
        (["SKEG.VINDEX.DROP", "none"], "storage error: vindex 'none' not found"),
        (["SKEG.VSET", "none", 1, floats(1)], "storage error: vindex 'none' not found"),
        (["SKEG.VSET", "none", "x", floats(1)], "id must be a non-negative u64"),
        (["SKEG.VSET", "none", 1, b"abc"], "vector byte length must be a multiple of 4 (f32 LE)"),
        (["SKEG.VSET", "none", 1, floats(1), "LOAD", "x"], "SKEG.VSET expected PAYLOAD before the blob"),
        (["SKEG.VSET", "v", 1], "wrong number of arguments for 'SKEG.VSET'; want name id vector [PAYLOAD blob]"),
        (["SKEG.VSET", "v", 1, "abcd", "PAYLOAD"],
         "wrong number of arguments for 'SKEG.VSET'; want name id vector [PAYLOAD blob]"),
        (["SKEG.VSEARCH", "v", "x", 0, floats(1)], "k must be a non-negative integer"),
        (["SKEG.VSEARCH", "v", 1, "x", floats(1)], "l_search must be a non-negative u32"),
        (["SKEG.VSEARCH", "v", 1, 0, floats(1), "FILTER"], "SKEG.VSEARCH FILTER needs an expression"),
        (["SKEG.VSEARCH", "v", 1, 0, floats(1), "FILTER", b"\xff"], "filter must be UTF-8"),
        (["SKEG.VSEARCH", "v", 1, 0, floats(1), "BATCH", "0"],
         "SKEG.VSEARCH BATCH needs a number of queries from 1 to 4096"),
        (["SKEG.VSEARCH", "v", 1, 0, floats(1), "x"],
         "unexpected SKEG.VSEARCH argument; want WITHPAYLOAD or FILTER, got 'x'"),
        (["SKEG.QUOTA.GET", "t"], "multi-tenant backend not configured"),
        (["SKEG.DURABILITY", "always"], "durability must be sync, os or none"),
        (["SCAN", "x"], "invalid cursor"),
        (["SET", "k", "v", "NX", "XX"], "wrong number of arguments for 'SET'; want key value [NX | XX] [GET]"),
        (["SET", "k", "v", "EX", "5"], "wrong number of arguments for 'SET'; want key value [NX | XX] [GET]"),
        (["SET", "k" * 65_536, "v"], "key of 65536 bytes: at most 65535"),
        (["AUTH", "x"], "AUTH <password> called without any password configured"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_the_words_of_the_protocol(talk, words, text):
    assert f"-ERR {text}\r\n".encode() == answer(talk, *words)


def test_what_is_no_command_is_said_and_the_connection_goes_on(talk):
    found = answers(talk, b":5\r\n", b"*0\r\n", b"*1\r\n:1\r\n", b"*2\r\n$3\r\nGET\r\n:1\r\n", b"PING\r\n", b"\r\n")
    assert [
        b"-ERR expected Array frame\r\n",
        b"-ERR empty command\r\n",
        b"-ERR command name must be a bulk or simple string\r\n",
        b"-ERR argument must be a bulk or simple string\r\n",
        b"+PONG\r\n",
        b"",
    ] == found


@pytest.mark.parametrize("end", [command("QUIT"), b"*1\r\n$9999999999\r\n", b"*1\r\n$1\r\nabc\r\n"])
def test_a_connection_ends_after_the_replies_to_what_came_before(talk, end):
    async def work(sessions):
        connection, wire = sessions.open()
        told = await sessions.ask(connection, wire, command("SET", "a", "1") + command("GET", "a") + end)
        assert b"" == await sessions.ask(connection, wire, command("PING"))
        return told, wire.is_closed

    told, is_closed = talk(work)
    assert told.startswith(b"+OK\r\n$1\r\n1\r\n")
    assert told[13:] == OK or told[12:].startswith(b"-ERR protocol: ") or told[12:] == OK
    assert is_closed


def test_client_subcommands(talk):
    found = answers(
        talk,
        command("CLIENT", "ID"),
        command("CLIENT", "GETNAME"),
        command("CLIENT", "SETNAME", "me"),
        command("client", "getname"),
        command("CLIENT", "SETINFO", "LIB-NAME", "tests"),
        command("CLIENT", "SETNAME", "a b"),
        command("CLIENT", "WHAT"),
    )
    assert [b":1\r\n", b"$-1\r\n", OK, b"$2\r\nme\r\n", OK] == found[:5]
    assert found[5].startswith(b"-ERR Client names")
    assert found[6].startswith(b"-ERR unknown subcommand")


def test_client_list_shows_every_connection(talk):
    async def work(sessions):
        first, wire = sessions.open()
        sessions.open()
        await sessions.ask(first, wire, command("CLIENT", "SETNAME", "me"))
        return await sessions.ask(first, wire, command("CLIENT", "LIST"))

    lines = talk(work).split(b"\r\n", 1)[1].strip().splitlines()
    assert 2 == len(lines)
    assert 1 == sum(b" name=me " in line for line in lines)


def test_reset_makes_a_connection_as_new(talk):
    found = answers(
        talk, command("HELLO", 3, "SETNAME", "me"), command("RESET"), command("CLIENT", "GETNAME"), command("GET", "a")
    )
    assert [b"+RESET\r\n", b"$-1\r\n", b"$-1\r\n"] == found[1:]


# --- passwords


def test_nothing_but_the_password_is_taken_before_the_password(talk):
    refused = b"-NOAUTH Authentication required.\r\n"
    found = answers(
        talk,
        command("PING"),
        command("GET", "a"),
        command("NONE"),
        command("GET"),
        command("HELLO", 3),
        command("AUTH", "wrong"),
        command("AUTH", "root", "secret"),
        command("HELLO", 3, "AUTH", "default", "wrong"),
        command("AUTH", "secret"),
        command("PING"),
        password=b"secret",
    )
    wrong = b"-WRONGPASS invalid username-password pair or user is disabled.\r\n"
    assert [refused] * 5 + [wrong] * 3 + [OK, b"+PONG\r\n"] == found


LARGE = [command("SET", "a", "x" * 100_000), command("MSET", *range(40)), command("STRLEN", "a")]


@pytest.mark.parametrize("password", [("AUTH", "secret"), ("HELLO", 2, "AUTH", "default", "secret")])
@pytest.mark.parametrize("size", [None, 1, 17, 16_384])
def test_what_comes_with_the_password_may_be_large(talk, password, size):
    """As redis-benchmark sends it."""
    requests = [command(*password), *LARGE, command("GET", "12")]
    data = b"".join(requests)

    async def work(sessions):
        connection, wire = sessions.open()
        for place in range(0, len(data), size or len(data)):
            connection.data_received(data[place : place + (size or len(data))])
        await sessions.settle(connection)
        return bytes(wire.written), connection.session.pending

    expected = b"".join(answers(talk, *requests, password=b"secret"))
    assert expected.endswith(OK + OK + b":100000\r\n$2\r\n13\r\n")
    assert (expected, 0) == talk(work, password=b"secret")


def test_what_is_large_waits_for_the_password_that_was_sent_before_it(talk):
    """While the client does not take its replies, nothing is begun, nor lost."""

    async def work(sessions):
        connection, wire = sessions.open()
        connection.pause_writing()
        connection.data_received(command("AUTH", "secret") + LARGE[0][:50_000])
        connection.data_received(LARGE[0][50_000:])
        connection.data_received(LARGE[1] + LARGE[2])
        assert not wire.written
        connection.resume_writing()
        await sessions.settle(connection)
        return bytes(wire.written)

    assert OK * 3 + b":100000\r\n" == talk(work, password=b"secret")


def test_what_came_with_the_password_is_answered_by_a_server_that_ends(talk):
    async def work(sessions):
        connection, wire = sessions.open()
        connection.pause_writing()
        connection.data_received(command("AUTH", "secret") + b"".join(LARGE))
        connection.drain()
        connection.data_received(command("PING"))
        connection.resume_writing()
        await sessions.settle(connection)
        return bytes(wire.written), wire.is_closed

    assert (OK * 3 + b":100000\r\n", True) == talk(work, password=b"secret")


@pytest.mark.parametrize("first", [command("AUTH", "wrong"), command("PING"), b""])
def test_what_is_large_ends_a_connection_without_the_password(talk, first):
    async def work(sessions):
        connection, wire = sessions.open()
        connection.data_received(first + LARGE[0] + command("AUTH", "secret"))
        for _ in range(100):
            connection.data_received(LARGE[0])
        await sessions.settle(connection)
        return bytes(wire.written), wire.is_closed

    written, is_closed = talk(work, password=b"secret")
    assert is_closed
    assert written.endswith(b"-ERR protocol: bulk too large: 100000\r\n")
    assert bool(first) + 1 == written.count(b"\r\n")


def test_what_nobody_lets_in_takes_little_memory(talk):
    """A client that takes no replies sends much more than may be sent without the password."""

    async def work(sessions):
        connection, wire = sessions.open()
        connection.pause_writing()
        while wire.is_reading:
            connection.data_received(LARGE[0])
        return len(connection.session.inbox[-1].rest)

    assert talk(work, password=b"secret") < 5 << 20


def test_hello_takes_the_password_and_changes_nothing_without(talk):
    wrong, right, later = answers(
        talk,
        command("HELLO", 3, "AUTH", "default", "wrong"),
        command("HELLO", 2, "AUTH", "default", "secret"),
        command("GET", "a"),
        password=b"secret",
    )
    assert wrong.startswith(b"-WRONGPASS")
    assert right.startswith(b"*14\r\n")
    assert b"$-1\r\n" == later


def test_who_guesses_too_often_is_cut_off(talk):
    async def work(sessions):
        connection, wire = sessions.open()
        for _ in range(10):
            assert not wire.is_closed
            await sessions.ask(connection, wire, command("AUTH", "wrong"))
        return wire.is_closed

    assert talk(work, password=b"secret")


@pytest.mark.parametrize("request_", [b"*11\r\n", b"*1\r\n$16385\r\n", b"*1\r\n*1\r\n" * 5])
def test_little_is_believed_before_the_password(talk, request_):
    async def work(sessions):
        connection, wire = sessions.open()
        told = await sessions.ask(connection, wire, request_)
        return told, wire.is_closed

    told, is_closed = talk(work, password=b"secret")
    assert told.startswith(b"-ERR ")
    assert is_closed or b"command name" in told


# --- keys


def test_keys_and_values(talk):
    found = answers(
        talk,
        command("SET", "a", "1"),
        command("GET", "a"),
        command("GET", "none"),
        command("MSET", "b", "2", "c", "3"),
        command("MGET", "a", "none", "c"),
        command("EXISTS", "a", "a", "none"),
        command("DEL", "a", "a", "none"),
        command("APPEND", "d", "ab"),
        command("APPEND", "d", "cde"),
        command("STRLEN", "d"),
        command("SETNX", "d", "x"),
        command("GETSET", "d", "new"),
        command("GETDEL", "d"),
        command("GETDEL", "d"),
        command("SET", "e", "1", "NX"),
        command("SET", "e", "2", "nx"),
        command("SET", "e", "3", "XX", "GET"),
        command("SET", "f", "1", "XX"),
        command("SET", "e", "4", "GET"),
        command("GET", "e"),
        command("DBSIZE"),
    )
    assert [
        OK, b"$1\r\n1\r\n", b"$-1\r\n", OK, b"*3\r\n$1\r\n1\r\n$-1\r\n$1\r\n3\r\n", b":2\r\n", b":1\r\n", b":2\r\n",
        b":5\r\n", b":5\r\n", b":0\r\n", b"$5\r\nabcde\r\n", b"$3\r\nnew\r\n", b"$-1\r\n", OK, b"$-1\r\n",
        b"$1\r\n1\r\n", b"$-1\r\n", b"$1\r\n3\r\n", b"$1\r\n4\r\n", b":3\r\n",
    ] == found  # fmt: skip


def test_counters(talk):
    found = answers(
        talk,
        command("SET", "n", "10"),
        command("INCR", "n"),
        command("INCRBY", "n", "5"),
        command("DECR", "n"),
        command("DECRBY", "n", "3"),
        command("INCR", "new"),
        command("SET", "n", "9223372036854775807"),
        command("INCR", "n"),
        command("SET", "n", "x"),
        command("INCR", "n"),
    )
    assert [OK, b":11\r\n", b":16\r\n", b":15\r\n", b":12\r\n", b":1\r\n", OK] == found[:7]
    assert b"-ERR increment or decrement would overflow\r\n" == found[7]
    assert b"-ERR value is not an integer or out of range\r\n" == found[9]


def test_a_pipeline_is_answered_in_order(talk):
    requests = [
        command("SET", "a", "1"),
        command("GET", "a"),
        command("PING"),
        command("INCR", "a"),
        command("GET", "a"),
    ]
    (found,) = answers(talk, b"".join(requests * 3 + [b"PING\r\n", command("NONE"), command("ECHO", "x")]))
    expected = (
        b"+OK\r\n$1\r\n1\r\n+PONG\r\n:2\r\n$1\r\n2\r\n" * 3 + b"+PONG\r\n-ERR unknown command 'NONE'\r\n$1\r\nx\r\n"
    )
    assert expected == found


@pytest.mark.parametrize("hello", [False, True])
def test_runs_of_one_command_are_answered_as_if_they_came_alone(talk, hello):
    sets = b"".join(command("SET", f"k{i % 7}", i) for i in range(40))
    gets = b"".join(command("GET", f"k{i % 9}") for i in range(40))
    null = b"_\r\n" if hello else b"$-1\r\n"
    last = {i % 7: i for i in range(40)}
    expected = b"".join(
        null if i % 9 not in last else b"$%d\r\n%d\r\n" % (len(str(last[i % 9])), last[i % 9]) for i in range(40)
    )
    found = answers(talk, sets, gets, gets, sets + gets, hello=hello)
    assert [OK * 40, expected, expected, OK * 40 + expected] == found


def test_scan_finds_every_key(talk):
    async def work(sessions):
        connection, wire = sessions.open()
        for i in range(100):
            await sessions.ask(connection, wire, command("SET", f"key{i}", "x"))
        await sessions.ask(connection, wire, command("SET", "other", "x"))
        cursor, seen = b"0", set()
        while True:
            told = await sessions.ask(connection, wire, command("SCAN", cursor, "MATCH", "key*", "COUNT", 7))
            parts = told.split(b"\r\n")
            cursor = parts[2]
            seen.update(parts[5::2])
            if cursor == b"0":
                return seen

    assert {b"key%d" % i for i in range(100)} == talk(work) - {b""}


def test_the_level_of_durability_is_the_connections(talk):
    found = answers(
        talk,
        command("SKEG.DURABILITY"),
        command("SKEG.DURABILITY", "OS"),
        command("SKEG.DURABILITY"),
        durability="none",
    )
    assert [b"$4\r\nnone\r\n", OK, b"$2\r\nos\r\n"] == found


@pytest.mark.parametrize("level", ["sync", "os", "none"])
def test_writes_of_every_level_are_there_after_a_restart(talk, level):
    requests = [command("SKEG.DURABILITY", level), *(command("SET", f"a{i}", i) for i in range(20))]
    assert [OK] * 21 == answers(talk, *requests)
    assert b"$2\r\n19\r\n" == answer(talk, "GET", "a19")


def test_a_reply_that_would_be_too_large_is_refused(talk):
    big = bytes(40_000)
    found = answers(
        talk,
        command("SET", "a", big),
        command("MGET", "a"),
        command("MGET", "a", "a"),
        command("GET", "a"),
        max_reply_bytes=1 << 16,
    )
    assert OK == found[0]
    assert 40_000 < len(found[1])
    assert found[2].startswith(b"-ERR reply of up to 8")
    assert 40_000 < len(found[3])


def test_commands_on_many_keys(talk):
    keys = [b"k%d" % i for i in range(3000)]
    pairs = [word for i, key in enumerate(keys) for word in (key, b"%d" % i)]
    found = answers(
        talk,
        command("MSET", *pairs),
        command("MGET", *keys, "none"),
        command("EXISTS", *keys, *keys[:5], "none"),
        command("DEL", *keys[:2000], "none") + command("DBSIZE") + command("EXISTS", "k0", "k2500"),
        command("MGET", *keys[2000:]),
        max_reply_bytes=1 << 16,
    )
    values = b"".join(b"$%d\r\n%d\r\n" % (len(str(i)), i) for i in range(3000))
    assert [OK, b"*3001\r\n" + values + b"$-1\r\n", b":3005\r\n", b":2000\r\n:1000\r\n:1\r\n"] == found[:4]
    assert found[4].startswith(b"*1000\r\n$4\r\n2000\r\n")
    refused = answers(talk, command("MGET", *keys[2000:] * 4), max_reply_bytes=1 << 16)
    assert [b"-ERR reply of more than 65536 bytes\r\n"] == refused


# --- vectors


def create(kind="f32", backend="disk", dim=4):
    return command("SKEG.VINDEX.CREATE", "v", dim, kind, backend)


@pytest.mark.parametrize("backend", ["disk", "flat", "0", "1"])
@pytest.mark.parametrize("kind", ["f32", "int8", "BINARY", "tq1", "tq2", "tq4", "5"])
def test_vectors_are_set_found_read_and_deleted(talk, kind, backend):
    e1, e2 = floats(1, 0, 0, 0), floats(0, 1, 0, 0)
    found = answers(
        talk,
        create(kind, backend),
        create(kind, backend),
        command("SKEG.VSET", "v", 1, e1),
        command("SKEG.VSET", "v", 2, e2),
        command("SKEG.VSEARCH", "v", 1, 32, e1),
        command("SKEG.VSEARCH", "v", 5, 0, e2),
        command("SKEG.VGET", "v", 2),
        command("SKEG.VGET", "v", 3),
        command("SKEG.VDEL", "v", 2),
        command("SKEG.VDEL", "v", 2),
        command("SKEG.VINDEX.LIST"),
        command("SKEG.VINDEX.DROP", "v"),
        command("SKEG.VINDEX.LIST"),
    )
    assert [OK, b"-ERR storage error: vindex 'v' already exists\r\n", OK, OK] == found[:4]
    assert b"*2\r\n$1\r\n1\r\n$1\r\n1\r\n" == found[4]
    assert b"*4\r\n$1\r\n2\r\n$1\r\n1\r\n$1\r\n1\r\n$1\r\n0\r\n" == found[5]
    assert [b"$16\r\n" + e2 + b"\r\n", b"$-1\r\n", b":1\r\n", b":0\r\n"] == found[6:10]
    shown = {"BINARY": "binary", "5": "tq4"}.get(kind, kind)
    where = {"0": "flat", "1": "disk"}.get(backend, backend)
    line = f"name=v dim=4 kind={shown} backend={where} n_vectors=1\n".encode()
    assert [b"$%d\r\n%b\r\n" % (len(line), line), OK, b"$0\r\n\r\n"] == found[10:]


def test_scores_are_doubles_in_version_3(talk):
    query = floats(0.6, 0.8, 0, 0)
    found = answers(
        talk, create(), command("SKEG.VSET", "v", 1, floats(1, 0, 0, 0)), command("SKEG.VSEARCH", "v", 1, 0, query),
        hello=True,
    )  # fmt: skip
    assert b"*2\r\n$1\r\n1\r\n,0.6000000238418579\r\n" == found[2]


def test_payloads_and_filters(talk):
    e1 = floats(1, 0, 0, 0)
    found = answers(
        talk,
        create(),
        command("SKEG.VMSET", "v", 1, e1, "lang=de year=1990", 2, e1, "", 3, e1, b"\xff\x00"),
        command("SKEG.VSEARCH", "v", 9, 0, e1, "WITHPAYLOAD"),
        command("SKEG.VSEARCH", "v", 9, 0, e1, "filter", "lang=de AND year < 2000"),
        command("SKEG.VSEARCH", "v", 9, 0, e1, "FILTER", "lang=fr"),
        command("SKEG.VSEARCH", "v", 9, 0, e1, "FILTER", "(("),
        command("SKEG.VSET", "v", 1, floats(0, 1, 0, 0)),
        command("SKEG.VSEARCH", "v", 1, 0, floats(0, 1, 0, 0), "WITHPAYLOAD"),
        command("SKEG.VSET", "v", 1, e1, "PAYLOAD", ""),
        command("SKEG.VSEARCH", "v", 1, 0, e1, "WITHPAYLOAD"),
    )
    assert [OK, b":3\r\n"] == found[:2]
    assert (
        b"*9\r\n$1\r\n1\r\n$1\r\n1\r\n$17\r\nlang=de year=1990\r\n$1\r\n2\r\n$1\r\n1\r\n$-1\r\n"
        b"$1\r\n3\r\n$1\r\n1\r\n$2\r\n\xff\x00\r\n"
    ) == found[2]
    assert b"*2\r\n$1\r\n1\r\n$1\r\n1\r\n" == found[3]
    assert b"*0\r\n" == found[4]
    assert found[5].startswith(b"-ERR bad FILTER: ")
    # A vector that is set anew without a payload keeps the one that it has.
    assert b"*3\r\n$1\r\n1\r\n$1\r\n1\r\n$17\r\nlang=de year=1990\r\n" == found[7]
    assert b"*3\r\n$1\r\n1\r\n$1\r\n1\r\n$0\r\n\r\n" == found[9]


def test_many_queries_in_one_command(talk):
    e1, e2 = floats(1, 0, 0, 0), floats(0, 1, 0, 0)
    found = answers(
        talk,
        create(),
        command("SKEG.VSEARCH", "v", 1, 0, e1 + e2, "BATCH", 2),
        command("SKEG.VMSET", "v", 1, e1, "", 2, e2, ""),
        command("SKEG.VSEARCH", "v", 1, 0, e2 + e1 + e2, "BATCH", 3),
        command("SKEG.VSEARCH", "v", 1, 0, e1, "BATCH", 1),
        command("SKEG.VSEARCH", "v", 1, 0, e1, "BATCH", 2),
    )
    one, two = b"*2\r\n$1\r\n1\r\n$1\r\n1\r\n", b"*2\r\n$1\r\n2\r\n$1\r\n1\r\n"
    assert b"*2\r\n*0\r\n*0\r\n" == found[1]
    assert b"*3\r\n" + two + one + two == found[3]
    assert b"*1\r\n" + one == found[4]
    assert found[5].startswith(b"-ERR storage error: vindex 'v': 16 bytes are not 2 queries")


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["SKEG.VSET", "v", 1, floats(1, 0)], "vindex 'v' dim 4 but vector has 2"),
        (["SKEG.VSEARCH", "v", 1, 0, floats(1, 0)], "vindex 'v' dim 4 but query has 2"),
        (["SKEG.VSET", "v", 1, floats(1, float("nan"), 0, 0)], "vectors, row 0: expected finite numbers"),
        (["SKEG.VSET", "v", 1, floats(0, 0, 0, 0)], "vectors, row 0"),
        (["SKEG.VSEARCH", "v", 1, 0, floats(float("inf"), 0, 0, 0)], "query"),
        (["SKEG.VMSET", "v", 1, floats(1, 0, 0, 0), "", 2, floats(1), ""], "vindex 'v' dim 4 but vector has 1"),
    ],
)
def test_vectors_that_can_not_be_are_refused(talk, words, text):
    found = answers(talk, create(), command("SKEG.VSET", "v", 5, floats(1, 0, 0, 0)), command(*words), command("PING"))
    assert found[2].startswith(f"-ERR storage error: {text}".encode())
    assert b"+PONG\r\n" == found[3]


def test_one_bad_request_of_many_that_are_executed_together_harms_no_other(talk):
    good, bad = floats(1, 0, 0, 0), floats(float("nan"), 0, 0, 0)
    pipeline = [command("SKEG.VSET", "v", i, bad if i == 5 else good) for i in range(10)]
    queries = [command("SKEG.VSEARCH", "v", 1, 0, bad if i == 5 else good) for i in range(10)]
    found = answers(talk, create(), b"".join(pipeline), b"".join(queries))
    told = found[1].split(b"\r\n")[:-1]
    assert ["+OK"] * 5 + ["-ERR"] + ["+OK"] * 4 == [line.split()[0].decode() for line in told]
    parts = found[2].split(b"*2\r\n")
    assert 10 == len(parts)
    assert b"-ERR" in parts[5]


@pytest.mark.parametrize("shards", [1, 3])
def test_requests_of_one_connection_take_effect_in_order(talk, shards):
    rng = np.random.default_rng(0)
    model, pipeline, expected = {}, [create(dim=3)], [OK]
    for _ in range(200):
        vector_id, vector = int(rng.integers(8)), rng.normal(size=3).astype(np.float32)
        match rng.integers(4):
            case 0 | 1:
                pipeline.append(command("SKEG.VSET", "v", vector_id, vector.tobytes()))
                expected.append(OK)
                model[vector_id] = vector
            case 2:
                pipeline.append(command("SKEG.VDEL", "v", vector_id))
                expected.append(b":%d\r\n" % (model.pop(vector_id, None) is not None))
            case 3:
                pipeline.append(command("SKEG.VGET", "v", vector_id))
                held = model.get(vector_id)
                expected.append(b"$-1\r\n" if held is None else b"$12\r\n%b\r\n" % held.tobytes())
    (found,) = answers(talk, b"".join(pipeline), shards=shards)
    assert b"".join(expected) == found


def test_searches_see_the_vectors_that_were_set_before_them(talk):
    def one(i):
        vector = floats(1, i, 0, 0)
        return command("SKEG.VSET", "v", i, vector) + command("SKEG.VSEARCH", "v", 1, 0, vector)

    (_, found) = answers(talk, create(), b"".join(one(i) for i in range(30)))
    parts = found.split(OK)[1:]
    assert [b"%d" % i for i in range(30)] == [part.split(b"\r\n")[2] for part in parts]


def test_no_more_indexes_are_made_than_the_server_takes(talk):
    made = [command("SKEG.VINDEX.CREATE", f"v{i}", 4, "f32", "flat") for i in range(3)]
    drop = command("SKEG.VINDEX.DROP", "v0")
    first, second, third, dropped, again = answers(talk, *made, drop, made[2], max_indexes=2)
    assert [OK] * 4 == [first, second, dropped, again]
    assert b"number of indexes=2: expected fewer than 2 to make another (setting max_indexes)" in third


# --- serve mode


def test_a_server_for_reading_refuses_what_writes(talk):
    answers(talk, command("SET", "a", "1"), create(), command("SKEG.VSET", "v", 1, floats(1, 0, 0, 0)))
    refused = b"-READONLY storage error: server is in serve mode (read-only)\r\n"
    writes = [
        command("SET", "a", "2"), command("DEL", "a"), command("MSET", "a", "2"), command("INCR", "a"),
        command("APPEND", "a", "2"), command("SETNX", "a", "2"), command("GETSET", "a", "2"), command("GETDEL", "a"),
        create(), command("SKEG.VINDEX.DROP", "v"), command("SKEG.VINDEX.CONSOLIDATE", "v"),
        command("SKEG.VSET", "v", 2, floats(1, 0, 0, 0)), command("SKEG.VDEL", "v", 1),
        command("SKEG.VMSET", "v", 2, floats(1, 0, 0, 0), ""),
    ]  # fmt: skip
    assert [refused] * len(writes) == answers(talk, *writes, mode="r")
    run = b"".join(command("SET", f"a{i}", i) for i in range(10))
    assert [refused * 10] == answers(talk, run, mode="r")
    found = answers(
        talk, command("GET", "a"), command("SKEG.VSEARCH", "v", 1, 0, floats(1, 0, 0, 0)), command("SKEG.VINDEX.LIST"),
        mode="r",
    )  # fmt: skip
    assert b"$1\r\n1\r\n" == found[0]
    assert found[1].startswith(b"*2\r\n$1\r\n1\r\n")
    assert b"n_vectors=1" in found[2]


# --- the server


def test_info_stats_shards_and_config(talk):
    info, section, none, stats, shards, config, whoami = answers(
        talk,
        command("INFO"),
        command("INFO", "keyspace", "server"),
        command("INFO", "nothing"),
        command("SKEG.STATS"),
        command("SKEG.SHARDS"),
        command("CONFIG", "GET", "save", "append*"),
        command("SKEG.WHOAMI"),
        shards=2,
    )
    assert all(b"# %b\r\n" % name in info for name in (b"Server", b"Clients", b"Memory", b"Stats", b"Keyspace"))
    assert b"# Keyspace" in section
    assert b"# Clients" not in section
    assert b"$0\r\n\r\n" == none
    assert stats.split(b"\r\n")[1].startswith(b"cache_bytes=0 evictions=0 n_keys=0 budget=")
    lines = shards.split(b"\r\n")[1].splitlines()
    assert [b"shard=0", b"shard=1"] == [line.split()[0] for line in lines]
    assert (
        b"*6\r\n$10\r\nappendonly\r\n$3\r\nyes\r\n$11\r\nappendfsync\r\n$6\r\nalways\r\n$4\r\nsave\r\n$0\r\n\r\n"
        == config
    )
    assert b"$58\r\ntenant=00000000000000000000000000000000 mode=single-tenant\r\n" == whoami


def test_command_tells_of_every_command(talk):
    count, info, keys, none, docs = answers(
        talk,
        command("COMMAND", "COUNT"),
        command("COMMAND", "INFO", "get", "none"),
        command("COMMAND", "GETKEYS", "MSET", "a", "1", "b", "2"),
        command("COMMAND", "GETKEYS", "PING"),
        command("COMMAND", "DOCS", "get"),
    )
    assert 51 == int(count[1:])
    assert b"*2\r\n*6\r\n$3\r\nget\r\n:2\r\n*2\r\n+readonly\r\n+fast\r\n:1\r\n:1\r\n:1\r\n$-1\r\n" == info
    assert b"*2\r\n$1\r\na\r\n$1\r\nb\r\n" == keys
    assert none.startswith(b"-ERR The command has no key")
    assert docs.startswith(b"*2\r\n$3\r\nget\r\n*4\r\n$7\r\nsummary\r\n")
