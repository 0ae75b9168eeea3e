"""What people do after an impression: click, convert later, be worth something."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from engine.campaigns import CampaignSet
from engine.units import MAX_MICROS, Float64, Int64
from sim.kernel import helper, kernel
from sim.rng import CONVERSION, TO_UNIT, normal, philox, uniform


@dataclass(frozen=True)
class Response:
    """How people respond to n campaigns with c creatives in all.

    reach:
        float64[n], probability that an auction of the market reaches the campaign.
    value_sigma:
        float64[n], log standard deviation of the value of an opportunity relative to the reference opportunity.
    ctr:
        float64[c], click probability of a creative's impression, on average over opportunities.
    cvr:
        float64[n], probability that a click converts.
    delay_hours:
        float64[n], mean of the exponential delay from click to conversion.
    value_micros, conversion_sigma:
        float64[n], mean and log standard deviation of a conversion's log-normal value.
    """

    reach: Float64
    value_sigma: Float64
    ctr: Float64
    cvr: Float64
    delay_hours: Float64
    value_micros: Float64
    conversion_sigma: Float64

    def __post_init__(self) -> None:
        for name in ("reach", "ctr", "cvr"):
            column = getattr(self, name)
            if not ((column >= 0) & (column <= 1)).all():
                raise ValueError(f"{name} (={column[~((column >= 0) & (column <= 1))][0]}) must be in [0, 1]")
        for name in ("value_sigma", "delay_hours", "value_micros", "conversion_sigma"):
            column = getattr(self, name)
            if not ((column >= 0) & np.isfinite(column)).all():
                raise ValueError(
                    f"{name} (={column[~((column >= 0) & np.isfinite(column))][0]}) must be >= 0 and finite"
                )

    def check_size(self, campaigns: CampaignSet) -> None:
        """Refuse columns of another length than the set has campaigns, or creatives."""
        for column in fields(self):
            size, wanted = len(getattr(self, column.name)), campaigns.cells if column.name == "ctr" else len(campaigns)
            if size != wanted:
                raise ValueError(f"{column.name} (of length {size}) must be of length {wanted}, as in the campaign set")

    def select(self, campaigns: CampaignSet, members: Int64) -> Response:
        """The response to some campaigns of the set."""
        return Response(
            self.reach[members],
            self.value_sigma[members],
            self.ctr[campaigns.cells_of(members)],
            self.cvr[members],
            self.delay_hours[members],
            self.value_micros[members],
            self.conversion_sigma[members],
        )


@helper
def predicted_ctr(ctr: float, value: float, discount: float) -> float:
    """Click probability of one opportunity: proportional to its value, `ctr` on average, at most 1.

    `discount` is one over the mean value, exp(-sigma² / 2).
    """
    return min(1.0, ctr * value * discount)


@helper
def is_click(word: Any, probability: float) -> bool:
    """Whether the impression is clicked."""
    return bool(np.float64(np.int64(word)) * TO_UNIT < probability)


@kernel
def conversion_of(
    key: Any, index: int, tick: int, clicked: int, cvr: float, delay_us: float, value_micros: float, sigma: float
) -> Any:
    """Whether the click at event time `clicked` converts, when, and for how many micros."""
    block = philox(np.uint64(index), np.uint64(tick), np.uint64(CONVERSION), np.uint64(0), key)
    if np.float64(np.int64(block[0])) * TO_UNIT >= cvr:
        return False, np.int64(0), np.int64(0)
    happens = clicked + np.int64(-math.log(uniform(block[1])) * delay_us)
    value = value_micros * math.exp(sigma * normal(uniform(block[2])) - 0.5 * sigma * sigma)
    return True, happens, np.int64(np.rint(min(value, float(MAX_MICROS))))
