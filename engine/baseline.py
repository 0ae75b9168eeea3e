"""What every campaign had of late, by the time of day: the history that a watched change is held against.

Counts are kept per slot of two hours over the current week and the one before, since the last change that was nobody's
daily business. That is 24 rows of six integers a campaign, however long a run is. A `Book` is replaced, never changed
in place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from engine.events import CLICKS, CONVERSIONS, OPPORTUNITIES, REVENUE, SPEND
from engine.units import Int64

SLOTS = 12
"""Blocks in a day, two hours each."""

WEEK_DAYS = 7

SEEN, CLICKED, CONVERTED, SPENT, EARNED, TICKS = range(6)
"""Columns of the book: opportunities, clicks, conversions, spend and revenue in micros, and ticks counted."""

_KEPT = (OPPORTUNITIES, CLICKS, CONVERSIONS, SPEND, REVENUE)


def kept(counts: Int64, ticks: int) -> Int64:
    """The book's columns of a view's counts over so many ticks; int64[n, 6]."""
    columns = np.empty((len(counts), len(_KEPT) + 1), dtype=np.int64)
    columns[:, :TICKS] = counts[:, _KEPT]
    columns[:, TICKS] = ticks
    return columns


@dataclass(frozen=True)
class Book:
    """The recent past of n campaigns.

    newer, older:
        int64[n, 6] per slot, this week's sums and those of the week before.
    peak:
        int64[n, 2], the greatest spend per tick of a span in either week, micros.
    touched_at:
        int64[n], the last tick at whose close a campaign was changed outside mandates; −1 where only the run began.
    turned_at:
        The tick at which this week began.
    """

    newer: tuple[Int64, ...]
    older: tuple[Int64, ...]
    peak: Int64
    touched_at: Int64
    turned_at: int

    @classmethod
    def initial(cls, campaigns: int) -> Self:
        """Nothing was seen yet."""
        empty = (np.zeros((campaigns, TICKS + 1), dtype=np.int64),) * SLOTS
        peak, never = np.zeros((campaigns, 2), dtype=np.int64), np.full(campaigns, -1, dtype=np.int64)
        return cls(empty, empty, peak, never, 0)

    def touched(self, tick: int, campaigns: Int64) -> Self:
        """Without the past of campaigns that a decision at the close of a tick changed: it was another campaign's."""
        if not campaigns.size:
            return self
        newer, older = (tuple(_without(slot, campaigns) for slot in week) for week in (self.newer, self.older))
        touched_at = self.touched_at.copy()
        touched_at[campaigns] = tick
        return replace(self, newer=newer, older=older, peak=_without(self.peak, campaigns), touched_at=touched_at)

    def seen(self, tick: int, slot: int, rows: Int64, horizon: int, week: int) -> Self:
        """With what a span brought that closed with a tick, of those whose last change is a delay horizon away."""
        turned = self
        if tick - self.turned_at >= week:
            empty = (np.zeros_like(rows),) * SLOTS
            peak = np.stack([np.zeros(len(rows), dtype=np.int64), self.peak[:, 0]], axis=1)
            turned = replace(self, newer=empty, older=self.newer, peak=peak, turned_at=tick)
        settled = tick - rows[:, TICKS] >= turned.touched_at + horizon
        rows = rows * settled[:, np.newaxis]
        sums = list(turned.newer)
        sums[slot] = sums[slot] + rows
        peak = turned.peak.copy()
        np.maximum(peak[:, 0], rows[:, SPENT] // np.maximum(rows[:, TICKS], 1), out=peak[:, 0])
        return replace(turned, newer=tuple(sums), peak=peak)

    def of(self, members: Int64) -> Int64:
        """Both weeks of some campaigns: int64[SLOTS, members, 6]."""
        pairs = zip(self.newer, self.older, strict=True)
        return np.stack([newer[members] + older[members] for newer, older in pairs])

    def total(self) -> Int64:
        """All slots of both weeks: int64[n, 6]."""
        total: Int64 = np.stack([*self.newer, *self.older]).sum(axis=0)
        return total

    def siblings(self, campaign: int, market: Int64, fewest: int, most: int) -> Int64:
        """Whom to compare a campaign with, ascending: of its market, or of the account if those are too few.

        They have a past with conversions; of many, those with the most opportunities.
        """
        total = self.total()
        fit = total[:, CONVERTED] > 0
        fit[campaign] = False
        near = fit & (market == market[campaign])
        chosen = np.flatnonzero(near if total[near, CONVERTED].sum() >= fewest else fit)
        largest = chosen[np.argsort(-total[chosen, SEEN], kind="stable")[:most]]
        return np.sort(largest)


def _without(rows: Int64, campaigns: Int64) -> Int64:
    rows = rows.copy()
    rows[campaigns] = 0
    return rows
