from __future__ import annotations

import pytest

from skeg import ParameterError, StorageError
from skeg.net.access import PASSWORD_BYTES_MAX, Access


def access_of(tmp_path, content):
    path = tmp_path / "password"
    path.write_bytes(content)
    return Access.of_file(path)


@pytest.mark.parametrize("content", [b"secret", b"secret\n", b"secret\r\n", b"secret\nmore\n"])
def test_the_password_is_the_first_line(tmp_path, content):
    access = access_of(tmp_path, content)
    assert not access.is_open
    assert access.admits(b"secret")
    assert access.admits(b"secret", b"default")
    wrong = [b"", b"Secret", b"secret\n", b"secre", b"secret2", b"more"]
    assert [] == [password for password in wrong if access.admits(password)]
    assert not access.admits(b"secret", b"root")


def test_blanks_belong_to_the_password(tmp_path):
    assert access_of(tmp_path, b" a b \n").admits(b" a b ")


def test_without_a_file_everybody_is_admitted_and_no_password_is_right():
    access = Access.of_file(None)
    assert access.is_open
    assert not access.admits(b"")


@pytest.mark.parametrize("content", [b"", b"\n", b"\nsecret", b"x" * (PASSWORD_BYTES_MAX + 1)])
def test_a_file_without_a_password_is_refused(tmp_path, content):
    with pytest.raises(ParameterError, match="password_file"):
        access_of(tmp_path, content)
    assert access_of(tmp_path, b"x" * PASSWORD_BYTES_MAX).admits(b"x" * PASSWORD_BYTES_MAX)


def test_a_file_that_can_not_be_read_is_named(tmp_path):
    with pytest.raises(StorageError, match=r"nothing.*can't read the password"):
        Access.of_file(tmp_path / "nothing")
