"""What every campaign had of late, by the time of day: the history that a watched change is held against.

Counts are kept per slot of two hours over the current week and the two before, since the last change that was nobody's
daily business: a past of two weeks, once there is one. That is 36 rows of six integers a campaign, however long a run
is. A `Book` is replaced, never changed in place.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from engine.events import CLICKS, CONVERSIONS, OPPORTUNITIES, REVENUE, SPEND
from engine.units import Bool, Int64

SLOTS = 12
"""Blocks in a day, two hours each."""

WEEKS = 3
"""The week under way, and two whole ones before it."""

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

    weeks:
        int64[n, 6] per slot, this week's sums, then those of the weeks before it.
    peak:
        int64[n, WEEKS], the greatest spend per tick of a span in each of these weeks, micros.
    touched_at:
        int64[n], the last tick at whose close a campaign was changed outside mandates; −1 where only the run began.
    moved_at:
        int64[n], the last tick at whose close anything of it moved at all, mandate or not; −1 likewise.
    turned_at:
        The tick at which this week began.
    """

    weeks: tuple[tuple[Int64, ...], ...]
    peak: Int64
    touched_at: Int64
    moved_at: Int64
    turned_at: int

    @classmethod
    def initial(cls, campaigns: int) -> Self:
        """Nothing was seen yet."""
        empty = (np.zeros((campaigns, TICKS + 1), dtype=np.int64),) * SLOTS
        peak, never = np.zeros((campaigns, WEEKS), dtype=np.int64), np.full(campaigns, -1, dtype=np.int64)
        return cls((empty,) * WEEKS, peak, never, never, 0)

    def moved(self, tick: int, campaigns: Int64) -> Self:
        """After a decision at the close of a tick that moved campaigns, whoever took it."""
        moved_at = self.moved_at.copy()
        moved_at[campaigns] = tick
        return replace(self, moved_at=moved_at)

    def touched(self, tick: int, campaigns: Int64) -> Self:
        """Without the past of campaigns that a decision at the close of a tick changed: it was another campaign's."""
        if not campaigns.size:
            return self
        weeks = tuple(tuple(_without(slot, campaigns) for slot in week) for week in self.weeks)
        touched_at = self.touched_at.copy()
        touched_at[campaigns] = tick
        return replace(self, weeks=weeks, peak=_without(self.peak, campaigns), touched_at=touched_at)

    def seen(self, tick: int, slot: int, rows: Int64, horizon: int, week: int) -> Self:
        """With what a span brought that closed with a tick, of those whose last change is a delay horizon away."""
        turned = self
        if tick - self.turned_at >= week:
            empty = (np.zeros_like(rows),) * SLOTS
            peak = np.concatenate([np.zeros((len(rows), 1), dtype=np.int64), self.peak[:, :-1]], axis=1)
            turned = replace(self, weeks=(empty, *self.weeks[:-1]), peak=peak, turned_at=tick)
        settled = tick - rows[:, TICKS] >= turned.touched_at + horizon
        rows = rows * settled[:, np.newaxis]
        sums = list(turned.weeks[0])
        sums[slot] = sums[slot] + rows
        peak = turned.peak.copy()
        np.maximum(peak[:, 0], rows[:, SPENT] // np.maximum(rows[:, TICKS], 1), out=peak[:, 0])
        return replace(turned, weeks=(tuple(sums), *turned.weeks[1:]), peak=peak)

    def of(self, members: Int64) -> Int64:
        """All weeks of some campaigns: int64[SLOTS, members, 6]."""
        past: Int64 = np.stack([sum(week[members] for week in slot) for slot in zip(*self.weeks, strict=True)])
        return past

    def total(self) -> Int64:
        """All slots of all weeks: int64[n, 6]."""
        total = np.zeros_like(self.weeks[0][0])
        for week in self.weeks:
            for slot in week:
                total += slot
        return total

    @staticmethod
    def siblings(total: Int64, market: Int64, own: int, fit: Bool, fewest: int, most: int) -> Int64:
        """Whom to compare campaigns of a market with, ascending: its own that fit, or all that do if those are too few.

        They have a past with conversions (`total`, of all campaigns); of many, those with the most opportunities.
        """
        fit = fit & (total[:, CONVERTED] > 0)
        near = fit & (market == own)
        chosen = np.flatnonzero(near if total[near, CONVERTED].sum() >= fewest else fit)
        largest = chosen[np.argsort(-total[chosen, SEEN], kind="stable")[:most]]
        return np.sort(largest)


def _without(rows: Int64, campaigns: Int64) -> Int64:
    rows = rows.copy()
    rows[campaigns] = 0
    return rows
