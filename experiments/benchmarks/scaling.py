"""`scaling`: what more campaigns, and more shards, cost.

`scaling_campaigns` is the steady cost of a tick per campaign (see `tick_overhead`) where there are most of them, on two
shards; the baseline is a thousand campaigns. `scaling_shards` is auctions per second on two shards, whose ticks hold a
second of auctions or more; the baseline is one shard.
"""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from engine.campaigns import ControlState
from engine.limits import Limits
from engine.runtime.actors import RayRunner
from engine.runtime.local import IN_FLIGHT, Progress
from engine.runtime.plan import Plan
from engine.units import TickGrid
from experiments.benchmarks import auction_single, tick_overhead
from experiments.benchmarks.measuring import Figure, alike, by_turns
from sim.conversions import Conversions
from sim.response import Response

_SHARDS = 2
_MARKETS = 4


def measure_campaigns(*, small: bool) -> Figure:
    """Microseconds per campaign and tick of the dearest size, and of the smallest."""
    least, sizes, ticks = (20, (40,), 20) if small else (1_000, (10_000, 100_000), 40)
    costs = {size: _microseconds(size, ticks) for size in (least, *sizes)}
    return Figure(max(costs[size] for size in sizes), "µs/campaign-tick", f"{least} campaigns", costs[least])


def measure_shards(*, small: bool) -> Figure:
    """Auctions per second on two shards and on one."""
    auctions, repeats = (2_000, 1) if small else (10_000_000, 2)
    plan = busy(auctions)
    rate, baseline = by_turns(lambda: _rate(plan, _SHARDS), lambda: _rate(plan, 1), repeats)
    return Figure(rate, "auctions/s", "one shard", baseline)


def busy(auctions: int) -> Plan:
    """Markets alike, a campaign in each, that hold about so many auctions a tick each."""
    factory, controls = auction_single.world(auctions)
    grid = TickGrid(datetime(2026, 3, 2), 30, 12)
    ample = (1, auction_single.BUDGET_MICROS)
    campaigns = alike([f"campaign-{place}" for place in range(_MARKETS)], list(range(_MARKETS)), ample, ample)
    sigma, ctr = np.full(_MARKETS, auction_single.VALUE_SIGMA), np.full(_MARKETS, auction_single.CTR)
    source = replace(
        factory,
        campaigns=campaigns,
        grid=grid,
        markets=factory.markets * _MARKETS,
        response=Response.plain(np.ones(_MARKETS), sigma, ctr),
        conversions=Conversions.plain(*np.zeros((4, _MARKETS))),
    )
    bids, budgets = np.repeat(controls.bid, _MARKETS), np.repeat(controls.budget, _MARKETS)
    initial = ControlState.initial(campaigns, bids, budgets)
    limits = Limits.of(campaigns)
    return Plan(campaigns=campaigns, controls=initial, limits=limits, grid=grid, source=source, assignments=())


def _microseconds(campaigns: int, ticks: int) -> float:
    return 1_000 / campaigns * tick_overhead.milliseconds(tick_overhead.steering(campaigns, ticks), RayRunner(_SHARDS))


def _rate(plan: Plan, shards: int) -> float:
    landed: list[tuple[float, int]] = []

    def watch(progress: Progress) -> None:
        landed.append((time.perf_counter(), progress.totals.auctions))

    with TemporaryDirectory() as folder:
        RayRunner(shards).run(plan, Path(folder), watch)
    (began, before), (ended, after) = landed[0], landed[-1 - IN_FLIGHT]  # the last spans land together
    return (after - before) / (ended - began)
