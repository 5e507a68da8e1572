"""Figures of a server: for INFO, SKEG.STATS, SKEG.SHARDS and Prometheus."""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from typing import Any

import skeg
from skeg.net.engine.engine import Engine
from skeg.net.metrics import IndexState, ProcessState, State, render

SECTIONS = ("server", "clients", "memory", "persistence", "stats", "replication", "cpu", "keyspace", "vectors")

_STARTED = time.time()


def shards_text(engine: Engine) -> str:
    """A line for each shard of the key-value store."""
    return "".join(
        f"shard={number} {_cache_words(shard)}\n" for number, shard in enumerate(engine.database.kv.shard_stats())
    )


def stats_text(engine: Engine) -> str:
    """Sums over the shards, an empty line, and what Prometheus gets."""
    return f"{_cache_words(engine.database.kv.stats())}\n\n{metrics_text(engine)}"


def _cache_words(figures: dict[str, Any]) -> str:
    return (
        f"cache_bytes={figures['cache_bytes']} evictions={figures['cache_evictions']} "
        f"n_keys={figures['keys']} budget={figures['cache_budget']}"
    )


def info_text(engine: Engine, sections: tuple[str, ...]) -> str:
    """Sections of INFO as Redis writes them: ``# Name``, then ``name:value`` lines."""
    parts = []
    for section in sections:
        if section in SECTIONS:
            lines = "".join(f"{name}:{value}\r\n" for name, value in _SECTION_OF[section](engine).items())
            parts.append(f"# {section.capitalize()}\r\n{lines}")
    return "\r\n".join(parts)


def _server(engine: Engine) -> dict[str, Any]:
    return {
        "redis_version": "7.0.0",
        "redis_mode": "standalone",
        "skeg_version": skeg.__version__,
        "python_version": platform.python_version(),
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
        "process_id": os.getpid(),
        "tcp_port": engine.settings.port or 0,
        "binary_port": engine.settings.binary_port or 0,
        "uptime_in_seconds": int(time.time() - _STARTED),
        "mode": engine.settings.mode,
        "processes": engine.settings.processes,
        "workers": engine.workers,
    }


def _clients(engine: Engine) -> dict[str, Any]:
    traffic = engine.traffic
    return {
        "connected_clients": traffic.count,
        "maxclients": engine.settings.max_clients,
        "blocked_clients": 0,
        "client_input_bytes": traffic.buffered_bytes,
    }


def _memory(_: Engine) -> dict[str, Any]:
    return {"used_memory_rss": resident_bytes(), "used_memory_peak": _peak_bytes(), "maxmemory": 0}


def _persistence(engine: Engine) -> dict[str, Any]:
    figures = engine.database.kv.stats()
    return {
        "loading": 0,
        "durability": engine.durability.name.lower(),
        "log_bytes": figures["log_bytes"],
        "live_bytes": figures["live_bytes"],
        "reclaimable_bytes": figures["reclaimable_bytes"],
        "commits": figures["commits"],
        "syncs": figures["syncs"],
        "background_error": figures["background_error"] or "",
    }


def _stats(engine: Engine) -> dict[str, Any]:
    traffic, figures = engine.traffic, engine.database.kv.stats()
    return {
        "total_connections_received": traffic.accepted,
        "rejected_connections": traffic.rejected,
        "total_commands_processed": engine.metrics.total(),
        "total_net_input_bytes": traffic.input_bytes,
        "total_net_output_bytes": traffic.output_bytes,
        "keyspace_hits": figures["cache_hits"],
        "keyspace_misses": figures["cache_misses"],
        "evicted_keys": 0,
        "expired_keys": 0,
        "searches_waiting": engine.searches.depth,
        "changes_waiting": engine.changes.depth,
    }


def _replication(engine: Engine) -> dict[str, Any]:
    return {"role": "slave" if engine.is_read_only else "master", "connected_slaves": 0}


def _cpu(_: Engine) -> dict[str, Any]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {"used_cpu_sys": f"{used.ru_stime:.6f}", "used_cpu_user": f"{used.ru_utime:.6f}"}


def _keyspace(engine: Engine) -> dict[str, Any]:
    keys = len(engine.database.kv)
    return {"db0": f"keys={keys},expires=0,avg_ttl=0"} if keys else {}


def _vectors(engine: Engine) -> dict[str, Any]:
    return {
        f"vindex_{i.name}": f"state={i.state},dim={i.dim},kind={i.kind},backend={i.backend},vectors={i.count}"
        for i in engine.database.indexes()
    }


_SECTION_OF = {
    "server": _server, "clients": _clients, "memory": _memory, "persistence": _persistence, "stats": _stats,
    "replication": _replication, "cpu": _cpu, "keyspace": _keyspace, "vectors": _vectors,
}  # fmt: skip


def config_values(engine: Engine) -> dict[str, str]:
    """What CONFIG GET tells: the settings that Redis tools ask for, and ours by their names."""
    settings = engine.settings
    appended = not engine.is_read_only
    return {
        "appendonly": "yes" if appended else "no",
        "appendfsync": {"sync": "always", "os": "everysec", "none": "no"}[settings.durability],
        "databases": "1",
        "maxclients": str(settings.max_clients),
        "maxmemory": "0",
        "maxmemory-policy": "noeviction",
        "port": str(settings.port or 0),
        "proto-max-bulk-len": str(settings.max_request_bytes),
        "save": "",
        "timeout": str(int(settings.idle_timeout_s)),
        "mode": settings.mode,
        "durability": settings.durability,
        "processes": str(settings.processes),
        "workers": str(engine.workers),
    }


def resident_bytes() -> int:
    """Memory of this process that is resident; its peak where the system does not say."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        return _peak_bytes()


def _peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def metrics_text(engine: Engine) -> str:
    """What Prometheus gets: the counts of all processes of the server."""
    publish(engine)
    figures = engine.database.stats()
    keys, indexes = figures["kv"], figures["indexes"]
    ready = {name: index for name, index in indexes.items() if index.get("state") != "quarantined"}
    state = State(
        is_ready=True,
        started=_STARTED,
        segments=keys["segments"],
        segments_compacting=keys["background_compacting"],
        live_bytes=keys["live_bytes"],
        log_bytes=keys["log_bytes"],
        compactions_running=keys["background_compacting"],
        vectors_bytes=sum(index["bytes_vectors"] for index in ready.values()),
        indexes=[IndexState(name, i.get("generation", 0), i["count"]) for name, i in ready.items()],
    )
    return render(engine.metrics, state)


def publish(engine: Engine) -> None:
    """Let the other processes of the server see what this one knows of itself."""
    traffic, keys = engine.traffic, engine.database.kv.stats()
    engine.metrics.publish(
        ProcessState(
            connections=traffic.count,
            searches_waiting=engine.searches.depth,
            changes_waiting=engine.changes.depth,
            resident_bytes=resident_bytes(),
            connections_accepted=traffic.accepted,
            connections_rejected=traffic.rejected,
            input_bytes=traffic.input_bytes,
            output_bytes=traffic.output_bytes,
            cache_hits=keys["cache_hits"],
            cache_misses=keys["cache_misses"],
            cache_evictions=keys["cache_evictions"],
            compactions=keys["background_compactions"],
            compacted_bytes=keys["background_compacted_bytes"],
            syncs=keys["syncs"],
            commits=keys["commits"],
        )
    )
