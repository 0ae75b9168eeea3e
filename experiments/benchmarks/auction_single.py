"""`auction_single`: one campaign against a market-price model, auctions per second on one core.

The world's own kernel against the same auction in vectorised NumPy: log-normal values and prices, a win rate of about
30 %, second price, charged per impression, clicks, and a budget that is kept to the auction and never runs out.
"""

from __future__ import annotations

import math
import time
from datetime import datetime

import numpy as np

from engine.campaigns import ControlState
from engine.units import TickGrid
from experiments.benchmarks.measuring import Figure, alike, by_turns
from sim.auction import Market
from sim.conversions import Conversions
from sim.response import Response
from sim.traffic import Traffic
from sim.world import WorldFactory

LEVEL_MICROS = 10_000
BID_MICROS = 6_640  # wins an auction in three, or nearly: Φ(log(0.664) / √(0.5² + 0.6²)) = 0.30
BUDGET_MICROS = 10**15
VALUE_SIGMA, PRICE_SIGMA, CTR = 0.5, 0.6, 0.01
_CHUNK = 2**16  # auctions that NumPy works on at a time, about the best for its caches


def measure(*, small: bool) -> Figure:
    """Auctions per second of the world and of NumPy."""
    auctions, repeats = (50_000, 2) if small else (20_000_000, 5)
    _world_rate(1_000)  # compiles the kernel, or loads it
    rate, baseline = by_turns(lambda: _world_rate(auctions), lambda: _numpy_rate(auctions), repeats)
    return Figure(rate, "auctions/s", "vectorised NumPy", baseline)


def world(auctions: int) -> tuple[WorldFactory, ControlState]:
    """A run of a single tick that holds about so many auctions, and the campaign's controls."""
    ample = np.array([BUDGET_MICROS])
    campaigns = alike(["campaign"], [0], (1, BUDGET_MICROS), (1, BUDGET_MICROS))
    factory = WorldFactory(
        campaigns=campaigns,
        grid=TickGrid(datetime(2026, 3, 2), 30, 1),
        seed=1,
        markets=(Market(Traffic(auctions), LEVEL_MICROS, PRICE_SIGMA),),
        response=Response.plain([1.0], [VALUE_SIGMA], [CTR]),
        conversions=Conversions.plain([0.0], [0.0], [0.0], [0.0]),
    )
    return factory, ControlState.initial(campaigns, np.array([BID_MICROS]), ample)


def numpy_auctions(auctions: int, rng: np.random.Generator) -> tuple[int, int, int]:
    """Impressions, clicks and spend of so many auctions, in plain NumPy."""
    impressions = clicks = spent = 0
    discount = math.exp(-0.5 * VALUE_SIGMA**2)
    for start in range(0, auctions, _CHUNK):
        size = min(_CHUNK, auctions - start)
        value = np.exp(VALUE_SIGMA * rng.standard_normal(size))
        price = np.rint(LEVEL_MICROS * np.exp(PRICE_SIGMA * rng.standard_normal(size))).astype(np.int64)
        won = np.flatnonzero((BID_MICROS * value).astype(np.int64) >= price)
        total = np.cumsum(price[won])
        won = won[: np.searchsorted(total, BUDGET_MICROS - spent, side="right")]
        spent += int(total[won.size - 1]) if won.size else 0
        impressions += won.size
        clicks += int((rng.random(won.size) < np.minimum(CTR * discount * value[won], 1)).sum())
    return impressions, clicks, spent


def _world_rate(auctions: int) -> float:
    factory, controls = world(auctions)
    held = factory(np.zeros(1, dtype=np.int64))
    began = time.perf_counter()
    batch = held.advance(0, 1, controls)
    return batch.auctions / (time.perf_counter() - began)


def _numpy_rate(auctions: int) -> float:
    rng = np.random.default_rng(1)
    began = time.perf_counter()
    numpy_auctions(auctions, rng)
    return auctions / (time.perf_counter() - began)
