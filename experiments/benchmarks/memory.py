"""`memory`: peak resident memory of a run in this process, MB; the baseline is a run of a tenth of its length.

`memory_world` is that of a run in a world that remembers: its people are counted, its creatives wear out, and its
conversions come late and are credited over several clicks. Each is measured in a process of its own. The shorter one
is longer than the week for which an applied action can be rolled back, and long enough to fill a group of the tables'
rows, so that what is kept for a while is kept in both.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from engine.runtime.local import LocalRunner
from engine.runtime.plan import Plan
from engine.runtime.store import LEDGER, read_ledger
from engine.runtime.tables import write_actions
from experiments.benchmarks.measuring import Figure
from experiments.benchmarks.tick_overhead import BID_MICROS, steering
from sim.attribution import Attribution, linear
from sim.auction import Market, Segment
from sim.conversions import Conversions
from sim.people import Audience
from sim.response import Response
from sim.traffic import Traffic
from sim.world import WorldFactory

_TIMES = 10


def measure(*, small: bool) -> Figure:
    """Megabytes at the peak of both."""
    campaigns, ticks = (20, 20) if small else (200, 480)
    return _figure("steering", campaigns, ticks)


def measure_world(*, small: bool) -> Figure:
    """Megabytes at the peak of both, in a world with a memory."""
    return _figure("world", *((20, 20) if small else (200, 480)))


def _figure(kind: str, campaigns: int, ticks: int) -> Figure:
    longer, shorter = _peak(kind, campaigns, _TIMES * ticks), _peak(kind, campaigns, ticks)
    return Figure(longer, "MB", "a run of a tenth of the length", shorter)


def _peak(kind: str, campaigns: int, ticks: int) -> float:
    command = [sys.executable, "-m", __name__, kind, str(campaigns), str(ticks)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - our own module
    return float(done.stdout)


def remembering(campaigns: int, ticks: int) -> Plan:
    """A plan over a world that remembers: frequencies, whom each campaign reached, clicks, conversions to come."""
    plan = steering(campaigns, ticks)
    each = np.ones(campaigns)
    people = Audience("everybody", 50_000)
    segments = (Segment(audience=people.name),)
    world = WorldFactory(
        campaigns=plan.campaigns,
        grid=plan.grid,
        seed=1,
        markets=tuple(Market(Traffic(200.0), BID_MICROS, 0.6, segments=segments) for _ in plan.campaigns.markets),
        response=replace(Response.plain(each, each / 2, each / 10), wear=each / 4, rest_hours=each * 48),
        conversions=Conversions.plain(each / 10, each * 24, each * 1e6, each / 2),
        people=(people,),
        attribution=Attribution(linear, window_hours=72),
        tell_prices=True,
    )
    return replace(plan, source=world, joined=world.joined)


PLANS = {"steering": steering, "world": remembering}


def run(kind: str, campaigns: int, ticks: int) -> float:
    """Carry a plan out to its last table; the peak of this process in MB."""
    plan = PLANS[kind](campaigns, ticks)
    with TemporaryDirectory() as name:
        folder = Path(name)
        LocalRunner().run(plan, folder)
        write_actions(folder / "actions.parquet", read_ledger(folder / LEDGER), plan.campaigns, plan.grid)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.stdout.write(f"{run(sys.argv[1], *map(int, sys.argv[2:]))}\n")
