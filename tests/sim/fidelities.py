"""One specification in both fidelities, and markets divided into segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np

from engine.campaigns import ControlState
from sim.aggregate import AggregateWorldFactory
from sim.auction import Segment
from sim.world import WorldFactory


def aggregate_of(factory: WorldFactory) -> AggregateWorldFactory:
    """The same specification in the aggregate fidelity."""
    return AggregateWorldFactory(**{column.name: getattr(factory, column.name) for column in fields(factory)})


def in_segments(
    factory: WorldFactory, controls: ControlState, segments: Sequence[Segment], modifiers: Sequence[int] = ()
) -> tuple[WorldFactory, ControlState]:
    """Divide every market among these segments; modifiers (ppm) of all campaigns alike."""
    names = tuple(f"part-{place}" for place in range(len(segments)))
    campaigns = replace(factory.campaigns, audiences=(names,) * len(factory.campaigns.markets))
    markets = tuple(replace(market, segments=tuple(segments)) for market in factory.markets)
    divided = replace(factory, campaigns=campaigns, markets=markets)
    moved = ControlState.initial(campaigns, controls.bid, controls.budget, controls.weights)
    if modifiers:
        moved = replace(moved, modifiers=np.tile(np.array(modifiers, dtype=np.int64), len(campaigns)))
    return divided, replace(moved, paused=controls.paused)
