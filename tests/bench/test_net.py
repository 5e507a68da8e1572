"""What the benchmark, the soak and the comparisons of the server read and reckon; no server, nothing is timed."""

from __future__ import annotations

import struct
import sys

import numpy as np
import pytest

from tests.bench.harness.net_load import LoadError, hits_of, is_error, quantiles, search_requests, whole
from tests.bench.harness.net_memory import Rollup, family, parse_rollup, weigh
from tests.bench.harness.net_redis import BenchmarkError, parse_rates
from tests.bench.harness.net_server import Server, ServerGoneError, ports_of_skeg
from tests.bench.harness.net_wire import HEADER, MAGIC, OP_OK, Problem, WireError, command, reply_at
from tests.compat import replay
from tests.compat.scripts import Script, scripts
from tests.soak.net_killer import apply, possible, vector

RESP2_HITS = b"*4\r\n$1\r\n7\r\n$3\r\n0.5\r\n$2\r\n12\r\n$4\r\n-0.5\r\n"
BINARY_HITS = HEADER.pack(MAGIC, 1, OP_OK, 0, 1, 28, 0) + struct.pack("<IQfQf", 2, 7, 0.5, 12, -0.5)


class TestReplies:
    @pytest.mark.parametrize(
        ("data", "value"),
        [
            (b"+OK\r\n", b"OK"),
            (b"-ERR no\r\n", Problem("ERR no")),
            (b":-5\r\n", -5),
            (b",-0.5\r\n", -0.5),
            (b"_\r\n", None),
            (b"$-1\r\n", None),
            (b"#t\r\n", True),
            (b"$0\r\n\r\n", b""),
            (b"$4\r\na\r\nb\r\n", b"a\r\nb"),
            (b"*0\r\n", []),
            (b"*3\r\n:1\r\n*1\r\n$-1\r\n+x\r\n", [1, [None], b"x"]),
            (b"%1\r\n+a\r\n:1\r\n", [b"a", 1]),
        ],
    )
    def test_every_kind_is_read_and_none_before_it_is_whole(self, data, value):
        assert (value, len(data)) == reply_at(data)
        assert (value, 3 + len(data)) == reply_at(b"xyz" + data + b"+more\r\n", 3)
        assert {None} == {reply_at(data[:cut]) and cut for cut in range(len(data))}

    def test_what_is_no_reply_is_said_to_be_none(self):
        with pytest.raises(WireError, match="no reply begins with"):
            reply_at(b"PONG\r\n")

    def test_a_command_is_an_array_of_bulks(self):
        assert b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\n42\r\n" == command("SET", b"k", 42)


class TestLoad:
    @pytest.mark.parametrize(("protocol", "data"), [("resp", RESP2_HITS), ("binary", BINARY_HITS)])
    def test_a_reply_is_whole_at_its_last_byte_and_holds_its_hits(self, protocol, data):
        is_whole = whole(protocol, 2)
        assert [False] * len(data) + [True] == [is_whole(data[:cut]) for cut in range(len(data) + 1)]
        assert ([7, 12], [0.5, -0.5]) == hits_of(protocol, data)
        assert not is_error(data)

    @pytest.mark.parametrize("data", [b"-ERR no\r\n", HEADER.pack(MAGIC, 1, 0xC1, 0, 1, 2, 0) + b"\x03\x00"])
    def test_errors_of_both_protocols_are_known(self, data):
        assert is_error(data)

    def test_an_error_has_no_hits(self):
        with pytest.raises(LoadError, match="not a reply to a search"):
            hits_of("resp", b"-ERR no\r\n")

    def test_requests_carry_the_queries(self):
        queries = np.eye(2, dtype="<f4")
        made = search_requests("resp", "v", queries, 10, 20)
        assert [command("SKEG.VSEARCH", "v", 10, 20, query.tobytes()) for query in queries] == made
        assert [24 + 2 + 1 + 8 + 8 + 4] * 2 == [len(each) for each in search_requests("binary", "v", queries, 10, 20)]

    def test_quantiles_are_milliseconds(self):
        found = quantiles([0.001] * 99 + [0.1])
        assert (1.0, 100.0) == (found["p50"], found["longest"])
        with pytest.raises(LoadError):
            quantiles([])


