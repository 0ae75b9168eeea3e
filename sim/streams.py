"""Streams of opportunities for many episodes at once: drawn or logged before anybody bids, and entered step by step.

An episode is one campaign alone in its market, a step one tick of it. Drawing is that of `sim.draws`, entering that of
`sim.exchange` and `sim.replay` for one campaign and one slot without clicks, on arrays that hold nothing else: a batch
of a thousand episodes is played a hundred times faster than as a thousand markets of a world. That both worlds are one
is a test.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.events import BIDS, COUNTS, IMPRESSIONS, OPPORTUNITIES, SPEND
from engine.prices import WINDOW, Prices
from engine.units import Float64, Int64
from sim.auction import bid_for
from sim.draws import LOG_MAX
from sim.kernel import kernel
from sim.prices import Won, count_win
from sim.rng import PRICE, VALUE, fill_words, to_normals


class Offers(NamedTuple):
    """With what n episodes enter a step's auctions."""

    bid: Int64  # int64[n], in force, micros
    budget: Int64  # int64[n], micros
    charged: Int64  # int64[n], spent since the episode began, micros; brought up to date
    lowest: Int64  # int64[n], `lowest_bins` of the bids
    first_price: bool = False


class Market(Protocol):
    """Whatever holds the opportunities of n episodes: one by one (`Streams`), or counted (`sim.binned`)."""

    @property
    def lots(self) -> Streams:
        """What there is to buy: single opportunities, or those of one price per value together."""
        ...

    def play(self, step: int, steps: int, offers: Offers, entry: Entry) -> None:
        """Enter every episode's auctions of a step of `steps`, into `entry`, bringing `offers.charged` up to date."""
        ...


class Streams(NamedTuple):
    """The opportunities of n episodes of s steps, episode by episode and step by step."""

    start: Int64  # int64[n · s + 1], where every step of every episode begins in the next two
    value: Float64  # float64[opportunities], relative to the reference opportunity
    price: Int64  # int64[opportunities], the least bid that wins, micros

    def of(self, episode: int, steps: int) -> tuple[Float64, Int64]:
        """Values and prices of one episode."""
        span = slice(self.start[episode * steps], self.start[(episode + 1) * steps])
        return self.value[span], self.price[span]

    @property
    def lots(self) -> Streams:
        """Every opportunity is sold by itself."""
        return self

    def play(self, step: int, steps: int, offers: Offers, entry: Entry) -> None:
        """Enter every episode's auctions of one step; see `Market`."""
        _enter(self, step, steps, offers, entry)


class Laws(NamedTuple):
    """What streams are drawn from: n episodes of s steps."""

    market_key: NDArray[Any]  # uint64[n]
    campaign_key: NDArray[Any]  # uint64[n]
    opportunities: Int64  # int64[n, s]
    log_level: Float64  # float64[n, s], of micros
    price_sigma: Float64  # float64[n]
    value_sigma: Float64  # float64[n]
    correlation: Float64  # float64[n], of value and price


def draw(laws: Laws) -> Streams:
    """Every opportunity of the episodes; the numbers are those of the simulated world under the same keys."""
    start = np.concatenate(([0], np.cumsum(laws.opportunities.ravel()))).astype(np.int64)
    value, price = np.empty(start[-1]), np.empty(start[-1], dtype=np.int64)
    _draw(laws, start, value, price)
    return Streams(start, value, price)


@kernel
def _draw(laws: Laws, start: Int64, value: Float64, price: Int64) -> None:
    episodes, steps = laws.opportunities.shape
    most = (laws.opportunities.max() + 3) // 4 * 4
    words = np.empty(most, dtype=np.uint64)
    heat, own, tail, place = np.empty(most), np.empty(most), np.empty(most), np.empty(most, dtype=np.int64)
    for e in range(episodes):
        correlation, sigma = laws.correlation[e], laws.value_sigma[e]
        rest = math.sqrt(1.0 - correlation * correlation)
        for step in range(steps):
            size, first = laws.opportunities[e, step], start[e * steps + step]
            fill_words(words, (size + 3) >> 2, 0, step, PRICE, laws.market_key[e])
            to_normals(words, heat, size, tail, place)
            fill_words(words, (size + 3) >> 2, 0, step, VALUE, laws.campaign_key[e])
            to_normals(words, own, size, tail, place)
            for k in range(size):
                log_price = min(laws.log_level[e, step] + laws.price_sigma[e] * heat[k], LOG_MAX)
                price[first + k] = np.int64(max(np.rint(math.exp(log_price)), 1.0))
                value[first + k] = math.exp(sigma * (correlation * heat[k] + rest * own[k]))


class Entry(NamedTuple):
    """Room for what a step brings: counts, and wins by their price per unit of value."""

    counts: Int64  # int64[n, len(COUNTS)]
    won: Int64  # int64[n, WINDOW, 2], wins and their value in ppm

    @classmethod
    def of(cls, episodes: int) -> Entry:
        """For so many episodes."""
        return cls(np.zeros((episodes, len(COUNTS)), dtype=np.int64), np.zeros((episodes, WINDOW, 2), dtype=np.int64))

    def prices(self, lowest: Int64) -> Prices:
        """The wins as views tell them, `lowest` being the bin of every episode's first column."""
        rows = np.empty((4, np.count_nonzero(self.won[:, :, 0])), dtype=np.int64)
        _tell(self.won, lowest, rows)
        return Prices(*rows)


@kernel
def _tell(won: Int64, lowest: Int64, rows: Int64) -> None:
    row = 0
    for e in range(won.shape[0]):
        for place in range(WINDOW):
            if won[e, place, 0] > 0:
                rows[0, row], rows[1, row] = e, lowest[e] + place
                rows[2, row], rows[3, row] = won[e, place, 0], won[e, place, 1]
                row += 1


@kernel
def _enter(streams: Streams, step: int, steps: int, offers: Offers, entry: Entry) -> None:
    counts, won = entry.counts, Won(entry.won, offers.lowest, offers.bid.astype(np.float64))
    counts[:] = 0
    entry.won[:] = 0
    for e in range(offers.bid.size):
        at, mine = e * steps + step, offers.bid[e]
        before = offers.budget[e] - offers.charged[e]
        remaining = before
        entered: Any = 0
        for k in range(streams.start[at], streams.start[at + 1]):
            offer = bid_for(mine, streams.value[k])
            if offer < 1 or offer > remaining:
                continue
            entered += 1
            price = streams.price[k]
            if offer < price:
                continue
            remaining -= offer if offers.first_price else price
            count_win(won, e, offer, price, streams.value[k])
        offers.charged[e] += before - remaining
        counts[e, OPPORTUNITIES] = streams.start[at + 1] - streams.start[at]
        counts[e, BIDS] = entered
        counts[e, IMPRESSIONS] = entry.won[e, :, 0].sum()
        counts[e, SPEND] = before - remaining
