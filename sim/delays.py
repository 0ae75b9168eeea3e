"""How long after a click a conversion comes: exponential or log-normal delays, and mixtures of these.

The exponential delay is that of Chapelle, "Modeling delayed feedback in display advertising", KDD 2014. A mixture fits
what shops see: many who buy within the hour, and some who think it over for days.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr

from engine.units import PPM, Float64, Int64


class Law(IntEnum):
    """How a part of a delay is distributed."""

    EXPONENTIAL = 0
    LOGNORMAL = 1


class Part(NamedTuple):
    """One part of a delay: of those who convert, `share` (ppm) do so by this law.

    `hours` is the mean of an exponential delay and the median of a log-normal one, whose logarithm has the standard
    deviation `sigma`.
    """

    law: Law
    hours: float
    sigma: float = 0.0
    share: int = PPM


@dataclass(frozen=True)
class Delays:
    """The delays of n campaigns as columns of k parts; a campaign with fewer parts has some without a share.

    share:
        int64[n, k], ppm that sum to 1,000,000 per campaign.
    law:
        uint8[n, k], a `Law`.
    hours:
        float64[n, k], mean (exponential) or median (log-normal).
    sigma:
        float64[n, k], standard deviation of a log-normal delay's logarithm.

    Examples
    --------
    >>> delays = Delays.of([[Part(Law.EXPONENTIAL, 24.0)], [Part(Law.LOGNORMAL, 6.0, 1.2)]])
    >>> delays.cdf(24.0).round(2).tolist(), delays.mean_hours.round(1).tolist()
    ([0.63, 0.88], [24.0, 12.3])
    """

    share: Int64
    law: NDArray[Any]
    hours: Float64
    sigma: Float64

    def __post_init__(self) -> None:
        shapes = {column.name: getattr(self, column.name).shape for column in fields(self)}
        if self.share.ndim != 2 or len(set(shapes.values())) > 1:
            raise ValueError(f"columns of a delay (={shapes}) must have one shape, [campaigns, parts]")
        check_shares("share", self.share)
        if not np.isin(self.law, list(Law)).all():
            raise ValueError(f"law (={self.law[~np.isin(self.law, list(Law))][0]}) must be a Law: 0 or 1")
        for name in ("hours", "sigma"):
            column = getattr(self, name)
            if not ((column >= 0) & np.isfinite(column)).all():
                wrong = column[~((column >= 0) & np.isfinite(column))][0]
                raise ValueError(f"{name} (={wrong}) of a delay must be >= 0 and finite")
        if ((self.law == Law.LOGNORMAL) & (self.hours == 0)).any():
            raise ValueError("hours (=0) must be > 0: they are a log-normal delay's median")

    def __len__(self) -> int:
        return len(self.share)

    @classmethod
    def of(cls, mixtures: Sequence[Sequence[Part]]) -> Self:
        """The columns of one mixture per campaign."""
        return cls(
            share=padded([[part.share for part in parts] for parts in mixtures], 0, np.int64),
            law=padded([[part.law for part in parts] for parts in mixtures], Law.EXPONENTIAL, np.uint8),
            hours=padded([[part.hours for part in parts] for parts in mixtures], 0, np.float64),
            sigma=padded([[part.sigma for part in parts] for parts in mixtures], 0, np.float64),
        )

    def select(self, members: Int64) -> Delays:
        """The delays of some campaigns."""
        return Delays(self.share[members], self.law[members], self.hours[members], self.sigma[members])

    @property
    def mean_hours(self) -> Float64:
        """The mean delay of each campaign, float64[n]; a log-normal one's is median · exp(sigma² / 2)."""
        means = np.where(self.law == Law.LOGNORMAL, self.hours * np.exp(self.sigma**2 / 2), self.hours)
        mean: Float64 = (means * self.share).sum(axis=1) / PPM
        return mean

    def cdf(self, hours: ArrayLike) -> Float64:
        """Share of its conversions that a campaign has had so long after the click; hours [..., n] to float64[..., n].

        A scalar is the age of all.
        """
        age = np.asarray(hours, dtype=np.float64)[..., np.newaxis]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(self.hours > 0, age / self.hours, np.inf)
            spread = np.where(self.sigma > 0, ndtr(np.log(ratio) / self.sigma), ratio >= 1)
        come = np.where(self.law == Law.LOGNORMAL, spread, -np.expm1(-ratio))
        share: Float64 = (np.where(age >= 0, come, 0.0) * self.share).sum(axis=-1) / PPM
        return share


def padded(rows: Sequence[Sequence[float]], filler: float, dtype: type) -> NDArray[Any]:
    """Rows of several lengths as one array of the longest's, `filler` behind the shorter ones; at least a column."""
    table: NDArray[Any] = np.full((len(rows), max((1, *map(len, rows)))), filler, dtype=dtype)
    for place, row in enumerate(rows):
        table[place, : len(row)] = row
    return table


def check_shares(name: str, shares: Int64) -> None:
    """Refuse rows of shares that are negative, or do not sum to the whole."""
    wrong = (shares < 0).any(axis=1) | (shares.sum(axis=1) != PPM)
    if wrong.any():
        raise ValueError(f"{name} (={shares[wrong][0].tolist()}) must be ppm >= 0 that sum to {PPM}: scale them")
