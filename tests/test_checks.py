"""skeg.checks: what callers pass in becomes one form, or an error that says where."""

from __future__ import annotations

import array
import math
import tracemalloc
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from skeg import checks
from skeg.checks import (
    RESERVED_ID,
    as_choice,
    as_ids,
    as_int,
    as_number,
    as_positive_int,
    as_queries,
    as_vectors,
    check_finite,
    check_unique_ids,
)
from skeg.errors import ParameterError, VectorError


class HasArray:
    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.array(self.values, dtype)


class HasDLPack:
    """What a tensor of another library looks like."""

    def __init__(self, values):
        self.values = values

    def __dlpack__(self, **options):
        return self.values.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.values.__dlpack_device__()


class Broken:
    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("lives on another device")


# Scalars


@pytest.mark.parametrize("value", [5, np.int8(5), np.uint64(5), np.array(5)])
def test_integers_of_any_kind_become_int(value):
    assert 5 == as_int("k", value, 1, 5)
    assert type(as_int("k", value)) is int


@pytest.mark.parametrize("value", [True, np.True_, 5.0, np.float32(5), "5", None, [5], np.array([5, 6])])
def test_what_is_no_integer_is_refused(value):
    with pytest.raises(ParameterError, match=r"k=.*expected an integer"):
        as_int("k", value)


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [(6, None, "an integer of at least 6"), (None, 4, "an integer of at most 4"), (6, 9, "an integer from 6 to 9")],
)
def test_an_integer_out_of_range_is_told_the_range(low, high, text):
    with pytest.raises(ParameterError) as caught:
        as_int("k", 5, low, high)
    assert ("k", 5, text) == (caught.value.parameter, caught.value.value, caught.value.expected)


def test_positive_starts_at_one():
    assert 1 == as_positive_int("k", 1)
    with pytest.raises(ParameterError, match="at least 1"):
        as_positive_int("k", 0)


@pytest.mark.parametrize("value", [2, 2.0, np.float16(2), np.int32(2), Fraction(4, 2)])
def test_real_numbers_become_float(value):
    assert 2.0 == as_number("alpha", value, 2, 2)
    assert type(as_number("alpha", value)) is float


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, True, "2", 2j, None, Decimal(2), 10**400, 1.9, 3.1])
def test_what_is_no_number_in_range_is_refused(value):
    with pytest.raises(ParameterError, match="expected a finite number from 2 to 3"):
        as_number("alpha", value, 2, 3)


def test_a_choice_is_one_of_the_strings():
    assert "ip" == as_choice("metric", "ip", ("l2", "ip"))


@pytest.mark.parametrize("value", ["IP", "", None, 1, ["ip"], np.array(["ip"])])
def test_another_choice_is_told_the_strings(value):
    with pytest.raises(ParameterError, match="expected one of 'l2', 'ip'"):
        as_choice("metric", value, ("l2", "ip"))


# Vectors

REAL = ["f2", "f4", "f8", ">f4", ">f8", "g", "i1", "u1", "i2", "i4", "i8", "u8", "?"]


@given(
    hnp.arrays(
        st.sampled_from(REAL).map(np.dtype), hnp.array_shapes(min_dims=2, max_dims=2), elements=st.integers(0, 1)
    )
)
def test_any_real_dtype_and_any_strides_give_the_same_vectors(values):
    for x in (values, np.asfortranarray(values), values[::-1, ::-1][::-1, ::-1], values.tolist(), HasArray(values)):
        vectors = as_vectors(x, values.shape[1])
        assert values.astype("f4").tolist() == vectors.tolist()
        assert np.dtype("f4") == vectors.dtype
        assert vectors.flags.c_contiguous
        assert vectors.flags.aligned


def test_vectors_in_the_right_form_are_not_copied():
    x = np.ones((3, 2), "f4")
    assert as_vectors(x) is x
    assert np.shares_memory(x, as_queries(x[0], 2)[0])


def test_unaligned_vectors_are_copied():
    x = np.frombuffer(bytes(33), np.uint8)[1:].view("f4").reshape(4, 2)
    assert as_vectors(x).flags.aligned


def test_vectors_come_from_dlpack_and_buffers():
    x = np.arange(6, dtype="f8").reshape(3, 2)
    assert x.tolist() == as_vectors(HasDLPack(x)).tolist()
    assert x.tolist() == as_vectors(memoryview(x)).tolist()
    assert [[1, 2]] == as_queries(array.array("d", [1, 2]), 2)[0].tolist()


