"""Parameters of building and searching, with the measured runs that chose their defaults."""

from __future__ import annotations

from typing import Any

import attrs

from skeg.checks import as_int, as_number

LINKS_MAX = 2**32 - 1
"""Slots of neighbor lists are addressed by 32 bits: about 51 million rows with the 83 slots that 64 neighbors get."""

ROWS_MAX = 2**31 - 1
"""Rows are packed in 31 bits beside their distance."""

DIM_MAX = 65_536
"""Integer products of codes and queries fit 32 bits up to here."""

LIST_SIZE_MAX = 1 << 20
"""Largest list size, number of hits and re-rank depth of a search: 8 MiB of work space."""


def _degree(value: Any) -> int:
    return as_int("max_degree", value, 2, 512)


def _list_size(value: Any) -> int:
    return as_int("build_list_size", value, 4, 4096)


def _alpha(value: Any) -> float:
    return as_number("alpha", value, 1.0, 2.0)


def _seed(value: Any) -> int:
    return as_int("seed", value, 0, 2**63 - 1)


@attrs.frozen(kw_only=True)
class GraphParams:
    """How a graph is built.

    Attributes
    ----------
    max_degree : int
        Neighbors a row may have, 2 to 512 (R in the papers).
    build_list_size : int
        Rows a walk keeps while it looks for neighbors, 4 to 4096 (L). Larger is slower and better.
    alpha : float
        Pruning slack on squared distances, 1 to 2: a candidate is dropped when alpha times its distance to a kept
        neighbor is at most its own. Larger keeps more edges.
    seed : int
        Decides the insertion order and the rotation of the codes.
    """

    max_degree: int = attrs.field(default=64, converter=_degree)
    build_list_size: int = attrs.field(default=64, converter=_list_size)
    alpha: float = attrs.field(default=1.1, converter=_alpha)
    seed: int = attrs.field(default=0, converter=_seed)

    @classmethod
    def for_data(cls, metric: str, dim: int, **given: Any) -> GraphParams:
        """Defaults for a metric and a dimension, replaced by what is given and not None."""
        chosen = {name: value for name, value in given.items() if value is not None}
        return cls(**{**default_graph(metric, dim), **chosen})

    def as_dict(self) -> dict[str, Any]:
        """By name, as manifests keep them."""
        return attrs.asdict(self)

    @classmethod
    def of_build(cls, build: dict[str, Any]) -> GraphParams:
        """Those that `as_dict` gave, among other things; `ParameterError` if one is missing or out of range."""
        return cls(**{field.name: build.get(field.name) for field in attrs.fields(cls)})

    def entries_for(self, n: int) -> int:
        """Rows that walks of the construction may start from: about 0.4 times the square root of n, in whole 64s.

        128, 256 and 512 entries for 117,659 rows led to equally long walks, and scoring an entry is not free.
        """
        return min(n, max(64, int(0.4 * n**0.5) // 64 * 64))


WIDE_DIM = 512
"""From here on a graph is built with more edges."""


def default_graph(metric: str, dim: int) -> dict[str, Any]:
    """Graph parameters by metric and dimension.

    On 117,659 x 384 sentence embeddings a build list of 64 and alpha 1.1, built in a fifth of hnswlib's time (M=16,
    efConstruction=200), gave 3.1, 4.1 and 4.0 times its queries/s at recall .95, .99 and .998. A list of 128 took 1.5
    times as long to build for 0 to 8 % fewer scored rows.

    On 117,623 x 1024 (latent semantic analysis, a hard set) 64 and 1.1 gave 4.0, 2.6 and 1.9 times hnswlib's queries/s
    at recall .90, .95 and .98; 128 and 1.2 gave 4.9, 3.9 and 4.0 times, built in 0.7 of its time.

    Rows near each other by inner product can lie far apart, so that metric needs more edges: on 10,000 x 384 of lengths
    1 to 2, 64 and 1.1 gave recall .973 with a list of 64 rows, 128 and 1.3 gave .997.
    """
    if metric == "ip":
        return {"max_degree": 64, "build_list_size": 128, "alpha": 1.3}
    if dim >= WIDE_DIM:
        return {"max_degree": 64, "build_list_size": 128, "alpha": 1.2}
    return {"max_degree": 64, "build_list_size": 64, "alpha": 1.1}


NARROW_DIM = 192
"""Up to here 8 bits a dimension steer better than 4."""


def default_kind(dim: int) -> str:
    """Kind of index by dimension.

    The error of a code grows as dimensions get fewer. On 117,620 x 96 (latent semantic analysis) tq4 answered 17,500,
    9,100 and 3,300 queries/s at recall .90, .95 and .98, int8 60,000, 34,000 and 17,400, for 64 bytes a vector more.
    From 384 dimensions on tq4 loses nothing against int8 at 20 rows re-ranked and reads half the bytes; tq2 was scored
    no faster than tq4 there (18 against 17 ns a row) and found fewer (.957 against .972 with lists of 32 rows).
    """
    return "int8" if dim <= NARROW_DIM else "tq4"


DEFAULT_LIST_SIZE = 64
"""Rows that a search keeps unless it is told or tuned otherwise."""

RERANK: dict[str, int] = {
    "f32": 10, "int8": 16, "tq4": 20, "tq2": 50, "tq1": 250, "binary": 250, "pq": 200,
}  # fmt: skip
"""Rows scored exactly for 10 hits, by kind; in proportion for other k.

Share of the true ten nearest found by a `FlatIndex` scan, 117,659 x 384, 2,000 queries, with its final margin: int8
.99995 at 16 rows, tq4 .9999 at 20, tq2 .99975 at 50. With a wider margin of the scan: tq4 .9994 at 16; tq1 .9992 and
binary .9988 at 200; pq .9971 at 100 and .9999 at 400, so that 200 lies between measured values.
"""
