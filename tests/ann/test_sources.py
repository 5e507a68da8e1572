from __future__ import annotations

import io
import struct
import sys
import tracemalloc

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skeg.ann.sources import VectorSource, open_source, read_ids
from skeg.errors import (
    ClosedError,
    CorruptError,
    FormatError,
    MissingExtraError,
    ParameterError,
    SkegError,
    StorageError,
    VectorError,
)

FLAT = [".npy", ".fbin", ".u8bin", ".i8bin", ".ibin", ".fvecs", ".bvecs", ".ivecs"]
DTYPES = {".npy": "<f4", ".fbin": "<f4", ".fvecs": "<f4", ".u8bin": "u1", ".bvecs": "u1", ".i8bin": "i1"}
EVERY = [*FLAT, ".hdf5", ".h5", ".parquet"]
RANDOM_ACCESS = [*FLAT, "array"]


def sample(n, dim, dtype="<f4", seed=1):
    """Small integers: every dtype of every format holds them exactly."""
    return np.random.default_rng(seed).integers(0, 100, (n, dim)).astype(dtype)


def encode(suffix, rows):
    """The bytes of a flat file, by the formats' descriptions rather than by our writers."""
    if suffix == ".npy":
        file = io.BytesIO()
        np.save(file, rows)
        return file.getvalue()
    if suffix.endswith("bin"):
        return struct.pack("<II", *rows.shape) + rows.tobytes()
    return b"".join(struct.pack("<i", len(row)) + row.tobytes() for row in rows)


def write(folder, suffix, rows):
    path = folder / f"vectors{suffix}"
    if suffix in FLAT:
        path.write_bytes(encode(suffix, rows))
    elif suffix == ".parquet":
        pq.write_table(pa.table({"id": range(len(rows)), "vector": lists(rows)}), path, row_group_size=7)
    else:
        with h5py.File(path, "w") as file:
            file["train"] = rows
            file["test"] = rows[:1]
    return path


def lists(rows):
    flat = pa.array(np.ascontiguousarray(rows).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, rows.shape[1])


def rows_of(source, rows=5):
    return np.concatenate([block.copy() for block in source.blocks(rows)])


def as_source(kind, folder, rows):
    """The same rows, as a source of any kind."""
    if kind == "array":
        return open_source(rows)
    if kind == "iterator":
        return open_source(iter(np.array_split(rows, 4)))
    return open_source(write(folder, kind, rows))


@pytest.mark.parametrize("kind", [*EVERY, "array", "iterator"])
def test_every_kind_of_source_gives_back_the_rows(kind, tmp_path):
    rows = sample(23, 6, DTYPES.get(kind, "<i4"))
    with as_source(kind, tmp_path, rows) as source:
        assert (6, None if kind == "iterator" else 23) == (source.dim, source.n)
        assert rows.dtype == source.dtype
        assert (kind in RANDOM_ACCESS) == source.random_access
        read = rows_of(source)
    np.testing.assert_array_equal(rows, read)
    assert rows.dtype == read.dtype


@pytest.mark.parametrize("kind", [*EVERY, "array", "iterator"])
def test_blocks_are_full_but_for_the_last(kind, tmp_path):
    with as_source(kind, tmp_path, sample(23, 3, DTYPES.get(kind, "<i4"))) as source:
        blocks = [(len(block), block.flags.c_contiguous, block.flags.aligned) for block in source.blocks(10)]
    assert [(10, True, True), (10, True, True), (3, True, True)] == blocks


