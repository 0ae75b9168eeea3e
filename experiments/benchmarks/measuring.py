"""How a benchmark measures: a thing and its baseline by turns, medians of both."""

from __future__ import annotations

import resource
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Figure:
    """A rate and that of its baseline, in one unit."""

    rate: float
    unit: str
    baseline: str
    baseline_rate: float

    def row(self, name: str) -> dict[str, Any]:
        """The figure as `bidtwin bench` tells it."""
        return {
            "name": name,
            "rate": self.rate,
            "unit": self.unit,
            "baseline": self.baseline,
            "baseline_rate": self.baseline_rate,
            "ratio": self.rate / self.baseline_rate,
            "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }


def by_turns(measure: Callable[[], float], baseline: Callable[[], float], repeats: int) -> tuple[float, float]:
    """Medians of several measurements of both, taken by turns so that a busy machine slows both alike."""
    pairs = [(measure(), baseline()) for _ in range(repeats)]
    return median(rate for rate, _ in pairs), median(rate for _, rate in pairs)
