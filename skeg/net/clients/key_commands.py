"""Methods of clients for commands on keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from skeg.net.clients import calls
from skeg.net.clients.calls import Caller, Data


class KeyCommands(Caller):
    """Keys and values are bytes; text is sent as UTF-8."""

    def get(self, key: Data) -> bytes | None:
        """Value of a key.

        Parameters
        ----------
        key : bytes or str

        Returns
        -------
        bytes or None
            None without such a key.
        """
        return self._run(calls.get(key))

    def set(self, key: Data, value: Data) -> None:
        """Set the value of a key.

        Parameters
        ----------
        key, value : bytes or str
        """
        self._run(calls.set_(key, value))

    def delete(self, *keys: Data) -> int:
        """Delete keys.

        Parameters
        ----------
        *keys : bytes or str
            At least one.

        Returns
        -------
        int
            How many were there.
        """
        return self._run(calls.of_keys("DEL", keys))

    def exists(self, *keys: Data) -> int:
        """Count keys that are there.

        Parameters
        ----------
        *keys : bytes or str
            At least one; one that comes twice counts twice.

        Returns
        -------
        int
        """
        return self._run(calls.of_keys("EXISTS", keys))

    def mget(self, keys: Iterable[Data]) -> list[bytes | None]:
        """Values of keys.

        Parameters
        ----------
        keys : iterable of bytes or str

        Returns
        -------
        list
            For each key its value, or None without such a key.
        """
        return self._run(calls.mget(keys))

    def mset(self, pairs: Mapping[bytes, Data] | Mapping[str, Data]) -> None:
        """Set the values of keys.

        Parameters
        ----------
        pairs : mapping
            From keys to values.
        """
        self._run(calls.mset(pairs))

    def append(self, key: Data, value: Data) -> int:
        """Append to the value of a key; without one, set it.

        Parameters
        ----------
        key, value : bytes or str

        Returns
        -------
        int
            Bytes of the value now.
        """
        return self._run(calls.append(key, value))

    def incr(self, key: Data) -> int:
        """Add 1 to the number in a key, 0 without one.

        Parameters
        ----------
        key : bytes or str

        Returns
        -------
        int
            The number now.
        """
        return self._run(calls.counted("INCR", key))

    def decr(self, key: Data) -> int:
        """Subtract 1 from the number in a key, 0 without one.

        Parameters
        ----------
        key : bytes or str

        Returns
        -------
        int
            The number now.
        """
        return self._run(calls.counted("DECR", key))

    def incrby(self, key: Data, delta: int) -> int:
        """Add to the number in a key, 0 without one.

        Parameters
        ----------
        key : bytes or str
        delta : int
            Of 64 bits.

        Returns
        -------
        int
            The number now.
        """
        return self._run(calls.counted("INCRBY", key, delta))

    def decrby(self, key: Data, delta: int) -> int:
        """Subtract from the number in a key, 0 without one.

        Parameters
        ----------
        key : bytes or str
        delta : int
            Of 64 bits.

        Returns
        -------
        int
            The number now.
        """
        return self._run(calls.counted("DECRBY", key, delta))

    def scan(self, cursor: int = 0, *, match: Data | None = None, count: int | None = None) -> tuple[int, list[bytes]]:
        r"""Some of the keys; `scan_iter` of the client goes through all.

        Parameters
        ----------
        cursor : int
            0, and then what the call before returned.
        match : bytes or str, optional
            Pattern of the keys, in which ``* ? [abc]`` and ``\`` mean something.
        count : int, optional
            About how many keys to look at.

        Returns
        -------
        cursor : int
            For the next call; 0 if this was the last one.
        keys : list of bytes
            Maybe none.
        """
        return self._run(calls.scan(cursor, match, count))
