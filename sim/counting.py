"""Sums of many alike draws, drawn at once from one uniform or normal: binomial counts, and amounts of money."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from sim.kernel import kernel
from sim.rng import normal

FEWEST_NORMAL = 12.0
"""From this variance on a binomial count is drawn by its expansion around the normal, below it exactly."""


@kernel
def binomial(trials: Any, chance: float, u: float) -> Any:
    """How many of so many trials succeed: the quantile of `u`, in (0, 1).

    Up to a variance of 12 it is exact, found by going through the probabilities from the rarer side. Above that it is
    the Cornish-Fisher expansion with skewness and kurtosis (Cornish and Fisher, Revue de l'Institut international de
    statistique 5, 1938), rounded, and with the variance that rounding adds taken off: mean and variance are right to
    one part in 1,000, the distribution function to 0.002.
    """
    if trials <= 0 or chance <= 0.0:
        return 0
    if chance >= 1.0:
        return trials
    rare = min(chance, 1.0 - chance)
    rank = u if chance <= 0.5 else 1.0 - u
    mean = np.float64(trials) * rare
    variance = mean * (1.0 - rare)
    if variance < FEWEST_NORMAL:
        count = _counted(trials, rare, rank)
    else:
        z = normal(min(max(rank, 2e-11), 1.0 - 2e-11))
        skewness = (1.0 - 2.0 * rare) / math.sqrt(variance)
        kurtosis = (1.0 - 6.0 * rare * (1.0 - rare)) / variance
        bent = z + skewness * (z * z - 1.0) / 6.0 + kurtosis * z * (z * z - 3.0) / 24.0
        bent -= skewness * skewness * z * (2.0 * z * z - 5.0) / 36.0
        count = np.int64(math.floor(mean + math.sqrt(variance - 1.0 / 12.0) * bent + 0.5))
        count = min(max(count, 0), trials)
    return count if chance <= 0.5 else trials - count


@kernel
def _counted(trials: int, chance: float, rank: float) -> Any:
    odds = chance / (1.0 - chance)
    here = math.exp(np.float64(trials) * math.log1p(-chance))
    count = np.int64(0)
    while rank > here and count < trials:
        rank -= here
        here *= odds * np.float64(trials - count) / np.float64(count + 1)
        count += 1
        if here < 1e-18 and np.float64(count) > np.float64(trials) * chance:  # what is left of `rank` is rounding
            break
    return count


@kernel
def amount(mean: float, variance: float, z: float) -> float:
    """A sum of money: gamma-distributed with this mean and variance, at the standard normal `z`.

    By the cube of a normal (Wilson and Hilferty, Proceedings of the National Academy of Sciences 17, 1931), whose mean
    and variance are those asked for to one part in 200 where the mean is no less than its standard deviation.
    """
    if mean <= 0.0 or variance <= 0.0:
        return max(mean, 0.0)
    ninth = variance / (9.0 * mean * mean)
    root = 1.0 - ninth + z * math.sqrt(ninth)
    return mean * max(root, 0.0) ** 3
