"""Episodes cut from a log of auctions: windows of consecutive rows, as a campaign would have met them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from engine.errors import BadInput
from engine.units import Float64, Int64
from sim.bidding import Episodes
from sim.kernel import kernel
from sim.oracle import Optimum, optimum, whole_cost
from sim.rng import CUT_FROM, fine_uniform, key_of, philox
from sim.streams import Streams

_TRAITS = 4  # offset, budget share, start, target


@dataclass(frozen=True)
class LoggedEpisodes:
    """A distribution over episodes that are windows of a log; a number tells its episode, as with a `BiddingTask`.

    Parameters
    ----------
    value:
        float64[rows], what each opportunity is worth, relative to the reference opportunity, > 0. Rows worth nothing
        are never bought: leave them out.
    price:
        int64[rows], the least bid that wins, micros, >= 1.
    rows_per_step, steps:
        An episode is steps · rows_per_step consecutive rows, from an offset that is uniform over all there are.
    budget_share, start_sigma, target_range, first_price:
        As `BiddingTask` has them, within the window.

    Raises
    ------
    BadInput
        Where values or prices are none, and where the log is shorter than an episode.

    Example
    -------
    >>> rng = np.random.default_rng(1)
    >>> log = LoggedEpisodes(rng.lognormal(size=9_000), rng.integers(1, 90, 9_000), rows_per_step=50)
    >>> len(log.draw(0, np.arange(8)))
    8
    """

    value: Float64 = field(repr=False)
    price: Int64 = field(repr=False)
    rows_per_step: int = 95
    steps: int = 48
    budget_share: tuple[float, float] = (0.05, 0.5)
    start_sigma: float = 0.5
    target_range: tuple[float, float] | None = None
    first_price: bool = False

    def __post_init__(self) -> None:
        if len(self.value) != len(self.price):
            raise BadInput(f"value (of {len(self.value)} rows) must have the rows of price (={len(self.price)})")
        if len(self.value) < self.rows:
            raise BadInput(
                f"log (of {len(self.value)} rows) must have the {self.rows} rows of an episode: lower rows_per_step"
            )
        if not (np.isfinite(self.value) & (self.value > 0)).all() or (self.price < 1).any():
            raise BadInput("log must hold finite values > 0 and prices >= 1 micro: leave other rows out")

    @property
    def rows(self) -> int:
        """Rows of an episode."""
        return self.steps * self.rows_per_step

    @cached_property
    def known_curve(self) -> Float64:
        """Every step holds as many rows; float64[steps]."""
        return np.full(self.steps, 1 / self.steps)

    @property
    def expected_opportunities(self) -> float:
        """Every episode holds as many."""
        return float(self.rows)

    def draw(self, seed: int, numbers: Int64) -> Episodes:
        """The episodes of these numbers under a seed."""
        uniforms = np.empty((_TRAITS, len(numbers)))
        _fill(uniforms, np.asarray(numbers, dtype=np.int64), np.uint64(_log_key(seed)))
        offset = np.floor(uniforms[0] * (len(self.value) - self.rows + 1)).astype(np.int64)
        row = (offset[:, np.newaxis] + np.arange(self.rows)).ravel()
        start = np.arange(len(numbers) * self.steps + 1) * self.rows_per_step
        streams = Streams(start, self.value[row].astype(np.float64), self.price[row].astype(np.int64))
        low, high = (math.log(share) for share in self.budget_share)
        share = np.exp(low + (high - low) * uniforms[1])
        budget = np.maximum(np.floor(share * whole_cost(streams, len(numbers))), 1).astype(np.int64)
        best, target = self._best(streams, budget, uniforms[3])
        bid = np.clip(np.floor(best.threshold * np.exp(self.start_sigma * ndtri(uniforms[2]))), 1, budget)
        return Episodes(streams, self.steps, bid.astype(np.int64), budget, target, best, self.first_price)

    def _best(self, streams: Streams, budget: Int64, uniform: Float64) -> tuple[Optimum, Float64 | None]:
        """The hindsight optimum and, where there is one, the target."""
        best = optimum(streams, budget)
        if self.target_range is None:
            return best, None
        low, high = self.target_range
        target = best.cost / np.maximum(best.value, 1e-12) * np.exp(low + (high - low) * uniform)
        return optimum(streams, budget, target), target


@lru_cache(maxsize=64)
def _log_key(seed: int) -> int:
    return key_of(seed, "logged", "")


@kernel
def _fill(out: Float64, numbers: Int64, key: Any) -> None:
    """Uniforms of every (trait, number)."""
    half = np.uint64(32)
    for trait in range(out.shape[0]):
        for i in range(out.shape[1]):
            number = np.uint64(numbers[i])
            w: NDArray[Any] = philox(
                number & np.uint64(0xFFFFFFFF), number >> half, np.uint64(CUT_FROM), np.uint64(trait), key
            )
            out[trait, i] = fine_uniform(w[0], w[1])
