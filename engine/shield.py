"""The shield around a policy that is to be clipped, such as one that learns: a value out of range is taken to the edge.

The edge is what the guard itself offers, and the clipped rows are judged again by the guard: no law stands here. Who is
out of range too often in a row is suspended, and its fallback proposes in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from engine.actions import Flaw, Knob, Proposals
from engine.judgement import NO_OFFER, Judgement, Outcome, Reason
from engine.units import Bool, Int64

SUSPENDED_AFTER = 100
"""So many actions out of range in a row suspend a policy."""

_PROJECTIONS = 3  # to what the laws of each knob offer, then the bid to what the budget leaves, then the modifiers

OUT_OF_RANGE = (
    *(Reason[flaw.name] for flaw in Flaw if flaw is not Flaw.NONE),
    Reason.UNKNOWN_TARGET,
    Reason.NOT_A_SWITCH,
    Reason.ZERO,
    Reason.STEP,
    Reason.HARD_MINIMUM,
    Reason.HARD_MAXIMUM,
    Reason.BID_ABOVE_BUDGET,
    Reason.ANCHOR_BAND,
    Reason.INCOMPLETE_VECTOR,
    Reason.VECTOR_SUM,
    Reason.TOTAL_VARIATION,
    Reason.BID_TIMES_MODIFIER,
    Reason.AUDIENCE_TWICE,
)
"""Why an action is out of range: it could not be in force, whatever else happens in the round."""

UNJUDGED = (Reason.STALE, Reason.FROZEN)
"""Why the guard did not look at a row's value; such a row tells nothing about who proposed it."""


@dataclass(frozen=True)
class Clipped:
    """Rows that were clipped, ascending, and the values that were asked for; the judgement holds what came of them."""

    rows: Int64
    raw: Int64

    @classmethod
    def none(cls) -> Self:
        """Nothing was clipped."""
        return cls(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))


@dataclass(frozen=True)
class Shielded:
    """A round's judgement after clipping, what was clipped for it, and the guard's reasons against what was asked."""

    judgement: Judgement
    clipped: Clipped
    reasons: NDArray[np.uint8]  # Reason, by row


def shielded(judge: Callable[[Proposals], Judgement], asked: Proposals, clips: Bool) -> Shielded:
    """Have a batch judged, and judged again with rows at the guard's offer where `clips` and the guard offers one.

    Parameters
    ----------
    judge:
        The guard's `check`, of this round.
    clips:
        bool[rows], rows whose proposer is to be clipped; the other rows are judged as they are asked.
    """
    judgement = first = judge(asked)
    ever = np.zeros(len(asked), dtype=np.bool_)
    for _ in range(_PROJECTIONS):
        beyond = clips & (judgement.outcome == Outcome.REFUSED) & (judgement.offer != NO_OFFER)
        if not beyond.any():
            break
        ever |= beyond
        rows = judgement.proposals
        judgement = judge(replace(rows, wanted=np.where(beyond, judgement.offer, rows.wanted)))
    clipped = np.flatnonzero(ever)
    return Shielded(judgement, Clipped(clipped, first.proposals.wanted[clipped]), first.reason)


@dataclass(frozen=True)
class Shield:
    """How often each policy was out of range in a row up to now, and whether that suspended it."""

    in_a_row: tuple[int, ...]
    suspended: tuple[bool, ...]

    @classmethod
    def initial(cls, policies: int) -> Self:
        """Nothing proposed yet."""
        return cls((0,) * policies, (False,) * policies)

    def after(self, place: int, asked: Proposals, reasons: NDArray[np.uint8]) -> Self:
        """With the rows that a policy asked for in a round, in order, and the guard's reasons against them."""
        if self.suspended[place] or not len(asked):
            return self
        longest, last = _runs(self.in_a_row[place], _out_of_range(asked, reasons))
        before, behind = slice(place), slice(place + 1, None)
        in_a_row = (*self.in_a_row[before], last, *self.in_a_row[behind])
        suspended = (*self.suspended[before], longest >= SUSPENDED_AFTER, *self.suspended[behind])
        return replace(self, in_a_row=in_a_row, suspended=suspended)


def _out_of_range(asked: Proposals, reasons: NDArray[np.uint8]) -> Bool:
    """Whether each action was out of range, in order; a vector is one action, and out of range with any of its rows."""
    judged = ~np.isin(reasons, UNJUDGED)
    campaign, knob = asked.campaign[judged].astype(np.int64), asked.knob[judged].astype(np.int64)
    beyond = np.isin(reasons[judged], OUT_OF_RANGE)
    vector = np.isin(knob, (Knob.WEIGHTS, Knob.MODIFIERS))
    if not vector.any():
        return beyond
    nothing = -len(Knob) - 1 - np.arange(len(knob))  # no vector's
    _, first, action = np.unique(
        np.where(vector, campaign * len(Knob) + knob, nothing), return_index=True, return_inverse=True
    )
    spoilt = np.bincount(action, weights=beyond) > 0
    by_vector: Bool = spoilt[np.argsort(first)]
    return by_vector


def _runs(before: int, beyond: Bool) -> tuple[int, int]:
    """Longest and last run of true values, after so many before the first."""
    within = np.flatnonzero(~beyond)
    if not within.size:
        return before + len(beyond), before + len(beyond)
    ends = np.concatenate([within, [len(beyond)]])
    starts = np.concatenate([[-1 - before], within])
    lengths = ends - starts - 1
    return int(lengths.max()), int(lengths[-1])
