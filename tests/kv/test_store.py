"""Every call of a store, at its limits: what it returns, what it refuses, and that what it refuses changes nothing."""

from __future__ import annotations

import array
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from xxhash import xxh3_64_intdigest

import skeg
from skeg import (
    ClosedError,
    CorruptError,
    FormatError,
    ParameterError,
    ReadOnlyError,
    StorageError,
    ValueTypeError,
    VersionTooNewError,
)
from skeg.binary import canonical_json, checksum
from skeg.kv import Durability, Store, StoreOptions
from skeg.kv import format as fmt

LONGEST = b"k" * 65_535
TOO_LONG = b"k" * 65_536

# Every call that takes one key, and those that take a value too.
WITH_KEY = {
    "get": lambda store, key: store.get(key),
    "in": lambda store, key: key in store,
    "mget": lambda store, key: store.mget([b"a", key]),
    "set": lambda store, key: store.set(key, b"v"),
    "delete": lambda store, key: store.delete(key),
    "append": lambda store, key: store.append(key, b"v"),
    "incr": lambda store, key: store.incr(key),
    "set_if_absent": lambda store, key: store.set_if_absent(key, b"v"),
    "set_if_present": lambda store, key: store.set_if_present(key, b"v"),
    "get_set": lambda store, key: store.get_set(key, b"v"),
    "set_many": lambda store, key: store.set_many([(b"new", b"v"), (key, b"v")]),
    "scan": lambda store, key: list(store.scan(key)),
    "erase": lambda store, key: store.erase(key),
}
WITH_VALUE = {
    "set": lambda store, key, value: store.set(key, value),
    "append": lambda store, key, value: store.append(key, value),
    "set_if_absent": lambda store, key, value: store.set_if_absent(key, value),
    "set_if_present": lambda store, key, value: store.set_if_present(key, value),
    "get_set": lambda store, key, value: store.get_set(key, value),
    "set_many": lambda store, key, value: store.set_many({b"new": b"v", key: value}),
}
# Every call that writes, whether it has something to do (the keys a and n exist) or not.
WRITING = {
    "set": lambda store, **how: store.set(b"a", b"v", **how),
    "delete": lambda store, **how: store.delete(b"a", **how),
    "delete nothing": lambda store, **how: store.delete(b"none", **how),
    "append": lambda store, **how: store.append(b"a", b"v", **how),
    "incr": lambda store, **how: store.incr(b"n", **how),
    "set_if_absent": lambda store, **how: store.set_if_absent(b"new", b"v", **how),
    "set_if_absent, present": lambda store, **how: store.set_if_absent(b"a", b"v", **how),
    "set_if_present": lambda store, **how: store.set_if_present(b"a", b"v", **how),
    "set_if_present, absent": lambda store, **how: store.set_if_present(b"new", b"v", **how),
    "get_set": lambda store, **how: store.get_set(b"a", b"v", **how),
    "set_many": lambda store, **how: store.set_many({b"a": b"v", b"new": b"v"}, **how),
    "set_many of nothing": lambda store, **how: store.set_many({}, **how),
    "erase": lambda store, **how: store.erase(b"a", **how),
    "erase nothing": lambda store, **how: store.erase(b"none", **how),
}
MAINTAINING = {"compact": lambda store: store.compact(), "sync": lambda store: store.sync()}


def options(**changes):
    return StoreOptions(**{"background": False, "segment_bytes": 512} | changes)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def store(path):
    with Store.open(path, options=options()) as opened:
        yield opened


def reopened(store, **changes):
    store.close()
    return Store.open(store.path, options=options(**changes))


def image(folder):
    """Contents and time of change of every file, and of the folders, by path."""
    return {
        str(file.relative_to(folder)): (file.stat().st_mtime_ns, file.read_bytes() if file.is_file() else b"")
        for file in [folder, *sorted(folder.rglob("*"))]
    }


def logs(path):
    return sorted(path.glob("shard-*/*.log"))


def remove_hints(path):
    for hint in path.glob("shard-*/*.hint"):
        hint.unlink()


# Keys and values


@pytest.mark.parametrize("key", [b"", b"\0", b"\xff" * 7, LONGEST], ids=len)
@pytest.mark.parametrize("value", [b"", b"\0" * 9, b"v" * 100_000], ids=len)
def test_any_bytes_come_back(store, key, value):
    for _ in range(2):
        store.set(key, value)
        assert value == store.get(key)
        assert [value, None, value] == store.mget([key, b"other", key])
        assert key in store
        assert [(key, value)] == list(store.scan())
        assert 1 == len(store)
        store = reopened(store)
    assert value == store.get(key)
    assert store.delete(key)
    assert key not in store
    store = reopened(store)
    assert (None, 0) == (store.get(key), len(store))
    store.close()


@pytest.mark.parametrize("call", WITH_KEY)
def test_a_key_that_is_too_long_is_refused_with_both_sizes(store, path, call):
    before = image(path)
    with pytest.raises(ParameterError, match=r"65536 bytes.*at most 65535 bytes"):
        WITH_KEY[call](store, TOO_LONG)
    assert before == image(path)
    assert 0 == len(store)


@pytest.mark.parametrize("call", WITH_KEY)
@pytest.mark.parametrize("key", ["text", None, 5, 1.5, [b"a"], (b"a",)], ids=repr)
def test_a_key_that_is_no_bytes_is_refused(store, path, call, key):
    before = image(path)
    with pytest.raises(ParameterError, match="bytes"):
        WITH_KEY[call](store, key)
    assert before == image(path)
    assert 0 == len(store)


@pytest.mark.parametrize("call", WITH_VALUE)
@pytest.mark.parametrize("value", ["text", None, 5, [b"a"]], ids=repr)
def test_a_value_that_is_no_bytes_is_refused(store, path, call, value):
    store.set(b"there", b"v")
    before = image(path)
    for key in (b"there", b"absent"):
        with pytest.raises(ParameterError, match="bytes"):
            WITH_VALUE[call](store, key, value)
    assert before == image(path)
    assert {b"there": b"v"} == dict(store.scan())


