"""From a path to open shards: the store's folder, its lock and its manifest."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path

import attrs

from skeg.checks import as_choice, as_int
from skeg.errors import CorruptError, FormatError, ParameterError, StorageError
from skeg.fileops import FileOps, Lock, read_all, write_all
from skeg.files import AnyPath, disk_errors
from skeg.kv import manifest as manifests
from skeg.kv.entries import HASH_MASK, KeyHash
from skeg.kv.manifest import Manifest, pack_manifest, unpack_manifest
from skeg.kv.options import StoreOptions
from skeg.kv.recovery import Recovered, Recovery
from skeg.kv.segments import Folder
from skeg.kv.shard import Shard

LOCK = "lock"
_UNFINISHED = f"{manifests.NAME}.tmp"

# Files that a writer holds open, over all shards.
_OPEN_FILES = 256

# A reader beside a writer may come upon a file that has just been replaced, or bytes that are just being written.
_READER_ATTEMPTS = 60
_READER_PAUSE_S = 0.002
# Where nothing changes, that is not what is wrong.
_ALIKE_ATTEMPTS = 2


@attrs.frozen(eq=False)
class Opened:
    """A store's folder, open."""

    path: Path
    manifest: Manifest
    shards: list[Shard]
    recovered: list[Recovered]
    lock: Lock | None


def open_folder(
    path: AnyPath,
    *,
    shards: int | None,
    mode: str,
    options: StoreOptions,
    files: FileOps,
    hash_mask: int = HASH_MASK,
) -> Opened:
    """Open the store in a folder, or make one there; see `skeg.kv.Store.open`, whose errors these are."""
    writable = as_choice("mode", mode, ("rw", "r")) == "rw"
    count = None if shards is None else as_int("shards", shards, 1, manifests.SHARDS_MAX)
    if options.salvage and not writable:
        raise ParameterError("mode", mode, "'rw' to salvage a store")
    with disk_errors(path, "find"):
        folder = Path(path).absolute()
    with contextlib.ExitStack() as undo:
        lock = None
        if writable:
            lock = _lock(folder, files)
            undo.callback(lock.release)
        manifest = _manifest(folder, files, count, writable=writable)
        if count not in (None, manifest.shards):
            raise ParameterError("shards", shards, f"{manifest.shards}: {folder} was made with that number of shards")
        opened = _open_shards(folder, manifest, options, files, hash_mask, writable=writable)
        undo.pop_all()
    return Opened(folder, manifest, *opened, lock)


def _lock(folder: Path, files: FileOps) -> Lock:
    """Take the store's lock, making its folder first if there is none."""
    with disk_errors(folder, "open the store"):
        try:
            files.mkdir(folder)
        except FileExistsError:
            _check_ours(folder, files.listdir(folder))
        except FileNotFoundError as error:
            raise StorageError(folder, "can't make the store: its parent folder does not exist") from error
        return files.lock(folder / LOCK)


def _check_ours(folder: Path, names: list[str]) -> None:
    """Refuse to make a store in a folder that holds something else."""
    foreign = [name for name in names if name not in (LOCK, _UNFINISHED) and not name.startswith("shard-")]
    if foreign and manifests.NAME not in names:
        raise FormatError(folder, f"not a key-value store: it holds {foreign[0]!r} and no {manifests.NAME}")


def _manifest(folder: Path, files: FileOps, count: int | None, *, writable: bool) -> Manifest:
    path = folder / manifests.NAME
    try:
        with disk_errors(path, "read"):
            file = files.open(path)
            return unpack_manifest(read_all(file, manifests.BYTES_MAX, 0), path)
    except StorageError as error:
        if not isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
            raise
    if not writable:
        raise FormatError(folder, f"not a key-value store: no {manifests.NAME}")
    return _create(folder, files, Manifest.create(count or 1))


def _create(folder: Path, files: FileOps, manifest: Manifest) -> Manifest:
    """Make a store. Its manifest comes last, so an attempt that was cut off is simply made again."""
    path = folder / manifests.NAME
    temporary = folder / _UNFINISHED
    with disk_errors(folder, "make the store"):
        for name in files.listdir(folder):
            if name.startswith("shard-") and files.listdir(folder / name):
                raise CorruptError(path, "missing, though the store has data")
        files.sync_dir(folder.parent)
        for number in range(manifest.shards):
            with contextlib.suppress(FileExistsError):
                files.mkdir(folder / f"shard-{number}")
        files.sync_dir(folder)
        with contextlib.suppress(FileNotFoundError):
            files.unlink(temporary)
        file = files.open(temporary, create=True)
        write_all(file, pack_manifest(manifest), 0)
        file.sync()
        file.close()
        files.rename(temporary, path)
        files.sync_dir(folder)
    return manifest


def _open_shards(
    folder: Path, manifest: Manifest, options: StoreOptions, files: FileOps, hash_mask: int, *, writable: bool
) -> tuple[list[Shard], list[Recovered]]:
    keys = KeyHash(manifest.hash_seed, hash_mask)
    shards, recovered = [], []
    for number in range(manifest.shards):
        segments, found = _recover(folder, number, manifest, options, files, keys, writable=writable)
        cache_bytes = options.cache_bytes // manifest.shards
        shards.append(Shard(segments, keys, found, options, cache_bytes=cache_bytes, writable=writable))
        recovered.append(found)
    if writable and not any(len(shard.folder) for shard in shards):
        # Whoever made the store may have been cut off before this; from the first record on it has to be there.
        with disk_errors(folder, "sync the folder"):
            files.sync_dir(folder)
    return shards, recovered


def _recover(
    store: Path,
    number: int,
    manifest: Manifest,
    options: StoreOptions,
    files: FileOps,
    keys: KeyHash,
    *,
    writable: bool,
) -> tuple[Folder, Recovered]:
    place = store / f"shard-{number}"
    # What a reader has closed may be gone when it wants it again: the writer's compaction does not wait for it.
    max_open = max(_OPEN_FILES // manifest.shards, 2) if writable else sys.maxsize
    names: list[str] = []
    alike = 0
    for attempt in range(_READER_ATTEMPTS):
        folder = Folder(place, files, manifest.shard_id(number), manifest.shard_salt(number), max_open)
        recovery = Recovery(folder, keys, writable=writable, salvage=options.salvage)
        try:
            return folder, recovery.run()
        except StorageError:
            if writable:
                raise
            with disk_errors(place, "list the folder"):
                before, names = names, sorted(files.listdir(place))
            alike = alike + 1 if names == before else 0
            if alike == _ALIKE_ATTEMPTS or attempt == _READER_ATTEMPTS - 1:
                raise
            time.sleep(_READER_PAUSE_S * attempt)
    raise AssertionError("unreachable")
