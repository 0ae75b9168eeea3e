"""`aggregate`: campaign-ticks per second of the aggregate fidelity on one core, beside single auctions.

A thousand campaigns in ten large markets, two in a thousand of whose auctions reach each of them, so that they seldom
meet: a hundred opportunities a tick and campaign, forty impressions, a click every other tick. Both fidelities live the
same specification; the baseline, which needs the longer the more auctions there are, lives fewer ticks of it.
"""

from __future__ import annotations

import time
from datetime import datetime

import numpy as np

from engine.campaigns import ControlState
from engine.units import TickGrid
from experiments.benchmarks.measuring import Figure, alike, by_turns
from sim.aggregate import AggregateWorldFactory
from sim.auction import Market
from sim.conversions import Conversions
from sim.response import Response
from sim.traffic import Traffic
from sim.world import WorldFactory

MARKETS, PER_MARKET = 10, 100
AUCTIONS, REACH = 50_000.0, 0.002
LEVEL_MICROS, BID_MICROS, BUDGET_MICROS = 10_000.0, 8_500, 10**15
VALUE_SIGMA, PRICE_SIGMA, CTR, RATE = 0.5, 0.6, 0.01, 0.05


def measure(*, small: bool) -> Figure:
    """Campaign-ticks per second of both fidelities."""
    ticks, held, repeats = (48, 1, 2) if small else (1_440, 4, 5)
    for aggregate in (True, False):
        _rate(1, aggregate=aggregate)  # compiles the kernels, or loads them
    rate, baseline = by_turns(lambda: _rate(ticks, aggregate=True), lambda: _rate(held, aggregate=False), repeats)
    return Figure(rate, "campaign-ticks/s", "single auctions", baseline)


def world(ticks: int, *, aggregate: bool) -> tuple[WorldFactory, ControlState]:
    """The account over so many ticks, and its controls."""
    n = MARKETS * PER_MARKET
    numbers = np.repeat(np.arange(MARKETS), PER_MARKET).tolist()
    ample = (1, BUDGET_MICROS)
    campaigns = alike([f"campaign-{place:04}" for place in range(n)], numbers, ample, ample)
    market = Market(Traffic(AUCTIONS, amplitude=0.5, peak_hour=20.0), LEVEL_MICROS, PRICE_SIGMA)
    factory = AggregateWorldFactory if aggregate else WorldFactory
    return factory(
        campaigns=campaigns,
        grid=TickGrid(datetime(2026, 3, 2), 30, ticks),
        seed=1,
        markets=(market,) * MARKETS,
        response=Response.plain([REACH] * n, [VALUE_SIGMA] * n, [CTR] * n),
        conversions=Conversions.plain([RATE] * n, [24.0] * n, [10_000_000.0] * n, [0.5] * n),
    ), ControlState.initial(campaigns, np.full(n, BID_MICROS), np.full(n, BUDGET_MICROS))


def _rate(ticks: int, *, aggregate: bool) -> float:
    factory, controls = world(ticks, aggregate=aggregate)
    lived = factory(np.arange(len(factory.campaigns)))
    began = time.perf_counter()
    counts = lived.advance(0, ticks, controls).counts.values
    return float(counts.shape[0] * counts.shape[1] / (time.perf_counter() - began))
