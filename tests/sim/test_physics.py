from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from engine.campaigns import Charging, ControlState, Period
from engine.events import BIDS, CLICKS, IMPRESSIONS, OPPORTUNITIES, SPEND, Kind
from engine.units import Int64, TickGrid
from sim import draws
from sim.auction import Market, PriceShock
from sim.replay import AuctionReplayFactory
from sim.traffic import Traffic
from sim.world import WorldFactory
from tests.sim.builders import Campaign, everyone, priced, run, same_prices, world_of

STARTS = [
    datetime(2026, 3, 27),  # a day of 23 hours is inside
    datetime(2026, 10, 23, 12),  # a day of 25 hours is inside
    datetime(2026, 6, 1),
]


@st.composite
def campaigns(draw: DrawFn) -> Campaign:
    return Campaign(
        market=draw(st.sampled_from(["a", "b"])),
        bid=draw(st.sampled_from([0, 1, 3, 500, 5_000, 60_000])),
        budget=draw(st.sampled_from([0, 1, 7_000, 100_000, 2_000_000, 10**12])),
        charging=draw(st.sampled_from(Charging)),
        period=draw(st.sampled_from(Period)),
        reach=draw(st.sampled_from([0.0, 0.3, 1.0])),
        value_sigma=draw(st.sampled_from([0.0, 0.5, 1.5])),
        ctrs=draw(st.lists(st.sampled_from([0.0, 0.01, 0.3, 1.0]), min_size=1, max_size=3).map(tuple)),
        cvr=draw(st.sampled_from([0.0, 0.5, 1.0])),
        delay_hours=draw(st.sampled_from([0.0, 0.1, 5.0])),
        paused=draw(st.booleans()),
    )


@st.composite
def worlds(draw: DrawFn) -> tuple[WorldFactory, ControlState]:
    def market() -> Market:
        return Market(
            Traffic(draw(st.sampled_from([0.0, 1.0, 40.0, 700.0])), draw(st.sampled_from([0.0, 1.0])), 20.0),
            level_micros=draw(st.sampled_from([2.0, 700.0, 5_000.0])),
            price_sigma=draw(st.sampled_from([0.0, 0.6, 2.0])),
            reserve_micros=draw(st.sampled_from([0, 3, 2_000])),
            first_price=draw(st.booleans()),
            shocks=(PriceShock(5, 30, 0.5), PriceShock(20, 60, 3.0)),
        )

    grid = TickGrid(draw(st.sampled_from(STARTS)), tick_minutes=60, ticks=72, zone="Europe/Berlin")
    members = draw(st.lists(campaigns(), min_size=1, max_size=5))
    return world_of(
        members,
        {"a": market(), "b": market()},
        grid,
        draw(st.integers(0, 2**40)),
        record="events opportunities",
        tell_prices=True,
    )


@pytest.mark.slow
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds(), st.sampled_from([64, 128, 512]))
def test_what_is_skipped_or_recorded_or_replayed_comes_out_the_same(
    world: tuple[WorldFactory, ControlState], block: int
) -> None:
    factory, controls = world
    recorded = run(factory(everyone(factory)), controls, (0, 72))
    plain = replace(factory, record_events=False, record_opportunities=False)
    silent = replace(plain, tell_prices=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draws, "_LONGEST", block)
        skipped = run(plain(everyone(factory)), controls, (0, 31, 72))
        untold = run(silent(everyone(factory)), controls, (0, 72))
    assert np.array_equal(skipped.counts.values, recorded.counts.values)
    assert np.array_equal(untold.counts.values, recorded.counts.values)
    assert same_prices(skipped.prices, recorded.prices)
    assert untold.prices is None
    first_price = tuple(market.first_price for market in factory.markets)
    replays = AuctionReplayFactory(
        factory.campaigns, factory.grid, recorded.opportunities, first_price, tell_prices=True
    )
    replayed = run(replays(everyone(factory)), controls, (0, 40, 72))
    assert np.array_equal(replayed.counts.values, recorded.counts.values)
    assert same_prices(replayed.prices, recorded.prices)


def periods(factory: WorldFactory) -> Int64:
    """The budget period of every tick and campaign: its local day, or the whole flight."""
    daily = factory.campaigns.period == Period.DAY
    return np.where(daily, factory.grid.day[:, np.newaxis], 0)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(worlds(), st.data())
def test_no_world_breaks_the_physics(world: tuple[WorldFactory, ControlState], data: st.DataObject) -> None:
    factory, controls = world
    source = factory(np.arange(len(factory.campaigns)))
    period = periods(factory)
    charged = np.zeros((int(period.max()) + 1, len(factory.campaigns)), dtype=np.int64)
    cuts = [0, *sorted(data.draw(st.sets(st.integers(1, 71), max_size=3))), 72]
    for start, stop in pairwise(cuts):
        budget = np.array([data.draw(st.sampled_from([1, 60_000, int(old), 3 * int(old)])) for old in controls.budget])
        controls = replace(controls, scalar=np.stack((controls.bid, budget), axis=1))
        before = charged.copy()
        batch = source.advance(start, stop, controls)
        counts = batch.counts.values
        assert (counts[:, :, CLICKS] <= counts[:, :, IMPRESSIONS]).all()
        assert (counts[:, :, IMPRESSIONS] <= counts[:, :, BIDS]).all()
        assert (counts[:, :, BIDS] <= counts[:, :, OPPORTUNITIES]).all()
        by_campaign = batch.counts.of_campaigns(factory.campaigns.cell_start)
        for t in range(stop - start):
            at = (period[start + t], np.arange(len(factory.campaigns)))
            charged[at] += by_campaign[t, :, SPEND]
            assert ((charged[at] <= budget) | (charged[at] == before[at])).all()  # nothing is spent above a budget cut

        rows, events = batch.opportunities, batch.events
        seen = events.take(events.kind == Kind.IMPRESSION)
        place = {key: row for row, key in enumerate(zip(rows.campaign, rows.event_time, rows.index, strict=True))}
        index = seen.event_low >> 2 & 0xFFFFFFFF
        at_row = [place[key] for key in zip(seen.campaign, seen.event_time, index, strict=True)]
        won = rows.take(np.array(at_row, dtype=np.int64))
        bid = np.floor(controls.bid[won.campaign] * won.value).astype(np.int64)
        reserve = np.array([market.reserve_micros for market in factory.markets])[won.market]
        assert (won.price_micros >= np.maximum(reserve, 1)).all()
        assert (bid >= won.price_micros).all()
        first_price = np.array([market.first_price for market in factory.markets])[won.market]
        amount = np.where(first_price, bid, won.price_micros)
        per_click = factory.campaigns.charging[won.campaign] == Charging.PER_CLICK
        paid = np.where(per_click, np.floor(amount / np.maximum(won.predicted_ctr, 1e-300)) * won.click_if_won, amount)
        spend = np.zeros((stop - start, factory.campaigns.cells), dtype=np.int64)
        np.add.at(spend, (won.tick - start, won.cell), paid.astype(np.int64))
        assert np.array_equal(spend, counts[:, :, SPEND])
        assert same_prices(batch.prices, priced(won, controls.bid))
        resting = controls.paused[factory.campaigns.cell_campaign]
        assert not counts[:, resting, BIDS].any()
    assert source.state().conversions.shape[0] == 0  # every conversion of the run has been booked
