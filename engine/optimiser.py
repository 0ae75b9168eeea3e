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

from engine.actions import Actions, Approved, Knob, Proposals, Result, Source, no_proposals
from engine.alerts import AlertKind, Alerts, Fingerprint
from engine.campaigns import CampaignSet, ControlState, after
from engine.guard import MOST_CAMPAIGNS, Judgement, Limits, Outcome, Reason, check, in_mandate
from engine.impact import Evidence, Spending
from engine.ledger import RecordKind, closing_body, opening_body, round_body
from engine.messages import (
    Answer,
    Boundary,
    Close,
    Command,
    CommandKind,
    Commit,
    Dispatch,
    Open,
    OptimiserInstruction,
    OptimiserMessage,
    Role,
)
from engine.people import Desk, DeskState, Request, answered
from engine.policy import Policy, Trial, View
from engine.rollback import History
from engine.standing import Standing
from engine.units import Bool, Int64, TickGrid
from engine.verdicts import Event, Told, WatchLimits
from engine.watch import Watching, slot_of


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
    spending: Spending


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
    trial:
        The twin in which changes outside mandates are tried; None: their impact is read off the record.
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
        trial: Trial | None = None,
        state: OptimiserState | None = None,
    ) -> None:
        self._campaigns = campaigns
        self._grid = grid
        self._limits = limits
        self._assignments = assignments
        self._history = history
        self._trial = trial
        if state is None:
            memories = tuple(each.policy.start(campaigns.select(each.members), grid) for each in assignments)
            n = len(campaigns)
            beginnings = DeskState.initial(), Standing.initial(n), Watching.initial(n, campaigns.cells), Alerts.none()
            spending = Spending.initial(n)
            state = OptimiserState(memories, 0, Approved.nothing(), *beginnings, spending)
        self._memories = list(state.memories)
        self._sequence = state.sequence
        self._round = state.round
        self._standing = state.standing
        self._watching = state.watching
        self._alerts = state.alerts
        self._spending = state.spending
        self._alarms: list[dict[str, Any]] = []  # what this round's record tells of alerts
        self._watch_limits = WatchLimits.of(limits.day, limits.delay_horizon) if limits.day else None
        self._desk = Desk(len(campaigns), people, approval_ticks, state.desk)

    @property
    def state(self) -> OptimiserState:
        """What it knows now; nothing in it changes later."""
        memories = tuple(self._memories)
        parts = self._desk.state, self._standing, self._watching, self._alerts, self._spending
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
            case Boundary(view, commands, results):
                return self._decide(view, commands, results)
            case Close(tick, results, header):
                self._take_results(tick, results)
                return [self._commit(RecordKind.CLOSING, tick, closing_body(header, results))]
            case _:
                assert_never(message)

    def _commit(self, kind: RecordKind, tick: int, body: bytes) -> Commit:
        self._sequence += 1
        return Commit(kind, tick, body)

    def _decide(self, view: View, commands: tuple[Command, ...], results: NDArray[Any]) -> list[OptimiserInstruction]:
        self._alarms = []
        watched = self._take_results(view.tick, results)
        self._standing = self._standing.seen(view.tick, view.controls, self._limits.day)
        self._spending = self._spending.seen(view.tick, view.lifetime, self._limits.day)
        requests = self._serve(view, commands)
        verdicts, inverses = self._watch(view)
        judgement = self._judge(view, requests, inverses + self._ask(view))
        self._desk.take(view.tick, judgement, self._limits.version)
        self._tell_blocked(view.tick, judgement)
        told = [request.told() for request in answered(requests, judgement)]
        header = {
            "limits_version": self._limits.version,
            "frozen": self._desk.frozen,
            "commands": told,
            "watches": [each.told() for each in watched + verdicts],
            "alerts": self._alarms,
            "breaker": self._standing.breaker_since is not None,
            "impacts": [each.told() for each in judgement.impacts],
        }
        commit = self._commit(RecordKind.ROUND, view.tick, round_body(header, judgement, results))
        self._round = judgement.approved
        answers = [Answer(view.tick, tuple(told))] if told else []
        return [commit, Dispatch(judgement.approved), *answers]

    def _serve(self, view: View, commands: tuple[Command, ...]) -> list[Request]:
        """Serve people, and tell of the breaker that rollbacks opened or a person closed."""
        about, opened = Fingerprint(AlertKind.BREAKER_OPEN), self._standing.breaker_since is not None
        if opened:
            self._alarm(view.tick, about, "three rollbacks within a day: nothing automatic is applied", holds=True)
        requests = self._desk.serve(view, commands, self._history, self._limits.version, breaker_open=opened)
        for request in requests:
            kind, answer, by = request.command.kind, request.answer, request.command.by
            if kind is CommandKind.CLOSE_BREAKER and answer == "closed":
                self._standing = self._standing.closed()
                self._alarm(view.tick, about, f"closed by {by}", holds=False)
        return requests

    def _tell_blocked(self, tick: int, judgement: Judgement) -> None:
        """Open an alert for every rollback that the guard refuses: the value is not the recorded one."""
        rows = judgement.proposals
        for place in np.flatnonzero((rows.source == Source.ROLLBACK) & (judgement.outcome == Outcome.REFUSED)):
            about = Fingerprint(AlertKind.ROLLBACK_BLOCKED, int(rows.campaign[place]), Knob(int(rows.knob[place])))
            self._alarm(tick, about, Reason(judgement.reason[place]).name.lower(), holds=True)

    def _settle_blocked(self, tick: int, applied: Actions) -> None:
        """Close the alert of a blocked rollback once a person, or a rollback after all, has set the knob."""
        rows = applied.take(applied.source <= Source.ROLLBACK)
        for campaign, knob in zip(rows.campaign.tolist(), rows.knob.tolist(), strict=True):
            about = Fingerprint(AlertKind.ROLLBACK_BLOCKED, campaign, Knob(knob))
            self._alarm(tick, about, "the knob was set", holds=False)

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
        undone = self._undone(rows, results, undoing)
        self._history.take(tick, rows, results, undoing)
        applied = rows.take(results == Result.APPLIED)
        self._settle_blocked(tick, applied)
        judged_at = self._standing.last_seen  # mandates, holds and cooldowns go by the round's own boundary
        mandated = in_mandate(applied, self._limits, judged_at)
        self._standing = self._standing.after(judged_at, applied, mandated, self._limits.day)
        self._standing = self._standing.quarantined(judged_at, undone, self._limits.day)
        self._round = Approved.nothing()
        if self._watch_limits is None:
            return []
        self._watching, told = self._watching.after(applied, mandated, undoing, self._campaigns)
        for each in told:
            if each.event is Event.OPENED:
                self._history.keep(each.campaign, each.knob, each.action, tick)
        return told

    def _undone(
        self, rows: Actions, results: NDArray[Any], undoing: Mapping[tuple[int, Knob], int]
    ) -> list[tuple[Actions, bool]]:
        """The automatic actions that the last round's rollbacks took back, and whether a mandate had let them through.

        What a person did may be proposed again.
        """
        back = rows.take((results == Result.APPLIED) & (rows.source == Source.ROLLBACK) & (rows.index == 0))
        undone = []
        for campaign, knob in zip(back.campaign.tolist(), back.knob.tolist(), strict=True):
            action = undoing.get((campaign, Knob(knob)))
            done = None if action is None else self._history.rows_of(campaign, Knob(knob), action)
            if done is not None and done.source[0] > Source.ROLLBACK:
                undone.append((done, bool(in_mandate(done, self._limits, self._standing.last_seen)[0])))
        return undone

    def _watch(self, view: View) -> tuple[list[Told], list[Proposals]]:
        """Show the watches the view: what is told of their verdicts, and the rows that take changes back."""
        limits = self._watch_limits
        if limits is None:
            return [], []
        seen = self._watching.seen(view, slot_of(self._grid, view.tick), self._campaigns.market, limits)
        self._watching, told, inverses = seen.judged(view.controls, self._campaigns.cell_start, self._history, limits)
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
        """Have the guard judge everything at once: people's rows first, then the policies'.

        What would wait or pass outside mandates is tried in the twin, and judged again by what that tells.
        """
        of_people = [(request.rows, request.granted) for request in requests if request.rows is not None]
        batches = of_people + [(rows, False) for rows in asked]
        granted: Bool = np.repeat(
            np.array([granted for _, granted in batches], dtype=np.bool_),
            np.array([len(rows) for rows, _ in batches], dtype=np.int64),
        )
        proposed = Proposals.concatenate([rows for rows, _ in batches]) if batches else no_proposals()
        evidence = Evidence(self._spending, self._watched())
        judgement = self._check(view, proposed, granted, evidence)
        tried = self._tried(view, judgement, granted)
        return self._check(view, proposed, granted, replace(evidence, tried=tried)) if tried else judgement

    def _check(self, view: View, proposed: Proposals, granted: Bool, evidence: Evidence) -> Judgement:
        return check(
            self._campaigns,
            view.controls,
            proposed,
            self._limits,
            sequence=self._sequence,
            tick=view.tick,
            granted=granted,
            frozen=self._desk.stopped,
            standing=self._standing,
            evidence=evidence,
        )

    def _watched(self) -> Bool:
        """Knobs whose last change is still under watch; bool[n, 4]."""
        watched = np.zeros((len(self._campaigns), len(Knob)), dtype=np.bool_)
        for each in self._watching.watches:
            watched[each.campaign, each.knob] = True
        return watched

    def _tried(self, view: View, judgement: Judgement, granted: Bool) -> dict[tuple[int, Knob], int]:
        """By how much the twin's spend of a day differs with and without each change outside mandates, micros.

        Of more campaigns than may change without a person nothing is tried, nor where several want the same knob.
        """
        rows = judgement.proposals
        open_ = (judgement.outcome != Outcome.REFUSED) & (rows.source > Source.ROLLBACK) & ~granted
        open_ &= ~((rows.knob == Knob.PAUSED) & (rows.wanted == 1))
        begins, day = view.tick + 1, self._limits.day
        ends = min(begins + day, self._grid.ticks)
        outside = _as_actions(judgement, np.flatnonzero(open_))
        outside = outside.take(~in_mandate(outside, self._limits, view.tick))
        if self._trial is None or not len(outside) or np.unique(outside.campaign).size > MOST_CAMPAIGNS:
            return {}
        tried = {}
        for action in _by_knob(outside):
            campaign, knob = int(action.campaign[0]), Knob(int(action.knob[0]))
            if np.unique(action.index).size == len(action) and ends > begins:
                changed = after(self._campaigns.cell_start, view.controls, action)
                spends = (self._spend(campaign, begins, ends, each) for each in (changed, view.controls))
                tried[campaign, knob] = abs(next(spends) - next(spends)) * day // (ends - begins)
        return tried

    def _spend(self, campaign: int, begins: int, ends: int, controls: ControlState) -> int:
        assert self._trial is not None
        return self._trial.spend(campaign, begins, ends, controls)


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


def _as_actions(judgement: Judgement, places: Int64) -> Actions:
    """Judged rows as actions, for a trial alone: no id, and no permission."""
    rows = judgement.proposals
    return Actions(
        action=np.full(len(places), -1, dtype=np.int64),
        campaign=rows.campaign[places],
        knob=rows.knob[places],
        index=rows.index[places],
        old=judgement.old[places],
        new=rows.wanted[places],
        base_version=rows.base_version[places],
        source=rows.source[places],
        note=rows.note[places],
        notes=rows.notes,
    )


def _by_knob(rows: Actions) -> list[Actions]:
    """The rows of each (campaign, knob)."""
    keys = rows.campaign.astype(np.int64) * len(Knob) + rows.knob
    return [rows.take(keys == key) for key in np.unique(keys)]
