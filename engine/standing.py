"""What the guard has to remember: who moved which knob when, and what the scalars and the account's budgets were.

All times are ticks. A `Standing` is replaced, never changed in place; it is part of what a checkpoint keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np

from engine.actions import Actions, Knob, Source
from engine.campaigns import ControlState
from engine.units import Bool, Int64

NEVER = -(2**40)
"""A tick before every run."""

COOLING_DAYS = (1, 3, 7)
"""How long a knob cools down after its first, second and every later rollback."""

BREAKER_ROLLBACKS = 3
"""So many rollbacks within a day open the breaker."""

QUARANTINE_DAYS = 14
"""How long a change that was rolled back is not proposed again."""


class Quarantine(NamedTuple):
    """A change that was rolled back, and the tick until which it is refused.

    `old` and `values` are what a scalar, or the modifier of the audience at a place, was and became, or a vector's
    shares; no values: whatever is proposed for the knob, since it was a policy's course that was rolled back and not
    one step of it.
    """

    campaign: int
    knob: Knob
    old: int
    values: tuple[int, ...]
    until: int
    audience: int = 0


@dataclass(frozen=True)
class Standing:
    """The past of n campaigns, as far as a limit looks at it.

    changed_at:
        int64[n, 5], the last tick at which a change outside a mandate was applied to a knob.
    edited_at:
        int64[n, 5], the last tick at which a person's own edit was applied to it.
    cool_until:
        int64[n, 5], the tick up to which a knob cools down after a rollback.
    rollbacks:
        int64[n, 5], how often each knob was rolled back.
    trail:
        (tick, int64[n, 2]) pairs, the scalars in force at the last boundaries, oldest first; they reach back one day.
    rolled_back_at:
        int64[n], the last tick at which anything of a campaign was rolled back.
    lately:
        The ticks of the last day's rollbacks; a campaign's knobs that go back in one round are one.
    breaker_since:
        The tick at which the breaker opened; None: it is closed.
    quarantine:
        What was rolled back and is not to be proposed again yet.
    """

    changed_at: Int64
    edited_at: Int64
    cool_until: Int64
    rollbacks: Int64
    trail: tuple[tuple[int, Int64], ...]
    rolled_back_at: Int64
    lately: tuple[int, ...] = ()
    breaker_since: int | None = None
    quarantine: tuple[Quarantine, ...] = ()

    @classmethod
    def initial(cls, campaigns: int) -> Self:
        """Nothing happened yet."""
        never = np.full((campaigns, len(Knob)), NEVER, dtype=np.int64)
        none = np.zeros((campaigns, len(Knob)), dtype=np.int64)
        return cls(never, never, never, none, (), np.full(campaigns, NEVER, dtype=np.int64))

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
        rolled_back_at = self.rolled_back_at.copy()
        rolled_back_at[undone[0]] = tick
        bundles = (tick,) * np.unique(undone[0]).size
        lately = tuple(at for at in self.lately if at > tick - day) + bundles if day else ()
        opens = self.breaker_since is None and len(lately) >= BREAKER_ROLLBACKS
        return replace(
            self,
            changed_at=changed_at,
            edited_at=edited_at,
            rollbacks=rollbacks,
            cool_until=cool_until,
            rolled_back_at=rolled_back_at,
            lately=lately,
            breaker_since=tick if opens else self.breaker_since,
        )

    def quarantined(self, tick: int, undone: Sequence[tuple[Actions, bool]], day: int) -> Self:
        """With actions that were rolled back; True marks a policy's under a mandate, whose knob rests altogether."""
        if not (undone and day):
            return self
        kept = [each for each in self.quarantine if each.until > tick]
        for rows, mandated in undone:
            campaign, knob = int(rows.campaign[0]), Knob(int(rows.knob[0]))
            rests = int(self.cool_until[campaign, knob])
            until = rests if mandated else max(rests, tick + QUARANTINE_DAYS * day)
            if knob is Knob.MODIFIERS and not mandated:  # nobody knows which of the audiences it was
                each = zip(rows.index.tolist(), rows.old.tolist(), rows.new.tolist(), strict=True)
                kept += [Quarantine(campaign, knob, old, (new,), until, index) for index, old, new in each]
                continue
            values = () if mandated else tuple(rows.new.tolist())
            kept.append(Quarantine(campaign, knob, int(rows.old[0]), values, until))
        return replace(self, quarantine=tuple(kept))

    def closed(self) -> Self:
        """With the breaker closed by a person: rollbacks count from here on."""
        return replace(self, breaker_since=None, lately=())

    @property
    def last_seen(self) -> int:
        """The tick of the last boundary."""
        return self.trail[-1][0] if self.trail else NEVER

    def scalar_at(self, tick: int) -> Int64 | None:
        """The scalars in force at a tick of the last day, int64[n, 2]; at the first boundary for one before it."""
        known = [scalar for at, scalar in self.trail if at <= tick]
        return known[-1] if known else (self.trail[0][1] if self.trail else None)

    def a_day_ago(self, controls: ControlState) -> Int64:
        """The scalars in force a day before the last boundary seen, or at the first one; int64[n, 2]."""
        return self.trail[0][1] if self.trail else controls.scalar
