"""Any call to the disk may fail: what was acknowledged stays, what failed stays away, a failed sync is final."""

from __future__ import annotations

import errno
import functools
import itertools
import subprocess
import sys

import pytest

from skeg.errors import StorageError
from tests.kv.simdisk import SHORT, SimDisk, SimOps, newest, oldest
from tests.kv.workloads import (
    LONG,
    NONE,
    OS,
    SYNC,
    Call,
    Options,
    Session,
    State,
    call,
    contents,
    expected,
    new_store,
    open_on,
    promise,
)

OPTIONS = Options()
TAKE_SPACE = {"create", "pwrite", "allocate", "rename"}
PROBE = call("set", b"probe", b"probe")

# Every way of writing to a file, in few calls.
CALLS = [
    call("set", b"a", b"1"),
    call("set", b"b", LONG, level=NONE),
    call("set", b"a", LONG, level=OS),
    call("set_many", {b"c": LONG, b"d": b"2", b"e": LONG}),
    call("delete", b"b"),
    call("append", b"a", LONG),
    call("reopen"),
    call("set", b"c", b"3", level=NONE),
    call("erase", b"d"),
    call("compact"),
    call("incr", b"n", 7),
    call("sync"),
]


@functools.cache
def template() -> SimDisk:
    """A new store; callers copy it."""
    return new_store(OPTIONS)


class Trial:
    """A workload on a disk that fails, and what may be found on the disk afterwards.

    ``states`` are those that the store went through, ``floors`` says which of them is the oldest that a kill and a
    power cut may leave, ``unknown`` the states that calls wanted which failed and after which the store stopped.
    """

    def __init__(self, files: SimOps, calls: list[Call]) -> None:
        self.files = files
        self.states: list[State] = [{}]
        self.floors = {OS: 0, SYNC: 0}
        self.unknown: list[State] = []
        self.errors: list[StorageError] = []
        self.after_failure: list[tuple[SimDisk, list[State]]] = []
        self.session: Session | None = None
        try:
            self.session = Session(files, OPTIONS, {})
            for what in calls:
                if what.verb == "reopen" and self.unknown:
                    # Only a new start of the system would tell what the disk has, and whether it can be trusted.
                    break
                self.run(what)
        except StorageError as error:
            # Opening failed: nothing was promised since.
            self.errors.append(error)
            self.session = None

    def run(self, what: Call) -> bool:
        """Make a call; whether it succeeded."""
        session = self.session
        assert session is not None
        before, done = self.states[self.floors[OS] :], len(self.files.calls)
        wanted = [expected(state, what)[0] for state in before]
        try:
            session.run(what)
        except StorageError as error:
            if what.verb == "reopen":
                raise
            self.errors.append(error)
            self.unknown += [*before, wanted[-1]]
            self.agree(session, before)
            while self.states[-1] != session.state:
                self.states.pop()
            self.after_failure = [(self.files.disk.copy(), self.states[self.floors[OS] :])]
            return False
        if len(before) > 1 and self.disturbed(done):
            self.agree(session, wanted + before * (what.level is NONE))
        self.states.append(session.state)
        level, shards = promise(what, before[-1], session.state, OPTIONS)
        if shards:
            self.unknown.clear()
            self.floors |= {kind: len(self.states) - 1 for kind in self.floors if level >= kind}
        return True

    def disturbed(self, done: int) -> bool:
        """Whether something failed since so many calls to the disk."""
        return self.files.room() < 1 << 59 or any(done < n <= len(self.files.calls) for n in self.files.faults)

    def agree(self, session: Session, states: list[State]) -> None:
        """The store says what one of the states is: writes of level NONE may be gone, with or without an error."""
        session.state = contents(session.store)
        assert session.state in states

    def finish(self) -> bool:
        """Whether the store can still be written to at the end; what is on the disk has to be right then."""
        works = self.session is not None and self.run(PROBE)
        if works:
            # Then what failed is not there, neither now nor if the process had ended right after the failure.
            assert {OS: len(self.states) - 1, SYNC: len(self.states) - 1} == self.floors
            for left, states in self.after_failure:
                self.check(left, states)
        self.check(self.files.disk.copy(), self.states[self.floors[OS] :] + self.unknown)
        for pick in (oldest, newest):
            self.check(self.files.disk.power_loss(pick), self.states[self.floors[SYNC] :] + self.unknown)
        if works:
            self.session.store.close()
            self.check(self.files.disk.power_loss(oldest), self.states[-1:])
        return works

    def check(self, left: SimDisk, allowed: list[State]) -> None:
        store, _ = open_on(left, OPTIONS)
        found = contents(store)
        assert found in allowed
        assert [] == store.verify()
        store.set(b"later", LONG)
        store.close()
        again, _ = open_on(left.power_loss(oldest), OPTIONS)
        assert found | {b"later": LONG} == contents(again)
        again.close()


