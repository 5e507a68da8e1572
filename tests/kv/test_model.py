"""Any sequence of calls does to a store what it does to a dict; and so it is found again, whatever ended a process."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from skeg import ParameterError, ReadOnlyError, StorageError, ValueTypeError
from skeg.fileops import SYSTEM
from skeg.kv import AsyncStore, Durability, Store, StoreOptions
from skeg.kv.store import open_store

# Few keys, so that most calls meet what others did. Some are prefixes of others.
KEYS = [b"", b"a", b"ab", b"abc", b"b", b"ba", b"n", b"\0", b"\xff", b"a longer key " * 4]
ALL_BITS = 2**64 - 1

keys = st.sampled_from(KEYS)
values = st.one_of(
    st.sampled_from([b"", b"1", b"-7"]),
    st.sampled_from([99, 700, 70_000]).map(lambda size: b"v" * size),
    st.binary(max_size=40),
)
levels = st.sampled_from([None, *Durability])
some_keys = st.lists(keys, max_size=6)
some_pairs = st.lists(st.tuples(keys, values), max_size=6)

OPERATIONS = st.one_of(
    st.tuples(st.just("get"), keys),
    st.tuples(st.just("contains"), keys),
    st.tuples(st.just("mget"), some_keys),
    st.tuples(st.just("set"), keys, values),
    st.tuples(st.just("set_many"), some_pairs),
    st.tuples(st.just("delete"), keys),
    st.tuples(st.just("append"), keys, values),
    st.tuples(st.just("incr"), keys, st.integers(-5, 5)),
    st.tuples(st.just("set_if_absent"), keys, values),
    st.tuples(st.just("set_if_present"), keys, values),
    st.tuples(st.just("get_set"), keys, values),
)


def spells_integer(value):
    try:
        return b"%d" % int(value) == value
    except ValueError:
        return False


def perform(state, name, *arguments):
    """Do to a dict what the operation does to a store; returns its result, or the class of its error."""
    if name == "mget":
        return [state.get(key) for key in arguments[0]]
    if name == "set_many":
        state.update(arguments[0])
        return None
    key, *rest = arguments
    before = state.get(key)
    match name, rest:
        case "get", _:
            return before
        case "contains", _:
            return before is not None
        case "set", [value]:
            state[key] = value
            return None
        case "delete", _:
            return state.pop(key, None) is not None
        case "append", [value]:
            state[key] = (before or b"") + value
            return len(state[key])
        case "incr", [delta]:
            if before is not None and not spells_integer(before):
                return ValueTypeError
            state[key] = b"%d" % (int(before or b"0") + delta)
            return int(state[key])
        case "get_set", [value]:
            state[key] = value
            return before
        case "set_if_absent" | "set_if_present", [value]:
            done = (before is None) == (name == "set_if_absent")
            if done:
                state[key] = value
            return done
    raise AssertionError(name)


class Model(RuleBasedStateMachine):
    """A store beside a dict."""

    @initialize(
        shards=st.integers(1, 3),
        mask=st.sampled_from([ALL_BITS, 0xFF << 56, 0xFF, 1 << 63, 0]),
        options=st.builds(
            StoreOptions,
            segment_bytes=st.sampled_from([256, 600, 2000, 1 << 20]),
            cache_bytes=st.sampled_from([0, 2000, 6000, 1 << 20]),
            durability=st.sampled_from(Durability),
            background=st.booleans(),
        ),
        patience_s=st.sampled_from([0.0, 60.0]),
    )
    def create(self, shards, mask, options, patience_s):
        self.folder = Path(tempfile.mkdtemp(prefix="skeg-model-"))
        self.mask, self.options, self.state, self.copies = mask, options, {}, 0
        self.patience_s = patience_s
        self.store = self.open(self.folder / "store", shards=shards)
        self.face = AsyncStore(self.store, patience_s=self.patience_s)

    def open(self, path, **how):
        return open_store(path, options=self.options, files=SYSTEM, hash_mask=self.mask, **how)

    def check(self, store):
        assert self.state == dict(store.scan())
        assert [self.state.get(key) for key in KEYS] == store.mget(KEYS)
        assert len(self.state) == len(store) == store.stats()["keys"]

    @rule(operation=OPERATIONS, level=levels)
    def call(self, operation, level):
        name, *arguments = operation
        expected = perform(self.state, *operation)
        try:
            if name == "contains":
                found = arguments[0] in self.store
            elif name in {"get", "mget"}:
                found = getattr(self.store, name)(*arguments)
            else:
                found = getattr(self.store, name)(*arguments, durability=level)
        except ValueTypeError:
            found = ValueTypeError
        assert expected == found

    @rule(operations=st.lists(OPERATIONS, max_size=8), level=levels)
    def submit(self, operations, level):
        expected = [perform(self.state, *operation) for operation in operations]
        found = self.face.submit(operations, durability=level).results
        assert expected == [ValueTypeError if isinstance(result, ValueTypeError) else result for result in found]

    @rule(prefix=st.sampled_from([*KEYS, b"none"]))
    def scan(self, prefix):
        assert {k: v for k, v in self.state.items() if k.startswith(prefix)} == dict(self.store.scan(prefix))

    @rule(prefix=st.sampled_from([b"a", b"ab", b"\0", b"n", b"none", b""]), level=levels)
    def erase(self, prefix, level):
        doomed = [key for key in self.state if key.startswith(prefix)]
        assert len(doomed) == self.store.erase(prefix, durability=level)
        for key in doomed:
            del self.state[key]

    @rule()
    def compact(self):
        assert self.store.compact() >= 0
        if not self.options.background:
            assert 0 == self.store.compact()
            stats = self.store.stats()
            assert (0, 0) == (stats["reclaimable_bytes"], stats["tombstone_bytes"])

    @rule()
    def compact_under_a_scan(self):
        scan = self.store.scan()
        found = dict([first] if (first := next(scan, None)) else [])
        before = dict(self.state)
        self.call(("set", b"a", b"meanwhile"), Durability.NONE)
        self.call(("delete", b"b"), None)
        self.store.compact()
        assert before == found | dict(scan)

    @rule()
    def sync(self):
        self.store.sync()
        assert self.store.durable_seq >= 0
        assert 0 == self.store.stats()["staged_bytes"]

    @rule(without_hints=st.booleans(), segment_bytes=st.sampled_from([256, 2000]))
    def reopen(self, without_hints, segment_bytes):
        self.face.close()
        self.store.close()
        if without_hints:
            for hint in self.store.path.glob("shard-*/*.hint"):
                hint.unlink()
        with self.open(self.store.path, mode="r") as reader:
            self.check(reader)
            with pytest.raises(ReadOnlyError):
                reader.set(b"a", b"")
        self.options = StoreOptions(
            segment_bytes=segment_bytes,
            cache_bytes=self.options.cache_bytes,
            durability=self.options.durability,
            background=self.options.background,
        )
        self.store = self.open(self.folder / "store")
        self.face = AsyncStore(self.store, patience_s=self.patience_s)
        self.check(self.store)

    @precondition(lambda self: not self.options.background)
    @rule(synced=st.booleans())
    def be_killed(self, synced):
        """The folder as a killed process leaves it, with space reserved and no hint of the end: nothing is missing."""
        self.store.sync()
        if not synced:
            self.call(("set", b"a", b"written"), Durability.OS)
        copy = self.folder / f"killed-{self.copies}"
        self.copies += 1
        shutil.copytree(self.store.path, copy)
        with self.open(copy, mode="r") as reader:
            self.check(reader)
        with self.open(copy) as store:
            self.check(store)
            assert [] == store.verify()
            store.set(b"after", b"1")
            store.compact()
        with self.open(copy) as store:
            assert b"1" == store.get(b"after")
            assert len(self.state) + 1 == len(store)
        shutil.rmtree(copy)

    @rule()
    def snapshot(self):
        copy = self.folder / f"snapshot-{self.copies}"
        self.copies += 1
        self.store.snapshot(copy)
        with pytest.raises(StorageError, match="already exists"):
            self.store.snapshot(copy)
        with self.open(copy) as store:
            self.check(store)
            assert [] == store.verify()
        shutil.rmtree(copy)

    @rule()
    def be_refused(self):
        for wrong in (
            lambda: self.store.set(b"x" * 65_536, b""),
            lambda: self.store.set_many([(b"a", b"1"), (b"b", 1)]),
        ):
            with pytest.raises(ParameterError):
                wrong()

    @invariant()
    def counts_and_limits_hold(self):
        if hasattr(self, "store"):
            assert len(self.state) == len(self.store)
            assert self.store.stats()["cache_bytes"] <= self.options.cache_bytes

    def teardown(self):
        if not hasattr(self, "store"):
            return
        self.check(self.store)
        assert [] == self.store.verify()
        self.face.close()
        self.store.close()
        with Store.open(self.store.path, mode="r") if self.mask == ALL_BITS else self.open(self.store.path) as store:
            self.check(store)
            assert [] == store.verify()
        shutil.rmtree(self.folder)


def test_a_store_does_what_a_dict_does():
    run_state_machine_as_test(
        Model,
        settings=settings(
            max_examples=60,
            stateful_step_count=30,
            deadline=None,
            report_multiple_bugs=False,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
