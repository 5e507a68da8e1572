"""Write and check the files of a graph segment (`skeg.ann.format` has their layout)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from skeg.ann.cells import Centroids, Partition
from skeg.ann.filters.columns import FIELDS, StoredColumns
from skeg.ann.format import ANY, HOT, VECTORS, Manifest, Shapes, check_shapes, open_file, vector_sections
from skeg.ann.kernels.connect import check_lists, reach
from skeg.ann.kernels.kmeans import N_CENTROIDS, SUB_DIM
from skeg.ann.parallel import spans
from skeg.ann.quantizers import KINDS, Bytes2D, Quantizer, encode_rows, factor_columns, factors_of, restore_quantizer
from skeg.ann.transform import Float32s
from skeg.ann.vamana import BuiltGraph
from skeg.container import Container, Section, write_container
from skeg.errors import CorruptError, FormatError, VectorError
from skeg.files import AnyPath, disk_errors, make_folder

CHECK_ROWS = 4096
"""Rows encoded at a time when codes are checked against vectors."""

_CELL_SECTIONS = ("root", "regions", "cells", "centroid_codes", "centroid_factors", "centroid_vectors")

CODE_TOLERANCE = 0.02
"""Share of a row's code bytes that may differ from a code made on another kind of CPU."""


def _hot_shapes(n: int, dim: int) -> Shapes:
    return {
        "ids": ("u8", (n,)),
        "id_order": ("u4", (n,)),
        "mean": ("f4", (dim,)),
        "signs": ("i1", (ANY, dim)),
        "codebook": ("f4", (ANY, ANY, ANY)),
        "codes": ("u1", (ANY, ANY)),
        "factors": ("f4", (n, ANY)),
        "links": ("u4", (ANY,)),
        "offsets": ("u4", (n + 1,)),
        "root": ("u4", (1,)),
        "regions": ("u4", (ANY,)),
        "cells": ("u4", (ANY,)),
        "centroid_codes": ("u1", (ANY, ANY)),
        "centroid_factors": ("f4", (ANY, ANY)),
        "centroid_vectors": ("f4", (ANY, dim)),
    }


FieldsWriter = Callable[[Path, npt.NDArray[np.int64]], None]
"""Writes fields.skg into a segment's folder, given for each row in source order its row in the segment."""


@attrs.frozen(eq=False)
class SegmentData:
    """A finished index in memory; codes, factors and ids in source order, the graph in the order of the partition.

    vectors : gives the stored vectors (m, dim) float32 of the rows, in source order, that it is asked for; fields :
    writes what else goes with the rows, if anything does.
    """

    quantizer: Quantizer
    ids: npt.NDArray[np.uint64]
    codes: npt.NDArray[np.uint8]
    factors: npt.NDArray[np.float32]
    partition: Partition
    graph: BuiltGraph
    vectors: Callable[[npt.NDArray[np.uint32]], npt.NDArray[np.float32]]
    fields: FieldsWriter | None = None


def write_segment(
    place: Path,
    data: SegmentData,
    rows_a_block: int,
    report: Callable[[int], None],
    new_array: Callable[[tuple[int, ...], npt.DTypeLike], npt.NDArray[Any]] = np.zeros,
) -> dict[str, int]:
    """Write the files of a segment into the new folder ``place``; gives the bytes of each.

    report is called with the number of rows whose vectors are written; new_array gives the array of the centroids.
    Raises `StorageError` when the disk is full.
    """
    make_folder(place)
    order = data.partition.order
    dim = data.quantizer.transform.dim
    centroids = Centroids(data.partition, data.quantizer.transform.metric, dim, new_array)
    with write_container(place / VECTORS, {"file": "vectors"}, vector_sections(len(order), dim)) as writer:
        for start, stop in spans(len(order), rows_a_block):
            block = data.vectors(order[start:stop])
            centroids.add(block)
            writer.append("vectors", block)
            report(stop)
    _write_hot(place / HOT, data, centroids.finish(lambda places: data.vectors(order[places])), rows_a_block)
    if data.fields is not None:
        rows = np.empty(len(order), np.int64)
        rows[order] = np.arange(len(order))
        data.fields(place, rows)
    with disk_errors(place, "read"):
        return {file.name: file.stat().st_size for file in sorted(place.iterdir())}


def _write_hot(path: Path, data: SegmentData, centroids: Float32s, rows_a_block: int) -> None:
    graph, order = data.graph, data.partition.order
    transform = data.quantizer.transform
    ids = data.ids[order]
    is_f32 = data.quantizer.kind == "f32"
    centroid_codes, centroid_factors = _encode_in_blocks(data.quantizer, centroids, rows_a_block)
    arrays: dict[str, npt.NDArray[np.generic]] = {
        "ids": ids,
        "id_order": np.argsort(ids, kind="stable").astype(np.uint32),
        "mean": transform.mean,
        "signs": transform.signs,
        "codebook": data.quantizer.codebook,
        "factors": data.factors[order],
        "links": graph.links,
        "offsets": graph.offsets,
        "root": np.array([graph.root], np.uint32),
        "regions": data.partition.regions,
        "cells": data.partition.cells,
        "centroid_codes": centroid_codes,
        "centroid_factors": centroid_factors,
        "centroid_vectors": centroids if is_f32 else centroids[:0],
    }
    sections = [Section(name, array.dtype, array.shape) for name, array in arrays.items()]
    meta = {"file": "graph", "kind": data.quantizer.kind, "metric": transform.metric}
    with write_container(path, meta, [*sections, Section("codes", "u1", data.codes.shape)]) as writer:
        for name, array in arrays.items():
            writer.append(name, array)
        for start, stop in spans(len(data.codes), rows_a_block):
            writer.append("codes", data.codes[order[start:stop]])


