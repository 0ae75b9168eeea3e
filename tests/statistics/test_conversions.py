"""What follows a click against closed forms.

Every bound on a mean or a share is 4.5 standard errors (a correct stage fails one with probability 7e-6), every
distribution is held against its closed form at a p-value of 1e-6; seeds are fixed, so a test that passes keeps passing.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import gammaincc, kolmogorov

from engine.units import PPM
from sim import rng
from sim.conversions import CONVERSION_COLUMNS, Conversions, after_of, conversions_of, menus_of, refunds_of
from sim.delays import Delays, Law, Part

SIGMAS = 4.5
WORST = 1e-6
HOUR = 3.6e9
NEVER = 2**62
CLICKS = 60_000
RATE = 0.4
TIME, VALUE, NUMBER, CLICKED = (CONVERSION_COLUMNS.index(name) for name in ("time", "value", "number", "clicked"))
DELAYS = {
    "exponential": [Part(Law.EXPONENTIAL, 20.0)],
    "log-normal": [Part(Law.LOGNORMAL, 6.0, 1.2)],
    "mixture": [Part(Law.EXPONENTIAL, 2.0, share=700_000), Part(Law.LOGNORMAL, 48.0, 0.8, share=300_000)],
    "three parts": [
        Part(Law.LOGNORMAL, 0.5, 0.3, share=200_000),
        Part(Law.EXPONENTIAL, 24.0, share=500_000),
        Part(Law.EXPONENTIAL, 200.0, share=300_000),
    ],
}


def what_follows(
    parts: list[Part] = DELAYS["exponential"],
    per_click: float = 1.0,
    sigma: float = 0.0,
    menu: dict[float, int] | None = None,
    refund_rate: float = 0.0,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Conversions and refunds of one campaign's clicks."""
    price, price_share = menus_of([menu or {1: PPM}])
    what = Conversions(
        rate=np.full(1, RATE),
        delays=Delays.of([parts]),
        per_click=np.full(1, per_click),
        value_micros=np.full(1, 8_000_000.0),
        value_sigma=np.full(1, sigma),
        price=price,
        price_share=price_share,
        refund_rate=np.full(1, refund_rate),
        refund_hours=np.full(1, 72.0),
    )
    after = after_of(what, rng.keys_of(20260302, "campaign", ["c"]))
    place = np.arange(CLICKS)
    clicks = np.stack([place * 0, place * 0, place * 0, place // 100, place % 100, 10**15 + place], axis=1)
    found = conversions_of(clicks, np.full(CLICKS, RATE), np.full(CLICKS, 8_000_000.0), after, NEVER)
    return found, refunds_of(found, after, NEVER)


def assert_mean(values: NDArray[np.float64], expected: float) -> None:
    error = values.std(ddof=1) / math.sqrt(values.size)
    assert abs(values.mean() - expected) < SIGMAS * error, (values.mean(), expected, error)


def assert_share(hits: int, trials: int, expected: float) -> None:
    error = math.sqrt(expected * (1 - expected) / trials)
    assert abs(hits / trials - expected) < SIGMAS * error, (hits / trials, expected, error)


def assert_distribution(hours: NDArray[np.float64], delays: Delays) -> None:
    """Kolmogorov and Smirnov's test against the delay's own distribution function."""
    cdf = delays.cdf(np.sort(hours)[:, np.newaxis])[:, 0]
    steps = np.arange(hours.size + 1) / hours.size
    distance = max(np.abs(cdf - steps[1:]).max(), np.abs(cdf - steps[:-1]).max())
    assert kolmogorov(distance * math.sqrt(hours.size)) > WORST


def assert_counts(observed: NDArray[np.float64], expected: NDArray[np.float64]) -> None:
    """Pearson's test."""
    statistic = ((observed - expected) ** 2 / expected).sum()
    assert gammaincc((observed.size - 1) / 2, statistic / 2) > WORST


@pytest.mark.parametrize("kind", DELAYS)
def test_a_delay_has_its_distribution_and_its_mean(kind: str) -> None:
    found, _ = what_follows(DELAYS[kind], per_click=1.5)
    delays = Delays.of([DELAYS[kind]])
    hours = (found[:, TIME] - found[:, CLICKED]) / HOUR
    for first in (True, False):
        assert_distribution(hours[(found[:, NUMBER] == 0) == first], delays)
    assert_mean(hours, float(delays.mean_hours[0]))


def test_a_click_converts_at_its_rate_whatever_it_brings() -> None:
    for per_click in (1.0, 2.5):
        found, _ = what_follows(per_click=per_click)
        assert_share(int((found[:, NUMBER] == 0).sum()), CLICKS, RATE)


@pytest.mark.parametrize("per_click", [1.3, 2.5, 20.0])
def test_the_number_of_conversions_of_a_click_is_geometric(per_click: float) -> None:
    found, _ = what_follows(per_click=per_click)
    begins = np.flatnonzero(found[:, NUMBER] == 0)
    many = np.diff(np.append(begins, len(found))).astype(np.float64)
    assert_mean(many, per_click)
    probability = (1 - 1 / per_click) ** np.arange(200) / per_click  # of 1, 2, …
    usual = int((probability * many.size >= 5).sum())
    expected = np.append(probability[:usual], 1 - probability[:usual].sum()) * many.size
    observed = np.bincount(np.minimum(many.astype(np.int64), usual + 1) - 1, minlength=usual + 1).astype(np.float64)
    assert_counts(observed, expected)


def test_log_normal_values_have_their_mean_and_spread() -> None:
    found, _ = what_follows(sigma=0.6, per_click=1.5)
    for first in (True, False):
        values = found[(found[:, NUMBER] == 0) == first, VALUE].astype(np.float64)
        assert_mean(values, 8_000_000.0)
        assert_mean((np.log(values) - math.log(8_000_000.0) + 0.18) ** 2, 0.36)


def test_a_menus_prices_come_in_their_shares() -> None:
    menu = {4_000_000.0: 600_000, 10_000_000.0: 300_000, 26_000_000.0: 100_000}
    found, _ = what_follows(menu=menu)
    assert found[:, VALUE].sum() > 0
    prices, observed = np.unique(found[:, VALUE], return_counts=True)
    assert prices.tolist() == [4_000_000, 10_000_000, 26_000_000]
    assert_counts(observed.astype(np.float64), np.array([0.6, 0.3, 0.1]) * len(found))


def test_refunds_have_their_share_and_their_delay() -> None:
    found, refunds = what_follows(per_click=1.5, refund_rate=0.2)
    names = found[:, 3] * 10**9 + found[:, 4] * 10**5 + found[:, NUMBER]
    refunded = np.isin(names, refunds[:, 3] * 10**9 + refunds[:, 4] * 10**5 + refunds[:, NUMBER])
    for first in (True, False):
        of_kind = (found[:, NUMBER] == 0) == first
        assert_share(int((refunded & of_kind).sum()), int(of_kind.sum()), 0.2)
    hours = (refunds[:, TIME] - found[refunded, TIME]) / HOUR
    assert_distribution(hours, Delays.of([[Part(Law.EXPONENTIAL, 72.0)]]))


def test_how_many_how_late_what_for_and_whether_refunded_have_nothing_to_do_with_each_other() -> None:
    found, refunds = what_follows(DELAYS["mixture"], per_click=2.0, sigma=0.6, refund_rate=0.5)
    names, given_back = (table[:, 3] * 10**9 + table[:, 4] * 10**5 + table[:, NUMBER] for table in (found, refunds))
    begins = np.flatnonzero(found[:, NUMBER] == 0)
    many = np.repeat(np.diff(np.append(begins, len(found))), np.diff(np.append(begins, len(found))))
    columns = np.stack(
        (np.log(found[:, TIME] - found[:, CLICKED]), np.log(found[:, VALUE]), np.isin(names, given_back), many)
    )[:, begins]
    correlation = np.corrcoef(columns)[np.triu_indices(4, 1)]
    assert (np.abs(correlation) < SIGMAS / math.sqrt(begins.size)).all()
