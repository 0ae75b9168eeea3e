"""The price landscape: what wins and losses tell of the price per unit of value."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest

from agents.horizon import EVEN, Curve, Horizon
from agents.landscape import Landscape, Prior, Target
from engine.campaigns import ControlState, Period
from engine.events import BIDS, IMPRESSIONS, OPPORTUNITIES
from engine.policy import View
from engine.prices import Prices, bin_of, least_in_bin, lowest_bins
from engine.units import Float64, TickGrid
from sim.streams import Entry, Offers, Streams
from tests.engine.builders import campaign_set

NOTHING = Prior(weight=1e-9)
FREE = Target(np.full(1, np.inf), np.zeros(1), np.zeros(1), np.zeros(1))
ANCHOR = 1_000
CAMPAIGN = campaign_set()


def seen(value: Float64, price: Float64, bid: int, tick: int = 0) -> View:
    """What a campaign with all the money it wants sees of these opportunities under a bid."""
    streams = Streams(np.array([0, len(value)]), value, price.astype(np.int64))
    bids, entry = np.array([bid]), Entry.of(1)
    money = np.array([10**15])
    streams.play(0, 1, Offers(bids, money, np.zeros(1, dtype=np.int64), lowest_bins(bids)), entry)
    controls = ControlState.initial(CAMPAIGN, bids, money)
    return View(
        tick, controls, entry.counts, entry.counts, entry.counts, prices=Prices.of(entry.won, lowest_bins(bids))
    )


def market(seed: int, n: int) -> tuple[Float64, Float64]:
    """Values and prices: log-normal, correlated, the median price per value a third above the anchor."""
    z, other = np.random.default_rng(seed).normal(size=(2, n))
    value = np.exp(0.7 * z)
    return value, np.maximum(np.rint(1_333 * np.exp(0.6 * (0.3 * z + np.sqrt(0.91) * other))), 1)


def test_a_bid_that_wins_everything_shows_the_distribution_itself() -> None:
    value, price = market(1, 20_000)
    known = Landscape.unseen(np.array([ANCHOR]), NOTHING).learn(seen(value, price, 15_900), 1.0)
    ratio = price / value
    for edge in least_in_bin(known.lowest[0] + np.arange(12, 60, 6)):
        below = np.flatnonzero(ratio < edge)
        told = known.outlook(np.array([int(np.ceil(edge))]))[0]
        assert told[0] == pytest.approx(len(below) / len(ratio), rel=0.01, abs=2e-4)
        assert told[1] == pytest.approx(price[below].sum() / len(ratio), rel=0.02, abs=1)
        assert told[2] == pytest.approx(value[below].sum() / len(ratio), rel=0.01, abs=2e-4)


def test_survival_is_the_product_limit_of_the_textbook() -> None:
    """Of 600 prices 200 are low; 200 are lost at a middling bid; of the other 200, half are middling: S = 2/3 · 1/2."""
    low, middle, high = (float(each) for each in least_in_bin(bin_of(1_000.0) + np.array([0, 8, 16])))
    first = seen(np.ones(400), np.repeat([low * 1.06, high], 200), int(middle) + 1)
    second = seen(np.ones(200), np.repeat([middle * 1.07, high * 1.07], 100), int(4 * high), tick=1)
    known = Landscape.unseen(np.array([ANCHOR]), NOTHING).learn(first, 1.0).learn(second, 1.0)
    won = [known.outlook(np.array([int(bid)]))[0, 0] for bid in (middle, high)]
    assert won == pytest.approx([1 / 3, 2 / 3], rel=0.02)  # hazards are constant within bins, which costs 1.1 % here


def test_what_is_lost_is_censored_and_not_taken_for_dear() -> None:
    """Under bids that move, the share below the anchor comes out within four standard errors of the truth."""
    known = Landscape.unseen(np.array([ANCHOR]), NOTHING)
    for tick, bid in enumerate((400, 700, 1_500, 900, 2_500, 1_200, 600, 4_000)):
        known = known.learn(seen(*market(10 + tick, 4_000), bid, tick), 1.0)
    value, price = market(99, 400_000)
    truth = price / value < ANCHOR
    told = known.outlook(np.array([ANCHOR]))[0]
    error = np.sqrt(truth.mean() * (1 - truth.mean()) / 8_000)  # at least as many auctions tell of it
    assert abs(told[0] - truth.mean()) < 4 * error
    assert told[1] == pytest.approx((price * truth).mean(), rel=0.08)


def test_the_threshold_is_the_bid_whose_expected_cost_was_asked_for() -> None:
    known = Landscape.unseen(np.array([ANCHOR]), NOTHING).learn(seen(*market(3, 5_000), 3_000), 1.0)
    for cost in (50.0, 200.0, 600.0):
        bid = known.threshold(np.array([cost]), FREE)
        assert known.outlook(np.rint(bid).astype(np.int64))[0, 1] == pytest.approx(cost, rel=0.02)


def test_a_target_lowers_the_threshold_to_where_the_average_keeps_it() -> None:
    known = Landscape.unseen(np.array([ANCHOR]), NOTHING).learn(seen(*market(3, 5_000), 3_000), 1.0)
    aim = Target(np.array([700.0]), np.array([30_000.0]), np.array([40.0]), np.array([200.0]))
    bid = known.threshold(np.array([1e9]), aim)
    _, cost, value = known.outlook(np.rint(bid).astype(np.int64))[0]
    assert (30_000 + 200 * cost) / (40 + 200 * value) == pytest.approx(700, rel=0.01)
    assert known.threshold(np.array([100.0]), aim)[0] < bid[0]  # with little money the budget binds first


def test_where_winners_pay_their_bid_the_threshold_is_what_all_that_is_won_costs_at_it() -> None:
    told = seen(*market(3, 5_000), 3_000)
    second = Landscape.unseen(np.array([ANCHOR]), NOTHING).learn(told, 1.0)
    first = Landscape.unseen(np.array([ANCHOR]), NOTHING, np.array([True])).learn(told, 1.0)
    value, price = market(3, 5_000)
    for cost in (50.0, 200.0, 600.0):
        bid = first.threshold(np.array([cost]), FREE)
        spent = (bid[0] * value * (price <= bid[0] * value)).mean()
        assert spent == pytest.approx(cost, rel=0.04)
        assert first.outlook(np.rint(bid).astype(np.int64))[0, 1] == pytest.approx(cost, rel=0.02)
        assert bid[0] < second.threshold(np.array([cost]), FREE)[0]


def test_old_auctions_fade() -> None:
    cheap, dear = market(4, 5_000), market(5, 5_000)
    dear = dear[0], dear[1] * 3
    before = Landscape.unseen(np.array([ANCHOR]), NOTHING).learn(seen(*cheap, 3_000), 1.0)
    kept, faded = (before.learn(seen(*dear, 3_000, 1), keep).outlook(np.array([ANCHOR]))[0, 0] for keep in (1.0, 0.05))
    only = (
        Landscape.unseen(np.array([ANCHOR]), NOTHING).learn(seen(*dear, 3_000), 1.0).outlook(np.array([ANCHOR]))[0, 0]
    )
    assert only < faded < kept
    assert faded == pytest.approx(only, abs=0.03)


def test_before_anything_is_seen_the_prior_speaks() -> None:
    prior = Prior(weight=60, offset=0.0, sigma=1.0)
    told = Landscape.unseen(np.array([ANCHOR]), prior).outlook(np.array([ANCHOR]))[0]
    assert told[0] == pytest.approx(0.5, abs=0.01)  # half of a log-normal lies below its median


def test_campaigns_are_told_apart_and_do_not_depend_on_who_stands_beside_them() -> None:
    three = campaign_set((1, 1, 1))
    views = [seen(*market(20 + place, 500), bid) for place, bid in enumerate((900, 1_500, 2_600))]
    prices = Prices.merge([(np.array([place]), view.prices) for place, view in enumerate(views) if view.prices])
    recent = np.concatenate([view.recent for view in views])
    bids = np.array([900, 1_500, 2_600])
    controls = ControlState.initial(three, bids, np.full(3, 10**15))
    together = Landscape.unseen(bids, Prior()).learn(View(0, controls, recent, recent, recent, prices=prices), 0.9)
    for place, view in enumerate(views):
        alone = Landscape.unseen(bids[[place]], Prior()).learn(view, 0.9)
        for mine, theirs in zip(alone, together, strict=True):
            assert np.array_equal(mine[0], theirs[place])


def test_wins_far_below_the_window_are_kept_in_its_lowest_bin() -> None:
    value, price = np.full(10, 1_000.0), np.full(10, 2.0)
    known = Landscape.unseen(np.array([ANCHOR]), NOTHING).learn(seen(value, price, ANCHOR), 1.0)
    assert known.wins[0, 0] == pytest.approx(10)
    assert seen(value, price, ANCHOR).recent[0, [OPPORTUNITIES, BIDS, IMPRESSIONS]].tolist() == [10, 10, 10]
    assert known.wins.sum() == pytest.approx(10)


# --- what is still to come ---


def test_a_period_that_closes_leaves_all_of_the_next() -> None:
    grid = TickGrid(datetime(2026, 3, 2), 60, 48, "UTC")
    campaigns = replace(campaign_set((1, 1)), period=np.array([Period.DAY, Period.FLIGHT]))
    horizon = Horizon.of(campaigns, grid, EVEN)
    assert horizon.left(11) == pytest.approx([0.5, 0.75])
    assert horizon.left(23) == pytest.approx([1.0, 0.5])
    assert horizon.gone(23) == pytest.approx([1.0, 0.5])
    assert horizon.closed(23).tolist() == [True, False]


def test_levels_are_those_of_equal_parts_of_the_local_day() -> None:
    grid = TickGrid(datetime(2026, 3, 2), 30, 48, "UTC")
    assert Curve(levels=(1.0, 3.0)).at(grid).tolist() == [1.0] * 24 + [3.0] * 24
    assert Curve(0.5, 12.0).at(grid)[[23, 47]] == pytest.approx([1.5, 0.5], abs=0.002)


def test_every_campaign_may_have_a_curve_of_its_own() -> None:
    grid = TickGrid(datetime(2026, 3, 2), 60, 7 * 24, "UTC")
    week = Curve(week=tuple(np.repeat([1.0, 3.0], [5 * 24, 2 * 24])))
    campaigns = replace(campaign_set((1, 1, 1)), period=np.array([Period.DAY, Period.FLIGHT, Period.FLIGHT]))
    horizon = Horizon.of(campaigns, grid, (week, week, EVEN))
    assert horizon.left(5 * 24 - 13) == pytest.approx([0.5, 1 - 4.5 / 11, 1 - 4.5 / 7])
    assert horizon.gone(6 * 24 - 1) == pytest.approx([6.0, 8 / 11, 6 / 7])
