"""Who may do what: the password of a server."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable
from pathlib import Path

from skeg.errors import ParameterError, StorageError
from skeg.net.failures import UNASKED_PASSWORD, WRONG_PASSWORD, CommandError
from skeg.net.limits import Limits

PASSWORD_BYTES_MAX = 4096

FAILURES_MAX = 10
"""Wrong passwords after which a connection is closed."""


class Access:
    """The password that clients have to give, if any.

    Parameters
    ----------
    password : bytes, optional
        None: everybody may do everything.
    """

    def __init__(self, password: bytes | None) -> None:
        self._digest = None if password is None else _digest(password)

    @classmethod
    def of_file(cls, path: Path | None) -> Access:
        """The password in the first line of a file; of None that of a server without one.

        Raises
        ------
        StorageError
            The file can't be read.
        ParameterError
            It holds no password.
        """
        if path is None:
            return cls(None)
        return cls(read_password(path))

    @property
    def is_open(self) -> bool:
        """Whether no password is needed."""
        return self._digest is None

    def admits(self, password: bytes, user: bytes = b"default") -> bool:
        """Whether a password is right; takes as long for a wrong one as for the right one."""
        if self._digest is None:
            return False
        is_right = hmac.compare_digest(_digest(password), self._digest)
        return is_right and user == b"default"


class Gate:
    """Whether the client of one connection has given the password, or needs none.

    Parameters
    ----------
    access : Access
    limits : Limits
        Of requests, once the client may do anything.
    on_failure : callable
        Called for each wrong password.

    Attributes
    ----------
    is_passed : bool
        Whether the client may do anything.
    """

    def __init__(self, access: Access, limits: Limits, on_failure: Callable[[], None]) -> None:
        self._access = access
        self._limits = limits
        self._on_failure = on_failure
        self._failures = 0
        self.is_passed = access.is_open

    @property
    def limits(self) -> Limits:
        """How much is believed of the client."""
        return self._limits if self.is_passed else Limits.before_auth()

    @property
    def is_worn_out(self) -> bool:
        """Whether so many passwords were wrong that the connection has to end."""
        return self._failures >= FAILURES_MAX

    def give(self, password: bytes, user: bytes = b"default") -> None:
        """Pass with the right password; `CommandError` for a wrong one, or if none is needed."""
        if self._access.is_open:
            raise CommandError(UNASKED_PASSWORD)
        if not self._access.admits(password, user):
            self._failures += 1
            self._on_failure()
            raise CommandError(WRONG_PASSWORD, "WRONGPASS")
        self.is_passed = True

    def reset(self) -> None:
        """Be as for a new connection."""
        self.is_passed = self._access.is_open


def read_password(path: Path) -> bytes:
    """First line of a file, without the end of the line; errors as `Access.of_file`."""
    try:
        with path.open("rb") as file:
            line = file.readline(PASSWORD_BYTES_MAX + 2).rstrip(b"\r\n")
    except OSError as error:
        raise StorageError(path, f"can't read the password: {error.strerror or error}") from error
    if not line or len(line) > PASSWORD_BYTES_MAX:
        raise ParameterError("password_file", str(path), f"a first line of 1 to {PASSWORD_BYTES_MAX} bytes")
    return line


def _digest(password: bytes) -> bytes:
    # Digests are of one length, so that comparing them does not tell that of the password.
    return hashlib.sha256(password).digest()