def _encode_in_blocks(quantizer: Quantizer, vectors: Float32s, rows_a_block: int) -> tuple[Bytes2D, Float32s]:
    """Codes and factors of vectors, so many at a time: turned vectors take as much memory as they do."""
    codes, factors = [], []
    for start, stop in spans(len(vectors), rows_a_block):
        some, scales, squares = encode_rows(quantizer, vectors[start:stop])
        codes.append(some)
        metric = quantizer.transform.metric
        factors.append(factors_of(scales, squares, metric)[:, : factor_columns(metric)])
    return np.concatenate(codes), np.concatenate(factors)


class GraphSegment:
    """The files of a graph index, opened: mapped, shared with every process that opens them, never locked.

    Opening costs the same for every size: headers, sizes and shapes are checked, contents are not (`verify` does that).
    The attributes are read-only arrays named as in `skeg.ann.format`.

    Raises
    ------
    CorruptError
        Files, sections or manifest do not agree.
    FormatError
        A kind of codes that this version does not know.
    """

    def __init__(self, folder: AnyPath, manifest: Manifest) -> None:
        if manifest.kind not in KINDS:
            raise FormatError(folder, "unknown kind", expected=f"one of {', '.join(KINDS)}", found=repr(manifest.kind))
        n, dim = manifest.count, manifest.dim
        with ExitStack() as opened:
            self.cold = opened.enter_context(open_file(folder, manifest, VECTORS))
            self.hot = opened.enter_context(open_file(folder, manifest, HOT))
            check_shapes(self.cold, {"vectors": ("f4", (n, dim))})
            check_shapes(self.hot, _hot_shapes(n, dim))
            self.vectors = self.cold.array("vectors")
            for name in _hot_shapes(n, dim):
                setattr(self, name, self.hot.array(name))
            meta = (self.hot.meta.get("kind"), self.hot.meta.get("metric"))
            if meta != (manifest.kind, manifest.metric):
                expected = f"{manifest.kind}, {manifest.metric}"
                raise CorruptError(self.hot.path, "file is of another index", expected=expected, found=f"{meta}")
            self.quantizer = restore_quantizer(*meta, self.mean, self.signs, self.codebook)
            self._check_codes(n)
            self.fields: StoredColumns | None = None
            if FIELDS in manifest.files:
                self.side = opened.enter_context(open_file(folder, manifest, FIELDS))
                self.fields = StoredColumns(self.side)
                if self.fields.n != n:
                    raise CorruptError(self.side.path, "payloads", expected=f"{n}", found=f"{self.fields.n}")
            opened.pop_all()

    ids: npt.NDArray[np.uint64]
    id_order: npt.NDArray[np.uint32]
    mean: npt.NDArray[np.float32]
    signs: npt.NDArray[np.int8]
    codebook: npt.NDArray[np.float32]
    codes: npt.NDArray[np.uint8]
    factors: npt.NDArray[np.float32]
    links: npt.NDArray[np.uint32]
    offsets: npt.NDArray[np.uint32]
    root: npt.NDArray[np.uint32]
    regions: npt.NDArray[np.uint32]
    cells: npt.NDArray[np.uint32]
    centroid_codes: npt.NDArray[np.uint8]
    centroid_factors: npt.NDArray[np.float32]
    centroid_vectors: npt.NDArray[np.float32]

    def _check_codes(self, n: int) -> None:
        """The small things that a kernel relies on and the shapes alone don't say."""
        quantizer = self.quantizer
        if min(len(self.regions), len(self.cells)) < 2:
            raise CorruptError(self.hot.path, "sections 'regions' and 'cells'", expected="one at least", found="none")
        n_centroids = len(self.regions) + len(self.cells) - 2
        is_f32 = quantizer.kind == "f32"
        columns = factor_columns(quantizer.transform.metric)
        subspaces = -(-quantizer.transform.dim // SUB_DIM)
        wanted = {
            "codebook": (subspaces, N_CENTROIDS, SUB_DIM) if quantizer.kind == "pq" else (0, 0, 0),
            "codes": (0 if is_f32 else n, quantizer.row_bytes),
            "centroid_codes": (0 if is_f32 else n_centroids, quantizer.row_bytes),
            "factors": (n, columns),
            "centroid_factors": (n_centroids, columns),
            "centroid_vectors": (n_centroids if is_f32 else 0, quantizer.transform.dim),
        }
        for name, shape in wanted.items():
            if getattr(self, name).shape != shape:
                found = f"{getattr(self, name).shape}"
                raise CorruptError(self.hot.path, f"section {name!r} does not fit", expected=f"{shape}", found=found)
        if int(self.root[0]) >= n:
            raise CorruptError(self.hot.path, "root", expected=f"a row below {n}", found=f"{self.root[0]}")

    def close(self) -> None:
        """Drop the maps; arrays handed out keep theirs alive."""
        for container in self._containers():
            container.close()

    def _containers(self) -> list[Container]:
        return [self.cold, self.hot, *([self.side] if self.fields is not None else [])]

    @property
    def resident_bytes(self) -> dict[str, int]:
        """Bytes that a search touches all over, so that should stay in memory: codes, graph, cells, ids."""
        is_f32 = self.quantizer.kind == "f32"
        return {
            "codes": self.codes.nbytes + self.factors.nbytes + (self.vectors.nbytes if is_f32 else 0),
            "graph": self.links.nbytes + self.offsets.nbytes,
            "cells": sum(getattr(self, name).nbytes for name in _CELL_SECTIONS),
            "ids": self.ids.nbytes,
        }  # fmt: skip

    def verify(self, max_degree: int) -> list[CorruptError]:
        """Everything that is wrong with the contents; empty when all is well.

        Checks checksums, that ids are unique and ordered, that neighbor lists name other rows once each and no more
        than ``max_degree``, that every row can be reached from the root, that regions and cells divide the rows, and
        that codes are those of the vectors.

        Raises
        ------
        CorruptError
            A section does not match its checksum: nothing else is worth looking at.
        """
        return self.check_written(max_degree) or self._check_encoding()

    def check_written(self, max_degree: int) -> list[CorruptError]:
        """`verify` without encoding every vector again."""
        for container in self._containers():
            container.verify()
        return [*self._check_ids(), *self._check_graph(max_degree), *self.check_cells()]

    def _finding(self, problem: str, expected: str, found: str) -> CorruptError:
        return CorruptError(self.hot.path, problem, expected=expected, found=found)

    def _check_ids(self) -> list[CorruptError]:
        ordered = self.id_order.astype(np.int64)
        if not np.array_equal(np.sort(ordered), np.arange(len(ordered))):
            return [self._finding("id_order is not a permutation of the rows", "every row once", "another list")]
        ids = self.ids[ordered]
        bad = np.flatnonzero(ids[1:] <= ids[:-1])
        if len(bad):
            return [self._finding(f"id of row {ordered[bad[0] + 1]}", "unique and in order", f"{ids[bad[0] + 1]}")]
        return []

    def check_lists(self, max_degree: int) -> list[CorruptError]:
        """A neighbor list that names rows that are not there, itself, or one twice."""
        row = int(check_lists(self.links, self.offsets, max_degree, np.zeros(max_degree + 1, np.int64)))
        if row >= 0:
            wanted = f"at most {max_degree} different other rows below {len(self.ids)}"
            return [self._finding(f"neighbor list of row {row}", wanted, "another list")]
        return []

    def _check_graph(self, max_degree: int) -> list[CorruptError]:
        findings = self.check_lists(max_degree)
        if findings:
            return findings
        n = len(self.ids)
        reached = np.zeros(n, np.uint8)
        count = int(
            reach(self.links, self.offsets[:-1], self.offsets[1:], int(self.root[0]), reached, np.zeros(n, np.uint32))
        )
        if count < n:
            lost = int(np.flatnonzero(reached == 0)[0])
            return [self._finding(f"row {lost} can't be reached from the root", f"{n} reachable rows", f"{count}")]
        return []

    def check_cells(self) -> list[CorruptError]:
        """Regions must be runs of cells and cells runs of rows, none empty, none missing."""
        for name, end in (("regions", len(self.cells) - 1), ("cells", len(self.ids))):
            starts = getattr(self, name).astype(np.int64)
            if starts[0] != 0 or starts[-1] != end or (np.diff(starts) < 1).any():
                return [self._finding(f"section {name!r}", f"rising numbers from 0 to {end}", "others")]
        return []

    def _check_encoding(self) -> list[CorruptError]:
        """Codes must be those that the stored vectors have, but for roundings that differ between kinds of CPU."""
        for start, stop in spans(len(self.ids), CHECK_ROWS):
            try:
                codes, scales, squares = encode_rows(self.quantizer, self.vectors[start:stop])
            except VectorError as error:
                return [self._finding(f"vector of row {start + (error.row or 0)}", error.expected, error.found)]
            metric = self.quantizer.transform.metric
            factors = factors_of(scales, squares, metric)[:, : factor_columns(metric)]
            wrong = ~np.isclose(factors, self.factors[start:stop], rtol=1e-3, atol=1e-6).all(axis=1)
            if len(codes):
                wrong |= (codes != self.codes[start:stop]).mean(axis=1) > CODE_TOLERANCE
            if wrong.any():
                row = start + int(np.flatnonzero(wrong)[0])
                return [self._finding(f"code of row {row}", "the code of its vector", "another")]
        return []
