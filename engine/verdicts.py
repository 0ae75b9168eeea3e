"""What single changes (`engine.watch`) and episodes (`engine.episodes`) have in common when they are judged.

The measure is profit (revenue − spend) per opportunity, block by block of two hours. A block is held against a control,
which is the first of three that there is: the campaign's own creatives side by side (`engine.split`), sibling campaigns
that did not move, over the same ticks, or the campaign's own history. Against siblings and history it is levels that
are compared: a block with the same slot of the day before, less the same of the control. The first block that counts
decides which control it is, for good: two tests in turn would err twice as often.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, Self

import numpy as np

from engine.actions import Knob
from engine.baseline import CONVERTED, EARNED, SEEN, SLOTS, SPENT
from engine.units import Float64, Int64

FEWEST_CONVERSIONS = 30
"""No verdict rests on a past, of the campaign or its control, or on blocks with fewer conversions due: few are skewed,
and without this rule more than 5 % of harmless changes would go where the control is large."""
FEWEST_BLOCKS = 12
"""Blocks before the comparison is believed: a day's."""
MOST_SIBLINGS = 32
MANY_CONVERSIONS = 10
"""So many expected and none seen is a defect, whatever the statistics."""
RUNAWAY = (3, 2)
"""As a fraction, times the spend rate that the record and the change explain at most."""
WINDOW_DAYS = 7
PROPOSER = "watch"
_DAY_MINUTES, _RUNAWAY_MINUTES = 24 * 60, 15


class Verdict(StrEnum):
    """What a watch says of its change."""

    KEEP = "keep"
    ROLL_BACK = "roll_back"
    TOO_EARLY = "too_early"
    NO_DATA = "no_data"


class Why(StrEnum):
    """What a verdict rests on."""

    PROFIT = "profit"
    SPEND = "spend_rate"
    CONVERSIONS = "no_conversions"
    WINDOW = "window"


class Control(StrEnum):
    """What a change is held against."""

    NONE = ""
    SPLIT = "split"
    SIBLINGS = "siblings"
    HISTORY = "history"


class Event(StrEnum):
    """What the ledger tells of a watch."""

    OPENED = "opened"
    BEGUN = "begun"  # one knob of an episode, of which the action is the first there
    ROLLS_BACK = "rolls_back"  # asked for in this round; its rows and the guard's answer are in it
    ROLLED_BACK = "rolled_back"
    BLOCKED = "blocked"
    KEPT = "kept"
    NO_DATA = "no_data"
    SUPERSEDED = "superseded"  # somebody changed the campaign meanwhile: what follows is not this change's doing


BEGINNINGS = (Event.OPENED, Event.BEGUN)
"""What an action is told of that has to stay in reach from then on."""


@dataclass(frozen=True)
class WatchLimits:
    """How long watches last, in ticks.

    day:
        Ticks in 24 hours.
    horizon:
        The delay after which a conversion is no longer waited for.
    """

    day: int
    horizon: int

    @classmethod
    def of(cls, day: int, delay_horizon: int | None) -> Self:
        """For days of so many ticks; without a delay horizon, a day."""
        return cls(day, day if delay_horizon is None else delay_horizon)

    @property
    def window(self) -> int:
        """How long a change is watched."""
        return WINDOW_DAYS * self.day

    @property
    def block(self) -> int:
        """Ticks of a whole block."""
        return max(self.day // SLOTS, 1)

    @property
    def runaway(self) -> int:
        """Ticks of fifteen minutes."""
        return -(-_RUNAWAY_MINUTES * self.day // _DAY_MINUTES)


class Told(NamedTuple):
    """An entry of a round's ledger header: what happened to the watch over an action.

    An episode is told knob by knob, each by the first action on it. `control` is what the change is compared with, once
    that is known.
    """

    action: int
    campaign: int
    knob: Knob
    event: Event
    why: str = ""
    control: Control = Control.NONE

    def told(self) -> dict[str, Any]:
        """The entry as the ledger holds it."""
        return {
            "action": self.action,
            "campaign": self.campaign,
            "knob": int(self.knob),
            "event": self.event.value,
            "why": self.why,
            "control": self.control.value,
        }


class Side(NamedTuple):
    """One side of a comparison, int64[…, 6] each: a block, its slot of the day before the change, all slots before."""

    now: Int64
    then: Int64
    past: Int64


def differences(own: Side, control: Side | None) -> Float64:
    """A block's profit per opportunity, less the control's brought to the campaign's level, less the same of the past.

    The control's revenue and its spend are each scaled by the ratio of the two pasts, so that what moves all campaigns
    by the same factor (a dearer hour, a better day) cancels. Without a control nothing is taken off but the past.
    NaN where a side has nothing to compare.
    """
    sides = (own,) if control is None else (own, control)
    fit = np.ones(own.now.shape[:-1], dtype=np.bool_)
    for side in sides:
        fit &= (
            (side.past[..., CONVERTED] >= FEWEST_CONVERSIONS) & (side.now[..., SEEN] > 0) & (side.then[..., SEEN] > 0)
        )
    difference = np.zeros(fit.shape)
    for sign, column in ((1.0, EARNED), (-1.0, SPENT)):
        step = _rate(own.now, column) - _rate(own.then, column)
        if control is not None:
            level = _rate(control.past, column)
            scale = np.where(level > 0, _rate(own.past, column) / np.where(level > 0, level, 1.0), 0.0)
            step = step - scale * (_rate(control.now, column) - _rate(control.then, column))
        difference += sign * step
    return np.where(fit, difference, np.nan)


def _rate(counts: Int64, column: int) -> Float64:
    rate: Float64 = counts[..., column] / np.maximum(counts[..., SEEN], 1)
    return rate