@pytest.mark.parametrize("call", WITH_VALUE)
def test_a_value_that_is_too_long_is_refused_before_anything_is_written(store, path, call, monkeypatch):
    assert 512 << 20 == fmt.VALUE_BYTES_MAX
    monkeypatch.setattr(fmt, "VALUE_BYTES_MAX", 1000)
    store.set(b"there", b"")
    before = image(path)
    for key in (b"there", b"absent"):
        with pytest.raises(ParameterError, match=r"1001 bytes.*at most 1000 bytes"):
            WITH_VALUE[call](store, key, bytes(1001))
    assert before == image(path)
    assert {b"there": b""} == dict(store.scan())
    WITH_VALUE[call](store, b"there", bytes(1000))
    assert [b"", bytes(1000)][call != "set_if_absent"] == store.get(b"there")


def test_a_value_that_would_grow_too_long_stays_as_it_is(store, path, monkeypatch):
    monkeypatch.setattr(fmt, "VALUE_BYTES_MAX", 1000)
    assert 600 == store.append(b"a", bytes(600))
    before = image(path)
    with pytest.raises(ParameterError, match=r"1001 bytes.*at most 1000 bytes"):
        store.append(b"a", bytes(401))
    assert before == image(path)
    assert 1000 == store.append(b"a", bytes(400))
    assert 1000 == store.append(b"a", b"")


def test_a_batch_that_is_too_large_for_a_shard_writes_nothing(store, path, monkeypatch):
    monkeypatch.setattr(fmt, "BATCH_BYTES_MAX", 1000)
    before = image(path)
    with pytest.raises(ParameterError, match="at most 1000 bytes"):
        store.set_many({b"%d" % n: bytes(300) for n in range(4)})
    assert before == image(path)
    assert 0 == len(store)
    store.set_many({b"%d" % n: bytes(200) for n in range(3)})
    assert 3 == len(store)


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_other_buffers_are_taken_as_the_bytes_that_they_hold(store, kind):
    data = bytearray(b"abc")
    store.set(kind(data), kind(data))
    store.append(kind(data), kind(data))
    data[:] = b"xyz"
    assert [(b"abc", b"abcabc")] == list(store.scan(kind(b"a")))
    assert {type(part) for pair in store.scan() for part in pair} == {bytes}
    assert b"abcabc" == store.get(kind(b"abc"))
    assert store.delete(kind(b"abc"))


def test_the_size_of_a_buffer_is_that_of_its_bytes(store, monkeypatch):
    """Not the number of its items."""
    monkeypatch.setattr(fmt, "VALUE_BYTES_MAX", 1000)
    for key, value in ((array.array("I", range(20_000)), b""), (b"", array.array("Q", range(126)))):
        with pytest.raises(ParameterError, match="at most"):
            store.set(memoryview(key), memoryview(value))
        with pytest.raises(ParameterError, match="at most"):
            store.set_many([(bytes(key), memoryview(value))])
    assert 0 == len(store)
    store.set(b"", memoryview(array.array("Q", range(125))))
    assert 1000 == len(store.get(b""))


# One key


def test_set_replaces_and_delete_says_whether_there_was_something(store):
    store.set(b"a", b"1")
    store.set(b"a", b"2")
    assert b"2" == store.get(b"a")
    assert [True, False, False] == [store.delete(b"a"), store.delete(b"a"), store.delete(b"never")]
    assert None is store.get(b"a")
    store.set(b"a", b"3")
    assert {b"a": b"3"} == dict(reopened(store).scan())


def test_append_returns_the_new_length(store):
    assert [3, 3, 5] == [store.append(b"a", part) for part in (b"abc", b"", b"de")]
    assert b"abcde" == store.get(b"a")
    assert 0 == store.append(b"empty", b"")
    assert b"" == store.get(b"empty")
    store.delete(b"a")
    assert 1 == store.append(b"a", b"f")


@pytest.mark.parametrize(
    ("value", "delta", "total"),
    [
        (None, 1, 1),
        (None, -5, -5),
        (None, 0, 0),
        (b"0", 2**63 - 1, 2**63 - 1),
        (b"0", -(2**63), -(2**63)),
        (b"9223372036854775807", -(2**63), -1),
        (b"-9223372036854775808", 2**63 - 1, -1),
        (b"9223372036854775806", 1, 2**63 - 1),
        (b"-1", 1, 0),
    ],
)
def test_incr_adds_within_64_bits(store, value, delta, total):
    if value is not None:
        store.set(b"n", value)
    assert total == store.incr(b"n", delta)
    assert b"%d" % total == store.get(b"n")
    assert total == store.incr(b"n", 0)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b" 1",
        b"1 ",
        b"1\n",
        b"+1",
        b"-0",
        b"00",
        b"01",
        b"-01",
        b"1.0",
        b"1e3",
        b"1_000",
        b"0x10",
        b"-",
        b"\xd9\xa1",
        b"9223372036854775808",
        b"-9223372036854775809",
        b"1" * 5000,
    ],
)
def test_incr_takes_no_value_that_is_not_the_spelling_of_an_integer(store, path, value):
    store.set(b"n", value)
    before = image(path)
    with pytest.raises(ValueTypeError, match="integer of 64 bits") as caught:
        store.incr(b"n")
    assert (b"n", value) == (caught.value.key, caught.value.value)
    assert len(str(caught.value)) < 200
    assert before == image(path)
    assert value == store.get(b"n")


@pytest.mark.parametrize(("value", "delta"), [(2**63 - 1, 1), (-(2**63), -1), (1, 2**63 - 1), (-2, -(2**63))])
def test_incr_does_not_overflow(store, value, delta):
    store.set(b"n", b"%d" % value)
    with pytest.raises(ParameterError, match="64 bits"):
        store.incr(b"n", delta)
    assert b"%d" % value == store.get(b"n")


