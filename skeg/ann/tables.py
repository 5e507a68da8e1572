"""Vectors read from HDF5 and Parquet files, one block after the other, by the optional packages h5py and pyarrow.

HDF5: a 2-D dataset, as in the files of ann-benchmarks (`train`, `test`, `neighbors`). Parquet: a column of lists of
numbers, all of one length. Neither has random access that would be worth the name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from skeg.ann.readers import VectorSource, rebatch
from skeg.errors import (
    CorruptError,
    FormatError,
    MissingExtraError,
    ParameterError,
    SkegError,
    StorageError,
    VectorError,
)
from skeg.mapped import MappedFile

HDF5_DEFAULT = "train"
PARQUET_BATCH_ROWS = 4096  # rows that pyarrow decodes at a time, whatever block size was asked for


class Hdf5Source(VectorSource):
    """The rows of one dataset of an HDF5 file."""

    def __init__(self, path: str, file: Any, dataset: Any) -> None:
        super().__init__(f"{path}::{dataset.name[1:]}", n=dataset.shape[0], dim=dataset.shape[1], dtype=dataset.dtype)
        self._path = path
        self._file = file
        self._dataset = dataset

    def close(self) -> None:
        """See `VectorSource.close`."""
        super().close()
        self._file.close()

    def _blocks(self, rows: int) -> Iterator[np.ndarray]:
        for start in range(0, self.n or 0, rows):
            self._check_open()
            with _damage_named(self._path, f"can't be read from row {start} on"):
                block = self._dataset[start : start + rows]
            yield np.ascontiguousarray(block, dtype=self.dtype)


class ParquetSource(VectorSource):
    """The rows of one list column of a Parquet file."""

    def __init__(self, path: str, file: Any, column: str, *, dim: int, dtype: np.dtype[Any]) -> None:
        super().__init__(f"{path}::{column}", n=file.metadata.num_rows, dim=dim, dtype=dtype)
        self._path = path
        self._file = file
        self._column = column

    def close(self) -> None:
        """See `VectorSource.close`."""
        super().close()
        self._file.close()

    def _blocks(self, rows: int) -> Iterator[np.ndarray]:
        return rebatch(self._batches(), rows)

    def _batches(self) -> Iterator[np.ndarray]:
        first_row = 0
        batches = self._file.iter_batches(batch_size=PARQUET_BATCH_ROWS, columns=[self._column])
        while True:
            self._check_open()
            with _damage_named(self._path, f"can't be read from row {first_row} on"):
                batch = next(batches, None)
                if batch is None:
                    return
                block = self._dense(batch.column(0), first_row)
            yield block
            first_row += len(batch)

    def _dense(self, lists: Any, first_row: int) -> np.ndarray:
        """A pyarrow array of lists as (rows, dim); VectorError if one is null, holds a null or has another length."""
        lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
        wrong = np.flatnonzero(lengths != self.dim)  # the length of a null is NaN
        if len(wrong):
            at = int(wrong[0])
            found = f"length {int(lengths[at])}" if lists[at].is_valid else "null"
            raise VectorError(self.name, expected=f"a list of length {self.dim}", found=found, row=first_row + at)
        values = lists.flatten()
        if values.null_count:
            at = int(np.flatnonzero(values.is_null().to_numpy(zero_copy_only=False))[0]) // self.dim
            raise VectorError(self.name, expected="numbers", found="null", row=first_row + at)
        dense: np.ndarray = values.to_numpy(zero_copy_only=False).reshape(-1, self.dim)
        return dense


def open_hdf5(path: str, member: str | None) -> VectorSource:
    """The rows of the dataset `member` ("train" if None) of an HDF5 file.

    Raises
    ------
    MissingExtraError
        h5py is not installed.
    ParameterError
        The file has no such dataset; the message lists those that would do.
    FormatError, StorageError
        Not an HDF5 file; it can't be opened.
    """
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError("reading HDF5 files", "bench") from error
    MappedFile(path).close()  # one message for a missing file, whatever its kind
    with _damage_named(path, "is not an HDF5 file that h5py can open", FormatError):
        file = h5py.File(path, "r")
    with contextlib.ExitStack() as undo, _damage_named(path, "is damaged"):
        undo.callback(file.close)
        dataset = _hdf5_dataset(path, file, HDF5_DEFAULT if member is None else member, h5py.Dataset)
        source = Hdf5Source(path, file, dataset)
        undo.pop_all()
        return source


def _hdf5_dataset(path: str, file: Any, member: str, kind: type[Any]) -> Any:
    """The dataset called `member`, which has to be 2-D."""
    found = file.get(member)
    if isinstance(found, kind) and len(found.shape or ()) == 2 and found.shape[1] > 0:
        return found
    usable: list[str] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, kind) and len(item.shape or ()) == 2:
            usable.append(name)

    file.visititems(visit)
    raise ParameterError("source", f"{path}::{member}", f"a 2-D dataset of the file, one of {usable}")


def open_parquet(path: str, member: str | None) -> VectorSource:
    """The rows of the list column `member` of a Parquet file; if None, of its only list column.

    Raises
    ------
    MissingExtraError
        pyarrow is not installed.
    ParameterError
        The file has no such column, or no or several columns of lists to choose from.
    FormatError, StorageError
        Not a Parquet file; it can't be opened.
    """
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError as error:
        raise MissingExtraError("reading Parquet files", "parquet") from error
    MappedFile(path).close()
    with _damage_named(path, "is not a Parquet file that pyarrow can open", FormatError):
        file = parquet.ParquetFile(path, page_checksum_verification=True)
    with contextlib.ExitStack() as undo, _damage_named(path, "is damaged"):
        undo.callback(file.close)
        column = _parquet_column(path, file, member, pa.types)
        name = f"{path}::{column}"
        lists = file.schema_arrow.field(column).type
        dtype = _numpy_dtype(name, lists.value_type)
        source = ParquetSource(path, file, column, dim=_list_length(name, file, column), dtype=dtype)
        undo.pop_all()
        return source


def _parquet_column(path: str, file: Any, member: str | None, types: Any) -> str:
    """The name of the list column called `member`, or of the only one."""
    columns = [str(field.name) for field in file.schema_arrow if _is_list(types, field.type)]
    chosen = columns if member is None else [name for name in columns if name == member]
    if len(chosen) != 1:
        shown = path if member is None else f"{path}::{member}"
        raise ParameterError("source", shown, f"PATH::COLUMN with one of the file's columns of lists, {columns}")
    return chosen[0]


def _is_list(types: Any, kind: Any) -> bool:
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def _numpy_dtype(name: str, kind: Any) -> np.dtype[Any]:
    """The numpy dtype of a pyarrow type of values."""
    try:
        dtype: np.dtype[Any] = np.dtype(kind.to_pandas_dtype())
    except (NotImplementedError, TypeError) as error:
        raise VectorError(name, expected="real numbers", found=f"lists of {kind}") from error
    return dtype


def _list_length(name: str, file: Any, column: str) -> int:
    """The length of the first list of a column, which the others have to have too; 0 if there is none."""
    for batch in file.iter_batches(batch_size=1, columns=[column]):
        if len(batch):
            length = batch.column(0).value_lengths()[0].as_py()
            if not length:
                found = "null" if length is None else "an empty list"
                raise VectorError(name, expected="a list of numbers", found=found, row=0)
            return int(length)
    return 0


@contextlib.contextmanager
def _damage_named(path: str, problem: str, kind: type[StorageError] = CorruptError) -> Iterator[None]:
    """Make an error of ours of whatever h5py or pyarrow raise inside the block.

    In a damaged file they come upon almost anything: KeyError, RuntimeError, UnicodeError, MemoryError.
    """
    try:
        yield
    except SkegError:
        raise
    except Exception as error:
        raise kind(path, f"{problem} ({error})") from error
