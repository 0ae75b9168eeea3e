"""A world in whole numbers: what campaigns get for their controls, and what may befall them.

It is a function of campaign, controls and tick alone, so an account that goes back lives through the same again. The
bid decides on the share of auctions won and on the price, so spend grows faster than revenue: rises of bids cost
profit. The day's budget is spread evenly over its ticks, and like the auctions over the audiences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from engine.campaigns import CampaignSet, ControlState
from engine.events import BIDS, CLICKS, CONVERSIONS, COUNTS, IMPRESSIONS, OPPORTUNITIES, REVENUE, SPEND
from engine.units import PPM, Int64
from tests.engine.builders import BID

REVENUE_PER_CONVERSION = 40_000


class Trouble(StrEnum):
    """What befalls a campaign, whatever its controls are."""

    TRACKING = "tracking breaks"
    RUNAWAY = "spend runs away"


@dataclass(frozen=True)
class World:
    """What campaigns live in; without troubles it is the twin as well (an `engine.policy.Trial`).

    day:
        Ticks in 24 hours, a divisor of 24.
    troubles:
        What befalls a campaign now.
    """

    campaigns: CampaignSet
    day: int
    troubles: Mapping[int, Trouble] = field(default_factory=dict)

    def counts(self, campaign: int, controls: ControlState, first_tick: int, ticks: int) -> Int64:
        """Counts of a campaign under its own controls (of one campaign); int64[ticks, cells, len(COUNTS)]."""
        tick = np.arange(first_tick, first_tick + ticks)[:, np.newaxis]
        hour = tick % self.day * (24 // self.day)
        auctions = (9_000 - 500 * campaign + 1_000 * (hour // 6) + (tick * 7_919 + campaign * 104_729) % 97) * (
            24 // self.day
        )
        creatives, audiences = len(controls.weights), len(controls.modifiers)
        bid, budget = int(controls.bid[0]) * controls.modifiers // PPM, int(controls.budget[0]) // audiences
        price = np.maximum(bid // 2_000, 1)
        auctions = auctions // audiences
        won = np.minimum(auctions * bid // (bid + BID), budget // self.day // price) * (not controls.paused[0])
        weights, appeal = np.repeat([controls.weights, 4 - np.arange(creatives)], audiences, axis=1)
        counts = np.zeros((ticks, creatives * audiences, len(COUNTS)), dtype=np.int64)
        counts[..., OPPORTUNITIES] = auctions * weights // PPM
        counts[..., BIDS] = counts[..., OPPORTUNITIES] * np.tile(bid > 0, creatives) * (not controls.paused[0])
        counts[..., IMPRESSIONS] = np.tile(won, creatives) * weights // PPM
        counts[..., CLICKS] = counts[..., IMPRESSIONS] * appeal // 40
        counts[..., CONVERSIONS] = counts[..., CLICKS] // 5 * (self.troubles.get(campaign) is not Trouble.TRACKING)
        counts[..., SPEND] = counts[..., IMPRESSIONS] * np.tile(price, creatives)
        if self.troubles.get(campaign) is Trouble.RUNAWAY:
            counts[..., SPEND] *= 4
        counts[..., REVENUE] = counts[..., CONVERSIONS] * REVENUE_PER_CONVERSION
        return counts

    def spend(self, campaign: int, from_tick: int, to_tick: int, controls: ControlState) -> int:
        """What a campaign spends under the run's controls, micros."""
        own = controls.select(self.campaigns, np.array([campaign]))
        return int(self.counts(campaign, own, from_tick, to_tick - from_tick)[..., SPEND].sum())