@given(st.integers(0, 40), st.integers(1, 9), st.integers(1, 50), st.data())
@settings(max_examples=60)
def test_blocks_of_any_size_are_the_array(n, dim, block_rows, data):
    rows = sample(n, dim)
    cuts = sorted(data.draw(st.lists(st.integers(0, n), max_size=5)))
    for source in (open_source(rows), open_source(np.asfortranarray(rows)), open_source(iter(np.split(rows, cuts)))):
        blocks = [block.copy() for block in source.blocks(block_rows)]
        assert -(-n // block_rows) == len(blocks)
        np.testing.assert_array_equal(rows, np.concatenate([np.empty((0, dim)), *blocks]))


@pytest.mark.parametrize("kind", RANDOM_ACCESS)
def test_take_is_fancy_indexing(kind, tmp_path, rng):
    rows = sample(31, 5, DTYPES.get(kind, "<i4"))
    with as_source(kind, tmp_path, rows) as source:
        for wanted in (np.array([], dtype=np.int64), np.array([30]), rng.integers(0, 31, 100)):
            np.testing.assert_array_equal(rows[wanted], source.take(wanted))
            assert source.take(wanted).flags.c_contiguous


@pytest.mark.parametrize("kind", [".hdf5", ".parquet", "iterator"])
def test_take_without_random_access_is_refused(kind, tmp_path):
    with as_source(kind, tmp_path, sample(3, 2)) as source, pytest.raises(VectorError, match="random access"):
        source.take(np.array([0]))


@pytest.mark.parametrize("kind", EVERY)
def test_files_may_have_any_name(kind, tmp_path):
    rows = sample(4, 3, DTYPES.get(kind, "<i4"))
    path = write(tmp_path, kind, rows)
    other = path.rename(tmp_path / f"žluťoučký 向量 a::b{kind.upper()}")
    for name in (other, str(other)):
        with open_source(name) as source:
            assert source.name.startswith(str(other))
            np.testing.assert_array_equal(rows, rows_of(source))


@pytest.mark.parametrize("kind", EVERY)
def test_a_closed_source_gives_nothing(kind, tmp_path):
    source = open_source(write(tmp_path, kind, sample(9, 3, DTYPES.get(kind, "<i4"))))
    blocks = source.blocks(2)
    first = next(blocks).copy()
    source.close()
    source.close()
    assert (2, 3) == first.shape
    with pytest.raises(ClosedError):
        source.blocks(2)
    if source.random_access:
        with pytest.raises(ClosedError):
            source.take(np.array([0]))
    if kind != ".parquet":  # whose reader may be a block ahead
        with pytest.raises(ClosedError):
            next(blocks)


def test_block_size_of_zero_is_refused():
    with pytest.raises(ParameterError, match="rows=0"):
        open_source(np.ones((2, 2))).blocks(0)


# Arrays and iterators


@pytest.mark.parametrize("dtype", ["f2", "<f4", ">f4", "f8", "i1", "u1", "<i2", ">i4", "i8", "u8"])
def test_every_real_dtype_keeps_its_values_in_native_order(dtype):
    rows = sample(5, 3, dtype)
    source = open_source(rows)
    assert source.dtype.isnative
    assert rows.dtype.kind == source.dtype.kind
    np.testing.assert_array_equal(rows, rows_of(source))
    np.testing.assert_array_equal(rows[::-1], source.take(np.arange(5)[::-1]))


def test_array_likes_are_taken():
    class WithArray:
        def __array__(self, dtype=None, copy=None):
            return sample(2, 3)

    class WithDlpack:
        def __dlpack__(self, **options):
            return sample(2, 3).__dlpack__(**options)

        def __dlpack_device__(self):
            return sample(2, 3).__dlpack_device__()

    for array_like in (WithArray(), WithDlpack(), sample(2, 3).tolist(), memoryview(sample(2, 3))):
        np.testing.assert_array_equal(sample(2, 3), rows_of(open_source(array_like)))


@pytest.mark.parametrize(
    "bad",
    [
        np.ones(3),
        np.ones((2, 2, 2)),
        np.ones((2, 0)),
        np.ones((2, 2), dtype=complex),
        np.full((2, 2), "1"),
        np.full((2, 2), None),
        np.zeros((2, 2), "f4,f4"),
        np.zeros((2, 2), "datetime64[s]"),
        [[1.0, 2.0], [3.0]],
        [],
        None,
        7,
        {"a": 1},
    ],
    ids=lambda bad: f"{type(bad).__name__} {getattr(bad, 'dtype', bad)} {getattr(bad, 'shape', '')}",
)
def test_what_is_not_a_matrix_of_real_numbers_is_refused_by_name(bad):
    with pytest.raises(VectorError, match=r"^vectors"):
        open_source(bad, what="vectors")
    with pytest.raises(VectorError, match=r"^vectors, block 0"):
        open_source(iter([bad]), what="vectors")


def test_an_array_without_rows_is_a_source():
    source = open_source(np.empty((0, 7)))
    assert (0, 7, []) == (source.n, source.dim, list(source.blocks(3)))


def test_an_iterator_without_arrays_is_a_source_without_rows():
    source = open_source(iter([]))
    assert (0, 0, []) == (source.n, source.dim, list(source.blocks(3)))


@pytest.mark.parametrize("second", [np.ones((2, 4)), np.ones((2, 3), np.float32), np.ones((0, 5)), np.ones(3)])
def test_an_array_unlike_the_first_is_refused_by_number(second):
    """Another dimension, another dtype, another dimension without rows, one vector."""
    source = open_source(iter([np.ones((3, 3)), second]), what="vectors")
    with pytest.raises(VectorError, match=r"^vectors, block 1"):
        list(source.blocks(10))


def test_an_iterator_is_read_once():
    source = open_source(np.ones((1, 2)) for _ in range(3))
    assert 3 == len(rows_of(source))
    with pytest.raises(VectorError, match="already read"):
        source.blocks(1)


def test_an_iterator_may_use_one_buffer_again_and_again():
    def reusing():
        buffer = np.empty((3, 2))
        for i in range(5):
            buffer[:] = i
            yield buffer

    np.testing.assert_array_equal(np.repeat(np.arange(5.0), 3), rows_of(open_source(reusing()), rows=4)[:, 0])


def test_a_source_is_its_own_source():
    source = open_source(np.ones((1, 2)))
    assert source is open_source(source)
    assert isinstance(source, VectorSource)
    assert "<RowsSource source 1 x 2 float64>" == repr(source)


# Flat files, damaged


@pytest.mark.parametrize("suffix", FLAT)
def test_a_file_cut_anywhere_is_refused_or_shorter_by_whole_rows(suffix, tmp_path):
    rows = sample(3, 4, DTYPES.get(suffix, "<i4"))
    path = write(tmp_path, suffix, rows)
    whole = path.read_bytes()
    row_bytes = 4 + rows[0].nbytes
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        if suffix.endswith("vecs") and length % row_bytes == 0:  # no header: nothing tells that rows are missing
            with open_source(path) as source:
                assert length // row_bytes == source.n
            continue
        with pytest.raises((CorruptError, FormatError), match=str(path)):
            open_source(path)


@pytest.mark.parametrize("suffix", FLAT)
def test_bytes_after_the_last_row_are_refused(suffix, tmp_path):
    path = write(tmp_path, suffix, sample(3, 4, DTYPES.get(suffix, "<i4")))
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0")
    with pytest.raises(CorruptError) as caught:
        open_source(path)
    assert len(whole) == caught.value.offset


@pytest.mark.parametrize("suffix", FLAT)
def test_any_damaged_byte_gives_rows_or_a_typed_error(suffix, tmp_path):
    path = write(tmp_path, suffix, sample(2, 3, DTYPES.get(suffix, "<i4")))
    whole = path.read_bytes()
    for offset in range(len(whole)):
        for mask in (0x01, 0x80, 0xFF, 0x24):
            damaged = bytearray(whole)
            damaged[offset] ^= mask
            path.write_bytes(damaged)
            try:
                with open_source(path) as source:
                    rows_of(source)
            except SkegError:
                continue


@pytest.mark.parametrize(
    ("suffix", "data", "error", "offset"),
    [
        (".fbin", struct.pack("<II", 2, 0), FormatError, 4),
        (".fbin", struct.pack("<II", 0, 0), FormatError, 4),
        (".fbin", struct.pack("<II", 2**32 - 1, 2**32 - 1), CorruptError, 8),
        (".fvecs", struct.pack("<i", 0), FormatError, 0),
        (".fvecs", struct.pack("<if", -1, 0), FormatError, 0),
        (".fvecs", struct.pack("<if", 2**31 - 1, 0), CorruptError, 0),
        (".fvecs", struct.pack("<ififi", 1, 0, 1, 0, 1), CorruptError, 16),
        (".bvecs", struct.pack("<iB", 2, 0), CorruptError, 0),
        (".npy", b"", FormatError, 0),
        (".npy", b"\x93NUMPY", FormatError, 6),
        (".npy", b"\x93NUMPY\x04\x00" + bytes(20), FormatError, 6),
        (".npy", b"\x93NUMPY\x02\x00\xff\xff\xff\xff", FormatError, 8),
        (".npy", b"not numpy at all", FormatError, 0),
    ],
)
def test_headers_that_make_no_sense_are_refused_at_their_offset(suffix, data, error, offset, tmp_path):
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(data)
    with pytest.raises(error) as caught:
        open_source(path)
    assert (str(path), offset) == (str(caught.value.path), caught.value.offset)


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)",
        "{'descr': '<f4', 'fortran_order': False}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), 'more': 1}",
        "{'descr': '<f4', 'fortran_order': 0, 'shape': (2, 3)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -3)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (True, 6)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': 6}",
        "{'descr': '<f3', 'fortran_order': False, 'shape': (2, 3)}",
        "{'descr': '|O', 'fortran_order': False, 'shape': (2, 3)}",
        "{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (2, 3)}",
        "{'descr': '<U1', 'fortran_order': False, 'shape': (2, 3)}",
        "{'descr': '<c8', 'fortran_order': False, 'shape': (1, 3)}",
        "{[]: 1}",
        "[1, 2]",
        "(" * 3000,
        "__import__('os')",
        "é\x00",
    ],
)
def test_npy_headers_of_anything_but_a_plain_real_array_are_refused(header, tmp_path):
    text = header.encode()
    path = tmp_path / "bad.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(24))
    with pytest.raises(FormatError, match="real numbers"):
        open_source(path)


