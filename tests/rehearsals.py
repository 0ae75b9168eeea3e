"""Losing processes on purpose: runs small enough to be lost at every place, and rehearsals that lose them."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TypeAlias

from engine.runtime.local import Watcher
from engine.runtime.plan import Moment, Plan, Rehearsal
from experiments import api, build
from experiments.api import Run, Runner
from experiments.config import RunConfig
from tests.lookers import LOOKER
from tests.scenarios import config

Places: TypeAlias = tuple[tuple[Moment, int], ...]


LOOKING_TOO = [
    {"policy": "even_pi", "campaigns": ["display-a", "search-b"]},
    LOOKER | {"campaigns": ["search-a", "social-a", "social-b"]},
    {"policy": "daily_budgets", "campaigns": "all"},
]
"""Policies of the small run, of which one bids by the prices of the wins since its last view."""


class Crash(BaseException):
    """The process is gone; nobody catches that."""


@dataclass
class At:
    """Raises at the n-th call (from 0), once; counts and keeps every call."""

    n: int | None = None
    error: type[BaseException] = Crash
    calls: list[tuple[Moment, int]] = field(default_factory=list)

    def __call__(self, moment: Moment, number: int) -> None:
        self.calls.append((moment, number))
        if len(self.calls) - 1 == self.n:
            raise self.error(f"at {moment} {number}")


@dataclass(frozen=True)
class Kill:
    """Kills with SIGKILL at the given moments, once each, wherever they come: a file tells that it was done.

    Parameters
    ----------
    at:
        Moments and the lowest number from which they count.
    done:
        A folder that all processes see.
    pid:
        Whom to kill; None: the process that comes to the moment.
    """

    at: Places
    done: Path
    pid: int | None = None

    @classmethod
    def once_each(cls, at: Places, done: Path, pid: int | None = None) -> Self:
        """With a new folder to tell in."""
        done.mkdir()
        return cls(at, done, pid)

    def __call__(self, moment: Moment, number: int) -> None:
        for which, first in self.at:
            if which is moment and number >= first:
                self._once(which, first)

    def _once(self, moment: Moment, first: int) -> None:
        try:
            (self.done / f"{moment}-{first}").touch(exist_ok=False)
        except FileExistsError:
            return
        os.kill(self.pid or os.getpid(), signal.SIGKILL)

    def told(self) -> set[tuple[Moment, int]]:
        """What was done."""
        places = (path.name.rsplit("-", 1) for path in self.done.iterdir())
        return {(Moment(moment), int(first)) for moment, first in places}


@dataclass(frozen=True)
class Rehearsed:
    """A runner that carries plans out with a rehearsal."""

    runner: Runner
    rehearsal: Rehearsal

    def run(self, plan: Plan, folder: Path, watch: Watcher | None = None) -> Any:
        return self.runner.run(replace(plan, rehearsal=self.rehearsal), folder, watch)


def small(**changes: Any) -> dict[str, Any]:
    """The scenario of all tests with few opportunities: 71 ticks, five campaigns, people's commands."""
    document = config(**changes)
    for market in document["markets"].values():
        market["opportunities_per_tick"] = 12
    return document


def begin(config: RunConfig, folder: Path, runner: Runner, rehearsal: Rehearsal) -> Run:
    """Carry a simulation out in a new folder, rehearsing from its first write to its last."""
    job = _job(config, rehearsal)
    return api._carry_out(job, api._begin(job, folder), runner, None)


def go_on(config: RunConfig, folder: Path, runner: Runner, rehearsal: Rehearsal) -> Run:
    """Carry a simulation on from where its folder stands, likewise."""
    return api._carry_out(_job(config, rehearsal), api.open_run(folder), runner, None)


def _job(config: RunConfig, rehearsal: Rehearsal) -> api._Job:
    return api._Job(config, replace(build.simulation(config), rehearsal=rehearsal), None)
