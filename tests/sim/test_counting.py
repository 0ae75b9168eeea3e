"""Sums of many draws against their laws, over a uniform's whole range in even steps: no chance is involved."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import ndtri
from scipy.stats import binom, gamma

from sim.counting import amount, binomial

EVEN = (np.arange(50_000) + 0.5) / 50_000


@pytest.mark.parametrize("trials", [1, 7, 100, 20_000])
@pytest.mark.parametrize("chance", [1e-6, 0.002, 0.3, 0.5, 0.8, 0.9995])
def test_few_successes_are_counted_exactly(trials: int, chance: float) -> None:
    law = binom(trials, chance)
    if law.var() >= 12:
        return
    counts = np.array([binomial(trials, chance, u) for u in EVEN])
    assert (np.diff(counts) >= 0).all()
    assert np.array_equal(counts, law.ppf(EVEN))


@pytest.mark.parametrize(("trials", "chance"), [(60, 0.4), (1_000, 0.013), (1_000, 0.9), (10**6, 0.25), (10**9, 0.5)])
def test_many_successes_have_the_laws_mean_variance_and_distribution(trials: int, chance: float) -> None:
    law = binom(trials, chance)
    counts = np.array([binomial(trials, chance, u) for u in EVEN])
    assert (np.diff(counts) >= 0).all()
    assert counts.mean() == pytest.approx(law.mean(), abs=1e-3 * law.std())
    assert counts.var() == pytest.approx(law.var(), rel=2e-3)
    places = np.unique(counts)
    reached = np.searchsorted(counts, places, side="right") / counts.size
    assert np.abs(reached - law.cdf(places)).max() < 0.002


def test_certainty_and_impossibility_need_no_luck() -> None:
    assert [binomial(0, 0.5, 0.9), binomial(9, 0.0, 0.999), binomial(9, 1.0, 0.001), binomial(9, 1.5, 0.5)] == [
        0,
        0,
        9,
        9,
    ]


@pytest.mark.parametrize("shape", [1.0, 4.0, 50.0, 10_000.0])
def test_amounts_have_the_mean_and_variance_asked_for_and_are_nearly_gamma(shape: float) -> None:
    mean = 7_000.0
    amounts = np.array([amount(mean, mean * mean / shape, z) for z in ndtri(EVEN)])
    assert (amounts >= 0).all()
    assert amounts.mean() == pytest.approx(mean, rel=3e-3 / shape)
    assert amounts.var() == pytest.approx(mean * mean / shape, rel=6e-3 if shape < 2 else 2e-3)
    law = gamma(shape, scale=mean / shape)
    assert np.abs(law.cdf(amounts) - EVEN).max() < 0.0125 / shape + 1e-4


def test_an_amount_without_variance_is_its_mean_and_never_negative() -> None:
    assert [amount(5.0, 0.0, 3.0), amount(-5.0, 9.0, 1.0), amount(0.0, 9.0, 1.0), amount(1.0, 9.0, -6.0)] == [
        5.0,
        0.0,
        0.0,
        0.0,
    ]
