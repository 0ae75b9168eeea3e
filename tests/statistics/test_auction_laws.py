"""Auctions against closed forms: the best bids, order statistics, correlation, and competitors that answer.

Every bound is 4.5 standard errors of its own estimate (a correct world fails one with probability 7e-6); seeds are
fixed, so a test that passes keeps passing. Where bids are compared, all meet the same auctions.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtr
from scipy.stats import binom, norm, spearmanr

from engine.campaigns import Charging
from engine.events import BIDS, IMPRESSIONS, REVENUE, SPEND, Kind
from engine.policy import Batch
from sim.auction import Answer, Market
from sim.traffic import Traffic
from tests.sim.builders import GRID, Campaign, everyone, run, world_of

SIGMAS = 4.5
LEVEL, SPREAD = 5_000.0, 0.6
BUSY = Market(Traffic(8_000.0), LEVEL, SPREAD)
WORTH = 6_000  # micros that an impression brings, for certain
CERTAIN = Campaign(value_sigma=0.0, ctrs=(1.0,), cvr=1.0, delay_hours=0.0, value_micros=WORTH, value_spread=0.0)


def simulate(campaign: Campaign, market: Market = BUSY) -> Batch:
    factory, controls = world_of([campaign], {"m": market}, seed=20260302)
    return run(factory(everyone(factory)), controls, (0, GRID.ticks))


def profits(campaign: Campaign, market: Market = BUSY) -> NDArray[np.float64]:
    """Profit of every tick, micros."""
    counts = simulate(campaign, market).counts.values.sum(axis=1)
    profit: NDArray[np.float64] = (counts[:, REVENUE] - counts[:, SPEND]).astype(np.float64)
    return profit


def assert_share(hits: float, trials: float, expected: float) -> None:
    error = math.sqrt(expected * (1 - expected) / trials)
    assert abs(hits / trials - expected) < SIGMAS * error + 1e-12, (hits / trials, expected, error)


def assert_more(profit: NDArray[np.float64], less: NDArray[np.float64]) -> None:
    """More in the mean, by more than chance: paired over ticks."""
    gain = profit - less
    assert gain.mean() > SIGMAS * gain.std(ddof=1) / math.sqrt(gain.size)


@pytest.mark.slow
def test_in_second_price_auctions_no_constant_bid_beats_the_true_value() -> None:
    """Vickrey, Journal of Finance 16, 1961: whatever the prices are, so the bound needs no statistics."""
    bids = [WORTH + step for step in (-3_000, -1_000, -300, -30, 0, 30, 300, 1_000, 3_000)]
    mean = {bid: profits(replace(CERTAIN, bid=bid)).mean() for bid in bids}
    assert max(mean, key=lambda bid: mean[bid]) == WORTH
    below, above = [bid for bid in bids if bid <= WORTH], [bid for bid in bids if bid >= WORTH]
    assert [mean[bid] for bid in below] == sorted(mean[bid] for bid in below)
    assert [mean[bid] for bid in above] == sorted((mean[bid] for bid in above), reverse=True)
    # Σ (worth - price) over the prices up to the bid: E[price; won] as in test_world_distributions
    for bid in (5_000, WORTH, 9_000):
        gap = math.log(bid / LEVEL)
        won = float(ndtr(gap / SPREAD))
        paid = LEVEL * math.exp(SPREAD**2 / 2) * float(ndtr(gap / SPREAD - SPREAD))
        profit, expected = profits(replace(CERTAIN, bid=bid)), 8_000 * (WORTH * won - paid)
        assert abs(profit.mean() - expected) < SIGMAS * profit.std(ddof=1) / math.sqrt(profit.size)


@pytest.mark.parametrize("charging", Charging)
def test_it_is_the_best_bid_where_clicks_conversions_and_values_are_drawn_as_well(charging: Charging) -> None:
    ctr, cvr, value = 0.2, 0.5, 100_000.0
    worth = round(ctr * cvr * value * math.exp(-(0.4**2) / 2))  # of an opportunity of reference value 1
    campaign = Campaign(
        value_sigma=0.4, ctrs=(ctr,), cvr=cvr, delay_hours=0.0, value_micros=value, value_spread=0.0, charging=charging
    )
    truthful = profits(replace(campaign, bid=worth))
    for factor in (0.5, 2.0):
        assert_more(truthful, profits(replace(campaign, bid=round(factor * worth))))


def test_in_first_price_auctions_the_best_bid_shades_by_the_odds_over_the_density() -> None:
    """b = v - F(b) / f(b), the first-order condition of (v - b)·F(b), F being the log-normal price's."""

    def won(bid: float) -> float:
        return float(ndtr(math.log(bid / LEVEL) / SPREAD))

    def shading(bid: float) -> float:
        density = math.exp(-((math.log(bid / LEVEL) / SPREAD) ** 2) / 2) / (bid * SPREAD * math.sqrt(2 * math.pi))
        return won(bid) / density

    best = brentq(lambda bid: WORTH - bid - shading(bid), 1.0, WORTH)
    assert 3_000 < best < 4_500
    market = replace(BUSY, first_price=True)
    profit = {
        factor: profits(replace(CERTAIN, bid=round(factor * best)), market) for factor in (0.7, 0.85, 1, 1.2, 1.4)
    }
    for factor, seen in profit.items():
        bid = round(factor * best)
        expected = 8_000 * (WORTH - bid) * won(bid)
        assert abs(seen.mean() - expected) < SIGMAS * seen.std(ddof=1) / math.sqrt(seen.size)
        if factor != 1:
            assert_more(profit[1], seen)


