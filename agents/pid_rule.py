"""The rule of thumb that many bidders began with: behind the plan ×1.2, ahead of it ×0.75.

It is the crude relative of a controller with its three terms (Zhang, Rong, Wang, Zhu and Wang, WSDM 2016, section 3,
compare both kinds): the sign of the error alone counts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from agents.classic import WHOLE_BAND, Band, Pace, bids_in_reach, rows_of_bids
from agents.horizon import EVEN, Curves
from agents.targets import NO_TARGET, TargetMicros, aims
from engine.actions import Proposals
from engine.campaigns import CampaignSet
from engine.events import SPEND
from engine.policy import View
from engine.units import Float64, TickGrid

_LITTLE = 1e-9


@dataclass(frozen=True)
class PidRule:
    """Raises the bid by a fixed factor where the last ticks spent too little, lowers it where they spent too much.

    What they should have spent is their share of the period's traffic to come times what was left of the budget.

    Parameters
    ----------
    up, down:
        Factors of the bid.
    slack:
        As long as spend is within this relative distance of the plan, the bid stays.
    target_micros:
        The most that a unit of value may cost on average over the period; above it the bid is lowered in any case.

    Example
    -------
    >>> PidRule(slack=0.1).up
    1.2
    """

    up: float = 1.2
    down: float = 0.75
    slack: float = 0.1
    curve: Curves = EVEN
    band: Band = WHOLE_BAND
    target_micros: TargetMicros = NO_TARGET

    @property
    def looks_at_prices(self) -> bool:
        """Whether it has to know what it won: where there is a target."""
        return aims(self.target_micros)

    def aiming_at(self, target: Float64) -> PidRule:
        """The same with a target of its own for every campaign; float64[n], micros per unit of value."""
        return replace(self, target_micros=tuple(target.tolist()))

    def start(self, campaigns: CampaignSet, grid: TickGrid) -> Pace:
        """Lay the plan out over the run's ticks."""
        return Pace.of(campaigns, grid, self.curve, self.target_micros)

    def propose(self, view: View, memory: Pace) -> tuple[Proposals, Pace]:
        """One bid per campaign that is off its plan."""
        won = memory.won.learn(view, memory.horizon)
        room = np.log(self._wanted_on_actual(view, memory))
        if self.looks_at_prices:
            room = np.minimum(room, won.room(view, memory.horizon)[1])
        factor = np.where(room > np.log1p(self.slack), self.up, np.where(room < -np.log1p(self.slack), self.down, 1.0))
        wanted = bids_in_reach(view, view.controls.bid * factor, self.band, memory.bounds)
        return rows_of_bids(view, wanted, "pid_rule"), memory._replace(won=won, seen=view.tick)

    def _wanted_on_actual(self, view: View, plan: Pace) -> Float64:
        """What should have been spent since the last view, over what was."""
        horizon, spent = plan.horizon, view.recent[:, SPEND]
        before = plan.seen >= 0
        gone = horizon.gone(view.tick) - (horizon.gone(plan.seen) if before else 0.0)
        ahead = horizon.left(plan.seen) if before else np.ones(len(spent))
        budget = np.maximum(view.controls.budget, 1)
        left = np.maximum(budget - np.maximum(view.period[:, SPEND] - spent, 0), 0)
        wanted = left * np.minimum(gone / np.maximum(ahead, _LITTLE), 1.0)
        ratio: Float64 = np.maximum(wanted, 1.0) / np.maximum(spent, 1.0)
        return ratio
