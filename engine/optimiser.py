"""The central optimiser's machine: views and commands in, one ledger record and the approved rows out.

At every boundary it takes in what became of the last round, serves people's commands, asks the policies, has the guard
judge everything at once, and remembers what waits for a person. The record is committed before the rows are dispatched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from engine.actions import Approved, Proposals, Result, Source, no_proposals
from engine.alerts import AlertKind, Alerts, Fingerprint
from engine.campaigns import CampaignSet
from engine.guard import Judgement, Limits, check, in_mandate
from engine.ledger import RecordKind, closing_body, opening_body, round_body
from engine.messages import (
    Answer,
    Boundary,
    Close,
    Commit,
    Dispatch,
    Open,
    OptimiserInstruction,
    OptimiserMessage,
    Role,
)
from engine.people import Desk, DeskState, Request, answered
from engine.policy import Policy, View
from engine.rollback import History
from engine.standing import Standing
from engine.units import Bool, Int64, TickGrid
from engine.watch import Event, Told, Watching, WatchLimits, slot_of

_LEASE_LOST = Fingerprint(AlertKind.LEASE_LOST)
_OF_LEASE = {
    False: "the watchdog did not renew the lease in time: nothing begins but pauses and rollbacks until it does",
    True: "the watchdog renewed the lease",
}


@dataclass(frozen=True)
class Assignment:
    """A policy, the campaigns it is responsible for (ascending positions), and in whose name it proposes."""

    policy: Policy
    members: Int64
    source: Source
    name: str

    def __post_init__(self) -> None:
        if self.source not in {Source.RULE, Source.SCRIPT, Source.POLICY}:
            raise ValueError(f"source (={self.source.name}) of a policy must be RULE, SCRIPT or POLICY: people command")


@dataclass(frozen=True)
class OptimiserState:
    """What an `OptimiserMachine` knows between two messages, but for the history, which the ledger tells."""

    memories: tuple[Any, ...]
    sequence: int
    round: Approved
    desk: DeskState
    standing: Standing
    watching: Watching
    alerts: Alerts


class OptimiserMachine:
    """Decides for all campaigns of a run.

    Parameters
    ----------
    assignments:
        The policies, asked in this order at every boundary.
    people:
        Who may command, and in which roles.
    approval_ticks:
        How long a proposal waits for a person before it expires.
    history:
        What was applied so far, as far back as it can be rolled back.
    state:
        Where another machine left; None before the first message.
    """

    def __init__(
        self,
        campaigns: CampaignSet,
        grid: TickGrid,
        limits: Limits,
        assignments: tuple[Assignment, ...],
        *,
        people: Mapping[str, frozenset[Role]],
        approval_ticks: int,
        history: History,
        state: OptimiserState | None = None,
    ) -> None:
        self._campaigns = campaigns
        self._grid = grid
        self._limits = limits
        self._assignments = assignments
        self._history = history
        if state is None:
            memories = tuple(each.policy.start(campaigns.select(each.members), grid) for each in assignments)
            n = len(campaigns)
            beginnings = DeskState.initial(), Standing.initial(n), Watching.initial(n), Alerts.none()
            state = OptimiserState(memories, 0, Approved.nothing(), *beginnings)
        self._memories = list(state.memories)
        self._sequence = state.sequence
        self._round = state.round
        self._standing = state.standing
        self._watching = state.watching
        self._alerts = state.alerts
        self._alarms: list[dict[str, Any]] = []  # what this round's record tells of alerts
        self._watch_limits = WatchLimits.of(limits.day, limits.delay_horizon) if limits.day else None
        self._desk = Desk(len(campaigns), people, approval_ticks, state.desk)

    @property
    def state(self) -> OptimiserState:
        """What it knows now; nothing in it changes later."""
        memories = tuple(self._memories)
        parts = self._desk.state, self._standing, self._watching, self._alerts
        return OptimiserState(memories, self._sequence, self._round, *parts)

    @property
    def sequence(self) -> int:
        """Ledger sequence of the next record."""
        return self._sequence

    def handle(self, message: OptimiserMessage) -> list[OptimiserInstruction]:
        """Take one message; its instructions are to be carried out in order."""
        match message:
            case Open(view, header):
                body = opening_body(header, self._campaigns.cell_start, view.controls)
                return [self._commit(RecordKind.OPENING, view.tick, body)]
            case Boundary():
                return self._decide(message)
            case Close(tick, results, header):
                self._take_results(tick, results)
                return [self._commit(RecordKind.CLOSING, tick, closing_body(header, results))]
            case _:
                assert_never(message)

    def _commit(self, kind: RecordKind, tick: int, body: bytes) -> Commit:
        self._sequence += 1
        return Commit(kind, tick, body)

    def _decide(self, boundary: Boundary) -> list[OptimiserInstruction]:
        view, results, leased = boundary.view, boundary.results, boundary.leased
        self._alarms = []
        self._alarm(view.tick, _LEASE_LOST, _OF_LEASE[leased], holds=not leased)
        watched = self._take_results(view.tick, results)
        self._standing = self._standing.seen(view.tick, view.controls, self._limits.day)
        requests = self._desk.serve(view, boundary.commands, self._history, self._limits.version, leased=leased)
        verdicts, inverses = self._watch(view)
        judgement = self._judge(view, requests, inverses + self._ask(view))
        self._desk.take(view.tick, judgement, self._limits.version)
        told = [request.told() for request in answered(requests, judgement)]
        header = {
            "limits_version": self._limits.version,
            "frozen": self._desk.frozen,
            "leased": leased,
            "commands": told,
            "watches": [each.told() for each in watched + verdicts],
            "alerts": self._alarms,
        }
        commit = self._commit(RecordKind.ROUND, view.tick, round_body(header, judgement, results))
        self._round = judgement.approved
        answers = [Answer(view.tick, tuple(told))] if told else []
        return [commit, Dispatch(judgement.approved), *answers]

    def _alarm(self, tick: int, about: Fingerprint, why: str, *, holds: bool) -> None:
        """Open an alert where what it is about holds, and close it where it does not."""
        raised = self._alerts.opened(tick, about, why) if holds else self._alerts.closed(about, why)
        self._alerts, told = raised
        self._alarms += told

    def _take_results(self, tick: int, results: NDArray[Any]) -> list[Told]:
        """Learn what became of the last round, row by row; what is told of the watches that open and end by it."""
        rows = self._round.rows
        if len(results) != len(rows):
            raise ValueError(f"{len(results)} results arrived for the {len(rows)} rows of round {rows.round}")
        undoing = {**self._watching.undoing, **self._desk.undoing}
        self._history.take(tick, rows, results, undoing)
        applied = rows.take(results == Result.APPLIED)
        judged_at = self._standing.last_seen  # mandates, holds and cooldowns go by the round's own boundary
        mandated = in_mandate(applied, self._limits, judged_at)
        self._standing = self._standing.after(judged_at, applied, mandated, self._limits.day)
        self._round = Approved.nothing()
        if self._watch_limits is None:
            return []
        self._watching, told = self._watching.after(applied, mandated, undoing, self._campaigns.market)
        for each in told:
            if each.event is Event.OPENED:
                self._history.keep(each.campaign, each.knob, each.action, tick)
        return told

    def _watch(self, view: View) -> tuple[list[Told], list[Proposals]]:
        """Show the watches the view: what is told of their verdicts, and the rows that take changes back."""
        limits = self._watch_limits
        if limits is None:
            return [], []
        seen = self._watching.seen(view, slot_of(self._grid, view.tick), limits)
        self._watching, told, inverses = seen.judged(view.controls, self._history, limits)
        for each in told:
            if each.event is Event.BLOCKED:
                about = Fingerprint(AlertKind.ROLLBACK_BLOCKED, each.campaign, each.knob)
                self._alarm(view.tick, about, each.why, holds=True)
        return told, inverses

    def _ask(self, view: View) -> list[Proposals]:
        """Every policy's proposals, naming campaigns by their position in the run and their knobs' source."""
        asked = []
        for place, each in enumerate(self._assignments):
            seen = view.select(self._campaigns, each.members)
            rows, self._memories[place] = each.policy.propose(seen, self._memories[place])
            if len(rows):
                asked.append(_in_the_name_of(each, rows))
        return asked

    def _judge(self, view: View, requests: list[Request], asked: list[Proposals]) -> Judgement:
        """Have the guard judge everything at once: people's rows first, then the policies'."""
        of_people = [(request.rows, request.granted) for request in requests if request.rows is not None]
        batches = of_people + [(rows, False) for rows in asked]
        granted: Bool = np.repeat(
            np.array([granted for _, granted in batches], dtype=np.bool_),
            np.array([len(rows) for rows, _ in batches], dtype=np.int64),
        )
        return check(
            self._campaigns,
            view.controls,
            Proposals.concatenate([rows for rows, _ in batches]) if batches else no_proposals(),
            self._limits,
            sequence=self._sequence,
            tick=view.tick,
            granted=granted,
            frozen=self._desk.stopped,
            standing=self._standing,
        )


def _in_the_name_of(assignment: Assignment, rows: Proposals) -> Proposals:
    """A policy's rows, its campaigns numbered as in the run (−1 for one it does not have), its name as proposer."""
    scripted = assignment.source is Source.SCRIPT  # a script speaks for several; a policy cannot call itself otherwise
    known = (rows.campaign >= 0) & (rows.campaign < len(assignment.members))
    positions = assignment.members[np.where(known, rows.campaign, 0)]
    return replace(
        rows,
        campaign=np.where(known, positions, -1).astype(np.int32),
        source=np.full(len(rows), assignment.source, dtype=np.uint8),
        notes=rows.notes if scripted else tuple(note._replace(proposer=assignment.name) for note in rows.notes),
    )
