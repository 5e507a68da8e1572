"""Damaged files: an error that names the file, or the right data, and never a wrong value."""

from __future__ import annotations

import functools
from typing import NamedTuple

import pytest

from skeg.errors import CorruptError, StorageError
from skeg.kv import format as fmt
from skeg.kv import opening
from tests.kv.simdisk import SECTOR, SimDisk, newest, oldest, replay
from tests.kv.workloads import Options, State, call, contents, new_store, open_on, record

OPTIONS = Options(segment_bytes=512)
VALUE = b"a value of " * 5

# Closed segments with values, batches and tombstones, one made by compaction, and one that is written to.
CALLS = [
    call("set", b"a", VALUE),
    call("set_many", {b"b": b"1", b"c": VALUE, b"d": b""}),
    call("set", b"a", VALUE + b"2"),
    call("set", b"b", VALUE + b"2"),
    call("set", b"e", 3 * VALUE),
    call("set", b"e", 3 * VALUE + b"2"),
    call("compact"),
    call("set", b"f", 3 * VALUE),
    call("set", b"g", VALUE),
    call("delete", b"c"),
    call("set", b"f", VALUE + b"2"),
    call("set", b"h", 3 * VALUE),
    call("set_many", {b"i": b"1", b"j": VALUE}),
    call("set", b"k", 3 * VALUE),
    call("delete", b"a"),
    call("set_many", {b"l": b"1", b"m": b"2"}),
    call("set", b"n", VALUE),
]


@pytest.fixture(autouse=True)
def _one_attempt(monkeypatch):
    """A reader tries again, in case somebody is writing; nobody is here."""
    monkeypatch.setattr(opening, "_READER_ATTEMPTS", 1)


class Store(NamedTuple):
    """A disk with a store on it, and the states that the store went through."""

    disk: SimDisk
    states: list[State]

    def files(self, suffix: str) -> list[str]:
        return [path for path, data in self.disk.walk() if data is not None and path.endswith(suffix)]

    @property
    def log(self) -> str:
        """The segment that is written to."""
        return self.files(".log")[-1]

    def original(self, path: str) -> bytes:
        return self.disk.image()[path]

    def damaged(self, path: str, data: bytes) -> SimDisk:
        """The disk with a file of other contents."""
        disk = self.disk.copy()
        node = disk.nodes[disk.find(path)]
        node.data, node.durable = bytearray(data), data
        return disk


@functools.cache
def made(kind: str) -> Store:
    """A store whose process was killed, or that was closed, and then has hints for all that it holds."""
    trace = record(new_store(OPTIONS), CALLS + [call("reopen")] * (kind == "closed"), OPTIONS)
    *_, disk = replay(trace.start, trace.journal)
    return Store(disk.power_loss(newest), trace.states)


def records(store: Store, path: str) -> list[tuple[int, int]]:
    """Start and end of the records of a log, of batches as a whole."""
    data, at, found = store.original(path), fmt.HEADER_BYTES, []
    while len(data) - at >= fmt.RECORD_BYTES and any(data[at : at + fmt.RECORD_BYTES]):
        head = fmt.unpack_head(data, at)
        nbytes = fmt.record_bytes(head.klen, head.vlen)
        found.append((at, at + nbytes))
        at += nbytes
    return found


def outcome(disk: SimDisk, mode: str) -> tuple[State, list[CorruptError]] | StorageError:
    """What a damaged store holds and what `verify` says of it, or the error of opening or reading it."""
    try:
        with open_on(disk.copy(), OPTIONS, mode=mode)[0] as store:
            return contents(store), store.verify()
    except StorageError as error:
        return error


def check(store: Store, path: str, data: bytes, allowed: list[State], what: str) -> None:
    """In both modes there is an error that names the file, or what the store holds is one of the states.

    Damaged hints make no difference to anybody.
    """
    hint = path.endswith(".hint")
    for mode in ("r", "rw"):
        where = (mode, path, what)
        result = outcome(store.damaged(path, data), mode)
        if isinstance(result, StorageError):
            assert not hint, (where, result)
            assert path == result.path, (where, result)
            assert result.offset is not None or not path.endswith(".log"), (where, result)
        else:
            assert result[0] in allowed, where
            assert {path} >= {str(problem.path) for problem in result[1]}, (where, result)


def reopen_twice(disk: SimDisk, allowed: list[State]) -> None:
    """Open for writing, write, lose what is not durable, open again."""
    store, operations = open_on(disk, OPTIONS)
    found = contents(store)
    assert found in allowed
    store.set(b"new", VALUE)
    again, _ = open_on(operations.disk.power_loss(oldest), OPTIONS)
    assert found | {b"new": VALUE} == contents(again)
    assert [] == again.verify()


@pytest.mark.parametrize("kind", ["killed", "closed"])
def test_the_store_has_every_kind_of_file(kind):
    store = made(kind)
    flags = [store.original(path)[44] & fmt.COMPACTED for path in store.files(".log")]
    assert {0, 1} == set(flags)
    assert len(flags) >= 4
    assert 0 == flags[-1]
    assert len(records(store, store.log)) >= 3
    hinted = [path.removesuffix(".hint") for path in store.files(".hint")]
    assert (store.log.removesuffix(".log") in hinted) == (kind == "closed")
    assert outcome(store.disk, "r") == outcome(store.disk, "rw") == (store.states[-1], [])


