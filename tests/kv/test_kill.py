"""No acknowledged write is lost when a process under load is killed; and the killer's oracle would have noticed."""

from __future__ import annotations

import marshal
import struct

import pytest

from skeg.kv import Store
from tests.kv.killer import Killer, Oracle, records, shard_of


def test_no_acknowledged_write_is_lost_and_no_other_is_torn(tmp_path):
    with Killer(tmp_path, seed=20260101) as killer:
        for _ in range(20):
            killer.round()
    assert ([], []) == (killer.report.complaints, killer.report.kept)
    assert killer.report.acknowledged > 0
    assert [] == list(tmp_path.iterdir())


def test_a_write_that_vanished_is_noticed_and_its_directory_is_kept(tmp_path):
    with Killer(tmp_path, seed=1) as killer:
        killer.round()
        while not killer._path:  # the first directory may have had its last round
            killer.round()
        with Store.open(killer._path) as store:
            store.set(b"9/", b"nobody's")
        kept = killer._path
        killer.round()
    assert [kept] == killer.report.kept
    assert "nobody" in killer.report.complaints[0]
    assert kept.exists()


def follow(*events, shards=1):
    """An oracle that has followed some events: an operation of lane 0 that has begun, or what the oldest returned."""
    oracle = Oracle(shards)
    for event in events:
        oracle.follow(("begin", 0, [event]) if isinstance(event, tuple) else ("end", 0, [event.result], True))
    return oracle


class Returned:
    def __init__(self, result=None):
        self.result = result


DONE = Returned()
SET_1, SET_2, DELETE = ("set", b"0/a", b"1"), ("set", b"0/a", b"2"), ("delete", b"0/a")
SET_BOTH = ("set_many", [(b"0/a", b"1"), (b"0/b", b"1")])
BOTH = {b"0/a": b"1", b"0/b": b"1"}


@pytest.mark.parametrize(
    ("events", "allowed", "refused"),
    [
        ([SET_1], [{}, {b"0/a": b"1"}], [{b"0/a": b"2"}, {b"0/a": b""}]),
        ([SET_1, DONE], [{b"0/a": b"1"}], [{}]),
        ([SET_1, DONE, SET_2], [{b"0/a": b"1"}, {b"0/a": b"2"}], [{}]),
        ([SET_1, DONE, SET_2, DONE], [{b"0/a": b"2"}], [{b"0/a": b"1"}, {}]),
        ([SET_1, DONE, DELETE], [{b"0/a": b"1"}, {}], [{b"0/a": b"2"}]),
        ([SET_1, DONE, DELETE, Returned(True)], [{}], [{b"0/a": b"1"}]),
        ([SET_1, SET_2], [{}, {b"0/a": b"1"}, {b"0/a": b"2"}], [{b"0/a": b"12"}]),
        ([SET_BOTH], [{}, BOTH], [{b"0/a": b"1"}, {b"0/b": b"1"}]),
        ([SET_BOTH, DONE], [BOTH], [{}, {b"0/a": b"1"}]),
        ([SET_BOTH, DONE, ("erase", b"0/")], [{}, BOTH], [{b"0/b": b"1"}]),
        ([("incr", b"0/n", 3), Returned(3), ("incr", b"0/n", 4)], [{b"0/n": b"3"}, {b"0/n": b"7"}], [{b"0/n": b"4"}]),
        ([SET_1, DONE, ("append", b"0/a", b"x")], [{b"0/a": b"1"}, {b"0/a": b"1x"}], [{b"0/a": b"x"}, {}]),
    ],
)
def test_what_a_lane_may_leave(events, allowed, refused):
    for contents, complains in [(each, False) for each in allowed] + [(each, True) for each in refused]:
        oracle = follow(*events)
        oracle.compare(contents)
        assert complains == bool(oracle.complaints), contents


