"""Byte layout of an index on disk: which files a folder holds, and which sections they have.

An index is a folder::

    INDEX/manifest.json                 settings, file sizes, checksum; written last
    INDEX/segment-000001/vectors.skg    the stored vectors (cold: read for exact scores)
    INDEX/segment-000001/index.skg      codes, graph, ids, quantizer (hot)
    INDEX/segment-000001/fields.skg     payloads and their fields (`skeg.ann.filters.columns`), if there are any
    INDEX/log-000001.skl                what was written since (`skeg.ann.live.format`), if the index changes
    INDEX/writer.lock                   held by the one process that writes

manifest.json has the form of `skeg.signed`; its keys are the fields of `Manifest`. The index is what the segment and
all logs from ``live.first_log`` on say; other segments and older logs were merged, or never were finished. An index
without rows has no segment.

The ``.skg`` files are containers (`skeg.container`); their meta names what they are (``{"file": "vectors"}`` or
``{"file": "graph" | "flat"}``). Rows are numbered alike in every section. In a
graph index they stand cell by cell, the cells region by region (`skeg.ann.cells`).

Sections of vectors.skg:

=============  ========  ==================  ==============================================================
name           dtype     shape               meaning
=============  ========  ==================  ==============================================================
vectors        f4        (n, dim)            exactly what was stored
=============  ========  ==================  ==============================================================

Sections of index.skg in a graph index; those of a flat one stand in `skeg.ann.flatfile`:

=============  ========  ==================  ==============================================================
ids            u8        (n,)                id of each row
id_order       u4        (n,)                rows by ascending id
mean           f4        (dim,)              subtracted before rotation
signs          i1        (rounds, dim)       random signs of the rotation
codebook       f4        (m, 256, sub_dim)   centroids of pq, else (0, 0, 0)
codes          u1        (n, row_bytes)      codes; no rows for f32
factors        f4        (n, 1 or 2)         scale of each row; with the metric l2 also its offset
links          u4        (n_links,)          neighbor lists, packed
offsets        u4        (n + 1,)            list of row u: links[offsets[u]:offsets[u + 1]]
root           u4        (1,)                row from which every other can be reached
regions        u4        (n_regions + 1,)    cells of region r: regions[r] to regions[r + 1]
cells          u4        (n_cells + 1,)      rows of cell c: cells[c] to cells[c + 1]
centroid_codes    u1     (c, row_bytes)      codes of the mean vectors of regions, then of cells; no rows for f32
centroid_factors  f4     (c, 1 or 2)         their factors
centroid_vectors  f4     (c, dim)            the means themselves, for f32 only; c = n_regions + n_cells
=============  ========  ==================  ==============================================================
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from skeg.ann.metric import METRICS
from skeg.checks import as_choice, as_int
from skeg.container import Container, Section
from skeg.errors import CorruptError, FormatError, ParameterError, StorageError, VersionTooNewError
from skeg.files import AnyPath, atomic_write_bytes
from skeg.signed import check_signed, pack_signed, parse_signed

FORMAT = "skeg-index"
VERSION = (1, 0)
MANIFEST = "manifest.json"
SEGMENT = "segment-000001"
VECTORS = "vectors.skg"
HOT = "index.skg"
MANIFEST_BYTES_MAX = 1 << 20

BACKENDS = ("disk", "flat")


def _check_object(name: str, value: Any) -> None:
    if not isinstance(value, dict):
        raise ParameterError(name, value, "an object")


def _check_sizes(name: str, value: Any) -> None:
    _check_object(name, value)
    for file, size in value.items():
        as_int(f"{name}[{file!r}]", size, 0)


@attrs.frozen(kw_only=True)
class Live:
    """What the manifest of an index that changes says beside the rest.

    uid : 32 hexadecimal digits, by which its logs know it; generation : counts the manifests; first_log : number of the
    first log that is not merged. `ParameterError` for a value that can't be.
    """

    uid: str = attrs.field()
    generation: int = attrs.field(validator=lambda _, field, value: as_int(field.name, value, 1))
    first_log: int = attrs.field(validator=lambda _, field, value: as_int(field.name, value, 1))

    @uid.validator
    def _check_uid(self, field: attrs.Attribute[str], value: Any) -> None:
        if not isinstance(value, str) or not re.fullmatch(r"[0-9a-f]{32}", value):
            raise ParameterError(field.name, value, "32 hexadecimal digits")

    @property
    def uid_bytes(self) -> bytes:
        """The id as 16 bytes."""
        return bytes.fromhex(self.uid)


def _as_live(value: Any) -> Live | None:
    """The part of the manifest about changes, from JSON."""
    if value is None or isinstance(value, Live):
        return value
    _check_object("live", value)
    known = {field.name for field in attrs.fields(Live)}
    return Live(**{name: number for name, number in value.items() if name in known})


def _check_segment(name: str, value: Any) -> None:
    """A folder inside the index, never one elsewhere."""
    if not isinstance(value, str) or not re.fullmatch(r"segment-[0-9]{6}", value):
        raise ParameterError(name, value, f"a name like {SEGMENT!r}")


def _valid(check: Callable[..., Any], *limits: Any) -> Callable[[Any, attrs.Attribute[Any], Any], None]:
    """An attrs validator made of a check from `skeg.checks` or of one above."""
    return lambda _, field, value: check(field.name, value, *limits)


@attrs.frozen(kw_only=True)
class Manifest:
    """What manifest.json says.

    backend : "disk" (graph) or "flat"; dim, count : of the stored vectors; metric, kind : names; segment : folder of
    the files; files : bytes of each; build : parameters and figures of the build; search : ``list_size``, the
    default, replaced by `Index.tune`, the fields of `skeg.ann.calibration.Calibration`, and ``changed``, how many rows
    came or went since these were measured; live : of an index that changes. `ParameterError` for a value that can't be.
    """

    backend: str
    dim: int = attrs.field(validator=_valid(as_int, 1))
    count: int = attrs.field(validator=_valid(as_int, 0))
    metric: str = attrs.field(validator=_valid(as_choice, METRICS))
    kind: str
    segment: str = attrs.field(default=SEGMENT, validator=_valid(_check_segment))
    files: dict[str, int] = attrs.field(validator=_valid(_check_sizes))
    build: dict[str, Any] = attrs.field(validator=_valid(_check_object))
    search: dict[str, Any] = attrs.field(validator=_valid(_check_object))
    live: Live | None = attrs.field(default=None, converter=_as_live)
    format: str = FORMAT
    version: tuple[int, int] = VERSION


def pack_manifest(manifest: Manifest) -> bytes:
    """Bytes of manifest.json."""
    fields = attrs.asdict(manifest)
    if manifest.live is None:
        del fields["live"]
    fields["version"] = list(manifest.version)
    return pack_signed(fields)


def unpack_manifest(data: bytes, path: AnyPath) -> Manifest:
    """The manifest in the bytes of the file ``path``.

    Raises
    ------
    FormatError
        Not a manifest of ours.
    VersionTooNewError
        A newer major version.
    CorruptError
        Not valid JSON, a checksum that does not hold, a field missing or with a value that can't be.
    """
    fields = parse_signed(data, path, FORMAT, "an index manifest")
    version = fields.get("version")
    if not (isinstance(version, list) and len(version) == 2 and all(type(v) is int for v in version)):
        raise CorruptError(path, "manifest version", expected="two integers", found=repr(version))
    if version[0] != VERSION[0]:
        newer = version[0] > VERSION[0]
        kind, problem = (VersionTooNewError, "written by a newer skeg") if newer else (FormatError, "no such version")
        raise kind(path, problem, expected=f"version {VERSION[0]}.x", found=repr(version))
    check_signed(data, fields, path)
    try:
        known = {f.name for f in attrs.fields(Manifest)}
        manifest = Manifest(**{k: v for k, v in fields.items() if k in known} | {"version": tuple(version)})
    except (TypeError, ParameterError) as error:
        raise CorruptError(path, f"manifest with a field missing or out of range ({error})") from error
    if manifest.backend not in BACKENDS:
        raise FormatError(path, "unknown backend", expected=" or ".join(BACKENDS), found=repr(manifest.backend))
    return manifest


def read_manifest(folder: AnyPath) -> Manifest:
    """Manifest of an index folder; `FormatError` if the folder holds none."""
    path = Path(folder) / MANIFEST
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= MANIFEST_BYTES_MAX else b""
    except (FileNotFoundError, NotADirectoryError) as error:
        what = "no such index" if not os.path.exists(folder) else f"not an index: no {MANIFEST}"
        raise FormatError(folder, what) from error
    except OSError as error:
        raise StorageError(path, f"can't read: {error.strerror}") from error
    if size > MANIFEST_BYTES_MAX:
        raise FormatError(path, "too large for a manifest", expected="1 MiB at most", found=f"{size} bytes")
    return unpack_manifest(data, path)


def write_manifest(folder: AnyPath, manifest: Manifest) -> None:
    """Write or replace the manifest of an index folder, durably and all or nothing."""
    atomic_write_bytes(Path(folder) / MANIFEST, pack_manifest(manifest))


def open_file(folder: AnyPath, manifest: Manifest, name: str) -> Container:
    """Open one of the segment's files and check that it has the size that the manifest knows."""
    path = Path(folder) / manifest.segment / name
    expected = manifest.files.get(name)
    if expected is None:
        raise CorruptError(Path(folder) / MANIFEST, f"manifest does not name {name}")
    if not path.exists():
        raise CorruptError(path, "the manifest names a file that is not there")
    container = Container.open(path)
    if container.nbytes != expected:
        container.close()
        raise CorruptError(
            path, "file has another size than the manifest says", expected=str(expected), found=str(container.nbytes)
        )
    return container


ANY = -1
"""In an expected shape: any length."""

Shapes = dict[str, tuple[str, tuple[int, ...]]]
"""Name of a section -> its dtype and shape, where `ANY` stands for any length."""


def check_shapes(container: Container, expected: Shapes) -> None:
    """Raise `CorruptError` unless a container has the sections that a reader relies on."""
    found = {section.name: section for section in container.sections}
    for name, (dtype, shape) in expected.items():
        section = found.get(name)
        if section is None:
            raise CorruptError(container.path, f"section {name!r} is missing")
        same = len(section.shape) == len(shape) and all(
            want in (ANY, have) for want, have in zip(shape, section.shape, strict=True)
        )
        if section.dtype != np.dtype(dtype) or not same:
            raise CorruptError(
                container.path,
                f"section {name!r} does not fit the index",
                expected=f"{np.dtype(dtype)} {shape}",
                found=f"{section.dtype} {section.shape}",
            )


def vector_sections(n: int, dim: int) -> list[Section]:
    """Sections of vectors.skg."""
    return [Section("vectors", "f4", (n, dim))]
