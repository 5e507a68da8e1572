"""The background thread: what it does by itself, that trouble does not end it, and that closing does."""

from __future__ import annotations

import errno
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from xxhash import xxh3_64_intdigest

from skeg.errors import StorageError
from skeg.fileops import File, FileOps
from skeg.jit import JIT_DISABLED
from skeg.kv import maintenance
from skeg.kv.maintenance import Maintenance, Pace, resting
from skeg.kv.options import Durability, StoreOptions
from skeg.kv.shard import Shard
from skeg.kv.store import Store, open_store

NONE, OS, SYNC = Durability
VALUE = b"v" * 200
OPTIONS = StoreOptions(segment_bytes=1024, cache_bytes=0)
QUIET = StoreOptions(segment_bytes=1024, cache_bytes=0, background=False)


def never(verb: str, path: str) -> bool:
    """No call fails."""
    return False


class Failing(FileOps):
    """The system's file operations, some of which are made to fail by a function of verb and path."""

    def __init__(self) -> None:
        self.fails: Callable[[str, str], bool] = never
        self.failures = 0

    def _check(self, verb: str, path: object) -> None:
        if self.fails(verb, str(path)):
            self.failures += 1
            raise OSError(errno.EIO, "on purpose")

    def open(self, path, *, write=False, create=False):
        self._check("create" if create else "open", path)
        file = super().open(path, write=write, create=create)
        descriptor, file._descriptor = file._descriptor, -1
        return Checked(descriptor, self, str(path))

    def rename(self, source, target):
        self._check("rename", target)
        super().rename(source, target)

    def unlink(self, path):
        self._check("unlink", path)
        super().unlink(path)


class Checked(File):
    """An open file whose syncs may fail."""

    def __init__(self, descriptor: int, files: Failing, path: str) -> None:
        super().__init__(descriptor)
        self._files = files
        self._path = path

    def sync(self) -> None:
        self._files._check("sync", self._path)
        super().sync()