def test_npy_of_objects_is_never_unpickled(tmp_path):
    path = tmp_path / "objects.npy"
    np.save(path, np.full((2, 2), None), allow_pickle=True)
    with pytest.raises(FormatError, match="real numbers"):
        open_source(path)


@pytest.mark.parametrize("shape", [(6,), (1, 2, 3), (3, 0), ()])
def test_npy_of_another_shape_is_refused(shape, tmp_path):
    np.save(tmp_path / "a.npy", np.zeros(shape))
    with pytest.raises(FormatError, match="another shape"):
        open_source(tmp_path / "a.npy")


@pytest.mark.parametrize("dtype", ["f2", ">f4", "f8", "i8", "u2"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_of_any_version_order_and_dtype_is_read(dtype, version, order, tmp_path):
    rows = np.asarray(sample(7, 3, dtype), order=order)
    with open(tmp_path / "a.npy", "wb") as file:
        np.lib.format.write_array(file, rows, version=version)
    with open_source(tmp_path / "a.npy") as source:
        np.testing.assert_array_equal(rows, rows_of(source, rows=2))
        np.testing.assert_array_equal(rows[[5, 0]], source.take(np.array([5, 0])))


def test_npy_with_values_at_odd_offsets_is_read_aligned(tmp_path):
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3)}"
    text += b" " * (len(text) % 2 == 0)
    path = tmp_path / "odd.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + sample(2, 3).tobytes())
    with open_source(path) as source:
        block = next(source.blocks(2))
        assert block.flags.aligned
        np.testing.assert_array_equal(sample(2, 3), block)


