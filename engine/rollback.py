"""Taking an applied action back: the history of what was applied, and the inverse of an action.

A rollback restores the recorded value, once per action, last in first out, a vector as a whole, and never over a later
change by a person. A person's command asks for one (`engine.people`), or a watch (`engine.watch`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import chain, takewhile
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from engine.actions import Actions, Knob, Proposals, Result, Source, proposals
from engine.campaigns import ControlState
from engine.ledger import Record, RecordKind, decode_round
from engine.units import Int64


class Blocked(Enum):
    """Why an action is not rolled back."""

    UNKNOWN_ACTION = "unknown_action"
    ALREADY_ROLLED_BACK = "already_rolled_back"
    IS_A_ROLLBACK = "is_a_rollback"
    LATER_CHANGE = "later_change"
    LATER_EDIT = "later_edit"


@dataclass(frozen=True)
class _Step:
    """Rows of one applied action (one row, or a whole vector)."""

    first: int
    rows: Actions


class History:
    """What was applied in the last rounds, newest last; only these can be rolled back.

    Parameters
    ----------
    ticks:
        How far back, in ticks, an action stays in reach; a person changes older ones by an edit.
    policy_ticks:
        The same for a policy's actions, of which there are many and which later ones soon stand upon; None: as for all.
    """

    def __init__(self, ticks: int, policy_ticks: int | None = None) -> None:
        self._ticks = ticks
        self._policy_ticks = ticks if policy_ticks is None else policy_ticks
        self._recent: deque[tuple[int, Actions]] = deque()  # rounds with all their rows
        self._older: deque[tuple[int, Actions]] = deque()  # rounds without those of policies
        self._watched: deque[tuple[int, Int64]] = deque()  # rows of policies' actions that stay as long as others'
        self._undone: dict[int, int] = {}  # first row's id of an action -> the tick at which it was rolled back
        self._single: dict[int, int] = {}  # likewise, of changes outside mandates -> the tick of their results

    def record(self, tick: int, applied: Actions) -> None:
        """Add the rows that a round applied, and forget what is out of reach."""
        if len(applied):
            self._recent.append((tick, applied))
        while self._recent and self._recent[0][0] < tick - self._policy_ticks:
            at, rows = self._recent.popleft()
            watched = (
                np.isin(rows.action, np.concatenate([ids for _, ids in self._watched])) if self._watched else False
            )
            rows = rows.take((rows.source != Source.POLICY) | watched)
            if len(rows):
                self._older.append((at, rows))
        while self._older and self._older[0][0] < tick - self._ticks:
            self._older.popleft()
        while self._watched and self._watched[0][0] < tick - self._ticks:
            self._watched.popleft()
        self._undone = {action: at for action, at in self._undone.items() if at >= tick - self._ticks}
        self._single = {action: at for action, at in self._single.items() if at >= tick - self._ticks}

    def keep(self, places: Sequence[tuple[int, Knob]], tick: int) -> None:
        """Keep the newest round's actions on some knobs in reach as long as others', though a policy's: watched."""
        if places and self._recent:
            _, rows = self._recent[-1]
            keys = [campaign * len(Knob) + knob for campaign, knob in places]
            mine = np.isin(rows.campaign.astype(np.int64) * len(Knob) + rows.knob, keys)
            self._watched.append((tick, rows.action[mine]))

    def mark_single(self, actions: Iterable[int], tick: int) -> None:
        """Remember changes outside mandates: each was watched by itself, and is no step of a policy's course."""
        self._single.update(dict.fromkeys(actions, tick))

    def is_single(self, action: int) -> bool:
        """Whether an action was a change outside a mandate when it was made."""
        return action in self._single

    @classmethod
    def told_by(cls, records: Iterable[Record], ticks: int, policy_ticks: int | None = None) -> Self:
        """The history that a ledger's records tell, from its opening on."""
        history = cls(ticks, policy_ticks)
        intents: Actions | None = None
        undoing: dict[tuple[int, Knob], int] = {}
        for record in records:
            if record.kind is RecordKind.OPENING:
                continue
            told = decode_round(record)
            if intents is not None:
                history.take(record.tick, intents, told.results, undoing)
            if record.kind is RecordKind.ROUND:
                intents = told.intents(record.sequence)
                watches, commands = told.header["watches"], told.header["commands"]
                begun = [
                    (each["campaign"], Knob(each["knob"])) for each in watches if each["event"] in {"opened", "begun"}
                ]
                history.keep(begun, record.tick)
                history.mark_single([each["action"] for each in watches if each["event"] == "opened"], record.tick)
                undone = [(watch, watch["action"]) for watch in watches if watch["event"] == "rolls_back"]
                undone += [(command, command["undoes"]) for command in commands if command["undoes"] is not None]
                undoing = {(asked["campaign"], Knob(asked["knob"])): action for asked, action in undone}
        return history

    def take(self, tick: int, rows: Actions, results: NDArray[Any], undoing: Mapping[tuple[int, Knob], int]) -> None:
        """Take in what became of a round; `undoing` names the action that a rollback of a (campaign, knob) undoes."""
        applied = rows.take(results == Result.APPLIED)
        self.record(tick, applied)
        for position in np.flatnonzero(applied.source == Source.ROLLBACK):
            undone = undoing.get((int(applied.campaign[position]), Knob(applied.knob[position])))
            if undone is not None:
                self._take_back(int(applied.campaign[position]), Knob(applied.knob[position]), undone, tick)

    def _take_back(self, campaign: int, knob: Knob, action: int, tick: int) -> None:
        """Remember that an action was rolled back, and with it what stood upon it: the later steps of an episode."""
        above = list(takewhile(lambda step: step.first > action, self._standing(campaign, knob)))
        for step in above:
            self.mark_undone(step.first, tick)
        self.mark_undone(action, tick)

    def rows_of(self, campaign: int, knob: Knob, action: int) -> Actions | None:
        """The rows of an applied action, as long as it is in reach."""
        return next((step.rows for step in self._steps(campaign, knob) if step.first == action), None)

    def mark_undone(self, action: int, tick: int) -> None:
        """Remember that an action was rolled back, so that it is not done twice."""
        self._undone[action] = tick

    def blocked(self, campaign: int, knob: Knob, action: int) -> Blocked | None:
        """Why a knob does not go back to what an episode's first action on it replaced; its own steps are no reason."""
        if action in self._undone:
            return Blocked.ALREADY_ROLLED_BACK
        above = list(takewhile(lambda step: step.first > action, self._standing(campaign, knob)))
        if any(step.rows.source[0] == Source.PERSON for step in above):
            return Blocked.LATER_EDIT
        return Blocked.LATER_CHANGE if any(self.is_single(step.first) for step in above) else None

    def latest(self, campaign: int, knob: Knob) -> int | None:
        """Id of the newest action on a knob that is neither a rollback nor rolled back."""
        standing = self._standing(campaign, knob)
        return next((step.first for step in standing), None)

    def inverse(self, campaign: int, knob: Knob, action: int, state: ControlState, by: str) -> Proposals | Blocked:
        """The rows that restore what an action replaced, or why that is not to be done."""
        if action in self._undone:
            return Blocked.ALREADY_ROLLED_BACK
        for step in self._steps(campaign, knob):
            if step.first == action:
                break
        else:
            return Blocked.UNKNOWN_ACTION
        if step.rows.source[0] == Source.ROLLBACK:
            return Blocked.IS_A_ROLLBACK
        later = list(takewhile(lambda newer: newer.first != action, self._standing(campaign, knob)))
        if any(newer.rows.source[0] == Source.PERSON for newer in later):
            return Blocked.LATER_EDIT
        forgotten = self._forgot_since(step, campaign, knob, state)
        return Blocked.LATER_CHANGE if later or forgotten else _restoring(step.rows, state, by)

    def _forgot_since(self, step: _Step, campaign: int, knob: Knob, state: ControlState) -> bool:
        """Whether a later change of the knob, a policy's, is out of reach already: each was a version of the knob."""
        known = sum(1 for _ in takewhile(lambda newer: newer.first != step.first, self._steps(campaign, knob)))
        return bool(state.version[campaign, knob] != step.rows.base_version[0] + 1 + known)

    def _standing(self, campaign: int, knob: Knob) -> Iterator[_Step]:
        for step in self._steps(campaign, knob):
            if step.rows.source[0] != Source.ROLLBACK and step.first not in self._undone:
                yield step

    def _steps(self, campaign: int, knob: Knob) -> Iterator[_Step]:
        for _, rows in chain(reversed(self._recent), reversed(self._older)):
            mine = np.flatnonzero((rows.campaign == campaign) & (rows.knob == knob))
            if mine.size:
                yield _Step(int(rows.action[mine[0]]), rows.take(mine))


def _restoring(rows: Actions, state: ControlState, by: str) -> Proposals:
    campaign, knob = int(rows.campaign[0]), int(rows.knob[0])
    version: Int64 = state.version[campaign, knob]
    note = f"rolls back action {int(rows.action[0])}"
    return proposals(rows.campaign, knob, rows.old, version, Source.ROLLBACK, note, index=rows.index, proposer=by)
