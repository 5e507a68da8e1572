"""What a client is told when something can't be done; the words are those of the wire's first implementation."""

from __future__ import annotations

from skeg.errors import (
    ClosedError,
    ExistsError,
    FilterError,
    NotFoundError,
    ParameterError,
    ReadOnlyError,
    SkegError,
    StorageError,
    ValueTypeError,
)

READ_ONLY = "storage error: server is in serve mode (read-only)"
NO_INTEGER = "value is not an integer or out of range"
NO_AUTH = "Authentication required."
UNASKED_PASSWORD = "AUTH <password> called without any password configured"  # noqa: S105 - a message
WRONG_PASSWORD = "invalid username-password pair or user is disabled."  # noqa: S105 - a message


class CommandError(Exception):
    """A request can't be executed; what the client is told.

    Parameters
    ----------
    text : str
        The message.
    code : str
        First word of a RESP error.
    """

    def __init__(self, text: str, code: str = "ERR") -> None:
        super().__init__(text)
        self.text = text
        self.code = code


def failure_of(error: SkegError, index: str | None = None) -> CommandError:
    """What a client is told of an error of the library; paths stay with the operator.

    Parameters
    ----------
    error : SkegError
    index : str, optional
        Name of the index that the request was about.
    """
    if isinstance(error, ReadOnlyError):
        return CommandError(READ_ONLY, "READONLY")
    if isinstance(error, ValueTypeError):
        return CommandError(NO_INTEGER)
    if isinstance(error, FilterError):
        return CommandError(f"bad FILTER: {error}")
    if isinstance(error, ParameterError) and error.parameter == "delta":
        return CommandError("increment or decrement would overflow")
    if isinstance(error, ClosedError) and index is None:
        return CommandError("storage error: the database is being closed")
    # One that was closed was dropped while somebody used it.
    if index is not None and isinstance(error, NotFoundError | ClosedError):
        return CommandError(f"storage error: vindex '{index}' not found")
    if index is not None and isinstance(error, ExistsError):
        return CommandError(f"storage error: vindex '{index}' already exists")
    if isinstance(error, StorageError):
        place = "" if index is None else f"vindex '{index}': "
        return CommandError(f"storage error: {place}{error.problem}")
    return CommandError(f"storage error: {error}")
