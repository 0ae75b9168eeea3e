"""A policy of a user's own, for tests, that looks at the prices of the wins since the last view."""

from __future__ import annotations

import numpy as np

from engine.actions import Knob, Proposals, Source, proposals
from engine.campaigns import CampaignSet
from engine.policy import View
from engine.units import TickGrid

LOOKER = {"policy": "tests.lookers:Looker"}


class Looker:
    """Bids within a tenth of the anchor, by a sum in which every number of the view's prices shows."""

    looks_at_prices = True

    def start(self, campaigns: CampaignSet, grid: TickGrid) -> None:
        """Nothing to remember."""

    def propose(self, view: View, memory: None) -> tuple[Proposals, None]:
        """A bid for every campaign."""
        assert view.prices is not None
        seen = np.zeros(len(view.controls.bid), dtype=np.int64)
        rows = view.prices
        np.add.at(seen, rows.campaign, 31 * rows.bin + 7 * rows.wins + rows.value_ppm)
        anchor = view.controls.anchor[:, Knob.BID]
        wanted = anchor + anchor * (seen % 21 - 10) // 100
        versions = view.controls.version[:, Knob.BID]
        return proposals(np.arange(len(anchor)), Knob.BID, wanted, versions, Source.POLICY, "a look"), memory
