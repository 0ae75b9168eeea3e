"""`tick_overhead`: what a tick of 10,000 campaigns costs beside its auctions, milliseconds per tick on two shards.

Every tick moves nearly every bid: a source without auctions answers bids with wins and their prices, LP-KM learns the
market from them and proposes, the guard judges under a mandate, the ledger makes the round durable, the shards apply
it, the metrics table takes the counts. Start and end of a run are left out. The baseline is the same plan in one
process.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from agents.horizon import Curve
from agents.lp import OnlineLP
from engine.actions import Knob, Source
from engine.campaigns import ControlState
from engine.events import BIDS, COUNTS, IMPRESSIONS, OPPORTUNITIES, SPEND, Events, Opportunities, TickCounts
from engine.judgement import Outcome
from engine.ledger import RecordKind, decode_round
from engine.limits import Limits
from engine.optimiser import Assignment
from engine.policy import Batch
from engine.prices import Prices, bin_of, least_in_bin
from engine.runtime.actors import RayRunner
from engine.runtime.local import IN_FLIGHT, LocalRunner, Progress
from engine.runtime.plan import Plan
from engine.runtime.store import LEDGER, read_ledger
from engine.units import Float64, Int64, TickGrid
from experiments.benchmarks.measuring import Figure, alike, by_turns

SHARDS = 2
BID_MICROS, BUDGET_MICROS = 1_000_000, 4 * 10**8
OPPORTUNITIES_A_TICK = 100
_BINS = 12  # of price per value in which a bid wins, an octave and a half
_WARM_UP = 10  # ticks
_MOVED = 0.98  # of the bids, in every round: now and then one is worth what it was
_AMPLITUDE, _PEAK_HOUR = 0.6, 20.0


def measure(*, small: bool) -> Figure:
    """Milliseconds per tick on Ray and in one process."""
    campaigns, ticks, repeats = (100, 20, 1) if small else (10_000, 96, 3)
    plan = steering(campaigns, ticks)
    rate, baseline = by_turns(
        lambda: milliseconds(plan, RayRunner(SHARDS)), lambda: milliseconds(plan, LocalRunner()), repeats
    )
    return Figure(rate, "ms/tick", "LocalRunner", baseline)


@dataclass(frozen=True)
class SpendFactory:
    """Makes sources that hold no auctions: what is won follows the bid, traffic, and chance per campaign, tick and bin.

    Parameters
    ----------
    traffic:
        float64[ticks], of every tick, relative to its mean.
    """

    traffic: Float64

    def __call__(self, members: Int64) -> _Spend:
        """The source of some campaigns."""
        return _Spend(members, self.traffic)


class _Spend:
    """An event source of one cell per campaign; a campaign's counts depend on nothing but its bid, place and tick.

    A bid wins once or twice at each of the dozen bins of price per value that end with its own.
    """

    factual = False

    def __init__(self, members: Int64, traffic: Float64) -> None:
        self._traffic = traffic
        self._campaign = np.repeat(np.arange(len(members)), _BINS)
        self._place = members[:, np.newaxis] * 7_919 + np.arange(_BINS) * 15_485_863

    def advance(self, from_tick: int, to_tick: int, controls: ControlState) -> Batch:
        """Emit the ticks [from_tick, to_tick) under the members' controls."""
        values = np.zeros((to_tick - from_tick, len(self._place), len(COUNTS)), dtype=np.int64)
        bins = bin_of(controls.bid)[:, np.newaxis] + np.arange(1 - _BINS, 1)
        price = least_in_bin(np.arange(bins.min(), bins.max() + 1))[bins - bins.min()]
        told: list[Prices] = []
        for tick in range(from_tick, to_tick):
            luck = (self._place + tick * 104_729) % 1_009
            wins = 1 + (luck < 250 * self._traffic[tick])
            of_tick = values[tick - from_tick]
            of_tick[:, [OPPORTUNITIES, BIDS]] = OPPORTUNITIES_A_TICK * self._traffic[tick]
            of_tick[:, IMPRESSIONS] = wins.sum(axis=1)
            of_tick[:, SPEND] = (wins * price).sum(axis=1)
            worth = wins * (500_000 + 1_000 * luck)
            told.append(Prices(self._campaign, bins.ravel(), wins.ravel(), worth.ravel()))
        return Batch(
            TickCounts(from_tick, values), Events.empty(), Opportunities.empty(), prices=reduce(Prices.plus, told)
        )

    def state(self) -> None:
        """Nothing lasts from tick to tick."""

    def restore(self, state: None) -> None:
        """Nothing to go back to."""


def steering(n: int, ticks: int) -> Plan:
    """A plan in which nearly every campaign's bid moves at every tick, under a mandate."""
    grid = TickGrid(datetime(2026, 3, 2), 30, ticks)
    bounds = [(micros // 10, micros * 10) for micros in (BID_MICROS, BUDGET_MICROS)]
    campaigns = alike([f"campaign-{place:05d}" for place in range(n)], [place % 2 for place in range(n)], *bounds)
    everybody = np.arange(n)
    curve = 1 + _AMPLITUDE * np.cos(2 * np.pi * (grid.hour + grid.tick_minutes / 120 - _PEAK_HOUR) / 24)
    policy = OnlineLP(curve=Curve(_AMPLITUDE, _PEAK_HOUR))
    return Plan(
        campaigns=campaigns,
        controls=ControlState.initial(campaigns, np.full(n, BID_MICROS), np.full(n, BUDGET_MICROS)),
        limits=Limits.of(campaigns).with_mandate(everybody, (Knob.BID,)),
        grid=grid,
        source=SpendFactory(curve / curve.mean()),
        assignments=(Assignment(policy, everybody, Source.POLICY, "pacing"),),
    )


def milliseconds(plan: Plan, runner: RayRunner | LocalRunner) -> float:
    """Run the plan in a folder of its own, check that the bids moved at every tick, and time its steady part."""
    landed: list[float] = []

    def watch(_: Progress) -> None:
        landed.append(time.perf_counter())

    with TemporaryDirectory() as folder:
        runner.run(plan, Path(folder), watch)
        check(plan, Path(folder))
    steady = landed[_WARM_UP : -IN_FLIGHT or None]  # the last spans land together
    return 1_000 * (steady[-1] - steady[0]) / (len(steady) - 1)


def check(plan: Plan, folder: Path) -> None:
    """Refuse a measurement in which a tick had less work than it claims."""
    n = len(plan.campaigns)
    records = [record for record in read_ledger(folder / LEDGER) if record.kind is RecordKind.ROUND]
    approved = [int((decode_round(record).judged["outcome"] == Outcome.APPROVED).sum()) for record in records]
    least = min(approved, default=0)
    if len(approved) != plan.grid.ticks - 1 or least < _MOVED * n:
        raise RuntimeError(f"a round approves {least} bids where nearly all {n} are due: this measures too little")
