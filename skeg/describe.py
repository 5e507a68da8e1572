"""What a path holds, and whether it is sound: a database, an index directory or any file in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs

from skeg import catalog
from skeg.ann import FlatIndex, Index
from skeg.ann.format import MANIFEST, read_manifest
from skeg.container import Container
from skeg.database import open_database
from skeg.errors import CorruptError, FormatError
from skeg.files import AnyPath
from skeg.kv import manifest as kv_manifest
from skeg.signed import parse_signed


def open_index(path: AnyPath) -> Index | FlatIndex:
    """Open the index directory `path`, whichever backend its manifest names.

    Raises
    ------
    StorageError
        As `Index.open`.
    """
    return FlatIndex.open(path) if read_manifest(path).backend == "flat" else Index.open(path)


def describe(path: AnyPath) -> dict[str, Any]:
    """Facts about a database or an index directory, a manifest or one of the files, without reading vectors.

    Returns
    -------
    dict
        `what` says which of them it is; the rest is numbers, text, and nested dicts and lists of these.

    Raises
    ------
    FormatError
        The path is none of ours.
    CorruptError
        Its header is damaged or its size is wrong.
    """
    place = Path(path)
    if _is_database(place):
        with open_database(place, mode="r") as database:
            return {"what": "database directory", "path": str(place), **database.stats(), "files": _files(place)}
    if place.is_dir():
        with open_index(place) as index:
            return {"what": "index directory", "path": str(place), **index.stats(), "files": _files(place)}
    if place.name == MANIFEST:
        return {"what": "index manifest", "path": str(place), **attrs.asdict(read_manifest(place.parent))}
    if place.name == catalog.NAME:
        indexes = [attrs.asdict(entry) for entry in (catalog.read_catalog(place.parent) or {}).values()]
        return {"what": "catalogue of indexes", "path": str(place), "indexes": indexes}
    with Container.open(place) as container:
        sections = [
            {"section": s.name, "dtype": str(s.dtype), "shape": " x ".join(map(str, s.shape)), "bytes": s.nbytes}
            for s in container.sections
        ]
        header = {"what": "array file", "path": str(place), "file_bytes": container.nbytes}
        return {**header, "meta": dict(container.meta), "sections": sections}


def check(path: AnyPath) -> list[CorruptError]:
    """Everything wrong with a database or index directory, its manifest or one of its files.

    Returns
    -------
    list of CorruptError
        Empty when all is well; for a damaged file as well as for links or codes that don't fit.

    Raises
    ------
    FormatError
        The path is none of ours, so there is nothing to check it against.
    """
    place = Path(path)
    try:
        if _is_database(place):
            with open_database(place, mode="r") as database:
                findings = database.verify()
        elif place.is_dir():
            with open_index(place) as index:
                findings = index.verify()
        elif place.name == MANIFEST:
            read_manifest(place.parent)
            findings = []
        elif place.name == catalog.NAME:
            catalog.read_catalog(place.parent)
            findings = []
        else:
            with Container.open(place) as container:
                container.verify()
            findings = []
    except CorruptError as error:
        findings = [error]
    return findings


def _is_database(place: Path) -> bool:
    """Whether a folder has the manifest of a key-value store, which is a database too."""
    path = place / kv_manifest.NAME
    if not path.is_file():
        return False
    try:
        parse_signed(path.read_bytes(), path, kv_manifest.FORMAT, "a database")
    except (CorruptError, FormatError):
        return False
    return True


def _files(folder: Path) -> list[dict[str, Any]]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return [{"file": str(file.relative_to(folder)), "bytes": file.stat().st_size} for file in files]
