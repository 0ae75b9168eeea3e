"""LP-KM: the bid that the rest of the budget affords, by a linear programme over the market-price landscape.

With hindsight the best plan is one threshold on price per value: a fractional knapsack. Beforehand the threshold is
that at which what is expected to come costs what is left (online linear programming: Agrawal, Wang and Ye, Operations
Research 62, 2014, re-solved at every view), the landscape being estimated from wins and losses (`agents.landscape`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from agents.classic import WHOLE_BAND, Band, Bounds, bids_in_reach, rows_of_bids
from agents.horizon import EVEN, Curves, Horizon
from agents.landscape import Landscape, Prior, Target
from engine.actions import Knob, Proposals
from engine.campaigns import CampaignSet
from engine.events import OPPORTUNITIES, SPEND
from engine.policy import View
from engine.units import Float64, TickGrid

PRIOR = Prior()
GRID = 1e-6
"""Residuals on a plan are multiples of this: a millionth of a bid."""


class Knowledge(NamedTuple):
    """What LP-KM remembers; replaced at every view."""

    horizon: Horizon
    bounds: Bounds
    landscape: Landscape | None  # None before the first view
    got: Float64  # float64[n], value won since the period opened
    target: Float64  # float64[n], most cost per unit of value, micros; infinite: none
    seen: int = -1
    tick_hours: float = 1.0  # length of a tick


@dataclass(frozen=True)
class OnlineLP:
    """Bids what the rest of the period's budget affords, and no more than a target of cost per value allows.

    Parameters
    ----------
    curve:
        The traffic that is expected over a day or a week, of all campaigns or of each.
    half_life_hours:
        After so many hours an auction tells half as much of the market.
    prior:
        What is believed of a market that was not seen yet.
    expected_opportunities, expected_weight:
        How many opportunities a period is expected to hold before any was seen, and how many periods' worth of seeing
        that belief counts for; 0: nothing is believed.
    target_micros:
        The most that a unit of value may cost on average over the period, for all campaigns or for each; infinite: only
        the budget binds.
    first_price:
        Whether winners pay their own bid, in all campaigns' markets or in each one's.
    """

    curve: Curves = EVEN
    half_life_hours: float = 12.0
    prior: Prior = PRIOR
    expected_opportunities: float = 0.0
    expected_weight: float = 1.0
    band: Band = WHOLE_BAND
    target_micros: float | tuple[float, ...] = math.inf
    first_price: bool | tuple[bool, ...] = False

    looks_at_prices = True

    def aiming_at(self, target: Float64) -> OnlineLP:
        """The same with a target of its own for every campaign; float64[n], micros per unit of value."""
        return replace(self, target_micros=tuple(target.tolist()))

    def start(self, campaigns: CampaignSet, grid: TickGrid) -> Knowledge:
        """Nothing is known but the calendar."""
        n = len(campaigns)
        return Knowledge(
            horizon=Horizon.of(campaigns, grid, self.curve),
            bounds=Bounds.of(campaigns),
            landscape=None,
            got=np.zeros(n),
            target=np.broadcast_to(np.asarray(self.target_micros, dtype=np.float64), n).copy(),
            tick_hours=grid.tick_minutes / 60,
        )

    def propose(self, view: View, memory: Knowledge) -> tuple[Proposals, Knowledge]:
        """One bid per campaign that saw traffic, unless it would stay as it is."""
        memory = self.learn(view, memory)
        return self.bids(view, memory, self.wanted(view, memory), "lp_km"), memory

    def bids(self, view: View, memory: Knowledge, wanted: Float64, note: str) -> Proposals:
        """Proposals towards wanted bids, of campaigns that saw traffic and have money, as near as one step gets."""
        return rows_of_bids(view, bids_in_reach(view, wanted, self.band, memory.bounds), note)

    def learn(self, view: View, memory: Knowledge) -> Knowledge:
        """With what a view tells."""
        assert view.prices is not None
        known = memory.landscape
        if known is None:
            pays_bid = np.broadcast_to(np.asarray(self.first_price, dtype=np.bool_), len(memory.got)).copy()
            known = Landscape.unseen(view.controls.anchor[:, Knob.BID], self.prior, pays_bid)
        hours = (view.tick - memory.seen) * memory.tick_hours
        landscape = known.learn(view, 0.5 ** (hours / self.half_life_hours))
        won = view.prices.value_of(len(memory.got))
        got = np.where(memory.horizon.closed(view.tick), 0.0, memory.got + won)
        return memory._replace(landscape=landscape, got=got, seen=view.tick)

    def wanted(self, view: View, memory: Knowledge) -> Float64:
        """The bid that the rest of the budget affords; float64[n], micros."""
        assert memory.landscape is not None
        closed = memory.horizon.closed(view.tick)
        spent = np.where(closed, 0.0, view.period[:, SPEND])
        left = self.expected(view, memory)
        cost = np.maximum(view.controls.budget - spent, 0) / left
        return memory.landscape.threshold(cost, Target(memory.target, spent, memory.got, left))

    def expected(self, view: View, memory: Knowledge) -> Float64:
        """Opportunities that are still expected in the period, or in the next where it just closed; float64[n]."""
        seen = view.lifetime[:, OPPORTUNITIES]
        return memory.horizon.coming(view.tick, seen, self.expected_opportunities, self.expected_weight)


def on_grid(residual: Float64) -> Float64:
    """Residuals as multiples of a millionth, so that the last digits of whoever reckons them decide nothing."""
    rounded: Float64 = np.rint(residual / GRID) * GRID
    return rounded


def corrected(plan: Float64, residual: Float64) -> Float64:
    """The bid that a policy wants who corrects the plan by exp(residual); float64[n], micros."""
    return plan * np.exp(on_grid(residual))
