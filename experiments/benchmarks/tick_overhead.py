"""`tick_overhead`: what a tick of 10,000 campaigns costs beside its auctions, milliseconds per tick on two shards.

Every tick moves every bid: a source without auctions answers bids with spend, the traffic-aware controller proposes,
the guard judges under a mandate, the ledger makes the round durable, the shards apply it, the metrics table takes the
counts. Start and end of a run are left out. The baseline is the same plan in one process.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from agents.classic import PacingPI
from agents.horizon import Curve
from engine.actions import Knob, Source
from engine.campaigns import ControlState
from engine.events import BIDS, COUNTS, IMPRESSIONS, OPPORTUNITIES, SPEND, Events, Opportunities, TickCounts
from engine.judgement import Outcome
from engine.ledger import RecordKind, decode_round
from engine.limits import Limits
from engine.optimiser import Assignment
from engine.policy import Batch
from engine.runtime.actors import RayRunner
from engine.runtime.local import IN_FLIGHT, LocalRunner, Progress
from engine.runtime.plan import Plan
from engine.runtime.store import LEDGER, read_ledger
from engine.units import Float64, Int64, TickGrid
from experiments.benchmarks.measuring import Figure, alike, by_turns

SHARDS = 2
BID_MICROS, BUDGET_MICROS = 1_000_000, 10**10
_WARM_UP = 10  # ticks
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
    """Makes sources that hold no auctions: spend follows traffic, the bid, and a wobble per campaign and tick.

    Parameters
    ----------
    share:
        float64[ticks], the share of the budget that a tick spends at the first bid.
    """

    share: Float64

    def __call__(self, members: Int64) -> _Spend:
        """The source of some campaigns."""
        return _Spend(members, self.share)


class _Spend:
    """An event source of one cell per campaign; a campaign's counts depend on nothing but its bid, place and tick."""

    factual = False

    def __init__(self, members: Int64, share: Float64) -> None:
        self._members = members
        self._share = share

    def advance(self, from_tick: int, to_tick: int, controls: ControlState) -> Batch:
        """Emit the ticks [from_tick, to_tick) under the members' controls."""
        values = np.zeros((to_tick - from_tick, len(self._members), len(COUNTS)), dtype=np.int64)
        for tick in range(from_tick, to_tick):
            wobble = 0.8 + 0.4 * ((self._members * 7_919 + tick * 104_729) % 1_009) / 1_009
            of_tick = values[tick - from_tick]
            of_tick[:, [OPPORTUNITIES, BIDS]] = 1_000
            of_tick[:, IMPRESSIONS] = 300
            of_tick[:, SPEND] = self._share[tick] * BUDGET_MICROS * (controls.bid / BID_MICROS) * wobble
        return Batch(TickCounts(from_tick, values), Events.empty(), Opportunities.empty())

    def state(self) -> None:
        """Nothing lasts from tick to tick."""

    def restore(self, state: None) -> None:
        """Nothing to go back to."""


def steering(n: int, ticks: int) -> Plan:
    """A plan in which every campaign's bid moves at every tick, under a mandate."""
    grid = TickGrid(datetime(2026, 3, 2), 30, ticks)
    bounds = [(micros // 10, micros * 10) for micros in (BID_MICROS, BUDGET_MICROS)]
    campaigns = alike([f"campaign-{place:05d}" for place in range(n)], [place % 2 for place in range(n)], *bounds)
    everybody = np.arange(n)
    curve = 1 + _AMPLITUDE * np.cos(2 * np.pi * (grid.hour + grid.tick_minutes / 120 - _PEAK_HOUR) / 24)
    policy = PacingPI(curve=Curve(_AMPLITUDE, _PEAK_HOUR))
    return Plan(
        campaigns=campaigns,
        controls=ControlState.initial(campaigns, np.full(n, BID_MICROS), np.full(n, BUDGET_MICROS)),
        limits=Limits.of(campaigns).with_mandate(everybody, (Knob.BID,)),
        grid=grid,
        source=SpendFactory(curve / np.bincount(grid.day, weights=curve)[grid.day]),
        assignments=(Assignment(policy, everybody, Source.POLICY, "pacing"),),
    )


def milliseconds(plan: Plan, runner: RayRunner | LocalRunner) -> float:
    """Run the plan in a folder of its own, check that every bid moved at every tick, and time its steady part."""
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
    if approved != [n] * (plan.grid.ticks - 1):
        raise RuntimeError(
            f"a round approves {min(approved, default=0)} bids where all {n} are due: this measures too little"
        )