@pytest.mark.parametrize("delta", [2**63, -(2**63) - 1, 1.0, "1", b"1", None], ids=repr)
def test_incr_takes_no_delta_that_is_not_an_integer_of_64_bits(store, delta):
    with pytest.raises(ParameterError, match="delta"):
        store.incr(b"n", delta)
    assert b"n" not in store


def test_conditional_sets_tell_whether_they_were_done(store):
    assert not store.set_if_present(b"a", b"0")
    assert b"a" not in store
    assert store.set_if_absent(b"a", b"")  # an empty value is a value
    assert not store.set_if_absent(b"a", b"2")
    assert b"" == store.get(b"a")
    assert store.set_if_present(b"a", b"3")
    assert b"3" == store.get(b"a")
    store.delete(b"a")
    assert not store.set_if_present(b"a", b"4")
    assert store.set_if_absent(b"a", b"5")
    assert {b"a": b"5"} == dict(reopened(store).scan())


def test_get_set_returns_what_was_there(store):
    assert None is store.get_set(b"a", b"")
    assert b"" == store.get_set(b"a", b"1")
    assert b"1" == store.get_set(b"a", b"1")
    store.delete(b"a")
    assert None is store.get_set(b"a", b"2")


@pytest.mark.parametrize("call", WRITING)
@pytest.mark.parametrize("durability", [2, "SYNC", True], ids=repr)
def test_a_durability_is_one_of_the_three(store, path, call, durability):
    store.set(b"a", b"1")
    before = image(path)
    with pytest.raises(ParameterError, match="durability"):
        WRITING[call](store, durability=durability)
    assert before == image(path)
    assert {b"a": b"1"} == dict(store.scan())


@pytest.mark.parametrize("call", WRITING)
@pytest.mark.parametrize("level", Durability)
def test_every_write_takes_every_durability(store, call, level):
    store.set(b"a", b"1")
    WRITING[call](store, durability=level)
    after = dict(store.scan())
    assert after == dict(reopened(store).scan())


# Many keys


def test_mget_answers_in_order_with_repetitions(store):
    store.set_many({b"a": b"1", b"b": b"", b"c": b"3"})
    for _ in range(2):  # from the disk, then from the cache
        assert [b"3", None, b"1", b"", b"3"] == store.mget([b"c", b"x", b"a", b"b", b"c"])
    assert [b"1", None] == store.mget(iter((b"a", b"")))
    assert [b"1"] == store.mget({b"a": 0})
    assert [] == store.mget([])


@pytest.mark.parametrize("keys", [5, None, b"ab", "ab"], ids=repr)
def test_mget_of_something_else_is_refused(store, keys):
    with pytest.raises(ParameterError):
        store.mget(keys)


@pytest.mark.parametrize(
    "pairs",
    [
        {b"a": b"1", b"b": b"2"},
        [(b"a", b"0"), (b"b", b"2"), (b"a", b"1")],
        ((key, value) for key, value in [(b"a", b"1"), (b"b", b"0"), (b"b", b"2")]),
        [[b"a", b"1"], [memoryview(b"b"), bytearray(b"2")]],
    ],
    ids=["dict", "list", "generator", "lists"],
)
def test_set_many_takes_pairs_and_the_last_of_a_key_counts(store, pairs):
    store.set(b"b", b"before")
    store.set_many(pairs)
    assert {b"a": b"1", b"b": b"2"} == dict(store.scan())
    assert {b"a": b"1", b"b": b"2"} == dict(reopened(store).scan())


@pytest.mark.parametrize(
    "pairs",
    [
        5,
        None,
        "text",
        b"ab",
        [b"ab"],
        [(b"a", b"1"), b"bc"],
        [(b"a", b"1"), (b"b",)],
        [(b"a", b"1"), (b"b", b"2", b"3")],
        [(b"a", b"1"), ("b", b"2")],
        [(b"a", b"1"), (b"b", None)],
        {b"a": b"1", 5: b"2"},
        [(b"a", b"1"), ([], b"2")],
    ],
    ids=repr,
)
def test_set_many_of_anything_else_writes_nothing(store, path, pairs):
    before = image(path)
    with pytest.raises(ParameterError):
        store.set_many(pairs)
    assert before == image(path)
    assert 0 == len(store)


def test_pairs_that_end_in_an_error_write_nothing(store):
    def pairs():
        yield b"a", b"1"
        raise LookupError

    with pytest.raises(LookupError):
        store.set_many(pairs())
    assert 0 == len(store)
    store.set(b"a", b"2")
    assert {b"a": b"2"} == dict(store.scan())


def test_set_many_of_nothing_and_of_one_pair(store):
    store.set_many([])
    assert 0 == len(store)
    store.set_many({b"a": b"1"})
    assert {b"a": b"1"} == dict(reopened(store).scan())


def test_a_batch_larger_than_a_segment(store):
    pairs = {b"%d" % n: b"%d" % n * 30 for n in range(200)}
    store.set_many(pairs)
    assert pairs == dict(store.scan())
    store.set_many(dict.fromkeys(pairs, b"short"))
    assert dict.fromkeys(pairs, b"short") == dict(reopened(store).scan())


def test_scan_gives_keys_with_a_prefix(store):
    pairs = {key: b"v" + key for key in [b"", b"a", b"ab", b"abc", b"b", b"\xff", b"\xff\xff"]}
    store.set_many(pairs)
    for prefix in [*pairs, b"abcd", b"\0"]:
        assert {k: v for k, v in pairs.items() if k.startswith(prefix)} == dict(store.scan(prefix))
    assert pairs == dict(store.scan())


