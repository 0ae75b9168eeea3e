"""What hindsight would have bought: the optimum of an episode whose opportunities are all known.

The oracle is a fractional knapsack (Dantzig, Operations Research 5, 1957): buy in order of price per value until the
budget is spent, the last opportunity in part. A target for the cost per unit of value only lowers the same threshold,
since the average cost of what is bought rises with it.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from engine.units import Float64, Int64
from sim.kernel import inner, kernel
from sim.streams import Streams

_BINS = 4096
"""At most so many bins of price per value; an octave has a power of two of them."""


class Optimum(NamedTuple):
    """The hindsight optimum of n episodes."""

    value: Float64  # float64[n], relative to the reference opportunity
    cost: Float64  # float64[n], micros
    threshold: Float64  # float64[n], the highest price per value bought: the best constant bid, micros


def whole_cost(streams: Streams, episodes: int) -> Int64:
    """What buying everything would cost, micros; int64[n]."""
    cost = np.zeros(episodes, dtype=np.int64)
    _whole_cost(streams, cost)
    return cost


def optimum(streams: Streams, budget: Int64, target: Float64 | None = None) -> Optimum:
    """The optimum under budgets (int64[n], micros) and, where given, targets of cost per unit of value (micros)."""
    episodes = len(budget)
    wanted = np.full(episodes, math.inf) if target is None else target
    found = np.zeros((episodes, 3))
    _optimum(streams, budget.astype(np.float64), wanted, found)
    return Optimum(*found.T)


@kernel
def _whole_cost(streams: Streams, cost: Int64) -> None:
    steps = (streams.start.size - 1) // cost.size
    for e in range(cost.size):
        cost[e] = streams.price[streams.start[e * steps] : streams.start[(e + 1) * steps]].sum()


@kernel
def _optimum(streams: Streams, budget: Float64, target: Float64, found: Float64) -> None:
    steps = (streams.start.size - 1) // budget.size
    bins = np.empty((2, _BINS))
    for e in range(budget.size):
        first, end = streams.start[e * steps], streams.start[(e + 1) * steps]
        if first < end:
            _select(streams.value[first:end], streams.price[first:end], budget[e], target[e], bins, found[e])


@inner
def _select(value: Float64, price: Int64, budget: float, target: float, bins: Float64, found: Float64) -> None:
    """Buy whole bins of price per value while budget and target reach; only what is in the next is put in order.

    A float's leading bits name its bin. A bin is affordable as a whole where its last opportunity is: cost only rises,
    and what is left to a target rises as far as the target's own price per value and falls from there.
    """
    ratio = price / value
    bits = ratio.view(np.int64)
    least, most = bits.min(), bits.max()
    shift: Any = 0
    while (most >> shift) - (least >> shift) >= _BINS:
        shift += 1
    least = least >> shift
    bins[:, : (most >> shift) - least + 1] = 0.0
    for k in range(ratio.size):
        place = (bits[k] >> shift) - least
        bins[0, place] += value[k]
        bins[1, place] += price[k]
    got = cost = 0.0
    for place in range((most >> shift) - least + 1):
        gets, costs = got + bins[0, place], cost + bins[1, place]
        if costs <= budget and costs <= target * gets:
            got, cost = gets, costs
            continue
        inside = np.flatnonzero((bits >> shift) - least == place)
        found[0], found[1] = got, cost
        if _buy(value, price, ratio, inside[np.argsort(ratio[inside])], budget, target, found):
            return
        got, cost = found[0], found[1]
    found[0], found[1], found[2] = got, cost, ratio.max()


@inner
def _buy(
    value: Float64, price: Int64, ratio: Float64, order: Int64, budget: float, target: float, found: Float64
) -> bool:
    """Buy in order on top of (value, cost, threshold); whether budget or target ended it."""
    for k in order:
        part = min(1.0, (budget - found[1]) / price[k])
        above = price[k] - target * value[k]  # what it costs beyond the target
        if above > 0:
            part = min(part, (target * found[0] - found[1]) / above)
        found[0] += part * value[k]
        found[1] += part * price[k]
        found[2] = ratio[k]
        if part < 1:
            return True
    return False
