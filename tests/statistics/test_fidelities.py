"""The aggregate fidelity against the one of single auctions: one law, two ways to draw it.

Both are run over thousands of ticks that are alike, on seeds of their own, and compared in the means, variances and
correlations of a tick's counts. Every bound is 4.5 standard errors of the difference, each estimated from the ticks by
the statistic's influence function (so that no normality is assumed); a correct pair fails one comparison with
probability 7e-6, and all of this file with less than 5e-3. Seeds are fixed, so a test that passes keeps passing.

What the aggregate fidelity approximates is told beside its bound: a budget that runs out inside a tick, and campaigns
of the account that meet.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.campaigns import Charging, ControlState, Period
from engine.events import BIDS, CLICKS, CONVERSIONS, IMPRESSIONS, OPPORTUNITIES, PEOPLE, REFUNDS, REVENUE, SPEND
from engine.units import TickGrid
from sim.auction import Answer, BotClicks, Drift, Market, Segment
from sim.people import Audience
from sim.traffic import Traffic
from sim.world import WorldFactory
from tests.sim.builders import Campaign, everyone, run, world_of
from tests.sim.fidelities import aggregate_of, in_segments

SIGMAS = 4.5
ROUNDING = 1e-9
TICKS = 3_000
MONTHS = TickGrid(datetime(2026, 3, 2), tick_minutes=30, ticks=TICKS)
BUSY = Market(Traffic(600.0), level_micros=5_000.0, price_sigma=0.6)
MEANS = {
    "opportunities": OPPORTUNITIES,
    "impressions": IMPRESSIONS,
    "clicks": CLICKS,
    "conversions": CONVERSIONS,
    "spend": SPEND,
    "revenue": REVENUE,
    "refunds": REFUNDS,
}
PAIRS = ((IMPRESSIONS, SPEND), (IMPRESSIONS, CLICKS), (CLICKS, SPEND))


@dataclass(frozen=True)
class Setting:
    """One world: what differs from a busy second-price market."""

    campaign: Campaign = field(default_factory=lambda: Campaign(delay_hours=0.2))
    market: Market = BUSY
    correlation: float = 0.0
    segments: tuple[Segment, ...] = ()
    modifiers: tuple[int, ...] = ()
    refund_rate: float = 0.0
    per_click: float = 1.0

    def build(self, seed: int) -> tuple[WorldFactory, ControlState]:
        factory, controls = world_of([self.campaign], {"m": self.market}, grid=MONTHS, seed=seed)
        response = replace(factory.response, correlation=np.array([self.correlation]))
        conversions = replace(
            factory.conversions,
            refund_rate=np.array([self.refund_rate]),
            refund_hours=np.array([1.0]),
            per_click=np.array([self.per_click]),
        )
        factory = replace(factory, response=response, conversions=conversions)
        return in_segments(factory, controls, self.segments, self.modifiers) if self.segments else (factory, controls)


CLICKS_CHARGED = Campaign(charging=Charging.PER_CLICK, delay_hours=0.2)
UNEVEN = (Segment(0.5, price=1.3, ctr=0.5), Segment(0.2, price=0.6, ctr=2.0, cvr=1.5), Segment(0.3, value=2.0))
SETTINGS = {
    "second price": Setting(),
    "few wins": Setting(Campaign(bid=900, delay_hours=0.2)),
    "hardly any win": Setting(Campaign(bid=500, delay_hours=0.2)),
    "nearly every win": Setting(Campaign(bid=40_000, delay_hours=0.2)),
    "few auctions": Setting(Campaign(ctrs=(0.3,), delay_hours=0.2), replace(BUSY, traffic=Traffic(4.0))),
    "overdispersed": Setting(market=replace(BUSY, traffic=Traffic(600.0, dispersion=0.1))),
    "flat value": Setting(Campaign(value_sigma=0.0, delay_hours=0.2)),
    "flat value, few wins": Setting(Campaign(value_sigma=0.0, bid=1_000, delay_hours=0.2)),
    "flat price": Setting(Campaign(bid=4_000), replace(BUSY, price_sigma=0.0)),
    "nobody else": Setting(Campaign(bid=4_000), replace(BUSY, competitors=0, reserve_micros=3_000)),
    "reserve": Setting(market=replace(BUSY, reserve_micros=4_000)),
    "high reserve": Setting(Campaign(bid=3_000, delay_hours=0.2), replace(BUSY, reserve_micros=6_000)),
    "high reserve, few wins": Setting(Campaign(bid=3_000), replace(BUSY, reserve_micros=6_000, traffic=Traffic(40.0))),
    "reserve, flat value": Setting(Campaign(value_sigma=0.0), replace(BUSY, reserve_micros=4_000)),
    "first price": Setting(market=replace(BUSY, first_price=True)),
    "first price, few wins": Setting(Campaign(bid=900), replace(BUSY, first_price=True)),
    "first price, flat value, reserve": Setting(
        Campaign(value_sigma=0.0), replace(BUSY, first_price=True, reserve_micros=3_000)
    ),
    "correlated": Setting(correlation=0.7),
    "correlated against": Setting(correlation=-0.5),
    "competitors": Setting(Campaign(bid=9_000), replace(BUSY, competitors=7)),
    "competitors, correlation, reserve": Setting(
        Campaign(bid=7_000), replace(BUSY, competitors=7, reserve_micros=7_000), correlation=0.5
    ),
    "competitors, correlation, reserve, few": Setting(
        Campaign(bid=7_000), replace(BUSY, competitors=7, reserve_micros=7_000, traffic=Traffic(20.0)), correlation=0.5
    ),
    "clicks charged": Setting(CLICKS_CHARGED),
    "many clicks charged": Setting(replace(CLICKS_CHARGED, ctrs=(0.2,)), correlation=-0.4),
    "clicks charged, reserve": Setting(CLICKS_CHARGED, replace(BUSY, reserve_micros=5_000)),
    "clicks charged, first price": Setting(CLICKS_CHARGED, replace(BUSY, first_price=True)),
    "clicks charged, flat value": Setting(replace(CLICKS_CHARGED, value_sigma=0.0)),
    "predicted CTR at its cap": Setting(replace(CLICKS_CHARGED, ctrs=(0.5,)), replace(BUSY, traffic=Traffic(20.0))),
    "predicted CTR at its cap, busy": Setting(replace(CLICKS_CHARGED, ctrs=(0.5,), bid=2_500)),
    "cap, impressions charged": Setting(Campaign(ctrs=(0.5,), bid=2_500, delay_hours=0.2)),
    "segments and creatives": Setting(
        Campaign(ctrs=(0.1, 0.05), reach=0.7, delay_hours=0.2), segments=UNEVEN, modifiers=(800_000, 1_300_000, 10**6)
    ),
    "a slot seldom seen": Setting(market=replace(BUSY, exposure=(0.4,))),
    "machines": Setting(market=replace(BUSY, bots=(BotClicks(0, TICKS, 0.05),))),
    "machines, clicks charged": Setting(
        replace(CLICKS_CHARGED, ctrs=(0.01,)), replace(BUSY, bots=(BotClicks(0, TICKS, 0.02),))
    ),
    "several conversions and refunds": Setting(refund_rate=0.3, per_click=2.5),
}


def ticks_of(
    build: Callable[[int], tuple[WorldFactory, ControlState]], *, aggregate: bool, ticks: int = TICKS
) -> NDArray[np.float64]:
    """Counts of the account, tick by tick, in one of the two fidelities, on its own seed."""
    factory, controls = build(1 if aggregate else 2)
    chosen = aggregate_of(factory) if aggregate else factory
    batch = run(chosen(everyone(factory)), controls, (0, ticks))
    return batch.counts.values.sum(axis=1).astype(np.float64)


def assert_same(name: str, statistic: Callable[[NDArray[Any]], tuple[float, NDArray[Any]]], *samples: Any) -> None:
    """Whether two samples agree in a statistic, given with each tick's influence on it."""
    (one, influence), (other, others) = statistic(samples[0]), statistic(samples[1])
    error = math.sqrt(influence.var() / influence.size + others.var() / others.size)
    assert abs(one - other) <= SIGMAS * error + ROUNDING, (
        name,
        one,
        other,
        (one - other) / error if error else math.inf,
    )