def test_scan_is_of_the_moment_when_its_first_pair_is_asked_for(store, path):
    pairs = {b"%d" % n: b"%d" % n * 20 for n in range(100)}
    scan = store.scan()
    store.set_many(pairs)
    found = dict([next(scan)])
    for n in range(100):
        store.set(b"%d" % n, b"newer" * 20)
        store.set(b"new%d" % n, b"x" * 50)
    store.erase(b"new1")
    store.compact()
    store.delete(b"7")
    store.set_many(dict.fromkeys(pairs, b""))
    store.compact()
    files = len(logs(path))
    found |= scan
    assert pairs == found
    # What only the scan had still needed is gone with it.
    assert len(logs(path)) < files
    assert {b""} == {value for key, value in store.scan() if key in pairs}
    assert [] == store.verify()


def test_a_scan_that_is_given_up_holds_no_files(store, path):
    store.set_many({b"%d" % n: bytes(100) for n in range(50)})
    scan = store.scan()
    next(scan)
    store.erase(b"")
    store.compact()
    held = logs(path)
    scan.close()
    assert len(logs(path)) < len(held)
    assert 0 <= store.compact()
    assert [] == list(store.scan())


def test_scans_at_the_same_time_do_not_disturb_each_other(store):
    found = []
    scans = []
    for n in range(5):
        store.set(b"%d" % n, b"x" * 300)
        scans.append(store.scan())
        found.append([next(scans[-1])])
        store.compact()
    sizes = [len(dict([*first, *rest])) for first, rest in zip(found, scans, strict=True)]
    assert [1, 2, 3, 4, 5] == sizes


def test_erase_deletes_what_starts_with_a_prefix_and_counts_it(store):
    store.set_many(dict.fromkeys([b"", b"a", b"ab", b"abc", b"b"], b"v"))
    assert [0, 2, 1, 0] == [store.erase(prefix) for prefix in (b"x", b"ab", b"a", b"a")]
    assert {b"", b"b"} == dict(store.scan()).keys()
    store = reopened(store)
    assert {b"", b"b"} == dict(store.scan()).keys()
    assert 2 == store.erase(b"")
    assert 0 == len(store)
    store.close()


def test_len_counts_keys(store):
    lengths = []
    for call in (
        lambda: store.set(b"a", b"1"),
        lambda: store.set(b"a", b"2"),
        lambda: store.set_many({b"a": b"", b"b": b"", b"c": b""}),
        lambda: store.delete(b"b"),
        lambda: store.delete(b"b"),
        lambda: store.erase(b"a"),
        lambda: store.incr(b"n"),
    ):
        call()
        lengths.append((len(store), len(list(store.scan()))))
    assert [(n, n) for n in (1, 1, 3, 2, 2, 1, 2)] == lengths
    assert 2 == len(reopened(store))


# Closing


READING = {
    "get": lambda store: store.get(b"a"),
    "in": lambda store: b"a" in store,
    "mget": lambda store: store.mget([b"a"]),
    "len": len,
    "scan": lambda store: next(store.scan()),
    "stats": lambda store: store.stats(),
    "verify": lambda store: store.verify(),
    "snapshot": lambda store: store.snapshot(store.path.with_name("copy")),
}


@pytest.mark.parametrize("call", WRITING | MAINTAINING | READING)
@pytest.mark.parametrize("mode", ["rw", "r"])
def test_a_closed_store_says_so(path, call, mode):
    with Store.open(path, options=options()) as store:
        store.set_many({b"a": b"1", b"n": b"2"})
    with Store.open(path, mode=mode, options=options()) as store:
        assert b"1" == store.get(b"a")
    before = image(path)
    with pytest.raises(ClosedError, match="closed"):
        (WRITING | MAINTAINING | READING)[call](store)
    assert before == image(path)
    assert [path] == list(path.parent.iterdir())
    assert store.closed


def test_a_scan_ends_with_its_store(store):
    store.set_many({b"%d" % n: bytes(100) for n in range(50)})
    scan = store.scan()
    next(scan)
    store.close()
    with pytest.raises(ClosedError, match="closed"):
        list(scan)


def test_closing_twice_and_leaving_by_an_exception(path):
    def use():
        with store:
            store.set(b"a", b"1", durability=Durability.NONE)
            raise LookupError

    store = Store.open(path, options=options())
    with pytest.raises(LookupError):
        use()
    assert store.closed
    store.close()
    with Store.open(path, options=options()) as store:
        assert not store.closed
        assert b"1" == store.get(b"a")


def test_nothing_stays_open(path):
    """Neither descriptors after closing, nor anything that Python warns of."""
    script = """
import gc, os, sys
from skeg.kv import Store, StoreOptions
def use(mode):
    with Store.open(sys.argv[1], mode=mode, shards=2, options=StoreOptions(segment_bytes=512)) as store:
        for n in range(60 if mode == "rw" else 0):
            store.set(b"%d" % (n % 7), bytes(100))
        next(store.scan())
        store.mget([b"1", b"2"])
        if mode == "rw":
            store.compact()
    gc.collect()
    return len(os.listdir("/proc/self/fd"))
use("rw")
print(len({use("rw"), use("r"), use("rw"), use("r")}))
"""
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", script, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (0, "1\n", "") == (done.returncode, done.stdout, done.stderr)


# Reading only


@pytest.mark.parametrize("call", WRITING | MAINTAINING)
def test_a_store_opened_for_reading_refuses_to_write(path, call):
    with Store.open(path, options=options()) as store:
        store.set_many({b"a": b"1", b"n": b"2"})
        store.delete(b"x")
    before = image(path)
    with Store.open(path, mode="r", options=options()) as reader:
        with pytest.raises(ReadOnlyError, match="reading only") as caught:
            (WRITING | MAINTAINING)[call](reader)
        assert str(path) in str(caught.value)
        assert {b"a": b"1", b"n": b"2"} == dict(reader.scan())
    assert before == image(path)


