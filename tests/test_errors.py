"""skeg.errors: what a caller can catch, read and send to another process."""

from __future__ import annotations

import inspect
import pickle

import pytest

from skeg import errors
from skeg.errors import (
    ClosedError,
    CorruptError,
    ExistsError,
    FilterError,
    FormatError,
    LockedError,
    MissingExtraError,
    NotConnected,
    NotFoundError,
    ParameterError,
    ProtocolError,
    ReadOnlyError,
    ServerError,
    SkegError,
    StorageError,
    ValueTypeError,
    VectorError,
    VersionTooNewError,
)

EXAMPLES = [
    (ParameterError("k", 0, "at least 1"), "k=0: expected at least 1"),
    (FilterError("a =", "a value", "the end", position=3), "filter, position 3: expected a value, found the end"),
    (FilterError("a = b", "numbers", "'b'", field="a"), "filter, field 'a': expected numbers, found 'b'"),
    (VectorError("queries", expected="a", found="b"), "queries: expected a, found b"),
    (VectorError("vectors", expected="a", found="b", row=7), "vectors, row 7: expected a, found b"),
    (NotFoundError("id 3"), "id 3"),
    (ValueTypeError(b"k", b"x"), "value of key b'k': expected an integer of 64 bits, found b'x'"),
    (
        ValueTypeError(b"k", b"1" * 50),
        f"value of key b'k': expected an integer of 64 bits, found {b'1' * 40!r}... (50 bytes)",
    ),
    (ClosedError("x was closed"), "x was closed"),
    (MissingExtraError("Parquet", "parquet"), "Parquet needs an optional package: pip install 'pyskeg[parquet]'"),
    (StorageError("/a b", "no space"), "/a b: no space"),
    (FormatError("/a", "odd", offset=0, expected="x", found="y"), "/a, offset 0: odd: expected x, found y"),
    (VersionTooNewError("/a", "newer", expected="1", found="2"), "/a: newer: expected 1, found 2"),
    (CorruptError("/a", "torn", offset=3), "/a, offset 3: torn"),
    (ReadOnlyError("/a", "opened for reading"), "/a: opened for reading"),
    (LockedError("/a", "pid 3"), "/a: pid 3"),
    (ExistsError("/a", "there is an index 'x' already"), "/a: there is an index 'x' already"),
    (ProtocolError("bulk too large: 7"), "bulk too large: 7"),
    (NotConnected("127.0.0.1:6379: refused"), "127.0.0.1:6379: refused"),
    (ServerError("no such thing"), "ERR no such thing"),
    (ServerError("Authentication required.", "NOAUTH"), "NOAUTH Authentication required."),
]

BUILTINS = {
    ParameterError: ValueError,
    FilterError: ParameterError,
    VectorError: ValueError,
    NotFoundError: KeyError,
    ValueTypeError: ValueError,
    ClosedError: ValueError,
    MissingExtraError: ImportError,
    StorageError: OSError,
    ProtocolError: ValueError,
    NotConnected: ConnectionError,
}


@pytest.mark.parametrize(("error", "text"), EXAMPLES)
def test_a_message_says_what_where_expected_and_found(error, text):
    assert text == str(error)


@pytest.mark.parametrize("error", [error for error, _ in EXAMPLES])
def test_an_error_survives_pickling_with_its_attributes(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(error) is type(copy)
    assert str(error) == str(copy)
    assert vars(error) == vars(copy)


def test_every_class_has_an_example():
    classes = {c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, SkegError)}
    assert classes - {SkegError} == {type(error) for error, _ in EXAMPLES}


@pytest.mark.parametrize(("kind", "builtin"), BUILTINS.items())
def test_builtin_handlers_catch_our_errors(kind, builtin):
    assert issubclass(kind, builtin)
    assert issubclass(kind, SkegError)


@pytest.mark.parametrize(
    "kind", [FormatError, VersionTooNewError, CorruptError, ReadOnlyError, LockedError, ExistsError]
)
def test_everything_about_files_is_a_storage_error(kind):
    assert issubclass(kind, StorageError)
