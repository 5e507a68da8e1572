"""A key-value store in a folder: durable, crash-safe, for one writing process and any number of readers.

Keys and values are bytes. The store is a log of records, with an index of their places in memory.
"""

from __future__ import annotations

from skeg.durability import Durability
from skeg.kv.aio import AsyncStore, Ticket
from skeg.kv.options import StoreOptions
from skeg.kv.store import Store

__all__ = ["AsyncStore", "Durability", "Store", "StoreOptions", "Ticket"]
