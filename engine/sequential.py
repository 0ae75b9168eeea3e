"""An anytime-valid comparison of blocks before and after a change: it may be looked at after every block.

The difference is read off blocks that are paired by their slot of the day, so the level of a slot is a nuisance that
both sides share. The upper confidence limit is that of a confidence sequence: with the stated probability it never
once lies below the true difference, however often one looks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from engine.units import Float64, Int64

ALPHA = 0.05
"""The most harmless changes that may ever be taken for harmful ones, as a share."""

PRIOR_BLOCKS = 8.0
"""How many blocks' worth the mixing distribution is narrow; the limit is tightest around eight times as many."""

WEIGHT, MOMENT, SQUARE, BLOCKS = range(4)
"""Columns of the sums over the blocks after the change: Σw, Σwy, Σwy², and how many blocks there were."""


class Compared(NamedTuple):
    """The estimated difference after − before, its upper confidence limit, and the blocks behind both.

    The limit is infinite as long as the blocks do not bound it.
    """

    estimate: Float64
    upper: Float64
    blocks: Int64


def compared(before: Float64, after: Float64, unit: Float64, alpha: float = ALPHA) -> Compared:
    """Compare sums over slots; leading axes are independent comparisons.

    The model is y = level(slot) + difference · [after] + noise, noise normal with variance σ² / w, and y counted from
    the slot's mean before the change. Levels and σ are unknown, so the limit inverts the mixture t-test of Lindon, Ham,
    Tingley & Bojinov ("Anytime-Valid Linear Models and Regression Adjusted Causal Inference in Randomized Experiments",
    2022, arXiv:2210.08589), the form for unknown nuisances of Robbins' normal mixture ("Statistical methods related to
    the law of the iterated logarithm", 1970); see also Howard, Ramdas, McAuliffe & Sekhon (2021, arXiv:1810.08240) and,
    for blocks that are only asymptotically normal, Waudby-Smith et al. (2021, arXiv:2103.06476). The noise of the
    baseline is part of the model: a baseline that was poor by chance does not count as evidence.

    Parameters
    ----------
    before:
        float64[…, slots], weight of each slot before the change.
    after:
        float64[…, slots, 4], sums over the blocks after it, see `WEIGHT` and the following.
    unit:
        float64[…], weight of an ordinary block.
    alpha:
        Probability, over all looks together, that the upper limit is once too low.

    >>> before, after = np.full((1, 2), 10.0), np.zeros((1, 2, 4))
    >>> for block in range(12):
    ...     y = -1.0 + 0.1 * (block % 3 - 1)
    ...     after[0, block % 2] += (1.0, y, y * y, 1.0)
    >>> found = compared(before, after, np.ones(1))
    >>> round(float(found.estimate[0]), 3), round(float(found.upper[0]), 3), int(found.blocks[0])
    (-1.0, -0.828, 12)
    """
    weight, moment, square = after[..., WEIGHT], after[..., MOMENT], after[..., SQUARE]
    blocks = after[..., BLOCKS].sum(axis=-1)
    together = np.maximum(before + weight, 1e-300)
    precision = (before * weight / together).sum(axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        estimate = (before * moment / together).sum(axis=-1) / precision
        residual = (square - moment**2 / together).sum(axis=-1) - estimate**2 * precision
    return _bounded(estimate, precision, residual, blocks, unit, alpha)


def paired(sums: Float64, unit: Float64, alpha: float = ALPHA) -> Compared:
    """The same for differences of two sides that ran side by side: each block has its own control, and needs no past.

    Parameters
    ----------
    sums:
        float64[…, 4], sums over the blocks, y being a block's difference, see `WEIGHT` and the following.
    unit:
        float64[…], weight of an ordinary block.
    alpha:
        Probability, over all looks together, that the upper limit is once too low.
    """
    weight, moment, square, blocks = (sums[..., column] for column in (WEIGHT, MOMENT, SQUARE, BLOCKS))
    with np.errstate(divide="ignore", invalid="ignore"):
        estimate = moment / weight
        residual = square - estimate**2 * weight
    return _bounded(estimate, weight, residual, blocks, unit, alpha)


def _bounded(
    estimate: Float64, precision: Float64, residual: Float64, blocks: Float64, unit: Float64, alpha: float
) -> Compared:
    """The upper limit of an estimate of variance σ² / precision, σ² being known from the residual sum of squares."""
    freedom = blocks - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        deviation = np.sqrt(np.maximum(residual, 0.0) / (freedom * precision))
        ratio = PRIOR_BLOCKS / (PRIOR_BLOCKS + precision / unit)
        level = (4 * alpha**2 * ratio) ** (1 / (freedom + 1))  # two-sided at 2α, of which the upper side is used
        width = deviation * np.sqrt(freedom * (1 - level) / (level - ratio))
        bounded = (precision > 0) & (freedom > 0) & (level > ratio)
        upper = np.where(bounded, estimate + width, np.inf)
    return Compared(np.where(precision > 0, estimate, 0.0), upper, blocks.astype(np.int64))
