"""`interrupt`: seconds from Ctrl-C until a run on Ray has ended and Ray is shut down.

The baseline is the same run in this process.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from engine.errors import BadInput
from engine.runtime.actors import RayRunner
from engine.runtime.local import LocalRunner, Progress
from engine.runtime.plan import Plan
from experiments.benchmarks.measuring import Figure, by_turns
from experiments.benchmarks.tick_overhead import SHARDS, steering

_PRESSED_AT = 10


def measure(*, small: bool) -> Figure:
    """Seconds on Ray, and seconds locally."""
    campaigns, repeats = (20, 1) if small else (1_000, 5)
    plan = steering(campaigns, 2 * _PRESSED_AT)
    on_ray, local = by_turns(
        lambda: _seconds(plan, RayRunner(SHARDS)), lambda: _seconds(plan, LocalRunner(SHARDS)), repeats
    )
    return Figure(on_ray, "s", "local run", local)


def _seconds(plan: Plan, runner: RayRunner | LocalRunner) -> float:
    pressed = 0.0

    def watch(now: Progress) -> None:
        nonlocal pressed
        if now.tick == _PRESSED_AT:
            pressed = time.perf_counter()
            os.kill(os.getpid(), signal.SIGINT)

    with TemporaryDirectory() as folder:
        try:
            runner.run(plan, Path(folder), watch)
        except KeyboardInterrupt:
            return time.perf_counter() - pressed
    raise BadInput(f"the run must be interrupted at tick {_PRESSED_AT}, and was not: the benchmark needs a change")
