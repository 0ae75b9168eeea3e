"""The classic policies: a constant bid, pacing controllers, and daily budgets that follow the return.

All work on columns, one row a campaign, keep their memory in arrays they never change in place, and leave judging to
the guard. They aim within the step law and the anchor band, since a wish beyond either would be refused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from agents.horizon import EVEN, Curves, Horizon
from agents.targets import NO_TARGET, TargetMicros, Won, aims
from engine.actions import Knob, Proposals, Source, nearest_step, no_proposals, proposals
from engine.campaigns import CampaignSet, most_bid
from engine.events import BIDS, COUNTS, IMPRESSIONS, OPPORTUNITIES, REVENUE, SPEND
from engine.policy import View
from engine.units import Float64, Int64, TickGrid, floor_micros

Band = tuple[float, float]
WHOLE_BAND: Band = (1 / 3, 3.0)
_LITTLE = 1e-3


@dataclass(frozen=True)
class Gains:
    """How strongly a pacing controller answers.

    proportional:
        Change of log bid per unit of log (wanted / actual) spend of the last ticks; 1 would undo the error at once if
        spend were proportional to the bid.
    integral:
        Change of log bid per unit of budget share by which spend is behind (+) or ahead (−) of its plan.
    """

    proportional: float = 0.3
    integral: float = 0.3


class Bounds(NamedTuple):
    """Hard bounds of n campaigns' bids."""

    minimum: Int64  # micros, at least 1
    maximum: Int64
    audience_start: Int64  # `Layout`: whose modifiers must not take a bid above its maximum

    @classmethod
    def of(cls, campaigns: CampaignSet) -> Bounds:
        """Those that the campaigns begin with."""
        return cls(np.maximum(campaigns.min_bid, 1), campaigns.max_bid, campaigns.layout.audience_start)


def bids_in_reach(view: View, wanted: ArrayLike, band: Band, bounds: Bounds) -> Int64:
    """Wanted bids, rounded down, as near as step law, anchor band, hard bounds and budget let each of them go."""
    low, high = (view.controls.anchor[:, Knob.BID] * side for side in band)
    low = np.maximum(np.ceil(low), bounds.minimum)
    most = most_bid(bounds.audience_start, view.controls.modifiers, bounds.maximum)
    high = np.minimum(np.floor(high), np.minimum(most, view.controls.budget))
    return nearest_step(view.controls.bid, np.clip(floor_micros(wanted), low, np.maximum(low, high)))


def rows_of_bids(view: View, wanted: Int64, note: str) -> Proposals:
    """Proposals of the bids that would change, of campaigns that saw traffic and had money to enter an auction.

    A campaign that traffic reached and that entered no auction has no money left to bid with: its bid rests, or it
    would rise all night for want of spend and throw the next day's budget away.
    """
    traffic = view.recent[:, OPPORTUNITIES] + view.recent[:, IMPRESSIONS] > 0  # interval logs tell only the latter
    kept_out = (view.recent[:, OPPORTUNITIES] > 0) & (view.recent[:, BIDS] == 0)
    rows = np.flatnonzero((wanted != view.controls.bid) & traffic & ~kept_out & ~view.controls.paused)
    if not rows.size:
        return no_proposals()
    versions = view.controls.version[rows, Knob.BID]
    return proposals(rows, Knob.BID, wanted[rows], versions, Source.POLICY, note)


class Constant:
    """Never proposes anything: what the controls were is what they stay."""

    def start(self, campaigns: CampaignSet, grid: TickGrid) -> None:  # noqa: ARG002 - the protocol's signature
        """Nothing to remember."""
        return None  # noqa: RET501 - the protocol's memory

    def propose(self, view: View, memory: None) -> tuple[Proposals, None]:  # noqa: ARG002 - the protocol's signature
        """No rows."""
        return no_proposals(), memory


class Pace(NamedTuple):
    """What a policy remembers that spends along a plan; what it won, and the tick of its last view, change."""

    horizon: Horizon
    bounds: Bounds
    won: Won
    seen: int = -1

    @classmethod
    def of(cls, campaigns: CampaignSet, grid: TickGrid, curve: Curves, target: TargetMicros) -> Pace:
        """The plan laid out over the run's ticks."""
        return cls(Horizon.of(campaigns, grid, curve), Bounds.of(campaigns), Won.nothing(target, len(campaigns)))


