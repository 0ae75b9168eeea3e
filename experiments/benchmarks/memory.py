"""`memory`: peak resident memory of a run in this process, MB; the baseline is a run of a tenth of its length.

Each is measured in a process of its own. The shorter one is longer than the week for which an applied action can be
rolled back, so that whatever is kept for a while is kept in both.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from engine.runtime.local import LocalRunner
from engine.runtime.store import LEDGER, read_ledger
from engine.runtime.tables import write_actions
from experiments.benchmarks.measuring import Figure
from experiments.benchmarks.tick_overhead import steering

_TIMES = 10


def measure(*, small: bool) -> Figure:
    """Megabytes at the peak of both."""
    campaigns, ticks = (20, 20) if small else (200, 480)
    return Figure(_peak(campaigns, _TIMES * ticks), "MB", "a run of a tenth of the length", _peak(campaigns, ticks))


def _peak(campaigns: int, ticks: int) -> float:
    command = [sys.executable, "-m", __name__, str(campaigns), str(ticks)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - our own module
    return float(done.stdout)


def run(campaigns: int, ticks: int) -> float:
    """Carry a plan out to its last table; the peak of this process in MB."""
    plan = steering(campaigns, ticks)
    with TemporaryDirectory() as name:
        folder = Path(name)
        LocalRunner().run(plan, folder)
        write_actions(folder / "actions.parquet", read_ledger(folder / LEDGER), plan.campaigns, plan.grid)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    sys.stdout.write(f"{run(*map(int, sys.argv[1:]))}\n")
