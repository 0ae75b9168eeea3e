"""The guarded oracle: what hindsight could have got under the guard. For evaluation only: it knows what nobody can."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from agents.classic import Band, Bounds, bids_in_reach, rows_of_bids
from engine.actions import Proposals
from engine.campaigns import CampaignSet
from engine.policy import View
from engine.units import MAX_MICROS, Float64, TickGrid


@dataclass(frozen=True)
class GuardedOracle:
    """Walks to the hindsight optimum's threshold as fast as the guard lets it, and stays there.

    No configuration names it.

    Parameters
    ----------
    thresholds:
        Micros, for all campaigns or for each (`sim.oracle.Optimum`).
    """

    thresholds: float | tuple[float, ...] = float(MAX_MICROS)
    band: Band = (0.1, 10.0)

    def knowing(self, threshold: Float64) -> GuardedOracle:
        """The same, told the thresholds of the episodes it is to play; float64[n], micros."""
        return replace(self, thresholds=tuple(threshold.tolist()))

    def start(self, campaigns: CampaignSet, grid: TickGrid) -> Bounds:  # noqa: ARG002 - the protocol's signature
        """Nothing to remember but the bounds."""
        return Bounds.of(campaigns)

    def propose(self, view: View, memory: Bounds) -> tuple[Proposals, Bounds]:
        """One bid per campaign that is not at its threshold yet."""
        wanted = bids_in_reach(view, np.array(self.thresholds), self.band, memory)
        return rows_of_bids(view, wanted, "guarded_oracle"), memory
