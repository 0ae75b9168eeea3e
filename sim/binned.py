"""Opportunities of many episodes counted instead of drawn one by one: how many of a step have which price per value.

Log price per value is normal, so bins of it have fixed probabilities. A step's opportunities are split between them by
halving: of n that fall into two equal bins, as many fall into the lower as n fair coins show heads (the counts are
those of as many single draws, not an approximation). What the opportunities of a bin are worth together is log-normal
with the mean and variance that their sum has (Fenton, IRE Transactions on Communications Systems 8, 1960), and their
prices are that times the bin's price per value. Below a bid within a bin lie as many as have drawn a place below it.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from engine.events import BIDS, IMPRESSIONS, OPPORTUNITIES, SPEND
from engine.prices import WINDOW
from engine.units import Float64, Int64
from sim.kernel import helper, kernel
from sim.prices import place_of
from sim.rng import BIN, PLACE, fill_words, philox, uniform
from sim.streams import Entry, Laws, Offers, Streams

_LEVELS = 5
_LOWER, _UPPER = 5, 3
"""How often the lowest and the highest of the equal bins are halved again, towards the tails."""

_EQUAL = 1 << _LEVELS
_SHARES = np.concatenate(
    (
        [0.0],
        2.0 ** -np.arange(_LEVELS + _LOWER, _LEVELS, -1.0),
        np.arange(1, _EQUAL) / _EQUAL,
        1 - 2.0 ** -np.arange(_LEVELS + 1, _LEVELS + _UPPER + 1.0),
        [1.0],
    )
)
BINS = len(_SHARES) - 1
_EDGES = ndtri(_SHARES)
"""Where the bins begin and end, in standard deviations of log price per value; float64[BINS + 1]."""

_KNOWN = 64  # of so many opportunities in a bin the spread of their value is tabulated
_NORMALS = ndtri((np.arange(4096) + 0.5) / 4096)
_MILLION = 1e6


class Bins(NamedTuple):
    """The opportunities of n episodes of s steps by price per value: a lot for every bin that holds any."""

    lots: Streams  # value and cost of a lot's opportunities together
    bin: NDArray[Any]  # uint8[lots]
    size: NDArray[Any]  # int32[lots], opportunities
    opportunities: Int64  # int64[n, s]
    log_level: Float64  # float64[n, s], of price per value in micros, at its median
    sigma: Float64  # float64[n], standard deviation of log price per value
    key: NDArray[Any]  # uint64[n]

    def play(self, step: int, steps: int, offers: Offers, entry: Entry) -> None:
        """Enter every episode's auctions of one step; see `sim.streams.Market`.

        A budget that runs out within the step leaves of all its wins the share that it pays for.
        """
        _enter(self, step, steps, offers, _EDGES, _SHARES, entry)


def draw(laws: Laws) -> Bins:
    """The opportunities of the episodes, counted; of each step as many as `sim.streams.draw` draws one by one."""
    slope = laws.value_sigma * laws.correlation
    own = laws.value_sigma * np.sqrt(1 - laws.correlation**2)
    sigma = np.maximum(np.hypot(laws.price_sigma - slope, own), 1e-9)  # log price per value = level + sigma · u
    along = (slope * (laws.price_sigma - slope) - own**2) / sigma  # log value = along · u + rest · independent normal
    rest = np.sqrt(np.maximum(laws.value_sigma**2 - along**2, 0.0))
    mean = np.exp(0.5 * rest**2)[:, np.newaxis] * _moment(along)
    price = _moment(along + sigma) / _moment(along)
    room = int(np.minimum(laws.opportunities, BINS).sum())
    start = np.zeros(laws.opportunities.size + 1, dtype=np.int64)
    lots = Streams(start, np.empty(room), np.empty(room, dtype=np.int64))
    bins, count = np.empty(room, dtype=np.uint8), np.empty(room, dtype=np.int32)
    spread = np.sqrt(np.log1p(np.expm1(rest**2)[:, np.newaxis] / np.arange(1, _KNOWN + 1)))
    used = _draw(laws, mean, price, spread, _NORMALS, lots, bins, count)
    lots = Streams(start, lots.value[:used], lots.price[:used])
    return Bins(lots, bins[:used], count[:used], laws.opportunities, laws.log_level, sigma, laws.market_key)


def _moment(slope: Float64) -> Float64:
    """The mean of exp(slope · u) within every bin; float64[n, BINS]."""
    moved = _EDGES - slope[:, np.newaxis]
    sides = np.where(moved > 0, -ndtr(-moved), ndtr(moved))  # either tail without loss of digits
    within = np.diff(sides, axis=1) + (np.diff(moved > 0, axis=1) > 0)
    moment: Float64 = np.exp(0.5 * slope**2)[:, np.newaxis] * within / np.diff(_SHARES)
    return moment


@kernel
def _draw(
    laws: Laws,
    mean: Float64,
    price: Float64,
    spread: Float64,
    normals: Float64,
    lots: Streams,
    bins: NDArray[Any],
    count: NDArray[Any],
) -> int:
    """Fill the lots; how many there are."""
    episodes, steps = laws.opportunities.shape
    most = laws.opportunities.max()
    words = np.empty((most * (_LEVELS + 2) // 32 + 2 * BINS + 7) // 4 * 4, dtype=np.uint64)
    counts = np.empty(BINS, dtype=np.int64)
    lot = 0
    for e in range(episodes):
        for step in range(steps):
            size = laws.opportunities[e, step]
            need = size * (_LEVELS + 2) // 32 + 2 * BINS
            fill_words(words, (need + 3) >> 2, 0, step, BIN, laws.market_key[e])
            at = _split(size, words, counts)
            level = math.exp(laws.log_level[e, step])
            for b in range(BINS):
                n = counts[b]
                if n == 0:
                    continue
                sigma = spread[e, min(n, _KNOWN) - 1]
                if n > _KNOWN:
                    sigma *= math.sqrt(_KNOWN / n)
                noise = sigma * normals[words[at] >> np.uint64(20)]
                at += 1
                value = n * mean[e, b] * math.exp(noise - 0.5 * sigma * sigma)
                lots.value[lot] = value
                lots.price[lot] = np.int64(max(np.rint(value * price[e, b] * level), 1.0))
                bins[lot], count[lot] = b, n
                lot += 1
            lots.start[e * steps + step + 1] = lot
    return lot


@helper
def _heads(n: Any, words: Any, at: Any) -> Any:
    """How many of n fair coins show heads, and the first word that is not used up."""
    heads: Any = 0
    while n > 0:
        w = words[at]
        if n < 32:
            w &= (np.uint64(1) << np.uint64(n)) - np.uint64(1)
        w -= (w >> np.uint64(1)) & np.uint64(0x55555555)
        w = (w & np.uint64(0x33333333)) + ((w >> np.uint64(2)) & np.uint64(0x33333333))
        w = (w + (w >> np.uint64(4))) & np.uint64(0x0F0F0F0F)
        heads += np.int64(((w * np.uint64(0x01010101)) >> np.uint64(24)) & np.uint64(0xFF))
        n -= 32
        at += 1
    return heads, at


@kernel
def _split(size: int, words: Any, counts: Int64) -> Any:
    """Split opportunities between the bins; the first word that is not used up."""
    equal = counts[_LOWER : _LOWER + _EQUAL]
    equal[0] = size
    at: Any = 0
    for level in range(_LEVELS):
        for j in range((1 << level) - 1, -1, -1):
            n = equal[j]
            low, at = _heads(n, words, at)
            equal[2 * j], equal[2 * j + 1] = low, n - low
    for i in range(_LOWER, 0, -1):
        n = counts[i]
        low, at = _heads(n, words, at)
        counts[i], counts[i - 1] = n - low, low
    for i in range(BINS - 1 - _UPPER, BINS - 1):
        n = counts[i]
        high, at = _heads(n, words, at)
        counts[i], counts[i + 1] = n - high, high
    return at


@kernel
def _enter(bins: Bins, step: int, steps: int, offers: Offers, edges: Float64, shares: Float64, entry: Entry) -> None:
    counts, won = entry.counts, entry.won
    counts[:] = 0
    won[:] = 0
    wins, value = np.zeros(WINDOW), np.zeros(WINDOW)
    for e in range(offers.bid.size):
        bid, remaining = np.float64(offers.bid[e]), offers.budget[e] - offers.charged[e]
        opportunities = bins.opportunities[e, step]
        counts[e, OPPORTUNITIES] = opportunities
        if remaining <= 0 or bid < 1:
            continue
        level, sigma = math.exp(bins.log_level[e, step]), bins.sigma[e]
        height = math.log(bid / level) / sigma
        reached = np.searchsorted(edges, height) - 1  # the bin within which the bid lies
        wins[:] = 0.0
        value[:] = 0.0
        cost = 0.0
        for lot in range(bins.lots.start[e * steps + step], bins.lots.start[e * steps + step + 1]):
            b = np.int64(bins.bin[lot])
            if b > reached:
                break
            n: Any = bins.size[lot]
            worth, paid = bins.lots.value[lot], np.float64(bins.lots.price[lot])
            taken: Any = np.float64(n)
            price = paid / worth
            if b == reached:
                below = 0.5 * math.erfc(-height / math.sqrt(2.0))
                taken = _below(n, (below - shares[b]) / (shares[b + 1] - shares[b]), b, step, bins.key[e])
                if taken == 0:
                    continue
                price = level * math.exp(sigma * 0.5 * (max(edges[b], height - 0.5) + height))
                worth = worth * taken / n
                paid = worth * price
            place = place_of(min(price, bid), offers.lowest[e])
            wins[place] += taken
            value[place] += worth
            cost += worth * bid if offers.first_price else paid
        share = min(1.0, np.float64(remaining) / max(cost, 1.0))
        spent = min(np.int64(np.rint(cost * share)), remaining)
        offers.charged[e] += spent
        _tell(wins, value, share, won[e])
        counts[e, BIDS] = np.int64(math.ceil(opportunities * share))
        counts[e, IMPRESSIONS] = won[e, :, 0].sum()
        counts[e, SPEND] = spent


@helper
def _below(n: Any, share: float, b: Any, step: Any, key: Any) -> float:
    """How many of a bin's n opportunities lie below this share of it: each has a place of its own."""
    below = 0.0
    for k in range(n):
        block = philox(np.uint64(k), np.uint64(step), np.uint64(PLACE), np.uint64(b), key)
        if uniform(block[0]) < share:
            below += 1.0
    return below


@helper
def _tell(wins: Float64, value: Float64, share: float, won: Int64) -> None:
    """Put the share of the wins that was paid for into int64[WINDOW, 2]; whole wins, none lost to rounding."""
    sofar, told = 0.0, 0.0
    for place in range(wins.size):
        if wins[place] > 0.0:
            sofar += wins[place] * share
            whole = math.ceil(sofar - 1e-9) - told
            told += whole
            won[place, 0] = np.int64(whole)
            won[place, 1] = np.int64(np.rint(value[place] * share * _MILLION))
