"""Searches that a connection asks for again and again: what was found out about one holds for the next."""

from __future__ import annotations

from collections.abc import Hashable

import attrs

from skeg.database import Database
from skeg.errors import SkegError
from skeg.net.engine.quick import RoomKey
from skeg.net.engine.searches import Encode, Plan

KNOWN_MAX = 64
"""Ways to search that are remembered for a connection."""


@attrs.frozen
class KnownSearch:
    """What a search comes to, as long as the index is the same.

    Parameters
    ----------
    name : str
        Of the index.
    plan : Plan
    encode : Encode
        Makes the reply.
    room : RoomKey, optional
        For the reply to one query by one kernel; None if the search is not quick.
    """

    name: str
    plan: Plan
    encode: Encode
    room: RoomKey | None

    @classmethod
    def of(cls, name: str, plan: Plan, encode: Encode, form: int) -> KnownSearch:
        """A search whose replies are sent in a form, see `skeg.net.kernels.answer`."""
        return cls(name, plan, encode, (plan.target.dim, plan.k, form) if plan.is_quick else None)


class KnownSearches:
    """Searches for one query, by how they were spelled.

    Parameters
    ----------
    database : Database
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._by_spelling: dict[Hashable, KnownSearch] = {}

    def get(self, spelled: Hashable, nbytes: int) -> KnownSearch | None:
        """A search that was asked for before, for a query of so many bytes; None if that has to be looked at again."""
        known = self._by_spelling.get(spelled)
        if known is None or nbytes != 4 * known.plan.target.dim:
            return None
        try:
            if self._database.index(known.name) is known.plan.target:
                return known
        except SkegError:
            pass
        del self._by_spelling[spelled]
        return None

    def add(self, spelled: Hashable, known: KnownSearch, k: int, list_size: int) -> None:
        """Remember a search for k hits, unless what it comes to depends on the size of the index."""
        if known.plan.k != k or known.plan.list_size != (list_size or None):
            return
        if len(self._by_spelling) >= KNOWN_MAX:
            self._by_spelling.clear()
        self._by_spelling[spelled] = known
