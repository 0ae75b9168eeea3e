"""Dual mirror descent: the budget's shadow price, learnt from whether spend lies above or below its rate.

Balseiro, Lu and Mirrokni, "The Best of Both Worlds: Dual Mirror Descent for Online Allocation Problems" (Operations
Research 71, 2023, algorithm 1). The bid per unit of value is 1 / μ; with the entropy as mirror map the dual moves
multiplicatively, log μ ← log μ − η (ρ − spend of the opportunity), here once a view over all its opportunities. ρ is
the budget per expected opportunity, or, re-solved, what is left of it per opportunity left.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from agents.classic import WHOLE_BAND, Band, Bounds, bids_in_reach, rows_of_bids
from agents.horizon import EVEN, Curves, Horizon
from agents.targets import NO_TARGET, TargetMicros, Won, aims
from engine.actions import Proposals
from engine.campaigns import CampaignSet
from engine.events import OPPORTUNITIES, SPEND
from engine.policy import View
from engine.units import Float64, TickGrid

_WINDUP = 0.5  # how far the multiplier that does not bind may lie from the bid in force, in logs


class _Duals(NamedTuple):
    """What mirror descent remembers; replaced at every view."""

    horizon: Horizon
    bounds: Bounds
    won: Won
    log_bid: Float64 | None = None  # float64[2, n], −log μ of the budget and of the target; None before the first view


@dataclass(frozen=True)
class MirrorDescent:
    """Paces the budget, and a target of cost per value beside it, by dual mirror descent.

    Parameters
    ----------
    rate:
        Change of the log bid if a whole period's opportunities passed and nothing was spent: η ρ times their number.
    target_rate:
        Likewise of the target's multiplier, if a period's whole budget was spent and had brought nothing.
    resolving:
        Whether the budget per opportunity is that which is left at each view, instead of that at the start.
    expected_opportunities, expected_weight:
        As of `agents.lp.OnlineLP`.
    target_micros:
        The most that a unit of value may cost on average over the period; infinite: only the budget binds.
    """

    rate: float = 13.0
    target_rate: float = 50.0
    resolving: bool = False
    curve: Curves = EVEN
    expected_opportunities: float = 0.0
    expected_weight: float = 1.0
    band: Band = WHOLE_BAND
    target_micros: TargetMicros = NO_TARGET

    @property
    def looks_at_prices(self) -> bool:
        """Whether it has to know what it won: where there is a target."""
        return aims(self.target_micros)

    def aiming_at(self, target: Float64) -> MirrorDescent:
        """The same with a target of its own for every campaign; float64[n], micros per unit of value."""
        return replace(self, target_micros=tuple(target.tolist()))

    def start(self, campaigns: CampaignSet, grid: TickGrid) -> _Duals:
        """Nothing is known but the calendar."""
        return _Duals(
            horizon=Horizon.of(campaigns, grid, self.curve),
            bounds=Bounds.of(campaigns),
            won=Won.nothing(self.target_micros, len(campaigns)),
        )

    def propose(self, view: View, memory: _Duals) -> tuple[Proposals, _Duals]:
        """One bid per campaign that saw traffic, unless it would stay as it is."""
        bid = np.log(np.maximum(view.controls.bid, 1))
        before = np.stack([bid, bid]) if memory.log_bid is None else memory.log_bid
        won = memory.won.learn(view, memory.horizon)
        moved = before + np.stack([self._budgets(view, memory), self._targets(view, won)])
        after = np.clip(moved, bid - _WINDUP, bid + _WINDUP)
        wish = after.min(axis=0) if self.looks_at_prices else after[0]
        wanted = bids_in_reach(view, np.exp(wish), self.band, memory.bounds)
        return rows_of_bids(view, wanted, "mirror_descent"), memory._replace(won=won, log_bid=after)

    def _budgets(self, view: View, duals: _Duals) -> Float64:
        """Step of −log μ of the budget: the opportunities' share of the period, less spend over what ρ allows."""
        horizon, entered = duals.horizon, view.recent[:, OPPORTUNITIES]
        belief = self.expected_opportunities, self.expected_weight
        coming = horizon.coming(view.tick, view.lifetime[:, OPPORTUNITIES], *belief)
        whole = coming / np.maximum(horizon.left(view.tick), 1e-9)
        budget = np.maximum(view.controls.budget, 1).astype(np.float64)
        if self.resolving:
            spent = np.where(horizon.closed(view.tick), 0, view.period[:, SPEND])
            allowance = np.maximum(budget - spent, 1.0) / coming
        else:
            allowance = budget / whole
        return self.rate * (entered - view.recent[:, SPEND] / allowance) / whole

    def _targets(self, view: View, won: Won) -> Float64:
        """Step of −log μ of the target: what the value won since the last view may cost less what it did.

        Where nothing was spent the target holds nothing back.
        """
        budget = np.maximum(view.controls.budget, 1)
        aimed, spent = np.isfinite(won.most), view.recent[:, SPEND]
        step = (np.where(aimed, won.most, 0.0) * won.lately - spent) / budget
        return self.target_rate * np.where(aimed & (spent > 0), np.minimum(step, 1.0), 1.0)
