"""Stores in files that other programs, and other versions, can read: NDJSON, and a compact binary dump.

Both are streams, written front to back and read with the memory that the largest pair needs, or a few MiB.

NDJSON
    One JSON object a line, in UTF-8, every line with two fields: ``key`` or ``key_base64``, and ``value`` or
    ``value_base64``. Bytes that are UTF-8 stand as text under the plain name, all others in standard base64 under the
    other one. Which of the two was chosen for some bytes does not matter to the reader. There are no empty lines.
    A file cut short at the end of a line can't be told from a whole one.

Dump
    A header, then blocks, the last of which has the number of pairs. All integers are little-endian.

    ====== ==== ======================================================================
    offset size header
    ====== ==== ======================================================================
    0      8    magic ``SKEGDUMP``
    8      4    format version, 1
    12     4    zero
    16     8    XXH3-64 of bytes 0 to 15
    ====== ==== ======================================================================

    ====== ==== ======================================================================
    offset size block
    ====== ==== ======================================================================
    0      8    XXH3-64 of the rest of the block
    8      4    n, bytes of pairs; 0 in the last block
    12     n    pairs: key length (4), value length (4), key, value
    or 12  8    in the last block: number of pairs in all blocks
    ====== ==== ======================================================================

    A block has one pair at least. It has at most 1 MiB of them, unless one alone takes more. Nothing follows the last
    block. So what a reader passes on was checked, and a file that was cut short is never taken for a whole one.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Iterable, Iterator
from os import PathLike
from typing import IO, Any, NamedTuple

from skeg.binary import Record, checksum
from skeg.checks import as_choice
from skeg.errors import CorruptError, FormatError, VersionTooNewError
from skeg.files import AnyPath, atomic_output, disk_errors
from skeg.kv.format import KEY_BYTES_MAX, VALUE_BYTES_MAX
from skeg.kv.store import Store

MAGIC = b"SKEGDUMP"
VERSION = 1

Pair = tuple[bytes, bytes]

_PAIR = struct.Struct("<II")
_BATCH_BYTES = 1 << 20
_PAIR_BYTES_MAX = _PAIR.size + KEY_BYTES_MAX + VALUE_BYTES_MAX

_SUM = struct.Struct("<Q")
_LENGTH = struct.Struct("<I")
_COUNT = struct.Struct("<Q")
_BLOCK_HEAD = struct.Struct("<QI")

# A control character takes six bytes of JSON.
_LINE_BYTES_MAX = 6 * (KEY_BYTES_MAX + VALUE_BYTES_MAX) + 100
_EXCERPT_BYTES = 60

_to_json = json.JSONEncoder(ensure_ascii=False).encode


class _Header(NamedTuple):
    magic: bytes
    version: int
    zero: int


_HEADER: Record[_Header] = Record(_Header, "<8sII", 16)
_HEADER_BYTES = _HEADER.size + _SUM.size


class _Format(NamedTuple):
    """Bytes that a file begins with, those of a batch of pairs, those that end a file of so many pairs; a reader.

    The reader takes an open file and its name for messages, and hands out what was in it in batches.
    """

    begin: bytes
    batch: Callable[[list[Pair]], bytes]
    end: Callable[[int], bytes]
    read: Callable[[IO[bytes], AnyPath], Iterator[list[Pair]]]


def export_store(store: Store, target: AnyPath | IO[bytes], *, file_format: str = "ndjson", prefix: bytes = b"") -> int:
    """Write the pairs of a store, as they are at this moment, to a file or a stream.

    Parameters
    ----------
    store : Store
        Open in any mode.
    target : path or binary file
        A file gets its new contents as a whole, once they are on stable storage; after an error it has the old ones.
    file_format : {"ndjson", "dump"}
        The dump is the faster one, and the one in which damage is noticed.
    prefix : bytes
        Of the keys to write; by default all are.

    Returns
    -------
    int
        Pairs written.

    Raises
    ------
    StorageError
        The target can't be written, or the store can't be read.
    """
    form = _FORMATS[as_choice("file_format", file_format, _FORMATS)]
    pairs = store.scan(prefix)
    if isinstance(target, str | PathLike):
        with atomic_output(target) as file:
            return _write(pairs, form, file.write)
    with disk_errors(stream_name(target), "write"):
        count = _write(pairs, form, target.write)
        target.flush()
    return count


def import_store(store: Store, source: AnyPath | IO[bytes], *, file_format: str = "ndjson") -> int:
    """Set the pairs of a file or a stream, in batches of about a MiB.

    Parameters
    ----------
    store : Store
        Open for writing. What it holds under other keys stays.
    source : path or buffered binary file
        Written by `export_store`, or lines of the same form by anyone.
    file_format : {"ndjson", "dump"}
        What it is.

    Returns
    -------
    int
        Pairs set; a key that the file has twice counts twice and gets the later value.

    Raises
    ------
    CorruptError
        Names the place. Nothing of the batch in which the damage is was set; the batches before it were.
    FormatError
        Not a dump, or one of a newer version (`VersionTooNewError`).
    ParameterError
        A key or value is larger than a store takes.
    StorageError
        The source can't be read, or the store can't be written.
    """
    form = _FORMATS[as_choice("file_format", file_format, _FORMATS)]
    if isinstance(source, str | PathLike):
        with disk_errors(source, "read"), open(source, "rb") as file:
            return _set_all(store, form.read(file, source))
    name = stream_name(source)
    with disk_errors(name, "read"):
        return _set_all(store, form.read(source, name))


def stream_name(file: IO[bytes]) -> str:
    """What messages call an open file."""
    return str(getattr(file, "name", type(file).__name__))


def text_field(name: str, data: bytes) -> dict[str, str]:
    """One field that says what `data` is: `name` with text, or ``name_base64``."""
    try:
        return {name: data.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(data).decode()}


def _write(pairs: Iterable[Pair], form: _Format, write: Callable[[bytes], object]) -> int:
    write(form.begin)
    count = 0
    for batch in _batches(pairs):
        write(form.batch(batch))
        count += len(batch)
    write(form.end(count))
    return count


def _set_all(store: Store, batches: Iterable[list[Pair]]) -> int:
    count = 0
    for batch in batches:
        store.set_many(batch)
        count += len(batch)
    return count


def _batches(pairs: Iterable[Pair]) -> Iterator[list[Pair]]:
    """Pairs in lists of at most `_BATCH_BYTES` or of one pair."""
    batch: list[Pair] = []
    size = 0
    for key, value in pairs:
        nbytes = _PAIR.size + len(key) + len(value)
        if batch and size + nbytes > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append((key, value))
        size += nbytes
    if batch:
        yield batch


def _lines(batch: list[Pair]) -> bytes:
    return "".join(
        _to_json(text_field("key", key) | text_field("value", value)) + "\n" for key, value in batch
    ).encode()


def _read_lines(file: IO[bytes], path: AnyPath) -> Iterator[list[Pair]]:
    return _batches(_parsed_lines(file, path))


def _parsed_lines(file: IO[bytes], path: AnyPath) -> Iterator[Pair]:
    number = offset = 0
    while line := file.readline(_LINE_BYTES_MAX):
        number += 1
        pair = _parsed(line)
        if pair is None:
            raise CorruptError(
                path,
                f"line {number} is damaged",
                offset=offset,
                expected='{"key": text, "value": text}, or "key_base64" or "value_base64" for either',
                found=repr(line[:_EXCERPT_BYTES]),
            )
        offset += len(line)
        yield pair


def _parsed(line: bytes) -> Pair | None:
    """The pair of a line, None when it has another form."""
    try:
        fields = json.loads(line.decode())
        pair = _bytes_of(fields, "key"), _bytes_of(fields, "value")
        return pair if len(fields) == 2 else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _bytes_of(fields: dict[str, Any], name: str) -> bytes:
    if name in fields:
        return str.encode(fields[name])
    return base64.b64decode(fields[f"{name}_base64"], validate=True)


def _dump_header() -> bytes:
    data = _HEADER.pack(_Header(MAGIC, VERSION, 0))
    return data + _SUM.pack(checksum(data))


def _block(batch: list[Pair]) -> bytes:
    pairs = b"".join(_PAIR.pack(len(key), len(value)) + key + value for key, value in batch)
    return _summed(_LENGTH.pack(len(pairs)) + pairs)


def _last_block(count: int) -> bytes:
    return _summed(_LENGTH.pack(0) + _COUNT.pack(count))


def _summed(data: bytes) -> bytes:
    return _SUM.pack(checksum(data)) + data


def _read_dump(file: IO[bytes], path: AnyPath) -> Iterator[list[Pair]]:
    _check_header(_read(file, _HEADER_BYTES, path, 0), path)
    offset, found = _HEADER_BYTES, 0
    while True:
        head = _read(file, _BLOCK_HEAD.size, path, offset)
        total, n = _BLOCK_HEAD.unpack(head)
        if n > _PAIR_BYTES_MAX:
            raise CorruptError(
                path, "block too large", offset=offset, expected=f"at most {_PAIR_BYTES_MAX} bytes", found=str(n)
            )
        body = _read(file, n or _COUNT.size, path, offset + len(head))
        if checksum(head[_SUM.size :], body) != total:
            raise CorruptError(path, "block does not match its checksum", offset=offset)
        if not n:
            break
        batch = _unpacked(body, path, offset)
        yield batch
        found += len(batch)
        offset += len(head) + n
    (count,) = _COUNT.unpack(body)
    if count != found:
        raise CorruptError(path, "blocks are missing", offset=offset, expected=f"{count} pairs", found=f"{found}")
    if file.read(1):
        raise CorruptError(path, "dump goes on after its last block", offset=offset + len(head) + len(body))


def _read(file: IO[bytes], n: int, path: AnyPath, offset: int) -> bytes:
    data = file.read(n)
    if len(data) < n:
        raise CorruptError(path, "dump cut short", offset=offset, expected=f"{n} bytes", found=f"{len(data)} bytes")
    return data


def _check_header(data: bytes, path: AnyPath) -> None:
    header = _HEADER.unpack(data)
    if header.magic != MAGIC:
        raise FormatError(path, "not a dump of a store", offset=0, expected=repr(MAGIC), found=repr(header.magic))
    if _SUM.unpack_from(data, _HEADER.size)[0] != checksum(data[: _HEADER.size]):
        raise CorruptError(path, "header does not match its checksum", offset=_HEADER.size)
    if header.version > VERSION:
        raise VersionTooNewError(
            path, "dump of a newer version", offset=8, expected=f"at most {VERSION}", found=str(header.version)
        )


def _unpacked(body: bytes, path: AnyPath, offset: int) -> list[Pair]:
    batch = []
    at = 0
    while at + _PAIR.size <= len(body):
        klen, vlen = _PAIR.unpack_from(body, at)
        middle = at + _PAIR.size + klen
        at = middle + vlen
        batch.append((body[middle - klen : middle], body[middle:at]))
    if at != len(body):
        raise CorruptError(path, "pairs do not fill their block", offset=offset)
    return batch


_FORMATS = {
    "ndjson": _Format(b"", _lines, lambda _: b"", _read_lines),
    "dump": _Format(_dump_header(), _block, _last_block, _read_dump),
}
