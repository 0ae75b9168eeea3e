"""The hindsight optimum by selection in bins is the one that buying in order of price per value gives."""

from __future__ import annotations

import numpy as np
import pytest

from engine.units import Float64, Int64
from sim.bidding import BiddingTask
from sim.oracle import optimum, whole_cost
from sim.streams import Streams


def bought_in_order(value: Float64, price: Int64, budget: float, target: float) -> tuple[float, float, float]:
    """The fractional knapsack over a plain sort: value, cost, threshold."""
    ratio, got, cost, threshold = price / value, 0.0, 0.0, 0.0
    for k in np.argsort(ratio, kind="stable"):
        part = min(1.0, (budget - cost) / price[k])
        if price[k] > target * value[k]:
            part = min(part, (target * got - cost) / (price[k] - target * value[k]))
        got, cost, threshold = got + part * value[k], cost + part * price[k], ratio[k]
        if part < 1:
            break
    return got, cost, threshold


@pytest.mark.parametrize("share", [1e-6, 0.1, 0.6, 2.0])
@pytest.mark.parametrize("target", [0.2, 0.8, 1.1, np.inf])
def test_it_is_what_a_sort_gives(share: float, target: float) -> None:
    n, steps = 20, 48
    streams = BiddingTask(volume=(10.0, 40.0)).draw(3, np.arange(n)).streams.lots
    budget = np.maximum(share * whole_cost(streams, n), 1).astype(np.int64)
    plain = optimum(streams, budget)
    wanted = target * plain.cost / plain.value
    found = np.stack(optimum(streams, budget, wanted), axis=1)
    for e in range(n):
        value, price = streams.of(e, steps)
        expected = bought_in_order(value, price, float(budget[e]), wanted[e])
        assert found[e] == pytest.approx(expected, rel=1e-12)


def test_many_of_one_price_per_value_and_prices_of_any_size() -> None:
    rng = np.random.default_rng(5)
    price = np.concatenate([np.full(50, 1_000), rng.integers(1, 10, 50), rng.integers(10**11, 10**12, 50)])
    value = np.concatenate([np.ones(100), rng.uniform(1e-3, 1e3, 50)])
    streams = Streams(np.array([0, 60, 150]), value, price)
    for budget in (1, 500, 25_500, 10**12, 10**15):
        found = np.stack(optimum(streams, np.array([budget, budget])), axis=1)
        for e in range(2):
            assert found[e] == pytest.approx(bought_in_order(*streams.of(e, 1), budget, np.inf), rel=1e-12)


def test_an_episode_without_opportunities_is_worth_nothing() -> None:
    streams = Streams(np.array([0, 0, 2]), np.array([1.0, 2.0]), np.array([3, 4]))
    assert [column.tolist() for column in optimum(streams, np.array([5, 100]))] == [[0, 3], [0, 7], [0, 3]]
    assert whole_cost(streams, 2).tolist() == [0, 7]
