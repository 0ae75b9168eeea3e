"""How many auctions a market holds: Poisson counts around a daily curve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri, pdtr

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


class Curves:
    """The daily curves of m markets as columns."""

    def __init__(self, traffic: Sequence[Traffic], grid: TickGrid) -> None:
        self._mean, self._amplitude, self._peak = (
            np.array([getattr(one, name) for one in traffic], dtype=np.float64)
            for name in ("opportunities_per_tick", "amplitude", "peak_hour")
        )
        self._hour = grid.hour + grid.tick_minutes / 120

    def mean(self, from_tick: int, to_tick: int) -> Float64:
        """Expected auctions at the local time of mid-tick; float64[ticks, m]."""
        angle = 2 * np.pi * (self._hour[from_tick:to_tick, np.newaxis] - self._peak) / 24
        curve: Float64 = self._mean * (1 + self._amplitude * np.cos(angle))
        return curve


def poisson(uniforms: Float64, means: Float64) -> Int64:
    """The least count whose Poisson distribution function reaches the uniform: one draw per element.

    A Cornish-Fisher guess is a step or two away, and the distribution function itself settles it.
    """
    busy = means > 0
    target, mean = uniforms[busy], means[busy]
    z = ndtri(target)
    count = np.maximum(np.floor(mean + np.sqrt(mean) * z + (z * z - 1) / 6), 0)
    for step in (1.0, -1.0):
        moving = np.arange(count.size)
        while moving.size:
            here = count[moving] if step > 0 else count[moving] - 1
            reached = pdtr(here, mean[moving]) >= target[moving]  # not a number, so not reached, below zero
            moving = moving[reached != (step > 0)]
            count[moving] += step
    counts = np.zeros(uniforms.shape, dtype=np.int64)
    counts[busy] = count
    return counts