def trials(start: SimDisk, fault, calls: list[Call] = CALLS):
    """The workload once for each call to the disk that can fail: the number of the call, its verb, and the trial."""
    for n in itertools.count(1):
        files = SimOps(start.copy(), faults={n: fault})
        trial = Trial(files, calls)
        if len(files.calls) < n:
            return
        yield n, files.calls[n - 1], trial


@pytest.mark.parametrize("fault", [errno.EIO, errno.ENOSPC, errno.EINTR])
def test_any_call_may_fail(fault):
    """Nothing promised is lost, nothing that failed comes back, and a full disk is no reason to stop."""
    seen = set()
    for n, verb, trial in trials(template(), fault):
        try:
            works = trial.finish()
            # What takes no space is never refused for want of it.
            assert works or trial.session is None or fault != errno.ENOSPC or verb not in TAKE_SPACE
        except Exception as error:
            error.add_note(f"call {n}, {verb}, failed with {errno.errorcode[fault]}; {trial.errors}")
            raise
        seen.add(verb)
    assert seen >= {"open", "listdir", "lock", "pread", "sync", "sync_dir", "unlink", *TAKE_SPACE}


def test_short_reads_and_writes_make_no_difference():
    for _, _, trial in trials(template(), SHORT):
        assert [] == trial.errors
        assert trial.finish()


@pytest.mark.parametrize("fault", [errno.EIO, errno.ENOSPC])
def test_a_store_that_could_not_be_made_can_be_made_later(fault):
    for _, _, trial in trials(SimDisk(), fault, [call("set", b"a", b"1")]):
        trial.finish()


@pytest.mark.parametrize("fault", [errno.EIO, errno.ENOSPC, errno.EINTR])
def test_opening_that_failed_leaves_no_lock_and_changes_nothing(fault):
    start = Trial(SimOps(template().copy()), CALLS)
    for _, _, trial in trials(start.files.disk, fault, []):
        assert trial.session is not None or trial.errors
        if trial.session is None:
            trial.files.faults.clear()
            store, _ = open_on(trial.files.disk, OPTIONS)
            assert start.states[-1] == contents(store)
            store.close()


@pytest.mark.parametrize("verb", ["sync", "sync_dir"])
def test_a_failed_sync_is_final(verb):
    """No write is acknowledged, at whatever level, and no sync is tried again."""
    calls = CALLS[: CALLS.index(call("reopen"))]
    stopped = 0
    for n, failed, trial in trials(template(), errno.EIO, calls):
        if failed == verb and trial.session is not None:
            for level in (NONE, OS, SYNC):
                assert not trial.run(call("set", b"new", b"1", level=level))
                assert not trial.run(call("set_many", {b"a": b"new", b"new": b"1"}, level=level))
                assert not trial.run(call("incr", b"n", 1, level=level))
            assert not trial.run(call("sync"))
            assert set() == {"sync", "sync_dir"} & set(trial.files.calls[n:])
            stopped += 1
    assert stopped > 0


@pytest.mark.parametrize("start", range(0, 64, 16))
def test_a_full_disk_fails_writes_until_there_is_space(start):
    """At every size at which the disk is full: later writes work again, and nothing that failed is there."""
    calls = [what for what in CALLS if what.verb != "reopen"]
    for space in itertools.count(template().size() + start, 64):
        files = SimOps(template().copy(), space=space)
        trial = Trial(files, calls)
        assert trial.session is not None
        files.space = 1 << 60
        for what in calls:
            assert trial.run(what)
        assert trial.finish()
        if not trial.errors:
            return


FULL_DISK = """
import resource, sys
from skeg.errors import StorageError
from skeg.kv import Store, StoreOptions

path, segment_bytes = sys.argv[1], int(sys.argv[2])
limit = 20_000
options = StoreOptions(segment_bytes=segment_bytes, background=False)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
written = {}
failed = []
with Store.open(path, options=options) as store:
    for n in range(40):
        key, value = b"%d" % n, bytes([n]) * 1000
        try:
            store.set(key, value)
            written[key] = value
        except StorageError as error:
            assert str(path) in str(error), error
            failed.append(key)
    assert failed and len(written) > 10, (failed, len(written))
    assert dict(store.scan()) == written
    store.set(b"small", b"1")
    written[b"small"] = b"1"
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    store.set(b"after", b"2")
    written[b"after"] = b"2"
    assert dict(store.scan()) == written
with Store.open(path, options=options) as store:
    assert dict(store.scan()) == written
    assert store.verify() == []
    assert not any(key in store for key in failed)
"""


def test_a_limit_on_the_size_of_files(tmp_path):
    """The system refuses (EFBIG) what goes beyond it."""
    process = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "store"), str(1 << 20)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (0, "") == (process.returncode, process.stderr)
