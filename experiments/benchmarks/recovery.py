"""`recovery`: seconds that a shard killed with SIGKILL adds to a run of two shards.

The shard is killed just before a checkpoint, so that the spans since the one before are all lived again. The start of
Ray and of the actors is left out. The baseline is the same run undisturbed.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from engine.errors import BadInput
from engine.runtime.actors import RayRunner
from engine.runtime.checkpoints import EVERY
from engine.runtime.local import Progress
from engine.runtime.plan import Moment, Plan
from experiments.benchmarks.measuring import Figure, by_turns
from experiments.benchmarks.tick_overhead import SHARDS, steering

_BEFORE = 8
"""Spans before the last checkpoint: more than are in flight."""
_LEAST = 1e-3
"""Seconds; a busy machine can make the undisturbed run the slower one."""


def measure(*, small: bool) -> Figure:
    """Seconds added, and seconds of the undisturbed run."""
    campaigns, spans, repeats = (20, EVERY + 12, 1) if small else (1_000, 3 * EVERY, 5)
    plan = steering(campaigns, spans)
    lost_at = (spans - 1) // EVERY * EVERY - _BEFORE
    with_loss, without = by_turns(lambda: _seconds(plan, lost_at), lambda: _seconds(plan, None), repeats)
    return Figure(max(with_loss - without, _LEAST), "s", "undisturbed run", without)


@dataclass(frozen=True)
class KillShard:
    """Kills the first shard that has lived through the span of a tick, once."""

    tick: int
    done: Path

    def __call__(self, moment: Moment, number: int) -> None:
        """Take a moment of the run."""
        if moment is Moment.AFTER_SPAN and number == self.tick:
            try:
                self.done.touch(exist_ok=False)
            except FileExistsError:
                return
            os.kill(os.getpid(), signal.SIGKILL)


def _seconds(plan: Plan, lost_at: int | None) -> float:
    """From the first span that is told to the end."""
    landed: list[float] = []

    def watch(_: Progress) -> None:
        landed.append(time.perf_counter())

    with TemporaryDirectory() as name:
        folder = Path(name)
        done = folder / "killed"
        rehearsed = plan if lost_at is None else replace(plan, rehearsal=KillShard(lost_at, done))
        RayRunner(SHARDS).run(rehearsed, folder, watch)
        if done.exists() == (lost_at is None):
            raise BadInput(f"a shard must be killed at tick {lost_at}, and none was: the benchmark needs a change")
    return landed[-1] - landed[0]