def wait_for(condition: Callable[[], object]) -> None:
    """Return when it is so; a test that waits for ever is told where."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited for what never came"
        time.sleep(0.002)


def hints(path: Path) -> set[str]:
    return {file.name for file in path.rglob("*.hint")}


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "skeg-kv-maintenance"]


def fill(store: Store, count: int = 20, keys: int = 1000) -> dict[bytes, bytes]:
    """Write enough for several segments."""
    state = {}
    for i in range(count):
        state[b"%d" % (i % keys)] = VALUE + b"%d" % i
        store.set(b"%d" % (i % keys), VALUE + b"%d" % i)
    return state


def test_a_store_that_needs_nothing_wakes_nobody(tmp_path):
    with open_store(tmp_path / "s", options=OPTIONS) as store:
        for i in range(3):
            store.set(b"%d" % i, b"small")
            store.get(b"%d" % i)
        store.sync()
        assert [] == threads()


@pytest.mark.parametrize("mode", ["rw", "r"])
def test_without_background_there_is_no_thread(tmp_path, mode):
    with open_store(tmp_path / "s", options=QUIET) as store:
        fill(store)
        store.set(b"os", b"1", durability=OS)
        assert (set(), []) == (hints(tmp_path), threads())
    options = QUIET if mode == "rw" else OPTIONS
    with open_store(tmp_path / "s", mode=mode, options=options) as store:
        assert store.get(b"os") == b"1"
        assert [] == threads()


def test_a_closed_segment_gets_its_hint_by_itself(tmp_path):
    with open_store(tmp_path / "s", options=OPTIONS) as store:
        fill(store, 12)
        closed = {path.stem for path in tmp_path.rglob("*.log")}
        closed.remove(max(closed))
        wait_for(lambda: {f"{name}.hint" for name in closed} == hints(tmp_path))
        assert 1 == len(threads())
    assert [] == threads()


def test_what_was_overwritten_is_given_back_by_itself(tmp_path):
    with open_store(tmp_path / "s", options=OPTIONS) as store:
        state = fill(store, 300, keys=10)
        wait_for(lambda: store.stats()["log_bytes"] < 3 * 10 * 256 + 1024 and not store.stats()["retired_bytes"])
        assert store.stats()["background_compactions"] > 0
        assert store.stats()["background_error"] is None
        assert state == dict(store.scan())
        assert [] == store.verify()
        names = {path.name for path in tmp_path.rglob("*.log")}
        assert len(names) < 12
    with open_store(tmp_path / "s", options=QUIET) as store:
        assert state == dict(store.scan())
        # All has hints but for an output that holds nothing.
        assert store.stats()["recovered_bytes"] <= 64


@pytest.mark.parametrize("level", [NONE, OS])
def test_what_was_acknowledged_early_is_durable_soon(tmp_path, monkeypatch, level):
    monkeypatch.setattr(maintenance, "_SYNC_AFTER_S", 0.01)
    with open_store(tmp_path / "s", options=OPTIONS) as store:
        for i in range(3):
            store.set(b"%d" % i, b"1", durability=level)
            wait_for(lambda: store.durable_seq == store.stats()["seq"])
            assert i + 1 == store.durable_seq
        assert 0 == store.stats()["staged_bytes"]


def test_nobody_syncs_without_the_thread(tmp_path):
    with open_store(tmp_path / "s", options=QUIET) as store:
        store.set(b"a", b"1", durability=OS)
        assert (0, 1) == (store.durable_seq, store.stats()["seq"])


def keys_of_shards(count: int) -> list[bytes]:
    """One key for each shard."""
    found: dict[int, bytes] = {}
    for i in range(1000):
        found.setdefault(xxh3_64_intdigest(b"%d" % i) % count, b"%d" % i)
    return [found[number] for number in range(count)]


def test_a_shard_that_can_not_be_synced_does_not_keep_others_from_it(tmp_path, monkeypatch):
    monkeypatch.setattr(maintenance, "_SYNC_AFTER_S", 0.01)
    files = Failing()
    keys = keys_of_shards(3)
    store = open_store(tmp_path / "s", shards=3, options=OPTIONS, files=files)
    for key in keys:
        store.set(key, b"first")
    files.fails = lambda verb, path: verb == "sync" and "shard-0" in path
    for key in keys:
        store.set(key, b"second", durability=OS)
    logs = [shard.log for shard in store._parts.shards]
    wait_for(lambda: logs[1].durable_seq == logs[2].durable_seq == 2)
    wait_for(lambda: store.stats()["background_error"])
    assert logs[0].stopped is not None
    # A failed sync is final, there; the others go on.
    with pytest.raises(StorageError, match="no longer written to"):
        store.set(keys[0], b"third")
    store.set(keys[1], b"third", durability=OS)
    wait_for(lambda: logs[1].durable_seq == 3)
    files.fails = never
    with pytest.raises(StorageError, match="no longer written to"):
        store.close()
    assert [] == threads()


@pytest.mark.parametrize("verb", ["create", "rename"])
def test_trouble_is_reported_and_does_not_end_the_thread(tmp_path, verb, caplog):
    """Hints can't be written for a while."""
    files = Failing()
    with open_store(tmp_path / "s", options=OPTIONS, files=files) as store:
        files.fails = lambda called, path: called == verb and ".hint" in path
        fill(store, 12)
        wait_for(lambda: store.stats()["background_error"])
        assert "on purpose" in store.stats()["background_error"]
        assert ".hint" in store.stats()["background_error"]
        assert set() == hints(tmp_path)
        files.fails = never
        state = fill(store, 24)
        wait_for(lambda: len(hints(tmp_path)) > 3)
        assert state == dict(store.scan())
        assert 1 == len(threads())
    assert "background work on a key-value store failed" in caplog.text


def test_a_mistake_of_ours_does_not_end_the_thread_either(tmp_path, monkeypatch):
    with open_store(tmp_path / "s", options=OPTIONS) as store:
        with monkeypatch.context() as patch:

            def mistake(*_):
                raise KeyError("never expected")

            patch.setattr(maintenance, "write_hints", mistake)
            fill(store, 12)
            wait_for(lambda: store.stats()["background_error"])
            assert "never expected" in store.stats()["background_error"]
        fill(store, 12)
        wait_for(lambda: len(hints(tmp_path)) > 1)


def test_segments_that_could_not_be_removed_are_removed_the_next_time(tmp_path):
    files = Failing()
    with open_store(tmp_path / "s", options=OPTIONS, files=files) as store:
        files.fails = lambda verb, path: verb == "unlink" and path.endswith(".log") and Path(path).exists()
        fill(store, 40, keys=5)
        wait_for(lambda: files.failures)
        files.fails = never
        state = fill(store, 40, keys=5)
        wait_for(lambda: not store.stats()["retired_bytes"] and store.stats()["log_bytes"] < 4096)
        assert state == dict(store.scan())


