"""What a learned policy looks at: one function from view to observation, for training and for serving.

Every feature is free of scale: money is compared with bids, budgets and the linear programme's plan, counts with what
was expected.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from agents.lp import Knowledge, OnlineLP
from engine.actions import Knob
from engine.campaigns import CampaignSet
from engine.events import BIDS, IMPRESSIONS, OPPORTUNITIES, SPEND
from engine.policy import View
from engine.units import Float64, TickGrid

NAMES = (
    "traffic_left", "ticks_left", "pace", "budget_on_traffic", "plan_on_bid", "bid_on_anchor", "plan_on_anchor",
    "plan_on_fast_mean", "plan_on_slow_mean", "win_rate", "spend_surprise_fast", "spend_surprise_slow",
    "traffic_surprise_fast", "traffic_surprise_slow", "expected_win_rate", "steepness", "price_on_plan",
    "volume_on_expected", "seen", "targeted", "average_on_target", "budget_plan_on_plan", "plan_on_target",
)  # fmt: skip
"""The features in order; each lies in [−5, 5]."""

_LEAST = 1e-6
_PLENTY = 6_000  # opportunities: who has seen so many knows the market as well as it can be known
_HIGHER = 1.1
_FAST, _SLOW = 0.5, 0.15  # shares of the newest in running means


class Course(NamedTuple):
    """What the observer remembers: LP-KM's knowledge, and running means of what surprised it."""

    knowledge: Knowledge
    means: Float64 | None  # float64[n, 6], see `_followed`


@dataclass(frozen=True)
class Observer:
    """Turns views into observations, around the linear programme whose plan a learned policy corrects."""

    lp: OnlineLP

    def start(self, campaigns: CampaignSet, grid: TickGrid) -> Course:
        """Before the first view."""
        return Course(self.lp.start(campaigns, grid), None)

    def observe(self, view: View, course: Course) -> tuple[Float64, Float64, Course]:
        """Observations float64[n, features], the linear programme's bid float64[n] in micros, and what to remember.

        Of a view that makes no sense, as of more in a tick than in a whole life, it may be NaN, which is forgotten.
        """
        before = course.knowledge
        with np.errstate(invalid="ignore"):
            surprise = _surprise(view, before)
            knowledge = self.lp.learn(view, before)
            plan = np.maximum(self.lp.wanted(view, knowledge), 1.0)
            means = _followed(course.means, np.log(plan), surprise)
            columns = self._columns(view, knowledge, plan, means)
        observation = np.clip(np.stack(columns, axis=1), -5.0, 5.0)
        as_seen = observation.astype(np.float32).astype(np.float64)  # what an environment can show, whoever looks
        kept = means if course.means is None else np.where(np.isfinite(means), means, course.means)
        return as_seen, plan, Course(knowledge, kept)

    def _columns(self, view: View, knowledge: Knowledge, plan: Float64, means: Float64) -> list[Float64]:
        bid = np.maximum(view.controls.bid, 1).astype(np.float64)
        anchor = np.maximum(view.controls.anchor[:, Knob.BID], 1)
        log_plan = np.log(plan)
        return [
            knowledge.horizon.left(view.tick),
            knowledge.horizon.ticks_left(view.tick),
            *self._money(view, knowledge, bid),
            log_plan - np.log(bid),
            np.log(bid / anchor),
            log_plan - np.log(anchor),
            log_plan - means[:, 0],
            log_plan - means[:, 1],
            view.recent[:, IMPRESSIONS] / np.maximum(view.recent[:, BIDS], 1),
            *means[:, 2:].T,
            *self._market(view, knowledge, plan),
            *self._target(view, knowledge, plan),
        ]

    def _money(self, view: View, knowledge: Knowledge, bid: Float64) -> list[Float64]:
        """What is left of the budget, against the traffic left, and against buying it all at the bid."""
        budget = np.maximum(view.controls.budget, 1)
        left = np.maximum(1 - _spent(view, knowledge) / budget, 0.0)
        coming = self.lp.expected(view, knowledge)
        return [_log_ratio(left, knowledge.horizon.left(view.tick)), _log_ratio(left * budget, coming * bid)]

    def _market(self, view: View, knowledge: Knowledge, plan: Float64) -> list[Float64]:
        """What the planned bid is expected to win, how steeply its cost rises, and how much traffic there is."""
        assert knowledge.landscape is not None
        now, above = (knowledge.landscape.outlook((times * plan).astype(np.int64)) for times in (1.0, _HIGHER))
        volume = view.lifetime[:, OPPORTUNITIES] / np.maximum(knowledge.horizon.gone(view.tick), _LEAST)
        hoped = self.lp.expected_opportunities
        return [
            now[:, 0],
            _log_ratio(above[:, 1], now[:, 1]) / np.log(_HIGHER) / 2,
            now[:, 1] / np.maximum(now[:, 2], _LEAST) / plan,
            _log_ratio(volume, hoped) if hoped else np.zeros(len(plan)),
            np.log1p(np.minimum(view.lifetime[:, OPPORTUNITIES], _PLENTY)) / 5,
        ]

    def _target(self, view: View, knowledge: Knowledge, plan: Float64) -> list[Float64]:
        """Whether there is a target, and how the average, the plan and the budget's own plan stand to it."""
        most = knowledge.target
        aims = np.isfinite(most)
        if not aims.any():
            return [np.zeros(len(plan))] * 4
        target = np.where(aims, most, 1.0)
        average = _spent(view, knowledge) / np.maximum(knowledge.got, _LEAST)
        budgets = self.lp.wanted(view, knowledge._replace(target=np.full(len(plan), np.inf)))
        return [
            aims.astype(np.float64),
            np.where(aims & (knowledge.got > 0), _log_ratio(average, target), 0.0),
            np.where(aims, np.log(budgets / plan), 0.0),
            np.where(aims, np.log(plan / target), 0.0),
        ]


