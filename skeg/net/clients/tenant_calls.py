"""Commands of RESP on tenants; see `calls`."""

from __future__ import annotations

from typing import Any

from skeg.net.clients.calls import Call, elements, ok

_UNLIMITED = b"*"


def erase(tenant: str) -> Call[tuple[int, int]]:
    """SKEG.TENANT.ERASE."""

    def decode(reply: Any) -> tuple[int, int]:
        indexes, keys = elements(reply)
        return int(indexes), int(keys)

    return Call(["SKEG.TENANT.ERASE", tenant], decode)


def delete(tenant: str) -> Call[tuple[int, int, int]]:
    """SKEG.TENANT.DELETE."""

    def decode(reply: Any) -> tuple[int, int, int]:
        indexes, keys, logins = elements(reply)
        return int(indexes), int(keys), int(logins)

    return Call(["SKEG.TENANT.DELETE", tenant], decode)


def limit(name: str, tenant: str, *limits: int | None) -> Call[None]:
    """SKEG.QUOTA.SET, SKEG.QOS.SET."""
    return Call([name, tenant, *(_UNLIMITED if most is None else most for most in limits)], ok)


def quota(tenant: str) -> Call[tuple[int | None, int | None]]:
    """SKEG.QUOTA.GET."""

    def decode(reply: Any) -> tuple[int | None, int | None]:
        vectors, disk_bytes = map(_limit, elements(reply))
        return vectors, disk_bytes

    return Call(["SKEG.QUOTA.GET", tenant], decode)


def qos(tenant: str) -> Call[tuple[int | None, int | None, int | None]]:
    """SKEG.QOS.GET."""

    def decode(reply: Any) -> tuple[int | None, int | None, int | None]:
        rate, burst, concurrent = map(_limit, elements(reply))
        return rate, burst, concurrent

    return Call(["SKEG.QOS.GET", tenant], decode)


def _limit(reply: Any) -> int | None:
    return None if reply == _UNLIMITED else int(reply)
