"""Where a market's price level wanders: the logarithm of the competition's level, tick by tick.

It is a sum, each part of it switchable and none of them touching another's draws:

    log level(t) = log(level_micros) + shocks(t) + follows_demand · log(shape(t)) + x(t) + offset(t)

- *Shocks*: the logarithms of the factors that are dated to tick t.
- *Demand*: `follows_demand` is the elasticity of the level with respect to the traffic curve's shape, which is 1 on
  average over its day or week. Competitors with more to buy from pay more (elasticity > 0), or more supply makes prices
  fall (< 0). A dated change of traffic is no change of demand and moves no price.
- *Drift*: x is a stationary autoregression of order one, x(t) = persistence · x(t-1) + sigma · e(t), with standard
  normal e and with x(0) of the stationary variance sigma² / (1 - persistence²). Its autocorrelation at lag k is
  persistence^k (Box and Jenkins, Time Series Analysis, 1970, chapter 3). Its mean is 0, so that level_micros stays the
  median.
- *Regimes*: at every tick after the first a new regime begins with probability 1 / every_ticks, and its offset, normal
  with standard deviation sigma, takes the former's place; the first regime's is 0. A regime so lasts every_ticks on
  average, geometrically distributed. This is the simplest of the models with regimes that go back to Hamilton
  (Econometrica 57, 1989): every regime has a level of its own, instead of one of a few that come again.

Limits: markets wander independently of each other, and nothing here answers what the account itself does.

Everything is a function of (seed, market, tick): the values of the first ticks do not depend on how long the run is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.units import Float64
from sim.auction import Market
from sim.kernel import kernel
from sim.rng import DRIFT, REGIME, fine_uniform, normal, philox, uniform


def log_levels(markets: Sequence[Market], shape: Float64, keys: NDArray[Any]) -> Float64:
    """The price level's logarithm at every tick of a run.

    Parameters
    ----------
    markets:
        m of them.
    shape:
        float64[ticks, m], their traffic curves, 1 on average.
    keys:
        uint64[m], of their random numbers.

    Returns
    -------
    Float64
        float64[ticks, m], of micros.
    """
    median = np.log([[market.level_micros for market in markets]], dtype=np.float64)
    levels: Float64 = np.repeat(median, len(shape), axis=0)
    for m, market in enumerate(markets):
        for shock in market.shocks:
            levels[shock.ticks, m] += math.log(shock.factor)
        if market.follows_demand:
            levels[:, m] += market.follows_demand * log_demand(shape[:, m])
        if market.drift is not None:
            levels[:, m] += drift(len(shape), market.drift.persistence, market.drift.sigma, keys[m])
        if market.regimes is not None:
            levels[:, m] += regimes(len(shape), 1 / market.regimes.every_ticks, market.regimes.sigma, keys[m])
    return levels


def log_demand(shape: Float64) -> Float64:
    """The curve's logarithm; 0 where it holds no auctions, so that there is no price either."""
    return np.log(shape, out=np.zeros_like(shape), where=shape > 0)


@kernel
def drift(ticks: int, persistence: float, sigma: float, key: Any) -> Any:
    """The autoregression x of one market; float64[ticks]."""
    path = np.empty(ticks)
    x = 0.0
    step = sigma / math.sqrt(1.0 - persistence * persistence)  # the first comes from the stationary distribution
    for t in range(ticks):
        block = philox(np.uint64(0), np.uint64(t), np.uint64(DRIFT), np.uint64(0), key)
        x = persistence * x + step * normal(uniform(block[0]))
        path[t] = x
        step = sigma
    return path


@kernel
def regimes(ticks: int, probability: float, sigma: float, key: Any) -> Any:
    """The offset of one market's regime, a new one beginning at a tick with this probability; float64[ticks]."""
    path = np.empty(ticks)
    offset = 0.0
    for t in range(ticks):
        block = philox(np.uint64(0), np.uint64(t), np.uint64(REGIME), np.uint64(0), key)
        if t > 0 and fine_uniform(block[0], block[1]) < probability:
            offset = sigma * normal(uniform(block[2]))
        path[t] = offset
    return path
