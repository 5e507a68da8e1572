"""The files of a shard: their names, how many are open, and what is done about missing ones."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest

from skeg.errors import CorruptError, FormatError, StorageError
from skeg.kv import format as fmt
from skeg.kv.entries import COLUMNS, Entries
from skeg.kv.hints import Hint
from skeg.kv.segments import CLOSED, Folder, Segment
from tests.kv.simdisk import SHORT, SimDisk, SimOps, newest, oldest

SHARD_ID = b"s" * 16
SALT = 0xABCDEF
SHARD = Path("/shard")


class Counted(SimOps):
    """File operations that know which files are open, and which were asked for."""

    def __init__(self, disk: SimDisk) -> None:
        super().__init__(disk)
        self.open_files: set[object] = set()
        self.opened: list[str] = []

    def open(self, path, *, write=False, create=False):
        file = super().open(path, write=write, create=create)
        self.opened.append(Path(path).name)
        counted = self

        class Closing(type(file)):
            def __del__(self):
                counted.open_files.discard(id(self))

        file.__class__ = Closing
        self.open_files.add(id(file))
        return file


def folder_with(*names: str, max_open: int = 256) -> Folder:
    """A folder on a disk in memory, with files that hold their names."""
    files = Counted(SimDisk())
    files.mkdir(SHARD)
    for name in names:
        files.open(SHARD / name, create=True).pwrite(name.encode(), 0)
    return Folder(SHARD, files, SHARD_ID, SALT, max_open)


def segment_in(folder: Folder, number: int, *, write: bool = True, **fields) -> Segment:
    header = fmt.SegmentHeader(number, SHARD_ID, 1, 0, 0, 0)._replace(**fields)
    segment = folder.add(header)
    if write:
        folder.files.open(segment.path, create=True).pwrite(fmt.pack_header(header) + b"%d" % number, 0)
    return segment


# Names


@pytest.mark.parametrize(
    ("number", "name"), [(1, "0000000001"), (65_536, "0000065536"), (fmt.SEGMENT_MAX, f"00{fmt.SEGMENT_MAX}")]
)
def test_names_have_ten_digits(number, name):
    folder = folder_with()
    assert SHARD / f"{name}.log" == folder.log_path(number)
    assert SHARD / f"{name}.hint" == folder.hint_path(number)


def test_a_listing_is_sorted_by_id_and_ignores_what_is_not_ours():
    ours = ["0000000010.log", "0000000002.log", "0000065537.log", "0000000009.hint", "0000000002.hint"]
    unfinished = ["0000000003.log.tmp", "0000000004.hint.tmp"]
    foreign = [
        "0000000001.LOG",
        "000000001.log",
        "00000000011.log",
        "000000000x.log",
        "0000000001.log.damaged",
        "0000000001.log.tmp.tmp",
        "0000000001.log~",
        "x0000000001.log",
        "notes.tmp",
        ".tmp",
        "manifest.json",
        "\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661\u0661.txt",
    ]
    logs, hints, left = folder_with(*ours, *unfinished, *foreign).listing()
    assert [2, 10, 65_537] == logs
    assert [2, 9] == hints
    assert sorted(unfinished) == sorted(path.name for path in left)


def test_digits_of_other_scripts_are_no_name_of_ours():
    """`int` would read them, and the path made from the number would be another one."""
    assert ([], [], []) == folder_with("\u0661" * 10 + ".log").listing()


def test_a_folder_that_can_not_be_listed_is_named():
    folder = Folder(Path("/nowhere"), SimOps(SimDisk()), SHARD_ID, SALT)
    with pytest.raises(StorageError, match="/nowhere: can't list the folder: No such file"):
        folder.listing()


# Segments by id


def test_segments_are_known_by_id():
    folder = folder_with()
    one, two = (segment_in(folder, number) for number in (1, 2))
    assert [one, two] == list(folder)
    assert (2, one, two, None) == (len(folder), folder[1], folder.get(2), folder.get(3))
    folder.forget(one)
    assert (1, None) == (len(folder), folder.get(1))
    assert (folder.log_path(1),) == (one.path,)


def test_bytes_of_a_segment_are_live_dead_tombstones_or_overhead():
    segment = segment_in(folder_with(), 1)
    assert 0 == segment.live
    segment.end, segment.dead, segment.tombstones, segment.overhead = 1064, 300, 80, 24
    assert 596 == segment.live


def test_the_place_of_records_depends_on_salt_and_id():
    assert SALT ^ 5 << 32 == segment_in(folder_with(), 5, write=False).place
    assert [False, True] == [
        segment_in(folder_with(), 1, write=False, flags=flags).compacted for flags in (0, fmt.COMPACTED)
    ]


# Open files


@pytest.mark.parametrize("max_open", [1, 2, 5])
def test_no_more_files_are_open_than_allowed_and_all_can_be_read(max_open, rng):
    folder = folder_with(max_open=max_open)
    segments = [segment_in(folder, number) for number in range(1, 12)]
    for number in rng.integers(0, 11, 100).tolist():
        assert b"%d" % (number + 1) == folder.read(segments[number], fmt.HEADER_BYTES, 99)
        assert len(folder.files.open_files) <= max_open
    assert sum(segment.file is not None for segment in segments) == max_open


def test_a_file_in_use_stays_open_for_its_user_though_others_are_opened():
    folder = folder_with(max_open=1)
    one, *others = (segment_in(folder, number) for number in range(1, 5))
    file = folder.open(one)
    for segment in others:
        folder.read(segment, 0, 1)
    assert one.file is None
    assert b"1" == file.pread(9, fmt.HEADER_BYTES)


def test_a_file_is_opened_once_while_it_is_held():
    folder = folder_with()
    segment = segment_in(folder, 1)
    folder.files.opened.clear()
    assert {b"1"} == {folder.read(segment, fmt.HEADER_BYTES, 99) for _ in range(5)}
    assert ["0000000001.log"] == folder.files.opened


@pytest.mark.parametrize("max_open", [1, 2, 3])
def test_segments_that_are_written_to_stay_open_however_many(max_open):
    folder = folder_with(max_open=max_open)
    written = [segment_in(folder, number) for number in range(1, 7)]
    for segment in written:
        segment.committed = 0
        folder.hold(segment, folder.files.open(segment.path, write=True))
    assert [] == [segment.id for segment in written if segment.file is None]
    for segment in written[:5]:
        segment.committed = CLOSED
    closed = segment_in(folder, 9)
    folder.read(closed, 0, 1)
    assert written[5].file is not None
    assert len(folder.files.open_files) <= max(max_open, 2)


def test_forgotten_segments_take_no_place_of_others():
    """As they come when the disk is full, one for each attempt to write."""
    folder = folder_with(max_open=3)
    for number in range(1, 50):
        segment = segment_in(folder, number)
        segment.committed = 0
        folder.hold(segment, folder.files.open(segment.path, write=True))
        folder.forget(segment)
    kept = [segment_in(folder, number) for number in (100, 101)]
    folder.files.opened.clear()
    for _ in range(3):
        for segment in kept:
            folder.read(segment, 0, 1)
    assert ["0000000100.log", "0000000101.log"] == folder.files.opened


def test_a_segment_that_is_written_to_is_opened_for_writing():
    folder = folder_with()
    segment = segment_in(folder, 1)
    with pytest.raises(OSError, match="Bad file descriptor"):
        folder.open(segment).pwrite(b"x", 0)
    segment.file, segment.committed = None, 64
    assert 1 == folder.open(segment).pwrite(b"x", 64)


def test_closing_lets_go_of_all_files():
    folder = folder_with()
    for number in range(1, 5):
        folder.read(segment_in(folder, number), 0, 1)
    assert 4 == len(folder.files.open_files)
    folder.close()
    assert set() == folder.files.open_files


# Reading


def test_a_missing_file_is_an_error_that_names_it():
    folder = folder_with()
    segment = segment_in(folder, 7, write=False)
    for call in (
        lambda: folder.read(segment, 0, 1),
        lambda: folder.size(segment),
        lambda: folder.open(segment),
        lambda: folder.read_header(7),
    ):
        with pytest.raises(StorageError, match=r"0000000007\.log: can't .*No such file"):
            call()


def test_reading_ends_with_the_file_and_begins_in_it():
    folder = folder_with()
    segment = segment_in(folder, 1)
    assert b"1" == folder.read(segment, 64, 1000)
    assert b"" == folder.read(segment, 65, 1)
    assert 65 == folder.size(segment)


def test_a_short_read_is_completed():
    folder = folder_with()
    segment = segment_in(folder, 1)
    folder.open(segment)
    folder.files.faults = {len(folder.files.calls) + 1: SHORT, len(folder.files.calls) + 2: SHORT}
    assert fmt.pack_header(segment.header) == folder.read(segment, 0, 64)


def test_a_header_is_read_and_checked():
    folder = folder_with("0000000002.log")
    one = segment_in(folder, 1, first_seq=9, previous=5, previous_bytes=77)
    assert one.header == folder.read_header(1)
    with pytest.raises(CorruptError, match="header cut short"):
        folder.read_header(2)
    folder.files.rename(one.path, folder.log_path(3))
    with pytest.raises(FormatError, match="under another name"):
        folder.read_header(3)


# Hints


def rest() -> None:
    """Nobody waits."""


HINT = Hint(1, 100, 5, 0, Entries.of_rows([(1, 2, 3, 8, 4), (9, 5, 7, 12, 0)]))


def same(one: Hint, other: Hint) -> bool:
    columns = all(np.array_equal(getattr(one.entries, name), getattr(other.entries, name)) for name in COLUMNS)
    return columns and (one.segment, one.end, one.last_seq) == (other.segment, other.end, other.last_seq)


def test_a_hint_is_written_beside_and_renamed():
    folder = folder_with("0000000001.hint", "0000000001.hint.tmp")
    segment = segment_in(folder, 1)
    assert folder.read_hint(segment) is None
    folder.files.journal.clear()
    folder.write_hint(HINT, rest)
    assert same(HINT, folder.read_hint(segment))
    assert ["unlink", "create", "write", "sync", "rename"] == [change[0] for change in folder.files.journal]
    assert ["0000000001.hint", "0000000001.log"] == sorted(folder.files.listdir(SHARD))


@pytest.mark.parametrize("pick", [oldest, newest])
def test_a_power_cut_leaves_a_hint_or_none(pick):
    """The name of a hint is not synced: nothing depends on it."""
    folder = folder_with()
    segment = segment_in(folder, 1)
    folder.sync()
    folder.write_hint(HINT, rest)
    left = Folder(SHARD, SimOps(folder.files.disk.power_loss(pick)), SHARD_ID, SALT)
    found = left.read_hint(segment)
    assert found is None if pick is oldest else same(HINT, found)


@pytest.mark.parametrize("trouble", ["missing", "of another segment", "of another store", "unreadable"])
def test_a_hint_that_is_not_sound_is_none(trouble):
    folder = folder_with()
    segment = segment_in(folder, 1)
    if trouble != "missing":
        folder.write_hint(HINT, rest)
    if trouble == "of another segment":
        segment = segment_in(folder, 2)
        folder.files.rename(folder.hint_path(1), folder.hint_path(2))
    if trouble == "of another store":
        folder.shard_id = b"t" * 16
    if trouble == "unreadable":
        folder.files.faults = {len(folder.files.calls) + 1: errno.EIO}
    assert folder.read_hint(segment) is None


def test_a_hint_that_can_not_be_written_is_an_error_that_names_it():
    folder = folder_with()
    folder.files.space = folder.files.disk.size() + 10
    with pytest.raises(StorageError, match=r"0000000001\.hint: can't write: No space"):
        folder.write_hint(HINT, rest)


# Removal


def test_removing_what_is_missing_is_no_error():
    folder = folder_with("0000000001.log", "0000000003.log")
    folder.remove([folder.log_path(number) for number in (1, 2, 3)])
    assert [] == folder.files.listdir(SHARD)


def test_other_trouble_with_removing_is_an_error():
    folder = folder_with("0000000001.log")
    folder.files.faults = {len(folder.files.calls) + 1: errno.EACCES}
    with pytest.raises(PermissionError):
        folder.remove([folder.log_path(1)])


def test_a_damaged_file_is_kept_where_nobody_looks():
    folder = folder_with("0000000001.log")
    folder.set_aside(folder.log_path(1))
    assert ["0000000001.log.damaged"] == folder.files.listdir(SHARD)
    assert ([], [], []) == folder.listing()


def test_names_are_synced_with_the_folder():
    folder = folder_with("0000000001.log")
    assert [] == list(folder.files.disk.power_loss(oldest).walk())
    folder.files.sync_dir("/")
    folder.sync()
    assert ["/shard", "/shard/0000000001.log"] == [path for path, _ in folder.files.disk.power_loss(oldest).walk()]
    folder.files.faults = {len(folder.files.calls) + 1: errno.EIO}
    with pytest.raises(StorageError, match="/shard: can't sync the folder"):
        folder.sync()
