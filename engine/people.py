"""What people ask for while a run goes on: approvals, denials, rollbacks, edits, pauses and the freeze.

A `Desk` turns commands into rows for the guard and answers each. It remembers what waits for a person, which commands
were served, and what is frozen: the account, campaigns, single knobs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.actions import Knob, Proposals, Source, proposals
from engine.campaigns import ACCOUNT, ControlState
from engine.judgement import Judgement, Outcome, Reason
from engine.messages import Command, CommandKind, Role
from engine.policy import View
from engine.rollback import Blocked, History
from engine.units import Bool

ROLES = {
    CommandKind.DENY: Role.APPROVER,
    CommandKind.APPROVE: Role.APPROVER,
    CommandKind.UNFREEZE: Role.OPERATOR,
    CommandKind.FREEZE: Role.OPERATOR,
    CommandKind.CLOSE_BREAKER: Role.OPERATOR,
    CommandKind.ROLLBACK: Role.OPERATOR,
    CommandKind.EDIT: Role.OPERATOR,
    CommandKind.PAUSE: Role.OPERATOR,
    CommandKind.RESUME: Role.OPERATOR,
}
"""Which role a command takes."""

ABOUT_ACCOUNT = frozenset({CommandKind.FREEZE, CommandKind.UNFREEZE, CommandKind.CLOSE_BREAKER})
"""Commands that may be about the whole account."""

_ORDER = list(CommandKind)
_SWITCHES = {CommandKind.PAUSE: 1, CommandKind.RESUME: 0}


class Pending(NamedTuple):
    """Rows that wait for a person's approval, the tick at which they were judged and under which limits."""

    rows: Proposals
    tick: int
    limits_version: int


@dataclass(frozen=True)
class DeskState:
    """What a desk knows between two boundaries.

    `frozen` is about the account; `parts` are campaigns (all knobs: None) and single knobs frozen by themselves.
    """

    pending: Mapping[tuple[int, Knob], Pending]
    served: frozenset[str]
    frozen: bool
    undoing: Mapping[tuple[int, Knob], int]
    parts: frozenset[tuple[int, Knob | None]] = frozenset()

    @classmethod
    def initial(cls) -> DeskState:
        """Nothing asked yet."""
        return cls({}, frozenset(), frozen=False, undoing={})


@dataclass(frozen=True)
class Request:
    """A command as it is served: the rows it asks for, if any, and the answer so far."""

    command: Command
    answer: str
    rows: Proposals | None = None
    granted: bool = False
    undoes: int | None = None

    def told(self) -> dict[str, Any]:
        """The command and its answer as the ledger holds them."""
        return self.command.told() | {"answer": self.answer, "undoes": self.undoes}


