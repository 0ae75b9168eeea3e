"""Where what a configuration names stands in a run: campaigns by their positions, creatives and audiences in order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from engine.campaigns import CampaignSet
from engine.units import Int64
from experiments import config as settings
from experiments.config import RunConfig


def audiences(
    campaigns: CampaignSet, position: int, multiples: Mapping[str, float]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Modifiers in ppm, and the places of their audiences within the campaign."""
    known = campaigns.audiences_of(position)
    named = tuple(multiples)
    return tuple(settings.modifiers_ppm(multiples, named).values()), tuple(known.index(name) for name in named)


def shares(campaigns: CampaignSet, position: int, wanted: Mapping[str, float]) -> tuple[int, ...]:
    """Shares of a campaign's creatives in ppm, in their order."""
    names = campaigns.creatives[campaigns.creative_start[position] : campaigns.creative_start[position + 1]]
    return tuple(settings.shares_ppm(wanted, names).values())


def members(config: RunConfig, campaigns: CampaignSet, chosen: Any) -> Int64:
    """Positions of the chosen campaigns; `all` are all."""
    return np.array([campaigns.index(name) for name in settings.members(config, chosen)], dtype=np.int64)
