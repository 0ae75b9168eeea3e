"""What people do with an impression: they click it, or not, and get tired of it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from engine.campaigns import CampaignSet, places_of
from engine.units import Float64, Int64
from sim.kernel import helper
from sim.rng import TO_UNIT


@dataclass(frozen=True)
class Response:
    """How people respond to n campaigns with c creatives in all.

    reach:
        float64[n], probability that an auction of the market reaches the campaign.
    value_sigma:
        float64[n], log standard deviation of the value of an opportunity relative to the reference opportunity.
    correlation:
        float64[n], of that value and the best competitor's price (Gaussian copula), in (-1, 1).
    ctr:
        float64[c], click probability of a creative's impression, on average over opportunities, while it is new.
    wear:
        float64[c], exponent k ≥ 0 by which a creative wears out: its click probability is ctr · (f + 1)^−k, f being its
        frequency, impressions per person of the audience, as far as they are not forgotten. The power law of forgetting
        and of repeated exposure, see docs/world.md; 0 does not wear out.
    rest_hours:
        float64[c], half-life of that memory: after so many hours without an impression half of the frequency is gone.
    """

    reach: Float64
    value_sigma: Float64
    correlation: Float64
    ctr: Float64
    wear: Float64
    rest_hours: Float64

    def __post_init__(self) -> None:
        for name in ("reach", "ctr"):
            _check(name, getattr(self, name), 0, 1, "be in [0, 1]")
        for name in ("value_sigma", "wear"):
            _check(name, getattr(self, name), 0, np.finfo(np.float64).max, "be >= 0 and finite")
        _check("rest_hours", self.rest_hours, _LEAST_REST, np.inf, f"be >= {_LEAST_REST}")
        _check("correlation", self.correlation, -_LARGEST, _LARGEST, f"be in [-{_LARGEST}, {_LARGEST}]")

    @classmethod
    def plain(cls, reach: ArrayLike, value_sigma: ArrayLike, ctr: ArrayLike) -> Self:
        """Value and price independent of each other, and creatives that never wear out."""
        each, creatives = np.asarray(reach, dtype=np.float64), np.asarray(ctr, dtype=np.float64)
        return cls(
            reach=each,
            value_sigma=np.asarray(value_sigma, dtype=np.float64),
            correlation=np.zeros(each.size),
            ctr=creatives,
            wear=np.zeros(creatives.size),
            rest_hours=np.full(creatives.size, np.inf),
        )

    def check_size(self, campaigns: CampaignSet) -> None:
        """Refuse columns of another length than the set has campaigns, or creatives."""
        for column in fields(self):
            per_creative = column.name in _PER_CREATIVE
            size, wanted = len(getattr(self, column.name)), len(campaigns.creatives) if per_creative else len(campaigns)
            if size != wanted:
                raise ValueError(f"{column.name} (of length {size}) must be of length {wanted}, as in the campaign set")

    def select(self, campaigns: CampaignSet, members: Int64) -> Response:
        """The response to some campaigns of the set."""
        creatives = places_of(campaigns.creative_start, members)
        return Response(
            **{
                column.name: getattr(self, column.name)[creatives if column.name in _PER_CREATIVE else members]
                for column in fields(self)
            }
        )


_PER_CREATIVE = ("ctr", "wear", "rest_hours")
_LEAST_REST = 0.01
_LARGEST = 0.999


def _check(name: str, column: Float64, low: float, high: float, rule: str) -> None:
    right = (column >= low) & (column <= high)
    if not right.all():
        raise ValueError(f"{name} (={column[~right][0]}) must {rule}")


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
