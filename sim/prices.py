"""Wins by their price per unit of value, as the world and the replay count them inside their kernels."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from engine.prices import BIN_OF_ONE, MANTISSA_BITS, WINDOW, Prices, lowest_bins
from engine.units import Float64, Int64
from sim.kernel import helper

_PPM = 1e6


class Won(NamedTuple):
    """What n campaigns won over a span; of no campaign where nobody asked, so that kernels leave it alone."""

    counts: Int64  # int64[n, WINDOW, 2], wins of each bin and their value in ppm; the kernel adds to it
    lowest: Int64  # int64[n], the bin of the first of them
    bid: Float64  # float64[n], bids in force, micros


def won_under(bid: Int64, *, asked: bool) -> Won:
    """Nothing won yet under the bids in force; with room to count in only where prices are to be told."""
    n = len(bid) if asked else 0
    return Won(np.zeros((n, WINDOW, 2), dtype=np.int64), lowest_bins(bid[:n]), bid[:n].astype(np.float64))


def told(won: Won, *, asked: bool) -> Prices | None:
    """What a batch tells of it."""
    return Prices.of(won.counts, won.lowest) if asked else None


@helper
def count_win(won: Won, c: int, bid: int, price: int, value: float) -> None:
    """Count a win of campaign c by its price over its own bid for this very opportunity, times its bid in force.

    So the opportunity's value and its audience's modifier cancel, and no bin is above that of the bid in force.
    """
    place = place_of(np.float64(price) / np.float64(bid) * won.bid[c], won.lowest[c])
    won.counts[c, place, 0] += 1
    won.counts[c, place, 1] += np.int64(np.rint(value * _PPM))


@helper
def place_of(price_per_value: float, lowest: int) -> Any:
    """Where a price per unit of value (micros, > 0) is counted, from the lowest bin that is kept apart on."""
    place = (np.float64(price_per_value).view(np.int64) >> MANTISSA_BITS) - BIN_OF_ONE - lowest
    return min(max(place, 0), WINDOW - 1)
