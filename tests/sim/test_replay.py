from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

from engine.campaigns import Charging, Period
from engine.events import COUNTS, OUTSIDE_SUPPORT, Opportunities, Status
from engine.policy import EventSource
from sim.auction import Market
from sim.replay import AuctionReplayFactory, IntervalReplayFactory, Intervals
from sim.traffic import Traffic
from tests.sim.builders import GRID, MARKET, Campaign, everyone, run, total, world_of
from tests.sim.test_world import CAMPAIGNS, MARKETS

FIRST_PRICE = tuple(MARKETS[name].first_price for name in sorted(MARKETS))


def log(prices: list[int], clicks: list[int], values: list[float], ticks: list[int] | None = None) -> Opportunities:
    n = len(prices)
    zeros = np.zeros(n, dtype=np.int64)
    return Opportunities(
        market=zeros.astype(np.int32),
        campaign=zeros.astype(np.int32),
        cell=zeros.astype(np.int32),
        tick=np.array(ticks or [0] * n, dtype=np.int32),
        index=np.arange(n, dtype=np.int32),
        event_time=zeros + GRID.start_us,
        value=np.array(values),
        predicted_ctr=np.full(n, 0.5),
        price_micros=np.array(prices, dtype=np.int64),
        price_status=np.full(n, Status.KNOWN, dtype=np.uint8),
        click_if_won=np.array(clicks, dtype=np.uint8),
        conversion_if_won=zeros.astype(np.uint8),
        conversion_time=zeros,
        conversion_value_micros=zeros,
    )


@pytest.mark.parametrize("spans", [(0, 48), (0, 1, 30, 48)])
def test_a_recorded_simulation_replays_to_its_own_numbers(spans: tuple[int, ...]) -> None:
    factory, controls = world_of(CAMPAIGNS, MARKETS, record="opportunities")
    recorded = run(factory(everyone(factory)), controls, (0, 48))
    shuffled = recorded.opportunities.take(np.random.default_rng(0).permutation(len(recorded.opportunities)))
    for rows in (recorded.opportunities, shuffled):
        replay = AuctionReplayFactory(factory.campaigns, GRID, rows, FIRST_PRICE)(everyone(factory))
        again = run(replay, controls, spans)
        assert np.array_equal(again.counts.values, recorded.counts.values)
    rows = recorded.opportunities
    assert again.auctions == len(set(zip(rows.market.tolist(), rows.tick.tolist(), rows.index.tolist(), strict=True)))


@pytest.mark.parametrize("charging", list(Charging))
@pytest.mark.parametrize("first_price", [False, True])
@pytest.mark.parametrize("budget", [40_000, 400_000, 10**12])
def test_every_auction_charging_and_budget_replays(charging: Charging, budget: int, *, first_price: bool) -> None:
    market = replace(MARKET, first_price=first_price, reserve_micros=1_000)
    members = [
        Campaign(bid=5_000 + 500 * place, budget=budget, charging=charging, period=period, ctrs=(0.3, 0.1))
        for place, period in enumerate((Period.DAY, Period.FLIGHT, Period.DAY))
    ]
    grid = replace(GRID, ticks=96)
    factory, controls = world_of(members, {"m": market}, grid, record="opportunities")
    recorded = run(factory(everyone(factory)), controls, (0, 96))
    replay = AuctionReplayFactory(factory.campaigns, grid, recorded.opportunities, (first_price,))(everyone(factory))
    assert np.array_equal(run(replay, controls, (0, 50, 96)).counts.values, recorded.counts.values)


def test_a_replay_is_an_event_source_and_a_shard_keeps_its_rows_alone() -> None:
    factory, controls = world_of(CAMPAIGNS, MARKETS, record="opportunities")
    recorded = run(factory(everyone(factory)), controls, (0, 48))
    replays = AuctionReplayFactory(factory.campaigns, GRID, recorded.opportunities, FIRST_PRICE)
    replays = pickle.loads(pickle.dumps(replays))  # noqa: S301 - our own bytes
    for members in (np.array([1]), np.array([0, 2, 5, 6]), np.array([3, 4])):
        replay = replays(members)
        assert isinstance(replay, EventSource)
        part = run(replay, controls.select(factory.campaigns, members), (0, 48))
        assert np.array_equal(part.counts.values, recorded.counts.values[:, factory.campaigns.cells_of(members)])


@pytest.mark.parametrize(("ties_win", "impressions", "spend"), [(True, 3, 200), (False, 2, 100)])
def test_whether_a_tie_wins_is_an_option(ties_win: bool, impressions: int, spend: int) -> None:  # noqa: FBT001 - a parameter
    factory, controls = world_of([Campaign(bid=100)])
    rows = log([99, 100, 101, 1], [1, 0, 1, 0], [1.0] * 4)
    counts = total(
        run(AuctionReplayFactory(factory.campaigns, GRID, rows, ties_win=ties_win)(np.array([0])), controls, (0, 48))
    )
    assert counts == dict.fromkeys(COUNTS, 0) | {
        "opportunities": 4,
        "bids": 4,
        "impressions": impressions,
        "clicks": 1,
        "spend_micros": spend,
    }


