"""The central optimiser's machine: views and commands in, one ledger record and the approved rows out.

At every boundary it takes in what became of the last round, serves people's commands, asks the policies, has the guard
judge everything at once, and remembers what waits for a person. The record is committed before the rows are dispatched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from engine.actions import Actions, Approved, Knob, Proposals, Result, Source, no_proposals
from engine.alerts import AlertKind, Alerts, Fingerprint
from engine.campaigns import CampaignSet, ControlState, after
from engine.differing import Place, differing, restoring, values
from engine.guard import MOST_CAMPAIGNS, check, in_mandate
from engine.impact import Evidence, Spending
from engine.judgement import Judgement, Outcome, Reason
from engine.ledger import RecordKind, closing_body, opening_body, round_body
from engine.life import OF_RESULT, Stage, advance, steps_of
from engine.limits import Limits
from engine.messages import (
    Answer,
    Boundary,
    Close,
    CommandKind,
    Commit,
    Dispatch,
    Open,
    OptimiserInstruction,
    OptimiserMessage,
    Reloaded,
    Role,
)
from engine.people import Desk, DeskState, Request, answered
from engine.policy import Policy, Trial, View
from engine.rollback import History
from engine.shield import SUSPENDED_AFTER, Clipped, Shield, shielded
from engine.standing import Standing
from engine.units import Bool, Int64, TickGrid
from engine.verdicts import BEGINNINGS, Event, Told, WatchLimits
from engine.watch import Watching, slot_of

_LEASE_LOST = Fingerprint(AlertKind.LEASE_LOST)
_OF_LEASE = {
    False: "the watchdog did not renew the lease in time: nothing begins but pauses and rollbacks until it does",
    True: "the watchdog renewed the lease",
}


@dataclass(frozen=True)
class Assignment:
    """A policy, the campaigns it is responsible for (ascending positions), and in whose name it proposes.

    clip:
        Whether values that the guard refuses are taken to its offer, and the policy is suspended when it was out of
        range too often in a row (`engine.shield`); otherwise they stay refused.
    fallback:
        Who proposes from then on; None: nobody.
    """

    policy: Policy
    members: Int64
    source: Source
    name: str
    clip: bool = False
    fallback: Assignment | None = None

    def __post_init__(self) -> None:
        if self.fallback is not None and not self.clip:
            raise ValueError(f"fallback of {self.name} must be None: only a policy that is clipped is suspended")
        if self.source not in {Source.RULE, Source.SCRIPT, Source.POLICY}:
            raise ValueError(f"source (={self.source.name}) of a policy must be RULE, SCRIPT or POLICY: people command")


@dataclass(frozen=True)
class OptimiserState:
    """What an `OptimiserMachine` knows between two messages, but for the history, which the ledger tells.

    `limits` are those in force; `reloaded` is the last thing that the limits file newly said, None before it did.
    `recorded` are the controls that must be in force, as far as results came back; None before the first message.
    """

    memories: tuple[Any, ...]
    sequence: int
    round: Approved
    desk: DeskState
    standing: Standing
    watching: Watching
    alerts: Alerts
    spending: Spending
    shield: Shield
    limits: Limits
    reloaded: Reloaded | None
    recorded: ControlState | None


class OptimiserMachine:
    """Decides for all campaigns of a run.

    Parameters
    ----------
    limits:
        Those in force from the beginning, until a limits file gives others.
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
        self._assignments = assignments
        self._history = history
        self._trial = trial
        if state is None:
            memories = tuple(each.policy.start(campaigns.select(each.members), grid) for each in assignments)
            n = len(campaigns)
            beginnings = (
                DeskState.initial(),
                Standing.initial(n),
                Watching.initial(n, len(campaigns.creatives), int(campaigns.layout.audience_start[-1])),
                Alerts.none(),
            )
            rest = Spending.initial(n), Shield.initial(len(assignments)), limits, None
            state = OptimiserState(memories, 0, Approved.nothing(), *beginnings, *rest, recorded=None)
        self._memories = list(state.memories)
        self._sequence = state.sequence
        self._round = state.round
        self._standing = state.standing
        self._watching = state.watching
        self._alerts = state.alerts
        self._spending = state.spending
        self._shield = state.shield
        self._limits = state.limits
        self._reloaded = state.reloaded
        self._approval_ticks = approval_ticks
        self._recorded = state.recorded
        self._alarms: list[dict[str, Any]] = []  # what this round's record tells of alerts
        self._watch_limits = WatchLimits.of(limits.day, limits.delay_horizon) if limits.day else None
        self._desk = Desk(len(campaigns), people, approval_ticks, state.desk)

    @property
    def state(self) -> OptimiserState:
        """What it knows now; nothing in it changes later."""
        memories = tuple(self._memories)
        decided = self._desk.state, self._standing, self._watching, self._alerts
        known = self._spending, self._shield, self._limits, self._reloaded
        return OptimiserState(memories, self._sequence, self._round, *decided, *known, recorded=self._recorded)

    @property
    def sequence(self) -> int:
        """Ledger sequence of the next record."""
        return self._sequence

    @property
    def reloaded(self) -> Reloaded | None:
        """The last thing that the limits file newly said."""
        return self._reloaded

    def handle(self, message: OptimiserMessage) -> list[OptimiserInstruction]:
        """Take one message; its instructions are to be carried out in order."""
        match message:
            case Open(view, header):
                self._recorded = view.controls
                body = opening_body(
                    {**header, "approval_ticks": self._approval_ticks}, self._campaigns.layout, view.controls
                )
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
        view, results, reloaded, leased = boundary.view, boundary.results, boundary.reloaded, boundary.leased
        self._alarms = []
        self._alarm(view.tick, _LEASE_LOST, _OF_LEASE[leased], holds=not leased)
        watched = self._take_results(view.tick, results)  # of a round that was judged under the limits so far
        if reloaded is not None:
            self._reload(view.tick, reloaded)
        self._standing = self._standing.seen(view.tick, view.controls, self._limits.day)
        self._spending = self._spending.seen(view.tick, view.lifetime, self._limits.day)
        requests = self._serve(boundary)
        verdicts, inverses = self._watch(view)
        restored = self._restore(view)
        asked = self._ask(view)
        judgement, clipped = self._judge(view, requests, restored + inverses, asked)
        self._desk.take(view.tick, judgement, self._limits.version)
        self._tell_blocked(view.tick, judgement)
        told = [request.told() for request in answered(requests, judgement)]
        header = {
            "limits_version": self._limits.version,
            "frozen": self._desk.frozen,
            "leased": leased,
            "commands": told,
            "watches": [each.told() for each in watched + verdicts],
            "alerts": self._alarms,
            "breaker": self._standing.breaker_since is not None,
            "impacts": [each.told() for each in judgement.impacts],
            "limits": None if reloaded is None else reloaded.told(),
        }
        commit = self._commit(RecordKind.ROUND, view.tick, round_body(header, judgement, results, clipped))
        self._round = judgement.approved
        answers = [Answer(view.tick, tuple(told))] if told else []
        return [commit, Dispatch(judgement.approved), *answers]

    def _serve(self, boundary: Boundary) -> list[Request]:
        """Serve people, and tell of the breaker that rollbacks opened or a person closed."""
        view = boundary.view
        about, opened = Fingerprint(AlertKind.BREAKER_OPEN), self._standing.breaker_since is not None
        if opened:
            self._alarm(view.tick, about, "three rollbacks within a day: nothing automatic is applied", holds=True)
        known = self._history, self._limits.version
        requests = self._desk.serve(view, boundary.commands, *known, leased=boundary.leased, breaker_open=opened)
        for request in requests:
            kind, answer, by = request.command.kind, request.answer, request.command.by
            if kind is CommandKind.CLOSE_BREAKER and answer == "closed":
                self._standing = self._standing.closed()
                self._alarm(view.tick, about, f"closed by {by}", holds=False)
        return requests

    def _tell_blocked(self, tick: int, judgement: Judgement) -> None:
        """Open an alert for every rollback that the guard refuses: the value is not the recorded one.

        One that came second in its round comes again in the next.
        """
        rows = judgement.proposals
        refused = (judgement.outcome == Outcome.REFUSED) & (judgement.reason != Reason.SECOND_CHANGE)
        for place in np.flatnonzero((rows.source == Source.ROLLBACK) & refused):
            about = Fingerprint(AlertKind.ROLLBACK_BLOCKED, int(rows.campaign[place]), Knob(int(rows.knob[place])))
            self._alarm(tick, about, Reason(judgement.reason[place]).name.lower(), holds=True)

    def _settle_blocked(self, tick: int, applied: Actions) -> None:
        """Close the alert of a blocked rollback once a person, or a rollback after all, has set the knob."""
        rows = applied.take(applied.source <= Source.ROLLBACK)
        for campaign, knob in zip(rows.campaign.tolist(), rows.knob.tolist(), strict=True):
            about = Fingerprint(AlertKind.ROLLBACK_BLOCKED, campaign, Knob(knob))
            self._alarm(tick, about, "the knob was set", holds=False)

    def _reload(self, tick: int, reloaded: Reloaded) -> None:
        """Put new limits in force, which voids what waits under older ones; where there are none, keep the last."""
        self._reloaded = reloaded
        if reloaded.limits is not None:
            self._limits = replace(reloaded.limits, version=self._limits.version + 1)
        bad = reloaded.limits is None
        self._alarm(tick, Fingerprint(AlertKind.LIMITS_UNREADABLE), reloaded.why or "read again", holds=bad)

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
        advance(Stage.APPLYING, steps_of(results, OF_RESULT, rows.spelt), rows.spelt)
        undoing = {**self._watching.undoing, **self._desk.undoing}
        undone = self._undone(rows, results, undoing)
        self._history.take(tick, rows, results, undoing)
        applied = rows.take(results == Result.APPLIED)
        self._settle_blocked(tick, applied)
        if self._recorded is not None:
            self._recorded = after(self._campaigns.layout, self._recorded, applied)
        judged_at = self._standing.last_seen  # mandates, holds and cooldowns go by the round's own boundary
        mandated = in_mandate(applied, self._limits, judged_at)
        self._standing = self._standing.after(judged_at, applied, mandated, self._limits.day)
        self._standing = self._standing.quarantined(judged_at, undone, self._limits.day)
        self._round = Approved.nothing()
        if self._watch_limits is None:
            return []
        self._watching, told = self._watching.after(applied, mandated, undoing, self._campaigns)
        self._history.keep([(each.campaign, each.knob) for each in told if each.event in BEGINNINGS], tick)
        self._history.mark_single([each.action for each in told if each.event is Event.OPENED], tick)
        return told

    def _undone(
        self, rows: Actions, results: NDArray[Any], undoing: Mapping[tuple[int, Knob], int]
    ) -> list[tuple[Actions, bool]]:
        """The automatic actions that the last round's rollbacks took back, and whether a mandate had let them through.

        What a person did may be proposed again.
        """
        back = rows.take((results == Result.APPLIED) & (rows.source == Source.ROLLBACK))
        undone = []
        for campaign, knob in dict.fromkeys(zip(back.campaign.tolist(), back.knob.tolist(), strict=True)):
            action = undoing.get((campaign, Knob(knob)))
            done = None if action is None else self._history.rows_of(campaign, Knob(knob), action)
            if action is not None and done is not None and done.source[0] > Source.ROLLBACK:
                undone.append((done, not self._history.is_single(action)))
        return undone

    def _watch(self, view: View) -> tuple[list[Told], list[Proposals]]:
        """Show the watches the view: what is told of their verdicts, and the rows that take changes back."""
        limits = self._watch_limits
        if limits is None:
            return [], []
        seen = self._watching.seen(view, slot_of(self._grid, view.tick), self._campaigns, limits)
        self._watching, told, inverses = seen.judged(view.controls, self._campaigns.layout, self._history, limits)
        for each in told:
            if each.event is Event.BLOCKED:
                about = Fingerprint(AlertKind.ROLLBACK_BLOCKED, each.campaign, each.knob)
                self._alarm(view.tick, about, each.why, holds=True)
        return told, [self._not_asked_for(rows) for rows in inverses]

    def _not_asked_for(self, inverse: Proposals) -> Proposals:
        """Rows that take back or restore, but for what a person takes back now: a vector judged twice is no vector."""
        keys = zip(inverse.campaign.tolist(), inverse.knob.tolist(), strict=True)
        return inverse.take(np.array([(campaign, Knob(knob)) not in self._desk.undoing for campaign, knob in keys]))

    def _restore(self, view: View) -> list[Proposals]:
        """Hold the view against the record: alerts where it differs, and the rows that restore what it says."""
        recorded = view.controls if self._recorded is None else self._recorded
        places = differing(self._campaigns, recorded, view.controls)
        known = [about for about in self._alerts.since if about.kind is AlertKind.STATE_DIFFERS]
        for about in known:
            if (about.campaign, about.knob) not in places:
                self._alarm(view.tick, about, "", holds=False)
        rows = [self._differs(view, recorded, place) for place in places]
        return [self._not_asked_for(each) for each in rows if each is not None]

    def _differs(self, view: View, recorded: ControlState, place: Place) -> Proposals | None:
        """Raise the alarm, and restore the value unless a rollback of it is asked for anyway."""
        was, found = (values(self._campaigns, each, place).tolist() for each in (recorded, view.controls))
        self._alarm(view.tick, Fingerprint(AlertKind.STATE_DIFFERS, *place), f"{found} is not {was}", holds=True)
        if place in self._watching.undoing:
            return None
        return restoring(self._campaigns, recorded, view.controls, place)

    def _ask(self, view: View) -> list[tuple[int, Proposals]]:
        """Every policy's place and proposals, which name campaigns by their position in the run, and their source."""
        asked = []
        for place, own in enumerate(self._assignments):
            each = own.fallback if self._shield.suspended[place] else own
            if each is None:
                continue
            seen = view.select(self._campaigns, each.members)
            rows, self._memories[place] = each.policy.propose(seen, self._memories[place])
            if len(rows):
                asked.append((place, _in_the_name_of(each, rows)))
        return asked

    def _judge(
        self, view: View, requests: list[Request], inverses: list[Proposals], asked: list[tuple[int, Proposals]]
    ) -> tuple[Judgement, Clipped]:
        """Have the guard judge everything at once, people's rows first, then the policies', and clip whom it may."""
        batches = [(request.rows, request.granted, False) for request in requests if request.rows is not None]
        batches += [(rows, False, False) for rows in inverses]
        batches += [(rows, False, self._is_clipped(place)) for place, rows in asked]
        sizes = np.array([len(rows) for rows, _, _ in batches], dtype=np.int64)
        granted, clips = (
            np.repeat(np.array([batch[column] for batch in batches], dtype=np.bool_), sizes) for column in (1, 2)
        )
        proposed = Proposals.concatenate([rows for rows, _, _ in batches]) if batches else no_proposals()
        done = shielded(partial(self._judge_as_asked, view, granted), proposed, clips)
        self._count_out_of_range(view, asked, done.reasons)
        return done.judgement, done.clipped

    def _judge_as_asked(self, view: View, granted: Bool, proposed: Proposals) -> Judgement:
        """The guard's answer; what would wait or pass outside mandates is tried in the twin, and judged again by it.

        Where this lets something pass that stood behind what now waits, that is tried too.
        """
        evidence = Evidence(self._spending, self._watched())
        judgement = self._check(view, proposed, granted, evidence)
        while tried := self._tried(view, judgement, granted, evidence.tried):
            evidence = replace(evidence, tried={**evidence.tried, **tried})
            judgement = self._check(view, proposed, granted, evidence)
        return judgement

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

    def _is_clipped(self, place: int) -> bool:
        return self._assignments[place].clip and not self._shield.suspended[place]

    def _count_out_of_range(self, view: View, asked: list[tuple[int, Proposals]], reasons: NDArray[np.uint8]) -> None:
        """Suspend whoever was out of range too often in a row; `asked` are the last rows of those judged, in order."""
        row = len(reasons) - sum(len(rows) for _, rows in asked)
        for place, rows in asked:
            mine = reasons[row : row + len(rows)]
            row += len(rows)
            if self._is_clipped(place):
                self._shield = self._shield.after(place, rows, mine)
                if self._shield.suspended[place]:
                    self._suspend(view, place)

    def _suspend(self, view: View, place: int) -> None:
        """Alarm, and let the fallback begin: it sees this boundary, so that the next shows it a span of its own."""
        own = self._assignments[place]
        about = Fingerprint(AlertKind.POLICY_SUSPENDED, label=own.name)
        self._alarm(view.tick, about, f"out_of_range_{SUSPENDED_AFTER}_times_in_a_row", holds=True)
        self._memories[place] = None
        if own.fallback is not None:
            policy, members = own.fallback.policy, own.fallback.members
            memory = policy.start(self._campaigns.select(members), self._grid)
            _, self._memories[place] = policy.propose(view.select(self._campaigns, members), memory)

    def _watched(self) -> Bool:
        """Knobs whose last change is still under watch; bool[n, 5]."""
        watched = np.zeros((len(self._campaigns), len(Knob)), dtype=np.bool_)
        for each in self._watching.watches:
            watched[each.campaign, each.knob] = True
        return watched

    def _tried(
        self, view: View, judgement: Judgement, granted: Bool, known: Mapping[tuple[int, Knob], int]
    ) -> dict[tuple[int, Knob], int]:
        """By how much the twin's spend of a day differs with and without each change outside mandates, micros.

        Of more campaigns than may change without a person nothing is tried, nor where several want the same knob, nor
        what is known already.
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
        for action in outside.by_knob():
            campaign, knob = int(action.campaign[0]), Knob(int(action.knob[0]))
            if (campaign, knob) not in known and np.unique(action.index).size == len(action) and ends > begins:
                changed = after(self._campaigns.layout, view.controls, action)
                spends = (self._spend(campaign, begins, ends, each) for each in (changed, view.controls))
                tried[campaign, knob] = (next(spends) - next(spends)) * day // (ends - begins)
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
