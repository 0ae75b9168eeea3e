from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime
from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.campaigns import CampaignSet, Charging, ControlState, Period
from engine.events import COUNTS, Events, Opportunities
from engine.policy import Batch, EventSource
from engine.prices import WINDOW, Prices, bin_of, lowest_bins
from engine.units import PPM, Int64, TickGrid, equal_shares
from sim.attribution import Attribution
from sim.auction import Market
from sim.conversions import Conversions, menus_of
from sim.delays import Delays, Law, Part
from sim.mishaps import Mishap
from sim.people import Audience
from sim.response import Response
from sim.traffic import Traffic
from sim.troubles import NO_TROUBLES, Troubles
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
    correlation: float = 0.0
    wear: float = 0.0
    rest_hours: float = math.inf
    per_click: float = 1.0
    refund_rate: float = 0.0
    refund_hours: float = 2.0
    menu: tuple[tuple[float, int], ...] = ((1.0, PPM),)  # prices and their shares
    delays: tuple[Part, ...] = ()  # in place of delay_hours
    weights: tuple[int, ...] = ()  # equal where empty
    modifiers: tuple[int, ...] = ()  # of the market's audiences; none where empty


def world_of(
    campaigns: Sequence[Campaign],
    markets: dict[str, Market] | None = None,
    grid: TickGrid = GRID,
    seed: int = 7,
    record: str = "",
    people: tuple[Audience, ...] = (),
    attribution: Attribution | None = None,
    troubles: Troubles = NO_TROUBLES,
    mishaps: tuple[Mishap, ...] = (),
    *,
    tell_prices: bool = False,
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
        audiences=tuple(_audience_names(markets[name]) for name in names),
    )

    def column(name: str) -> NDArray[Any]:
        return np.array([getattr(campaign, name) for campaign in campaigns], dtype=np.float64)

    response = Response(
        reach=column("reach"),
        value_sigma=column("value_sigma"),
        correlation=column("correlation"),
        ctr=np.array([ctr for campaign in campaigns for ctr in campaign.ctrs]),
        wear=np.repeat(column("wear"), sizes),
        rest_hours=np.repeat(column("rest_hours"), sizes),
    )
    price, price_share = menus_of([dict(campaign.menu) for campaign in campaigns])
    conversions = Conversions(
        rate=column("cvr"),
        delays=Delays.of([campaign.delays or (Part(Law.EXPONENTIAL, campaign.delay_hours),) for campaign in campaigns]),
        per_click=column("per_click"),
        value_micros=column("value_micros"),
        value_sigma=column("value_spread"),
        price=price,
        price_share=price_share,
        refund_rate=column("refund_rate"),
        refund_hours=column("refund_hours"),
    )
    factory = WorldFactory(
        campaign_set,
        grid,
        seed,
        tuple(markets[name] for name in names),
        response,
        conversions,
        people,
        attribution,
        troubles,
        mishaps,
        record_events="events" in record,
        record_opportunities="opportunities" in record,
        tell_prices=tell_prices,
    )
    bid = np.array([campaign.bid for campaign in campaigns], dtype=np.int64)
    budget = np.array([campaign.budget for campaign in campaigns], dtype=np.int64)
    weights = np.concatenate([campaign.weights or equal_shares(len(campaign.ctrs)) for campaign in campaigns])
    audiences = [len(markets[campaign.market].segments) for campaign in campaigns]
    modifiers = [each.modifiers or (PPM,) * size for each, size in zip(campaigns, audiences, strict=True)]
    controls = ControlState.initial(campaign_set, bid, budget, weights.astype(np.int64), np.concatenate(modifiers))
    return factory, replace(controls, paused=np.array([campaign.paused for campaign in campaigns]))


def _audience_names(market: Market) -> tuple[str, ...]:
    several = len(market.segments) > 1
    return tuple(f"audience-{place}" for place in range(len(market.segments))) if several else ()


def everyone(factory: Any) -> Int64:
    """Positions of all campaigns."""
    return np.arange(len(factory.campaigns))


def run(source: EventSource, controls: ControlState, spans: Sequence[int]) -> Batch:
    """Advance over the spans between the given ticks, under constant controls, and put the batches together."""
    batches = [source.advance(start, stop, controls) for start, stop in pairwise(spans)]
    told = [batch.prices for batch in batches if batch.prices is not None]
    return Batch(
        replace(batches[0].counts, values=np.concatenate([batch.counts.values for batch in batches])),
        Events.concatenate([batch.events for batch in batches]),
        Opportunities.concatenate([batch.opportunities for batch in batches]),
        sum(batch.auctions for batch in batches),
        None if batches[0].truth is None else np.concatenate([batch.truth for batch in batches]),
        reduce(Prices.plus, told) if told else None,
    )


def total(batch: Batch) -> dict[str, int]:
    """Counts over all ticks and cells, by name."""
    return dict(zip(COUNTS, batch.counts.values.sum(axis=(0, 1)).tolist(), strict=True))


def priced(rows: Opportunities, bid: Int64) -> Prices:
    """The prices of won opportunities under the bids in force, in plain NumPy: none with modifiers, one slot each."""
    in_force = bid[rows.campaign]
    per_value = rows.price_micros / np.floor(in_force * rows.value) * in_force
    lowest = lowest_bins(bid)
    place = np.clip(bin_of(per_value) - lowest[rows.campaign], 0, WINDOW - 1)
    won = np.zeros((len(bid), WINDOW, 2), dtype=np.int64)
    np.add.at(won[:, :, 0], (rows.campaign, place), 1)
    np.add.at(won[:, :, 1], (rows.campaign, place), np.rint(rows.value * PPM).astype(np.int64))
    return Prices.of(won, lowest)


def same_prices(left: Prices | None, right: Prices | None) -> bool:
    """Whether two batches tell the same prices, or both none."""
    if left is None or right is None:
        return left is right
    return all(np.array_equal(getattr(left, each.name), getattr(right, each.name)) for each in fields(Prices))


def same(left: Any, right: Any) -> bool:
    """Whether two column tables hold the same values."""
    pairs = zip(left.columns().values(), right.columns().values(), strict=True)
    return all(np.array_equal(mine, theirs) for mine, theirs in pairs)