@pytest.mark.parametrize("turn", range(8))
def test_closing_in_the_middle_of_its_work_loses_nothing(tmp_path, turn):
    store = open_store(tmp_path / "s", options=OPTIONS)
    state = fill(store, 60 + 20 * turn, keys=12)
    store.close()
    assert [] == threads()
    with open_store(tmp_path / "s", options=QUIET) as store:
        assert not list(tmp_path.rglob("*.tmp"))
        assert state == dict(store.scan())
        assert [] == store.verify()


def test_others_read_and_write_meanwhile(tmp_path):
    """Each thread has keys of its own, and finds what it wrote last."""
    wrong = []
    done = threading.Event()

    def work(store: Store, name: int) -> None:
        mine: dict[bytes, bytes] = {}
        for i in range(150):
            key = b"%d %d" % (name, i % 7)
            if i % 5 == 4:
                store.delete(key, durability=OS)
                mine.pop(key, None)
            else:
                mine[key] = VALUE + b"%d" % i
                store.set(key, mine[key], durability=OS)
            found = {k: v for k in [b"%d %d" % (name, n) for n in range(7)] if (v := store.get(k)) is not None}
            if found != mine:
                wrong.append((name, i))
        states.append(mine)

    def look(store: Store) -> None:
        while not done.is_set():
            dict(store.scan())
            wrong.extend(store.verify())

    states: list[dict[bytes, bytes]] = []
    with open_store(tmp_path / "s", options=OPTIONS) as store:
        reader = threading.Thread(target=look, args=(store,))
        workers = [threading.Thread(target=work, args=(store, name)) for name in range(3)]
        for thread in [reader, *workers]:
            thread.start()
        for thread in workers:
            thread.join()
        done.set()
        reader.join()
        assert [] == wrong
        assert store.stats()["background_error"] is None
        assert {k: v for state in states for k, v in state.items()} == dict(store.scan())
    with open_store(tmp_path / "s", options=QUIET) as store:
        assert {k: v for state in states for k, v in state.items()} == dict(store.scan())


def test_stopping_before_anything_began_and_twice():
    idle = Maintenance([], 1024)
    idle.stop()
    idle.stop()
    # Once it has stopped, nothing wakes it.
    idle.tidy()
    idle.sync_soon()
    assert [] == threads()


# How it rests


class Clock:
    """Time that passes when it is told to, and an event that remembers how long others waited for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.rests: list[float] = []
        self.stopped = False
        monkeypatch.setattr(maintenance, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def wait(self, seconds: float) -> bool:
        self.rests.append(round(seconds, 6))
        self.now += seconds
        return self.stopped


def test_it_rests_for_as_long_as_it_worked(monkeypatch):
    clock = Clock(monkeypatch)
    pace = Pace(clock)
    for worked in (0.001, 0.02, 0.5):
        clock.now += worked
        pace()
    assert [0.001, 0.02, 0.5] == clock.rests


def test_it_rests_less_with_a_larger_backlog(monkeypatch):
    clock = Clock(monkeypatch)
    pace = Pace(clock)
    pace.backlog = 4
    clock.now += 0.02
    pace()
    assert [0.005] == clock.rests


def test_it_does_not_rest_for_little_work_but_that_adds_up(monkeypatch):
    clock = Clock(monkeypatch)
    pace = Pace(clock)
    for _ in range(10):
        clock.now += 0.0002
        pace()
    assert 0 < len(clock.rests) < 10
    assert sum(clock.rests) <= 0.0002 * 10 + 1e-9


def test_a_rest_ends_the_work_when_the_store_is_being_closed(monkeypatch):
    clock = Clock(monkeypatch)
    pace = Pace(clock)
    clock.stopped = True
    clock.now += 0.01
    with pytest.raises(maintenance._StoppedError):
        pace()


class WorkingClock(Clock):
    """Every look at the time takes a millisecond of it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(monkeypatch)
        monkeypatch.setattr(maintenance, "time", SimpleNamespace(perf_counter=self.tick))

    def tick(self) -> float:
        self.now += 0.001
        return self.now


