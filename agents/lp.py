"""LP-KM: the bid that the rest of the budget affords, by a linear programme over the market-price landscape.

With hindsight the best plan is one threshold on price per value: a fractional knapsack. Beforehand the threshold is
that at which what is expected to come costs what is left (online linear programming: Agrawal, Wang and Ye, Operations
Research 62, 2014, re-solved at every view), the landscape being estimated from wins and losses (`agents.landscape`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from agents.classic import WHOLE_BAND, Band, bids_in_reach
from agents.horizon import Curve, Horizon
from agents.landscape import Landscape, Prior, Target
from engine.actions import Knob, Proposals, Source, no_proposals, proposals
from engine.campaigns import CampaignSet
from engine.events import BIDS, OPPORTUNITIES, SPEND
from engine.policy import View
from engine.units import Float64, Int64, TickGrid

_LITTLE = 1e-9


class Knowledge(NamedTuple):
    """What LP-KM remembers; replaced at every view."""

    horizon: Horizon
    minimum: Int64  # bids, micros
    maximum: Int64
    audience_start: Int64
    landscape: Landscape | None  # None before the first view
    got: Float64  # float64[n], value won since the period opened
    target: Float64  # float64[n], most cost per unit of value, micros; infinite: none
    seen: int = -1


@dataclass(frozen=True)
class OnlineLP:
    """Bids what the rest of the period's budget affords, and no more than a target of cost per value allows.

    Parameters
    ----------
    curve:
        The traffic that is expected over a day.
    half_life_hours:
        After so many hours an auction tells half as much of the market.
    gain:
        Share of the way to the wanted log bid that is asked for in a step.
    prior:
        What is believed of a market that was not seen yet.
    target_micros:
        The most that a unit of value may cost on average over the period; infinite: only the budget binds.
    """

    curve: Curve = Curve()
    half_life_hours: float = 8.0
    gain: float = 1.0
    prior: Prior = Prior()
    band: Band = WHOLE_BAND
    target_micros: float | tuple[float, ...] = math.inf

    looks_at_prices = True

    def start(self, campaigns: CampaignSet, grid: TickGrid) -> Knowledge:
        """Nothing is known but the calendar."""
        n = len(campaigns)
        return Knowledge(
            horizon=Horizon.of(campaigns, grid, self.curve),
            minimum=np.maximum(campaigns.min_bid, 1),
            maximum=campaigns.max_bid,
            audience_start=campaigns.layout.audience_start,
            landscape=None,
            got=np.zeros(n),
            target=np.broadcast_to(np.asarray(self.target_micros, dtype=np.float64), n).copy(),
        )

    def propose(self, view: View, memory: Knowledge) -> tuple[Proposals, Knowledge]:
        """One bid per campaign that saw traffic, unless it would stay as it is."""
        memory = self.learn(view, memory)
        bid = view.controls.bid
        change = self.gain * np.log(self.wanted(view, memory) / np.maximum(bid, 1))
        wanted = bids_in_reach(
            view, bid * np.exp(change), self.band, memory.minimum, memory.maximum, memory.audience_start
        )
        kept_out = (view.recent[:, OPPORTUNITIES] > 0) & (view.recent[:, BIDS] == 0)
        rows = np.flatnonzero((wanted != bid) & (view.recent[:, OPPORTUNITIES] > 0) & ~kept_out & ~view.controls.paused)
        if not rows.size:
            return no_proposals(), memory
        versions = view.controls.version[rows, Knob.BID]
        return proposals(rows, Knob.BID, wanted[rows], versions, Source.POLICY, "lp_km"), memory

    def learn(self, view: View, memory: Knowledge) -> Knowledge:
        """With what a view tells."""
        assert view.prices is not None
        known = memory.landscape
        if known is None:
            known = Landscape.unseen(view.controls.anchor[:, Knob.BID], self.prior)
        hours = (view.tick - memory.seen) * 0.5
        landscape = known.learn(view, 0.5 ** (hours / self.half_life_hours))
        won = np.bincount(view.prices.campaign, weights=view.prices.value_ppm, minlength=len(memory.got)) * 1e-6
        got = np.where(memory.horizon.closed(view.tick), 0.0, memory.got + won)
        return memory._replace(landscape=landscape, got=got, seen=view.tick)

    def wanted(self, view: View, memory: Knowledge) -> Float64:
        """The bid that the rest of the budget affords; float64[n], micros."""
        assert memory.landscape is not None
        closed = memory.horizon.closed(view.tick)
        spent = np.where(closed, 0.0, view.period[:, SPEND])
        rate = view.lifetime[:, OPPORTUNITIES] / np.maximum(memory.horizon.gone(view.tick), _LITTLE)
        left = np.maximum(rate * memory.horizon.left(view.tick), _LITTLE)
        cost = np.maximum(view.controls.budget - spent, 0) / left
        return memory.landscape.threshold(cost, Target(memory.target, spent, memory.got, left))
