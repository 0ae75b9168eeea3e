"""The bidding task: a distribution over episodes, each a campaign with a budget alone in its market.

An episode is told by its number: its traits, its market's path and every opportunity are functions of the task's seed
and that number, whatever else is drawn beside it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from engine.units import Float64, Int64
from sim.drift import drift
from sim.kernel import kernel
from sim.oracle import Optimum, optimum, whole_cost
from sim.rng import ARRIVALS, EPISODE, TRAIT, TURN, fill_uniforms, fine_uniform, key_of, philox
from sim.streams import Laws, Market, Streams, draw
from sim.traffic import poisson

Range = tuple[float, float]
_TRAITS = (
    "volume", "amplitude", "phase", "value_sigma", "price_sigma", "correlation", "level", "season", "shifts", "shift",
    "shift_step", "budget_share", "start", "target", "targeted", "window",
)  # fmt: skip
REFERENCE_MICROS = 1_000_000
"""The price level 1 of a task in micros: fine enough that whole micros round nothing that matters."""


@dataclass(frozen=True)
class BiddingTask:
    """Distributions of an episode's traits; ranges are uniform unless told otherwise.

    Parameters
    ----------
    steps:
        Ticks of an episode; its traffic curve spans them once.
    volume:
        Expected opportunities a step, over the curve's mean.
    amplitude, phase_sigma, half_amplitude:
        The curve is 1 + a · sin(2π (t/steps − 0.3 + φ)) + h · sin(4π t/steps), not below 0, with a in `amplitude` and φ
        normal with `phase_sigma`; counts are Poisson.
    known_amplitude:
        The platform's curve, which bidders know: the same with this a, and φ = 0.
    value_sigma, price_sigma, correlation:
        Log-normal values exp(σᵥ z) and prices exp(level + σₚ (ρ z + √(1 − ρ²) z′)).
    level_sigma, season, persistence, drift_sigma:
        The log level is normal, plus s · sin(2π (t/steps − 0.3 + φ)) with s in `season`, plus a stationary
        autoregression whose innovations have `drift_sigma`.
    shift_share, shift_sigma, shift_steps:
        This share of the episodes has a shift of the log level, normal, from a step within these (ends included) on.
    budget_share:
        Budget as a share of the cost of buying everything, uniform in its logarithm.
    start_sigma:
        The first bid is the hindsight optimum's threshold times exp(normal with this sigma).
    target_range:
        None: the budget alone binds. Else the target cost per unit of value is the optimum's average cost times
        exp(uniform in this range).
    target_share:
        With a target range, the share of the episodes that have a target; the others' is infinite.
    first_price:
        Whether winners pay their own bid.
    market:
        How opportunities come about from their laws: `sim.streams.draw` draws each of them, `sim.binned.draw` counts
        them by price per value, the same in distribution.
    """

    steps: int = 48
    volume: Range = (70.0, 120.0)
    amplitude: Range = (0.4, 0.8)
    phase_sigma: float = 0.06
    half_amplitude: float = 0.25
    known_amplitude: float = 0.6
    value_sigma: Range = (0.4, 1.0)
    price_sigma: Range = (0.4, 0.9)
    correlation: Range = (0.0, 0.6)
    level_sigma: float = 0.5
    season: Range = (0.0, 0.3)
    persistence: float = 0.9
    drift_sigma: float = 0.08
    shift_share: float = 0.5
    shift_sigma: float = 0.5
    shift_steps: tuple[int, int] = (8, 39)
    budget_share: Range = (0.05, 0.5)
    start_sigma: float = 0.5
    target_range: Range | None = None
    target_share: float = 1.0
    first_price: bool = False
    market: Callable[[Laws], Market] = draw

    @cached_property
    def known_curve(self) -> Float64:
        """The platform's curve, as a share of the episode's traffic per step; float64[steps]."""
        curve = self._curve(np.array([self.known_amplitude]), np.zeros(1))[0]
        share: Float64 = curve / curve.sum()
        return share

    @property
    def expected_opportunities(self) -> float:
        """How many opportunities an episode holds on average over all episodes."""
        return self.steps * sum(self.volume) / 2

    def _curve(self, amplitude: Float64, phase: Float64) -> Float64:
        """Expected traffic relative to its mean; float64[n, steps]."""
        t = np.arange(self.steps) / self.steps
        day = amplitude[:, np.newaxis] * self._season(phase)
        curve: Float64 = np.maximum(1 + day + self.half_amplitude * np.sin(4 * np.pi * t), 0)
        return curve

    def _season(self, phase: Float64) -> Float64:
        t = np.arange(self.steps) / self.steps
        wave: Float64 = np.sin(2 * np.pi * (t - 0.3 + phase[:, np.newaxis]))
        return wave

    def draw(self, seed: int, numbers: Int64) -> Episodes:
        """The episodes of these numbers under a seed."""
        market_key, campaign_key = _keys(seed, numbers)
        traits = Traits.of(market_key)
        phase = self.phase_sigma * traits.normal("phase")
        mean = traits.within("volume", self.volume)[:, np.newaxis]
        mean = mean * self._curve(traits.within("amplitude", self.amplitude), phase)
        arrivals = np.empty((self.steps, len(numbers)))
        fill_uniforms(arrivals, market_key, 0, ARRIVALS)
        market = self.market(
            Laws(
                market_key=market_key,
                campaign_key=campaign_key,
                opportunities=poisson(np.ascontiguousarray(arrivals.T), mean),
                log_level=self._log_level(traits, phase, market_key),
                price_sigma=traits.within("price_sigma", self.price_sigma),
                value_sigma=traits.within("value_sigma", self.value_sigma),
                correlation=traits.within("correlation", self.correlation),
            )
        )
        return self._episodes(market, traits)

    def _log_level(self, traits: Traits, phase: Float64, keys: NDArray[Any]) -> Float64:
        """The price level's logarithm; float64[n, steps]."""
        first, last = self.shift_steps
        begins = first + np.floor(traits.uniform("shift_step") * (last - first + 1))
        shift = np.where(traits.uniform("shifts") < self.shift_share, self.shift_sigma * traits.normal("shift"), 0.0)
        level = math.log(REFERENCE_MICROS) + self.level_sigma * traits.normal("level")[:, np.newaxis]
        level = level + traits.within("season", self.season)[:, np.newaxis] * self._season(phase)
        level = level + shift[:, np.newaxis] * (np.arange(self.steps) >= begins[:, np.newaxis])
        wander = np.stack([drift(self.steps, self.persistence, self.drift_sigma, key) for key in keys])
        log_level: Float64 = level + wander
        return log_level

    def _episodes(self, market: Market, traits: Traits) -> Episodes:
        budget, target, best = endowed(market.lots, traits, self.budget_share, self.target_range, self.target_share)
        bid = first_bid(best, budget, traits, self.start_sigma)
        return Episodes(market, self.steps, bid, budget, target, best, self.first_price)


