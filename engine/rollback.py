"""Taking an applied action back: the history of what was applied, and the inverse of an action.

A rollback restores the recorded value, once per action, last in first out, a vector as a whole, and never over a later
change by a person. The watch that asks for one by itself comes with the safety-guard issue; a person's command is
served here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import takewhile

import numpy as np

from engine.actions import Actions, Knob, Proposals, Source, proposals
from engine.campaigns import ControlState
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
    """

    def __init__(self, ticks: int) -> None:
        self._ticks = ticks
        self._rounds: deque[tuple[int, Actions]] = deque()
        self._undone: dict[int, int] = {}  # first row's id of an action -> the tick at which it was rolled back

    def record(self, tick: int, applied: Actions) -> None:
        """Add the rows that a round applied, and forget what is out of reach."""
        if len(applied):
            self._rounds.append((tick, applied))
        while self._rounds and self._rounds[0][0] < tick - self._ticks:
            self._rounds.popleft()
        self._undone = {action: at for action, at in self._undone.items() if at >= tick - self._ticks}

    def mark_undone(self, action: int, tick: int) -> None:
        """Remember that an action was rolled back, so that it is not done twice."""
        self._undone[action] = tick

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
        return Blocked.LATER_CHANGE if later else _restoring(step.rows, state, by)

    def _standing(self, campaign: int, knob: Knob) -> Iterator[_Step]:
        for step in self._steps(campaign, knob):
            if step.rows.source[0] != Source.ROLLBACK and step.first not in self._undone:
                yield step

    def _steps(self, campaign: int, knob: Knob) -> Iterator[_Step]:
        for _, rows in reversed(self._rounds):
            mine = np.flatnonzero((rows.campaign == campaign) & (rows.knob == knob))
            if mine.size:
                yield _Step(int(rows.action[mine[0]]), rows.take(mine))


def _restoring(rows: Actions, state: ControlState, by: str) -> Proposals:
    campaign, knob = int(rows.campaign[0]), int(rows.knob[0])
    version: Int64 = state.version[campaign, knob]
    note = f"rolls back action {int(rows.action[0])}"
    return proposals(rows.campaign, knob, rows.old, version, Source.ROLLBACK, note, index=rows.index, proposer=by)
