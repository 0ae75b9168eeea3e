from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.campaigns import CampaignSet, Charging, ControlState, Period
from engine.events import COUNTS, Events, Opportunities
from engine.policy import Batch, EventSource
from engine.units import Int64, TickGrid, equal_shares
from sim.auction import Market
from sim.conversions import Conversions
from sim.response import Response
from sim.traffic import Traffic
from sim.world import WorldFactory

MARKET = Market(Traffic(400.0), level_micros=5_000.0, price_sigma=0.6)
GRID = TickGrid(datetime(2026, 3, 2), tick_minutes=30, ticks=48, zone="Europe/Berlin")


@dataclass(frozen=True)
class Campaign:
    """One campaign of a test world, with the controls it starts with."""

    market: str = "m"
    bid: int = 5_000
    budget: int = 10**12
    charging: Charging = Charging.PER_IMPRESSION
    period: Period = Period.DAY
    reach: float = 1.0
    value_sigma: float = 0.5
    ctrs: tuple[float, ...] = (0.1,)
    cvr: float = 0.2
    delay_hours: float = 3.0
    value_micros: float = 100_000.0
    value_spread: float = 0.5
    paused: bool = False
    id: str = ""


def world_of(
    campaigns: Sequence[Campaign],
    markets: dict[str, Market] | None = None,
    grid: TickGrid = GRID,
    seed: int = 7,
    record: str = "",
) -> tuple[WorldFactory, ControlState]:
    """A factory for these campaigns, named c0, c1, … unless they have (sorted) ids, and their controls."""
    markets = markets or {"m": MARKET}
    names = tuple(sorted(markets))
    sizes = [len(campaign.ctrs) for campaign in campaigns]
    zeros = np.zeros(len(campaigns), dtype=np.int64)
    campaign_set = CampaignSet(
        ids=tuple(campaign.id or f"c{place}" for place, campaign in enumerate(campaigns)),
        channels=tuple(campaign.market for campaign in campaigns),
        markets=names,
        market=np.array([names.index(campaign.market) for campaign in campaigns], dtype=np.int64),
        charging=np.array([campaign.charging for campaign in campaigns], dtype=np.uint8),
        period=np.array([campaign.period for campaign in campaigns], dtype=np.uint8),
        creative_start=np.concatenate(([0], np.cumsum(sizes))).astype(np.int64),
        creatives=tuple(f"creative-{place}" for size in sizes for place in range(size)),
        min_bid=zeros,
        max_bid=zeros,
        min_budget=zeros,
        max_budget=zeros,
    )

    def column(name: str) -> NDArray[Any]:
        return np.array([getattr(campaign, name) for campaign in campaigns], dtype=np.float64)

    response = Response.plain(
        column("reach"), column("value_sigma"), [ctr for campaign in campaigns for ctr in campaign.ctrs]
    )
    conversions = Conversions.plain(*(column(name) for name in ("cvr", "delay_hours", "value_micros", "value_spread")))
    factory = WorldFactory(
        campaign_set,
        grid,
        seed,
        tuple(markets[name] for name in names),
        response,
        conversions,
        record_events="events" in record,
        record_opportunities="opportunities" in record,
    )
    bid = np.array([campaign.bid for campaign in campaigns], dtype=np.int64)
    budget = np.array([campaign.budget for campaign in campaigns], dtype=np.int64)
    weights = np.concatenate([equal_shares(size) for size in sizes])
    controls = ControlState.initial(campaign_set, bid, budget, weights)
    return factory, replace(controls, paused=np.array([campaign.paused for campaign in campaigns]))


def everyone(factory: Any) -> Int64:
    """Positions of all campaigns."""
    return np.arange(len(factory.campaigns))


def run(source: EventSource, controls: ControlState, spans: Sequence[int]) -> Batch:
    """Advance over the spans between the given ticks, under constant controls, and put the batches together."""
    batches = [source.advance(start, stop, controls) for start, stop in pairwise(spans)]
    return Batch(
        replace(batches[0].counts, values=np.concatenate([batch.counts.values for batch in batches])),
        Events.concatenate([batch.events for batch in batches]),
        Opportunities.concatenate([batch.opportunities for batch in batches]),
        sum(batch.auctions for batch in batches),
    )


def total(batch: Batch) -> dict[str, int]:
    """Counts over all ticks and cells, by name."""
    return dict(zip(COUNTS, batch.counts.values.sum(axis=(0, 1)).tolist(), strict=True))


def same(left: Any, right: Any) -> bool:
    """Whether two column tables hold the same values."""
    pairs = zip(left.columns().values(), right.columns().values(), strict=True)
    return all(np.array_equal(mine, theirs) for mine, theirs in pairs)