def mean(values: NDArray[Any]) -> tuple[float, NDArray[Any]]:
    return values.mean(), values


def variance(values: NDArray[Any]) -> tuple[float, NDArray[Any]]:
    squares = (values - values.mean()) ** 2
    return squares.mean(), squares


def correlation(columns: NDArray[Any]) -> tuple[float, NDArray[Any]]:
    one, other = (columns - columns.mean(axis=0)).T / columns.std(axis=0)[:, np.newaxis]
    r = (one * other).mean()
    return r, one * other - r * (one**2 + other**2) / 2


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_means_variances_and_correlations_agree(name: str) -> None:
    setting = SETTINGS[name]
    drawn, held = (ticks_of(setting.build, aggregate=aggregate) for aggregate in (True, False))
    for what, column in MEANS.items():
        assert_same(f"mean {what}", mean, drawn[:, column], held[:, column])
    for column in (IMPRESSIONS, CLICKS, SPEND):
        assert_same(f"variance of {column}", variance, drawn[:, column], held[:, column])
    for pair in PAIRS:
        both = drawn[:, pair], held[:, pair]
        if all((each.std(axis=0) > 0).all() for each in both):
            assert_same(f"correlation of {pair}", correlation, *both)


def test_delays_are_the_same() -> None:
    """The conversions of one busy tick, over the ticks after it, by a chi-square test of two samples."""
    market = replace(BUSY, traffic=Traffic(400_000.0))
    first = Campaign(ctrs=(0.3,), cvr=0.5, delay_hours=4.0, budget=10**15)

    def after(*, aggregate: bool) -> NDArray[np.float64]:
        factory, controls = world_of([first], {"m": market}, seed=5 + aggregate)
        world = (aggregate_of(factory) if aggregate else factory)(everyone(factory))
        one = world.advance(0, 1, controls).counts.values[:, 0, CONVERSIONS]
        paused = replace(controls, paused=np.ones(1, dtype=np.bool_))
        return np.append(one, world.advance(1, 48, paused).counts.values[:, 0, CONVERSIONS]).astype(np.float64)

    drawn, held = after(aggregate=True), after(aggregate=False)
    both = drawn + held
    expected = both * drawn.sum() / both.sum()
    statistic = ((drawn - expected) ** 2 / (expected * held.sum() / both.sum()))[both > 20]
    assert statistic.sum() < statistic.size + 6 * math.sqrt(2 * statistic.size)  # beyond 1e-6 of a chi-square


