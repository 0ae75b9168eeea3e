"""Mergeable counts, the rates made of them, and the performance score.

Counts add up over ticks, creatives, campaigns and shards; a rate is a point value or unknown, with the reason why.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum

import numpy as np

from engine.errors import BadInput
from engine.events import BIDS, CLICKS, CONVERSIONS, COUNTS, IMPRESSIONS, OPPORTUNITIES, REVENUE, SPEND
from engine.units import Float64, Int64


class Reason(Enum):
    """Why a metric has no value."""

    NO_OPPORTUNITIES = "no_opportunities"
    NO_BIDS = "no_bids"
    NO_IMPRESSIONS = "no_impressions"
    NO_CLICKS = "no_clicks"
    NO_CONVERSIONS = "no_conversions"
    NO_SPEND = "no_spend"
    NO_BUDGET = "no_budget"
    NO_PEOPLE = "no_people"
    MISSING_COMPONENT = "missing_component"
    NOT_RECORDED = "not_recorded"


@dataclass(frozen=True)
class Metric:
    """A published value and the number of cases behind it, or the reason why there is none."""

    value: float | None
    n: int
    reason: Reason | None = None


@dataclass(frozen=True)
class ScoreTargets:
    """Weights (≥ 0, sum 1) and targets (> 0) of the performance score; the defaults are the product's."""

    ctr_weight: float = 0.3
    cvr_weight: float = 0.3
    roas_weight: float = 0.4
    ctr_target: float = 0.05
    cvr_target: float = 0.10
    roas_target: float = 3.0

    def __post_init__(self) -> None:
        weights = (self.ctr_weight, self.cvr_weight, self.roas_weight)
        if not (min(weights) >= 0 and abs(sum(weights) - 1.0) <= 1e-9):
            raise BadInput(f"score weights (={weights}) must be >= 0 and sum to 1: scale them")
        targets = (self.ctr_target, self.cvr_target, self.roas_target)
        if not all(0 < target < np.inf for target in targets):
            raise BadInput(f"score targets (={targets}) must be > 0 and finite: give a component no weight instead")


class Tally:
    """Running counts of n campaigns: update with more, merge with another's, get the sum."""

    def __init__(self, counts: Int64) -> None:
        self._counts = counts

    @classmethod
    def zero(cls, campaigns: int) -> Tally:
        """Nothing counted yet."""
        return cls(np.zeros((campaigns, len(COUNTS)), dtype=np.int64))

    def update(self, counts: Int64) -> Tally:
        """Add counts of shape [campaigns, len(COUNTS)]."""
        return Tally(self._counts + counts)

    def merge(self, other: Tally) -> Tally:
        """Add what another tally of the same campaigns saw."""
        return Tally(self._counts + other._counts)

    def get(self) -> Int64:
        """The counts, int64[campaigns, len(COUNTS)]."""
        return self._counts


def metrics(
    counts: Int64,
    budget_micros: int | None = None,
    targets: ScoreTargets | None = None,
    unrecorded: Collection[str] = (),
) -> dict[str, Metric]:
    """Every published metric of one campaign's (or account's) counts, a vector of len(COUNTS).

    CTR, CVR, win rate and impression share are fractions; CVR is that of converting clicks, however many conversions
    each brings, and unknown where conversions are. CPC, CPM and CPA micros, ROAS a ratio, the score 0 … 100.
    ROAS is (revenue − refunds) / spend. A refund counts when it happens, so over a short time more may be given back
    than earned: ROAS is negative then, and not cut at 0, so that the ROAS of a whole is the mean of its parts',
    weighted by spend. No count is ever negative, and the score takes what is below 0 for 0.
    `budget_micros` is that of the period the counts cover; without it there is no budget utilisation. Frequency,
    impressions per person, is meant for counts since the run began, as people count when they are first reached; it is
    unknown where nobody was, or nobody counts them. `unrecorded`
    names counts that the log behind them does not carry: what is made of those is unknown.
    """
    values = zip(COUNTS, counts, strict=True)
    count = {name: None if name in unrecorded else int(value) for name, value in values}
    impressions, clicks, conversions = count["impressions"], count["clicks"], count["conversions"]
    converting = None if conversions is None else count["converting_clicks"]
    spend, kept = count["spend_micros"], _difference(count["revenue_micros"], count["refunds_micros"])
    rates = {
        "ctr": _ratio(clicks, impressions, Reason.NO_IMPRESSIONS),
        "cvr": _ratio(converting, clicks, Reason.NO_CLICKS),
        "cpc_micros": _ratio(spend, clicks, Reason.NO_CLICKS),
        "cpm_micros": _ratio(spend, impressions, Reason.NO_IMPRESSIONS, impressions, per=1000),
        "cpa_micros": _ratio(spend, conversions, Reason.NO_CONVERSIONS),
        "roas": _ratio(kept, spend, Reason.NO_SPEND, conversions),
        "win_rate": _ratio(impressions, count["bids"], Reason.NO_BIDS),
        "impression_share": _ratio(impressions, count["opportunities"], Reason.NO_OPPORTUNITIES),
        "budget_utilisation": _ratio(spend, budget_micros or 0, Reason.NO_BUDGET, impressions),
        "frequency": _ratio(impressions, count["people"], Reason.NO_PEOPLE),
    }
    return rates | {"score": score(rates["ctr"], rates["cvr"], rates["roas"], targets or ScoreTargets())}


def score(ctr: Metric, cvr: Metric, roas: Metric, targets: ScoreTargets) -> Metric:
    """100 · Σ weight · clip(rate / target, 0, 1) over CTR, CVR and ROAS; unknown where a component is."""
    parts = (
        (ctr.value, targets.ctr_weight, targets.ctr_target),
        (cvr.value, targets.cvr_weight, targets.cvr_target),
        (roas.value, targets.roas_weight, targets.roas_target),
    )
    total = 0.0
    for value, weight, target in parts:
        if value is None:
            return Metric(None, ctr.n, Reason.MISSING_COMPONENT)
        total += weight * min(max(value / target, 0.0), 1.0)
    return Metric(100.0 * total, ctr.n)


def shares(numerator: Int64, denominator: Int64, empty: float) -> Float64:
    """Elementwise ratio of counts, `empty` where the denominator is 0; for policies, which work on columns."""
    safe = np.maximum(denominator, 1)
    return np.where(denominator > 0, numerator / safe, empty)


def _difference(whole: int | None, part: int | None) -> int | None:
    return None if whole is None or part is None else whole - part


def _ratio(
    numerator: int | None, denominator: int | None, reason: Reason, n: int | None = None, per: int = 1
) -> Metric:
    if numerator is None or denominator is None:
        return Metric(None, 0, Reason.NOT_RECORDED)
    cases = denominator if n is None else n
    return Metric(per * numerator / denominator, cases) if denominator else Metric(None, 0, reason)


__all__ = [
    "BIDS",
    "CLICKS",
    "CONVERSIONS",
    "IMPRESSIONS",
    "OPPORTUNITIES",
    "REVENUE",
    "SPEND",
    "Metric",
    "Reason",
    "ScoreTargets",
    "Tally",
    "metrics",
    "score",
    "shares",
]