@pytest.mark.parametrize("row", [1, 5, 8])
def test_a_vecs_row_of_another_dimension_is_found_when_it_is_read(row, tmp_path):
    path = write(tmp_path, ".fvecs", sample(9, 4))
    data = bytearray(path.read_bytes())
    data[row * 20] = 3
    path.write_bytes(data)
    with open_source(path) as source:
        assert row == len(source.take(np.arange(row)))
        for read in (lambda: rows_of(source, rows=2), lambda: source.take(np.array([0, row]))):
            with pytest.raises(CorruptError, match=f"row {row} .*expected 4, found 3") as caught:
                read()
            assert row * 20 == caught.value.offset


def test_empty_flat_files_of_zero_rows_are_sources(tmp_path):
    for suffix, data, dim in ((".fbin", struct.pack("<II", 0, 5), 5), (".fvecs", b"", 0)):
        (tmp_path / f"a{suffix}").write_bytes(data)
        with open_source(tmp_path / f"a{suffix}") as source:
            assert (0, dim, []) == (source.n, source.dim, list(source.blocks(4)))
    np.save(tmp_path / "a.npy", np.empty((0, 5)))
    with open_source(tmp_path / "a.npy") as source:
        assert (0, 5, []) == (source.n, source.dim, list(source.blocks(4)))


