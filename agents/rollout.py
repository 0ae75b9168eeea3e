"""Playing episodes of the bidding task: a policy, the guard and the auctions, step by step, and nothing else.

The policy gets the engine's own views and answers with its own proposals; the project's guard judges them, and what it
approves is applied by the engine. There is no ledger, no watch and no person, so nothing is rolled back: what a policy
is worth by itself is measured here, and what a run would do with it in `bidtwin simulate`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from fractions import Fraction
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

import numpy as np

from engine.actions import Knob, Proposals
from engine.campaigns import CampaignSet, Charging, ControlState, Period, apply
from engine.events import COUNTS
from engine.guard import check
from engine.judgement import Judgement, Outcome
from engine.limits import Limits
from engine.policy import Policy, View
from engine.prices import lowest_bins
from engine.units import MAX_MICROS, Float64, Int64, TickGrid
from sim.bidding import Episodes
from sim.streams import Entry, Offers

BAND = (Fraction(1, 10), Fraction(10))
"""The mandate's band around the first bid."""
LARGEST_STEP = Fraction(1, 4)
"""The guard's own law."""
DAY_MINUTES = 24 * 60
_START = datetime(2026, 3, 2)


def calendar(steps: int) -> TickGrid:
    """The calendar of an episode: a day of equal steps, or hours where a day cannot be cut so."""
    return TickGrid(_START, DAY_MINUTES // steps if DAY_MINUTES % steps == 0 else 60, steps)


@lru_cache(maxsize=4)
def campaigns_of(episodes: int) -> CampaignSet:
    """A campaign with a market of its own for every episode."""
    whole = np.ones(episodes, dtype=np.int64)
    ids = tuple(f"{place:07d}" for place in range(episodes))
    return CampaignSet(
        ids=ids,
        channels=("display",) * episodes,
        markets=ids,
        market=np.arange(episodes),
        charging=np.full(episodes, Charging.PER_IMPRESSION, dtype=np.uint8),
        period=np.full(episodes, Period.FLIGHT, dtype=np.uint8),
        creative_start=np.arange(episodes + 1),
        creatives=ids,
        min_bid=whole,
        max_bid=MAX_MICROS * whole,
        min_budget=whole,
        max_budget=MAX_MICROS * whole,
    )


class Rollout:
    """n episodes side by side, one step at a time: `advance`, then `act`, until `done`.

    Bids are proposed no farther than `largest_step` from the one in force, as a share of it: 1/4, the guard's own,
    leaves to it what is proposed, a smaller one stands for a narrower guard.
    """

    def __init__(self, episodes: Episodes, largest_step: Fraction = LARGEST_STEP) -> None:
        n = len(episodes)
        self._largest_step = largest_step
        self.campaigns = campaigns_of(n)
        self.grid = calendar(episodes.steps)
        self.controls = ControlState.initial(self.campaigns, episodes.bid, episodes.budget)
        self.tick = -1
        self.value_ppm = np.zeros(n, dtype=np.int64)
        """What was won so far, in millionths of the reference opportunity; int64[n]."""
        self.charged = np.zeros(n, dtype=np.int64)
        """What was spent so far, micros; int64[n]."""
        self._episodes = episodes
        self._limits = Limits.of(self.campaigns).with_mandate(np.arange(n), (Knob.BID,), BAND)
        self._lifetime = np.zeros((n, len(COUNTS)), dtype=np.int64)
        self._entry = Entry.of(n)

    @property
    def done(self) -> bool:
        """Whether the last step was played."""
        return self.tick == self._episodes.steps - 1

    def advance(self) -> View:
        """Play a step under the controls in force, and tell what a policy may know of it."""
        self.tick += 1
        episodes, bid = self._episodes, self.controls.bid
        lowest = lowest_bins(bid)
        offers = Offers(bid, episodes.budget, self.charged, lowest, episodes.first_price)
        episodes.streams.play(self.tick, episodes.steps, offers, self._entry)
        recent = self._entry.counts.copy()
        self._lifetime = self._lifetime + recent
        self.value_ppm += self._entry.won[:, :, 1].sum(axis=1)
        prices = self._entry.prices(lowest)
        return View(self.tick, self.controls, recent, self._lifetime, self._lifetime, prices=prices)

    def act(self, proposed: Proposals) -> Judgement:
        """Have the guard judge what is proposed, and put in force what it approves."""
        if self._largest_step < LARGEST_STEP:
            proposed = _clipped(proposed, self.controls.bid, self._largest_step)
        judgement = check(self.campaigns, self.controls, proposed, self._limits, sequence=self.tick + 1, tick=self.tick)
        if len(judgement.approved):
            self.controls, _ = apply(self.campaigns.layout, self.controls, judgement.approved)
        return judgement


def _clipped(proposed: Proposals, bid: Int64, largest_step: Fraction) -> Proposals:
    """Proposed bids, none farther from the bid in force than this share of it: as asked for under a narrower guard."""
    step = bid[proposed.campaign] * largest_step.numerator // largest_step.denominator
    low, high = bid[proposed.campaign] - step, bid[proposed.campaign] + step
    return replace(proposed, wanted=np.clip(proposed.wanted, low, high))


@runtime_checkable
class Aiming(Protocol):
    """A policy that keeps the average cost per unit of value below a target."""

    def aiming_at(self, target: Float64) -> Policy:
        """The same policy with a target for every campaign; float64[n], micros."""
        ...


@dataclass(frozen=True)
class Played:
    """What became of n episodes of s steps under a policy.

    value:
        float64[n], won, relative to the reference opportunity.
    spend:
        int64[n], micros.
    bids:
        int64[s, n], in force in every step, micros.
    proposed, refused:
        int64[n], how many bids were proposed, and refused by the guard.
    """

    value: Float64
    spend: Int64
    bids: Int64
    proposed: Int64
    refused: Int64


def play(policy: Policy, episodes: Episodes, largest_step: Fraction = LARGEST_STEP) -> Played:
    """Play episodes through under a policy; where they have targets, one that can aim at them is told."""
    if episodes.target is not None and isinstance(policy, Aiming):
        policy = policy.aiming_at(episodes.target)
    rollout = Rollout(episodes, largest_step)
    memory: Any = policy.start(rollout.campaigns, rollout.grid)
    n = len(episodes)
    bids = np.empty((episodes.steps, n), dtype=np.int64)
    proposed, refused = (np.zeros(n, dtype=np.int64) for _ in range(2))
    while True:
        bids[rollout.tick + 1] = rollout.controls.bid
        view = rollout.advance()
        if rollout.done:
            return Played(rollout.value_ppm / 1e6, rollout.charged, bids, proposed, refused)
        rows, memory = policy.propose(view, memory)
        judgement = rollout.act(rows)
        np.add.at(proposed, rows.campaign, 1)
        np.add.at(refused, rows.campaign, judgement.outcome != Outcome.APPROVED)
