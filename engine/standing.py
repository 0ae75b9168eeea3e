"""What the guard has to remember: who moved which knob when, and what the scalars and the account's budgets were.

All times are ticks. A `Standing` is replaced, never changed in place; it is part of what a checkpoint keeps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from engine.actions import Actions, Knob, Source
from engine.campaigns import ControlState
from engine.units import Bool, Int64

NEVER = -(2**40)
"""A tick before every run."""

COOLING_DAYS = (1, 3, 7)
"""How long a knob cools down after its first, second and every later rollback."""


@dataclass(frozen=True)
class Standing:
    """The past of n campaigns, as far as a limit looks at it.

    changed_at:
        int64[n, 4], the last tick at which a change outside a mandate was applied to a knob.
    edited_at:
        int64[n, 4], the last tick at which a person's own edit was applied to it.
    cool_until:
        int64[n, 4], the tick up to which a knob cools down after a rollback.
    rollbacks:
        int64[n, 4], how often each knob was rolled back.
    trail:
        (tick, int64[n, 2]) pairs, the scalars in force at the last boundaries, oldest first; they reach back one day.
    """

    changed_at: Int64
    edited_at: Int64
    cool_until: Int64
    rollbacks: Int64
    trail: tuple[tuple[int, Int64], ...]

    @classmethod
    def initial(cls, campaigns: int) -> Self:
        """Nothing happened yet."""
        never = np.full((campaigns, len(Knob)), NEVER, dtype=np.int64)
        return cls(never, never, never, np.zeros((campaigns, len(Knob)), dtype=np.int64), ())

    def seen(self, tick: int, controls: ControlState, day: int) -> Self:
        """With the scalars in force at a boundary; those from before a day are forgotten, but for the last of them."""
        trail = (*self.trail, (tick, controls.scalar))
        while len(trail) > 1 and trail[1][0] <= tick - day:
            trail = trail[1:]
        return replace(self, trail=trail)

    def after(self, tick: int, applied: Actions, mandated: Bool, day: int) -> Self:
        """With rows that were applied; `mandated` marks those that a mandate let through."""
        if not len(applied):
            return self
        campaign, knob = applied.campaign.astype(np.int64), applied.knob.astype(np.int64)
        edit, undo = applied.source == Source.PERSON, applied.source == Source.ROLLBACK
        changed_at, edited_at = self.changed_at.copy(), self.edited_at.copy()
        edited_at[campaign[edit], knob[edit]] = tick
        change = ~(edit | undo | mandated)
        changed_at[campaign[change], knob[change]] = tick
        if not undo.any():
            return replace(self, changed_at=changed_at, edited_at=edited_at)
        rollbacks, cool_until = self.rollbacks.copy(), self.cool_until.copy()
        undone = np.unique(np.stack([campaign[undo], knob[undo]]), axis=1)
        rollbacks[undone[0], undone[1]] += 1
        days = np.array(COOLING_DAYS)[np.minimum(rollbacks[undone[0], undone[1]], len(COOLING_DAYS)) - 1]
        cool_until[undone[0], undone[1]] = tick + days * day
        return replace(self, changed_at=changed_at, edited_at=edited_at, rollbacks=rollbacks, cool_until=cool_until)

    @property
    def last_seen(self) -> int:
        """The tick of the last boundary."""
        return self.trail[-1][0] if self.trail else NEVER

    def a_day_ago(self, controls: ControlState) -> Int64:
        """The scalars in force a day before the last boundary seen, or at the first one; int64[n, 2]."""
        return self.trail[0][1] if self.trail else controls.scalar