@pytest.mark.parametrize("tail", [b"", b"half a record", bytes(64)])
def test_reading_changes_no_byte_and_no_time_of_change(path, tmp_path, tail):
    """Not even beside a torn tail, reserved space or unfinished files, which opening for writing would clear away."""
    with Store.open(path, shards=2, options=options()) as store:
        store.set_many({b"%d" % n: bytes(n) for n in range(100)})
        for n in range(100):
            store.set(b"%d" % (n % 9), b"%d" % n)
    remove_hints(path)
    with open(logs(path)[-1], "ab") as file:
        file.write(tail)
    (path / "shard-0" / "0000000099.log.tmp").write_bytes(b"unfinished")
    (path / "lock").unlink()
    before = image(path)
    with Store.open(path, mode="r") as reader:
        assert 100 == len(reader)
        assert reader.mget([b"%d" % n for n in range(9)]) == [b"%d" % max(range(n, 100, 9)) for n in range(9)]
        assert b"50" in reader
        assert None is reader.get(b"none")
        assert 100 == len(dict(reader.scan()))
        assert 100 == reader.stats()["keys"]
        assert [] == reader.verify()
        reader.snapshot(tmp_path / "copy")
    assert before == image(path)
    with Store.open(tmp_path / "copy") as copy:
        assert 100 == len(copy)


def test_a_reader_sees_the_store_as_it_was_opened(path):
    with Store.open(path, options=options()) as store:
        store.set(b"a", b"1")
        with Store.open(path, mode="r") as reader, Store.open(path, mode="r") as other:
            store.set(b"a", b"2")
            store.set(b"b", b"2")
            store.erase(b"")
            store.compact()
            assert [{b"a": b"1"}] * 2 == [dict(reader.scan()), dict(other.scan())]
            assert (b"1", None) == (reader.get(b"a"), other.get(b"b"))


@pytest.mark.parametrize("mode", ["r", "rw"])
def test_a_folder_that_is_missing(tmp_path, mode):
    with pytest.raises(StorageError, match="missing"):
        Store.open(tmp_path / "missing" / "store", mode=mode)
    with pytest.raises(FormatError, match="not a key-value store"):
        Store.open(tmp_path / "missing", mode="r")
    assert [] == list(tmp_path.iterdir())


# What a folder holds


def test_a_new_store_is_a_folder_with_a_manifest(path):
    Store.open(path, shards=3).close()
    assert {"lock", "manifest.json", "shard-0", "shard-1", "shard-2"} == {file.name for file in path.iterdir()}
    assert [3, "skeg-kv", 1] == [
        json.loads((path / "manifest.json").read_bytes())[k] for k in ("shards", "format", "version")
    ]


def test_an_empty_folder_becomes_a_store(path):
    path.mkdir()
    with Store.open(path) as store:
        store.set(b"a", b"1")
    assert (path / "manifest.json").is_file()


@pytest.mark.parametrize("mode", ["r", "rw"])
def test_a_folder_with_something_else_is_left_alone(path, mode):
    path.mkdir()
    (path / "photo.jpg").write_bytes(b"precious")
    before = image(path)
    with pytest.raises(FormatError, match="not a key-value store"):
        Store.open(path, mode=mode)
    assert before == image(path)


@pytest.mark.parametrize("mode", ["r", "rw"])
def test_a_file_is_no_store(path, mode):
    path.write_bytes(b"precious")
    with pytest.raises(StorageError, match="store"):
        Store.open(path, mode=mode)
    assert b"precious" == path.read_bytes()


def test_data_without_a_manifest_is_never_taken_for_a_new_store(path):
    with Store.open(path) as store:
        store.set(b"a", b"1")
    manifest = (path / "manifest.json").read_bytes()
    (path / "manifest.json").unlink()
    with pytest.raises(CorruptError, match="missing"):
        Store.open(path)
    with pytest.raises(FormatError, match=r"manifest\.json"):
        Store.open(path, mode="r")
    (path / "manifest.json").write_bytes(manifest)
    with Store.open(path) as store:
        assert b"1" == store.get(b"a")


def test_every_flipped_bit_of_the_manifest_is_noticed(path):
    with Store.open(path, shards=2) as store:
        store.set(b"a", b"1")
    good = (path / "manifest.json").read_bytes()
    for position in range(len(good)):
        bad = bytearray(good)
        bad[position] ^= 1 << position % 8
        (path / "manifest.json").write_bytes(bad)
        with pytest.raises((CorruptError, FormatError), match="manifest"):
            Store.open(path, mode="r")
    (path / "manifest.json").write_bytes(good[:-1])
    with pytest.raises(CorruptError, match="manifest"):
        Store.open(path)


def test_a_manifest_of_a_newer_version_is_refused_as_such(path):
    Store.open(path).close()
    fields = json.loads((path / "manifest.json").read_bytes()) | {"version": 2, "more": [1]}
    del fields["checksum"]
    fields["checksum"] = f"{checksum(canonical_json('manifest', fields)):016x}"
    (path / "manifest.json").write_bytes(canonical_json("manifest", fields))
    for mode in ("r", "rw"):
        with pytest.raises(VersionTooNewError, match="newer"):
            Store.open(path, mode=mode)


def test_segments_of_another_store_are_refused(path, tmp_path):
    for place in (path, tmp_path / "other"):
        with Store.open(place) as store:
            store.set(b"a", b"1")
    remove_hints(path)
    logs(tmp_path / "other")[0].replace(logs(path)[0])
    with pytest.raises(FormatError, match="another shard or store"):
        Store.open(path)


