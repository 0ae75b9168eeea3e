"""The in-process runner, and the loop that every runner shares."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from engine.actions import Approved
from engine.runtime.checkpoints import EVERY, Checkpoint, Checkpoints
from engine.runtime.hosts import OptimiserHost, Records, Report, ShardHost
from engine.runtime.interrupts import Interrupts
from engine.runtime.pace import Pace
from engine.runtime.plan import Moment, Plan, partition
from engine.runtime.store import LEDGER, Fence
from engine.runtime.tables import Recorder, Totals

IN_FLIGHT = 4
LOSSES = 5
"""How often a run may lose a process without getting any farther before it gives up."""


@dataclass(frozen=True)
class Progress:
    """How far a run has come; `approved` is the last round's rows that the guard let through."""

    tick: int
    ticks: int
    totals: Totals
    approved: Approved


Watcher = Callable[[Progress], None]


@dataclass(frozen=True)
class Outcome:
    """The two digests of a finished run, and what happened in it; `epoch` is the ledger's in which it ended."""

    metrics_digest: str
    ledger_digest: str
    totals: Totals
    epoch: int


class LostError(Exception):
    """A process that plays in a run is gone; the run goes back to its last checkpoint and on from there."""


class Cast(Protocol):
    """Who plays a run: shards and an optimiser, near or far. What it hands out are values, or references to them."""

    @property
    def layout(self) -> str:
        """How it keeps campaigns apart; states go to casts of the same layout alone."""
        ...

    def restore(self, states: Sequence[bytes] | None) -> int:
        """Bring all to a checkpoint, or to the beginning; whoever is gone is there again.

        It gives the epoch in which the optimiser holds the ledger.
        """
        ...

    def states(self) -> list[Any]:
        """What a checkpoint keeps of everybody, after what was asked of them so far."""
        ...

    def step(self, approved: Any, from_tick: int, to_tick: int) -> tuple[list[Any], list[Any]]:
        """All shards apply, live and report: their reports and records."""
        ...

    def decide(self, tick: int, reports: list[Any]) -> Any:
        """Hold a round; what it gives is what may be applied."""
        ...

    def close(self, tick: int, header: Mapping[str, Any], reports: list[Any]) -> str:
        """End the run; the ledger's digest."""
        ...

    def values(self, references: Sequence[Any]) -> list[Any]:
        """Wait for the values of references."""
        ...

    def release(self) -> None:
        """Let go of the run's files, however it ended."""
        ...


def carry_out(
    plan: Plan,
    cast: Cast,
    folder: Path,
    watch: Watcher | None = None,
    every: int = EVERY,
    pace: Pace | None = None,
) -> Outcome:
    """Carry a plan out to its end, from the folder's last checkpoint if there is one, whoever is lost on the way.

    Losing a process and losing the driver are one case: everybody goes back to the last checkpoint, the rounds that the
    ledger holds after it are decided again and compared with it, and spans that the tables hold are not taken twice.
    Where the ledger was taken up anew the tables go back too: another process may have had the folder meanwhile.
    """
    with ExitStack() as ends:
        ends.callback(cast.release)
        if pace:
            ends.callback(pace.end)
        interrupts = ends.enter_context(Interrupts())
        return _carry_out(plan, cast, folder, watch, every, pace, interrupts)


def _carry_out(
    plan: Plan,
    cast: Cast,
    folder: Path,
    watch: Watcher | None,
    every: int,
    pace: Pace | None,
    interrupts: Interrupts,
) -> Outcome:
    fence = Fence(folder / LEDGER)
    checkpoints = Checkpoints(folder, every, plan.rehearsal, fence)
    recorder = Recorder(folder, plan.campaigns, plan.grid, plan.rehearsal, fence)
    losses, reached = 0, 0
    while True:
        begins = checkpoints.latest(cast.layout, recorder.holds)
        try:
            epoch = cast.restore(begins.hosts if begins else None)
            if epoch != fence.epoch:  # held anew: meanwhile somebody else may have written into the folder
                fence.epoch = epoch
                with fence():
                    recorder.restore(begins.recorder if begins else None)
                    checkpoints.forget_after(begins)
                if pace:
                    pace.begin(folder, epoch)
            drive = _Drive(plan, cast, recorder, checkpoints, watch, pace, interrupts)
            metrics_digest, ledger_digest = drive.run(begins)
        except LostError:
            losses = 0 if recorder.tick > reached else losses + 1
            reached = max(reached, recorder.tick)
            if losses > LOSSES:
                raise
        else:
            recorder.finish()
            return Outcome(metrics_digest, ledger_digest, recorder.totals, epoch)


class _Flying(NamedTuple):
    """A span whose tables are still to come, and the checkpoint after it, if one is due."""

    from_tick: int
    to_tick: int
    reports: list[Any]
    records: list[Any]
    span: int
    approved: Any
    states: list[Any] | None


