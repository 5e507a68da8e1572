"""Parameters of building and searching, with their measured defaults."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class GraphParams:
    """How a graph is built."""

    max_degree: int = 64
    build_list_size: int = 128
    alpha: float = 1.1
    seed: int = 0

    def entries_for(self, n: int) -> int:
        """Size of the entry table for n rows: 1.5 times the square root, in whole 64s, at most n."""
        return min(n, max(64, int(1.5 * n**0.5) // 64 * 64))
