"""What is still to come of a budget's period: the share of its traffic, along a curve that is known beforehand."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np

from engine.campaigns import CampaignSet, Period
from engine.units import Bool, Float64, Int64, TickGrid


@dataclass(frozen=True)
class Curve:
    """Expected traffic over a local day: 1 + amplitude · cos(2π (hour − peak_hour) / 24), or levels of its equal parts.

    Parameters
    ----------
    amplitude, peak_hour:
        Of the cosine; amplitude 0 is even in time.
    levels:
        Of equal parts of the day on any scale, from local midnight on; empty: the cosine.
    week:
        Of the hours of the week, from Monday's first on, in place of both; empty: every day is alike.
    """

    amplitude: float = 0.0
    peak_hour: float = 20.0
    levels: tuple[float, ...] = ()
    week: tuple[float, ...] = ()

    def at(self, grid: TickGrid) -> Float64:
        """Expected traffic of every tick on some scale; float64[ticks]."""
        if self.week:
            return np.array(self.week, dtype=np.float64)[grid.hour_of_week]
        middle = grid.hour + grid.tick_minutes / 120
        if not self.levels:
            cosine: Float64 = 1 + self.amplitude * np.cos(2 * np.pi * (middle - self.peak_hour) / 24)
            return cosine
        part = np.floor(middle * len(self.levels) / 24).astype(np.int64) % len(self.levels)
        return np.array(self.levels, dtype=np.float64)[part]


_LITTLE = 1e-9
EVEN = Curve()
"""Traffic that is the same at every hour."""


Curves: TypeAlias = Curve | tuple[Curve, ...]
"""One curve for all campaigns, or one for each."""


def expected_traffic(grid: TickGrid, curve: Curve) -> Float64:
    """Traffic gone at each tick's close, in periods of which each has 1, by day and by flight; shape [2, ticks]."""
    level = curve.at(grid)
    by_day = level / np.bincount(grid.day, weights=level)[grid.day]
    by_flight = level / level.sum()
    traffic: Float64 = np.cumsum([by_day, by_flight], axis=1)
    return traffic


class Horizon(NamedTuple):
    """Periods of n campaigns over a run's ticks.

    `done` is the expected share of the period's traffic gone at each tick's close, `traffic` its running sum over
    periods; both float64[rows, ticks], for every curve by day and by flight.
    """

    done: Float64
    traffic: Float64
    closes: Bool  # whether a period closes with each tick, [2, ticks], by day and by flight
    period: Int64  # row of `closes` that a campaign follows
    row: Int64  # row of `done` and of `traffic` that a campaign follows

    @classmethod
    def of(cls, campaigns: CampaignSet, grid: TickGrid, curves: Curves) -> Horizon:
        """Lay the periods out over the run's ticks."""
        each = (curves,) * len(campaigns) if isinstance(curves, Curve) else curves
        known = {curve: place for place, curve in enumerate(dict.fromkeys(each))}
        traffic = np.concatenate([np.empty((0, grid.ticks)), *(expected_traffic(grid, curve) for curve in known)])
        last = np.arange(grid.ticks) == grid.ticks - 1
        period = np.where(campaigns.period == Period.DAY, 0, 1)
        return cls(
            done=traffic - np.tile([grid.day, np.zeros(grid.ticks)], (len(known), 1)),
            traffic=traffic,
            closes=np.stack([grid.closes_day, last]),
            period=period,
            row=2 * np.array([known[curve] for curve in each], dtype=np.int64) + period,
        )

    def closed(self, tick: int) -> Bool:
        """Whether each campaign's period closes with this tick, so that the next decision is the next one's."""
        closed: Bool = self.closes[self.period, tick]
        return closed

    def left(self, tick: int) -> Float64:
        """Share of the period's traffic to come after this tick; where the period closes with it, all of the next's."""
        left: Float64 = np.where(self.closed(tick), 1.0, 1.0 - self.done[self.row, tick])
        return left

    def ticks_left(self, tick: int) -> Float64:
        """Share of the period's ticks to come after this one, likewise; float64[n]."""
        shares = np.ones(len(self.closes))
        for kind, closes in enumerate(self.closes):
            ends = np.flatnonzero(closes)
            following, opened = ends[ends > tick], ends[ends <= tick]
            last = following[0] if following.size else tick  # of the run: nothing comes
            first = opened[-1] + 1 if opened.size else 0
            shares[kind] = (last - tick) / max(last + 1 - first, 1)
        left: Float64 = shares[self.period]
        return left

    def gone(self, tick: int) -> Float64:
        """Traffic since the run began, in periods' worth."""
        gone: Float64 = self.traffic[self.row, tick]
        return gone

    def coming(self, tick: int, seen: Int64, hoped: float, weight: float) -> Float64:
        """Opportunities that are still expected in the period, or in the next where it just closed; float64[n], > 0.

        `seen` (int64[n]) were counted since the run began. A period was expected to hold `hoped` of them before any was
        seen, a belief that counts for `weight` periods' worth of seeing; 0 hoped: nothing is believed.
        """
        trust = weight if hoped else 0.0
        rate = (seen + trust * hoped) / np.maximum(self.gone(tick) + trust, _LITTLE)
        coming: Float64 = np.maximum(rate * self.left(tick), _LITTLE)
        return coming
