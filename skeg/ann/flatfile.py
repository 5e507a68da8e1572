"""Write, open and check the files of a flat index (`skeg.ann.format` has the layout of the folder).

vectors.skg holds the stored vectors. index.skg holds, rows in ascending order of their ids:

=============  ========  ==================  ==============================================================
name           dtype     shape               meaning
=============  ========  ==================  ==============================================================
ids            u8        (n,)                id of each row, ascending
mean           f4        (dim,)              subtracted before rotation
signs          i1        (rounds, dim)       random signs of the rotation
codebook       f4        (m, 256, sub_dim)   centroids of pq, else (0, 0, 0)
norms          f4        (n,)                norms of the stored vectors
codes          u1        (n, row_bytes)      codes; no rows for f32, tq1 and binary
factors        f4        (n, 2)              scale and offset of each row
groups         u1        (g, group_bytes)    sketches, 16 rows to a group (`skeg.ann.kernels.scan`); none for f32 and pq
group_factors  f4        (g, 2, 16)          scales and offsets of the sketches
=============  ========  ==================  ==============================================================
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from skeg.ann.exact import checked_norms
from skeg.ann.flatrows import FlatRows, encode_block, group_bytes, has_codes, has_sketches
from skeg.ann.format import ANY, HOT, SEGMENT, VECTORS, Manifest, Shapes, check_shapes, open_file, vector_sections
from skeg.ann.kernels.simd_scan import GROUP
from skeg.ann.parallel import spans
from skeg.ann.quantizers import Quantizer, restore_quantizer
from skeg.container import Container, Section, write_container
from skeg.errors import CorruptError, VectorError
from skeg.files import AnyPath

ROWS_A_BLOCK = 4096
"""Rows copied or checked at a time; a multiple of 16."""

CODE_TOLERANCE = 0.02
"""Share of a row's code bytes that may differ from a code made on another kind of CPU."""


def write_rows(folder: AnyPath, rows: FlatRows) -> dict[str, int]:
    """Write a segment folder into ``folder``, rows in order of ids; gives the bytes of each file."""
    place = Path(folder) / SEGMENT
    place.mkdir()
    order = rows.by_rank if len(rows.by_rank) else np.arange(len(rows.ids), dtype=np.uint32)
    n, dim = rows.vectors.shape
    with write_container(place / VECTORS, {"file": "vectors"}, vector_sections(n, dim)) as writer:
        for start, stop in spans(n, ROWS_A_BLOCK):
            writer.append("vectors", rows.vectors[order[start:stop]])
    groups, group_factors = _ordered_groups(rows, order)
    transform = rows.quantizer.transform
    arrays: dict[str, npt.NDArray[np.generic]] = {
        "ids": rows.ids[order],
        "mean": transform.mean,
        "signs": transform.signs,
        "codebook": rows.quantizer.codebook,
        "norms": rows.norms[order],
        "codes": rows.codes[order] if len(rows.codes) else rows.codes,
        "factors": rows.factors[order],
        "groups": groups,
        "group_factors": group_factors,
    }
    meta = {"file": "flat", "kind": rows.quantizer.kind, "metric": transform.metric}
    sections = [Section(name, array.dtype, array.shape) for name, array in arrays.items()]
    with write_container(place / HOT, meta, sections) as writer:
        for name, array in arrays.items():
            writer.append(name, array)
    return {name: (place / name).stat().st_size for name in (VECTORS, HOT)}


