"""The campaigns' machine: the only writer of their controls and counters."""

from __future__ import annotations

from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from engine.actions import Approved, Result
from engine.campaigns import CampaignSet, ControlState, Period, apply
from engine.events import TickCounts
from engine.messages import Advanced, Answered, Apply, CampaignInstruction, CampaignMessage, Publish, Published
from engine.metrics import Tally
from engine.policy import View
from engine.units import Int64, TickGrid


class CampaignMachine:
    """Holds n campaigns: applies what the guard approved, counts what the world emitted, publishes what is known.

    Parameters
    ----------
    campaigns:
        The campaigns of this machine, a selection of the run's.
    members:
        int64[n], their ascending positions in the run's set, by which approved rows name them.
    controls:
        The controls they start with.
    factual:
        Outcomes are as logged whatever the controls say: approved rows are answered as recorded and not applied.
    """

    def __init__(
        self, campaigns: CampaignSet, members: Int64, controls: ControlState, grid: TickGrid, *, factual: bool
    ) -> None:
        self._campaigns = campaigns
        self._members = members
        self._controls = controls
        self._grid = grid
        self._factual = factual
        self._next_tick = 0
        self._day = 0
        self._recent = self._period = self._lifetime = Tally.zero(len(campaigns))
        self._answer = Answered(-1, np.empty(0, dtype=np.uint8))

    @property
    def controls(self) -> ControlState:
        """The controls in force; they are replaced, never changed in place."""
        return self._controls

    @property
    def lifetime(self) -> Tally:
        """Everything counted since the run began."""
        return self._lifetime

    def handle(self, message: CampaignMessage) -> list[CampaignInstruction]:
        """Take one message; the same message delivered again has no further effect."""
        match message:
            case Advanced(counts):
                self._count(counts)
                return []
            case Apply(approved):
                return [self._apply(approved)]
            case Publish(tick):
                return [Published(self._publish(tick))]
            case _:
                assert_never(message)

    def _count(self, counts: TickCounts) -> None:
        end = counts.first_tick + counts.ticks
        if end <= self._next_tick:
            return
        if counts.first_tick != self._next_tick:
            raise ValueError(f"ticks [{counts.first_tick}, {end}) arrived where tick {self._next_tick} was due")
        by_campaign = counts.of_campaigns(self._campaigns.cell_start)
        total = by_campaign.sum(axis=0)
        self._recent = self._recent.update(total)
        self._lifetime = self._lifetime.update(total)
        self._period = self._in_period(by_campaign, total, end)
        self._next_tick = end

    def _in_period(self, by_campaign: Int64, total: Int64, end: int) -> Tally:
        """Counts of the budget period that holds the last of the new ticks: the local day, or the flight."""
        days = self._grid.day[self._next_tick : end]
        last = int(days[-1])
        if last == self._day:
            return self._period.update(total)
        self._day = last
        today = by_campaign[days == last].sum(axis=0)
        daily = (self._campaigns.period == Period.DAY)[:, np.newaxis]
        return Tally(np.where(daily, today, self._lifetime.get()))

    def _apply(self, approved: Approved) -> Answered:
        rows = approved.of(self._members)
        if not len(rows):
            return Answered(-1, np.empty(0, dtype=np.uint8))
        if rows.rows.round == self._answer.round:
            return self._answer
        if rows.rows.round < self._answer.round:
            raise ValueError(f"round {rows.rows.round} arrived after round {self._answer.round} was applied")
        self._answer = Answered(rows.rows.round, self._results(rows))
        return self._answer

    def _results(self, approved: Approved) -> NDArray[Any]:
        if self._factual:
            return np.full(len(approved), Result.RECORDED, dtype=np.uint8)
        self._controls, results = apply(self._campaigns.cell_start, self._controls, approved)
        return results

    def _publish(self, tick: int) -> View:
        if tick != self._next_tick - 1:
            raise ValueError(f"a view at tick {tick} was asked for, and tick {self._next_tick - 1} closed last")
        view = View(tick, self._controls, self._recent.get(), self._period.get(), self._lifetime.get())
        self._recent = Tally.zero(len(self._campaigns))
        return view
