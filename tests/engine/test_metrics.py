from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.errors import BadInput
from engine.events import COUNTS
from engine.metrics import Metric, Reason, ScoreTargets, Tally, metrics, score, shares
from engine.units import Int64


def known(value: float) -> Metric:
    return Metric(value, 1)


@pytest.mark.parametrize(
    ("ctr", "cvr", "roas", "expected"),
    [(0.05, 0.10, 3.0, 100.0), (0.025, 0.05, 1.5, 50.0), (0.10, 0.30, 9.0, 100.0), (0.0, 0.0, 0.0, 0.0)],
)
def test_the_scores_golden_values(ctr: float, cvr: float, roas: float, expected: float) -> None:
    assert score(known(ctr), known(cvr), known(roas), ScoreTargets()) == Metric(expected, 1)


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_missing_component_leaves_the_score_unknown(missing: int) -> None:
    parts = [known(0.05), known(0.1), known(3.0)]
    parts[missing] = Metric(None, 1, Reason.NO_CLICKS)
    assert score(*parts, ScoreTargets()) == Metric(None, 1, Reason.MISSING_COMPONENT)


def test_other_weights_and_targets() -> None:
    targets = ScoreTargets(ctr_weight=0.5, cvr_weight=0.5, roas_weight=0.0, ctr_target=0.1, cvr_target=0.2)
    assert score(known(0.05), known(0.05), known(0.0), targets) == Metric(37.5, 1)


def counts(**named: int) -> Int64:
    return np.array([named.get(name, 0) for name in COUNTS], dtype=np.int64)


def test_every_metric_of_a_campaign() -> None:
    seen = counts(
        opportunities=1000,
        bids=500,
        impressions=200,
        clicks=10,
        conversions=3,
        converting_clicks=2,
        spend_micros=6_000_000,
        revenue_micros=16_000_000,
        refunds_micros=1_000_000,
        people=80,
    )
    assert metrics(seen, budget_micros=12_000_000) == {
        "ctr": Metric(0.05, 200),
        "cvr": Metric(0.2, 10),
        "cpc_micros": Metric(600_000.0, 10),
        "cpm_micros": Metric(30_000_000.0, 200),
        "cpa_micros": Metric(2_000_000.0, 3),
        "roas": Metric(2.5, 3),
        "win_rate": Metric(0.4, 500),
        "impression_share": Metric(0.2, 1000),
        "budget_utilisation": Metric(0.5, 200),
        "frequency": Metric(2.5, 80),
        "score": Metric(100 * (0.3 + 0.3 + 0.4 * (2.5 / 3.0)), 200),
    }


def test_nothing_seen_is_unknown_with_its_reason_never_zero_or_nan() -> None:
    assert metrics(counts()) == {
        "ctr": Metric(None, 0, Reason.NO_IMPRESSIONS),
        "cvr": Metric(None, 0, Reason.NO_CLICKS),
        "cpc_micros": Metric(None, 0, Reason.NO_CLICKS),
        "cpm_micros": Metric(None, 0, Reason.NO_IMPRESSIONS),
        "cpa_micros": Metric(None, 0, Reason.NO_CONVERSIONS),
        "roas": Metric(None, 0, Reason.NO_SPEND),
        "win_rate": Metric(None, 0, Reason.NO_BIDS),
        "impression_share": Metric(None, 0, Reason.NO_OPPORTUNITIES),
        "budget_utilisation": Metric(None, 0, Reason.NO_BUDGET),
        "frequency": Metric(None, 0, Reason.NO_PEOPLE),
        "score": Metric(None, 0, Reason.MISSING_COMPONENT),
    }


def test_more_given_back_than_earned_is_a_roas_below_nothing_and_the_whole_is_the_mean_of_its_parts() -> None:
    week = counts(impressions=100, clicks=5, conversions=3, spend_micros=3_000, revenue_micros=9_000)
    after = counts(impressions=10, clicks=1, conversions=0, spend_micros=1_000, revenue_micros=0, refunds_micros=3_000)
    assert [metrics(each)["roas"].value for each in (week, after, week + after)] == [3.0, -3.0, 1.5]
    assert metrics(after)["score"] == Metric(100 * 0.3, 10)  # CTR alone


def test_without_the_refunds_roas_is_not_known() -> None:
    seen = counts(spend_micros=5, revenue_micros=10)
    assert metrics(seen, unrecorded=["refunds_micros"])["roas"] == Metric(None, 0, Reason.NOT_RECORDED)


def test_no_budget_no_utilisation() -> None:
    assert metrics(counts(spend_micros=5))["budget_utilisation"] == Metric(None, 0, Reason.NO_BUDGET)


NAN = float("nan")


@pytest.mark.parametrize("weights", [(0.3, 0.3, 0.3), (-0.2, 0.6, 0.6), (NAN, 0.5, 0.5)])
def test_weights_that_are_none_are_refused(weights: tuple[float, float, float]) -> None:
    with pytest.raises(BadInput) as refusal:
        ScoreTargets(*weights)
    assert str(refusal.value) == f"score weights (={weights}) must be >= 0 and sum to 1: scale them"


@pytest.mark.parametrize("target", [0.0, -1.0, NAN, float("inf")])
def test_targets_that_are_none_are_refused(target: float) -> None:
    with pytest.raises(BadInput) as refusal:
        ScoreTargets(cvr_target=target)
    assert str(refusal.value) == (
        f"score targets (=(0.05, {target}, 3.0)) must be > 0 and finite: give a component no weight instead"
    )


def test_shares_work_on_columns() -> None:
    assert shares(np.array([1, 0, 3]), np.array([2, 0, 3]), empty=0.25).tolist() == [0.5, 0.25, 1.0]


_COUNTS = st.lists(st.integers(0, 10**15), min_size=2 * len(COUNTS), max_size=2 * len(COUNTS)).map(
    lambda values: np.array(values, dtype=np.int64).reshape(2, len(COUNTS))
)


@settings(derandomize=True, max_examples=100)
@given(st.lists(_COUNTS, max_size=6), st.integers(0, 6))
def test_merging_two_tallies_is_updating_over_both(seen: list[Int64], cut: int) -> None:
    both, first, second = Tally.zero(2), Tally.zero(2), Tally.zero(2)
    for place, one in enumerate(seen):
        both = both.update(one)
        first, second = (first.update(one), second) if place < cut else (first, second.update(one))
    expected = sum(seen, start=np.zeros((2, len(COUNTS)), dtype=np.int64))
    assert both.get().tolist() == first.merge(second).get().tolist() == second.merge(first).get().tolist()
    assert both.get().tolist() == expected.tolist()
