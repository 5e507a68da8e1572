"""Every exception that skeg raises on purpose.

Each class also inherits from the builtin that a caller would expect, carries what it knows as attributes
and builds its message in one place. A message says what was being read, where, what was expected and what
was found. `assert` is kept for our own mistakes; whatever came from a caller or a file ends up here.
"""

from __future__ import annotations

from os import PathLike, fspath
from typing import Any


class SkegError(Exception):
    """Base of every error that skeg raises on purpose."""


class ParameterError(SkegError, ValueError):
    """An argument is outside what the call accepts."""

    def __init__(self, parameter: str, value: Any, expected: str) -> None:
        self.parameter = parameter
        self.value = value
        self.expected = expected
        super().__init__(parameter, value, expected)

    def __str__(self) -> str:
        return f"{self.parameter}={self.value!r}: expected {self.expected}"


class FilterError(ParameterError):
    """A filter can't be read (`position` says where) or does not fit the types of a field (`field` says which).

    Parameters
    ----------
    text : str
        The filter; for an error of types, the condition that does not fit.
    expected : str
        What could have stood there.
    found : str
        What stood there.
    position : int, optional
        Character of `text`, from 0; its length for the end.
    field : str, optional
        The field whose values have other types.
    """

    def __init__(
        self, text: str, expected: str, found: str, position: int | None = None, field: str | None = None
    ) -> None:
        super().__init__("filter", text, expected)
        self.text = text
        self.found = found
        self.position = position
        self.field = field

    def __str__(self) -> str:
        place = f"position {self.position}" if self.field is None else f"field {self.field!r}"
        return f"filter, {place}: expected {self.expected}, found {self.found}"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.text, self.expected, self.found, self.position, self.field)


class VectorError(SkegError, ValueError):
    """An array of vectors or ids can't be used: wrong shape or dtype, not finite, zero under cosine, duplicate."""

    def __init__(self, what: str, *, expected: str, found: str, row: int | None = None) -> None:
        self.what = what
        self.expected = expected
        self.found = found
        self.row = row
        super().__init__(what, expected, found, row)

    def __str__(self) -> str:
        place = self.what if self.row is None else f"{self.what}, row {self.row}"
        return f"{place}: expected {self.expected}, found {self.found}"

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), (self.what,), {"expected": self.expected, "found": self.found, "row": self.row})


class NotFoundError(SkegError, KeyError):
    """An id that the index does not hold."""

    def __init__(self, what: str) -> None:
        self.what = what
        super().__init__(what)

    def __str__(self) -> str:
        return self.what


class ValueTypeError(SkegError, ValueError):
    """The value of a key does not spell an integer of 64 bits, as the operation needs."""

    def __init__(self, key: bytes, value: bytes) -> None:
        self.key = key
        self.value = value
        super().__init__(key, value)

    def __str__(self) -> str:
        found = repr(self.value) if len(self.value) <= 40 else f"{self.value[:40]!r}... ({len(self.value)} bytes)"
        return f"value of key {self.key!r}: expected an integer of 64 bits, found {found}"


class ClosedError(SkegError, ValueError):
    """The object was closed, or belongs to the parent of a forked process."""


class MissingExtraError(SkegError, ImportError):
    """A feature needs a package that an optional extra installs."""

    def __init__(self, feature: str, extra: str) -> None:
        self.feature = feature
        self.extra = extra
        super().__init__(feature, extra)

    def __str__(self) -> str:
        return f"{self.feature} needs an optional package: pip install 'pyskeg[{self.extra}]'"


class StorageError(SkegError, OSError):
    """Something about a file or folder; `path` says which, `offset` where in it (bytes) when known."""

    def __init__(
        self,
        path: str | PathLike[str],
        problem: str,
        *,
        offset: int | None = None,
        expected: str | None = None,
        found: str | None = None,
    ) -> None:
        self.path = fspath(path)
        self.problem = problem
        self.offset = offset
        self.expected = expected
        self.found = found
        super().__init__(problem)

    def __str__(self) -> str:
        place = self.path if self.offset is None else f"{self.path}, offset {self.offset}"
        text = f"{place}: {self.problem}"
        if self.expected is not None:
            text += f": expected {self.expected}, found {self.found}"
        return text

    def __reduce__(self) -> tuple[Any, ...]:
        details = {"offset": self.offset, "expected": self.expected, "found": self.found}
        return _rebuild, (type(self), (self.path, self.problem), details)


class FormatError(StorageError):
    """The file is not one of ours, or is of another kind than the one asked for."""


class VersionTooNewError(FormatError):
    """The file was written by a newer skeg, in a format that this one can't read."""


class CorruptError(StorageError):
    """A file is shorter than its header says, or a checksum or an invariant does not hold."""


class ReadOnlyError(StorageError):
    """A write was asked of something that was opened for reading."""


class LockedError(StorageError):
    """Another process holds the lock for writing."""


class ExistsError(StorageError):
    """Something of that name is there already."""


class ProtocolError(SkegError, ValueError):
    """A peer sent bytes that are not of the protocol, or that exceed a limit."""


class NotConnected(SkegError, ConnectionError):  # noqa: N818 - the name that users of the published client know
    """There is no connection to the server: it could not be reached, it went away, or it did not answer in time."""


class ServerError(SkegError):
    """The server answered with an error.

    Parameters
    ----------
    message : str
        What it said, without the code.
    code : str
        The first word of a RESP error, such as "ERR", or the name of a binary one, such as "NOT_FOUND".
    """

    def __init__(self, message: str, code: str = "ERR") -> None:
        self.message = message
        self.code = code
        super().__init__(message, code)

    def __str__(self) -> str:
        return f"{self.code} {self.message}"


def _rebuild(kind: type[SkegError], args: tuple[Any, ...], details: dict[str, Any]) -> SkegError:
    """Unpickle an error whose constructor takes keywords."""
    return kind(*args, **details)