class _Drive:
    """The loop: every span is applied, lived through, reported and decided upon, in that order.

    Only the tables lag behind, by at most IN_FLIGHT spans; no span starts before the decision at its opening.
    """

    def __init__(
        self,
        plan: Plan,
        cast: Cast,
        recorder: Recorder,
        checkpoints: Checkpoints,
        watch: Watcher | None,
        pace: Pace | None,
        interrupts: Interrupts,
    ) -> None:
        self._plan = plan
        self._cast = cast
        self._recorder = recorder
        self._checkpoints = checkpoints
        self._watch = watch
        self._pace = pace
        self._interrupts = interrupts
        self._flying: deque[_Flying] = deque()

    def run(self, begins: Checkpoint | None) -> tuple[str, str]:
        """Go from a checkpoint, or from the beginning, to the end; the digests of metrics and ledger."""
        plan, cast, recorder = self._plan, self._cast, self._recorder
        approved: Any = begins.approved if begins else Approved.nothing()
        spans = plan.spans()
        reports: list[Any] = []
        for span in range(begins.span if begins else 0, len(spans)):
            self._interrupts.heed()
            from_tick, to_tick = spans[span]
            reports, records = cast.step(approved, from_tick, to_tick)
            self._keep_pace(from_tick, to_tick)
            if to_tick < plan.grid.ticks:
                approved = cast.decide(to_tick - 1, reports)
            due = self._checkpoints.due(span + 1) and to_tick < plan.grid.ticks
            states = cast.states() if due else None
            self._flying.append(_Flying(from_tick, to_tick, reports, records, span + 1, approved, states))
            if len(self._flying) > IN_FLIGHT:
                self._land()
        while self._flying:
            self._land()
        header = {"metrics_digest": recorder.digest, "totals": recorder.totals.as_dict()}
        ledger_digest = cast.close(plan.grid.ticks - 1, header, reports)
        return recorder.digest, ledger_digest

    def _keep_pace(self, from_tick: int, to_tick: int) -> None:
        """In a paced run: what is known is told, and the decision waits until its boundary has come."""
        if self._pace:
            while self._flying:
                self._land()
            self._pace.wait(self._plan.grid, from_tick)
            self._pace.wait(self._plan.grid, to_tick)

    def _land(self) -> None:
        """Take the oldest flying span into the tables, and keep the checkpoint after it."""
        flown, cast, recorder = self._flying.popleft(), self._cast, self._recorder
        ticks = flown.to_tick - flown.from_tick
        recorder.take(flown.from_tick, ticks, cast.values(flown.reports), cast.values(flown.records))
        if flown.states is not None and recorder.tick == flown.to_tick:
            self._keep(flown.span, flown.approved, flown.states)
        if self._watch:
            (round_,) = cast.values([flown.approved])
            self._watch(Progress(recorder.tick, self._plan.grid.ticks, recorder.totals, round_))

    def _keep(self, span: int, approved: Any, states: list[Any]) -> None:
        hosts = tuple(self._cast.values(states))
        (round_,) = self._cast.values([approved])
        state = self._recorder.cut()
        self._plan.rehearsal(Moment.BEFORE_CHECKPOINT, state.tick)
        self._checkpoints.save(Checkpoint(self._cast.layout, span, round_, hosts, state))


class LocalRunner:
    """Runs a plan in this process, without Ray.

    Parameters
    ----------
    shards:
        How many groups the campaigns are kept in; the result does not depend on it.
    checkpoint_every:
        Spans between two checkpoints; nor on this.
    pace:
        Slows the run down; nor on this, but for what people command meanwhile, and the freezes of a lost lease.
    take_over:
        Whether to take a run over from a process that holds it and whose lease has lapsed.
    """

    def __init__(
        self,
        shards: int = 1,
        checkpoint_every: int = EVERY,
        pace: Pace | None = None,
        *,
        take_over: bool = False,
    ) -> None:
        self._take_over = take_over
        self._shards = shards
        self._checkpoint_every = checkpoint_every
        self._pace = pace

    def run(self, plan: Plan, folder: Path, watch: Watcher | None = None) -> Outcome:
        """Carry the plan out, or on from where the folder stands, leaving ledger and tables in it."""
        clock = self._pace.clock if self._pace else None
        optimiser = OptimiserHost(plan, str(folder / LEDGER), clock, take_over=self._take_over)
        cast = _LocalCast(plan, self._shards, optimiser)
        return carry_out(plan, cast, folder, watch, self._checkpoint_every, self._pace)


class _LocalCast:
    """Hosts in this process; references are the values themselves."""

    @property
    def layout(self) -> str:
        return f"{len(self._shards)} shards"

    def __init__(self, plan: Plan, shards: int, optimiser: OptimiserHost) -> None:
        self._optimiser = optimiser
        self._shards = [ShardHost(plan, members) for members in partition(plan.campaigns, shards, plan.joined)]

    def restore(self, states: Sequence[bytes] | None) -> int:
        of_optimiser, *of_shards = [*states] if states else [None] * (1 + len(self._shards))
        epoch = self._optimiser.restore(of_optimiser)
        for shard, state in zip(self._shards, of_shards, strict=True):
            shard.restore(state)
        return epoch

    def states(self) -> list[bytes]:
        return [self._optimiser.state(), *(shard.state() for shard in self._shards)]

    def step(self, approved: Approved, from_tick: int, to_tick: int) -> tuple[list[Report], list[Records]]:
        reports, records = zip(*(shard.step(approved, from_tick, to_tick) for shard in self._shards), strict=True)
        return list(reports), list(records)

    def decide(self, tick: int, reports: list[Report]) -> Approved:
        return self._optimiser.decide(tick, *reports)

    def close(self, tick: int, header: Mapping[str, Any], reports: list[Report]) -> str:
        return self._optimiser.close(tick, header, *reports)

    def values(self, references: Sequence[Any]) -> list[Any]:
        return list(references)

    def release(self) -> None:
        self._optimiser.release()
