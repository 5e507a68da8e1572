"""One store and several processes: one writes, any number read, and whoever is killed takes nothing with him."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys

import pytest

from skeg import LockedError, StorageError
from skeg.fileops import FileOps
from skeg.kv import Durability, Store, StoreOptions
from skeg.kv import format as fmt
from skeg.kv.store import open_store


@contextlib.contextmanager
def started(script, *args):
    """A process that runs a script; it is killed in the end if it still runs."""
    command = [sys.executable, "-c", script, *map(str, args)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def ran(script, *args):
    """What a script printed; it has to end well."""
    return subprocess.run([sys.executable, "-c", script, *map(str, args)], stdout=subprocess.PIPE, check=True).stdout


def options(**changes):
    return StoreOptions(**{"background": False, "segment_bytes": 1000} | changes)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "store"


# The lock

HOLD = """
import sys
from skeg.kv import Store
store = Store.open(sys.argv[1])
store.set(b"a", b"1")
print("open", flush=True)
sys.stdin.read()
store.close()
print("closed", flush=True)
sys.stdin.read()
"""
TRY = """
import sys
from skeg import LockedError
from skeg.kv import Store
try:
    Store.open(sys.argv[1])
except LockedError as error:
    print(error)
"""


def test_a_second_writer_is_told_who_the_first_one_is(path):
    here = f"pid {os.getpid()} on host {socket.gethostname()}"
    with Store.open(path) as store:
        store.set(b"a", b"1")
        with pytest.raises(LockedError, match=here) as caught:
            Store.open(path)
        assert str(path) in str(caught.value)
        assert f"{caught.value}\n" == ran(TRY, path).decode()
        store.set(b"b", b"2")
        with Store.open(path, mode="r") as reader:
            assert 2 == len(reader)
    with started(HOLD, path) as other:
        assert b"open\n" == other.stdout.readline()
        with pytest.raises(LockedError, match=f"pid {other.pid} on host {socket.gethostname()}"):
            Store.open(path)
        other.stdin.close()
        assert b"closed\n" == other.stdout.readline()


def test_who_is_refused_changes_nothing(path):
    with Store.open(path, options=options()) as store:
        for n in range(30):
            store.set(b"%d" % n, bytes(100), durability=Durability.OS)
        (path / "shard-0" / "0000000099.log.tmp").write_bytes(b"being made")
        before = {file.name: file.read_bytes() for file in path.glob("*/*")}
        with pytest.raises(LockedError):
            Store.open(path, options=options(salvage=True))
        assert before == {file.name: file.read_bytes() for file in path.glob("*/*")}


def test_the_lock_is_free_after_closing_and_after_a_failure_to_open(path):
    for n in range(3):
        with Store.open(path) as store:
            assert n + 1 == store.incr(b"n")
    log = path / "shard-0" / "0000000001.log"
    good = log.read_bytes()
    log.write_bytes(b"!" + good[1:])
    with pytest.raises(StorageError, match="not a log segment"):
        Store.open(path)
    log.write_bytes(good)
    with Store.open(path) as store:
        assert b"3" == store.get(b"n")


def test_the_lock_goes_with_a_process_that_is_killed(path):
    with started(HOLD, path) as other:
        assert b"open\n" == other.stdout.readline()
        other.kill()
        other.wait()
        with Store.open(path) as store:
            assert b"1" == store.get(b"a")


COUNT = """
import sys
from skeg import LockedError
from skeg.kv import Store, StoreOptions
done = 0
while done < 15:
    try:
        with Store.open(sys.argv[1], options=StoreOptions(segment_bytes=512)) as store:
            store.incr(b"n")
            done += 1
    except LockedError:
        continue
"""


def test_processes_that_open_a_new_store_at_once_take_turns(path):
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(started(COUNT, path)) for _ in range(4)]
        assert [0] * 4 == [process.wait() for process in processes]
    with Store.open(path) as store:
        assert b"60" == store.get(b"n")
        assert [] == store.verify()


# Readers beside a writer

WRITE = """
import sys
from skeg.kv import Durability, Store, StoreOptions
options = StoreOptions(segment_bytes=1000, durability=Durability.OS)
with Store.open(sys.argv[1], options=options) as store:
    for n in range(1, 2500):
        store.set_many({b"%d" % (n % 20): b"%d" % n * 9, b"n": b"%d" % n})
        if n % 5 == 0:
            store.delete(b"%d" % (n * 3 % 20))
        if n % 100 == 0:
            store.compact()
        if n == 20:
            print("written", flush=True)
