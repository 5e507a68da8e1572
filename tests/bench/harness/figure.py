"""What one engine did in each round of one measurement."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Any


@dataclass
class Figure:
    """The figures of an engine, and what skeg has to reach, if anything."""

    part: str
    measure: str
    engine: str
    unit: str
    rounds: list[float]
    must: float | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def value(self) -> float:
        return median(self.rounds)

    def cell(self) -> str:
        """The median, and the range of the rounds."""
        middle, low, high = map(self.plain, (self.value, min(self.rounds), max(self.rounds)))
        return middle if low == high else f"{middle} [{low}-{high}]"

    def plain(self, value: float) -> str:
        """A number as people read it."""
        return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
