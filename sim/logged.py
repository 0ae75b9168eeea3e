"""Episodes of the bidding task cut from a log of auctions: windows of its rows, as a campaign would have met them.

`LoggedEpisodes` begin anywhere, with a bid around what hindsight would have made it: to train on. A `LoggedTask` fits
the first bid to the log's earlier part and judges on windows of the later one that share no row: to compare on. A log
of won auctions tells nothing of prices above the bid it was won with: an episode is then that part of the market.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from engine.errors import BadInput
from engine.units import Float64, Int64
from sim.bidding import Episodes, Range, endowed, first_bid, keyed_traits
from sim.streams import Streams

_LEAST_VALUE = 1e-9


@dataclass(frozen=True, eq=False)
class _Log:
    """What both kinds have in common: a log, how long an episode is, and what it is given; see `LoggedEpisodes`."""

    value: Float64 = field(repr=False)
    price: Int64 = field(repr=False)
    rows_per_step: int = 95
    steps: int = 48
    budget_share: Range = (0.05, 0.5)
    target_range: Range | None = None

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

    def _cut(self, first: Int64) -> Streams:
        """Episodes from these rows (int64[n]) on."""
        row = (first[:, np.newaxis] + np.arange(self.rows)).ravel()
        start = np.arange(len(first) * self.steps + 1, dtype=np.int64) * self.rows_per_step
        value = np.maximum(self.value[row].astype(np.float64), _LEAST_VALUE)
        return Streams(start, value, np.maximum(self.price[row].astype(np.int64), 1))


@dataclass(frozen=True, eq=False)
class LoggedEpisodes(_Log):
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
    budget_share, target_range, start_sigma, first_price:
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

    start_sigma: float = 0.5
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

    def draw(self, seed: int, numbers: Int64) -> Episodes:
        """The episodes of these numbers under a seed."""
        traits = keyed_traits(seed, numbers)
        offsets = len(self.value) - self.rows + 1
        streams = self._cut(np.floor(traits.uniform("window") * offsets).astype(np.int64))
        budget, target, best = endowed(streams, traits, self.budget_share, self.target_range)
        bid = first_bid(best, budget, traits, self.start_sigma)
        return Episodes(streams, self.steps, bid, budget, target, best, self.first_price)


@dataclass(frozen=True, eq=False)
class LoggedTask(_Log):
    """A log's auctions as a task: its earlier part fits the first bid, its later part, cut into windows, judges.

    Parameters
    ----------
    value:
        float64[rows], of the opportunities in the log's order, relative to the reference opportunity.
    price:
        int64[rows], micros.
    steps, rows_per_step:
        Of an episode.
    fit_share:
        This part of the log, from its beginning, fits the first bid; the rest is judged on.
    budget_share, target_range:
        As `BiddingTask` has them, within the window.

    Raises
    ------
    BadInput
        Where a part holds no whole window.
    """

    rows_per_step: int = 50
    fit_share: float = 0.5

    def __post_init__(self) -> None:
        if min(self._split, len(self.price) - self._split) < self.rows:
            raise BadInput(
                f"the log (={len(self.price)} auctions) must hold {2 * self.rows}, a window of {self.steps} steps of "
                f"{self.rows_per_step} in each of its parts: give a longer one"
            )

    @property
    def windows(self) -> int:
        """Into how many the later part is cut."""
        return (len(self.price) - self._split) // self.rows

    @property
    def _split(self) -> int:
        return int(len(self.price) * self.fit_share)

    def draw(self, seed: int, numbers: Int64) -> Episodes:
        """The episodes of these numbers under a seed, which decides about budgets and targets; see `window_of`."""
        streams = self._cut(self._split + self.window_of(numbers) * self.rows)
        traits = keyed_traits(seed, numbers)
        budget, target, best = endowed(streams, traits, self.budget_share, self.target_range)
        bid = np.clip(np.floor(self._first_bid(budget / self.rows)), 1, budget).astype(np.int64)
        return Episodes(streams, self.steps, bid, budget, target, best)

    def window_of(self, numbers: Int64) -> Int64:
        """The window of each episode; those of one window share its rows, whatever the seed."""
        return np.asarray(numbers, dtype=np.int64) % self.windows

    def _first_bid(self, cost: Float64) -> Float64:
        """The bid at which an auction of the earlier part cost so much on average; float64[n], micros."""
        ratio, running = self._earlier
        return ratio[np.minimum(np.searchsorted(running, cost), len(ratio) - 1)]

    @cached_property
    def _earlier(self) -> tuple[Float64, Float64]:
        """Prices per value of the earlier part, ascending, and what buying up to each costs an auction."""
        price = np.maximum(self.price[: self._split], 1)
        ratio = price / np.maximum(self.value[: self._split], _LEAST_VALUE)
        order = np.argsort(ratio, kind="stable")
        return ratio[order], np.cumsum(price[order]) / self._split
