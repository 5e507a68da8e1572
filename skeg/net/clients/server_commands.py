"""Methods of clients for commands on the connection, on the server and on tenants."""

from __future__ import annotations

from typing import Any

from skeg.net.clients import calls, tenant_calls
from skeg.net.clients.calls import Call, Caller, Data


class ServerCommands(Caller):
    """Our server has no tenants; the commands on them are for other servers that speak this protocol."""

    # --- the connection

    def hello(
        self,
        version: int = 3,
        *,
        auth: tuple[Data, Data] | None = None,
        client_name: str | None = None,
        setname: str | None = None,
    ) -> Any:
        """Agree on the version of the protocol.

        Parameters
        ----------
        version : {2, 3}
        auth : (str, str or bytes), optional
            User and password.
        client_name : str, optional
            Name of this client, for lists of clients.
        setname : str, optional
            Another spelling of `client_name`.

        Returns
        -------
        dict or list
            What the server says about itself; a list of names and values with version 2.
        """
        return self._run(calls.hello(version, auth, setname if client_name is None else client_name))

    def ping(self, message: Data | None = None) -> bytes:
        """Ask whether the server answers.

        Parameters
        ----------
        message : bytes or str, optional

        Returns
        -------
        bytes
            The message, or PONG.
        """
        return self._run(calls.ping(message))

    def echo(self, message: Data) -> bytes:
        """Have the server return a message.

        Parameters
        ----------
        message : bytes or str

        Returns
        -------
        bytes
            The message.
        """
        return self._run(Call(["ECHO", message], calls.data))

    def select(self, db: int) -> None:
        """Choose a database; there is 0 only.

        Parameters
        ----------
        db : int
        """
        self._run(Call(["SELECT", db], calls.ok))

    def durability(self, level: str | None = None) -> str:
        """Choose what writes of this connection wait for, from now on.

        Parameters
        ----------
        level : {"sync", "os", "none"}, optional
            The disk, the operating system, or nothing; None only asks.

        Returns
        -------
        str
            The level that counts.
        """
        return self._run(calls.durability(level))

    # --- the server

    def info(self, section: str | None = None) -> dict[str, str]:
        """What the server says about itself.

        Parameters
        ----------
        section : str, optional
            Only about this.

        Returns
        -------
        dict
            Values by name.
        """
        return self._run(calls.info(section))

    def dbsize(self) -> int:
        """Count the keys.

        Returns
        -------
        int
        """
        return self._run(Call(["DBSIZE"], calls.number))

    def skeg_stats(self) -> str:
        """Figures of the server.

        Returns
        -------
        str
            For people and for Prometheus.
        """
        return self._run(Call(["SKEG.STATS"], calls.text))

    def skeg_shards(self) -> str:
        """Figures of each shard.

        Returns
        -------
        str
            A line for each.
        """
        return self._run(Call(["SKEG.SHARDS"], calls.text))

    def skeg_whoami(self) -> str:
        """Whom the server takes this client for.

        Returns
        -------
        str
            Such as ``tenant=00 mode=single-tenant``, with more digits.
        """
        return self._run(Call(["SKEG.WHOAMI"], calls.text))

    def skeg_auth(self, user: str, password: str) -> str:
        """SKEG.AUTH, which servers refuse; `hello` takes a password.

        Parameters
        ----------
        user : str
        password : str

        Returns
        -------
        str
        """
        return self._run(Call(["SKEG.AUTH", user, password], calls.text))

    # --- tenants

    def subject_erase(self, prefix: Data) -> int:
        """Erase the keys of this tenant that begin so; `reclaim` gives their space back.

        Parameters
        ----------
        prefix : bytes or str

        Returns
        -------
        int
            How many.
        """
        return self._run(Call(["SKEG.SUBJECT.ERASE", prefix], calls.number))

    def tenant_erase(self, tenant: str) -> tuple[int, int]:
        """Erase everything that a tenant has.

        Parameters
        ----------
        tenant : str

        Returns
        -------
        indexes, keys : int
            How many.
        """
        return self._run(tenant_calls.erase(tenant))

    def tenant_delete(self, tenant: str) -> tuple[int, int, int]:
        """Erase everything that a tenant has, and the tenant.

        Parameters
        ----------
        tenant : str

        Returns
        -------
        indexes, keys, logins : int
            How many.
        """
        return self._run(tenant_calls.delete(tenant))

    def reclaim(self) -> int:
        """Give back the space of what was erased.

        Returns
        -------
        int
            Bytes.
        """
        return self._run(Call(["SKEG.RECLAIM"], calls.number))

    def quota_set(self, tenant: str, max_vectors: int | None, max_disk_bytes: int | None) -> None:
        """Limit what a tenant may have.

        Parameters
        ----------
        tenant : str
        max_vectors, max_disk_bytes : int or None
            None is no limit.
        """
        self._run(tenant_calls.limit("SKEG.QUOTA.SET", tenant, max_vectors, max_disk_bytes))

    def quota_get(self, tenant: str) -> tuple[int | None, int | None]:
        """What a tenant may have.

        Parameters
        ----------
        tenant : str

        Returns
        -------
        max_vectors, max_disk_bytes : int or None
            None is no limit.
        """
        return self._run(tenant_calls.quota(tenant))

    def qos_set(self, tenant: str, rate: int | None, burst: int | None, max_concurrent: int | None) -> None:
        """Limit how much a tenant may ask.

        Parameters
        ----------
        tenant : str
        rate, burst, max_concurrent : int or None
            Requests a second, at once, and under way; None is no limit.
        """
        self._run(tenant_calls.limit("SKEG.QOS.SET", tenant, rate, burst, max_concurrent))

    def qos_get(self, tenant: str) -> tuple[int | None, int | None, int | None]:
        """How much a tenant may ask.

        Parameters
        ----------
        tenant : str

        Returns
        -------
        rate, burst, max_concurrent : int or None
            None is no limit.
        """
        return self._run(tenant_calls.qos(tenant))
