"""``indexes.json`` of a database: which vector indexes it has, and nothing else does. This module specifies the file.

The file has the form of `skeg.signed`, with the keys ``format`` ("skeg-indexes"), ``version`` (1) and ``indexes``, an
object with one member for each index: its name, and an object of

``dim`` (int, 1 to 65,536), ``kind``, ``backend`` ("disk" or "flat") and ``metric`` (str)
    as the index was made; the files of its fragments agree with that.
``incarnation`` (32 hexadecimal digits)
    random: tells an index from one of the same name that was dropped.

Fragment i of the index NAME is the folder ``shard-<i>/vindex-NAME``. Making an index writes the file when all fragments
are whole, dropping one writes it before they are removed; so what the file does not name was never finished, or is
being removed. A database that never had an index has no such file, and no folder that begins with ``vindex-`` either.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs

from skeg.checks import as_choice, as_int
from skeg.errors import CorruptError, FormatError, ParameterError, StorageError, VersionTooNewError
from skeg.files import AnyPath, atomic_write_bytes
from skeg.signed import check_signed, pack_signed, parse_signed

NAME = "indexes.json"
FORMAT = "skeg-indexes"
VERSION = 1
BYTES_MAX = 64 << 20
FOLDER_PREFIX = "vindex-"

BACKENDS = ("disk", "flat")

DIM_MAX = 65_536

# The name of a fragment's folder then fits 143 bytes, the shortest limit in use (`skeg.files`).
NAME_BYTES_MAX = 128

_ALLOWED = f"1 to {NAME_BYTES_MAX} of the characters A-Z a-z 0-9 . _ -, not '.', without '..'"

# How folders are called that are being made (`skeg.files.BuildFolder`): no index may pass for one.
_RESERVED = re.compile(r"\.(building|replaced)-")


def check_name(name: Any) -> str:
    """Return the name of an index, or raise `ParameterError`.

    Parameters
    ----------
    name : str
        1 to 128 of the characters ``A-Z a-z 0-9 . _ -``; not ``.``, and with neither ``..`` nor what marks the folders
        of unfinished work, ``.building-`` or ``.replaced-``, in it.
    """
    if not isinstance(name, str) or not re.fullmatch(rf"[A-Za-z0-9._-]{{1,{NAME_BYTES_MAX}}}", name):
        raise ParameterError("name", name, _ALLOWED)
    if name == "." or ".." in name:
        raise ParameterError("name", name, _ALLOWED)
    if _RESERVED.search(name):
        raise ParameterError("name", name, "a name without '.building-' and '.replaced-'")
    return name


def folder_of(name: str) -> str:
    """Name of the folder of each fragment of an index."""
    return FOLDER_PREFIX + name


def _check_word(_: Any, field: attrs.Attribute[str], value: Any) -> None:
    if not isinstance(value, str) or not re.fullmatch(r"[a-z0-9]{1,16}", value):
        raise ParameterError(field.name, value, "a word")


def _check_incarnation(_: Any, field: attrs.Attribute[str], value: Any) -> None:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{32}", value):
        raise ParameterError(field.name, value, "32 hexadecimal digits")


@attrs.frozen(kw_only=True)
class Entry:
    """What the catalogue says of an index; `ParameterError` for a value that can't be."""

    name: str = attrs.field(validator=lambda _, __, value: check_name(value))
    dim: int = attrs.field(validator=lambda _, field, value: as_int(field.name, value, 1, DIM_MAX))
    kind: str = attrs.field(validator=_check_word)
    backend: str = attrs.field(validator=lambda _, field, value: as_choice(field.name, value, BACKENDS))
    metric: str = attrs.field(validator=_check_word)
    incarnation: str = attrs.field(factory=lambda: secrets.token_hex(16), validator=_check_incarnation)


Entries = dict[str, Entry]
"""Entries by name."""


def pack_catalog(entries: Iterable[Entry]) -> bytes:
    """Bytes of indexes.json."""
    indexes = {}
    for entry in entries:
        fields = attrs.asdict(entry)
        indexes[fields.pop("name")] = fields
    return pack_signed({"format": FORMAT, "version": VERSION, "indexes": indexes})


def unpack_catalog(data: bytes, path: AnyPath) -> Entries:
    """Read the bytes of the file `path`.

    Raises
    ------
    FormatError
        Not a catalogue of indexes.
    VersionTooNewError
        Written by a newer skeg.
    CorruptError
        Damaged.
    """
    fields = parse_signed(data, path, FORMAT, "a catalogue of indexes")
    version = fields.get("version")
    if type(version) is not int:
        raise CorruptError(path, "catalogue version", expected="an integer", found=repr(version))
    if version > VERSION:
        raise VersionTooNewError(path, "written by a newer skeg", expected=f"version {VERSION}", found=str(version))
    check_signed(data, fields, path)
    try:
        indexes = fields["indexes"]
        entries = [Entry(name=name, **indexes[name]) for name in sorted(indexes)]
    except (KeyError, TypeError, ParameterError) as error:
        raise CorruptError(path, f"catalogue with a field missing or out of range ({error})") from error
    if any("incarnation" not in indexes[entry.name] for entry in entries):
        raise CorruptError(path, "catalogue with a field missing or out of range ('incarnation')")
    return {entry.name: entry for entry in entries}


def read_catalog(folder: Path) -> Entries | None:
    """What the catalogue in a database's folder says; None if there is none. Errors as `unpack_catalog`."""
    path = folder / NAME
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= BYTES_MAX else b""
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(path, f"can't read: {error.strerror or error}") from error
    if size > BYTES_MAX:
        raise FormatError(path, "too large for a catalogue", expected=f"{BYTES_MAX} bytes", found=f"{size} bytes")
    return unpack_catalog(data, path)


def write_catalog(folder: Path, entries: Iterable[Entry]) -> None:
    """Replace the catalogue in a database's folder, durably and all or nothing. Raises StorageError."""
    atomic_write_bytes(folder / NAME, pack_catalog(entries))
