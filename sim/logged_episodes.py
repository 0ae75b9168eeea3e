"""Episodes of the bidding task cut from a log of auctions: its earlier part fits the first bid, its later part judges.

The later part is cut into windows of so many rows a step, one after the other, so that no two of them share a row; an
episode is a window with a budget of its own. A log of won auctions tells nothing of prices above the bid it was won
with: an episode is then that part of the market.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from engine.errors import BadInput
from engine.units import Float64, Int64
from sim.bidding import Episodes, Range, keyed_traits
from sim.oracle import optimum, whole_cost
from sim.streams import Streams

_LEAST_VALUE = 1e-9


@dataclass(frozen=True, eq=False)
class LoggedTask:
    """A log's auctions as a task.

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
    budget_share:
        Budget as a share of the cost of buying a whole window, uniform in its logarithm.
    target_range:
        As of `sim.bidding.BiddingTask`.

    Raises
    ------
    BadInput
        Where a part holds no whole window.
    """

    value: Float64
    price: Int64
    steps: int = 48
    rows_per_step: int = 50
    fit_share: float = 0.5
    budget_share: Range = (0.05, 0.5)
    target_range: Range | None = None

    def __post_init__(self) -> None:
        if min(self._split, len(self.price) - self._split) < self.window:
            raise BadInput(
                f"the log (={len(self.price)} auctions) must hold {2 * self.window}, a window of {self.steps} steps of "
                f"{self.rows_per_step} in each of its parts: give a longer one"
            )

    @property
    def window(self) -> int:
        """Rows of an episode."""
        return self.steps * self.rows_per_step

    @property
    def windows(self) -> int:
        """Into how many the later part is cut."""
        return (len(self.price) - self._split) // self.window

    @property
    def _split(self) -> int:
        return int(len(self.price) * self.fit_share)

    def draw(self, seed: int, numbers: Int64) -> Episodes:
        """The episodes of these numbers under a seed, which decides about budgets and targets; see `window_of`."""
        traits = keyed_traits(seed, numbers)
        first = self._split + self.window_of(numbers) * self.window
        rows = (first[:, np.newaxis] + np.arange(self.window)).ravel()
        start = np.arange(len(numbers) * self.steps + 1, dtype=np.int64) * self.rows_per_step
        streams = Streams(start, np.maximum(self.value[rows], _LEAST_VALUE), np.maximum(self.price[rows], 1))
        low, high = np.log(self.budget_share)
        share = np.exp(low + (high - low) * traits.uniform("budget_share"))
        budget = np.maximum(np.floor(share * whole_cost(streams, len(numbers))), 1).astype(np.int64)
        best, target = optimum(streams, budget), None
        if self.target_range is not None:
            average = best.cost / np.maximum(best.value, _LEAST_VALUE)
            target = average * np.exp(traits.within("target", self.target_range))
            best = optimum(streams, budget, target)
        bid = np.clip(np.floor(self._first_bid(budget / self.window)), 1, budget).astype(np.int64)
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