def test_a_damaged_store_opens_with_what_is_whole_only_when_asked(path):
    with Store.open(path, options=options()) as store:
        for n in range(9):
            store.set(b"%d" % n, b"%d" % n * 200)
    remove_hints(path)
    damaged = logs(path)[1]
    good = damaged.read_bytes()
    damaged.write_bytes(good[:70] + bytes([good[70] ^ 1]) + good[71:])
    for mode in ("r", "rw"):
        with pytest.raises(CorruptError, match="checksum") as caught:
            Store.open(path, mode=mode, options=options())
        assert (str(damaged), 64) == (caught.value.path, caught.value.offset)
    with pytest.raises(ParameterError, match="salvage"):
        Store.open(path, mode="r", options=options(salvage=True))
    with Store.open(path, options=options(salvage=True)) as store:
        lost = store.stats()["dropped"]
        assert [(str(damaged), 64)] == [(entry["path"], entry["offset"]) for entry in lost]
        found = dict(store.scan())
        assert 0 < len(found) < 9
        assert [b"%d" % int(key) * 200 for key in found] == list(found.values())
        assert [] == store.verify()
    with Store.open(path, options=options()) as store:
        assert found == dict(store.scan())
        assert [] == store.stats()["dropped"]


# Shards

# xxh3_64 of keys, to be taken modulo the number of shards.
HASHES = {
    b"": 0x2D06800538D394C2,
    b"alpha": 0xBE6903B5F625AB5A,
    b"beta": 0x28FAFF7F97DFF641,
    b"k1": 0x81AFBF86B72A36C5,
    b"key_0": 0x14165D09991825AD,
    b"counter": 0x4ADF3B791635581D,
    b"\x00\xff\x01": 0xCB45946008C74ED8,
    bytes(8): 0xC77B3ABB6F87ACD9,
    (42).to_bytes(8, "little"): 0xD5A6F8C838DF27C8,
    b"\xff" * 8: 0x5111C7E47D784413,
}


@pytest.mark.parametrize("shards", [1, 2, 3, 4, 8])
def test_a_key_is_in_the_shard_that_its_hash_says(path, shards):
    values = {key: b"value of <%s>" % key.hex().encode() for key in HASHES}
    with Store.open(path, shards=shards, options=options()) as store:
        for key in list(values)[::2]:
            store.set(key, values[key])
        store.set_many({key: values[key] for key in list(values)[1::2]})
    for key, value in values.items():
        holding = {log.parent.name for log in logs(path) if value in log.read_bytes()}
        assert {f"shard-{HASHES[key] % shards}"} == holding
        assert HASHES[key] == xxh3_64_intdigest(key)
    with Store.open(path, options=options()) as store:
        assert values == dict(store.scan())
        assert list(values.values()) == store.mget(list(values))
        assert len(values) == len(store) == store.stats()["keys"]
        assert shards == store.stats()["shards"]
        assert len(values) == store.erase(b"")
        assert 0 == len(store)


@pytest.mark.parametrize("mode", ["r", "rw"])
def test_another_number_of_shards_is_refused_with_the_right_one(path, mode):
    with Store.open(path, shards=3) as store:
        store.set(b"a", b"1")
    for wrong in (1, 2, 4):
        with pytest.raises(ParameterError, match=r"shards=.*expected 3"):
            Store.open(path, shards=wrong, mode=mode)
    for right in (3, None):
        with Store.open(path, shards=right, mode=mode) as store:
            assert b"1" == store.get(b"a")


@pytest.mark.parametrize("shards", [0, -1, 1025, 1.0, "2", True], ids=repr)
def test_a_number_of_shards_out_of_range_makes_no_store(path, shards):
    with pytest.raises(ParameterError, match="shards"):
        Store.open(path, shards=shards)
    assert not path.exists()


def test_many_shards_of_many_segments_leave_descriptors_to_others(path):
    with Store.open(path, shards=5, options=options(segment_bytes=256, durability=Durability.OS)) as store:
        for n in range(1600):
            store.set(b"%d" % n, bytes(200))
        store.compact()
        assert 1600 == len(dict(store.scan()))
        assert len(os.listdir("/proc/self/fd")) < 600
    with Store.open(path, options=options()) as store:
        assert 1600 == len(dict(store.scan()))
        assert len(os.listdir("/proc/self/fd")) < 600


# Options and paths


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("segment_bytes", [255, (256 << 20) + 1, 0, -1, 1e6, "512", None, True]),
        ("cache_bytes", [-1, 1.5, "0", None, True]),
        ("durability", [2, "SYNC", None, True]),
        ("background", [0, 1, None, "yes"]),
        ("salvage", [0, 1, None, "no"]),
    ],
)
def test_options_out_of_range_are_refused_by_name(name, values):
    for value in values:
        with pytest.raises(ParameterError, match=name):
            StoreOptions(**{name: value})


def test_options_can_not_be_changed_and_take_names_only():
    with pytest.raises(AttributeError):
        StoreOptions().background = False
    with pytest.raises(TypeError):
        StoreOptions(512)
    assert StoreOptions() == StoreOptions(segment_bytes=64 << 20, cache_bytes=32 << 20, durability=Durability.SYNC)


@pytest.mark.parametrize(
    "argument", [{"mode": "w"}, {"mode": None}, {"options": {"background": False}}, {"options": 5}]
)
def test_opening_with_something_else_makes_no_store(path, argument):
    with pytest.raises(ParameterError, match=next(iter(argument))):
        Store.open(path, **argument)
    assert not path.exists()


@pytest.mark.parametrize("name", ["with spaces and 'quotes'", "grüße-日本語-🗝", "x" * 200, "-rf *", "a\nb"])
def test_any_path_will_do(tmp_path, name):
    for place in (tmp_path / name, str(tmp_path / (name + "2"))):
        with Store.open(place, options=options()) as store:
            for n in range(20):
                store.set(b"%d" % (n % 5), bytes(100))
            store.compact()
            store.snapshot(str(place) + "-copy")
        with Store.open(place, mode="r") as store:
            assert 5 == len(store)
            assert Path(place) == store.path


