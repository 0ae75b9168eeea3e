"""`auction_multi`: 48 campaigns that meet in every auction of a market with three slots, bidder evaluations per second.

The world's own kernel against the same auction in vectorised NumPy: every campaign values every opportunity (noise),
bids against a competitor and a reserve, slots are sold by the generalised second-price rule and seen with falling
exposure, clicks and conversions follow, and budgets are kept to the auction and never run out.
"""

from __future__ import annotations

import math
import time
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from engine.campaigns import ControlState
from engine.units import TickGrid
from experiments.benchmarks.measuring import Figure, alike, by_turns
from sim.auction import Market
from sim.conversions import Conversions
from sim.response import Response
from sim.traffic import Traffic
from sim.world import WorldFactory

BIDDERS, EXPOSURE = 48, (1.0, 0.6, 0.3)
LEVEL_MICROS, RESERVE_MICROS = 10_000, 2_000
LOWEST_MICROS, STEP_MICROS = 3_000, 150  # bids of 3,000 to 10,050
BUDGET_MICROS = 10**15
VALUE_SIGMA, PRICE_SIGMA, CTR, CVR = 0.5, 0.6, 0.05, 0.05
_CHUNK = 2**12  # auctions that NumPy works on at a time, about the best for its caches


def measure(*, small: bool) -> Figure:
    """Bidder evaluations per second of the world and of NumPy."""
    auctions, repeats = (2_000, 2) if small else (400_000, 5)
    _world_rate(500)  # compiles the kernel, or loads it
    rate, baseline = by_turns(lambda: _world_rate(auctions), lambda: _numpy_rate(auctions), repeats)
    return Figure(rate, "bidder evaluations/s", "vectorised NumPy", baseline)


def world(auctions: int) -> tuple[WorldFactory, ControlState]:
    """A run of a single tick that holds about so many auctions, and the campaigns' controls."""
    n = BIDDERS
    ample = np.full(n, BUDGET_MICROS)
    ids = [f"campaign-{place:02d}" for place in range(n)]
    campaigns = alike(ids, [0] * n, (1, BUDGET_MICROS), (1, BUDGET_MICROS))
    market = Market(Traffic(auctions), LEVEL_MICROS, PRICE_SIGMA, reserve_micros=RESERVE_MICROS, exposure=EXPOSURE)
    factory = WorldFactory(
        campaigns=campaigns,
        grid=TickGrid(datetime(2026, 3, 2), 30, 1),
        seed=1,
        markets=(market,),
        response=Response.plain(np.ones(n), np.full(n, VALUE_SIGMA), np.full(n, CTR)),
        conversions=Conversions.plain(np.full(n, CVR), np.zeros(n), np.full(n, 1e6), np.zeros(n)),
    )
    return factory, ControlState.initial(campaigns, bids(), ample)


def bids() -> NDArray[np.int64]:
    """What each campaign bids for an opportunity of reference value, micros."""
    return LOWEST_MICROS + STEP_MICROS * np.arange(BIDDERS)


def numpy_totals(auctions: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Auctions, impressions, clicks, conversions and spend of so many auctions in plain NumPy."""
    totals, spent = np.zeros(5, dtype=np.int64), np.zeros(BIDDERS, dtype=np.int64)
    for start in range(0, auctions, _CHUNK):
        totals += _chunk(min(_CHUNK, auctions - start), spent, rng)
    return totals


def _chunk(size: int, spent: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    slots = len(EXPOSURE)
    value = np.exp(VALUE_SIGMA * rng.standard_normal((size, BIDDERS)))
    bid = (bids() * value).astype(np.int64)
    bid[:, spent >= BUDGET_MICROS] = 0
    rival = np.maximum(np.rint(LEVEL_MICROS * np.exp(PRICE_SIGMA * rng.standard_normal(size))), RESERVE_MICROS)
    floor = np.full((size, slots), RESERVE_MICROS)  # who would bid the reserve where competitors are missing
    everyone = np.hstack((bid, rival.astype(np.int64)[:, np.newaxis], floor))
    best = np.argpartition(-everyone, slots, axis=1)[:, : slots + 1]
    order = np.argsort(-np.take_along_axis(everyone, best, axis=1), axis=1, kind="stable")
    best = np.take_along_axis(best, order, axis=1)
    amount = np.take_along_axis(everyone, best, axis=1)
    winner, price = best[:, :slots], np.maximum(amount[:, 1:], RESERVE_MICROS)
    seen = (winner < BIDDERS) & (rng.random((size, slots)) < EXPOSURE)
    campaign, paid = winner[seen], price[seen]
    np.add.at(spent, campaign, paid)
    won_value = value[np.nonzero(seen)[0], campaign]
    clicks = rng.random(campaign.size) < np.minimum(CTR * math.exp(-0.5 * VALUE_SIGMA**2) * won_value, 1)
    conversions = (rng.random(int(clicks.sum())) < CVR).sum()
    return np.array([size, campaign.size, clicks.sum(), conversions, paid.sum()])


def _world_rate(auctions: int) -> float:
    factory, controls = world(auctions)
    held = factory(np.arange(BIDDERS))
    began = time.perf_counter()
    batch = held.advance(0, 1, controls)
    return batch.auctions * BIDDERS / (time.perf_counter() - began)


def _numpy_rate(auctions: int) -> float:
    rng = np.random.default_rng(1)
    began = time.perf_counter()
    numpy_totals(auctions, rng)
    return auctions * BIDDERS / (time.perf_counter() - began)
