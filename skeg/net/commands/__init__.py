"""The commands of RESP: what each takes, and what it does."""

from __future__ import annotations

from skeg.net.commands import connection, keyspace, serving, strings, vectors
from skeg.net.commands.table import Command, Table

TABLE = Table([*connection.COMMANDS, *strings.COMMANDS, *keyspace.COMMANDS, *vectors.COMMANDS, *serving.COMMANDS])

__all__ = ["TABLE", "Command", "Table"]