@pytest.mark.parametrize("kind", EVERY)
def test_a_missing_file_is_an_os_error_that_names_it(kind, tmp_path):
    with pytest.raises(StorageError, match=f"gone{kind}"):
        open_source(tmp_path / f"gone{kind}")
    (tmp_path / f"folder{kind}").mkdir()
    with pytest.raises(StorageError, match=f"folder{kind}"):
        open_source(tmp_path / f"folder{kind}")


@pytest.mark.parametrize("name", ["a.csv", "a", "a.npz", "a.tar.npy.gz", ""])
def test_an_unknown_extension_is_refused_with_the_known_ones(name):
    with pytest.raises(ParameterError, match=r"^vectors=.*\.npy.*\.fbin.*\.parquet"):
        open_source(name, what="vectors")


def test_a_member_of_a_flat_file_is_refused(tmp_path):
    path = write(tmp_path, ".npy", sample(2, 2))
    with pytest.raises(ParameterError, match="one array"):
        open_source(f"{path}::train")


def test_blocks_take_constant_memory(tmp_path):
    """50 MB in blocks of 0.4 MB stay below 4 MB."""
    rows = np.zeros((16_384, 800), np.float32)
    np.save(tmp_path / "a.npy", rows)
    (tmp_path / "a.fvecs").write_bytes(np.hstack([np.full((len(rows), 1), 800, "<i4").view("<f4"), rows]).tobytes())
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["train"] = rows
    sources = [tmp_path / "a.npy", tmp_path / "a.fvecs", tmp_path / "a.h5"]
    for source in [*sources, (np.zeros((128, 800), np.float32) for _ in range(128))]:
        tracemalloc.start()
        with open_source(source) as opened:
            assert len(rows) == sum(len(block) for block in opened.blocks(128))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 4_000_000


# HDF5 and Parquet


def test_hdf5_members_are_chosen_by_name(tmp_path):
    path = tmp_path / "a.hdf5"
    with h5py.File(path, "w") as file:
        file["test"] = sample(2, 3)
        file["deep/er"] = sample(4, 3, ">f8")
        file["flat"] = np.ones(5)
        file["text"] = [["a", "b"]]
    for member, rows in (("test", sample(2, 3)), ("deep/er", sample(4, 3, ">f8"))):
        with open_source(f"{path}::{member}") as source:
            assert f"{path}::{member}" == source.name
            np.testing.assert_array_equal(rows, rows_of(source))
    for member in ("", "::train", "::flat", "::deep", "::gone"):
        with pytest.raises(ParameterError, match=r"deep/er.*test"):
            open_source(f"{path}{member}")
    with pytest.raises(VectorError, match="text"):
        open_source(f"{path}::text")