WANDERING = replace(
    BUSY, drift=Drift(0.9, 0.1), follows_demand=0.4, traffic=Traffic(600.0, 0.5, 18.0), answer=Answer(0.8, 0.5)
)


def test_prices_that_wander_and_answer_agree() -> None:
    """Of the same seed, so that price levels are the same but for the answer; the ticks' differences are a sample."""
    factory, controls = world_of([Campaign(reach=0.8)], {"m": WANDERING}, grid=MONTHS, seed=3)
    drawn, held = (
        run(each(everyone(factory)), controls, (0, TICKS)).counts.values[:, 0].astype(np.float64)
        for each in (aggregate_of(factory), factory)
    )
    for column in (IMPRESSIONS, CLICKS, SPEND):
        difference = drawn[:, column] - held[:, column]
        error = difference.std() / math.sqrt(TICKS)
        assert abs(difference.mean()) < SIGMAS * error, (column, difference.mean(), error)
        assert np.corrcoef(drawn[:, column], held[:, column])[0, 1] > 0.8 or column == CLICKS


def test_creatives_wear_out_alike_and_people_are_reached_alike() -> None:
    """Frequencies differ by the noise of impressions alone; people by that, and by what their number varies itself."""
    people = (Audience("all", 30_000, 0.7),)
    market = replace(BUSY, segments=(Segment(audience="all"),))
    factory, controls = world_of([Campaign(ctrs=(0.2,))], {"m": BUSY}, grid=MONTHS, seed=4)
    response = replace(factory.response, wear=np.array([0.5]), rest_hours=np.array([48.0]))
    factory = replace(factory, people=people, response=response, markets=(market,))
    drawn, held = (
        run(each(everyone(factory)), controls, (0, 600)).counts.values[:, 0].astype(np.float64)
        for each in (aggregate_of(factory), factory)
    )
    for day in range(0, 600, 100):
        span = slice(day, day + 100)
        for column in (IMPRESSIONS, CLICKS, SPEND):
            error = math.sqrt((drawn[span, column].var() + held[span, column].var()) / 100)
            difference = drawn[span, column].mean() - held[span, column].mean()
            assert abs(difference) < SIGMAS * error, (day, column, difference, error)
    reached = np.cumsum(drawn[:, PEOPLE]) - np.cumsum(held[:, PEOPLE])
    # √(N/4) for who of N is reached, and the persons of a few hundred impressions more or less; the weights of 30,000
    # people, drawn once, add a part in 300 of what is reached
    assert np.abs(reached).max() < SIGMAS * (math.sqrt(30_000 / 4) + math.sqrt(30_000 / 3)), np.abs(reached).max()