print("done", flush=True)
"""


def states():
    """For each n what the writer may have left when n was the last that it wrote: before and after it deleted."""
    state = {}
    found = [[{}]]
    for n in range(1, 2500):
        state = state | {b"%d" % (n % 20): b"%d" % n * 9, b"n": b"%d" % n}
        found.append([state])
        if n % 5 == 0:
            state = {key: value for key, value in state.items() if key != b"%d" % (n * 3 % 20)}
            found[-1].append(state)
    return found


def test_readers_beside_a_writer_see_what_it_had_written_at_some_moment(path):
    """And never an older moment than the reader before; whatever is rotated, compacted and removed meanwhile."""
    allowed = states()
    latest = 20
    opened = 0
    with started(WRITE, path) as writer:
        assert b"written\n" == writer.stdout.readline()
        while writer.poll() is None:
            with Store.open(path, mode="r") as reader:
                found = dict(reader.scan())
                n = int(found[b"n"])
                assert n >= latest
                assert found in allowed[n]
                assert list(found.values()) == reader.mget(found)
                assert len(found) == len(reader)
                latest = n
                opened += 1
        assert 0 == writer.returncode
    assert opened > 5
    with Store.open(path, mode="r") as reader:
        assert dict(reader.scan()) in allowed[2499]
        assert [] == reader.verify()


def test_a_reader_keeps_reading_what_a_writer_has_removed(path):
    """However many files that are."""
    keys = [b"%d" % n for n in range(400)]
    with Store.open(path, options=options(segment_bytes=256, durability=Durability.OS)) as store:
        for key in keys:
            store.set(key, key * 60)
        with Store.open(path, mode="r", options=options(cache_bytes=0)) as reader:
            store.erase(b"")
            store.compact()
            store.set_many(dict.fromkeys(keys, b"new"))
            store.compact()
            assert {key: key * 60 for key in keys} == dict(reader.scan())
            assert [key * 60 for key in keys] == reader.mget(keys)


class TornListing(FileOps):
    """Lists a folder slowly: of what happens meanwhile it sees what goes, and not what comes."""

    def __init__(self, meanwhile):
        self.meanwhile = meanwhile

    def listdir(self, path):
        names = super().listdir(path)
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        return sorted(set(names) & set(super().listdir(path)))


def test_a_reader_that_lists_the_folder_during_a_compaction_misses_nothing(path):
    """The output of the compaction is not in the list yet, and its sources are not any more."""
    with Store.open(path, options=options()) as store:
        for n in range(100):
            store.set(b"%d" % (n % 20), b"%d" % n * 30)
        store.sync()
        expected = dict(store.scan())
        with open_store(path, mode="r", options=options(), files=TornListing(store.compact)) as reader:
            assert expected == dict(reader.scan())


# Ends of processes

ACKNOWLEDGE = """
import os, sys, threading
from skeg.kv import Durability, Store, StoreOptions
level = Durability[sys.argv[2]]
with Store.open(sys.argv[1], shards=2, options=StoreOptions(segment_bytes=4096)) as store:
    def work(number):
        for n in range(1_000_000):
            key = b"%d.%d" % (number, n)
            if n % 3:
                store.set(key, key * 9, durability=level)
            else:
                store.set_many({key: key * 9, key + b"+": b""}, durability=level)
            if n % 4 == 0 and n:
                store.delete(b"%d.%d" % (number, n - 1), durability=level)
            os.write(1, b"%d.%d\\n" % (number, n))
    threads = [threading.Thread(target=work, args=(number,), daemon=True) for number in range(3)]
    for thread in threads:
        thread.start()
    work(3)
"""


@pytest.mark.parametrize("level", ["OS", "SYNC"])
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT], ids=lambda how: how.name)
def test_nothing_acknowledged_is_lost_when_a_process_is_ended(path, how, level):
    with started(ACKNOWLEDGE, path, level) as process:
        lines = [process.stdout.readline() for _ in range(300)]
        process.send_signal(how)
        lines += process.stdout.read().splitlines()
        assert 0 != process.wait()
    last = {}
    for line in lines:
        number, n = map(int, line.split(b"."))
        assert last.get(number, -1) + 1 == n
        last[number] = n
    with Store.open(path) as store:
        for number, end in last.items():
            for n in range(end + 1):
                key = b"%d.%d" % (number, n)
                # The call after the last one acknowledged may have deleted the one before it.
                deleted = n % 4 == 3
                if n < end:
                    assert store.get(key) == (None if deleted else key * 9)
                if n % 3 == 0:
                    assert b"" == store.get(key + b"+")
        assert [] == store.verify()


# Ids of segments


@pytest.mark.parametrize("first", [65_530, 2**24 - 5, fmt.SEGMENT_MAX - 300])
def test_segment_ids_may_be_large(path, first):
    """And they are never used again."""
    with Store.open(path, options=options()) as store:
        store.set(b"first", b"1")
        store._parts.shards[0].log.next_segment = first
        for n in range(100):
            store.set(b"%d" % (n % 40), b"%d" % n * 60)
        expected = dict(store.scan())
        store.compact()
        assert expected == dict(store.scan())
        assert [] == store.verify()
    for mode in ("r", "rw", "rw"):
        with Store.open(path, mode=mode, options=options()) as store:
            assert expected == dict(store.scan())
            if mode == "rw":
                highest = store._parts.shards[0].log.next_segment - 1
                assert first + 10 < highest
                store.set(b"0", bytes(2000))
                store.compact()
                expected[b"0"] = bytes(2000)
                assert store._parts.shards[0].log.next_segment > highest + 1
    names = [int(file.stem) for file in (path / "shard-0").glob("*.log")]
    assert max(names) > first
    assert expected.keys() >= {b"first"}


def test_when_all_segment_ids_are_used_writing_ends_with_an_error(path):
    with Store.open(path, options=options()) as store:
        store.set(b"a", b"1")
        store._parts.shards[0].log.next_segment = fmt.SEGMENT_MAX
        store.set(b"b", bytes(1000))
        for _ in range(2):
            with pytest.raises(StorageError, match=r"all \d+ segment ids are used"):
                store.set(b"c", bytes(1000))
        assert {b"a": b"1", b"b": bytes(1000)} == dict(store.scan())
        assert [] == store.verify()
    with Store.open(path, options=options()) as store:
        assert {b"a": b"1", b"b": bytes(1000)} == dict(store.scan())
