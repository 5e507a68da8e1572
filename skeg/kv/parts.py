"""The shards of a store: which key belongs to which, and what concerns all of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from xxhash import xxh3_64_intdigest

from skeg.durability import Durability, as_durability
from skeg.kv.maintenance import Maintenance
from skeg.kv.shard import Shard


class Parts:
    """The shards of an open store.

    Parameters
    ----------
    shards : sequence of Shard
        In the order of their numbers.
    durability : Durability
        Level of writes that name none.
    maintenance : Maintenance, optional
        Who looks after them.
    """

    def __init__(self, shards: Sequence[Shard], durability: Durability, maintenance: Maintenance | None) -> None:
        self.shards = shards
        self.maintenance = maintenance
        self._durability = durability

    def __iter__(self) -> Iterator[Shard]:
        return iter(self.shards)

    def of(self, key: bytes) -> Shard:
        """The shard of a key. The hash has no seed: clients of a server may compute it too."""
        shards = self.shards
        return shards[0] if len(shards) == 1 else shards[xxh3_64_intdigest(key) % len(shards)]

    def split(self, items: dict[bytes, bytes]) -> list[tuple[Shard, dict[bytes, bytes]]]:
        """The part of `items` that goes to each shard."""
        if len(self.shards) == 1:
            return [(self.shards[0], items)]
        groups: dict[Shard, dict[bytes, bytes]] = {shard: {} for shard in self.shards}
        for key, value in items.items():
            groups[self.of(key)][key] = value
        return list(groups.items())

    def level(self, durability: Durability | None) -> Durability:
        """The durability to use: the store's if none is given."""
        return self._durability if durability is None else as_durability("durability", durability)

    def written(self, level: Durability) -> None:
        """Something was acknowledged at a level; below `SYNC` it is synced soon."""
        if level is not Durability.SYNC and self.maintenance is not None:
            self.maintenance.sync_soon()

    def batch_written(self, pairs: int) -> None:
        """So many pairs were written together."""
        if self.maintenance is not None:
            self.maintenance.batch_written(pairs)

    def use_kernels(self) -> None:
        """Load the kernels of all shards now."""
        if self.maintenance is not None:
            self.maintenance.use_kernels()
