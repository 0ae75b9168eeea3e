"""The lease of a paced run, its watchdog, and wall clocks that jump."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from engine.actions import Knob
from engine.campaigns import ACCOUNT
from engine.ledger import RecordKind, decode_round
from engine.messages import Command, CommandKind
from engine.runtime.lease import Lease
from engine.runtime.local import LocalRunner, Watcher
from engine.runtime.pace import Pace
from engine.runtime.plan import Plan
from engine.runtime.store import LEDGER, read_ledger
from engine.runtime.watchdog import Watchdog
from engine.units import TickGrid
from experiments import api
from experiments.api import Run
from tests.experiments.cli_runs import eventually, session_of
from tests.rehearsals import At, Crash, begin, small

DAY = 86_400.0
MONTH = 30 * DAY
NOW = 1_800_000_000.0
GRID = TickGrid(datetime(2026, 3, 2), 30, 400)


# --- the lease ---


@pytest.mark.parametrize("since", [0, 5, 5.1, -0.1, -DAY, MONTH])
def test_a_lease_is_held_for_its_time_and_not_where_the_clock_jumped(tmp_path: Path, since: float) -> None:
    lease = Lease(tmp_path, 3)
    lease.renew(NOW, 5.0)
    assert lease.held(NOW + since) is (0 <= since <= 5)
    lease.renew(NOW + since, 5.0)  # by the clock as it now is
    assert lease.held(NOW + since)
    assert not Lease(tmp_path, 4).held(NOW)
    lease.end()
    assert not lease.held(NOW + since)


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", '{"at": "now", "seconds": 5}', '{"at": NaN, "seconds": 5}', "\x00"]
)
def test_a_lease_that_cannot_be_read_is_not_held(tmp_path: Path, content: str) -> None:
    lease = Lease(tmp_path, 3)
    lease.renew(NOW)
    (path,) = tmp_path.iterdir()
    path.write_text(content)
    assert not lease.held(NOW)


# --- the watchdog ---


@pytest.mark.slow
def test_a_watchdog_renews_while_its_driver_runs_and_ends_with_it(tmp_path: Path) -> None:
    driver = "import sys, signal; from pathlib import Path; from engine.runtime.watchdog import Watchdog; "
    driver += "watchdog = Watchdog(Path(sys.argv[1]), 0.6); watchdog.watch(3); print('watched', flush=True); "
    driver += "signal.pause()"
    lease = Lease(tmp_path, 3)
    command = [sys.executable, "-c", driver, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "watched\n"
        first = lease.renewal()
        assert eventually(lambda: lease.renewal() != first and lease.held(time.time()))
        os.kill(process.pid, signal.SIGSTOP)  # the driver alone
        assert eventually(lambda: not lease.held(time.time()))
        os.kill(process.pid, signal.SIGCONT)
        assert eventually(lambda: lease.held(time.time()))
        process.kill()
    assert eventually(lambda: not session_of(process.pid))
    assert list(tmp_path.iterdir()) == []


def test_a_watchdog_that_is_gone_is_replaced_and_ends_when_it_is_told_to(tmp_path: Path) -> None:
    watchdog, lease = Watchdog(tmp_path, 0.6), Lease(tmp_path, 3)
    watchdog.watch(3)
    process = watchdog._process
    assert process is not None
    process.kill()
    process.wait()
    assert eventually(lambda: not lease.held(time.time()))
    watchdog.tend()
    assert eventually(lambda: lease.held(time.time()))
    watchdog.watch(4)
    assert Lease(tmp_path, 4).held(time.time())
    watchdog.end()
    assert list(tmp_path.iterdir()) == []


# --- the pace ---


@dataclass
class Wall:
    """A wall clock that jumps as it sleeps for the n-th time (from 0), and a watchdog that renews as it sleeps.

    `before` are jumps that the watchdog sees, `after` those that come when it has just renewed; while it is silent it
    renews nothing.
    """

    before: Mapping[int, float] = field(default_factory=dict)
    after: Mapping[int, float] = field(default_factory=dict)
    silent: range = range(0)
    now: float = NOW
    slept: list[float] = field(default_factory=list)
    lease: Lease | None = None

    def pace(self) -> Pace:
        """An hour takes a second."""
        return Pace(3600, clock=lambda: self.now, sleep=self.sleep, watchdog=self.watchdog)

    def sleep(self, seconds: float) -> None:
        self.now += seconds + self.before.get(len(self.slept), 0.0)
        if len(self.slept) not in self.silent:
            self.renew()
        self.now += self.after.get(len(self.slept), 0.0)
        self.slept.append(seconds)

    def renew(self) -> None:
        if self.lease:
            self.lease.renew(self.now)

    def watchdog(self, folder: Path) -> Renewing:
        return Renewing(self, folder)


@dataclass
class Renewing:
    """The watchdog of a wall clock."""

    wall: Wall
    folder: Path

    def watch(self, epoch: int) -> None:
        self.wall.lease = Lease(self.folder, epoch)
        self.wall.renew()

    def tend(self) -> None:
        """It is never gone."""

    def end(self) -> None:
        assert self.wall.lease is not None
        self.wall.lease.end()


@pytest.mark.parametrize("jump", [-DAY, -0.3, 0.2, MONTH])
def test_a_pace_after_a_jump_goes_on_from_the_clock_as_it_now_is(jump: float) -> None:
    wall = Wall(after={3: jump})
    pace = wall.pace()
    for tick in range(11):
        pace.wait(GRID, tick)
        pace.wait(GRID, tick)
    expected = {
        -DAY: [0.5] * 10,  # a tick's time per tick, and not a day
        -0.3: [0.5] * 10,
        0.2: [0.5] * 4 + [0.3] + [0.5] * 5,  # made up for
        MONTH: [0.5] * 9,  # the tick that is overdue opens, and the others do not rush after it
    }
    assert wall.slept == pytest.approx(expected[jump], abs=1e-4)


def test_ticks_that_are_lived_through_again_are_not_waited_for_again() -> None:
    wall = Wall()
    pace = wall.pace()
    for tick in (0, 1, 2, 3, 1, 2, 3, 4):
        pace.wait(GRID, tick)
    assert wall.slept == pytest.approx([0.5] * 4)


# --- a small run ---

EVERY = 5
SPANS = 15  # of 71 ticks; the first opens at once


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return api.simulate(small(decision_every=EVERY), out=tmp_path_factory.mktemp("undisturbed") / "run")


def paced(wall: Wall, out: Path) -> Run:
    return api.simulate(small(decision_every=EVERY), out=out, runner=LocalRunner(2, pace=wall.pace()))


def headers(run: Run) -> list[dict[str, Any]]:
    rounds = [record for record in read_ledger(run.folder / LEDGER) if record.kind is RecordKind.ROUND]
    return [decode_round(record).header for record in rounds]


def leased(run: Run) -> list[bool]:
    return [header["leased"] for header in headers(run)]


@pytest.mark.parametrize("jump", [-DAY, MONTH])
def test_a_clock_that_jumps_leaves_a_run_whose_lease_is_renewed_as_it_was(
    undisturbed: Run, tmp_path: Path, jump: float
) -> None:
    wall = Wall(before={6: jump})
    run = paced(wall, tmp_path / "run")
    assert run.digests == undisturbed.digests
    waits = [5.0] * (SPANS - 1) + [1.0]
    assert wall.slept == pytest.approx(waits if jump < 0 else waits[1:])
    assert not list(run.folder.glob("lease-*"))


@dataclass(frozen=True)
class Iced:
    """A runner with whose account a person freezes at a boundary, and lifts it again."""

    boundaries: list[int]

    def run(self, plan: Plan, folder: Path, watch: Watcher | None = None) -> Any:
        commands = dict(plan.commands)
        kinds = {self.boundaries[0]: CommandKind.FREEZE, self.boundaries[-1] + 1: CommandKind.UNFREEZE}
        for boundary, kind in kinds.items():
            tick = closes(boundary)
            ice = Command(f"ice-{boundary}", kind, "dana", ACCOUNT, Knob.PAUSED, whole=True)
            commands[tick] = (*commands.get(tick, ()), ice)
        return LocalRunner().run(replace(plan, commands=commands), folder, watch)


def closes(boundary: int) -> int:
    """The tick at whose close a boundary is."""
    return (boundary + 1) * EVERY - 1


# the boundary that comes when the watchdog has renewed by the clock of before; after a jump ahead the next one opens at
# once, and this watchdog has not come to renew
@pytest.mark.parametrize(("jump", "lost"), [(-DAY, [6]), (MONTH, [6, 7])])
def test_a_lease_lost_by_a_jump_freezes_until_it_is_renewed_and_the_ledger_says_so(
    tmp_path: Path, jump: float, lost: list[int]
) -> None:
    run = paced(Wall(after={6: jump}), tmp_path / "run")
    assert [place for place, held in enumerate(leased(run)) if not held] == lost
    told = [(place, each["event"]) for place, header in enumerate(headers(run)) for each in header["alerts"]]
    assert told == [(lost[0], "opened"), (lost[-1] + 1, "closed")]
    judged = run.actions[run.actions.tick.isin([closes(boundary) for boundary in lost])]
    assert set(zip(judged.outcome, judged.reason, strict=True)) == {("refused", "frozen")}

    frozen = api.simulate(small(decision_every=EVERY), out=tmp_path / "frozen", runner=Iced(lost))
    assert frozen.digests["metrics"] == run.digests["metrics"]

    again, crash = tmp_path / "again", At(110)  # lost near its end, and decided again while the lease is held
    with pytest.raises(Crash):
        begin(api.load(small(decision_every=EVERY)), again, LocalRunner(2, pace=Wall(after={6: jump}).pace()), crash)
    resumed = api.resume(again, runner=LocalRunner(2, pace=Wall().pace()))
    assert resumed.digests == run.digests


def test_without_a_renewal_the_run_is_frozen_until_it_is_renewed_again(tmp_path: Path) -> None:
    """A watchdog that falls silent while the wall clock goes on for twenty seconds, and holds for five."""
    run = paced(Wall(silent=range(4, 8)), tmp_path / "run")
    assert [place for place, held in enumerate(leased(run)) if not held] == [5, 6, 7]
    assert run.actions[run.actions.tick == closes(8)].outcome.eq("applied").any()