def test_a_batch_is_whole_in_each_shard_of_its_own():
    keys = [b"0/%d" % i for i in range(20)]
    batch = dict.fromkeys(keys, b"v")
    first = {key: b"v" for key in keys if shard_of(key, 2) == 0}
    for contents, complains in [({}, False), (batch, False), (first, False), (dict([*batch.items()][:5]), True)]:
        oracle = follow(("set_many", [*batch.items()]), shards=2)
        oracle.compare(contents)
        assert complains == bool(oracle.complaints)


def test_what_was_not_made_durable_counts_when_a_sync_has_returned():
    for events, complains in [([], False), [[("begin", 0, [("sync",)]), ("end", 0, [None], True)], True]]:
        oracle = Oracle(1)
        for event in [("begin", 0, [SET_1]), ("end", 0, [None], False), *events]:
            oracle.follow(event)
        oracle.compare({})
        assert complains == bool(oracle.complaints)


def test_what_a_reopened_store_held_has_to_be_there_the_next_time():
    oracle = follow(SET_1)
    oracle.compare({b"0/a": b"1"})
    oracle.compare({})
    assert oracle.complaints


def test_a_wrong_answer_is_noticed():
    assert follow(SET_1, DONE, ("get", b"0/a"), Returned(b"2")).complaints
    assert not follow(SET_1, DONE, ("get", b"0/a"), Returned(b"1")).complaints
    assert follow(("get", b"r/0"), Returned(b"2")).complaints


def race(*events):
    """An oracle that has followed operations of several lanes: (lane, operation) or (lane, result)."""
    oracle = Oracle(1)
    for lane, event in events:
        oracle.follow(("begin", lane, [event]) if isinstance(event, tuple) else ("end", lane, [event.result], True))
    return oracle


A, B, GONE = ("set", b"r/0", b"a"), ("set", b"r/0", b"b"), ("delete", b"r/0")


@pytest.mark.parametrize(
    ("events", "allowed"),
    [
        ([(0, A), (1, B)], {b"a", b"b", None}),
        ([(0, A), (0, DONE), (1, B)], {b"a", b"b"}),
        ([(0, A), (1, B), (0, DONE), (1, DONE)], {b"a", b"b"}),
        ([(0, A), (0, DONE), (1, B), (1, DONE)], {b"b"}),
        ([(0, A), (0, DONE), (1, GONE)], {b"a", None}),
        ([(0, A), (0, DONE), (1, GONE), (1, Returned(True))], {None}),
        ([(0, GONE), (1, A), (0, Returned(False)), (1, DONE)], {b"a"}),
        ([(0, A), (1, ("get", b"r/0")), (1, Returned(b"a"))], {b"a"}),
    ],
)
def test_what_a_race_may_leave(events, allowed):
    for value in (b"a", b"b", None):
        oracle = race(*events)
        oracle.compare({} if value is None else {b"r/0": value})
        assert (value not in allowed) == bool(oracle.complaints)


@pytest.mark.parametrize(
    ("results", "left", "complains"),
    [((3, 7), 7, False), ((3, 7), 9, False), ((3, 7), 6, True), ((3, 7), 10, True), ((3, 3), 7, True)],
)
def test_what_increments_may_leave(results, left, complains):
    events = [(0, ("incr", b"c/0", 3)), (1, ("incr", b"c/0", 4)), (2, ("incr", b"c/0", 2))]
    oracle = race(*events, (0, Returned(results[0])), (1, Returned(results[1])))
    oracle.compare({b"c/0": b"%d" % left})
    assert complains == bool(oracle.complaints)


def test_the_journal_of_a_killed_process_ends_with_its_last_whole_record():
    data = b"".join(struct.pack("<I", len(m)) + m for m in map(marshal.dumps, [("open",), ("end", 0, [b"x"])]))
    for cut in range(len(data) + 1):
        whole = list(records(data[:cut]))
        assert whole == [("open",), ("end", 0, [b"x"])][: len(whole)]
    assert len(whole) == 2