def some_call(number: int) -> int:
    return number


def some_calls() -> list[int]:
    return [some_call(i) for i in range(20)]


def test_work_that_knows_of_no_pace_rests_between_the_functions_it_calls(monkeypatch):
    clock = WorkingClock(monkeypatch)
    pace = Pace(clock)
    some_calls()
    assert [] == clock.rests
    with resting(pace):
        some_calls()
        assert sys.getprofile() is not None
    assert sys.getprofile() is None
    rests = len(clock.rests)
    assert rests >= 20
    some_calls()
    assert rests == len(clock.rests)


def test_work_that_knows_of_no_pace_goes_on_when_the_store_is_being_closed(monkeypatch):
    clock = WorkingClock(monkeypatch)
    clock.stopped = True
    with resting(Pace(clock)):
        assert list(range(20)) == some_calls()
        assert sys.getprofile() is None
    assert 1 == len(clock.rests)


def test_a_profiler_of_others_stays_and_nobody_rests(monkeypatch):
    clock = WorkingClock(monkeypatch)
    seen: list[str] = []

    def profiler(*seen_now: object) -> None:
        seen.append(str(seen_now[1]))

    sys.setprofile(profiler)
    try:
        with resting(Pace(clock)):
            some_calls()
        assert profiler is sys.getprofile()
    finally:
        sys.setprofile(None)
    assert "call" in seen
    assert [] == clock.rests


def test_the_profiler_is_gone_after_an_error(monkeypatch):
    with pytest.raises(ZeroDivisionError), resting(Pace(WorkingClock(monkeypatch))):
        raise ZeroDivisionError
    assert sys.getprofile() is None


def test_a_store_that_is_filled_by_batches_gets_the_kernel_and_others_do_not(tmp_path, monkeypatch):
    monkeypatch.setattr(maintenance, "_KERNEL_PAIRS", 300)
    with Store.open(tmp_path / "store", shards=2) as store:
        shards = store._parts.shards
        pairs = {b"%d" % n: b"x" for n in range(299)}
        store.set_many(pairs)
        assert store._parts.maintenance._loader is None
        store.set_many({b"one more": b"x"})
        deadline = time.monotonic() + 100
        while any(shard.index._insert_kernel is None for shard in shards) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert all(shard.index._insert_kernel is not None for shard in shards) is not JIT_DISABLED
        store.set_many(pairs | {b"%d" % n: b"y" for n in range(200, 500)})
        assert 501 == len(store) == len(dict(store.scan()))
        assert (b"x", b"y") == (store.get(b"1"), store.get(b"200"))
        assert [] == store.verify()


def test_what_was_acknowledged_is_synced_and_segments_are_tidied_while_kernels_are_loaded(tmp_path, monkeypatch):
    loading, go_on = threading.Event(), threading.Event()

    def load(_shard: Shard) -> None:
        loading.set()
        go_on.wait(100)

    monkeypatch.setattr(Shard, "use_kernels", load)
    monkeypatch.setattr(maintenance, "_KERNEL_PAIRS", 1)
    with Store.open(tmp_path / "store", options=OPTIONS) as store:
        store.set_many({b"key": VALUE})
        assert loading.wait(100)
        for _ in range(20):
            store.set(b"key", VALUE, durability=OS)
        deadline = time.monotonic() + 100
        while (found := store.stats())["durable_seq"] < found["seq"] and time.monotonic() < deadline:
            time.sleep(0.01)
        while not store.stats()["background_compactions"] and time.monotonic() < deadline:
            time.sleep(0.01)
        found = store.stats()
        go_on.set()
    assert found["durable_seq"] == found["seq"]
    assert found["background_compactions"]
    assert found["background_error"] is None


def test_a_failure_to_load_kernels_is_told_and_the_store_goes_on(tmp_path, monkeypatch):
    def load(_shard: Shard) -> None:
        raise ImportError("on purpose")

    monkeypatch.setattr(Shard, "use_kernels", load)
    monkeypatch.setattr(maintenance, "_KERNEL_PAIRS", 1)
    with Store.open(tmp_path / "store") as store:
        for number in range(3):
            store.set_many({b"key": b"%d" % number})
        deadline = time.monotonic() + 100
        while store.stats()["background_error"] is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "on purpose" in str(store.stats()["background_error"])
        assert b"2" == store.get(b"key")
