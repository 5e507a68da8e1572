"""From settings to a server that runs, in one process or several."""

from __future__ import annotations

import asyncio
import importlib.util
import resource
import socket
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from skeg.database import open_database
from skeg.files import AnyPath
from skeg.kv import StoreOptions
from skeg.net.access import Access
from skeg.net.commands import TABLE
from skeg.net.metrics import Metrics
from skeg.net.serve.listeners import listen, with_ports
from skeg.net.serve.memory import share_heaps
from skeg.net.serve.processes import Processes
from skeg.net.serve.server import Server
from skeg.net.serve.warm import warm
from skeg.net.settings import ServerSettings

OTHER_FILES = 1024
"""Files that a server has open beside its connections and indexes, at most."""

INDEX_FILES = 2
"""Files that an index has open in each shard."""

Started = Callable[[Mapping[str, socket.socket]], None]
"""Told the listening sockets when clients can connect."""


def serve(path: AnyPath, settings: ServerSettings, started: Started = lambda _: None) -> None:
    """Serve the database in a directory until SIGTERM or SIGINT. Ports open when everything is recovered and warm.

    Parameters
    ----------
    path : path
        The directory; made in mode "rw" if it is missing.
    settings : ServerSettings
    started : callable, optional
        Told the listening sockets, by protocol, when clients can connect.

    Raises
    ------
    SkegError
        The database can't be opened, a port is taken, or there is no password in the file.
    """
    share_heaps()
    _allow_files(settings.max_clients + INDEX_FILES * settings.max_indexes * (settings.shards or 1))
    access = Access.of_file(settings.password_file)
    options = StoreOptions(cache_bytes=settings.cache_bytes, durability=settings.default_durability)
    mode = "r" if settings.mode == "serve" else "rw"
    database = open_database(path, mode=mode, shards=settings.shards, options=options)
    try:
        _allow_files(settings.max_clients + INDEX_FILES * settings.max_indexes * database.shards)
        warm(database)
        sockets = listen(settings)
        settings = with_ports(settings, sockets)
    except BaseException:
        database.close()
        raise
    operations = TABLE.operations
    if settings.processes == 1:
        server = Server(database, settings, access, Metrics(operations))
        _run(server.run(sockets, lambda: started(sockets)))
        return
    rows = Metrics.shared_rows(operations, settings.processes)

    def work(number: int, channel: socket.socket) -> None:
        server = Server(database, settings, access, Metrics(operations, rows, number))
        _run(server.run_adopting(channel, lambda: None))

    Processes(settings.processes, sockets, work, settings.drain_timeout_s).run(lambda: started(sockets))


def _allow_files(count: int) -> None:
    """Let this process have so many files open beside its others, as far as the system allows."""
    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + OTHER_FILES
    if most != resource.RLIM_INFINITY:
        wanted = min(wanted, most)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _run(main: Coroutine[Any, Any, None]) -> None:
    """Run an event loop: uvloop's if that is installed."""
    if importlib.util.find_spec("uvloop") is not None:
        import uvloop

        uvloop.run(main)
    else:
        asyncio.run(main)
