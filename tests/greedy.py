"""Policies of a user's own, for tests: they never learn where the guard's limits are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from engine.actions import Knob, Proposals, Source, proposals
from engine.campaigns import CampaignSet
from engine.policy import View
from engine.units import TickGrid


@dataclass(frozen=True)
class Greedy:
    """Wants every bid to change by the same part of its value, at every boundary."""

    change: float = 0.6

    def start(self, campaigns: CampaignSet, grid: TickGrid) -> None:
        """Nothing to remember."""

    def propose(self, view: View, memory: None) -> tuple[Proposals, None]:
        """A bid for every campaign."""
        bid = view.controls.bid
        wanted = np.floor(bid * (1 + self.change)).astype(np.int64)
        versions = view.controls.version[:, Knob.BID]
        return proposals(np.arange(len(bid)), Knob.BID, wanted, versions, Source.POLICY, "more"), memory


@dataclass(frozen=True)
class Wild:
    """Wants every bid to be a value that is no number."""

    def start(self, campaigns: CampaignSet, grid: TickGrid) -> None:
        """Nothing to remember."""

    def propose(self, view: View, memory: None) -> tuple[Proposals, None]:
        """A bid for every campaign."""
        n = len(view.controls.bid)
        versions = view.controls.version[:, Knob.BID]
        return proposals(np.arange(n), Knob.BID, np.full(n, np.nan), versions, Source.POLICY, "wild"), memory


class Unfinished:
    """No policy: it cannot start."""

    def propose(self, view: View, memory: None) -> tuple[Proposals, None]:
        """Nothing."""
        raise NotImplementedError
