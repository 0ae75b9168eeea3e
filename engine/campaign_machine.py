"""The campaigns' machine: the only writer of their controls and counters."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Self, assert_never

import numpy as np
from numpy.typing import NDArray

from engine.actions import Approved, Result
from engine.campaigns import CampaignSet, ControlState, Period, apply
from engine.events import TickCounts
from engine.messages import Advanced, Answered, Apply, CampaignInstruction, CampaignMessage, Publish, Published
from engine.metrics import Tally
from engine.policy import View
from engine.prices import Prices
from engine.units import Int64, TickGrid


@dataclass(frozen=True)
class CampaignState:
    """Everything a `CampaignMachine` knows between two messages; with it a machine goes on where another stopped.

    `creatives` and `audiences` are counts since the last view of `CampaignSet.rotating` and `CampaignSet.told_apart`;
    None where there is none of those. `prices` are the wins since the last view by their price; None where none were
    ever told.
    """

    controls: ControlState
    next_tick: int
    day: int
    recent: Tally
    period: Tally
    lifetime: Tally
    answer: Answered
    creatives: Int64 | None = None
    audiences: Int64 | None = None
    prices: Prices | None = None

    @classmethod
    def initial(cls, controls: ControlState) -> Self:
        """Before the first message."""
        zero = Tally.zero(len(controls.paused))
        return cls(controls, 0, 0, zero, zero, zero, Answered(-1, np.empty(0, dtype=np.uint8)))


class CampaignMachine:
    """Holds n campaigns: applies what the guard approved, counts what the world emitted, publishes what is known.

    Parameters
    ----------
    campaigns:
        The campaigns of this machine, a selection of the run's.
    members:
        int64[n], their ascending positions in the run's set, by which approved rows name them.
    state:
        Where they start, or where another machine left them.
    factual:
        Outcomes are as logged whatever the controls say: approved rows are answered as recorded and not applied.
    """

    def __init__(
        self, campaigns: CampaignSet, members: Int64, state: CampaignState, grid: TickGrid, *, factual: bool
    ) -> None:
        self._campaigns = campaigns
        self._members = members
        self._state = state
        self._grid = grid
        self._factual = factual

    @property
    def state(self) -> CampaignState:
        """What it knows now; it is replaced, never changed in place."""
        return self._state

    def handle(self, message: CampaignMessage) -> list[CampaignInstruction]:
        """Take one message; the same message delivered again has no further effect."""
        match message:
            case Advanced(counts, prices):
                self._count(counts, prices)
                return []
            case Apply(approved):
                return [self._apply(approved)]
            case Publish(tick):
                return [Published(self._publish(tick))]
            case _:
                assert_never(message)

    def _count(self, counts: TickCounts, prices: Prices | None) -> None:
        state, end = self._state, counts.first_tick + counts.ticks
        if end <= state.next_tick:
            return
        if counts.first_tick != state.next_tick:
            raise ValueError(f"ticks [{counts.first_tick}, {end}) arrived where tick {state.next_tick} was due")
        by_campaign = counts.of_campaigns(self._campaigns.cell_start)
        total = by_campaign.sum(axis=0)
        day, period = self._in_period(by_campaign, total, self._grid.day[state.next_tick : end])
        self._state = replace(
            state,
            next_tick=end,
            day=day,
            recent=state.recent.update(total),
            period=period,
            lifetime=state.lifetime.update(total),
            creatives=_added(state.creatives, counts, self._campaigns.cell_creative, self._campaigns.rotating),
            audiences=_added(state.audiences, counts, self._campaigns.cell_audience, self._campaigns.told_apart),
            prices=_together(state.prices, prices),
        )

    def _in_period(self, by_campaign: Int64, total: Int64, days: Int64) -> tuple[int, Tally]:
        """The last of the new ticks' days, and the counts of its budget period: the day, or the flight."""
        state, last = self._state, int(days[-1])
        if last == state.day:
            return last, state.period.update(total)
        today = by_campaign[days == last].sum(axis=0)
        daily = (self._campaigns.period == Period.DAY)[:, np.newaxis]
        return last, Tally(np.where(daily, today, state.lifetime.update(total).get()))

    def _apply(self, approved: Approved) -> Answered:
        rows = approved.of(self._members)
        if not len(rows):
            return Answered(-1, np.empty(0, dtype=np.uint8))
        last = self._state.answer
        if rows.rows.round == last.round:
            return last
        if rows.rows.round < last.round:
            raise ValueError(f"round {rows.rows.round} arrived after round {last.round} was applied")
        controls, results = self._in_force(rows)
        answer = Answered(rows.rows.round, results)
        self._state = replace(self._state, controls=controls, answer=answer)
        return answer

    def _in_force(self, approved: Approved) -> tuple[ControlState, NDArray[Any]]:
        if self._factual:
            return self._state.controls, np.full(len(approved), Result.RECORDED, dtype=np.uint8)
        return apply(self._campaigns.layout, self._state.controls, approved)

    def _publish(self, tick: int) -> View:
        state = self._state
        if tick != state.next_tick - 1:
            raise ValueError(f"a view at tick {tick} was asked for, and tick {state.next_tick - 1} closed last")
        self._state = replace(
            state,
            recent=Tally.zero(len(self._campaigns)),
            creatives=None,
            audiences=None,
            prices=None if state.prices is None else Prices.empty(),
        )
        counts = state.recent.get(), state.period.get(), state.lifetime.get()
        return View(tick, state.controls, *counts, state.creatives, state.audiences, state.prices)


def _added(before: Int64 | None, counts: TickCounts, part: Int64, shown: Int64) -> Int64 | None:
    """Counts since the last view of the parts that are shown, every cell being of one part; None: none is shown."""
    if not shown.size:
        return None
    by_part = np.zeros((int(part[-1]) + 1, counts.values.shape[2]), dtype=np.int64)
    np.add.at(by_part, part, counts.values.sum(axis=0))
    return by_part[shown] if before is None else before + by_part[shown]


def _together(before: Prices | None, prices: Prices | None) -> Prices | None:
    """Wins by their price since the last view, with those of a span; None as long as none were told."""
    if before is None or prices is None:
        return before if prices is None else prices
    return before.plus(prices) if len(before) else prices
