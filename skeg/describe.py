"""What a path holds, and whether it is sound: any index directory or any file in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs

from skeg.ann import FlatIndex, Index
from skeg.ann.format import MANIFEST, read_manifest
from skeg.container import Container
from skeg.errors import CorruptError
from skeg.files import AnyPath


def open_index(path: AnyPath) -> Index | FlatIndex:
    """Open the index directory `path`, whichever backend its manifest names.

    Raises
    ------
    StorageError
        As `Index.open`.
    """
    return FlatIndex.open(path) if read_manifest(path).backend == "flat" else Index.open(path)


def describe(path: AnyPath) -> dict[str, Any]:
    """Facts about an index directory, its manifest or one of its files, in time that does not depend on their size.

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
    if place.is_dir():
        with open_index(place) as index:
            return {"what": "index directory", "path": str(place), **index.stats(), "files": _files(place)}
    if place.name == MANIFEST:
        return {"what": "index manifest", "path": str(place), **attrs.asdict(read_manifest(place.parent))}
    with Container.open(place) as container:
        sections = [
            {"section": s.name, "dtype": str(s.dtype), "shape": " x ".join(map(str, s.shape)), "bytes": s.nbytes}
            for s in container.sections
        ]
        header = {"what": "array file", "path": str(place), "file_bytes": container.nbytes}
        return {**header, "meta": dict(container.meta), "sections": sections}


def check(path: AnyPath) -> list[CorruptError]:
    """Everything wrong with an index directory, its manifest or one of its files.

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
        if place.is_dir():
            with open_index(place) as index:
                findings = index.verify()
        elif place.name == MANIFEST:
            read_manifest(place.parent)
            findings = []
        else:
            with Container.open(place) as container:
                container.verify()
            findings = []
    except CorruptError as error:
        findings = [error]
    return findings


def _files(folder: Path) -> list[dict[str, Any]]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return [{"file": str(file.relative_to(folder)), "bytes": file.stat().st_size} for file in files]