def _ordered_groups(rows: FlatRows, order: npt.NDArray[np.uint32]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Groups and their factors with the lanes of rows in the given order, zero past the last row."""
    n_groups = len(rows.groups)
    if n_groups == 0:
        return rows.groups, rows.group_factors
    lanes = np.zeros(n_groups * GROUP, np.int64)
    lanes[: len(order)] = order
    exists = (np.arange(len(lanes)) < len(order)).reshape(n_groups, GROUP)
    group, lane = (part.reshape(n_groups, GROUP) for part in np.divmod(lanes, GROUP))
    words = rows.groups.reshape(n_groups, -1, GROUP, 4)
    groups = np.where(exists[:, :, None, None], words[group, :, lane], 0).transpose(0, 2, 1, 3)
    factors = np.where(exists[:, :, None], rows.group_factors[group, :, lane], 0).transpose(0, 2, 1)
    return (
        np.ascontiguousarray(groups).reshape(n_groups, -1).astype(np.uint8),
        np.ascontiguousarray(factors).astype(np.float32),
    )


def _hot_shapes(n: int, dim: int) -> Shapes:
    return {
        "ids": ("u8", (n,)),
        "mean": ("f4", (dim,)),
        "signs": ("i1", (ANY, dim)),
        "codebook": ("f4", (ANY, ANY, ANY)),
        "norms": ("f4", (n,)),
        "codes": ("u1", (ANY, ANY)),
        "factors": ("f4", (n, 2)),
        "groups": ("u1", (ANY, ANY)),
        "group_factors": ("f4", (ANY, 2, GROUP)),
    }


@attrs.frozen(eq=False)
class FlatSegment:
    """The files of a flat index, opened, and their rows."""

    cold: Container
    hot: Container
    rows: FlatRows

    @classmethod
    def open(cls, folder: AnyPath, manifest: Manifest) -> FlatSegment:
        """Map the files, in a time that does not depend on their size; contents are left to `verify`.

        Raises
        ------
        CorruptError
            Files, sections or manifest do not agree.
        """
        n, dim = manifest.count, manifest.dim
        with ExitStack() as opened:
            cold = opened.enter_context(open_file(folder, manifest, VECTORS))
            hot = opened.enter_context(open_file(folder, manifest, HOT))
            check_shapes(cold, {"vectors": ("f4", (n, dim))})
            check_shapes(hot, _hot_shapes(n, dim))
            meta = hot.meta.get("kind"), hot.meta.get("metric")
            if meta != (manifest.kind, manifest.metric):
                expected = f"{manifest.kind}, {manifest.metric}"
                raise CorruptError(hot.path, "file is of another index", expected=expected, found=f"{meta}")
            arrays = {name: hot.array(name) for name in _hot_shapes(n, dim)}
            quantizer = restore_quantizer(
                manifest.kind, manifest.metric, arrays.pop("mean"), arrays.pop("signs"), arrays.pop("codebook")
            )
            _check_sizes(hot, quantizer, n, dim)
            opened.pop_all()
            return cls(cold, hot, FlatRows(quantizer, vectors=cold.array("vectors"), **arrays))

    def close(self) -> None:
        """Drop the maps; arrays handed out keep theirs alive."""
        self.cold.close()
        self.hot.close()

    def verify(self) -> list[CorruptError]:
        """What is wrong with the contents: ids that don't ascend, norms or codes that are not those of their vectors.

        Raises
        ------
        CorruptError
            A section does not match its checksum: nothing else is worth looking at.
        """
        self.cold.verify()
        self.hot.verify()
        ids = self.rows.ids
        bad = np.flatnonzero(ids[1:] <= ids[:-1])
        if len(bad):
            return [self._finding(int(bad[0]) + 1, "id", "more than that of the row before", f"{ids[bad[0] + 1]}")]
        for start, stop in spans(len(ids), ROWS_A_BLOCK):
            finding = self._check_block(start, stop)
            if finding is not None:
                return [finding]
        return []

    def _finding(self, row: int, what: str, expected: str, found: str) -> CorruptError:
        return CorruptError(self.hot.path, f"{what} of row {row}", expected=expected, found=found)

    def _check_block(self, start: int, stop: int) -> CorruptError | None:
        """Compare what is stored of some rows with what their vectors give, up to roundings that depend on the CPU."""
        rows, quantizer = self.rows, self.rows.quantizer
        vectors = rows.vectors[start:stop]
        try:
            norms = checked_norms(vectors, quantizer.transform.metric, start)
        except VectorError as error:
            return CorruptError(
                self.cold.path, f"vector of row {error.row}", expected=error.expected, found=error.found
            )
        n_groups = -(-(stop - start) // GROUP) if has_sketches(quantizer) else 0
        groups = np.zeros((n_groups, rows.groups.shape[1]), np.uint8)
        group_factors = np.zeros((n_groups, 2, GROUP), np.float32)
        codes, factors = encode_block(quantizer, vectors, 0, groups, group_factors)
        here = slice(start // GROUP, start // GROUP + n_groups)
        wrong = {
            "norm": ~np.isclose(norms, rows.norms[start:stop], rtol=1e-4),
            "scale": ~np.isclose(factors, rows.factors[start:stop], rtol=1e-3, atol=1e-6).all(axis=1),
            "code": _share(codes != rows.codes[start : start + len(codes)]) > CODE_TOLERANCE,
            "sketch": _share(_lanes(groups != rows.groups[here])) > CODE_TOLERANCE,
            "scale of the sketch": _lanes(
                ~np.isclose(group_factors, rows.group_factors[here], rtol=1e-2, atol=1e-6)
            ).any(axis=1),
        }
        for what, flags in wrong.items():
            if flags.any():
                return self._finding(start + int(np.flatnonzero(flags)[0]), what, "that of its vector", "another")
        return None


def _share(flags: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Share of each row's flags that are set; 0 in a row without any (kinds that have no sketches)."""
    share: npt.NDArray[np.float64] = flags.sum(axis=1) / max(flags.shape[1], 1)
    return share


def _lanes(flags: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Flags of groups (g, bytes) or group factors (g, 2, 16) by row: (16 g, ...)."""
    if flags.ndim == 2:
        flags = flags.reshape(len(flags), flags.shape[1] // 64, GROUP, 4).transpose(0, 2, 1, 3)
    else:
        flags = flags.transpose(0, 2, 1)
    return np.ascontiguousarray(flags).reshape(len(flags) * GROUP, flags[:1, :1].size)


def _check_sizes(hot: Container, quantizer: Quantizer, n: int, dim: int) -> None:
    """The sizes that a kernel relies on and that follow from the kind."""
    n_groups = -(-n // GROUP) if has_sketches(quantizer) else 0
    if quantizer.kind == "pq" and (quantizer.codebook.shape[1] != 256 or quantizer.codebook[:, 0].size < dim):
        found = f"{quantizer.codebook.shape}"
        raise CorruptError(hot.path, "section 'codebook' does not fit", expected="(m, 256, sub_dim)", found=found)
    wanted = {
        "codes": (n if has_codes(quantizer) else 0, quantizer.row_bytes),
        "groups": (n_groups, group_bytes(quantizer)),
        "group_factors": (n_groups, 2, GROUP),
    }
    for section in hot.sections:
        if wanted.get(section.name, section.shape) != section.shape:
            expected, found = f"{wanted[section.name]}", f"{section.shape}"
            raise CorruptError(hot.path, f"section {section.name!r} does not fit", expected=expected, found=found)
