"""No acknowledged write is lost when a process that works on an index is killed; and the killer would have noticed."""

from __future__ import annotations

import pytest

from tests.ann.live.killer import CHUNK, Killer, Oracle


def test_no_acknowledged_write_is_lost_and_no_other_is_torn(tmp_path):
    killer = Killer(tmp_path, seed=20260101)
    for _ in range(4):
        killer.round()
    assert [] == killer.oracle.complaints
    assert killer.oracle.acknowledged > 0
    killer.close()
    assert [] == list(tmp_path.iterdir())


ADD_1, ADD_2, DELETE, END = "begin 0 add 5 1,2", "begin 0 add 6 2,3", "begin 0 delete 7 1,2", "end 0"


@pytest.mark.parametrize(
    ("lines", "allowed", "refused"),
    [
        ([ADD_1], [{}, {1: 5, 2: 5}], [{1: 5}, {1: 4, 2: 5}]),
        ([ADD_1, END], [{1: 5, 2: 5}], [{}, {1: 5}]),
        ([ADD_1, END, ADD_2], [{1: 5, 2: 5}, {1: 5, 2: 6, 3: 6}], [{}, {1: 5, 2: 6}, {1: 5, 2: 5, 3: 6}]),
        ([ADD_1, END, DELETE], [{1: 5, 2: 5}, {}], [{1: 5}]),
        ([ADD_1, END, DELETE, END], [{}], [{1: 5, 2: 5}, {7: 1}]),
    ],
)
def test_what_a_killed_process_may_leave(lines, allowed, refused):
    for found, complains in [(each, False) for each in allowed] + [(each, True) for each in refused]:
        oracle = Oracle()
        oracle.follow("".join(f"{line}\n" for line in lines).encode() + b"begin 0 ad")
        oracle.compare(found)
        assert complains == bool(oracle.complaints), found


def test_many_vectors_are_added_some_at_a_time():
    ids = list(range(CHUNK + 2))
    line = f"begin 0 many 9 {','.join(map(str, ids))}\n".encode()
    for count, complains in [(0, False), (3, True), (CHUNK, False), (CHUNK + 1, True), (CHUNK + 2, False)]:
        oracle = Oracle()
        oracle.follow(line)
        oracle.compare(dict.fromkeys(ids[:count], 9))
        assert complains == bool(oracle.complaints)


def test_a_process_that_failed_is_noticed():
    oracle = Oracle()
    oracle.follow(b"open\nfailed 'Traceback'\n")
    assert ["'Traceback'"] == oracle.complaints
