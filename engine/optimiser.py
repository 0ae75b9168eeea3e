"""The central optimiser's machine: views and commands in, one ledger record and the approved rows out.

At every boundary it takes in what became of the last round, serves people's commands, asks the policies, has the guard
judge everything at once, and remembers what waits for a person. The record is committed before the rows are dispatched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, assert_never

import numpy as np
from numpy.typing import NDArray

from engine.actions import Approved, Knob, Proposals, Source, no_proposals, proposals
from engine.campaigns import CampaignSet, ControlState
from engine.guard import Judgement, Limits, Outcome, check
from engine.ledger import RecordKind, closing_body, opening_body, round_body
from engine.messages import (
    Boundary,
    Close,
    Command,
    CommandKind,
    Commit,
    Dispatch,
    Open,
    OptimiserInstruction,
    OptimiserMessage,
)
from engine.policy import Policy, View
from engine.rollback import Blocked, History
from engine.units import Bool, Int64, TickGrid

_ORDER = list(CommandKind)
_SWITCHES = {CommandKind.PAUSE: 1, CommandKind.RESUME: 0}


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


class _Pending(NamedTuple):
    """Rows that wait for a person's approval, the tick at which they were judged and under which limits."""

    rows: Proposals
    tick: int
    limits_version: int


class _Batch(NamedTuple):
    """Proposals of one origin, and whether a person has granted them."""

    rows: Proposals
    granted: bool


@dataclass(frozen=True)
class OptimiserState:
    """What an `OptimiserMachine` knows between two messages, but for the history, which the ledger tells."""

    memories: tuple[Any, ...]
    sequence: int
    pending: Mapping[tuple[int, Knob], _Pending]
    served: frozenset[str]
    round: Approved
    undoing: Mapping[tuple[int, Knob], int]


