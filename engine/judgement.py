"""What the guard answers: outcomes, reasons and the words for them, and the judgement of a whole batch."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from numpy.typing import NDArray

from engine.actions import Approved, Proposals
from engine.impact import Basis
from engine.units import Int64

NO_OFFER = -1


class Outcome(IntEnum):
    """The guard's answer to a row."""

    APPROVED = 0
    NEEDS_APPROVAL = 1
    REFUSED = 2


class Reason(IntEnum):
    """Why a row was not approved; the first that holds, in this order."""

    NONE = 0
    NOT_A_NUMBER = 1
    NOT_FINITE = 2
    NOT_WHOLE = 3
    NEGATIVE = 4
    OUT_OF_RANGE = 5
    UNKNOWN_TARGET = 6
    STALE = 7
    NO_OP = 8
    NOT_A_SWITCH = 9
    ZERO = 10
    STEP = 11
    HARD_MINIMUM = 12
    HARD_MAXIMUM = 13
    BID_ABOVE_BUDGET = 14
    ANCHOR_BAND = 15
    INCOMPLETE_VECTOR = 16
    VECTOR_SUM = 17
    TOTAL_VARIATION = 18
    SECOND_CHANGE = 19
    ACCOUNT_BUDGET = 20
    OUTSIDE_MANDATE = 21
    FROZEN = 22
    PERSONS_HOLD = 23
    COOLDOWN = 24
    ACCOUNT_RISE = 25
    JOINT_EXPOSURE = 26
    WINDOW = 27
    QUARANTINED = 28
    BREAKER = 29
    LEARNING_PHASE = 30
    AFTER_ROLLBACK = 31
    EXTRAPOLATION = 32
    MANY_CAMPAIGNS = 33
    LARGE_CAMPAIGN = 34
    LARGE_SPEND_CHANGE = 35
    AUDIENCE_SET = 36
    BID_TIMES_MODIFIER = 37
    AUDIENCE_TWICE = 38
    BESIDE_REFUSED = 39
    NO_AUTOMATIC_MODE = 60


EXPLANATIONS = {
    Reason.NOT_A_NUMBER: "the value is not a number",
    Reason.NOT_FINITE: "the value is not finite",
    Reason.NOT_WHOLE: "the value is not a whole number of micros",
    Reason.NEGATIVE: "the value is negative",
    Reason.OUT_OF_RANGE: "the value is larger than any amount of money accepted",
    Reason.UNKNOWN_TARGET: "there is no such campaign, knob, creative, audience or source",
    Reason.STALE: "the knob moved after the proposer looked at it",
    Reason.NO_OP: "the value is the one in force",
    Reason.NOT_A_SWITCH: "paused is 0 or 1",
    Reason.ZERO: "a bid or budget is never set to 0, and a modifier by a person alone: pause instead",
    Reason.STEP: "an automatic change is at most a quarter of the value in force",
    Reason.HARD_MINIMUM: "below the hard minimum",
    Reason.HARD_MAXIMUM: "above the hard maximum",
    Reason.BID_ABOVE_BUDGET: "the bid would exceed the budget",
    Reason.ANCHOR_BAND: "outside the band around the last value a person set",
    Reason.INCOMPLETE_VECTOR: "weights are proposed whole, one row per creative",
    Reason.VECTOR_SUM: "weights must sum to 1,000,000 ppm",
    Reason.TOTAL_VARIATION: "weights move by at most 250,000 ppm in total variation",
    Reason.SECOND_CHANGE: "the knob already changes in this round",
    Reason.ACCOUNT_BUDGET: "the account's budget would be exceeded",
    Reason.OUTSIDE_MANDATE: "outside any mandate, and what it would do to spend is not known: a person has to approve",
    Reason.PERSONS_HOLD: "a person set the value less than a day ago",
    Reason.COOLDOWN: "the knob cools down after its last change or rollback",
    Reason.ACCOUNT_RISE: "the account's budgets would rise by more than a tenth of the account within a day",
    Reason.JOINT_EXPOSURE: "the campaign's knobs together would raise its exposure too far in one round",
    Reason.FROZEN: "frozen: nothing begins but pauses and rollbacks",
    Reason.WINDOW: "the knob would rise by more than its limit within the window",
    Reason.QUARANTINED: "the same change was rolled back lately",
    Reason.BREAKER: "the breaker is open after three rollbacks in a day: a person has to close it",
    Reason.LEARNING_PHASE: "the campaign is in its first days or has few mature clicks: a person has to approve",
    Reason.AFTER_ROLLBACK: "a change of this campaign was rolled back less than a week ago: a person has to approve",
    Reason.EXTRAPOLATION: "nothing is known of a creative that was never shown: a person has to approve",
    Reason.MANY_CAMPAIGNS: "more than three campaigns at once: a person has to approve",
    Reason.LARGE_CAMPAIGN: "a step of more than 15 % on one of the largest campaigns: a person has to approve",
    Reason.LARGE_SPEND_CHANGE: "spend would change by more than 2 % of the account's: a person has to approve",
    Reason.AUDIENCE_SET: "an audience that was not bid for would be a target: a person has to approve",
    Reason.BID_TIMES_MODIFIER: "an audience would be bid more than the hard maximum, its modifier counted",
    Reason.AUDIENCE_TWICE: "an audience is named twice",
    Reason.BESIDE_REFUSED: "another audience of the same change was refused, and they stand or fall together",
    Reason.NO_AUTOMATIC_MODE: "no automatic mode until the limits file can be read: a person has to approve",
}


@dataclass(frozen=True)
class Impact:
    """By how much a row outside mandates is predicted to change spend per day, micros; None where nobody can tell."""

    row: int
    spend_per_day: int | None
    basis: Basis

    def told(self) -> dict[str, Any]:
        """The prediction as the ledger holds it."""
        return {"row": self.row, "spend_per_day_micros": self.spend_per_day, "by": self.basis.value}


@dataclass(frozen=True)
class Judgement:
    """The guard's answer to a batch of proposals, row by row.

    `old` is the value in force; `offer`, where a row was refused for its value, the nearest one that the laws of its
    knob let through, or NO_OFFER. `approved` holds the approved rows as actions whose ids tell the round and the row.
    `impacts` are the predictions for rows outside mandates.
    """

    proposals: Proposals
    outcome: NDArray[Any]  # uint8, Outcome
    reason: NDArray[Any]  # uint8, Reason
    old: Int64
    offer: Int64
    approved: Approved
    impacts: tuple[Impact, ...] = ()

    def count(self, outcome: Outcome) -> int:
        """Rows with the given outcome."""
        return int((self.outcome == outcome).sum())
