"""The simulated world against closed forms.

Every bound is 4.5 standard errors of its own estimate (a correct world fails one with probability 7e-6), or a p-value
of 1e-6 for the distribution tests; seeds are fixed, so a test that passes keeps passing.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import gammaincc, kolmogorov, ndtr

from engine.events import BIDS, IMPRESSIONS, Kind, Opportunities
from engine.policy import Batch
from sim.auction import Market, PriceShock
from sim.traffic import Curves, Traffic
from tests.sim.builders import GRID, Campaign, everyone, run, total, world_of

SIGMAS = 4.5
LEVEL, PRICE_SIGMA, BID = 5_000.0, 0.6, 4_500
BUSY = Market(Traffic(8_000.0), LEVEL, PRICE_SIGMA)


def simulate(campaign: Campaign, market: Market = BUSY, record: str = "") -> Batch:
    factory, controls = world_of([campaign], {"m": market}, seed=20260302, record=record)
    return run(factory(everyone(factory)), controls, (0, GRID.ticks))


def assert_mean(values: NDArray[np.float64], expected: float) -> None:
    error = values.std(ddof=1) / math.sqrt(values.size)
    assert abs(values.mean() - expected) < SIGMAS * error, (values.mean(), expected, error)


def assert_share(hits: int, trials: int, expected: float) -> None:
    error = math.sqrt(expected * (1 - expected) / trials)
    assert abs(hits / trials - expected) < SIGMAS * error, (hits / trials, expected, error)


@pytest.mark.parametrize("value_sigma", [0.0, 0.5])
def test_win_rate_and_mean_price_of_second_price_auctions(value_sigma: float) -> None:
    counts = total(simulate(Campaign(bid=BID, value_sigma=value_sigma)))
    # bid = B·exp(σᵥ z), price = L·exp(σₚ z'): won where log price - log bid < 0, a normal of variance σᵥ² + σₚ²
    spread = math.hypot(value_sigma, PRICE_SIGMA)
    gap = math.log(BID / LEVEL)
    assert_share(counts["impressions"], counts["bids"], float(ndtr(gap / spread)))
    # E[price; won] = E[price]·P(won with the price's log mean raised by σₚ²)
    expected = LEVEL * math.exp(PRICE_SIGMA**2 / 2) * float(ndtr((gap - PRICE_SIGMA**2) / spread))
    second_moment = LEVEL**2 * math.exp(2 * PRICE_SIGMA**2) * float(ndtr((gap - 2 * PRICE_SIGMA**2) / spread))
    error = math.sqrt((second_moment - expected**2) / counts["bids"])
    assert abs(counts["spend_micros"] / counts["bids"] - expected) < SIGMAS * error + 0.5  # half a micro of rounding


def test_first_price_auctions_cost_the_bid() -> None:
    flat = total(simulate(Campaign(bid=BID, value_sigma=0.0), replace(BUSY, first_price=True)))
    assert flat["spend_micros"] == BID * flat["impressions"]
    assert_share(flat["impressions"], flat["bids"], float(ndtr(math.log(BID / LEVEL) / PRICE_SIGMA)))


def test_a_reserve_is_the_least_price_anyone_pays() -> None:
    reserve = 4_000
    market = replace(BUSY, reserve_micros=reserve)
    counts = total(simulate(Campaign(bid=BID, value_sigma=0.0), market))
    assert_share(counts["impressions"], counts["bids"], float(ndtr(math.log(BID / LEVEL) / PRICE_SIGMA)))
    below = float(ndtr(math.log(reserve / LEVEL) / PRICE_SIGMA))
    mean = LEVEL * math.exp(PRICE_SIGMA**2 / 2)

    def partial(x: float) -> float:
        return mean * float(ndtr(math.log(x / LEVEL) / PRICE_SIGMA - PRICE_SIGMA))

    expected = reserve * below + partial(BID) - partial(reserve)
    assert abs(counts["spend_micros"] / counts["bids"] - expected) < SIGMAS * BID / math.sqrt(counts["bids"])
    assert total(simulate(Campaign(bid=reserve - 1, value_sigma=0.0), market))["impressions"] == 0


def test_a_price_shock_moves_the_level_while_it_lasts() -> None:
    market = replace(BUSY, shocks=(PriceShock(10, 30, 2.0), PriceShock(20, 40, 0.8)))
    batch = simulate(Campaign(bid=BID, value_sigma=0.0), market)
    for start, stop, factor in ((0, 10, 1.0), (10, 20, 2.0), (20, 30, 1.6), (30, 40, 0.8), (40, 48, 1.0)):
        won, entered = batch.counts.values[start:stop, :, [IMPRESSIONS, BIDS]].sum(axis=(0, 1)).tolist()
        assert_share(won, entered, float(ndtr(math.log(BID / (LEVEL * factor)) / PRICE_SIGMA)))


def test_reach_thins_the_auctions() -> None:
    batch = simulate(Campaign(reach=0.3))
    assert_share(total(batch)["opportunities"], batch.auctions, 0.3)


def test_arrivals_are_poisson_around_the_daily_curve() -> None:
    traffic = Traffic(6.0, amplitude=0.5, peak_hour=20.0)
    markets = {f"m{place:03}": Market(traffic, LEVEL, PRICE_SIGMA) for place in range(400)}
    campaigns = [Campaign(market, id=market) for market in sorted(markets)]
    factory, controls = world_of(campaigns, markets)
    arrivals = run(factory(everyone(factory)), controls, (0, GRID.ticks)).counts.values[:, :, 0]
    mean = Curves([traffic], GRID).mean(0, GRID.ticks)[:, 0]
    for t in range(GRID.ticks):
        assert abs(arrivals[t].mean() - mean[t]) < SIGMAS * math.sqrt(mean[t] / 400)
    observed = np.bincount(arrivals.ravel(), minlength=25)[:25].astype(np.float64)
    observed[24] += (arrivals >= 25).sum()
    probability = np.array([[math.exp(-m + n * math.log(m) - math.lgamma(n + 1)) for n in range(25)] for m in mean])
    probability[:, 24] = 1 - probability[:, :24].sum(axis=1)
    expected = 400 * probability.sum(axis=0)
    large = expected >= 5
    statistic = ((observed - expected)[large] ** 2 / expected[large]).sum()
    assert gammaincc((large.sum() - 1) / 2, statistic / 2) > 1e-6  # chi-square


def responses() -> Opportunities:
    campaign = Campaign(value_sigma=0.5, ctrs=(0.2,), cvr=0.4, delay_hours=3.0, value_micros=80_000.0)
    return simulate(campaign, record="opportunities").opportunities


def test_clicks_come_at_the_predicted_rate_which_is_the_creatives_on_average() -> None:
    rows = responses()
    assert_mean(rows.value, math.exp(0.5**2 / 2))
    assert_mean(rows.predicted_ctr, 0.2)
    assert_mean(rows.click_if_won - rows.predicted_ctr, 0.0)
    likely = rows.predicted_ctr > 0.3
    assert_mean((rows.click_if_won - rows.predicted_ctr)[likely], 0.0)


def test_conversions_their_delay_and_their_value() -> None:
    rows = responses()
    assert_share(int(rows.conversion_if_won.sum()), int(rows.click_if_won.sum()), 0.4)
    rows = rows.take(rows.conversion_if_won == 1)
    delay = np.sort((rows.conversion_time - rows.event_time) / 3.6e9)
    cdf = 1 - np.exp(-delay / 3.0)
    steps = np.arange(delay.size + 1) / delay.size
    distance = max(np.abs(cdf - steps[1:]).max(), np.abs(cdf - steps[:-1]).max())
    assert kolmogorov(distance * math.sqrt(delay.size)) > 1e-6
    assert_mean(rows.conversion_value_micros.astype(np.float64), 80_000.0)
    logs = np.log(rows.conversion_value_micros)
    assert_mean((logs - logs.mean()) ** 2, 0.25)


def test_draws_of_different_purposes_and_entities_are_uncorrelated() -> None:
    factory, controls = world_of([Campaign(), Campaign()], {"m": BUSY}, seed=5, record="opportunities")
    rows = run(factory(everyone(factory)), controls, (0, GRID.ticks)).opportunities
    mine, other = rows.take(rows.campaign == 0), rows.take(rows.campaign == 1)
    columns = np.stack((np.log(mine.value), np.log(other.value), mine.click_if_won - mine.predicted_ctr))
    correlation = np.corrcoef(columns)[np.triu_indices(3, 1)]
    assert (np.abs(correlation) < SIGMAS / math.sqrt(len(mine))).all()
    neighbours = np.corrcoef(np.log(mine.value)[1:], np.log(mine.value)[:-1])[0, 1]
    assert abs(neighbours) < SIGMAS / math.sqrt(len(mine))


def test_per_click_campaigns_pay_on_average_what_an_impression_costs() -> None:
    batch = simulate(Campaign(bid=BID, value_sigma=0.0, ctrs=(0.3,)), record="events")
    clicks = simulate(replace(Campaign(bid=BID, value_sigma=0.0, ctrs=(0.3,)), charging=1), record="events")  # type: ignore[arg-type]
    per_impression = batch.events.price_micros[batch.events.kind == Kind.IMPRESSION]
    per_click = clicks.events.price_micros[clicks.events.kind == Kind.CLICK]
    assert total(batch)["impressions"] == total(clicks)["impressions"]
    error = per_impression.std() * math.sqrt(1 / per_click.size + 1 / per_impression.size)
    assert abs(per_click.mean() * 0.3 - per_impression.mean()) < SIGMAS * error