class TestFigures:
    def test_memory_is_read_in_bytes(self):
        lines = ("Rss: 40 kB", "Pss: 20 kB", "Private_Clean: 1 kB", "Private_Dirty: 2 kB", "Anonymous: 5 kB")
        text = "\n".join(["55e0-7fff ---p 0 00:00 0 [rollup]", *lines])
        assert Rollup(40960, 20480, 3072, 5120) == parse_rollup(text)
        assert Rollup(2, 4, 6, 8) == Rollup(1, 2, 3, 4) + Rollup(1, 2, 3, 4)

    def test_the_table_of_redis_benchmark_is_found_behind_what_it_says_first(self):
        text = 'WARNING: x\n"test","rps","p99_latency_ms"\n"GET","100.50","0.7"\n'
        assert {"GET": {"rps": 100.5, "p99_latency_ms": 0.7}} == parse_rates(text)
        with pytest.raises(BenchmarkError):
            parse_rates("Error from server\n")

    def test_ports_are_told_when_the_server_is_ready(self):
        log = "INFO skeg: listening on 127.0.0.1:41 (resp)\nINFO skeg: listening on 127.0.0.1:42 (binary)\n"
        assert None is ports_of_skeg(log)
        assert {"resp": 41, "binary": 42} == ports_of_skeg(log + "INFO skeg: ready\n")


class TestServer:
    @staticmethod
    def start(tmp_path, code):
        return Server([sys.executable, "-c", code], tmp_path / "log", lambda log: {"resp": 1} if "up" in log else None)

    def test_it_is_weighed_with_its_children_and_ended_with_them(self, tmp_path):
        code = "import os, time; os.fork(); print('up', flush=True); time.sleep(60)"
        with self.start(tmp_path, code) as server:
            members = list(family(server.pid))
            assert 2 == len(members)
            assert weigh(server.pid).rss > 0
            server.kill()
        assert Rollup() == weigh(server.pid)

    def test_one_that_ends_by_itself_is_reported_with_its_log(self, tmp_path):
        with pytest.raises(ServerGoneError, match=r"ended with 3:\nbroken"):
            self.start(tmp_path, "import sys; print('broken'); sys.exit(3)")


class TestCompat:
    def test_names_of_scripts_are_unique_and_all_were_recorded(self):
        names = [script.name for script in scripts()]
        assert len(names) == len(set(names))
        assert set(names) == set(replay.recorded())

    def test_figures_of_one_run_are_masked(self):
        first = b"$30\r\ncache_bytes=1 evictions=2 n_keys=3 budget=4\n\nmetric 1\n\n# x\n\r\n+OK\r\n"
        assert b"<stats>+OK\r\n" == replay.masked(first)
        assert b"$2\r\nid\r\n:#\r\n" == replay.masked(b"$2\r\nid\r\n:77\r\n")

    def test_a_difference_needs_a_reason_and_a_reason_a_difference(self):
        plain, excused = Script("a", "resp", ()), Script("b", "resp", (), "because")
        assert [[], 1, 1, []] == [
            replay.judge(plain, "x", "x"),
            len(replay.judge(plain, "x", "y")),
            len(replay.judge(excused, "x", "x")),
            replay.judge(excused, "x", "y"),
        ]

    def test_a_server_that_answers_as_the_original_differs_where_ours_is_said_to(self):
        theirs = replay.recorded()
        answers = iter(theirs[script.name].encode("latin-1") for script in scripts())
        found = replay.compare(lambda *_: next(answers))
        assert sum(script.why is not None for script in scripts()) == len(found)


class TestKiller:
    def test_what_was_acknowledged_stays_until_a_later_change(self):
        under_way = [("append", b"k", b"x"), ("del", b"k", b""), ("incr", b"k", b""), ("set", b"k", b"z")]
        assert [b"1", b"1x", None, b"1", b"z"] == list(possible(b"1", under_way))
        assert [None] == list(possible(None, []))
        assert b"8" == apply(b"7", ("incr", b"k", b""))

    def test_vectors_have_length_1_and_differ(self):
        made = [np.frombuffer(vector(number), "<f4") for number in (0, 1, 5, 65535)]
        assert [1.0] * 4 == [float(np.linalg.norm(each)) for each in made]
        assert 4 == len({each.tobytes() for each in made})
