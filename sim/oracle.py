"""What hindsight would have bought: the optimum of an episode whose opportunities are all known.

The oracle is a fractional knapsack (Dantzig, Operations Research 5, 1957): buy in order of price per value until the
budget is spent, the last opportunity in part. A target for the cost per unit of value only lowers the same threshold,
since the average cost of what is bought rises with it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from engine.units import Float64, Int64
from sim.kernel import inner, kernel
from sim.streams import Streams


class Optimum(NamedTuple):
    """The hindsight optimum of n episodes."""

    value: Float64  # float64[n], relative to the reference opportunity
    cost: Float64  # float64[n], micros
    threshold: Float64  # float64[n], the highest price per value bought: the best constant bid, micros


def whole_cost(streams: Streams, episodes: int) -> Int64:
    """What buying everything would cost, micros; int64[n]."""
    steps = (len(streams.start) - 1) // episodes
    running = np.concatenate(([0], np.cumsum(streams.price)))
    return np.diff(running[streams.start[::steps]])


def optimum(streams: Streams, budget: Int64, target: Float64 | None = None) -> Optimum:
    """The optimum under budgets (int64[n], micros) and, where given, targets of cost per unit of value (micros)."""
    episodes = len(budget)
    wanted = np.full(episodes, math.inf) if target is None else target
    found = np.zeros((episodes, 3))
    _optimum(streams, budget.astype(np.float64), wanted, found)
    return Optimum(*found.T)


@kernel
def _optimum(streams: Streams, budget: Float64, target: Float64, found: Float64) -> None:
    steps = (streams.start.size - 1) // budget.size
    for e in range(budget.size):
        first, end = streams.start[e * steps], streams.start[(e + 1) * steps]
        value, price = streams.value[first:end], streams.price[first:end]
        ratio = price / value
        _buy(value, price, ratio, np.argsort(ratio), budget[e], target[e], found[e])


@inner
def _buy(
    value: Float64, price: Int64, ratio: Float64, order: Int64, budget: float, target: float, found: Float64
) -> None:
    """Buy in order, as far as budget and target reach, into (value, cost, threshold)."""
    got = cost = threshold = 0.0
    for k in order:
        part = min(1.0, (budget - cost) / price[k])
        above = price[k] - target * value[k]  # what it costs beyond the target
        if above > 0:
            part = min(part, (target * got - cost) / above)
        got += part * value[k]
        cost += part * price[k]
        threshold = ratio[k]
        if part < 1:
            break
    found[0], found[1], found[2] = got, cost, threshold