class OptimiserMachine:
    """Decides for all campaigns of a run.

    Parameters
    ----------
    assignments:
        The policies, asked in this order at every boundary.
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
        approval_ticks: int,
        history: History,
        state: OptimiserState | None = None,
    ) -> None:
        self._campaigns = campaigns
        self._limits = limits
        self._assignments = assignments
        self._approval_ticks = approval_ticks
        self._history = history
        if state is None:
            memories = tuple(each.policy.start(campaigns.select(each.members), grid) for each in assignments)
            state = OptimiserState(memories, 0, {}, frozenset(), Approved.nothing(), {})
        self._memories = list(state.memories)
        self._sequence = state.sequence
        self._pending = dict(state.pending)
        self._served = set(state.served)
        self._round = state.round
        self._undoing = dict(state.undoing)

    @property
    def state(self) -> OptimiserState:
        """What it knows now; nothing in it changes later."""
        return OptimiserState(
            memories=tuple(self._memories),
            sequence=self._sequence,
            pending=dict(self._pending),
            served=frozenset(self._served),
            round=self._round,
            undoing=dict(self._undoing),
        )

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
        self._take_results(view.tick, results)
        batches, answers = self._serve(view, commands)
        batches += [_Batch(rows, granted=False) for rows in self._ask(view)]
        judgement = self._judge(view, batches)
        self._await_approval(view.tick, judgement)
        header = {"limits_version": self._limits.version, "commands": answers}
        commit = self._commit(RecordKind.ROUND, view.tick, round_body(header, judgement, results))
        self._round = judgement.approved
        return [commit, Dispatch(judgement.approved)]

    def _take_results(self, tick: int, results: NDArray[Any]) -> None:
        """Learn what became of the last round, row by row."""
        rows = self._round.rows
        if len(results) != len(rows):
            raise ValueError(f"{len(results)} results arrived for the {len(rows)} rows of round {rows.round}")
        self._history.take(tick, rows, results, self._undoing)
        self._round = Approved.nothing()
        self._undoing = {}

    # --- people ---

    def _serve(self, view: View, commands: tuple[Command, ...]) -> tuple[list[_Batch], list[dict[str, Any]]]:
        """Turn commands into rows, and answer each; a command that was served before is not served again."""
        self._forget_expired(view.tick)
        batches: list[_Batch] = []
        answers: list[dict[str, Any]] = []
        for command in sorted(commands, key=lambda each: (_ORDER.index(each.kind), each.id)):
            if command.id in self._served:
                continue
            self._served.add(command.id)
            answer = self._serve_one(view, command)
            if isinstance(answer, _Batch):
                batches.append(answer)
                answer = "judged"
            key = command.campaign, command.knob
            undoes = self._undoing.get(key) if command.kind is CommandKind.ROLLBACK else None
            answers.append(command.told() | {"answer": answer, "undoes": undoes})
        return batches, answers

    def _serve_one(self, view: View, command: Command) -> _Batch | str:
        if not 0 <= command.campaign < len(self._campaigns):
            return "unknown_campaign"
        match command.kind:
            case CommandKind.DENY:
                return "denied" if self._pending.pop((command.campaign, command.knob), None) else "nothing_pending"
            case CommandKind.APPROVE:
                return self._approve(command)
            case CommandKind.ROLLBACK:
                return self._roll_back(view.controls, command)
            case CommandKind.EDIT | CommandKind.PAUSE | CommandKind.RESUME:
                return _Batch(_edit(view.controls, command), granted=False)
            case _:
                assert_never(command.kind)

    def _approve(self, command: Command) -> _Batch | str:
        """Grant what is pending: it is guarded again now, against the version and limits that it was judged under."""
        pending = self._pending.get((command.campaign, command.knob))
        if pending is None:
            return "nothing_pending"
        if command.by == pending.rows.notes[int(pending.rows.note[0])].proposer:
            return "proposer_cannot_approve"
        del self._pending[command.campaign, command.knob]
        if pending.limits_version != self._limits.version:
            return "limits_changed"
        return _Batch(pending.rows, granted=True)

    def _roll_back(self, controls: ControlState, command: Command) -> _Batch | str:
        action = command.action
        if action is None:
            action = self._history.latest(command.campaign, command.knob)
        if action is None:
            return Blocked.UNKNOWN_ACTION.value
        rows = self._history.inverse(command.campaign, command.knob, action, controls, command.by)
        if isinstance(rows, Blocked):
            return rows.value
        self._undoing[command.campaign, command.knob] = action
        return _Batch(rows, granted=False)

    def _forget_expired(self, tick: int) -> None:
        self._pending = {
            key: pending for key, pending in self._pending.items() if tick - pending.tick <= self._approval_ticks
        }

    # --- policies and guard ---

    def _ask(self, view: View) -> list[Proposals]:
        """Every policy's proposals, naming campaigns by their position in the run and their knobs' source."""
        asked = []
        for place, each in enumerate(self._assignments):
            seen = view.select(self._campaigns, each.members)
            rows, self._memories[place] = each.policy.propose(seen, self._memories[place])
            if len(rows):
                asked.append(_in_the_name_of(each, rows))
        return asked

    def _judge(self, view: View, batches: list[_Batch]) -> Judgement:
        rows = Proposals.concatenate([batch.rows for batch in batches]) if batches else no_proposals()
        granted: Bool = np.repeat(
            np.array([batch.granted for batch in batches], dtype=np.bool_),
            np.array([len(batch.rows) for batch in batches], dtype=np.int64),
        )
        return check(
            self._campaigns,
            view.controls,
            rows,
            self._limits,
            sequence=self._sequence,
            tick=view.tick,
            granted=granted,
        )

    def _await_approval(self, tick: int, judgement: Judgement) -> None:
        """Keep what needs a person; a newer proposal for the same knob supersedes the older one."""
        waiting = np.flatnonzero(judgement.outcome == Outcome.NEEDS_APPROVAL)
        if not waiting.size:
            return
        rows = judgement.proposals
        keys = rows.campaign[waiting].astype(np.int64) * len(Knob) + rows.knob[waiting]
        for key in np.unique(keys):
            mine = waiting[keys == key]
            last = mine[rows.note[mine] == rows.note[mine[-1]]]  # of several proposers in one round, the last
            name = int(key) // len(Knob), Knob(int(key) % len(Knob))
            self._pending[name] = _Pending(rows.take(last), tick, self._limits.version)


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


def _edit(controls: ControlState, command: Command) -> Proposals:
    values = command.values or (_SWITCHES[command.kind],)
    knob = Knob.PAUSED if command.kind in _SWITCHES else command.knob
    return proposals(
        np.full(len(values), command.campaign),
        knob,
        list(values),
        controls.version[command.campaign, knob],
        Source.PERSON,
        command.kind.value,
        index=np.arange(len(values)),
        proposer=command.by,
    )
