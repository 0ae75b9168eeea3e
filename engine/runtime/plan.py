"""What a run is: everything the shells need, as values and small picklable factories."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from engine.campaigns import CampaignSet, ControlState
from engine.guard import Limits
from engine.messages import Command
from engine.optimiser import Assignment
from engine.policy import EventSource
from engine.units import Int64, TickGrid

DAY_MINUTES = 24 * 60


@dataclass(frozen=True)
class Plan:
    """A run, ready to be carried out by any runner with the same result.

    Parameters
    ----------
    source:
        Makes the event source of some campaigns (ascending positions, whole markets); called where they live.
    decision_every:
        Ticks between two decisions; the boundaries are known from this alone.
    commands:
        People's commands by the tick at whose close they are admitted.
    header:
        What the ledger's opening tells of the run: its configuration, seed and versions.
    """

    campaigns: CampaignSet
    controls: ControlState
    limits: Limits
    grid: TickGrid
    source: Callable[[Int64], EventSource]
    assignments: tuple[Assignment, ...]
    decision_every: int = 1
    commands: Mapping[int, tuple[Command, ...]] = field(default_factory=dict)
    header: Mapping[str, Any] = field(default_factory=dict)

    @property
    def approval_ticks(self) -> int:
        """A proposal waits a day for a person."""
        return DAY_MINUTES // self.grid.tick_minutes

    @property
    def history_ticks(self) -> int:
        """An applied action can be rolled back for a week."""
        return 7 * self.approval_ticks

    def spans(self) -> list[tuple[int, int]]:
        """The run cut at its decision boundaries: [from_tick, to_tick) pairs."""
        starts = range(0, self.grid.ticks, self.decision_every)
        return [(start, min(start + self.decision_every, self.grid.ticks)) for start in starts]


def partition(campaigns: CampaignSet, parts: int) -> list[Int64]:
    """Members of at most `parts` shards: whole markets, each to the shard with the fewest campaigns so far."""
    sizes = np.bincount(campaigns.market, minlength=len(campaigns.markets))
    load = np.zeros(min(parts, int((sizes > 0).sum())), dtype=np.int64)
    home = np.full(sizes.size, -1, dtype=np.int64)
    for market in np.argsort(-sizes, kind="stable"):
        if sizes[market]:
            home[market] = int(load.argmin())
            load[home[market]] += sizes[market]
    return [np.flatnonzero(home[campaigns.market] == part) for part in range(load.size)]