@pytest.mark.parametrize(("sigma", "charging"), [(0.0, 0), (0.5, 0), (0.5, 1)])
def test_a_budget_that_runs_out_inside_a_tick_is_bounded(sigma: float, charging: Charging) -> None:
    """On 60 days of some 48 ticks that run out at a different one each.

    Spend of a day is within the highest bid of a day (taken at 3 sigma) of the budget in both fidelities, and what a
    tick's cut changes lies in that tick: counts of whole days agree within 2 %, or 4.5 standard errors.
    """
    budget = 40_000_000 if charging == 0 else 38_000_000
    campaign = Campaign(bid=5_000, value_sigma=sigma, budget=budget, charging=Charging(charging), period=Period.DAY)
    drawn, held = (
        ticks_of(
            lambda seed: world_of([campaign], {"m": BUSY}, grid=MONTHS, seed=seed), aggregate=aggregate, ticks=2_880
        )
        for aggregate in (True, False)
    )
    days = [each.reshape(60, 48, -1).sum(axis=1) for each in (drawn, held)]
    most = 5_000 * math.exp(3 * sigma) / (0.1 if charging else 1)
    for day in days:
        assert (day[:, SPEND] <= budget).all()
        assert (day[:, SPEND] > budget - most).all()
    for column in (BIDS, IMPRESSIONS, CLICKS):
        one, other = days[0][:, column], days[1][:, column]
        error = math.sqrt((one.var() + other.var()) / 60)
        assert abs(one.mean() - other.mean()) < 0.02 * other.mean() + SIGMAS * error, (column, one.mean(), other.mean())


def test_campaigns_that_meet_win_too_much_and_no_more_than_their_others_reach() -> None:
    """Four campaigns alike that reach a tenth of the auctions each: the others take at most 3 · 0.1 of the wins."""
    campaigns = [Campaign(reach=0.1, bid=5_000) for _ in range(4)]
    drawn, held = (
        ticks_of(lambda seed: world_of(campaigns, {"m": BUSY}, grid=MONTHS, seed=seed), aggregate=aggregate)
        for aggregate in (True, False)
    )
    assert_same("mean opportunities", mean, drawn[:, OPPORTUNITIES], held[:, OPPORTUNITIES])
    for column in (IMPRESSIONS, CLICKS):
        surplus = 1 - held[:, column].mean() / drawn[:, column].mean()
        error = math.hypot(*(each[:, column].std() / each[:, column].mean() for each in (drawn, held)))
        assert -SIGMAS * error / math.sqrt(TICKS) < surplus < 0.3
    assert 1 - held[:, IMPRESSIONS].mean() / drawn[:, IMPRESSIONS].mean() > 0.05