class Source(Protocol):
    """Where episodes come from: a task's distribution, or a log."""

    @property
    def steps(self) -> int:
        """Ticks of an episode."""
        ...

    @property
    def known_curve(self) -> Float64:
        """The traffic curve bidders know, as a share of the episode's traffic per step; float64[steps]."""
        ...

    @property
    def expected_opportunities(self) -> float:
        """How many opportunities bidders expect of an episode."""
        ...

    def draw(self, seed: int, numbers: Int64) -> Episodes:
        """The episodes of these numbers under a seed."""
        ...


def episode_numbers(seeds: NDArray[Any], played: Int64) -> Int64:
    """The number of the next episode under each seed (uint64[n]) after so many (int64[n]); int64[n], >= 0.

    A hash of 63 bits: the episodes of different seeds are different ones, and none has a small number, so that what is
    held out by small numbers is held out.
    """
    numbers = np.empty(len(seeds), dtype=np.int64)
    _fill_numbers(numbers, np.asarray(seeds, dtype=np.uint64), np.asarray(played, dtype=np.int64))
    return numbers


@kernel
def _fill_numbers(out: Int64, seeds: Any, played: Int64) -> None:
    for i in range(out.size):
        w = philox(np.uint64(played[i]), np.uint64(0), np.uint64(TURN), np.uint64(0), seeds[i])
        out[i] = np.int64(((w[0] << np.uint64(32)) | w[1]) >> np.uint64(1))