def test_a_relative_path_goes_on_meaning_the_same_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Store.open("store", options=options()) as store:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        for n in range(20):
            store.set(b"%d" % n, bytes(100))
        store.compact()
    assert [] == list((tmp_path / "elsewhere").iterdir())
    with Store.open(tmp_path / "store") as store:
        assert 20 == len(store)


# Durability


def test_what_is_acknowledged_at_os_or_sync_is_in_the_file(store, path):
    for level in (Durability.SYNC, Durability.OS, None):
        store.set(b"a", repr(level).encode(), durability=level)
        store.set_many({b"b": repr(level).encode(), b"c": b""}, durability=level)
        with Store.open(path, mode="r") as reader:
            assert [repr(level).encode()] * 2 == reader.mget([b"a", b"b"])


def test_what_is_acknowledged_at_none_is_in_the_file_after_sync(store, path):
    store.set(b"a", b"1")
    store.set(b"a", b"2", durability=Durability.NONE)
    store.set(b"b", b"2", durability=Durability.NONE)
    assert [b"2", b"2"] == store.mget([b"a", b"b"])
    with Store.open(path, mode="r") as reader:
        assert [b"1", None] == reader.mget([b"a", b"b"])
    store.sync()
    with Store.open(path, mode="r") as reader:
        assert [b"2", b"2"] == reader.mget([b"a", b"b"])


def test_only_the_highest_level_waits_for_the_disk(path):
    with Store.open(path, options=options(segment_bytes=1 << 20, durability=Durability.OS)) as store:
        store.set(b"a", b"0")
        syncs, durable = store.stats()["syncs"], store.durable_seq
        store.set(b"a", b"1")
        store.set(b"a", b"2", durability=Durability.NONE)
        assert (syncs, durable) == (store.stats()["syncs"], store.durable_seq)
        store.set(b"a", b"3", durability=Durability.SYNC)
        assert syncs + 1 == store.stats()["syncs"]
        assert store.stats()["seq"] == store.durable_seq > durable
        store.sync()  # nothing is left to do
        assert syncs + 1 == store.stats()["syncs"]


def test_the_default_of_the_store_is_what_a_write_without_a_level_gets(path):
    with Store.open(path, options=options(durability=Durability.NONE)) as store:
        store.set(b"a", b"1")
        store.set_many({b"b": b"1", b"c": b"1"})
        assert [] == logs(path)
        store.set(b"d", b"1", durability=Durability.SYNC)  # takes along what was before it
        with Store.open(path, mode="r") as reader:
            assert 4 == len(reader)


def test_what_nobody_waits_for_does_not_pile_up(path):
    """It is written when it takes a megabyte or so, without a background thread too."""
    with Store.open(path, options=options(segment_bytes=8 << 20, durability=Durability.NONE)) as store:
        for n in range(40):
            store.set(b"%d" % n, bytes(100_000))
            assert store.stats()["staged_bytes"] < 1_300_000


def test_many_segments_may_be_begun_before_the_first_is_written(path):
    with Store.open(path, options=options(segment_bytes=256, durability=Durability.NONE)) as store:
        for n in range(600):
            store.set(b"%d" % n, b"%d" % n * 50)
        assert 500 < store.stats()["segments"]
        store.sync()
        assert 600 == len(dict(store.scan()))
    with Store.open(path) as store:
        assert {b"%d" % n: b"%d" % n * 50 for n in range(600)} == dict(store.scan())


# Large values


@pytest.mark.parametrize("hints", [True, False])
def test_values_of_every_size_class_survive_compaction_and_reopening(path, hints):
    """Around the size above which a location does not tell it, and above the size of segments."""
    edge = fmt.LARGE_BYTES - fmt.RECORD_BYTES - 1
    sizes = [0, 1, 7, 8, 100, 600, *range(edge - 9, edge + 10), 70_000, 200_000]
    pairs = {b"%c" % n: bytes([n]) * size for n, size in enumerate(sizes)}
    with Store.open(path, options=options(segment_bytes=1024)) as store:
        store.set_many(pairs)
        for key in pairs:
            store.set(key, b"soon overwritten" + bytes(66_000))
        assert set(pairs) == {key for key, value in store.scan() if len(value) > 66_000}
        for key, value in pairs.items():
            store.set(key, value)
        store.set(b"deleted", bytes(100_000))
        store.delete(b"deleted")
        freed = store.compact()
        assert freed > len(pairs) * 66_000
        assert pairs == dict(store.scan())
        assert list(pairs.values()) == store.mget(pairs)
        assert [] == store.verify()
        assert 0 == store.compact()
    if not hints:
        remove_hints(path)
    with Store.open(path, options=options(segment_bytes=1024)) as store:
        assert pairs == dict(store.scan())
        assert list(pairs.values()) == [store.get(key) for key in pairs]
        assert 1 + len(pairs[b"\x0a"]) == store.append(b"\x0a", b"x")
        store.set_many(dict.fromkeys(pairs, b""))
        store.compact()
        assert store.stats()["log_bytes"] < 10_000


# Figures, checking, copies


def test_figures_of_space(path):
    record = fmt.record_bytes(1, 100)
    with Store.open(path, options=options(segment_bytes=1 << 20)) as store:
        for key in (b"a", b"b", b"c"):
            store.set(key, bytes(100))
        stats = store.stats()
        assert (3, 1, 0, 0) == tuple(stats[k] for k in ("keys", "segments", "reclaimable_bytes", "tombstone_bytes"))
        assert (3 * record, 3 * record + 64) == (stats["live_bytes"], stats["log_bytes"])
        store.set(b"a", b"")
        assert record == store.stats()["reclaimable_bytes"]
        store.delete(b"b")
        stats = store.stats()
        assert (2 * record, fmt.TOMBSTONE_BYTES) == (stats["reclaimable_bytes"], stats["tombstone_bytes"])
        store.set_many({b"a": b"1", b"c": b"2"})
        before = store.stats()
        freed = store.compact()
        stats = store.stats()
        assert (0, 0, 2 * 32) == tuple(stats[k] for k in ("reclaimable_bytes", "tombstone_bytes", "live_bytes"))
        assert before["log_bytes"] - freed <= stats["log_bytes"] <= before["log_bytes"] - freed + fmt.HEADER_BYTES
        assert before["live_bytes"] == stats["live_bytes"]
    with Store.open(path, mode="r") as store:
        assert stats["live_bytes"] == store.stats()["live_bytes"]


