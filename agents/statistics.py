"""Intervals of means over campaigns by bootstrap, and means that a few odd campaigns do not move."""

from __future__ import annotations

from collections.abc import Iterator
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
    mean = float(values.mean())
    if len(total) == 1:
        return Interval(mean, -np.inf, np.inf)
    low, high = np.quantile(_means(total, size), _ends(len(total), level))
    return Interval(mean, float(low), float(high))


def intervals(columns: Float64, *, level: float = 0.95) -> list[Interval]:
    """What `interval` says of each of m columns alone; float64[n, m], n >= 2.

    All columns of one length meet the same resamples, so that how often each of these holds each value gives all their
    means by one product of matrices: thousands of intervals in the time of a few, up to the rounding of a sum.
    """
    n, m = columns.shape
    means = np.empty((RESAMPLES, m))
    done = 0
    for drawn in _resamples(n):
        rows = len(drawn)
        place = drawn + n * np.arange(rows)[:, np.newaxis]
        held = np.bincount(place.ravel(), minlength=rows * n).reshape(rows, n)
        means[done : done + rows] = held.astype(np.float64) @ columns / n
        done += rows
    low, high = np.quantile(means, _ends(n, level), axis=0)
    return [Interval(*map(float, of)) for of in zip(columns.mean(axis=0), low, high, strict=True)]


def _ends(n: int, level: float) -> tuple[float, float]:
    """The percentiles at which an interval from n campaigns ends."""
    tail = float(ndtr(np.sqrt(n / (n - 1)) * stdtrit(n - 1, (1 - level) / 2)))
    return tail, 1 - tail


def _by_cluster(values: Float64, clusters: Int64 | None) -> tuple[Float64, Float64]:
    """Sum and number of the values of every cluster."""
    if clusters is None:
        return values, np.ones(len(values))
    _, place = np.unique(clusters, return_inverse=True)
    total = np.asarray(np.bincount(place, weights=values), dtype=np.float64)
    return total, np.bincount(place).astype(np.float64)


def _means(total: Float64, size: Float64) -> Float64:
    """Means of resamples of clusters; float64[RESAMPLES]."""
    return np.concatenate([total[drawn].sum(axis=1) / size[drawn].sum(axis=1) for drawn in _resamples(len(total))])


def _resamples(n: int) -> Iterator[Int64]:
    """RESAMPLES times n of n places, drawn with replacement, always the same; some at a time, int64[some, n]."""
    generator = np.random.default_rng(_SEED)
    step = max(_AT_ONCE // n, 1)
    for first in range(0, RESAMPLES, step):
        yield generator.integers(n, size=(min(step, RESAMPLES - first), n))


def interquartile_mean(values: Float64) -> float:
    """The mean of the middle half, the values at its ends in part (Agarwal et al., NeurIPS 2021, section 4.3)."""
    ordered = np.sort(values)
    n = len(ordered)
    place = np.arange(n, dtype=np.float64)
    weight = np.clip(np.minimum(place + 1, 0.75 * n) - np.maximum(place, 0.25 * n), 0.0, 1.0)
    return float((weight * ordered).sum() / weight.sum())