@dataclass(frozen=True)
class Episodes:
    """n episodes of one length: their opportunities, what they begin with, and what hindsight would have made of them.

    `target` is the most that a unit of value may cost on average, float64[n] in micros; None: only the budget binds, as
    it does where the target is infinite.
    """

    streams: Market
    steps: int
    bid: Int64
    budget: Int64
    target: Float64 | None
    best: Optimum
    first_price: bool = False

    def __len__(self) -> int:
        return len(self.bid)


@dataclass(frozen=True)
class Traits:
    """What the episodes of some markets are like, as uniforms; float64[n, traits]."""

    uniforms: Float64

    @classmethod
    def of(cls, keys: NDArray[Any]) -> Traits:
        """Of the markets with these keys."""
        uniforms = np.empty((len(keys), len(_TRAITS)))
        _fill_traits(uniforms, keys)
        return cls(uniforms)

    def uniform(self, trait: str) -> Float64:
        """In (0, 1); float64[n]."""
        column: Float64 = self.uniforms[:, _TRAITS.index(trait)]
        return column

    def within(self, trait: str, bounds: Range) -> Float64:
        """Uniform in a range; float64[n]."""
        return bounds[0] + (bounds[1] - bounds[0]) * self.uniform(trait)

    def normal(self, trait: str) -> Float64:
        """Standard normal; float64[n]."""
        column: Float64 = ndtri(self.uniform(trait))
        return column


def endowed(
    lots: Streams, traits: Traits, budget_share: Range, target_range: Range | None, target_share: float = 1.0
) -> tuple[Int64, Float64 | None, Optimum]:
    """Budgets and targets of episodes, as `BiddingTask` says, and what hindsight would have made of them."""
    low, high = (math.log(share) for share in budget_share)
    share = np.exp(low + (high - low) * traits.uniform("budget_share"))
    budget = np.maximum(np.floor(share * whole_cost(lots, len(share))), 1).astype(np.int64)
    best = optimum(lots, budget)
    if target_range is None:
        return budget, None, best
    average = best.cost / np.maximum(best.value, 1e-12)
    target = average * np.exp(traits.within("target", target_range))
    target = np.where(traits.uniform("targeted") < target_share, target, np.inf)
    return budget, target, optimum(lots, budget, target)


def first_bid(best: Optimum, budget: Int64, traits: Traits, sigma: float) -> Int64:
    """The threshold of hindsight times exp(normal with this sigma), in whole micros within the budget."""
    start = best.threshold * np.exp(sigma * traits.normal("start"))
    bid: Int64 = np.clip(np.floor(start), 1, budget).astype(np.int64)
    return bid


def keyed_traits(seed: int, numbers: Int64) -> Traits:
    """The traits of the episodes of these numbers under a seed."""
    return Traits.of(_keys(seed, numbers)[0])


def _keys(seed: int, numbers: Int64) -> tuple[NDArray[Any], NDArray[Any]]:
    keys = np.empty((2, len(numbers)), dtype=np.uint64)
    _fill_keys(keys, np.asarray(numbers, dtype=np.int64), np.uint64(_task_key(seed)))
    return keys[0], keys[1]


@lru_cache(maxsize=64)
def _task_key(seed: int) -> int:
    return key_of(seed, "bidding", "")


@kernel
def _fill_keys(out: Any, numbers: Int64, key: Any) -> None:
    """Keys of every episode's market and campaign; uint64[2, n]."""
    half = np.uint64(32)
    for i in range(numbers.size):
        number = np.uint64(numbers[i])
        w = philox(number & np.uint64(0xFFFFFFFF), number >> half, np.uint64(EPISODE), np.uint64(0), key)
        out[0, i], out[1, i] = (w[0] << half) | w[1], (w[2] << half) | w[3]


@kernel
def _fill_traits(out: Float64, keys: Any) -> None:
    """A uniform for every (market, trait)."""
    for i in range(out.shape[0]):
        for trait in range(out.shape[1]):
            block = philox(np.uint64(trait), np.uint64(0), np.uint64(TRAIT), np.uint64(0), keys[i])
            out[i, trait] = fine_uniform(block[0], block[1])