@pytest.mark.parametrize(("kind", "suffix"), [("killed", ".log"), ("closed", "")])
def test_a_flipped_bit_is_found_or_does_no_harm(kind, suffix):
    """In the last record of the log it looks like a write that a power cut tore; elsewhere it is damage."""
    store = made(kind)
    for path in store.files(suffix):
        torn_from = records(store, path)[-1][0] if (kind, path) == ("killed", store.log) else 1 << 60
        data = store.original(path)
        for at in range(len(data)):
            for bit in range(8) if path.endswith(".json") else [at % 8]:
                changed = bytearray(data)
                changed[at] ^= 1 << bit
                allowed = [store.states[-1], store.states[-2]] if at >= torn_from else [store.states[-1]]
                check(store, path, bytes(changed), allowed, f"bit {bit} of byte {at}")


@pytest.mark.parametrize("length", [64, SECTOR])
@pytest.mark.parametrize("kind", ["killed", "closed"])
def test_zeros_are_found_or_do_no_harm(kind, length):
    store = made(kind)
    for path in store.files(""):
        data = store.original(path)
        for at in range(0, len(data), length):
            changed = data[:at] + bytes(len(data[at : at + length])) + data[at + length :]
            tail = (kind, path) == ("killed", store.log) and at + length > records(store, path)[-1][0]
            check(store, path, changed, store.states if tail else store.states[-1:], f"zeros at {at}")


def test_a_log_cut_anywhere_is_the_log_of_an_earlier_moment():
    store = made("killed")
    data = store.original(store.log)
    for size in range(len(data)):
        reopen_twice(store.damaged(store.log, data[:size]), store.states)


def test_a_hint_cut_anywhere_does_no_harm():
    store = made("closed")
    for path in store.files(".hint"):
        data = store.original(path)
        for size in range(len(data)):
            reopen_twice(store.damaged(path, data[:size]), store.states[-1:])


@pytest.mark.parametrize("kind", ["killed", "closed"])
def test_a_file_that_is_known_to_be_longer_is_refused(kind):
    """Closed segments, whose length the next one states, and whatever has a hint."""
    store = made(kind)
    for path in store.files(".log") if kind == "closed" else store.files(".log")[:-1]:
        data = store.original(path)
        for size in range(0, len(data), 8):
            for mode in ("r", "rw"):
                with pytest.raises(CorruptError) as raised:
                    open_on(store.damaged(path, data[:size]), OPTIONS, mode=mode)
                assert path == raised.value.path


def test_damage_before_durable_records_is_refused_unless_to_salvage():
    """The first bad record is named; salvage keeps everything else, and leaves a sound store."""
    store = made("killed")
    for path in store.files(".log"):
        spans = records(store, path)
        for start, end in spans[:-1] if path == store.log else spans:
            changed = bytearray(store.original(path))
            changed[(start + end) // 2] ^= 1
            disk = store.damaged(path, bytes(changed))
            error = outcome(disk, "rw")
            if not isinstance(error, CorruptError):
                # A record that no longer counts, in a segment with a hint.
                assert store.states[-1] == error[0]
                continue
            assert (path, start) == (error.path, error.offset)
            salvaged, operations = open_on(disk, OPTIONS, salvage=True)
            found = contents(salvaged)
            lost = {key for key, value in store.states[-1].items() if found.get(key) != value}
            assert len(lost) <= 2
            assert all(found[key] in [state.get(key) for state in store.states] for key in found)
            assert [(path, start)] == [(lost["path"], lost["offset"]) for lost in salvaged.stats()["dropped"]]
            salvaged.set(b"new", b"1")
            salvaged.close()
            again, _ = open_on(operations.disk.power_loss(oldest), OPTIONS)
            assert found | {b"new": b"1"} == contents(again)
            assert [] == again.verify()


def test_a_record_in_another_place_is_no_record():
    """Bytes of the same log at another offset, or of another segment at the same offset, do not pass."""
    store = made("killed")
    data = store.original(store.log)
    (start, end), *_, (_, tail) = records(store, store.log)
    other = store.original(store.files(".log")[0])[tail:]
    for moved in (data[start:end], other):
        changed = (data[:tail] + moved).ljust(len(data), b"\0")
        reopen_twice(store.damaged(store.log, changed), store.states[-1:])


def test_a_log_of_another_shard_is_refused():
    """Two shards have segments of the same ids; one in the other's place is not taken for it."""
    options = Options(shards=2)
    files = {shard: f"/store/shard-{shard}/0000000001.log" for shard in range(2)}
    trace = record(new_store(options), [call("set", b"%d" % n, b"1") for n in range(4)], options)
    *_, disk = replay(trace.start, trace.journal)
    store = Store(disk.power_loss(newest), trace.states)
    swapped = store.damaged(files[0], store.original(files[1]))
    for mode in ("r", "rw"):
        with pytest.raises(StorageError) as raised:
            open_on(swapped.copy(), options, mode=mode)
        assert files[0] == raised.value.path
