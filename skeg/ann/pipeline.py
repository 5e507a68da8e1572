"""From a source of vectors to the files of a segment, as a pipeline of named stages.

read      rows that can be read only once or slowly are spooled to a file beside the segment
sample    fit centering, rotation and quantizer on a sample
encode    check every row, encode it for steering, for pruning and in the index's own kind
graph     insert every row (`skeg.ann.vamana`)
order     divide the rows into cells, renumber them by cell, pack the neighbor lists
write     vectors, codes, graph and ids in the new order
verify    read back what was written, check lists and reachability, measure what searches need to know
publish   by the caller: whoever writes the manifest that names the segment

A build starts from nothing, a merge from what is left of an older segment (`Start`), whose rows are taken over with
their edges and whose quantizer stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt

from skeg.ann.budget import BuildMemory
from skeg.ann.calibration import Calibration, calibrate
from skeg.ann.cells import Partition, Partitioner
from skeg.ann.format import SEGMENT, Manifest
from skeg.ann.kernels.prune import Rows
from skeg.ann.kernels.score import Codes
from skeg.ann.kernels.walk import Graph
from skeg.ann.metric import metric_number
from skeg.ann.parallel import Workers, spans
from skeg.ann.params import DEFAULT_LIST_SIZE, DIM_MAX, ROWS_MAX, GraphParams
from skeg.ann.progress import Reporter
from skeg.ann.quantizers import (
    Quantizer,
    UniformQuantizer,
    encode_rows,
    factor_columns,
    factors_of,
    fit_quantizer,
    sample_rows,
)
from skeg.ann.searcher import GraphSearcher
from skeg.ann.segment import FieldsWriter, GraphSegment, SegmentData, write_segment
from skeg.ann.sources import VectorSource, open_source, read_ids
from skeg.ann.transform import RowTransform
from skeg.ann.vamana import BuildRows, BuiltGraph, GraphBuilder, insertion_order
from skeg.ann.writers import write_npy
from skeg.checks import check_unique_ids
from skeg.errors import VectorError
from skeg.files import disk_errors

ROWS_A_BLOCK = 2048
"""Rows encoded or copied at a time: a few megabytes."""


@attrs.frozen(eq=False)
class Findings:
    """What is known of a segment of which little has changed: its calibration, and the cells of the rows left (m,).

    cells (m,) int32, regions (n_regions + 1,) uint32 : as `Partitioner.extend` takes them.
    """

    calibration: Calibration
    cells: npt.NDArray[np.int32]
    regions: npt.NDArray[np.uint32]


@attrs.frozen(eq=False)
class Start:
    """What is left of an older segment, whose rows come first in the source.

    quantizer : its own; graph : its `Graph`; rows (m,) uint32 : its rows that are left, in the order of the source;
    new_row (n,) int64 : place of each of its rows in the source, -1 for one that is gone; findings : what was found out
    about it, if that still holds.
    """

    quantizer: Quantizer
    graph: Graph
    rows: npt.NDArray[np.uint32]
    new_row: npt.NDArray[np.int64]
    findings: Findings | None


@attrs.define(eq=False)
class _Encoded:
    """Everything that the encode stage produces; n rows in source order."""

    steering: Quantizer
    fine: Quantizer
    own: Quantizer
    steering_codes: npt.NDArray[np.uint8]
    steering_scales: npt.NDArray[np.float32]
    fine_codes: npt.NDArray[np.uint8]
    fine_scales: npt.NDArray[np.float32]
    fine_sums: npt.NDArray[np.int32]
    squares: npt.NDArray[np.float32]
    own_codes: npt.NDArray[np.uint8]
    own_factors: npt.NDArray[np.float32]


class Pipeline:
    """The stages of one segment, in the order in which they stand here.

    Parameters
    ----------
    folder : Path
        Of the index; the segment becomes a folder in it.
    metric, kind : str
    params : GraphParams
    workers : Workers
    memory_limit : int or None
        Bytes of anonymous memory to stay under.
    reporter : Reporter
    segment : str, optional
        Name of the new folder.
    start : Start, optional
        What to go on from.
    fields : callable, optional
        Writes what goes with the rows: given the folder and, for each row of the source, its row in the segment.
    """

    def __init__(
        self,
        folder: Path,
        metric: str,
        kind: str,
        params: GraphParams,
        workers: Workers,
        memory_limit: int | None,
        reporter: Reporter,
        *,
        segment: str = SEGMENT,
        start: Start | None = None,
        fields: FieldsWriter | None = None,
    ) -> None:
        self._folder = folder
        self._segment = segment
        self._start = start
        self._fields = fields
        self._spool = folder / "spool.npy"
        self._metric = metric
        self._kind = kind
        self._params = params
        self._workers = workers
        self._memory_limit = memory_limit
        self._reporter = reporter

    @property
    def _findings(self) -> Findings | None:
        return None if self._start is None else self._start.findings

    def run(self, opened: VectorSource, ids: Any) -> Manifest:
        """Write the segment; gives the manifest that makes it an index."""
        with self._read(opened) as source:
            n = source.n or 0
            if n == 0:
                raise VectorError(source.name, expected="at least one vector", found="none")
            if source.dim > DIM_MAX:
                raise VectorError(source.name, expected=f"at most {DIM_MAX} dimensions", found=f"{source.dim}")
            if n > ROWS_MAX:
                raise VectorError(source.name, expected=f"at most {ROWS_MAX} vectors", found=f"{n}")
            row_ids = self._row_ids(ids, n)
            steering, fine, own = self._sample(source, n)
            memory = self._budget(n, steering, fine, own)
            encoded = self._encode(source, n, memory, steering, fine, own)
            builder = self._graph(encoded, n, memory)
            partition = self._order(encoded, n, memory)
            graph = builder.finish(partition.order)
            del builder  # its lists with their slack take twice what the finished ones take
            self._write(source, row_ids, encoded, partition, graph, memory)
        with disk_errors(self._spool, "remove"):
            self._spool.unlink(missing_ok=True)
        return self._verify()

    def _read(self, opened: VectorSource) -> VectorSource:
        """The source itself if rows can be taken from it in any order, else a spooled copy."""
        report = self._reporter.stage("read", opened.n or 0)
        if opened.random_access:
            return opened
        write_npy(self._spool, _counted(opened, report))
        return open_source(self._spool)

    def _row_ids(self, ids: Any, n: int) -> npt.NDArray[np.uint64]:
        if ids is None:
            return np.arange(n, dtype=np.uint64)
        given = read_ids(ids)
        if len(given) != n:
            raise VectorError("ids", expected=f"{n}, one for each vector", found=f"{len(given)}")
        check_unique_ids(given)
        return given

    def _sample(self, source: VectorSource, n: int) -> tuple[Quantizer, Quantizer, Quantizer]:
        """Quantizers that steer the build, measure in it, and code the index; the last is often one of the others."""
        if self._start is not None:
            self._reporter.stage("sample", 0)
            return self._with_own(self._start.quantizer)
        rows = sample_rows(n, source.dim, self._params.seed)
        self._reporter.stage("sample", len(rows))
        try:
            return self._fit(_float32(source.take(rows)))
        except VectorError as error:  # it counts rows of the sample
            row = None if error.row is None else int(rows[error.row])
            raise VectorError(source.name, expected=error.expected, found=error.found, row=row) from error

    def _fit(self, sample: npt.NDArray[np.float32]) -> tuple[Quantizer, Quantizer, Quantizer]:
        transform = RowTransform.fit(sample, self._metric, self._params.seed)
        if self._kind in ("tq4", "int8"):
            return self._with_own(UniformQuantizer(self._kind, transform, 4 if self._kind == "tq4" else 8))
        own = fit_quantizer(self._kind, sample, self._metric, self._params.seed)
        return UniformQuantizer("tq4", transform, 4), UniformQuantizer("int8", transform, 8), own

    def _with_own(self, own: Quantizer) -> tuple[Quantizer, Quantizer, Quantizer]:
        """Quantizers of the build for an own one that is given."""
        transform = own.transform
        if self._kind in ("f32", "binary"):  # whose transform does not rotate
            transform = RowTransform.rotating(transform.mean, self._metric, self._params.seed)
        steering, fine = UniformQuantizer("tq4", transform, 4), UniformQuantizer("int8", transform, 8)
        return steering, fine, {"tq4": steering, "int8": fine}.get(self._kind, own)

    def _encode(
        self, source: VectorSource, n: int, memory: BuildMemory, steering: Quantizer, fine: Quantizer, own: Quantizer
    ) -> _Encoded:
        report = self._reporter.stage("encode", n)
        extra = own is not steering and own is not fine
        columns = factor_columns(self._metric)
        steering_codes = memory.array((n, steering.row_bytes), np.uint8)
        fine_codes = memory.array((n, fine.row_bytes), np.uint8)
        own_rows = n if extra and self._kind != "f32" else 0
        result = _Encoded(
            steering, fine, own,
            steering_codes=steering_codes,
            steering_scales=np.empty(n, np.float32),
            fine_codes=fine_codes,
            fine_scales=np.empty(n, np.float32),
            fine_sums=np.empty(n, np.int32),
            squares=np.empty(n, np.float32),
            own_codes=memory.array((own_rows, own.row_bytes), np.uint8),
            own_factors=np.empty((n, columns), np.float32),
        )  # fmt: skip
        pieces = spans(n, ROWS_A_BLOCK)
        done = [0] * len(pieces)

        def work(piece: int, _worker: int) -> None:
            start, stop = pieces[piece]
            block = _float32(source.take(np.arange(start, stop)))
            turned, squares = fine.transform.apply(block, start, source.name)
            here = slice(start, stop)
            result.squares[here] = squares
            steering_codes[here], result.steering_scales[here] = steering.encode(turned, squares)
            fine_codes[here], result.fine_scales[here] = fine.encode(turned, squares)
            result.fine_sums[here] = fine_codes[here].sum(axis=1, dtype=np.int32) - np.int32(128 * fine.row_bytes)
            if extra:
                own_codes, scales, own_squares = encode_rows(own, block)
                if own_rows:
                    result.own_codes[here] = own_codes
                result.own_factors[here] = factors_of(scales, own_squares, self._metric)[:, :columns]
            else:
                scales = (result.steering_scales if own is steering else result.fine_scales)[here]
                result.own_factors[here] = factors_of(scales, squares, self._metric)[:, :columns]
            done[piece] = stop - start

        self._workers.run(len(pieces), work, lambda: report(sum(done)))
        return result

    def _budget(self, n: int, *quantizers: Quantizer) -> BuildMemory:
        """What goes to memory and what to files, under the caller's limit."""
        code_bytes = n * sum({q.kind: q.row_bytes for q in quantizers}.values())
        return BuildMemory(self._folder, n, code_bytes, self._params, self._workers.threads, self._memory_limit)

    def _graph(self, encoded: _Encoded, n: int, memory: BuildMemory) -> GraphBuilder:
        report = self._reporter.stage("graph", n)
        number = metric_number(self._metric)
        squares, tails = encoded.squares, np.zeros(n, np.float32)
        n_old = n if self._start is None else len(self._start.rows)
        medoid = int(squares[:n_old].argmin())
        if self._metric == "ip":
            # One more coordinate, sqrt(M^2 - |x|^2), puts every row on a sphere of radius M, where the nearest row is
            # the one with the largest inner product (Bachrach et al., RecSys 2014). Queries have 0 there.
            medoid = int(squares[:n_old].argmax())
            largest = squares.max()
            tails = np.sqrt(np.maximum(largest - squares, 0)).astype(np.float32)
            squares = np.full(n, largest, np.float32)
        offsets = tails if self._metric == "ip" else squares * np.float32(-0.5)
        factors = np.stack([encoded.steering_scales, offsets], axis=1)
        build = BuildRows(
            Codes(encoded.steering.scheme, encoded.steering_codes, factors, np.zeros((1, 1), np.float32)),
            Rows(encoded.fine_codes, encoded.fine_scales, encoded.fine_sums, squares, tails),
            number,
        )
        order = insertion_order(n_old, medoid, self._params.seed)
        if self._start is not None:
            added = np.random.default_rng(self._params.seed).permutation(np.arange(n_old, n, dtype=np.uint32))
            order = np.concatenate([order, added])
        builder = GraphBuilder(build, self._params, order, self._workers, report, memory.array)
        if self._start is None:
            builder.run()
        else:
            builder.adopt(self._start.graph, self._start.rows, self._start.new_row)
            builder.run(n_old)
        return builder

    def _order(self, encoded: _Encoded, n: int, memory: BuildMemory) -> Partition:
        self._reporter.stage("order", n)
        dim = encoded.fine.transform.dim
        codes, scales = encoded.fine_codes, encoded.fine_scales
        partitioner = Partitioner(codes, scales, dim, self._workers, self._params.seed, memory.array)
        known = self._findings
        return partitioner.run() if known is None else partitioner.extend(known.cells, known.regions)

    def _write(
        self,
        source: VectorSource,
        ids: npt.NDArray[np.uint64],
        encoded: _Encoded,
        partition: Partition,
        graph: BuiltGraph,
        memory: BuildMemory,
    ) -> None:
        n = len(ids)
        report = self._reporter.stage("write", n)
        codes = {"tq4": encoded.steering_codes, "int8": encoded.fine_codes}.get(self._kind, encoded.own_codes)

        def vectors(rows: npt.NDArray[np.uint32]) -> npt.NDArray[np.float32]:
            return _float32(source.take(rows.astype(np.int64)))

        self._files = write_segment(
            self._folder / self._segment,
            SegmentData(encoded.own, ids, codes, encoded.own_factors, partition, graph, vectors, self._fields),
            ROWS_A_BLOCK,
            report,
            memory.array,
        )
        self._count, self._dim = n, source.dim
        self._figures = {**self._params.as_dict(), "mean_degree": round(len(graph.links) / n, 3)}

    def _verify(self) -> Manifest:
        """Read the files back: sums, lists, reachability and ids must hold before anybody sees the index."""
        self._reporter.stage("verify", self._count)
        manifest = self._manifest(Calibration())
        segment = GraphSegment(self._folder, manifest)
        searcher = GraphSearcher(self._folder, manifest, segment)
        try:
            for finding in segment.check_written(self._params.max_degree):
                raise finding
            known = self._findings
            made = calibrate(searcher, segment, self._params.seed) if known is None else known.calibration
            return self._manifest(made)
        finally:
            searcher.close()

    def _manifest(self, calibration: Calibration) -> Manifest:
        return Manifest(
            backend="disk",
            dim=self._dim,
            count=self._count,
            metric=self._metric,
            kind=self._kind,
            segment=self._segment,
            files=self._files,
            build=self._figures,
            search={"list_size": DEFAULT_LIST_SIZE, **attrs.asdict(calibration)},
        )


def _float32(block: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """A block as C-contiguous float32; what overflows becomes infinite and is refused where rows are checked."""
    with np.errstate(over="ignore"):
        return np.ascontiguousarray(block, dtype=np.float32)


def _counted(source: VectorSource, report: Callable[[int], None]) -> Iterator[npt.NDArray[Any]]:
    """Blocks of a source, counted as they pass."""
    done = 0
    for block in source.blocks(ROWS_A_BLOCK):
        yield block
        done += len(block)
        report(done)