@pytest.mark.parametrize(
    "x",
    [
        [["a", "b"]],
        [[b"a", b"b"]],
        [[1, 2j]],
        [[1, None]],
        [[1, 2], [3]],
        np.zeros((1, 2), "M8[s]"),
        np.zeros((1, 2), "V4"),
        np.zeros((1, 2), [("a", "f4")]),
        [[10**30, 1]],
        Broken(),
        object(),
        None,
        "text",
        np.ma.masked_array([[1.0, 2.0]], [[False, True]]),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(x):
    for convert in (lambda: as_vectors(x, what="rows"), lambda: as_queries(x, 2, what="rows")):
        with pytest.raises(VectorError, match=r"^rows: expected "):
            convert()


def test_a_masked_array_without_masked_values_is_an_array():
    assert [[1.0, 2.0]] == as_vectors(np.ma.masked_array([[1.0, 2.0]], False)).tolist()


@pytest.mark.parametrize("shape", [(), (3,), (0,), (2, 4), (2, 0), (2, 3, 1)])
def test_vectors_of_another_shape_are_told_both_shapes(shape):
    with pytest.raises(VectorError) as caught:
        as_vectors(np.zeros(shape), 3)
    assert ("vectors", "shape (n, 3)", f"shape {shape}") == (
        caught.value.what,
        caught.value.expected,
        caught.value.found,
    )


def test_vectors_have_at_least_one_dimension_and_perhaps_no_rows():
    assert (0, 3) == as_vectors(np.zeros((0, 3))).shape
    with pytest.raises(VectorError, match="dim of at least 1"):
        as_vectors(np.zeros((3, 0)))


def test_one_query_becomes_a_row_and_is_remembered():
    queries, was_single = as_queries([1, 2, 3], 3)
    assert ([[1, 2, 3]], True) == (queries.tolist(), was_single)
    queries, was_single = as_queries([[1, 2, 3]], 3)
    assert ([[1, 2, 3]], False) == (queries.tolist(), was_single)
    queries, was_single = as_queries(np.zeros((0, 3)), 3)
    assert ((0, 3), False) == (queries.shape, was_single)


@pytest.mark.parametrize("shape", [(), (2,), (3, 2), (1, 1, 3), (0,)])
def test_queries_of_another_shape_are_told_both_shapes(shape):
    with pytest.raises(VectorError, match=r"expected shape \(3,\) or \(n, 3\), found shape"):
        as_queries(np.zeros(shape), 3)


# Finite


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_every_place_of_a_bad_value_is_found(bad, monkeypatch):
    """Rows and columns around the edges of the blocks, which are made small here."""
    monkeypatch.setattr(checks, "_BLOCK_ELEMENTS", 7)
    for row in range(8):
        for column in range(3):
            x = np.zeros((8, 3), "f4")
            x[row, column] = bad
            x[-1, -1] = bad
            with pytest.raises(VectorError, match=f"found {bad} in column {column}$") as caught:
                check_finite(x, "vectors", first_row=100)
            assert 100 + row == caught.value.row


def test_finite_vectors_pass_however_large():
    check_finite(np.full((3, 2), np.finfo("f4").max), "vectors")
    check_finite(np.zeros((0, 2), "f4"), "vectors")


@pytest.mark.parametrize("value", [1e39, -1e300, 2.0**128])
def test_a_float64_beyond_float32_is_caught_as_not_finite(value):
    vectors = as_vectors([[0.0, 1.0], [value, 0.0]])
    with pytest.raises(VectorError, match=r"vectors, row 1: .* found -?inf in column 0"):
        check_finite(vectors, "vectors")


def test_finite_is_checked_in_bounded_memory():
    x = np.zeros((64, 1 << 18), "f4")
    tracemalloc.start()
    check_finite(x, "vectors")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < x.nbytes / 16


# Ids


@pytest.mark.parametrize("dtype", ["i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i8", ">u2", "O"])
def test_integers_of_any_dtype_become_ids(dtype):
    ids = as_ids(np.array([3, 0, 127], dtype)[::-1], 3)
    assert [127, 0, 3] == ids.tolist()
    assert np.dtype("u8") == ids.dtype
    assert ids.flags.c_contiguous


@given(st.lists(st.integers(0, RESERVED_ID - 1)))
def test_python_integers_of_the_whole_range_become_ids(values):
    """NumPy alone would make float64 of a list with values on both sides of 2**63."""
    assert values == as_ids(values, len(values)).tolist()
    assert values == as_ids(tuple(values), len(values)).tolist()


def test_ids_in_the_right_form_are_not_copied():
    ids = np.arange(3, dtype="u8")
    assert np.shares_memory(ids, as_ids(ids, 3))


@pytest.mark.parametrize(
    ("ids", "row", "found"),
    [
        (np.array([1, 2, -3, -4]), 2, "-3"),
        ([0, -1], 1, "-1"),
        ([2**63, -1], 1, "-1"),
        ([RESERVED_ID], 0, str(RESERVED_ID)),
        (np.array([7, RESERVED_ID], "u8"), 1, str(RESERVED_ID)),
        ([1, 2**64], 1, str(2**64)),
        ([1, 2.5], 1, "2.5 (float)"),
        (np.array([1.0, 2.0]), 0, "1.0 (float64)"),
        ([1, "2"], 1, "2 (str)"),
        ([1, None], 1, "None (NoneType)"),
        (np.array([1, True], "O"), 1, "True (bool)"),
        (np.array([True]), 0, "True (bool)"),
    ],
)
def test_what_is_no_id_is_refused_with_its_row(ids, row, found):
    with pytest.raises(VectorError) as caught:
        as_ids(ids, len(ids), what="keys")
    assert ("keys", row, found) == (caught.value.what, caught.value.row, caught.value.found)


@pytest.mark.parametrize("ids", [[], [1, 2], [[1, 2, 3]], 3, [[1], [2], [3]]])
def test_ids_of_another_shape_are_refused(ids):
    with pytest.raises(VectorError, match=r"expected shape \(3,\), found shape"):
        as_ids(ids, 3)


def first_repeated(ids):
    """Row of the first id that was there before, and where; None when all differ."""
    seen = {}
    for row, value in enumerate(ids):
        if value in seen:
            return row, seen[value], value
        seen[value] = row
    return None


@given(st.lists(st.integers(0, 12) | st.just(RESERVED_ID - 1), max_size=12))
def test_the_first_row_that_repeats_an_id_is_named(values):
    ids = np.array(values, "u8")
    expected = first_repeated(values)
    if expected is None:
        check_unique_ids(ids)
        return
    row, earlier, value = expected
    with pytest.raises(VectorError) as caught:
        check_unique_ids(ids)
    assert (row, f"id {value}, which row {earlier} has too") == (caught.value.row, caught.value.found)
