"""How many auctions a market holds: Poisson or negative-binomial counts around a daily or a weekly curve."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaincinv, ndtri, pdtr

from engine.units import WEEK_HOURS, Float64, Int64, TickGrid
from sim.rng import ARRIVALS, BUSTLE, fill_uniforms

_FINEST_MINUTES = 30  # clocks change by whole half-hours


@dataclass(frozen=True)
class DatedFactor:
    """Something is multiplied by `factor` in the ticks [from_tick, to_tick)."""

    from_tick: int
    to_tick: int
    factor: float

    @property
    def ticks(self) -> slice:
        """The ticks of the run in which it holds."""
        return slice(max(self.from_tick, 0), max(self.to_tick, 0))


@dataclass(frozen=True)
class TrafficChange(DatedFactor):
    """A market's expected traffic is multiplied by `factor` for a time: 0 is an outage, 0.4 a loss of 60 %."""

    def __post_init__(self) -> None:
        if not 0 <= self.factor < math.inf:
            raise ValueError(f"traffic factor (={self.factor}) must be >= 0 and finite: 0.4 leaves 40 % of the traffic")


@dataclass(frozen=True)
class Traffic:
    """A market's traffic: its volume, the curve it follows, and how much single ticks stray from it.

    The curve is a cosine over the day or, where `week` is given, a level for every local hour of the week.

    Parameters
    ----------
    opportunities_per_tick:
        Mean number of auctions a tick, over the curve's day or week.
    amplitude:
        Relative height of the daily peak above that mean, in [0, 1].
    peak_hour:
        Local hour of the daily peak, in [0, 24).
    week:
        168 levels on any scale, those of Monday from 00:00 to 01:00 first; empty for a daily curve.
    dispersion:
        d >= 0: a tick's auctions have the variance mean + d · mean². Counts are negative binomial, as a Poisson whose
        mean is gamma-distributed is (Greenwood and Yule, Journal of the Royal Statistical Society 83, 1920); 0 leaves
        them Poisson. Ticks stray independently of each other.
    changes:
        Dated changes of the expected traffic; where several overlap their factors multiply.
    """

    opportunities_per_tick: float
    amplitude: float = 0.0
    peak_hour: float = 0.0
    week: tuple[float, ...] = ()
    dispersion: float = 0.0
    changes: tuple[TrafficChange, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.opportunities_per_tick <= 1e9:
            raise ValueError(f"opportunities_per_tick (={self.opportunities_per_tick}) must be in [0, 1000000000]")
        if not 0 <= self.amplitude <= 1:
            raise ValueError(f"amplitude (={self.amplitude}) must be in [0, 1]: it is relative to the mean")
        if not 0 <= self.dispersion < math.inf:
            raise ValueError(f"dispersion (={self.dispersion}) must be >= 0 and finite: 0 leaves counts Poisson")
        if self.week:
            self._check_week()

    def _check_week(self) -> None:
        if len(self.week) != WEEK_HOURS:
            raise ValueError(f"week (of {len(self.week)} numbers) must be of {WEEK_HOURS}, one for every hour")
        if not all(0 <= level < math.inf for level in self.week) or not any(self.week):
            raise ValueError("week must hold finite numbers >= 0, and one > 0: hours without traffic alone are no week")
        if self.amplitude:
            raise ValueError(f"amplitude (={self.amplitude}) must be 0 beside week, which has every hour's level")


class Curves:
    """The traffic of m markets over a run as columns.

    Parameters
    ----------
    traffic:
        Of each market.
    grid:
        The run's calendar; the curves follow its local time, days of 23 and 25 hours included.
    """

    def __init__(self, traffic: Sequence[Traffic], grid: TickGrid) -> None:
        self._dispersion = np.array([one.dispersion for one in traffic], dtype=np.float64)
        hours = _hours_of_week(grid) if any(one.week for one in traffic) else None
        shapes = [_daily(one, grid) if hours is None or not one.week else _weekly(one, hours) for one in traffic]
        self.shape: Float64 = np.stack(shapes, axis=1) if shapes else np.empty((grid.ticks, 0))
        """The curves, 1 on average over a day or week, as if nothing changed the traffic; float64[ticks, m]."""
        self._mean: Float64 = np.array([one.opportunities_per_tick for one in traffic], dtype=np.float64) * self.shape
        for place, one in enumerate(traffic):
            for change in one.changes:
                self._mean[change.ticks, place] *= change.factor

    def mean(self, from_tick: int, to_tick: int) -> Float64:
        """Expected auctions of the ticks [from_tick, to_tick); float64[ticks, m]."""
        return self._mean[from_tick:to_tick]

    def arrivals(self, keys: NDArray[Any], from_tick: int, to_tick: int) -> Int64:
        """The auctions of the ticks [from_tick, to_tick) of the markets with these keys; int64[ticks, m]."""
        mean = self.mean(from_tick, to_tick)
        uniforms = np.empty(mean.shape)
        lively = np.flatnonzero(self._dispersion)
        if lively.size:
            strays = np.empty((len(mean), lively.size))
            fill_uniforms(strays, keys[lively], from_tick, BUSTLE)
            mean = mean.copy()
            mean[:, lively] *= bustle(strays, self._dispersion[lively])
        fill_uniforms(uniforms, keys, from_tick, ARRIVALS)
        return poisson(uniforms, mean)


def _daily(traffic: Traffic, grid: TickGrid) -> Float64:
    """The cosine at the local time of mid-tick; float64[ticks]."""
    hour = grid.hour + grid.tick_minutes / 120
    curve: Float64 = 1 + traffic.amplitude * np.cos(2 * np.pi * (hour - traffic.peak_hour) / 24)
    return curve


def _weekly(traffic: Traffic, hours: Int64) -> Float64:
    """Each hour's level, 1 on average over the week, for ticks inside it; a tick over several has their mean."""
    levels = np.array(traffic.week, dtype=np.float64) / max(traffic.week)
    levels /= levels.mean()
    mean: Float64 = levels[hours].mean(axis=1)
    return mean


@lru_cache(maxsize=8)  # every trial of a change makes a world anew, of one and the same calendar
def _hours_of_week(grid: TickGrid) -> Int64:
    """The hours of the week in which the equal parts of every tick lie, none of which is in two; [ticks, parts]."""
    step = math.gcd(grid.tick_minutes, _FINEST_MINUTES)
    parts = grid.tick_minutes // step
    return TickGrid(grid.start, step, grid.ticks * parts, grid.zone).hour_of_week.reshape(grid.ticks, parts)


def bustle(uniforms: Float64, dispersion: Float64) -> Float64:
    """What multiplies a tick's mean: the gamma quantile of the uniform, of mean 1 and the dispersion as variance."""
    factor: Float64 = gammaincinv(1 / dispersion, uniforms) * dispersion
    return factor


def poisson(uniforms: Float64, means: Float64) -> Int64:
    """The least count whose Poisson distribution function reaches the uniform: one draw per element.

    A Cornish-Fisher guess is a step or two away, and the distribution function itself settles it: up from a guess that
    falls short, else down.
    """
    busy = means > 0
    target, mean = uniforms[busy], means[busy]
    z = ndtri(target)
    guess = np.maximum(np.floor(mean + np.sqrt(mean) * z + (z * z - 1) / 6), 0)
    count = guess.copy()
    for step in (1.0, -1.0):
        moving = np.flatnonzero(count == guess)
        while moving.size:
            here = count[moving] if step > 0 else count[moving] - 1
            reached = pdtr(here, mean[moving]) >= target[moving]  # not a number, so not reached, below zero
            moving = moving[reached != (step > 0)]
            count[moving] += step
    counts = np.zeros(uniforms.shape, dtype=np.int64)
    counts[busy] = count
    return counts