def test_figures_of_the_cache(path):
    with Store.open(path, options=options(cache_bytes=1 << 20)) as store:
        store.set(b"a", b"1")
        assert [b"1", b"1", b"1", None] == [*(store.get(b"a") for _ in range(3)), store.get(b"none")]
        stats = store.stats()
        assert (2, 2, 0) == tuple(stats[k] for k in ("cache_hits", "cache_misses", "cache_evictions"))
        assert 0 < stats["cache_bytes"] <= 1 << 20
    with Store.open(path, options=options(cache_bytes=0)) as store:
        assert [b"1", b"1"] == [store.get(b"a"), store.get(b"a")]
        assert (0, 0) == tuple(store.stats()[k] for k in ("cache_hits", "cache_bytes"))


def test_a_reopened_store_reads_no_log_that_a_hint_speaks_of(path):
    with Store.open(path, options=options()) as store:
        for n in range(50):
            store.set(b"%d" % n, bytes(100))
        store.sync()
    with Store.open(path, options=options()) as store:
        assert 0 == store.stats()["recovered_bytes"]
    remove_hints(path)
    with Store.open(path, options=options()) as store:
        assert 50 * fmt.record_bytes(2, 100) - 10 * 8 <= store.stats()["recovered_bytes"]
        assert 50 == len(store)


def test_verify_finds_nothing_wrong_with_a_healthy_store(path):
    for mode in ("rw", "r"):
        with Store.open(path, shards=2, mode=mode, options=options()) as store:
            if mode == "rw":
                assert [] == store.verify()
                for n in range(60):
                    store.set(b"%d" % (n % 11), bytes(n), durability=Durability(n % 3))
                    store.delete(b"%d" % (n % 7))
                store.set_many({b"%d" % n: b"" for n in range(9)})
                assert [] == store.verify()
                store.compact()
            assert [] == store.verify()


def test_damage_behind_the_cache_is_found_and_never_returned(path):
    with Store.open(path, options=options()) as store:
        store.set_many({b"a": b"value" * 9, b"b": b"value" * 9})
    with Store.open(path, mode="r") as store:
        assert b"value" * 9 == store.get(b"a")
        log = logs(path)[0]
        with open(log, "r+b") as file:
            data = bytearray(file.read())
            data[data.index(b"avalue") + 1] ^= 1
            data[data.index(b"bvalue") + 1] ^= 1
            file.seek(0)
            file.write(data)
        assert b"value" * 9 == store.get(b"a")  # it is in the cache
        with pytest.raises(CorruptError, match="checksum") as caught:
            store.get(b"b")
        assert str(log) == caught.value.path
        with pytest.raises(CorruptError, match="checksum"):
            dict(store.scan())
        found = store.verify()
        assert [(CorruptError, str(log), 64)] == [(type(problem), problem.path, problem.offset) for problem in found]


def test_a_snapshot_is_a_store_of_its_own(path, tmp_path):
    copy = tmp_path / "copy"
    with Store.open(path, shards=2, options=options()) as store:
        for n in range(80):
            store.set(b"%d" % (n % 31), b"%d" % n * 9, durability=Durability(n % 3))
        store.erase(b"2")
        store.compact()
        store.set(b"late", b"1", durability=Durability.NONE)
        then = dict(store.scan())
        store.snapshot(copy)
        store.set_many({b"%d" % n: b"newer" for n in range(31)})
        store.erase(b"late")
        store.compact()
        with Store.open(copy, options=options()) as other:  # both at a time
            assert then == dict(other.scan())
            assert [] == other.verify()
            other.set(b"own", b"1")
            other.compact()
        assert b"own" not in store
    with Store.open(copy, mode="r") as other:
        assert then | {b"own": b"1"} == dict(other.scan())


def test_a_snapshot_of_an_empty_store(store, tmp_path):
    store.snapshot(tmp_path / "copy")
    with Store.open(tmp_path / "copy") as copy:
        assert 0 == len(copy)
        copy.set(b"a", b"1")


def test_a_snapshot_overwrites_nothing(store, tmp_path):
    store.set(b"a", b"1")
    for name in ("folder", "file"):
        dest = tmp_path / name
        dest.mkdir() if name == "folder" else dest.write_bytes(b"precious")
        before = image(tmp_path)
        with pytest.raises(StorageError, match="already exists"):
            store.snapshot(dest)
        assert before == image(tmp_path)
    with pytest.raises(StorageError, match="nowhere"):
        store.snapshot(tmp_path / "nowhere" / "copy")
    store.set(b"a", b"2")
    store.compact()


def test_compact_of_a_store_with_nothing_to_give_back_touches_nothing(store, path):
    assert 0 == store.compact()
    for n in range(30):
        store.set(b"%d" % n, bytes(100))
    store.compact()
    before = image(path)
    assert 0 == store.compact()
    assert before == image(path)


def test_compact_counts_what_an_open_scan_keeps_for_a_while(store):
    for n in range(40):
        store.set(b"%d" % (n % 10), bytes(100))
    with contextlib.closing(store.scan()) as scan:
        next(scan)
        assert 30 * fmt.record_bytes(1, 100) <= store.compact() <= 30 * fmt.record_bytes(1, 100) + 40 * 64
    assert 0 == store.compact()


def test_the_errors_of_the_store_are_exported():
    for name in ("ClosedError", "LockedError", "ReadOnlyError", "ValueTypeError"):
        assert issubclass(getattr(skeg, name), skeg.SkegError)