class Desk:
    """Serves people's commands.

    Parameters
    ----------
    campaigns:
        Number of campaigns of the run.
    people:
        Who may command, and in which roles.
    approval_ticks:
        How long a proposal waits for a person before it expires.
    """

    def __init__(
        self, campaigns: int, people: Mapping[str, frozenset[Role]], approval_ticks: int, state: DeskState
    ) -> None:
        self._campaigns = campaigns
        self._people = people
        self._approval_ticks = approval_ticks
        self._pending = dict(state.pending)
        self._served = set(state.served)
        self._frozen = state.frozen
        self._undoing = dict(state.undoing)
        self._parts = state.parts
        self._breaker_open = False
        self._leased = True

    @property
    def state(self) -> DeskState:
        """What it knows now; nothing in it changes later."""
        served = frozenset(self._served)
        return DeskState(dict(self._pending), served, self._frozen, dict(self._undoing), self._parts)

    @property
    def frozen(self) -> bool:
        """Whether the account is frozen: nothing may begin but pauses and rollbacks."""
        return self._frozen

    @property
    def stopped(self) -> Bool:
        """Where nothing may begin but pauses and rollbacks, whatever froze it; bool[n, 5]."""
        stopped = np.full((self._campaigns, len(Knob)), self._frozen or not self._leased, dtype=np.bool_)
        for campaign, knob in self._parts:
            stopped[campaign, slice(None) if knob is None else knob] = True
        return stopped

    @property
    def undoing(self) -> Mapping[tuple[int, Knob], int]:
        """The action that the last round's rollback of a (campaign, knob) undoes."""
        return self._undoing

    def serve(
        self,
        view: View,
        commands: Sequence[Command],
        history: History,
        limits_version: int,
        *,
        leased: bool = True,
        breaker_open: bool = False,
    ) -> list[Request]:
        """Serve the commands of a boundary in the order of their kinds; one that was served before is left out.

        Where the optimiser is not leased, the account is as if frozen until the next boundary.
        """
        self._breaker_open = breaker_open
        self._undoing = {}
        self._leased = leased
        self._forget_expired(view.tick)
        requests = []
        for command in sorted(commands, key=lambda each: (_ORDER.index(each.kind), each.id)):
            if command.id not in self._served:
                self._served.add(command.id)
                requests.append(self._serve(view.controls, command, history, limits_version))
        return requests

    def _serve(self, controls: ControlState, command: Command, history: History, limits_version: int) -> Request:
        refusal = self._refusal(command)
        if refusal:
            return Request(command, refusal)
        match command.kind:
            case CommandKind.FREEZE | CommandKind.UNFREEZE:
                return self._freeze(command)
            case CommandKind.CLOSE_BREAKER:
                answer, self._breaker_open = "closed" if self._breaker_open else "not_open", False
            case CommandKind.DENY:
                found = self._pending.pop((command.campaign, command.knob), None)
                answer = "denied" if found else "nothing_pending"
            case CommandKind.APPROVE:
                return self._approve(command, limits_version)
            case CommandKind.ROLLBACK:
                return self._roll_back(controls, command, history)
            case _:
                return Request(command, "judged", _edited(controls, command))
        return Request(command, answer)

    def _freeze(self, command: Command) -> Request:
        """Freeze the account, a campaign or a knob, or lift that very freeze; those around and within it stay."""
        freezes = command.kind is CommandKind.FREEZE
        if command.campaign == ACCOUNT:
            self._frozen = freezes
        else:
            part = {(command.campaign, None if command.whole else command.knob)}
            self._parts = self._parts | part if freezes else self._parts - part
        return Request(command, "frozen" if freezes else "unfrozen")

    def _refusal(self, command: Command) -> str | None:
        """Why a command is not served, whoever it would please."""
        roles = self._people.get(command.by)
        if roles is None:
            return "unknown_person"
        if ROLES[command.kind] not in roles:
            return f"needs_role_{ROLES[command.kind].value}"
        if command.campaign == ACCOUNT:
            return None if command.kind in ABOUT_ACCOUNT else "unknown_campaign"
        return _misfit(command) if 0 <= command.campaign < self._campaigns else "unknown_campaign"

    def _approve(self, command: Command, limits_version: int) -> Request:
        """Grant what is pending: it is guarded again now, against the version and limits it was judged under."""
        pending = self._pending.get((command.campaign, command.knob))
        if pending is None:
            return Request(command, "nothing_pending")
        if command.by == pending.rows.notes[int(pending.rows.note[0])].proposer:
            return Request(command, "proposer_cannot_approve")
        if self.stopped[command.campaign, command.knob]:
            return Request(command, self._stopped_by())
        if self._breaker_open:
            return Request(command, "breaker_open")
        del self._pending[command.campaign, command.knob]
        if pending.limits_version != limits_version:
            return Request(command, "limits_changed")
        return Request(command, "judged", pending.rows, granted=True)

    def _stopped_by(self) -> str:
        """What stops a knob, in one word: the widest of what does."""
        if self._frozen:
            return "account_frozen"
        return "knob_frozen" if self._leased else "lease_lost"

    def _roll_back(self, controls: ControlState, command: Command, history: History) -> Request:
        if (command.campaign, command.knob) in self._undoing:  # the same twice would be one vector with too many rows
            return Request(command, "already_asked")
        action = command.action
        if action is None:
            action = history.latest(command.campaign, command.knob)
        if action is None:
            return Request(command, Blocked.UNKNOWN_ACTION.value)
        rows = history.inverse(command.campaign, command.knob, action, controls, command.by)
        if isinstance(rows, Blocked):
            return Request(command, rows.value)
        self._undoing[command.campaign, command.knob] = action
        return Request(command, "judged", rows, undoes=action)

    def _forget_expired(self, tick: int) -> None:
        self._pending = {
            key: pending for key, pending in self._pending.items() if tick - pending.tick <= self._approval_ticks
        }

    def take(self, tick: int, judgement: Judgement, limits_version: int) -> None:
        """Keep what needs a person; a newer proposal for the same knob supersedes the older one."""
        waiting = np.flatnonzero(judgement.outcome == Outcome.NEEDS_APPROVAL)
        if not waiting.size:
            return
        rows = judgement.proposals
        keys = rows.campaign[waiting].astype(np.int64) * len(Knob) + rows.knob[waiting]
        order = np.argsort(keys, kind="stable")
        names, first = np.unique(keys[order], return_index=True)
        for key, mine in zip(names, np.split(waiting[order], first[1:]), strict=True):
            last = mine[rows.note[mine] == rows.note[mine[-1]]]  # of several proposers in one round, the last
            name = int(key) // len(Knob), Knob(int(key) % len(Knob))
            self._pending[name] = Pending(rows.take(last), tick, limits_version)


def answered(requests: Sequence[Request], judgement: Judgement) -> list[Request]:
    """The requests of a round with the guard's answer, given that their rows are the first judged, in order.

    Of several audiences' modifiers the answer is that to the change: one that stays as it is tells nothing.
    """
    done, row = [], 0
    for request in requests:
        if request.rows is None:
            done.append(request)
            continue
        rows = slice(row, row + len(request.rows))
        outcome = Outcome(int(judgement.outcome[rows].min()))
        word = outcome.name.lower()
        answer = f"{word}: {_told(judgement.reason[rows]).name.lower()}" if outcome is Outcome.REFUSED else word
        done.append(replace(request, answer=answer))
        row = rows.stop
    return done


def _told(reasons: NDArray[Any]) -> Reason:
    """Why a change was refused: the reason against its first row that was not refused for another one's sake."""
    known = [Reason(int(reason)) for reason in reasons]
    return next((reason for reason in known if reason not in {Reason.NO_OP, Reason.BESIDE_REFUSED}), known[0])


def _misfit(command: Command) -> str | None:
    """Why an edit has not as many values as its knob takes; of weights, the guard knows how many there are."""
    if command.kind is not CommandKind.EDIT:
        return None
    if command.knob is Knob.WEIGHTS:
        return None if command.values else "needs_values"
    if command.knob is Knob.MODIFIERS:
        return None if command.values and len(command.values) == len(command.audiences) else "needs_audiences"
    return None if len(command.values) == 1 else "needs_one_value"


def _edited(controls: ControlState, command: Command) -> Proposals:
    values = (_SWITCHES[command.kind],) if command.kind in _SWITCHES else command.values
    knob = Knob.PAUSED if command.kind in _SWITCHES else command.knob
    return proposals(
        np.full(len(values), command.campaign),
        knob,
        list(values),
        controls.version[command.campaign, knob],
        Source.PERSON,
        command.kind.value,
        index=command.audiences if knob is Knob.MODIFIERS else np.arange(len(values)),
        proposer=command.by,
    )