@pytest.mark.parametrize("competitors", [1, 2, 10, 2_000])
def test_the_price_of_a_slot_is_an_order_statistic_of_the_competitors(competitors: int) -> None:
    """The k-th best of n is at most b where fewer than k of n are above it, which is binomial."""
    for slots in (1, 2, 4):
        for chance in (0.1, 0.5, 0.9):  # that the best competitor is below
            below = chance ** (1 / competitors)
            bid = round(LEVEL * math.exp(SPREAD * float(norm.ppf(below))))
            above = float(ndtr(-math.log((bid + 0.5) / LEVEL) / SPREAD))  # prices are rounded, and lose ties
            market = replace(BUSY, competitors=competitors, exposure=(1.0,) * slots, traffic=Traffic(1_000.0))
            counts = simulate(replace(CERTAIN, bid=bid), market).counts.values.sum(axis=(0, 1))
            expected = float(binom.cdf(slots - 1, competitors, above))
            assert_share(counts[IMPRESSIONS], counts[BIDS], expected)


@pytest.mark.parametrize("competitors", [3, 6, 40])
def test_whoever_wins_a_slot_pays_the_best_of_those_below(competitors: int) -> None:
    """Of n uniform ranks K are above p, binomially, and the best of the others is p·U^(1 / (n - K))."""
    chance = 0.3 ** (1 / competitors)
    bid = round(5e6 * math.exp(SPREAD * float(norm.ppf(chance))))
    market = replace(BUSY, level_micros=5e6, competitors=competitors, exposure=(1.0,) * 3, traffic=Traffic(800.0))
    factory, controls = world_of([replace(CERTAIN, bid=bid)], {"m": market}, record="events")
    events = run(factory(everyone(factory)), controls, (0, GRID.ticks)).events
    rank = ndtr(np.log(events.price_micros[events.kind == Kind.IMPRESSION] / 5e6) / SPREAD)
    above = np.arange(3)
    likely, left = binom.pmf(above, competitors, 1 - chance), competitors - above
    paid = np.where(left > 0, chance * left / (left + 1), 0.0)  # nobody left: a micro
    expected = (likely * paid).sum() / likely.sum()
    assert abs(rank.mean() - expected) < SIGMAS * rank.std(ddof=1) / math.sqrt(rank.size)


@pytest.mark.parametrize("correlation", [-0.7, 0.3, 0.9])
def test_the_win_rate_knows_the_correlation_of_value_and_price(correlation: float) -> None:
    spread = 0.5
    for bid in (4_000, 6_000):
        counts = simulate(Campaign(bid=bid, value_sigma=spread, correlation=correlation)).counts.values.sum(axis=(0, 1))
        of_gap = math.sqrt(spread**2 + SPREAD**2 - 2 * correlation * spread * SPREAD)
        assert_share(counts[IMPRESSIONS], counts[BIDS], float(ndtr(math.log(bid / LEVEL) / of_gap)))


@pytest.mark.parametrize(("competitors", "correlation"), [(1, -0.6), (1, 0.4), (8, 0.4)])
def test_value_and_the_best_price_have_the_copulas_rank_correlation(competitors: int, correlation: float) -> None:
    """Spearman's ρ of a Gaussian copula is 6/π·asin(r/2) (Kruskal, JASA 53, 1958); its error is at most 1/√(n - 1)."""
    market = replace(BUSY, level_micros=5e8, competitors=competitors, traffic=Traffic(500.0))
    factory, controls = world_of(
        [Campaign(value_sigma=0.5, correlation=correlation)], {"m": market}, record="opportunities"
    )
    rows = run(factory(everyone(factory)), controls, (0, GRID.ticks)).opportunities
    seen = spearmanr(rows.value, rows.price_micros).statistic
    assert abs(seen - 6 / math.pi * math.asin(correlation / 2)) < SIGMAS / math.sqrt(len(rows) - 1)
    logs = np.log(rows.value)  # and the value keeps its own law
    assert abs(logs.mean()) < SIGMAS * 0.5 / math.sqrt(len(rows))
    assert abs((logs**2).mean() - 0.25) < SIGMAS * 0.25 * math.sqrt(2 / len(rows))


@pytest.mark.parametrize(("strength", "persistence"), [(1.5, 0.5), (1.5, 0.0), (-0.6, 0.7)])
def test_the_share_settles_where_the_competitions_answer_meets_it(strength: float, persistence: float) -> None:
    """s = Φ((log b - log level - strength·s) / σ); chance in s itself shifts that by less than 1e-4 here.

    An answer that pushes back makes the share's mean less variable than that of independent auctions; one that gives
    way more, by 1 / (1 - slope) at most.
    """
    bid = 5_500

    def answered(share: float) -> float:
        return float(ndtr((math.log(bid / LEVEL) - strength * share) / SPREAD))

    fixed = brentq(lambda share: share - answered(share), 0.0, 1.0)
    slope = (answered(fixed + 1e-6) - answered(fixed - 1e-6)) / 2e-6
    market = replace(BUSY, answer=Answer(strength, persistence))
    settled = simulate(replace(CERTAIN, bid=bid), market).counts.values[24:].sum(axis=(0, 1))
    error = math.sqrt(fixed * (1 - fixed) / settled[BIDS]) / min(1.0, 1 - slope)
    assert abs(settled[IMPRESSIONS] / settled[BIDS] - fixed) < SIGMAS * error + 1e-4
    unanswered = simulate(replace(CERTAIN, bid=bid)).counts.values[24:].sum(axis=(0, 1))
    assert (unanswered[IMPRESSIONS] > settled[IMPRESSIONS]) == (strength > 0)