@dataclass(frozen=True)
class PacingPI:
    """Paces spend along an expected traffic curve by a proportional–integral controller on the log bid.

    A flat curve spends evenly in time, the market's own curve is traffic-aware. In velocity form: Δ log bid = P ·
    log(wanted / actual spend per traffic of the last ticks) + I · (planned − actual share of the budget), where the
    wanted spend is what is left of the budget over what is left of the period's traffic. Zhang et al. (WSDM 2016,
    section 3) control eCPC in the same way; here spend is controlled. With a target of cost per value a second
    controller of this form follows log (target / average cost), and the lower of the two changes is made.

    Example
    -------
    >>> even, aware = PacingPI(), PacingPI(curve=Curve(amplitude=0.6, peak_hour=20))
    """

    gains: Gains = Gains()
    curve: Curves = EVEN
    band: Band = WHOLE_BAND
    target_gains: Gains = Gains()
    target_micros: TargetMicros = NO_TARGET

    @property
    def looks_at_prices(self) -> bool:
        """Whether it has to know what it won: where there is a target."""
        return aims(self.target_micros)

    def aiming_at(self, target: Float64) -> PacingPI:
        """The same with a target of its own for every campaign; float64[n], micros per unit of value."""
        return replace(self, target_micros=tuple(target.tolist()))

    def start(self, campaigns: CampaignSet, grid: TickGrid) -> Pace:
        """Lay the plan out over the run's ticks."""
        return Pace.of(campaigns, grid, self.curve, self.target_micros)

    def propose(self, view: View, memory: Pace) -> tuple[Proposals, Pace]:
        """One bid per campaign that saw traffic, unless it would stay as it is."""
        won = memory.won.learn(view, memory.horizon)
        change = self._change(view, memory)
        if self.looks_at_prices:
            change = np.minimum(change, self._targets_change(view, memory.horizon, won))
        aim = view.controls.bid * np.exp(np.clip(change, -0.25, 0.25))
        wanted = bids_in_reach(view, aim, self.band, memory.bounds)
        return rows_of_bids(view, wanted, "pacing"), memory._replace(won=won, seen=view.tick)

    def _change(self, view: View, pace: Pace) -> Float64:
        """Change of the log bid; where a period has just closed, the next one's plan starts without a debt."""
        tick, budget = view.tick, np.maximum(view.controls.budget, 1)
        done = 1.0 - pace.horizon.left(tick)
        spent = np.where(pace.horizon.closed(tick), 0.0, view.period[:, SPEND] / budget)
        traffic = pace.horizon.gone(tick) - (pace.horizon.gone(pace.seen) if pace.seen >= 0 else 0.0)
        wanted = np.maximum(1 - spent, 0) / np.maximum(1 - done, _LITTLE)
        actual = view.recent[:, SPEND] / budget / np.maximum(traffic, _LITTLE)
        error = np.log(np.maximum(wanted, _LITTLE) / np.maximum(actual, _LITTLE))
        change: Float64 = self.gains.proportional * np.clip(error, -1, 1) + self.gains.integral * (done - spent)
        return change

    def _targets_change(self, view: View, horizon: Horizon, won: Won) -> Float64:
        """Change of the log bid that the target allows: proportional to the last ticks' room, and to the period's."""
        lately, period = (np.clip(room, -1, 1) for room in won.room(view, horizon))
        change: Float64 = self.target_gains.proportional * lately + self.target_gains.integral * period
        return change


class _Account(NamedTuple):
    """The daily budgets' knowledge: the day they are in, and what had been counted when it began."""

    grid: TickGrid
    minimum: Int64
    maximum: Int64
    day: int
    before: Int64


@dataclass(frozen=True)
class DailyBudgets:
    """Once a day, at local midnight, moves budgets towards the campaigns whose revenue per unit of spend is higher.

    Where midnight is no decision boundary, the first one after it serves.

    A campaign's share of the budgets is tilted by its return of the closing day against the account's, by at most
    `max_change`; rises are scaled so that they never exceed the falls, so the sum of the budgets does not grow.
    """

    max_change: float = 0.2
    band: Band = WHOLE_BAND

    def start(self, campaigns: CampaignSet, grid: TickGrid) -> _Account:
        """Remember the calendar and the bounds."""
        nothing = np.zeros((len(campaigns), len(COUNTS)), dtype=np.int64)
        return _Account(grid, campaigns.min_budget, campaigns.max_budget, int(grid.day[0]), nothing)

    def propose(self, view: View, memory: _Account) -> tuple[Proposals, _Account]:
        """One budget per campaign that moves; nothing on the other ticks of the day."""
        tomorrow = int(memory.grid.day[min(view.tick + 1, memory.grid.ticks - 1)])
        run_ends = view.tick == memory.grid.ticks - 1
        if tomorrow == memory.day and not run_ends:
            return no_proposals(), memory
        budget = view.controls.budget
        tilt: Float64 = budget * self._tilt(view, view.lifetime - memory.before)
        memory = memory._replace(day=tomorrow, before=view.lifetime)
        fallen = self._within(view, memory, np.minimum(tilt, 0.0) + budget)
        rises, room = np.maximum(tilt, 0), int((budget - fallen).sum())  # what the falls give, bounds and band included
        scale = min(1.0, max(room, 0) / rises.sum()) if rises.any() else 0.0
        wanted = np.where(tilt > 0, self._within(view, memory, budget + rises * scale), fallen)
        rows = np.flatnonzero((wanted != budget) & ~view.controls.paused)
        versions = view.controls.version[rows, Knob.BUDGET]
        return proposals(rows, Knob.BUDGET, wanted[rows], versions, Source.POLICY, "return"), memory

    def _tilt(self, view: View, counts: Int64) -> Float64:
        """The part of each budget by which its return of the closing day would move it, up or down."""
        spend, revenue = counts[:, SPEND], counts[:, REVENUE]
        known = (spend > 0) & ~view.controls.paused
        account = revenue.sum() / max(int(spend.sum()), 1)
        tilt = np.zeros(len(spend))
        if account > 0:
            tilt[known] = np.clip(revenue[known] / spend[known] / account - 1, -1, 1) * self.max_change
        return tilt

    def _within(self, view: View, account: _Account, wanted: Float64) -> Int64:
        low, high = (view.controls.anchor[:, Knob.BUDGET] * side for side in self.band)
        low = np.maximum(np.ceil(low), np.maximum(account.minimum, view.controls.bid))
        high = np.minimum(np.floor(high), account.maximum)
        return nearest_step(view.controls.budget, np.clip(floor_micros(wanted), low, np.maximum(low, high)))
