"""`episode_48x500k`: a whole episode through Ray, seconds: 48 campaigns that meet in half a million auctions, 48 ticks.

The market is that of `auction_multi`. Every campaign paces its budget and moves its bid at every tick under a mandate,
the guard judges, the ledger makes each round durable, tables are written; Ray's own start and the processes' are left
out. The baseline is the same in one process. `peak_mb` is its memory.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from agents.classic import PacingPI
from agents.horizon import Curve
from engine.actions import Knob, Source
from engine.campaigns import ControlState
from engine.limits import Limits
from engine.optimiser import Assignment
from engine.runtime.actors import RayRunner
from engine.runtime.local import IN_FLIGHT, LocalRunner, Progress
from engine.runtime.plan import Plan
from engine.units import TickGrid
from experiments.benchmarks import auction_multi
from experiments.benchmarks.measuring import Figure, by_turns

TICKS, AUCTIONS = 48, 500_000
BUDGET_MICROS = 200_000_000  # binds for those who bid most
_AMPLITUDE, _PEAK_HOUR = 0.6, 20.0


def measure(*, small: bool) -> Figure:
    """Seconds on Ray and in one process."""
    plan, repeats = episode(2_000 if small else AUCTIONS), 1 if small else 3
    rate, baseline = by_turns(lambda: _seconds(plan, RayRunner(1)), lambda: _seconds(plan, LocalRunner()), repeats)
    return Figure(rate, "s", "LocalRunner", baseline)


def measure_memory(*, small: bool) -> Figure:
    """Peak memory of this process and of all that Ray started for it, MB; the baseline holds next to no auctions."""
    auctions = 2_000 if small else AUCTIONS
    return Figure(_peak_mb(episode(auctions)), "MB", "the same without auctions", _peak_mb(episode(TICKS)))


def episode(auctions: int) -> Plan:
    """A day of about so many auctions, in which every bid may move at every tick."""
    factory, controls = auction_multi.world(auctions)
    campaigns, everybody = factory.campaigns, np.arange(len(factory.campaigns))
    grid = TickGrid(datetime(2026, 3, 2), 30, TICKS)
    curve = replace(
        factory.markets[0].traffic,
        opportunities_per_tick=auctions / TICKS,
        amplitude=_AMPLITUDE,
        peak_hour=_PEAK_HOUR,
    )
    budgets = np.full(len(campaigns), BUDGET_MICROS)
    policy = PacingPI(curve=Curve(_AMPLITUDE, _PEAK_HOUR))
    return Plan(
        campaigns=campaigns,
        controls=ControlState.initial(campaigns, controls.bid, budgets),
        limits=Limits.of(campaigns).with_mandate(everybody, (Knob.BID,)),
        grid=grid,
        source=replace(factory, grid=grid, markets=(replace(factory.markets[0], traffic=curve),)),
        assignments=(Assignment(policy, everybody, Source.POLICY, "pacing"),),
    )


def _seconds(plan: Plan, runner: RayRunner | LocalRunner) -> float:
    """What all ticks take, at the pace of those after the first that is told of, when IN_FLIGHT more are done."""
    landed: list[float] = []

    def watch(_: Progress) -> None:
        landed.append(time.perf_counter())

    with TemporaryDirectory() as folder:
        runner.run(plan, Path(folder), watch)
    return (landed[-1] - landed[0]) * TICKS / (TICKS - IN_FLIGHT - 1)


def _peak_mb(plan: Plan) -> float:
    peaks: list[float] = []

    def watch(_: Progress) -> None:
        peaks.append(sum(_peaks_kb(Path("/proc/self"))) / 1024)

    with TemporaryDirectory() as folder:
        RayRunner(1).run(plan, Path(folder), watch)
    return max(peaks)


def _peaks_kb(process: Path) -> Iterator[int]:
    """Peak resident memory of a process and of its descendants."""
    try:
        status = (process / "status").read_text().splitlines()
        children = [child for task in (process / "task").iterdir() for child in (task / "children").read_text().split()]
    except OSError:  # it ended meanwhile
        return
    yield next((int(line.split()[1]) for line in status if line.startswith("VmHWM:")), 0)
    for child in children:
        yield from _peaks_kb(Path("/proc", child))
