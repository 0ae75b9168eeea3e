"""Episodes of the bidding task: what they are drawn from, that they are the world's own, and what hindsight buys."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from scipy.optimize import linprog
from scipy.stats import kstest

from engine.campaigns import ControlState, Period
from engine.events import BIDS, COUNTS, IMPRESSIONS, OPPORTUNITIES, SPEND
from engine.prices import WINDOW, bin_of, lowest_bins
from engine.units import Float64, Int64
from sim.auction import Market
from sim.bidding import REFERENCE_MICROS, BiddingTask, Episodes
from sim.oracle import optimum, whole_cost
from sim.rng import keys_of
from sim.streams import Entry, Laws, Offers, Streams, draw
from sim.traffic import Traffic
from tests.sim.builders import GRID, Campaign, world_of

TASK = BiddingTask()
EPISODES = TASK.draw(5, np.arange(12))
MANY = replace(TASK, volume=(1.0, 2.0)).draw(6, np.arange(4_000))


def lived(streams: Streams, steps: int, bid: Int64, budget: Int64, *, first_price: bool = False) -> Int64:
    """Counts of episodes under constant bids; int64[steps, n, counts]."""
    counts = np.empty((steps, len(bid), len(COUNTS)), dtype=np.int64)
    charged, entry = np.zeros(len(bid), dtype=np.int64), Entry.of(len(bid))
    for step in range(steps):
        streams.play(step, steps, Offers(bid, budget, charged, lowest_bins(bid), first_price), entry)
        counts[step] = entry.counts
    return counts


# --- drawing ---


def test_an_episode_does_not_depend_on_what_is_drawn_beside_it() -> None:
    alone = TASK.draw(5, np.array([7, 3]))
    assert alone.bid.tolist() == EPISODES.bid[[7, 3]].tolist()
    assert alone.budget.tolist() == EPISODES.budget[[7, 3]].tolist()
    for place, number in enumerate((7, 3)):
        for mine, theirs in zip(
            alone.streams.of(place, TASK.steps), EPISODES.streams.of(number, TASK.steps), strict=True
        ):
            assert np.array_equal(mine, theirs)


@pytest.mark.parametrize("first_price", [False, True])
def test_streams_are_the_opportunities_of_the_simulated_world(*, first_price: bool) -> None:
    names, sigmas, correlations = ("a", "b", "c"), (0.4, 0.7, 0.9), (0.0, 0.3, 0.6)
    budgets, bids = (4_000_000, 40_000, 10**12), (9_000, 5_000, 2_000)
    market = Market(Traffic(90.0), level_micros=5_000.0, price_sigma=0.6, first_price=first_price)
    markets = {name: replace(market, price_sigma=sigma) for name, sigma in zip(names, sigmas, strict=True)}
    campaigns = [
        Campaign(name, bid=bid, budget=budget, correlation=correlation, value_sigma=0.8, period=Period.FLIGHT)
        for name, bid, budget, correlation in zip(names, bids, budgets, correlations, strict=True)
    ]
    made, controls = world_of(campaigns, markets, record="opportunities")
    batch = made(np.arange(3)).advance(0, GRID.ticks, controls)
    counts = batch.counts.values
    laws = Laws(
        market_key=keys_of(made.seed, "market", made.campaigns.markets),
        campaign_key=keys_of(made.seed, "campaign", made.campaigns.ids),
        opportunities=np.ascontiguousarray(counts[:, :, OPPORTUNITIES].T),
        log_level=np.full((3, GRID.ticks), np.log(5_000.0)),
        price_sigma=np.array(sigmas),
        value_sigma=np.full(3, 0.8),
        correlation=np.array(correlations),
    )
    streams = draw(laws)
    order = np.lexsort((batch.opportunities.index, batch.opportunities.tick, batch.opportunities.campaign))
    assert np.array_equal(batch.opportunities.value[order], streams.value)
    assert np.array_equal(batch.opportunities.price_micros[order], streams.price)
    flight = np.array(budgets) // 10  # so that two of the three run out of it
    bid = np.array(bids)
    controls = ControlState.initial(made.campaigns, bid, flight)
    again = made(np.arange(3)).advance(0, 48, controls).counts.values
    mine = lived(streams, 48, bid, flight, first_price=first_price)
    named = [OPPORTUNITIES, BIDS, IMPRESSIONS, SPEND]
    assert np.array_equal(mine[:, :, named], again[:, :, named])
    assert (mine[:, :, SPEND].sum(axis=0) <= flight).all()


def test_wins_are_told_by_their_price_per_unit_of_value() -> None:
    streams, n = EPISODES.streams, len(EPISODES)
    bid, budget = EPISODES.bid, np.full(n, 10**15)
    entry, lowest = Entry.of(n), lowest_bins(EPISODES.bid)
    streams.play(20, 48, Offers(bid, budget, np.zeros(n, dtype=np.int64), lowest), entry)
    for e in range(n):
        span = slice(streams.start[e * 48 + 20], streams.start[e * 48 + 21])
        value, price = streams.value[span], streams.price[span]
        offer = np.floor(bid[e] * value)
        won = offer >= price
        place = np.clip(bin_of(price[won] / offer[won] * bid[e]) - lowest[e], 0, WINDOW - 1)
        assert np.array_equal(entry.won[e, :, 0], np.bincount(place, minlength=WINDOW))
        worth = np.rint(value[won] * 1e6)
        assert np.array_equal(entry.won[e, :, 1], np.bincount(place, weights=worth, minlength=WINDOW))


# --- the distributions, each at the 0.1 % level ---


def cost_of_everything(episodes: Episodes) -> Float64:
    return whole_cost(episodes.streams, len(episodes)).astype(np.float64)


def test_budgets_are_uniform_in_their_logarithm_between_a_twentieth_and_a_half() -> None:
    share = np.log(MANY.budget / cost_of_everything(MANY))
    assert kstest(share, "uniform", (np.log(0.05), np.log(10))).pvalue > 0.001


def test_first_bids_miss_the_best_by_a_log_normal_factor() -> None:
    error = np.log(MANY.bid / MANY.best.threshold) / TASK.start_sigma
    assert kstest(error, "norm").pvalue > 0.001


def test_traffic_is_poisson_around_the_curve() -> None:
    flat = replace(TASK, volume=(50.0, 50.0), amplitude=(0.6, 0.6), phase_sigma=0.0)
    counts = np.diff(flat.draw(3, np.arange(2_000)).streams.start).reshape(2_000, 48)
    mean = 50.0 * 48 * flat.known_curve
    z = (counts.mean(axis=0) - mean) / np.sqrt(mean / 2_000)
    assert np.abs(z).max() < 4.2  # 48 steps at 0.1 % together
    spread = counts.var(axis=0, ddof=1) / mean
    assert np.abs(spread - 1).max() < 4.2 * np.sqrt(2 / 1_999)


def test_half_of_the_episodes_have_a_shift_within_the_stated_steps() -> None:
    steady = replace(
        TASK, volume=(60.0, 60.0), price_sigma=(0.01, 0.01), drift_sigma=0.0, season=(0.0, 0.0), level_sigma=0.0,
        amplitude=(0.0, 0.0), half_amplitude=0.0, shift_sigma=2.0,
    )  # fmt: skip
    drawn = steady.draw(4, np.arange(400))
    steps = [np.median(drawn.streams.price[begins:ends]) for begins, ends in pairwise(drawn.streams.start)]
    level = np.log(np.reshape(steps, (400, 48)))
    moved = np.abs(np.diff(level, axis=1)) > 0.02
    shifts = moved.sum(axis=1)
    assert shifts.max() == 1
    assert abs(shifts.mean() - 0.5) < 3.3 * 0.5 / 20 + 0.01  # a shift of less than 0.02 is not seen: 0.8 % of them
    assert set(np.nonzero(moved)[1] + 1) == set(range(8, 40))
    assert abs(np.median(level) - np.log(REFERENCE_MICROS)) < 0.01


# --- hindsight ---


@pytest.mark.parametrize("targeted", [False, True])
def test_the_optimum_is_that_of_the_linear_programme(*, targeted: bool) -> None:
    small = replace(TASK, steps=6, volume=(5.0, 9.0), shift_steps=(1, 4))
    episodes = replace(small, target_range=(-0.6, 0.1) if targeted else None).draw(8, np.arange(25))
    for e in range(25):
        value, price = episodes.streams.of(e, 6)
        rows, limits = [price.astype(np.float64)], [float(episodes.budget[e])]
        if episodes.target is not None:
            rows.append(price - episodes.target[e] * value)
            limits.append(0.0)
        best = linprog(-value, A_ub=np.array(rows), b_ub=limits, bounds=(0, 1))
        assert episodes.best.value[e] == pytest.approx(-best.fun, rel=1e-9)


def test_bidding_the_threshold_wins_all_but_the_marginal_opportunity() -> None:
    budget = np.full(len(EPISODES), 10**15)
    spend = lived(EPISODES.streams, 48, np.floor(EPISODES.best.threshold).astype(np.int64), budget)[:, :, SPEND].sum(0)
    assert (spend <= EPISODES.budget).all()
    dearest = [EPISODES.streams.of(e, 48)[1].max() for e in range(len(EPISODES))]
    assert (EPISODES.budget - spend < 3 * np.array(dearest)).all()


def test_with_money_for_everything_everything_is_bought() -> None:
    best = optimum(EPISODES.streams, whole_cost(EPISODES.streams, len(EPISODES)))
    values = [EPISODES.streams.of(e, 48)[0].sum() for e in range(len(EPISODES))]
    assert best.value == pytest.approx(values)
