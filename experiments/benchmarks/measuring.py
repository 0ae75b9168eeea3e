"""How a benchmark measures: a thing and its baseline by turns, medians of both; and on whom."""

from __future__ import annotations

import resource
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, TypeAlias

import numpy as np

from engine.campaigns import CampaignSet

Range: TypeAlias = tuple[int, int]


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


def alike(ids: Sequence[str], market: Sequence[int], bids: Range, budgets: Range) -> CampaignSet:
    """Campaigns of one creative each, charged by the impression, budgeted by the day, in markets of these numbers."""
    n = len(ids)
    (min_bid, max_bid), (min_budget, max_budget) = bids, budgets
    return CampaignSet(
        ids=tuple(ids),
        channels=("display",) * n,
        markets=tuple(f"market-{number:02}" for number in range(max(market) + 1)),
        market=np.array(market, dtype=np.int64),
        charging=np.zeros(n, dtype=np.uint8),
        period=np.zeros(n, dtype=np.uint8),
        creative_start=np.arange(n + 1),
        creatives=("creative",) * n,
        min_bid=np.full(n, min_bid),
        max_bid=np.full(n, max_bid),
        min_budget=np.full(n, min_budget),
        max_budget=np.full(n, max_budget),
    )


def by_turns(measure: Callable[[], float], baseline: Callable[[], float], repeats: int) -> tuple[float, float]:
    """Medians of several measurements of both, taken by turns so that a busy machine slows both alike."""
    pairs = [(measure(), baseline()) for _ in range(repeats)]
    return median(rate for rate, _ in pairs), median(rate for _, rate in pairs)
