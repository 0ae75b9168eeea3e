"""The twin of a simulated world: the same laws under other dice, in which changes are tried."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from engine.campaigns import ControlState
from engine.events import SPEND
from sim.world import WorldFactory

_OTHER_DICE = 0x7477696E
_SEEDS = 2**63


@dataclass(frozen=True)
class Twin:
    """An `engine.policy.Trial` over a world: each trial has a market of its own, and whole budgets.

    To whom conversions are credited moves no spend, so that no other market has to be there.
    """

    factory: WorldFactory

    def spend(self, campaign: int, from_tick: int, to_tick: int, controls: ControlState) -> int:
        """What a campaign spends over [from_tick, to_tick), micros; the campaigns of its market are there too."""
        campaigns = self.factory.campaigns
        members = np.flatnonzero(campaigns.market == campaigns.market[campaign])
        seed = (self.factory.seed ^ _OTHER_DICE) % _SEEDS
        alone = replace(
            self.factory,
            seed=seed,
            attribution=None,
            record_events=False,
            record_opportunities=False,
            tell_prices=False,
        )
        world = alone(members)
        counts = world.advance(from_tick, to_tick, controls.select(campaigns, members)).counts
        spent = counts.of_campaigns(campaigns.select(members).cell_start)[:, :, SPEND].sum(axis=0)
        return int(spent[np.searchsorted(members, campaign)])
