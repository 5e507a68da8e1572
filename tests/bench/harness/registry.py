"""Names of the engines, and how a name with settings is written: `skeg`, `hnswlib:M=32,ef_construction=400`."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

from .engines import Engine, FaissFlat, FaissHnsw, FaissHnswSq8, Hnswlib, Svs, Turbovec, Usearch, Voyager
from .skeg_engines import Skeg, SkegExact, SkegFlat

ENGINES: dict[str, type[Engine]] = {
    "skeg": Skeg,
    "hnswlib": Hnswlib,
    "faiss-hnsw-sq8": FaissHnswSq8,
    "faiss-hnsw": FaissHnsw,
    "svs": Svs,
    "usearch": Usearch,
    "voyager": Voyager,
    "skeg-flat": SkegFlat,
    "turbovec": Turbovec,
    "skeg-exact": SkegExact,
    "faiss-flat": FaissFlat,
}

GRAPHS = ("skeg", "hnswlib", "faiss-hnsw-sq8", "faiss-hnsw", "svs", "usearch", "voyager")


def parse_spec(spec: str) -> tuple[type[Engine], dict[str, Any]]:
    """Engine class and settings of a spec; values are Python literals, or plain words."""
    name, _, text = spec.partition(":")
    if name not in ENGINES:
        raise SystemExit(f"no engine {name!r}; known: {', '.join(ENGINES)}")
    settings = {}
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise SystemExit(f"{spec}: expected setting=value, found {item!r}")
        settings[key] = _literal(value)
    return ENGINES[name], settings


def make(spec: str, dim: int, folder: Path) -> Engine:
    kind, settings = parse_spec(spec)
    return kind(dim, folder, settings)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
