"""Traffic and price level over time against closed forms.

Every bound is 4.5 standard errors of its own estimate (a correct world fails one with probability 7e-6), or a p-value
of 1e-6 for the distribution tests; seeds are fixed, so a test that passes keeps passing. Markets are independent, so
thousands of them are a sample.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import gammaincc, kolmogorov, ndtr
from scipy.stats import binom, nbinom

from sim.drift import drift, regimes
from sim.rng import keys_of
from sim.traffic import Curves, Traffic
from tests.sim.builders import GRID

SIGMAS = 4.5
MARKETS = 4_000
KEYS = keys_of(20260302, "market", [f"m{place}" for place in range(MARKETS)])


def assert_mean(values: NDArray[np.float64], expected: float) -> None:
    error = values.std(ddof=1) / math.sqrt(values.size)
    assert abs(values.mean() - expected) < SIGMAS * error, (values.mean(), expected, error)


def assert_counts(observed: NDArray[np.float64], expected: NDArray[np.float64]) -> None:
    """A chi-square test over the classes that are large enough for it."""
    large = expected >= 5
    statistic = ((observed - expected)[large] ** 2 / expected[large]).sum()
    assert gammaincc((large.sum() - 1) / 2, statistic / 2) > 1e-6


@pytest.mark.parametrize("dispersion", [0.02, 0.5, 2.0])
def test_overdispersed_arrivals_are_negative_binomial(dispersion: float) -> None:
    mean = 12.0
    counts = Curves([Traffic(mean, dispersion=dispersion)] * MARKETS, GRID).arrivals(KEYS, 0, 10).ravel()
    assert_mean(counts.astype(np.float64), mean)
    assert_mean((counts - mean) ** 2.0, mean + dispersion * mean**2)
    law = nbinom(1 / dispersion, 1 / (1 + dispersion * mean))
    top = int(law.ppf(1 - 1e-4))
    observed = np.bincount(np.minimum(counts, top + 1), minlength=top + 2).astype(np.float64)
    expected = counts.size * np.append(law.pmf(np.arange(top + 1)), law.sf(top))
    assert_counts(observed, expected)


def test_ticks_and_markets_stray_independently() -> None:
    counts = Curves([Traffic(12.0, dispersion=0.5)] * MARKETS, GRID).arrivals(KEYS, 0, 2).astype(np.float64)
    for one, other in ((counts[0], counts[1]), (counts[0, 1:], counts[0, :-1])):
        assert abs(np.corrcoef(one, other)[0, 1]) < SIGMAS / math.sqrt(one.size)


@pytest.mark.parametrize(("persistence", "sigma"), [(0.0, 0.3), (0.9, 0.08), (0.99, 0.05)])
def test_the_drift_is_stationary_with_the_variance_and_autocorrelation_of_its_law(
    persistence: float, sigma: float
) -> None:
    paths = np.array([drift(30, persistence, sigma, key) for key in KEYS])
    variance = sigma**2 / (1 - persistence**2)
    for tick in (0, 1, 29):
        assert_mean(paths[:, tick], 0.0)
        assert_mean(paths[:, tick] ** 2, variance)
        standard = np.sort(paths[:, tick]) / math.sqrt(variance)
        steps = np.arange(MARKETS + 1) / MARKETS
        distance = max(np.abs(ndtr(standard) - steps[1:]).max(), np.abs(ndtr(standard) - steps[:-1]).max())
        assert kolmogorov(distance * math.sqrt(MARKETS)) > 1e-6
    for first, lag in ((0, 1), (0, 10), (15, 1), (15, 10)):
        assert_mean(paths[:, first] * paths[:, first + lag], variance * persistence**lag)


def test_regimes_last_geometrically_and_have_normal_offsets() -> None:
    ticks, every, sigma = 100, 20.0, 0.5
    paths = np.array([regimes(ticks, 1 / every, sigma, key) for key in KEYS])
    begins = np.diff(paths, axis=1) != 0  # of two normals in a row none is the same again
    assert (paths[:, 0] == 0).all()
    shifts = begins.sum(axis=1)
    assert_mean(shifts.astype(np.float64), (ticks - 1) / every)
    law = binom(ticks - 1, 1 / every)
    expected = MARKETS * law.pmf(np.arange(20))
    expected[19] = MARKETS * law.sf(18)
    assert_counts(np.bincount(np.minimum(shifts, 19), minlength=20).astype(np.float64), expected)
    for tick in (1, 50, 99):
        assert_mean(begins[:, tick - 1].astype(np.float64), 1 / every)
    offsets = np.sort(paths[:, 1:][begins]) / sigma
    steps = np.arange(offsets.size + 1) / offsets.size
    distance = max(np.abs(ndtr(offsets) - steps[1:]).max(), np.abs(ndtr(offsets) - steps[:-1]).max())
    assert kolmogorov(distance * math.sqrt(offsets.size)) > 1e-6


def test_drift_and_regimes_of_a_market_and_drifts_of_two_are_uncorrelated() -> None:
    drifts = np.array([drift(1, 0.9, 0.1, key)[0] for key in KEYS])
    jumps = np.array([regimes(2, 1.0, 0.5, key)[1] for key in KEYS])
    for one, other in ((drifts, jumps), (drifts[1:], drifts[:-1])):
        assert abs(np.corrcoef(one, other)[0, 1]) < SIGMAS / math.sqrt(one.size)
