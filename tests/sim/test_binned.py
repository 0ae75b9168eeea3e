"""Counted opportunities are those drawn one by one, in distribution; tested at stated rates of false alarm."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.stats import chi2, norm

from agents.rollout import Rollout
from engine.events import BIDS, IMPRESSIONS, OPPORTUNITIES, SPEND
from engine.prices import lowest_bins
from engine.units import Float64
from sim import binned, streams
from sim.bidding import BiddingTask
from sim.streams import Entry, Laws, Offers

ALARM = 1e-3
"""The share of false alarms of every family of comparisons below, shared out evenly (Bonferroni)."""
EPISODES, STEPS = 3_000, 2
GRID = [(value, price, rho) for value in (0.4, 1.0) for price in (0.4, 0.9) for rho in (0.0, 0.6)]
PLACES = (-2.6, -1.2, -0.5, 0.0, 0.8)  # bids, in standard deviations of log price per value
LEVEL = np.log(1e6)


def entered(draw: Any, seed: int, law: tuple[float, float, float], bid: float, budget: float = 1e15) -> Float64:
    """Wins, spend and value of many steps of about 90 opportunities; float64[3, episodes]."""
    n = EPISODES
    key = np.random.default_rng(seed).integers(2**63, size=(2, n), dtype=np.uint64)
    counts = np.random.default_rng(seed + 1).poisson(90, (n, STEPS))
    value, price, rho = (np.full(n, each) for each in law)
    market = draw(Laws(key[0], key[1], counts, np.full((n, STEPS), LEVEL), price, value, rho))
    whole, entry = np.ones(n, dtype=np.int64), Entry.of(n)
    bids, charged = np.int64(bid) * whole, 0 * whole
    market.play(1, STEPS, Offers(bids, np.int64(budget) * whole, charged, lowest_bins(bids)), entry)
    assert np.array_equal(entry.counts[:, SPEND], charged)
    assert np.array_equal(entry.counts[:, OPPORTUNITIES], counts[:, 1])
    won = entry.won.sum(axis=1)
    assert np.array_equal(won[:, 0], entry.counts[:, IMPRESSIONS])
    return np.stack([won[:, 0], charged, won[:, 1]]).astype(np.float64)


def test_wins_spend_and_value_have_the_same_mean_and_variance() -> None:
    comparisons = len(GRID) * len(PLACES) * 3 * 2
    least = norm.isf(ALARM / comparisons / 2)
    worst = 0.0
    for number, law in enumerate(GRID):
        value, price, rho = law
        sigma = np.sqrt(price**2 + value**2 - 2 * rho * price * value)
        for place in PLACES:
            bid = np.exp(LEVEL + place * sigma)
            one = entered(streams.draw, 10 * number, law, bid)
            other = entered(binned.draw, 10 * number + 5, law, bid)
            mean = (one.mean(axis=1) - other.mean(axis=1)) / np.sqrt((one.var(axis=1) + other.var(axis=1)) / EPISODES)
            spread = [np.log(np.abs(each - each.mean(axis=1, keepdims=True)) + 1).T for each in (one, other)]
            between = (spread[0].mean(axis=0) - spread[1].mean(axis=0)) / np.sqrt(
                (spread[0].var(axis=0) + spread[1].var(axis=0)) / EPISODES
            )
            if place > -2:  # else single wins, whose absolute deviations are no smooth measure of spread
                worst = max(worst, np.abs(between).max())
            worst = max(worst, np.abs(mean).max())
    assert worst < least


def test_counts_of_bins_are_multinomial() -> None:
    size, draws = 137, 4_000
    counts = np.empty((draws, binned.BINS), dtype=np.int64)
    words = np.random.default_rng(3).integers(2**32, size=(draws, 200), dtype=np.uint64)
    for place in range(draws):
        binned._split(size, words[place], counts[place])
    assert (counts.sum(axis=1) == size).all()
    share = np.diff(binned._SHARES)
    expected = draws * size * share
    assert ((counts.sum(axis=0) - expected) ** 2 / expected).sum() < chi2.isf(ALARM, binned.BINS - 1)
    variance = size * share * (1 - share)
    fourth = variance * (1 + 3 * variance)  # about the fourth moment of a binomial: what its variance varies by
    z = (counts.var(axis=0) - variance) / np.sqrt((fourth - variance**2) / draws)
    assert np.abs(z).max() < norm.isf(ALARM / binned.BINS / 2)


def test_a_higher_bid_wins_no_less_and_the_same_bid_the_same() -> None:
    wins = [entered(binned.draw, 1, (0.7, 0.6, 0.3), bid)[0] for bid in np.exp(LEVEL + np.linspace(-1, 1, 41))]
    assert all((later >= sooner).all() for sooner, later in pairwise(wins))
    assert np.array_equal(wins[7], entered(binned.draw, 1, (0.7, 0.6, 0.3), np.exp(LEVEL - 0.65))[0])


def test_a_budget_that_runs_out_is_spent_and_leaves_its_share() -> None:
    law, bid = (0.7, 0.6, 0.3), np.exp(LEVEL)
    whole = entered(binned.draw, 1, law, bid)
    half = entered(binned.draw, 1, law, bid, 0.5 * whole[1].min())
    assert (half[1] == np.floor(0.5 * whole[1].min())).all()
    assert np.allclose(half[2] / whole[2], half[1] / whole[1], rtol=1e-5)
    assert (np.abs(half[0] - whole[0] * half[1] / whole[1]) <= 1).all()


def test_the_hindsight_optimum_agrees() -> None:
    task = BiddingTask()
    one, other = (replace(task, market=draw).draw(2, np.arange(1_500)) for draw in (streams.draw, binned.draw))
    for mine, theirs in ((one.best.value, other.best.value), (one.budget, other.budget)):
        gap = np.log(mine / theirs)
        assert np.abs(gap.mean()) < norm.isf(ALARM / 4) * gap.std() / np.sqrt(len(gap))
        assert gap.std() < 0.05  # both have one traffic and one market; only single draws differ
    threshold = np.log(one.best.threshold / other.best.threshold)
    assert np.abs(threshold.mean()) < 0.005  # a lot is bought at its mean price per value


def test_playing_on_counts_is_playing_on_opportunities() -> None:
    task = BiddingTask()
    shares = []
    for draw in (streams.draw, binned.draw):
        episodes = replace(task, market=draw).draw(2, np.arange(1_500))
        rollout = Rollout(episodes)
        while not rollout.done:
            view = rollout.advance()
            assert (view.recent[:, BIDS] <= view.recent[:, OPPORTUNITIES]).all()
        assert (rollout.charged <= episodes.budget).all()
        shares.append(rollout.value_ppm / 1e6 / episodes.best.value)
    gap = shares[0] - shares[1]
    assert abs(gap.mean()) < norm.isf(ALARM / 2) * gap.std() / np.sqrt(len(gap)) + 0.002  # the last budget is spent
