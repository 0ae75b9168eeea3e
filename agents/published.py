"""Algorithms as published, which bid by themselves: for unguarded evaluations, never for a run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agents.ecpc import Course, EcpcPid
from engine.campaigns import CampaignSet
from engine.units import Float64, Int64, TickGrid
from sim.unguarded import Asked


@dataclass(frozen=True)
class PublishedEcpcBidder:
    """The eCPC controller as published (a `sim.unguarded.Bidder`).

    It bids base · value · exp(phi) and never less than a minimum; before its first view it bids one flat amount for
    everything (None: as later, with phi = 0). The published value of an opportunity is the one that an auction log's
    `value: published_linear` gives it.
    """

    controller: EcpcPid
    first_bid_micros: float | None = 10_000.0
    least_bid_micros: float = 50.0

    def start(self, campaigns: CampaignSet, grid: TickGrid) -> Course:
        """The controller's."""
        return self.controller.start(campaigns, grid)

    def bid(self, asked: Asked, memory: Course) -> Float64:
        """An unrounded bid per row, micros."""
        linear: Float64 = np.maximum(
            self.controller.bid(memory.signal)[asked.campaign] * asked.value, self.least_bid_micros
        )
        if self.first_bid_micros is None:
            return linear
        return np.where(np.isnan(memory.ecpc)[asked.campaign], self.first_bid_micros, linear)

    def learn(self, lifetime: Int64, memory: Course) -> Course:
        """The controller's next course."""
        return self.controller.follow(lifetime, memory)