@pytest.mark.parametrize("values", ["float16", "float32", "float64", "int8", "uint32"])
@pytest.mark.parametrize("kind", [pa.list_, pa.large_list, lambda values: pa.list_(values, 3)])
def test_parquet_lists_of_any_kind_and_number_are_read(values, kind, tmp_path):
    rows = sample(11, 3, values)
    array = pa.array([list(row) for row in rows], type=kind(pa.from_numpy_dtype(rows.dtype)))
    pq.write_table(pa.table({"v": array}), tmp_path / "a.parquet", row_group_size=4)
    with open_source(tmp_path / "a.parquet") as source:
        assert (11, 3, rows.dtype) == (source.n, source.dim, source.dtype)
        np.testing.assert_array_equal(rows, rows_of(source))
        np.testing.assert_array_equal(rows, rows_of(source, rows=100))


def test_parquet_columns_are_chosen_by_name(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": lists(sample(2, 3)), "n": [1, 2], "b": lists(sample(2, 4))}), path)
    with open_source(f"{path}::b") as source:
        np.testing.assert_array_equal(sample(2, 4), rows_of(source))
    for member in ("", "::n", "::gone"):
        with pytest.raises(ParameterError, match=r"\['a', 'b'\]"):
            open_source(f"{path}{member}")


@pytest.mark.parametrize(
    ("column", "found"),
    [
        ([[1.0, 2.0], [3.0], [4.0, 5.0]], "length 1"),
        ([[1.0, 2.0], None, [4.0, 5.0]], "null"),
        ([[1.0, 2.0], [3.0, None], [4.0, 5.0]], "null"),
        (pa.array([[1.0, 2.0], None, [4.0, 5.0]], type=pa.list_(pa.float32(), 2)), "null"),
    ],
)
def test_a_parquet_row_that_is_no_vector_is_refused_by_number(column, found, tmp_path):
    pq.write_table(pa.table({"v": column}), tmp_path / "a.parquet")
    with open_source(tmp_path / "a.parquet") as source, pytest.raises(VectorError, match=f"row 1: .*{found}"):
        rows_of(source)


@pytest.mark.parametrize(("first", "found"), [([], "an empty list"), (None, "null")])
def test_a_parquet_column_whose_first_row_is_no_vector_is_refused(first, found, tmp_path):
    pq.write_table(pa.table({"v": [first, [1.0]]}), tmp_path / "a.parquet")
    with pytest.raises(VectorError, match=f"row 0: .*{found}"):
        open_source(tmp_path / "a.parquet")


@pytest.mark.parametrize("value", ["text", {"a": 1}, [1.0]])
def test_parquet_of_lists_of_anything_but_numbers_is_refused(value, tmp_path):
    pq.write_table(pa.table({"v": [[value], [value]]}), tmp_path / "a.parquet")
    with pytest.raises(VectorError, match="real numbers"):
        open_source(tmp_path / "a.parquet")


def test_parquet_without_rows_is_a_source(tmp_path):
    pq.write_table(pa.table({"v": pa.array([], type=pa.list_(pa.float32()))}), tmp_path / "a.parquet")
    with open_source(tmp_path / "a.parquet") as source:
        assert (0, 0, []) == (source.n, source.dim, list(source.blocks(4)))


@pytest.mark.parametrize("kind", [".hdf5", ".parquet"])
def test_damaged_tables_are_refused(kind, tmp_path):
    path = write(tmp_path, kind, sample(50, 4))
    whole = path.read_bytes()
    for data in (b"", b"garbage", whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(data)
        with pytest.raises(FormatError, match=str(path)):
            open_source(path)


@pytest.mark.parametrize("kind", [".hdf5", ".parquet"])
def test_any_damaged_byte_of_a_table_gives_rows_or_a_typed_error(kind, tmp_path):
    """Every 7th byte; what the two packages raise is theirs to choose."""
    path = write(tmp_path, kind, sample(20, 3))
    whole = path.read_bytes()
    outcomes = set()
    for offset in range(0, len(whole), 7):
        damaged = bytearray(whole)
        damaged[offset] ^= 0xFF
        path.write_bytes(damaged)
        try:
            with open_source(path) as source:
                rows_of(source)
            outcomes.add("rows")
        except SkegError as error:
            outcomes.add(type(error).__name__)
    assert outcomes >= {"rows", "FormatError", "CorruptError"}


def test_damaged_rows_of_tables_are_named_when_they_are_read(tmp_path):
    """Both formats may carry checksums of their data."""
    rows = sample(64, 3)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("train", data=rows, chunks=(8, 3), fletcher32=True)
    table = pa.table({"v": lists(rows)})
    pq.write_table(
        table,
        tmp_path / "a.parquet",
        write_page_checksum=True,
        use_dictionary=False,
        compression="none",
        row_group_size=16,
    )
    for path in (tmp_path / "a.h5", tmp_path / "a.parquet"):
        whole = path.read_bytes()
        at = whole.index(rows[40:42].tobytes())
        path.write_bytes(whole[:at] + b"\xff" + whole[at + 1 :])
        with open_source(path) as source, pytest.raises(CorruptError, match="can't be read from row") as caught:
            rows_of(source, rows=8)
        assert str(path) == caught.value.path


@pytest.mark.parametrize(
    ("kind", "package", "extra"),
    [(".hdf5", "h5py", "bench"), (".h5", "h5py", "bench"), (".parquet", "pyarrow", "parquet")],
)
def test_a_missing_package_names_its_extra(kind, package, extra, tmp_path, monkeypatch):
    path = write(tmp_path, kind, sample(2, 2))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=rf"pyskeg\[{extra}\]"):
        open_source(path)


# Ids


@pytest.mark.parametrize("dtype", ["i1", "u1", "<i4", ">i8", "u8"])
def test_ids_of_any_integer_dtype_become_uint64(dtype):
    ids = read_ids(np.arange(5).astype(dtype))
    assert np.uint64 == ids.dtype
    assert [0, 1, 2, 3, 4] == ids.tolist()


def test_large_python_ids_keep_every_digit():
    assert [0, 2**63 + 1, 2**64 - 2] == read_ids([0, 2**63 + 1, 2**64 - 2]).tolist()
    assert [] == read_ids([]).tolist()


def test_ids_are_read_from_files(tmp_path):
    ids = np.array([7, 0, 300], "<i4")
    np.save(tmp_path / "flat.npy", ids)
    np.save(tmp_path / "column.npy", ids[:, None])
    (tmp_path / "a.ibin").write_bytes(encode(".ibin", ids[:, None]))
    (tmp_path / "a.ivecs").write_bytes(encode(".ivecs", ids[:, None]))
    (tmp_path / "a.txt").write_text("7\n0\r\n300")
    (tmp_path / "a.ids").write_text(" 7\n0 \n300\n")
    for path in tmp_path.iterdir():
        assert [7, 0, 300] == read_ids(path).tolist()


@pytest.mark.parametrize("bad", [[1, -1], [0.5], np.ones((2, 2), int), ["a"], None, 5, iter([1])])
def test_what_is_not_ids_is_refused_by_name(bad):
    with pytest.raises(VectorError, match=r"^labels"):
        read_ids(bad, what="labels")


@pytest.mark.parametrize("bad", ["-1", "1.5", "", "0x1", "1_0", "18446744073709551616", "٣", "1 2", "9" * 100])
def test_a_line_that_is_not_an_id_is_refused_by_number_and_offset(bad, tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(f"10\n20\n{bad}\n30\n".encode())
    with pytest.raises(FormatError, match="line 3 is not an id") as caught:
        read_ids(path)
    assert 6 == caught.value.offset


def test_id_files_of_another_shape_kind_or_place_are_refused(tmp_path):
    (tmp_path / "a.ibin").write_bytes(encode(".ibin", sample(2, 2, "<i4")))
    np.save(tmp_path / "floats.npy", np.ones(3) / 2)
    for name in ("a.ibin", "floats.npy"):
        with pytest.raises(VectorError, match=name):
            read_ids(tmp_path / name)
    with pytest.raises(ParameterError, match=r"\.ivecs.*\.txt"):
        read_ids(tmp_path / "a.fvecs")
    with pytest.raises(StorageError, match="gone"):
        read_ids(tmp_path / "gone.txt")
