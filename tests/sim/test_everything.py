"""The physics with everything switched on, in worlds that Hypothesis makes up."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from engine.campaigns import Charging, ControlState, Period
from engine.events import (
    BIDS,
    CLICKS,
    CONVERSIONS,
    IMPRESSIONS,
    OPPORTUNITIES,
    PEOPLE,
    REFUNDS,
    REVENUE,
    SPEND,
    Events,
    Kind,
    fold,
)
from engine.policy import Batch
from engine.prices import bin_of, lowest_bins
from engine.units import PPM, Int64, TickGrid
from sim.attribution import Attribution, last_click, linear, position_based
from sim.auction import Answer, BotClicks, Drift, Market, PriceShock, Regimes, Segment, bid_for
from sim.delays import Law, Part
from sim.people import Audience
from sim.rng import PRICE, VALUE, key_of, normal, uniform, word
from sim.traffic import Traffic, TrafficChange
from sim.troubles import NO_TROUBLES, Spell, Troubles
from sim.world import WorldFactory
from tests.sim.builders import Campaign, everyone, run, same, same_prices, world_of
from tests.sim.test_physics import STARTS

TICKS = 60
FULL = (0, TICKS)
CREDITS = (last_click, linear, position_based)
DELAYS = (
    (Part(Law.EXPONENTIAL, 0.0),),
    (Part(Law.EXPONENTIAL, 4.0),),
    (Part(Law.EXPONENTIAL, 0.5, share=400_000), Part(Law.LOGNORMAL, 9.0, 1.0, share=600_000)),
)
MENU = ((2.0, 700_000), (9.0, 300_000))
WEEK = tuple(float(hour % 7) for hour in range(168))
SEGMENTS = {
    "nobody counted": (Segment(),),
    "two that nobody counts": (Segment(0.6, 0.7, 1.5, 0.5, 2.0), Segment(0.4, 1.4, 0.5, 2.0)),
    "all counted": (Segment(audience="x"),),
    "two counted": (Segment(0.25, 1.3, 1.2, 1.5, 0.5, audience="y"), Segment(0.75, audience="x")),
}
COUNTED = {name for name in SEGMENTS if name.endswith(" counted") and name != "nobody counted"}
PEOPLE_HERE = (Audience("x", 40, 0.7), Audience("y", 900))


@st.composite
def markets(draw: DrawFn, segments: str) -> Market:
    weekly = draw(st.booleans())
    return Market(
        Traffic(
            draw(st.sampled_from([150.0, 150.0, 40.0, 2.0, 0.0])),
            amplitude=0.0 if weekly else draw(st.sampled_from([0.0, 1.0])),
            week=WEEK if weekly else (),
            dispersion=draw(st.sampled_from([0.0, 0.3])),
            changes=draw(st.sampled_from([(), (TrafficChange(10, 20, 0.0), TrafficChange(15, 40, 2.0))])),
        ),
        level_micros=draw(st.sampled_from([2.0, 700.0, 5_000.0])),
        price_sigma=draw(st.sampled_from([0.0, 0.6, 2.0])),
        reserve_micros=draw(st.sampled_from([0, 3, 2_000])),
        first_price=draw(st.booleans()),
        competitors=draw(st.sampled_from([0, 1, 2, 50])),
        exposure=draw(st.sampled_from([(1.0,), (0.4,), (1.0, 0.5), (0.9, 0.9, 0.9, 0.1)])),
        segments=SEGMENTS[segments],
        answer=draw(st.sampled_from([None, Answer(1.0, 0.5), Answer(-2.0, 0.0)])),
        bots=draw(st.sampled_from([(), (BotClicks(5, 30, 0.5), BotClicks(20, 50, 1.0))])),
        shocks=draw(st.sampled_from([(), (PriceShock(5, 30, 0.5), PriceShock(20, 60, 3.0))])),
        follows_demand=draw(st.sampled_from([0.0, -1.0, 0.5])),
        drift=draw(st.sampled_from([None, Drift(0.9, 0.2)])),
        regimes=draw(st.sampled_from([None, Regimes(5.0, 0.5)])),
    )


@st.composite
def campaigns(draw: DrawFn, market: str, segments: str) -> Campaign:
    sizes = len(SEGMENTS[segments])
    menu = draw(st.sampled_from([((1.0, PPM),), MENU]))
    return Campaign(
        market=market,
        bid=draw(st.sampled_from([60_000, 20_000, 5_000, 5_000, 500, 3, 1, 0])),
        budget=draw(st.sampled_from([10**12, 10**12, 2_000_000, 100_000, 7_000, 1])),
        charging=draw(st.sampled_from(Charging)),
        period=draw(st.sampled_from(Period)),
        reach=draw(st.sampled_from([0.3, 1.0])),
        value_sigma=draw(st.sampled_from([0.0, 0.5, 1.5])),
        correlation=draw(st.sampled_from([0.0, 0.5, -0.9])),
        ctrs=draw(st.lists(st.sampled_from([0.4, 0.4, 0.02, 1.0, 0.0]), min_size=1, max_size=3).map(tuple)),
        wear=draw(st.sampled_from([0.0, 0.5])) if segments in COUNTED else 0.0,
        rest_hours=draw(st.sampled_from([1.0, math.inf])),
        cvr=draw(st.sampled_from([0.1, 1.0])),
        delays=draw(st.sampled_from(DELAYS)),
        per_click=draw(st.sampled_from([1.0, 3.0])),
        value_spread=0.0 if menu == MENU else draw(st.sampled_from([0.0, 1.0])),
        menu=menu,
        refund_rate=draw(st.sampled_from([0.0, 0.4])),
        refund_hours=draw(st.sampled_from([0.0, 6.0])),
        modifiers=draw(st.sampled_from([(PPM,), (0,), (1_700_000,)])) + draw(st.sampled_from([(PPM,), (0,)]))
        if sizes > 1
        else (),
        paused=draw(st.sampled_from([False, False, False, False, True])),
    )


@st.composite
def worlds(draw: DrawFn) -> tuple[WorldFactory, ControlState]:
    names = ("a", "b", "c")
    choices = draw(st.sampled_from([sorted(COUNTED), sorted(SEGMENTS)]))
    told = {name: draw(st.sampled_from(choices)) for name in names}
    all_markets = {name: draw(markets(told[name])) for name in names}
    places = draw(st.lists(st.sampled_from(names), min_size=2, max_size=6))
    members = [draw(campaigns(name, told[name])) for name in places]
    grid = TickGrid(draw(st.sampled_from(STARTS)), tick_minutes=60, ticks=TICKS, zone="Europe/Berlin")
    attribution = None
    if all(each in COUNTED for each in told.values()):
        attribution = draw(st.sampled_from([None, *(Attribution(credit, 24.0 * 9) for credit in CREDITS)]))
        if attribution is not None and draw(st.booleans()):
            attribution = Attribution(attribution.credit, 5.0, 0.3)
    several = attribution is not None and attribution.credit is not last_click
    spells = tuple(Spell(10 * place, 10 * place + 15, 0.5 * place, (0, place)) for place in range(3))
    troubles = Troubles(
        *(draw(st.sampled_from([(), spells])) for _ in range(2)),
        draw(st.sampled_from([(), (Spell(20, 40, 0.0, (0,)),)])),
    )
    return world_of(
        members,
        all_markets,
        grid,
        draw(st.integers(0, 2**40)),
        record="" if several else "events",
        people=PEOPLE_HERE,
        attribution=attribution,
        troubles=draw(st.sampled_from([NO_TROUBLES, troubles])),
        tell_prices=True,
    )


def assert_same(one: Batch, other: Batch) -> None:
    assert np.array_equal(one.counts.values, other.counts.values)
    assert same(one.events, other.events)
    assert same_prices(one.prices, other.prices)
    assert np.array_equal(one.truth, other.truth) if one.truth is not None else other.truth is None


rehearsed = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.slow
@rehearsed
@given(worlds(), st.sets(st.integers(1, TICKS - 1), min_size=1, max_size=4))
def test_neither_cuts_nor_groups_of_markets_nor_a_restored_state_nor_recording_change_a_byte(
    world: tuple[WorldFactory, ControlState], cuts: set[int]
) -> None:
    factory, controls = world
    whole = run(factory(everyone(factory)), controls, FULL)
    source = factory(everyone(factory))
    first, *later = sorted(cuts)
    begun = run(source, controls, (0, first))
    state = source.state()
    rest = run(source, controls, (first, *later, TICKS))
    assert np.array_equal(np.concatenate((begun.counts.values, rest.counts.values)), whole.counts.values)
    assert same(Events.concatenate([begun.events, rest.events]), whole.events)
    assert whole.prices is not None
    assert begun.prices is not None
    assert rest.prices is not None
    assert same_prices(begun.prices.plus(rest.prices), whole.prices)
    source.restore(state)
    assert_same(run(source, controls, (first, TICKS)), rest)
    silent = replace(factory, record_events=False, tell_prices=False)
    assert np.array_equal(run(silent(everyone(silent)), controls, FULL).counts.values, whole.counts.values)
    joined = factory.joined[factory.campaigns.market]
    for group in np.unique(joined):
        members = np.flatnonzero(joined == group)
        cells = factory.campaigns.cells_of(members)
        part = run(factory(members), controls.select(factory.campaigns, members), FULL)
        mine = replace(whole.counts, values=whole.counts.values[:, cells])
        truth = None if whole.truth is None else whole.truth[:, cells]
        events = whole.events.take(np.isin(whole.events.campaign, members))
        assert_same(part, replace(whole, counts=mine, events=events, truth=truth, prices=whole.prices.select(members)))


@pytest.mark.slow
@rehearsed
@given(worlds(), st.data())
def test_no_world_with_everything_switched_on_breaks_the_physics(
    world: tuple[WorldFactory, ControlState], data: st.DataObject
) -> None:
    factory, controls = world
    source = factory(everyone(factory))
    daily = factory.campaigns.period == Period.DAY
    charged = np.zeros(len(factory.campaigns), dtype=np.int64)
    batches, cuts = [], [0, *sorted(data.draw(st.sets(st.integers(1, TICKS - 1), max_size=3))), TICKS]
    for start, stop in pairwise(cuts):
        budget = np.array([data.draw(st.sampled_from([1, 60_000, int(old), 3 * int(old)])) for old in controls.budget])
        controls = replace(controls, scalar=np.stack((controls.bid, budget), axis=1))
        batch = source.advance(start, stop, controls)
        batches.append(batch)
        spend = batch.counts.of_campaigns(factory.campaigns.cell_start)[:, :, SPEND]
        for tick in range(start, stop):
            if tick and factory.grid.closes_day[tick - 1]:
                charged[daily] = 0
            charged += spend[tick - start]
            assert ((charged <= budget) | (spend[tick - start] == 0)).all()  # nothing is spent above a budget cut
        resting = controls.paused[factory.campaigns.cell_campaign]
        assert not batch.counts.values[:, resting, BIDS].any()
        assert_paid_within_bids(factory, controls, batch.events)
        assert_every_impression_is_priced(factory, controls, batch)
    counts = np.concatenate([batch.counts.values for batch in batches])
    assert_counts_are_possible(factory, counts)
    events = Events.concatenate([batch.events for batch in batches])
    if factory.record_events:
        told = [IMPRESSIONS, CLICKS, CONVERSIONS, SPEND, REVENUE, REFUNDS]
        folded = fold(events, factory.grid, 0, TICKS, factory.campaigns.cells).values
        assert np.array_equal(folded[:, :, told], counts[:, :, told])
    if factory.attribution is not None:
        truth = np.concatenate([batch.truth for batch in batches if batch.truth is not None])
        assert_credit_is_whole(factory, counts, truth)
    assert not len(source.state().conversions)  # every conversion and refund of the run has been booked
    assert not len(source.state().refunds)


def assert_counts_are_possible(factory: WorldFactory, counts: Int64) -> None:
    assert (counts >= 0).all()
    for less, more in pairwise((CLICKS, IMPRESSIONS, BIDS, OPPORTUNITIES)):
        assert (counts[:, :, less] <= counts[:, :, more]).all()
    assert (counts[:, :, PEOPLE] <= counts[:, :, IMPRESSIONS]).all()
    assert (counts[:, :, REFUNDS].cumsum(axis=0) <= counts[:, :, REVENUE].cumsum(axis=0)).all()
    people = {audience.name: audience.people for audience in factory.people}
    reached = np.add.reduceat(counts[:, :, PEOPLE].sum(axis=0), factory.campaigns.cell_start[:-1])
    for campaign, market in enumerate(factory.campaigns.market):
        known = {segment.audience for segment in factory.markets[market].segments}
        assert reached[campaign] <= sum(people[name] for name in known if name is not None)


def assert_credit_is_whole(factory: WorldFactory, counts: Int64, truth: Int64) -> None:
    """Credit sums to one conversion each, of which cells have booked what is whole, and carry the rest."""
    caused, credited, right = (truth[:, :, place].sum() for place in range(3))
    assert right <= credited <= caused * PPM
    booked = counts[:, :, CONVERSIONS].sum() * PPM
    assert booked <= credited < booked + factory.campaigns.cells * PPM
    if factory.attribution is not None and not factory.attribution.lost_ids:  # its own click is always in the window
        assert credited == caused * PPM


def assert_every_impression_is_priced(factory: WorldFactory, controls: ControlState, batch: Batch) -> None:
    """And none above the bid in force."""
    prices = batch.prices
    assert prices is not None
    wins, value = (np.zeros(len(factory.campaigns), dtype=np.int64) for _ in range(2))
    np.add.at(wins, prices.campaign, prices.wins)
    np.add.at(value, prices.campaign, prices.value_ppm)
    assert np.array_equal(wins, batch.counts.of_campaigns(factory.campaigns.cell_start)[:, :, IMPRESSIONS].sum(axis=0))
    assert (prices.bin <= bin_of(np.maximum(controls.bid, 1))[prices.campaign]).all()
    assert (prices.bin >= lowest_bins(controls.bid)[prices.campaign]).all()
    certain = factory.response.value_sigma == 0
    assert np.array_equal(value[certain], wins[certain] * PPM)


def assert_paid_within_bids(factory: WorldFactory, controls: ControlState, events: Events) -> None:
    """Every impression that was charged for costs its reserve at least and its bid at most, or under first price it."""
    campaigns = factory.campaigns
    per_impression = campaigns.charging[events.campaign] == Charging.PER_IMPRESSION
    seen = events.take((events.kind == Kind.IMPRESSION) & per_impression)
    seen = seen.take(np.linspace(0, len(seen) - 1, min(len(seen), 50)).astype(np.int64))
    for campaign, cell, high, low, paid in zip(
        seen.campaign, seen.cell, seen.event_high, seen.event_low, seen.price_micros, strict=True
    ):
        market = factory.markets[campaigns.market[campaign]]
        modified = int(controls.bid[campaign]) * int(controls.modifiers[campaigns.cell_audience[cell]]) // PPM
        bid = bid_for(modified, value_of(factory, int(campaign), int(high) >> 36, int(low) >> 2 & 0xFFFFFFFF))
        assert max(market.reserve_micros, 1) <= paid <= bid + 1  # a logarithm may round otherwise here than there
        assert not market.first_price or paid >= bid - 1


def value_of(factory: WorldFactory, campaign: int, tick: int, index: int) -> float:
    """What an opportunity is worth to a campaign, from its draws."""
    response, place = factory.response, factory.campaigns.market[campaign]
    key = np.uint64(key_of(factory.seed, "campaign", factory.campaigns.ids[campaign]))
    own = normal(uniform(word(index, tick, VALUE, key)))
    correlation = response.correlation[campaign]
    market = np.uint64(key_of(factory.seed, "market", factory.campaigns.markets[place]))
    heat = normal(uniform(word(index, tick, PRICE, market))) if correlation else 0.0
    spread = float(response.value_sigma[campaign])
    return math.exp(spread * (correlation * heat + math.sqrt(1 - correlation**2) * own))


@pytest.mark.slow
@rehearsed
@given(worlds(), st.sampled_from(CREDITS), st.sampled_from([0.0, 1.0]))
def test_attribution_moves_money_between_cells_and_makes_none(
    world: tuple[WorldFactory, ControlState], credit: Any, lost: float
) -> None:
    factory, controls = world
    counted = all(segment.audience for market in factory.markets for segment in market.segments)
    if not counted:
        factory = with_people(factory)
    plain = replace(factory, attribution=None, record_events=False)
    moved = replace(plain, attribution=Attribution(credit, 24.0 * 9, lost))
    without, batch = (run(each(everyone(each)), controls, FULL) for each in (plain, moved))
    of_auctions = [OPPORTUNITIES, BIDS, IMPRESSIONS, CLICKS, SPEND, PEOPLE]
    assert np.array_equal(without.counts.values[:, :, of_auctions], batch.counts.values[:, :, of_auctions])
    for money in (REVENUE, REFUNDS):
        expected = without.counts.values[:, :, money].sum(axis=1) * (lost == 0)
        assert batch.counts.values[:, :, money].sum(axis=1).tolist() == expected.tolist()
    assert batch.truth is not None
    assert batch.truth[:, :, 0].tolist() == without.counts.values[:, :, CONVERSIONS].tolist()


def with_people(factory: WorldFactory) -> WorldFactory:
    """The same, all its markets being about people who are counted."""
    markets = tuple(
        replace(market, segments=tuple(replace(segment, audience="x") for segment in market.segments))
        for market in factory.markets
    )
    return replace(factory, markets=markets)
