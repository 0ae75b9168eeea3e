"""What people, machines and troubles do to impressions, against closed forms, through the whole world.

Every bound is 4.5 standard errors of its own estimate (a correct world fails one with probability 7e-6); seeds are
fixed, so a test that passes keeps passing.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy.special import ndtr
from scipy.stats import betabinom

from engine.events import BIDS, CLICKS, CONVERSIONS, IMPRESSIONS, OPPORTUNITIES, PEOPLE, REVENUE, SPEND
from engine.policy import Batch
from engine.units import Int64
from sim.auction import BotClicks, Market, Segment
from sim.people import Audience
from sim.traffic import Traffic
from sim.troubles import Spell, Troubles
from tests.sim.builders import GRID, Campaign, everyone, run, world_of

SIGMAS = 4.5
LEVEL, SPREAD = 5_000.0, 0.6
BUSY = Market(Traffic(4_000.0), LEVEL, SPREAD)
ALONE = replace(BUSY, competitors=0)
FLAT = Campaign(value_sigma=0.0, delay_hours=0.0)


def simulate(campaign: Campaign, market: Market = BUSY, **more: Any) -> Batch:
    factory, controls = world_of([campaign], {"m": market}, seed=20260302, **more)
    return run(factory(everyone(factory)), controls, (0, GRID.ticks))


def assert_share(hits: float, trials: float, expected: float) -> None:
    error = math.sqrt(expected * (1 - expected) / trials)
    assert abs(hits / trials - expected) < SIGMAS * error, (hits / trials, expected, error)


@pytest.mark.parametrize(("wear", "rest_hours"), [(0.5, 3.0), (1.0, 1.0), (0.3, 24.0)])
def test_a_creative_that_wears_out_is_clicked_as_its_frequency_says(wear: float, rest_hours: float) -> None:
    """Frequency decays when a tick opens, makes the tick's CTR, and then grows by the tick's impressions per person.

    Under i impressions a tick it so settles, at the opening, where f = d·(f + i/N): at i/N · d / (1 - d).
    """
    people, ctr = 2_000, 0.4
    market = replace(ALONE, segments=(Segment(audience="everybody"),))
    worn = replace(FLAT, ctrs=(ctr,), wear=wear, rest_hours=rest_hours)
    counts = simulate(worn, market, people=(Audience("everybody", people),)).counts.values[:, 0]
    decay = 0.5 ** (0.5 / rest_hours)  # a tick is half an hour
    frequency, expected = 0.0, np.zeros(GRID.ticks)
    for tick, impressions in enumerate(counts[:, IMPRESSIONS].tolist()):
        frequency *= decay
        expected[tick] = ctr * (1 + frequency) ** -wear
        frequency += impressions / people
    clicks, impressions = counts[:, CLICKS], counts[:, IMPRESSIONS]
    error = math.sqrt((impressions * expected * (1 - expected)).sum())
    assert abs(clicks.sum() - (impressions * expected).sum()) < SIGMAS * error
    assert clicks[:2].sum() / impressions[:2].sum() > 1.1 * clicks[-2:].sum() / impressions[-2:].sum()

    settled = slice(24, None)
    if decay**24 < 1e-2:
        stationary = 4_000 / people * decay / (1 - decay)
        # the frequency's own standard deviation, √(4,000)/N · d/√(1-d²), moves the mean of so many by far less
        assert_share(clicks[settled].sum(), impressions[settled].sum(), ctr * (1 + stationary) ** -wear)


def test_a_creative_that_rests_recovers() -> None:
    people = (Audience("everybody", 2_000),)
    market = replace(ALONE, segments=(Segment(audience="everybody"),))
    factory, controls = world_of([replace(FLAT, ctrs=(0.4,), wear=0.7, rest_hours=2.0)], {"m": market}, people=people)
    source = factory(everyone(factory))
    tired = source.advance(0, 20, controls).counts.values[19, 0]
    source.advance(20, 44, replace(controls, paused=np.array([True])))  # six half-lives
    rested = source.advance(44, 45, controls).counts.values[0, 0]
    frequency = 4_000 / 2_000 * (1 / (1 - 0.5**0.25)) * 0.5**6 * 0.5**0.25
    assert_share(rested[CLICKS], rested[IMPRESSIONS], 0.4 * (1 + frequency) ** -0.7)
    assert tired[CLICKS] / tired[IMPRESSIONS] < 0.7 * rested[CLICKS] / rested[IMPRESSIONS]


SEGMENTS = (Segment(0.5), Segment(0.3, price=1.5, ctr=0.5, cvr=2.0, value=3.0), Segment(0.2, 0.6, 1.8, 0.5, 0.25))


def test_every_segment_has_its_share_price_ctr_cvr_and_value() -> None:
    worth, ctr, cvr, bid = 100_000.0, 0.3, 0.4, 4_500
    campaign = replace(FLAT, bid=bid, ctrs=(ctr,), cvr=cvr, value_micros=worth, value_spread=0.0)
    batch = simulate(campaign, replace(BUSY, segments=SEGMENTS))
    for segment, counts in zip(SEGMENTS, batch.counts.values.sum(axis=0), strict=True):
        assert_share(counts[OPPORTUNITIES], batch.auctions, segment.share)
        gap = math.log(bid / (LEVEL * segment.price)) / SPREAD
        assert_share(counts[IMPRESSIONS], counts[BIDS], float(ndtr(gap)))
        assert_share(counts[CLICKS], counts[IMPRESSIONS], ctr * segment.ctr)
        assert_share(counts[CONVERSIONS], counts[CLICKS], cvr * segment.cvr)
        assert counts[REVENUE] == round(worth * segment.value) * counts[CONVERSIONS]
        level = LEVEL * segment.price
        paid = level * math.exp(SPREAD**2 / 2) * float(ndtr(gap - SPREAD)) / float(ndtr(gap))
        assert abs(counts[SPEND] / counts[IMPRESSIONS] - paid) < SIGMAS * bid / math.sqrt(counts[IMPRESSIONS])


def test_a_modifier_is_a_bid_of_ones_own_for_an_audience() -> None:
    modified = replace(FLAT, bid=4_500, modifiers=(1_000_000, 1_500_000, 0))
    counts = simulate(modified, replace(BUSY, segments=SEGMENTS)).counts.values.sum(axis=0)
    assert_share(counts[0, IMPRESSIONS], counts[0, BIDS], float(ndtr(math.log(4_500 / LEVEL) / SPREAD)))
    assert_share(counts[1, IMPRESSIONS], counts[1, BIDS], float(ndtr(math.log(4_500 / LEVEL) / SPREAD)))
    assert counts[2, IMPRESSIONS] == 0


def test_machines_click_their_share_and_buy_nothing() -> None:
    batch = simulate(replace(FLAT, ctrs=(0.2,), cvr=0.5), replace(BUSY, bots=(BotClicks(10, 30, 0.3),)))
    clean = simulate(replace(FLAT, ctrs=(0.2,), cvr=0.5))
    counts = batch.counts.values[10:30].sum(axis=(0, 1))
    assert_share(counts[CLICKS], counts[IMPRESSIONS], 1 - 0.8 * 0.7)
    told = [IMPRESSIONS, CONVERSIONS, REVENUE, SPEND]
    assert np.array_equal(batch.counts.values[:, :, told], clean.counts.values[:, :, told])
    quiet = np.r_[0:10, 30:48]
    assert np.array_equal(batch.counts.values[quiet], clean.counts.values[quiet])


def test_a_tracking_outage_reports_its_share_of_what_happens_then() -> None:
    campaign = replace(FLAT, ctrs=(0.3,), cvr=0.5, delay_hours=1.0)
    spells = (Spell(10, 20, 0.4, (0,)), Spell(30, 40, 0.0, (0,)))
    told = simulate(campaign, troubles=Troubles(reports=spells)).counts.values.sum(axis=1)
    true = simulate(campaign).counts.values.sum(axis=1)
    assert_share(told[10:20, CONVERSIONS].sum(), true[10:20, CONVERSIONS].sum(), 0.4)
    assert told[30:40, CONVERSIONS].sum() == 0
    quiet = np.r_[0:10, 20:30, 40:48]
    assert np.array_equal(told[quiet], true[quiet])
    assert np.array_equal(told[:, :CONVERSIONS], true[:, :CONVERSIONS])


def test_a_conversion_rate_that_drops_does_so_for_the_clicks_of_its_time() -> None:
    campaign = replace(FLAT, ctrs=(0.3,), cvr=0.5)
    counts = simulate(campaign, troubles=Troubles(rates=(Spell(10, 20, 0.3, (0,)),))).counts.values.sum(axis=1)
    for ticks, rate in ((slice(0, 10), 0.5), (slice(10, 20), 0.15), (slice(20, 48), 0.5)):
        assert_share(counts[ticks, CONVERSIONS].sum(), counts[ticks, CLICKS].sum(), rate)


def test_what_a_disapproved_creative_would_have_shown_the_others_show_by_their_weights() -> None:
    campaign = replace(FLAT, ctrs=(0.1, 0.2, 0.3), weights=(500_000, 300_000, 200_000))
    shown = simulate(campaign, troubles=Troubles(approvals=(Spell(10, 30, 0.0, (0,)),))).counts.values[
        :, :, OPPORTUNITIES
    ]
    during = shown[10:30].sum(axis=0)
    assert during[0] == 0
    assert_share(during[1], during.sum(), 0.6)
    assert_share(shown[30:, 0].sum(), shown[30:].sum(), 0.5)


def test_a_campaign_whose_creatives_are_all_disapproved_rests() -> None:
    counts = simulate(FLAT, troubles=Troubles(approvals=(Spell(10, 30, 0.0, (0,)),))).counts.values.sum(axis=1)
    assert counts[10:30, BIDS:].sum() == 0
    assert (counts[10:30, OPPORTUNITIES] > 0).all()
    assert (counts[:10, IMPRESSIONS] > 0).all()
    assert (counts[30:, IMPRESSIONS] > 0).all()


def reached(audience: Audience) -> tuple[int, int]:
    """People reached and impressions, through the whole world."""
    market = replace(ALONE, traffic=Traffic(600.0), segments=(Segment(audience=audience.name),))
    counts: Int64 = simulate(FLAT, market, people=(audience,)).counts.values.sum(axis=(0, 1))
    return int(counts[PEOPLE]), int(counts[IMPRESSIONS])


def test_reach_follows_classical_occupancy_where_people_are_alike() -> None:
    people = 15_000
    new, impressions = reached(Audience("everybody", people))
    one, two = (1 - 1 / people) ** impressions, (1 - 2 / people) ** impressions  # nobody reaches one, or a pair
    error = math.sqrt(people * (people - 1) * two + people * one - people**2 * one**2)
    assert abs(new - people * (1 - one)) < SIGMAS * error


@pytest.mark.parametrize("shape", [0.4, 2.0])
def test_and_the_beta_binomial_law_where_activity_differs(shape: float) -> None:
    """A person's impressions are beta-binomial; people's share a total, so the error is below the independent one."""
    people = 15_000
    new, impressions = reached(Audience("everybody", people, shape))
    never = float(betabinom.pmf(0, impressions, shape, shape * (people - 1)))
    assert abs(new - people * (1 - never)) < SIGMAS * math.sqrt(people * never * (1 - never))
