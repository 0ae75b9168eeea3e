"""What a change outside a mandate would do to spend, and what the guard looks at before it lets one pass by itself.

The prediction comes from a `Trial` in the twin where there is one, else from the record of the last days. What neither
can tell is unknown, and a person has to look at it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Self

import numpy as np

from engine.actions import Knob
from engine.campaigns import ControlState
from engine.events import CLICKS, SPEND
from engine.units import PPM, Bool, Int64

UNKNOWN = -(2**62)
"""A predicted change of spend that nobody can tell."""

SPEND_PER_BID = 3
"""The record's prediction: spend moves at most with the third power of the bid, as both the share of auctions won and
the price paid for them grow with it. In the quickstart's twelve campaigns it moves with a power of 1.1 to 2.6 (a test
holds them below three). A twin knows its market's own curve."""

LEARNING_DAYS, LEARNING_CLICKS = 3, 50
LARGE_PART = 5
"""Large campaigns are those among the first fifth by spend of the last seven days."""
WEEK_DAYS = 7
_SAMPLES_A_DAY = 4
_SPENT, _CLICKED = range(2)


class Basis(StrEnum):
    """What a prediction rests on."""

    TRIAL = "trial"
    RECORD = "record"
    NONE = "none"


class _Sample(NamedTuple):
    """Lifetime spend and clicks at the close of a tick; int64[n, 2]."""

    tick: int
    counts: Int64


@dataclass(frozen=True)
class Spending:
    """Lifetime spend and clicks of n campaigns, now and at moments a quarter of a day apart, a week back.

    A `Spending` is replaced, never changed in place.
    """

    now: _Sample
    samples: tuple[_Sample, ...]

    @classmethod
    def initial(cls, campaigns: int) -> Self:
        """Before the first tick."""
        begins = _Sample(-1, np.zeros((campaigns, 2), dtype=np.int64))
        return cls(begins, (begins,))

    def seen(self, tick: int, lifetime: Int64, day: int) -> Self:
        """With the lifetime counts at a boundary."""
        now = _Sample(tick, lifetime[:, (SPEND, CLICKS)])
        samples = self.samples
        if tick - samples[-1].tick >= max(day // _SAMPLES_A_DAY, 1):
            samples = (*samples, now)
        while len(samples) > 1 and samples[1].tick <= tick - WEEK_DAYS * day:
            samples = samples[1:]
        return type(self)(now, samples)

    def per_day(self, day: int) -> Int64 | None:
        """Spend per day over the last day, micros; None as long as no day has passed."""
        before = self._before(day)
        if before is None:
            return None
        spent: Int64 = self.now.counts[:, _SPENT] - before.counts[:, _SPENT]
        return spent * day // (self.now.tick - before.tick)

    def learning(self, day: int, horizon: int) -> Bool:
        """Campaigns too young to be known: in their first three days, or with fewer than 50 mature clicks."""
        mature = self._before(horizon)
        if mature is None or self.now.tick + 1 < LEARNING_DAYS * day:
            return np.ones(len(self.now.counts), dtype=np.bool_)
        young: Bool = mature.counts[:, _CLICKED] < LEARNING_CLICKS
        return young

    def large(self) -> Bool:
        """The fifth of the campaigns, rounded up, that spent most in the last seven days."""
        spent = self.now.counts[:, _SPENT] - self.samples[0].counts[:, _SPENT]
        first = np.argsort(-spent, kind="stable")[: -(-spent.size // LARGE_PART)]
        large = np.zeros(spent.size, dtype=np.bool_)
        large[first] = spent[first] > 0
        return large

    def _before(self, ticks: int) -> _Sample | None:
        """The last sample from so many ticks ago, or earlier."""
        return next((each for each in reversed(self.samples) if each.tick <= self.now.tick - ticks), None)


@dataclass(frozen=True)
class Evidence:
    """What is known of n campaigns beside their controls and their standing.

    watched:
        bool[n, 5], knobs whose last change is still under watch; None: none is.
    tried:
        The change of spend per day, micros, that the twin predicts for what is proposed for a (campaign, knob).
    """

    spending: Spending
    watched: Bool | None = None
    tried: Mapping[tuple[int, Knob], int] = field(default_factory=dict)


def predicted_by_record(
    state: ControlState, daily: Bool, per_day: Int64, campaign: Int64, knob: Int64, old: Int64, wanted: Int64
) -> Int64:
    """Change of spend per day for rows of bids, budgets, modifiers and weights, micros.

    A bid moves spend with its third power, as far as the budget goes; from no spend at all nobody can tell. A budget
    moves it where it binds (spend of at least nine tenths), and a cut where it comes to lie below the spend. Weights,
    whose `wanted − old` is the whole mass moved, move at most the part of the spend whose creative changes, up or down.
    The record does not tell audiences apart, so of modifiers `old` and `wanted` are those of the audience that moves
    farthest, and the campaign's whole spend goes with it as with a bid: a bound. Of an audience that was not bid for,
    of a flight's budget, and of a campaign that resumes, a day's record tells nothing.
    """
    spend, budget = per_day[campaign], state.budget[campaign]
    change = np.full(len(campaign), UNKNOWN, dtype=np.int64)
    bid = np.flatnonzero((knob == Knob.BID) | (knob == Knob.MODIFIERS))
    factor = np.where(old[bid] > 0, wanted[bid] / np.maximum(old[bid], 1), 1.0) ** SPEND_PER_BID
    by_bid = np.floor(spend[bid] * np.abs(factor - 1)).astype(np.int64)
    capped = daily[campaign[bid]] & (wanted[bid] > old[bid])
    by_bid = np.where(capped, np.minimum(by_bid, np.maximum(budget - spend, 0)[bid]), by_bid)
    from_nothing = ((spend[bid] == 0) | (old[bid] == 0)) & (wanted[bid] > old[bid])
    change[bid] = np.where(from_nothing, UNKNOWN, np.sign(wanted[bid] - old[bid]) * by_bid)
    of_budget = (knob == Knob.BUDGET) & daily[campaign]
    binds = 10 * spend >= 9 * old
    by_budget = np.where(wanted > old, np.where(binds, wanted - old, 0), np.minimum(wanted - spend, 0))
    change[of_budget] = by_budget[of_budget]
    weights = knob == Knob.WEIGHTS
    change[weights] = (spend * (np.abs(wanted - old) / PPM)).astype(np.int64)[weights]
    return change
