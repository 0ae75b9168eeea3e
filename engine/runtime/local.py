"""The in-process runner, and the loop that every runner shares."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from engine.actions import Approved
from engine.runtime.hosts import OptimiserHost, Records, Report, ShardHost, Trace
from engine.runtime.plan import Plan, partition
from engine.runtime.store import LEDGER
from engine.runtime.tables import Recorder, Totals

IN_FLIGHT = 4


@dataclass(frozen=True)
class Progress:
    """How far a run has come."""

    tick: int
    ticks: int
    totals: Totals


Watcher = Callable[[Progress], None]


@dataclass(frozen=True)
class Outcome:
    """The two digests of a finished run, and what happened in it."""

    metrics_digest: str
    ledger_digest: str
    totals: Totals


class Cast(Protocol):
    """Who plays a run: shards and an optimiser, near or far. What it hands out are values, or references to them."""

    def step(self, approved: Any, from_tick: int, to_tick: int) -> tuple[list[Any], list[Any], list[Any]]:
        """All shards apply, live and report: their reports, traces and records."""
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


def drive(plan: Plan, cast: Cast, recorder: Recorder, watch: Watcher | None = None) -> Outcome:
    """Carry a plan out: every span is applied, lived through, reported and decided upon, in that order.

    Only the tables lag behind, by at most IN_FLIGHT spans; no span starts before the decision at its opening.
    """
    approved: Any = Approved.nothing()
    flying: deque[tuple[int, int, list[Any], list[Any]]] = deque()
    spans = plan.spans()
    reports: list[Any] = []

    def land() -> None:
        from_tick, to_tick, traces, records = flying.popleft()
        recorder.take(from_tick, to_tick - from_tick, cast.values(traces), cast.values(records))
        if watch:
            watch(Progress(recorder.tick, plan.grid.ticks, recorder.totals))

    for from_tick, to_tick in spans:
        reports, traces, records = cast.step(approved, from_tick, to_tick)
        if to_tick < plan.grid.ticks:
            approved = cast.decide(to_tick - 1, reports)
        flying.append((from_tick, to_tick, traces, records))
        if len(flying) > IN_FLIGHT:
            land()
    while flying:
        land()
    header = {"metrics_digest": recorder.digest, "totals": recorder.totals.as_dict()}
    ledger_digest = cast.close(plan.grid.ticks - 1, header, reports)
    return Outcome(recorder.digest, ledger_digest, recorder.totals)


class LocalRunner:
    """Runs a plan in this process, without Ray.

    Parameters
    ----------
    shards:
        How many groups the campaigns are kept in; the result does not depend on it.
    """

    def __init__(self, shards: int = 1) -> None:
        self._shards = shards

    def run(self, plan: Plan, folder: Path, watch: Watcher | None = None) -> Outcome:
        """Carry the plan out, leaving ledger and tables in the folder."""
        recorder = Recorder(folder, plan.campaigns, plan.grid)
        try:
            return drive(plan, _LocalCast(plan, self._shards, folder), recorder, watch)
        finally:
            recorder.close()


class _LocalCast:
    """Hosts in this process; references are the values themselves."""

    def __init__(self, plan: Plan, shards: int, folder: Path) -> None:
        self._optimiser = OptimiserHost(plan, str(folder / LEDGER))
        self._shards = [ShardHost(plan, members) for members in partition(plan.campaigns, shards)]

    def step(self, approved: Approved, from_tick: int, to_tick: int) -> tuple[list[Report], list[Trace], list[Records]]:
        reports, traces, records = zip(
            *(shard.step(approved, from_tick, to_tick) for shard in self._shards), strict=True
        )
        return list(reports), list(traces), list(records)

    def decide(self, tick: int, reports: list[Report]) -> Approved:
        return self._optimiser.decide(tick, *reports)

    def close(self, tick: int, header: Mapping[str, Any], reports: list[Report]) -> str:
        return self._optimiser.close(tick, header, *reports)

    def values(self, references: Sequence[Any]) -> list[Any]:
        return list(references)
