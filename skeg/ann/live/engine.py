"""An index that changes: searching, reading and writing it while it is merged in the background."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import attrs
import numpy as np
import numpy.typing as npt

from skeg.ann.exact import checked_norms
from skeg.ann.format import Manifest, read_manifest, write_manifest
from skeg.ann.hits import Hits
from skeg.ann.live.forks import follow
from skeg.ann.live.format import HEADER_BYTES, LogHeader
from skeg.ann.live.log import LogWriter
from skeg.ann.live.maintenance import SYNC_AFTER_S, Background
from skeg.ann.live.merge import Added, Merge, generation_after, next_segment
from skeg.ann.live.opening import Replay, remove_leftovers
from skeg.ann.live.plan import SCAN_ROWS
from skeg.ann.live.rows import LINK_ROWS
from skeg.ann.live.searching import exact_hits, hits_of_one, nearest_hits
from skeg.ann.live.state import CHUNK_ROWS, State, new_live
from skeg.ann.live.view import View
from skeg.ann.live.writer import Begun, Delete, Operation, Put, Update, Writer
from skeg.ann.parallel import available_cpus, spans
from skeg.ann.progress import Progress
from skeg.ann.searcher import segment_stats
from skeg.ann.settings import SearchSettings, Settings
from skeg.ann.sources import open_source
from skeg.ann.transform import Float32s
from skeg.durability import Durability
from skeg.errors import ClosedError, CorruptError, ReadOnlyError, StorageError
from skeg.fileops import SYSTEM, FileOps, Lock

LOCK = "writer.lock"

OPEN_TRIES = 20
"""How often a reader tries to open an index that is merged again and again meanwhile."""

BULK_SHARE = 0.5
"""Rows added at a time that are written into a new segment at once, as a share of the segment's: fewer are quicker to
log, and are merged in the background."""

MERGE_THREADS = 1
"""Threads of a merge in the background."""

Ids = npt.NDArray[np.uint64]

Result = TypeVar("Result")


class LiveEngine:
    """An index that changes, opened for reading or for writing too; it has ``path`` and ``manifest``.

    Parameters
    ----------
    path : Path
    writable : bool
        Whether to be the one writer.
    ops : FileOps
        For the logs and the lock.

    Raises
    ------
    LockedError
        Another process, or another index of this one, writes.
    CorruptError
        A file is damaged.
    """

    def __init__(self, path: Path, *, writable: bool, ops: FileOps = SYSTEM) -> None:
        self.path = path
        self._ops = ops
        self._lock: Lock | None = None
        self._merging = threading.Lock()
        self._linking = threading.Lock()
        self._writer: Writer | None = None
        self._linker = Background("link", self._link)
        self._merger = Background("merge", self._merge_if_wanted, nice=True)
        self._syncer = Background("sync", lambda: self._writing().flush())
        self.merges = 0
        with contextlib.ExitStack() as undo:
            if writable:
                self._lock = ops.lock(path / LOCK)
                undo.callback(self._lock.release)
                _make_live(path)
            self._open()
            if writable:
                self._begin_writing()
            undo.pop_all()
        follow(self)
        self._linker.wake()

    def _open(self) -> None:
        """Read manifest, segment and logs; again, if a writer replaced them meanwhile."""
        for _ in range(OPEN_TRIES - 1):
            manifest = read_manifest(self.path)
            try:
                self._read(manifest)
            except StorageError:
                if read_manifest(self.path).live == manifest.live:
                    raise
            else:
                return
        self._read(read_manifest(self.path))

    def _read(self, manifest: Manifest) -> None:
        state = State(self.path, manifest)
        replay = Replay(state, self._ops)
        try:
            replay.run()
        except BaseException:
            replay.close()
            raise
        self._held: State | None = state
        self._replay = replay
        self.manifest = self._published = manifest

    def _begin_writing(self) -> None:
        replay, live = self._replay, self._state.manifest.live
        assert live is not None
        log = None
        new_log = partial(self._new_log, live.uid_bytes)
        if replay.reader is not None:
            # Goes on where reading ended: what is torn is cut off.
            header = LogHeader(self._state.manifest.dim, live.uid_bytes, replay.number - 1, 0)
            end, next_seq = replay.reader.end
            log = LogWriter(self.path, header, self._ops, end=end, next_seq=next_seq)
        replay.close()
        remove_leftovers(self.path, self._state.manifest, self._ops)
        self._writer = Writer(
            self._state, new_log, log=log, next_log=replay.number, next_seq=replay.next_seq, wake=self._written
        )
        if self._state.wants_merge:
            self._merger.wake()

    def _new_log(self, uid: bytes, number: int, first_seq: int) -> LogWriter:
        return LogWriter(self.path, LogHeader(self._state.manifest.dim, uid, number, first_seq), self._ops)

    # Searching

    @property
    def _state(self) -> State:
        if self._held is None:
            raise ClosedError(f"{self.path}: the index was closed")
        return self._held

    @property
    def view(self) -> View:
        """The parts of the index now; `ClosedError` once it is closed."""
        return self._state.view

    @property
    def settings(self) -> SearchSettings:
        """Settings of a search now."""
        return self.view.settings

    def settled(self, search: Callable[[View], Result]) -> Result:
        """What a search of the index finds; done again if the parts changed meanwhile.

        A view that is no longer the index's can lack a row that was replaced by one in a part it does not have.
        """
        while True:
            view = self.view
            result = search(view)
            if self._is_now(view):
                return result

    def _is_now(self, view: View) -> bool:
        held = self._held
        return held is None or held.view is view

    def search_one(self, query: Float32s, settings: Settings) -> Hits | None:
        """Hits of one query (dim,), or None if there is anything to complain about."""
        return self.settled(lambda view: hits_of_one(view, query, view.settings.same(settings)))

    def call_one(
        self, call: Callable[..., Any], query: Float32s, k: int, list_size: int | None, rest: tuple[Any, ...]
    ) -> Any:
        """See `View.call_one`; None as well if the parts changed meanwhile."""
        view = self._state.view
        answer = view.call_one(call, query, k, list_size, rest)
        return answer if self._is_now(view) else None

    def search_many(self, queries: Float32s, settings: Settings, threads: int) -> Hits:
        """Hits of queries (n, dim); `VectorError` for one that can't be, `CorruptError` for a damaged graph."""
        return self.settled(lambda view: nearest_hits(view, queries, view.settings.same(settings), None, threads))

    def search_exactly(self, queries: Float32s, settings: Settings, threads: int) -> Hits:
        """Hits of queries (n, dim) by comparing with every row."""
        return self.settled(lambda view: exact_hits(view, queries, settings, None, threads))

    # Reading

    def find(self, ids: Ids) -> tuple[Float32s, npt.NDArray[np.bool_]]:
        """Vectors (n, dim) of ids (n,), and whether each is there."""
        return self.settled(lambda view: view.find(ids))

    def holds(self, ids: Ids) -> npt.NDArray[np.bool_]:
        """Whether each id (n,) is there."""
        return self.settled(lambda view: view.holds(ids))

    def ids(self) -> Ids:
        """All ids (n,), ascending."""
        return self.settled(self._ids)

    @staticmethod
    def _ids(view: View) -> Ids:
        if view.segment is not None and view.is_plain:
            return view.segment.searcher.ids()
        parts = [part.ids[: part.count][part.alive[: part.count].astype(bool)] for part in view.parts]
        return np.unique(np.concatenate(parts))

    def __len__(self) -> int:
        return len(self.view)

    @property
    def count(self) -> int:
        """Rows; 0 when it is closed."""
        return 0 if self.closed else len(self)

    @property
    def disk_bytes(self) -> int:
        """Bytes of the segment's files."""
        return sum(self.manifest.files.values())

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._held is None

    def check_open(self) -> None:
        """Raise `ClosedError` once it is closed."""
        _ = self.view

    def verify(self) -> list[CorruptError]:
        """See `Index.verify`; of what is in memory there is nothing to check."""
        segment = self.view.segment
        return [] if segment is None else segment.searcher.verify()

    def refresh(self) -> bool:
        """See what a writer has written since; whether there was anything. The writer itself sees everything."""
        if self._writer is not None:
            return False
        with self._merging:  # one thread at a time
            self.check_open()
            return self._catch_up()

    def _catch_up(self) -> bool:
        before = self.manifest.live
        if read_manifest(self.path).live == before:
            try:
                applied = self._replay.run()
            except StorageError:
                if read_manifest(self.path).live == before:
                    raise  # else a merge took away what was to be read
            else:
                self._linker.wake()
                return applied > 0
        self._replay.close()
        self._open()
        self._linker.wake()
        return True

    # Writing

    def _writing(self) -> Writer:
        self.check_open()
        if self._writer is None:
            raise ReadOnlyError(self.path, "the index was opened for reading")
        return self._writer

    def put(
        self, ids: Ids, vectors: Float32s, payloads: Sequence[bytes | None], on_conflict: str, durability: Durability
    ) -> int:
        """Add rows, in chunks; gives how many. Many at a time become a part of a new segment at once.

        Raises
        ------
        VectorError
            A vector that can't be; nothing is added then.
        """
        writer = self._writing()
        enough = max(self._state.merge_rows, int(BULK_SHARE * self._state.manifest.count))
        is_bulk = len(ids) >= enough and on_conflict == "replace"
        if is_bulk or len(ids) > CHUNK_ROWS or on_conflict in ("error", "skip"):  # else encoding sees to it
            checked_norms(vectors, self.manifest.metric)
        if is_bulk:
            self.merge(Added(ids, open_source(vectors), [some or b"" for some in payloads]), threads=available_cpus())
            return len(ids)
        count = 0
        for start, stop in spans(len(ids), CHUNK_ROWS):
            some = payloads[start:stop] if payloads else ()
            count += writer.submit(Put(ids[start:stop], vectors[start:stop], some, on_conflict, durability, start))
        return count

    def update(
        self, ids: Ids, vectors: Float32s | None, payloads: Sequence[bytes] | None, durability: Durability
    ) -> int:
        """Replace what is not None of rows that are there, in chunks; gives how many."""
        if vectors is not None:
            checked_norms(vectors, self.manifest.metric)
        count = 0
        for start, stop in spans(len(ids), CHUNK_ROWS):
            here = slice(start, stop)
            some = payloads[here] if payloads else payloads
            row = None if vectors is None else vectors[here]
            count += self._writing().submit(Update(ids[here], row, some, durability, start))
        return count

    def delete(self, ids: Ids, durability: Durability) -> int:
        """Delete ids; gives how many there were."""
        return sum(
            self._writing().submit(Delete(ids[start:stop], durability)) for start, stop in spans(len(ids), CHUNK_ROWS)
        )

    def begin(self, operation: Operation) -> Begun | None:
        """See `Writer.begin`."""
        return self._writing().begin(operation)

    def merge(self, added: Added | None = None, *, threads: int = MERGE_THREADS, memory_limit: int | None = None,
              progress: Any = None) -> None:  # fmt: skip
        """Write everything into one new segment; others go on reading and writing meanwhile.

        Raises
        ------
        StorageError
            The disk is full: everything stays as it was.
        """
        with self._merging:
            writer, state = self._writing(), self._state
            with writer.lock:
                taken = writer.freeze()
            try:
                # A segment that was published before, though this index failed to open it, is not to be overwritten.
                newest = self._published
                merge = Merge(state, taken, next_segment(newest), added)
                manifest = merge.run(threads, memory_limit, progress, generation_after(newest))
                segment = state.open_part(manifest)  # before it is what any opening, and any failure, has to go by
                self._publish(manifest)
            except BaseException:
                with writer.lock:
                    writer.thaw()
                raise
            with writer.lock:
                state.swap(taken, manifest, segment)
                self.manifest = manifest
                writer.merged()
            self.merges += 1
            remove_leftovers(self.path, manifest, self._ops)

    def consolidate(self, threads: int, memory_limit: int | None, progress: Any) -> None:
        """Merge, unless that would change nothing; also removes what earlier merges could not."""
        self._writing()
        if not self._state.is_merged or self._has_log():
            self.merge(threads=threads, memory_limit=memory_limit, progress=progress)
        else:
            with self._merging:  # which makes what looks like a leftover
                remove_leftovers(self.path, read_manifest(self.path), self._ops)

    def _has_log(self) -> bool:
        """Whether there are records, which may hold what was deleted again."""
        log = self._writing().log
        return log is not None and log.nbytes > HEADER_BYTES

    def _publish(self, manifest: Manifest) -> None:
        """Make a manifest the index's; an error that comes after that was done does not count."""
        try:
            write_manifest(self.path, manifest)
        except BaseException as error:
            if read_manifest(self.path) != manifest:
                raise
            self._published = manifest
            if not isinstance(error, StorageError):
                raise
        self._published = manifest

    def tune(self, search: dict[str, Any]) -> None:
        """Store settings of a search."""
        with self._merging, self._writing().lock:
            state = self._state
            live = state.manifest.live
            assert live is not None
            live = attrs.evolve(live, generation=generation_after(self._published))
            manifest = attrs.evolve(state.manifest, search={**state.manifest.search, **search}, live=live)
            self._publish(manifest)
            state.retune(manifest)
            self.manifest = manifest

    def _written(self, level: Durability) -> None:
        """A round of writes has ended."""
        if level < Durability.SYNC:
            self._syncer.wake(SYNC_AFTER_S)
        if self._state.newest.count > SCAN_ROWS and self._state.newest.tail >= LINK_ROWS:
            self._linker.wake()
        if self._state.wants_merge and self._merger.error is None:
            self._merger.wake()

    def _link(self) -> None:
        for rows in self._state.view.rows:
            while rows.count > SCAN_ROWS and rows.tail >= LINK_ROWS and not self._linker.stopped:
                with self._linking:
                    rows.link(min(rows.count, rows.linked + LINK_ROWS))

    def _merge_if_wanted(self) -> None:
        if self._state.wants_merge:
            self.merge(progress=self._go_on)

    def _go_on(self, _: Progress) -> None:
        """End a merge in the background when the index is being closed."""
        if self._merger.stopped:
            raise ClosedError(f"{self.path}: the index is being closed")

    def stats(self) -> dict[str, Any]:
        """What there is to merge, and what that would give back."""
        view, live = self.view, self.manifest.live
        dead = 0 if view.segment is None else view.segment.n_dead
        in_memory = sum(rows.count for rows in view.rows)
        a_row = 0 if view.segment is None else sum(self.manifest.files.values()) // view.segment.count
        log = None if self._writer is None else self._writer.log
        error = self._merger.error or self._linker.error or self._syncer.error
        segment = None if view.segment is None else view.segment.searcher.open_segment()
        return {
            **segment_stats(self.manifest, segment),
            "count": len(view),
            "bytes_on_disk": self.disk_bytes + (0 if log is None else log.nbytes),
            "generation": 0 if live is None else live.generation,
            "rows_delta": in_memory,
            "rows_dead": dead + sum(rows.n_dead for rows in view.rows),
            "bytes_delta": sum(rows.nbytes for rows in view.rows),
            "bytes_log": 0 if log is None else log.nbytes,
            "bytes_reclaimable": dead * a_row + (0 if log is None else log.nbytes),
            "merges": self.merges,
            "maintenance_error": None if error is None else str(error),
        }

    def flush(self) -> None:
        """Have everything that was acknowledged on stable storage; a reader has nothing to do."""
        self.check_open()
        if self._writer is not None:
            self._writer.flush()

    # Forks, see `skeg.ann.live.forks`: an index that is written to stays the parent's, others are shared

    def hold_still(self) -> None:
        """Let nothing change what is in memory, if a child is to go on with it."""
        if self._writer is None:
            self._merging.acquire()
            self._linking.acquire()

    def go_on(self) -> None:
        """Let it change again."""
        if self._writer is None:
            self._linking.release()
            self._merging.release()

    def renew(self) -> None:
        """Go on in the child, where there are no other threads."""
        self._merging, self._linking = threading.Lock(), threading.Lock()
        for background in (self._linker, self._merger, self._syncer):
            background.renew()
        if self._writer is not None:
            self._held = self._writer = None
        if self._lock is not None:
            self._lock.release()  # closes this process's copy; the parent goes on holding the lock

    def close(self) -> None:
        """End background work, write out the log, give up files and lock; doing so twice is allowed."""
        state = self._held
        if state is None:
            return
        for thread in (self._linker, self._merger, self._syncer):
            thread.stop()
        with self._merging:  # whoever consolidates is the writer until that is done
            self._let_go(state)

    def _let_go(self, state: State) -> None:
        try:
            if self._writer is not None:
                self._writer.close()
        finally:
            self._replay.close()
            self._held = None
            state.close()
            if self._lock is not None:
                self._lock.release()


def _make_live(path: Path) -> None:
    """Give the manifest of an index that never changed what one that changes needs."""
    manifest = read_manifest(path)
    if manifest.live is None:
        write_manifest(path, attrs.evolve(manifest, live=new_live()))