def test_bids_the_log_cannot_speak_for_are_counted() -> None:
    factory, controls = world_of([Campaign(bid=100)])
    rows = log([10] * 5, [0] * 5, [0.005, 0.9, 1.0, 1.2, 1.0])
    rows = replace(rows, price_status=np.array([0, 0, 0, 0, 1], dtype=np.uint8))
    replay = AuctionReplayFactory(factory.campaigns, GRID, rows, logged_bid_micros=100)(np.array([0]))
    counts = total(run(replay, controls, (0, 48)))
    assert (counts["opportunities"], counts["bids"], counts["outside_support"], counts["impressions"]) == (5, 4, 2, 3)
    assert COUNTS[OUTSIDE_SUPPORT] == "outside_support"


def test_a_budget_is_kept_to_the_auction_and_opens_again_with_the_day() -> None:
    grid = replace(GRID, ticks=96)
    factory, controls = world_of([Campaign(bid=100, budget=250)], grid=grid)
    rows = log([90] * 8, [0] * 8, [1.0] * 8, ticks=[0, 0, 0, 47, 48, 48, 95, 95])
    replay = AuctionReplayFactory(factory.campaigns, grid, rows)(np.array([0]))
    counts = run(replay, controls, (0, 40, 96)).counts.values[:, 0]
    assert counts[[0, 47, 48, 95]].tolist() == [
        [3, 2, 0, 2, 0, 0, 180, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        [2, 2, 0, 2, 0, 0, 180, 0, 0, 0, 0],
        [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ]


def test_lower_bids_in_a_replay_win_what_the_world_would_sell_a_lone_campaign() -> None:
    factory, controls = world_of([Campaign()], {"m": Market(Traffic(500.0), 5_000.0, 0.6)}, record="opportunities")
    recorded = run(factory(np.array([0])), controls, (0, 48))
    lower = replace(controls, scalar=np.array([[2_500, 10**12]]))
    simulated = run(factory(np.array([0])), lower, (0, 48))
    replay = AuctionReplayFactory(factory.campaigns, GRID, recorded.opportunities)(np.array([0]))
    assert np.array_equal(run(replay, lower, (0, 48)).counts.values, simulated.counts.values)


def test_rows_outside_the_calendar_are_refused() -> None:
    factory, _ = world_of([Campaign()])
    replays = AuctionReplayFactory(factory.campaigns, GRID, log([1], [0], [1.0], ticks=[48]))
    with pytest.raises(ValueError, match=r"tick \(=48\) of an opportunity must be in \[0, 48\)"):
        replays(np.array([0]))


def test_rows_of_a_strange_creative_are_refused() -> None:
    factory, _ = world_of([Campaign(), Campaign()])
    for cell in (1, 2, -1):
        rows = replace(log([1], [0], [1.0]), cell=np.array([cell], dtype=np.int32))
        with pytest.raises(ValueError, match=rf"cell \(={cell}\) of an opportunity must be one of its campaign \(=0\)"):
            AuctionReplayFactory(factory.campaigns, GRID, rows)(everyone(factory))


def test_intervals_come_out_as_logged_whatever_the_controls() -> None:
    factory, controls = world_of([Campaign(), Campaign(ctrs=(0.1, 0.1)), Campaign()])
    rows = Intervals(
        cell=np.array([3, 0, 1, 1]),
        tick=np.array([5, 0, 2, 2]),
        impressions=np.array([10, 20, 30, 40]),
        clicks=np.array([1, 2, 3, 4]),
        conversions=np.array([0, 1, 0, 2]),
        spend_micros=np.array([100, 200, 300, 400]),
        revenue_micros=np.array([5, 6, 7, 8]),
    )
    replays = IntervalReplayFactory(factory.campaigns, GRID, rows)
    whole = replays(everyone(factory))
    assert isinstance(whole, EventSource)
    assert whole.factual
    counts = run(whole, replace(controls, paused=~controls.paused), (0, 2, 48)).counts.values
    expected = np.zeros_like(counts)
    expected[5, 3] = [0, 0, 0, 10, 1, 0, 100, 5, 0, 0, 0]
    expected[0, 0] = [0, 0, 0, 20, 2, 1, 200, 6, 0, 0, 1]
    expected[2, 1] = [0, 0, 0, 70, 7, 2, 700, 15, 0, 0, 2]
    assert np.array_equal(counts, expected)
    part = run(replays(np.array([1, 2])), controls, (0, 48)).counts.values
    assert np.array_equal(part, expected[:, 1:])
