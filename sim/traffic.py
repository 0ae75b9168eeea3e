"""How many auctions a market holds: Poisson counts around a daily curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import pdtr, pdtrik

from engine.units import Float64, Int64, TickGrid


@dataclass(frozen=True)
class Traffic:
    """A market's daily curve.

    Parameters
    ----------
    opportunities_per_tick:
        Mean number of auctions a tick, over the day.
    amplitude:
        Relative height of the peak above that mean, in [0, 1].
    peak_hour:
        Local hour of the peak, in [0, 24).
    """

    opportunities_per_tick: float
    amplitude: float = 0.0
    peak_hour: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.opportunities_per_tick <= 1e9:
            raise ValueError(f"opportunities_per_tick (={self.opportunities_per_tick}) must be in [0, 1000000000]")
        if not 0 <= self.amplitude <= 1:
            raise ValueError(f"amplitude (={self.amplitude}) must be in [0, 1]: it is relative to the mean")


def mean_auctions(traffic: Sequence[Traffic], grid: TickGrid, from_tick: int, to_tick: int) -> Float64:
    """Expected auctions of every tick and market, float64[ticks, markets], read off the curve at mid-tick local time."""
    hour = grid.hour[from_tick:to_tick, None] + grid.tick_minutes / 120
    mean, amplitude, peak = (
        np.array([getattr(one, name) for one in traffic], dtype=np.float64)
        for name in ("opportunities_per_tick", "amplitude", "peak_hour")
    )
    curve: Float64 = mean * (1 + amplitude * np.cos(2 * np.pi * (hour - peak) / 24))
    return curve


def poisson(uniforms: Float64, means: Float64) -> Int64:
    """The least count whose Poisson distribution function reaches the uniform: one draw per element."""
    busy = means > 0
    counts = np.zeros(uniforms.shape, dtype=np.int64)
    target, mean = uniforms[busy], means[busy]
    above = np.ceil(pdtrik(target, mean))
    below = np.maximum(above - 1, 0)
    counts[busy] = np.where(pdtr(below, mean) >= target, below, above)
    return counts
