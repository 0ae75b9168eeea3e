"""Intervals of means over campaigns by bootstrap, and means that a few odd campaigns do not move."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr, stdtrit

from engine.units import Float64, Int64

RESAMPLES = 2_000
_SEED = 20_261_124
_AT_ONCE = 1_000_000  # numbers drawn at a time


@dataclass(frozen=True)
class Interval:
    """A mean, and the ends of its two-sided interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4f} [{self.low:.4f}, {self.high:.4f}]"


def interval(values: Float64, clusters: Int64 | None = None, *, level: float = 0.95) -> Interval:
    """The mean of values (float64[n], n >= 1) and its interval by bootstrap over campaigns.

    Percentiles of the means of RESAMPLES resamples under a fixed seed, so that the same values give the same interval;
    the percentiles are pushed out as Student's t is against the normal, for few campaigns give intervals that are too
    short else (the expanded percentile interval; Hesterberg, The American Statistician 69, 2015, section 4). Of one
    campaign nothing is known, and its interval is infinite.

    Parameters
    ----------
    clusters:
        int64[n]; values with the same number share their luck (parts of one campaign, windows of one stretch of a log)
        and are drawn together. None: each is a campaign of its own.
    """
    total, size = _by_cluster(values, clusters)
    n = len(total)
    mean = float(values.mean())
    if n == 1:
        return Interval(mean, -np.inf, np.inf)
    tail = ndtr(np.sqrt(n / (n - 1)) * stdtrit(n - 1, (1 - level) / 2))
    low, high = np.quantile(_means(total, size), [tail, 1 - tail])
    return Interval(mean, float(low), float(high))


def _by_cluster(values: Float64, clusters: Int64 | None) -> tuple[Float64, Float64]:
    """Sum and number of the values of every cluster."""
    if clusters is None:
        return values, np.ones(len(values))
    _, place = np.unique(clusters, return_inverse=True)
    total = np.asarray(np.bincount(place, weights=values), dtype=np.float64)
    return total, np.bincount(place).astype(np.float64)


def _means(total: Float64, size: Float64) -> Float64:
    """Means of resamples of clusters; float64[RESAMPLES]."""
    generator = np.random.default_rng(_SEED)
    n = len(total)
    means = np.empty(RESAMPLES)
    step = max(_AT_ONCE // n, 1)
    for first in range(0, RESAMPLES, step):
        drawn = generator.integers(n, size=(min(step, RESAMPLES - first), n))
        means[first : first + len(drawn)] = total[drawn].sum(axis=1) / size[drawn].sum(axis=1)
    return means


def interquartile_mean(values: Float64) -> float:
    """The mean of the middle half, the values at its ends in part (Agarwal et al., NeurIPS 2021, section 4.3)."""
    ordered = np.sort(values)
    n = len(ordered)
    place = np.arange(n, dtype=np.float64)
    weight = np.clip(np.minimum(place + 1, 0.75 * n) - np.maximum(place, 0.25 * n), 0.0, 1.0)
    return float((weight * ordered).sum() / weight.sum())
