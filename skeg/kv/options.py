"""Settings of a store."""

from __future__ import annotations

from typing import Any

import attrs

from skeg.checks import as_int
from skeg.durability import Durability, as_durability
from skeg.errors import ParameterError
from skeg.kv import format as fmt

# Room for the header and a small record; tests rotate all the time with it.
_SEGMENT_BYTES_MIN = 256


def _check_durability(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    as_durability(attribute.name, value)


def _between(low: int, high: int | None = None) -> Any:
    def check(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
        as_int(attribute.name, value, low, high)

    return check


def _check_flag(_: Any, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, bool):
        raise ParameterError(attribute.name, value, "True or False")


@attrs.frozen(kw_only=True)
class StoreOptions:
    """How a store is opened; none of it is written to disk.

    Parameters
    ----------
    segment_bytes : int
        Size at which a segment of the log is closed and the next one begun, 256 bytes to 256 MiB. A larger record
        gets a segment for itself.
    cache_bytes : int
        Memory for values that were read, over all shards; 0 = no cache.
    durability : Durability
        Level of writes that name none.
    background : bool
        Run the maintenance thread: hint files, compaction, and the writing of what was acknowledged below `SYNC`.
        Without it these happen in `compact`, `sync` and `close` only.
    salvage : bool
        Open a damaged store for writing, with everything that is whole; ``stats()["dropped"]`` says what is lost.
    """

    # 64 MiB: a scan without hints takes 30 ms, and a compaction moves at most half of that.
    segment_bytes: int = attrs.field(default=64 << 20, validator=_between(_SEGMENT_BYTES_MIN, fmt.SEGMENT_BYTES_MAX))
    cache_bytes: int = attrs.field(default=32 << 20, validator=_between(0))
    durability: Durability = attrs.field(default=Durability.SYNC, validator=_check_durability)
    background: bool = attrs.field(default=True, validator=_check_flag)
    salvage: bool = attrs.field(default=False, validator=_check_flag)