def _spent(view: View, knowledge: Knowledge) -> Float64:
    """Spend of the period that the next decision is about; float64[n], micros."""
    return np.where(knowledge.horizon.closed(view.tick), 0.0, view.period[:, SPEND])


def _surprise(view: View, before: Knowledge) -> Float64:
    """Spend per opportunity and traffic, in logs, against what was expected before this view; float64[n, 2]."""
    n = len(view.recent)
    if before.landscape is None:
        return np.zeros((n, 2))
    per_opportunity = before.landscape.outlook(view.controls.bid)[:, 1]
    entered = view.recent[:, BIDS]
    noise = np.maximum(5 * view.controls.bid, 1)  # a handful of wins: few opportunities tell little
    spend = np.log((view.recent[:, SPEND] + noise) / (per_opportunity * entered + noise))
    traffic = before.horizon.gone(view.tick) - before.horizon.gone(before.seen)
    known = np.maximum(before.horizon.gone(before.seen), _LEAST)
    expected = (view.lifetime[:, OPPORTUNITIES] - view.recent[:, OPPORTUNITIES]) / known * traffic
    more = np.log((view.recent[:, OPPORTUNITIES] + 10.0) / (expected + 10.0))
    return np.stack([spend, more], axis=1)


def _followed(before: Float64 | None, log_plan: Float64, surprise: Float64) -> Float64:
    """Running means, fast and slow, of the plan's logarithm and of both surprises; float64[n, 6]."""
    new = np.stack([log_plan, log_plan, surprise[:, 0], surprise[:, 0], surprise[:, 1], surprise[:, 1]], axis=1)
    if before is None:
        return new
    share = np.array([_FAST, _SLOW, _FAST, _SLOW, _FAST, _SLOW])
    known = np.where(np.isfinite(before), before, new)
    followed: Float64 = known + share * (new - known)
    return followed


def _log_ratio(one: Float64, other: Float64 | float) -> Float64:
    ratio: Float64 = np.log(np.maximum(one, _LEAST) / np.maximum(other, _LEAST))
    return ratio
