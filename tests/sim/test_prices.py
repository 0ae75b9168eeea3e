"""At which prices campaigns win, as world and replay tell it, against the same recomputed in plain NumPy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.campaigns import Charging
from engine.events import IMPRESSIONS
from engine.policy import Batch
from engine.prices import WINDOW, Prices, bin_of, least_in_bin, lowest_bins
from engine.units import PPM
from sim.auction import Market, Segment
from sim.replay import AuctionReplayFactory, IntervalReplayFactory, Intervals
from sim.traffic import Traffic
from tests.sim.builders import GRID, MARKET, Campaign, everyone, priced, run, same_prices, world_of
from tests.sim.test_replay import log
from tests.sim.test_world import CAMPAIGNS, MARKETS

WHOLE = (0, GRID.ticks)
PARTS = (0, 7, 8, 30, GRID.ticks)


def rows_of(prices: Prices | None) -> list[tuple[int, ...]]:
    assert prices is not None
    return list(zip(*(column.tolist() for column in vars(prices).values()), strict=True))


@pytest.mark.parametrize("charging", list(Charging))
@pytest.mark.parametrize("first_price", [False, True])
def test_a_single_campaigns_prices_are_those_of_its_won_opportunities(charging: Charging, *, first_price: bool) -> None:
    """Whatever is charged, what is told is the least that would have won."""
    market = replace(MARKET, first_price=first_price, reserve_micros=1_000)
    factory, controls = world_of(
        [Campaign(bid=7_000, charging=charging)], {"m": market}, record="opportunities", tell_prices=True
    )
    batch = run(factory(everyone(factory)), controls, WHOLE)
    rows = batch.opportunities
    won = rows.take(np.floor(7_000 * rows.value) >= rows.price_micros)
    assert len(won) == batch.counts.values[:, :, IMPRESSIONS].sum() > 1_000
    assert same_prices(batch.prices, priced(won, controls.bid))


def test_telling_prices_changes_no_count_and_recording_changes_no_price() -> None:
    plain, controls = world_of(CAMPAIGNS, MARKETS)
    silent = run(plain(everyone(plain)), controls, WHOLE)
    telling = replace(plain, tell_prices=True)
    whole = run(telling(everyone(plain)), controls, WHOLE)
    assert silent.prices is None
    assert np.array_equal(whole.counts.values, silent.counts.values)
    recording = replace(telling, record_events=True, record_opportunities=True)
    for other, spans in ((telling, PARTS), (recording, WHOLE), (recording, PARTS)):
        batch = run(other(everyone(plain)), controls, spans)
        assert np.array_equal(batch.counts.values, silent.counts.values)
        assert same_prices(batch.prices, whole.prices)


@pytest.mark.parametrize("spans", [WHOLE, PARTS])
def test_a_recorded_simulation_replays_to_its_own_prices(spans: tuple[int, ...]) -> None:
    factory, controls = world_of(CAMPAIGNS, MARKETS, record="opportunities", tell_prices=True)
    recorded = run(factory(everyone(factory)), controls, WHOLE)
    first_price = tuple(MARKETS[name].first_price for name in sorted(MARKETS))
    replays = AuctionReplayFactory(factory.campaigns, GRID, recorded.opportunities, first_price, tell_prices=True)
    again = run(replays(everyone(factory)), controls, spans)
    assert same_prices(again.prices, recorded.prices)
    members = np.array([0, 2, 5, 6])
    part = run(replays(members), controls.select(factory.campaigns, members), spans)
    assert recorded.prices is not None
    assert same_prices(part.prices, recorded.prices.select(members))


def test_an_audiences_modifier_cancels() -> None:
    """An audience of half the auctions for which the campaign bids double at double prices looks like the other."""
    market = replace(MARKET, segments=(Segment(0.5, price=2.0), Segment(0.5)), price_sigma=0.0)
    campaign = Campaign(bid=10_000, value_sigma=0.0, modifiers=(2 * PPM, PPM))
    factory, controls = world_of([campaign], {"m": market}, tell_prices=True)
    batch = run(factory(everyone(factory)), controls, WHOLE)
    won = int(batch.counts.values[:, :, IMPRESSIONS].sum())
    assert (batch.counts.values[:, :, IMPRESSIONS].sum(axis=0) > 1_000).all()
    assert rows_of(batch.prices) == [(0, int(bin_of([5_000.0])[0]), won, won * PPM)]


def test_every_slots_price_is_what_keeps_it_and_unseen_impressions_are_not_counted() -> None:
    """Three campaigns bid 9, 6 and 3 thousand for two slots: the first pays the second's bid, the second the third's.

    Ties go to the lower position, so that each pays a micro more than the next bid only where that comes first.
    """
    market = Market(Traffic(200.0), level_micros=5_000.0, price_sigma=0.0, competitors=0, exposure=(1.0, 0.4))
    campaigns = [Campaign(bid=bid, value_sigma=0.0) for bid in (3_000, 9_000, 6_000)]
    factory, controls = world_of(campaigns, {"m": market}, tell_prices=True)
    batch = run(factory(everyone(factory)), controls, WHOLE)
    none, first, second = (int(count) for count in batch.counts.values[:, :, IMPRESSIONS].sum(axis=0))
    assert (none, 0 < second < first) == (0, True)
    assert rows_of(batch.prices) == [
        (1, int(bin_of([6_000.0])[0]), first, first * PPM),
        (2, int(bin_of([3_001.0])[0]), second, second * PPM),
    ]


def test_cheap_wins_are_counted_in_the_lowest_bin() -> None:
    factory, controls = world_of([Campaign(bid=4_096)])
    logged = log([1, 15, 16, 17, 18, 4_096, 4_097], [0] * 7, [1.0] * 7)
    replay = AuctionReplayFactory(factory.campaigns, GRID, logged, tell_prices=True)(everyone(factory))
    top = int(bin_of([4_096.0])[0])
    lowest = top - WINDOW + 1
    assert lowest_bins(controls.bid).tolist() == [lowest]
    assert least_in_bin([lowest, lowest + 1]).tolist() == [18.0, 20.0]
    told = run(replay, controls, WHOLE).prices
    assert rows_of(told) == [(0, lowest, 5, 5 * PPM), (0, top, 1, PPM)]


def test_a_price_is_per_unit_of_value() -> None:
    factory, controls = world_of([Campaign(bid=1_000)])
    logged = log([500, 1_000, 250, 100], [0] * 4, [1.0, 2.0, 0.5, 1e-4])
    replay = AuctionReplayFactory(factory.campaigns, GRID, logged, tell_prices=True)(everyone(factory))
    told = run(replay, controls, WHOLE).prices
    assert rows_of(told) == [(0, int(bin_of([500.0])[0]), 3, 3_500_000)]


def test_a_campaign_without_a_bid_and_a_tick_without_auctions_tell_nothing() -> None:
    factory, controls = world_of([Campaign(bid=0), Campaign(paused=True)], tell_prices=True)
    assert rows_of(run(factory(everyone(factory)), controls, WHOLE).prices) == []
    none: Batch = factory(everyone(factory)).advance(3, 3, controls)
    assert rows_of(none.prices) == []


def test_an_interval_log_cannot_tell() -> None:
    factory, controls = world_of([Campaign()])
    column = np.ones(1, dtype=np.int64)
    replay = IntervalReplayFactory(factory.campaigns, GRID, Intervals(0 * column, *(column,) * 6))(everyone(factory))
    assert run(replay, controls, WHOLE).prices is None
