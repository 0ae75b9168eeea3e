"""Real logs against computations of the tests' own; skipped where the data are not beside the checkout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from experiments import api
from tests.scenarios import CONFIGS, DATA

AUCTIONS = DATA / "ipinyou_1458" / "train.txt"
BINS = DATA / "ipinyou_5min" / "rtb_5min_train.csv"

pytestmark = [
    pytest.mark.real_data,
    pytest.mark.skipif(not (AUCTIONS.is_file() and BINS.is_file()), reason=f"the real logs are not in {DATA}"),
]


def shipped(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    return document


@pytest.mark.parametrize("rule", [">", ">="])
@pytest.mark.parametrize("bid", [400, 1_000, 2_700])
def test_a_constant_bid_wins_what_numpy_says(tmp_path: Path, rule: str, bid: int) -> None:
    document = shipped("ipinyou_1458")
    document["policies"] = [{"policy": "constant", "campaigns": "all"}]
    document["log"] |= {"win_rule": rule}
    document["campaigns"]["1458"] |= {"bid_micros": bid, "budget_micros": 65_000_000}
    run = api.replay(document, AUCTIONS, out=tmp_path / "run")

    log = np.loadtxt(AUCTIONS, delimiter="\t", usecols=(0, 1, 2))
    click, price, ctr = log[:, 0].astype(int), (10 * log[:, 1]).astype(int), log[:, 2]
    bids = np.floor(bid * (ctr / ctr.mean())).astype(int)
    wins = (bids > price if rule == ">" else bids >= price) & (bids >= 1)
    outside = (bids > 3_000).sum()

    assert run.totals == {
        "auctions": len(log),
        "impressions": wins.sum(),
        "clicks": click[wins].sum(),
        "conversions": None,
        "spend_micros": price[wins].sum(),
        "revenue_micros": None,
        "refunds_micros": None,
    }
    assert run.info["support"] == {
        "logged_bid_micros": 3_000,
        "bids": (bids >= 1).sum(),
        "outside": outside,
        "share_outside": outside / (bids >= 1).sum(),
    }
    assert (run.info["rejects"], run.info["actions"]["applied"]) == (0, 0)


@pytest.mark.slow
def test_the_shipped_replay_paces_within_budget_and_law(tmp_path: Path) -> None:
    run = api.replay(CONFIGS / "ipinyou_1458.yaml", AUCTIONS, out=tmp_path / "run")
    assert 0.9 * 21_500_000 < run.totals["spend_micros"] <= 21_500_000
    assert run.metrics.bid_micros.between(334, 3_000).all()
    audit = api.audit(run.folder)
    assert audit["valid"]
    assert audit["max_relative_step"] <= 0.25


@pytest.mark.slow
def test_bins_are_replayed_as_logged_and_nothing_is_applied(tmp_path: Path) -> None:
    run = api.replay(CONFIGS / "ipinyou_5min.yaml", BINS, out=tmp_path / "run")

    log = pd.read_csv(BINS, dtype={"campaign": str})
    spend = np.rint(log.total_bids_cur * log.cur_avg_bid_price * 10).astype("int64")
    rows = pd.DataFrame({"impressions": log.total_bids_cur, "clicks": log.click, "spend_micros": spend})
    expected = rows.groupby(log.campaign).sum()
    told = run.metrics.groupby(run.metrics.campaign.astype(str))[list(rows)].sum()
    pd.testing.assert_frame_equal(told, expected, check_names=False)

    days = spend.groupby([log.campaign, log.datetime.str[:10]]).sum()
    budgets = log.groupby("campaign").daily_budget.first() * 10_000
    assert run.info["overspent_days"] == (days > days.index.get_level_values(0).map(budgets)).sum() == 21
    assert run.totals["auctions"] is None
    assert run.info["rejects"] == 0
    assert set(run.actions.outcome) <= {"recorded", "refused", "needs_approval"}
    assert run.info["actions"]["recorded"] > 1_000
    assert (run.info["actions"]["applied"], api.audit(run.folder)["applied"]) == (0, 0)
    assert run.metrics.groupby("campaign", observed=True)[["bid_micros", "budget_micros"]].nunique().max().max() == 1
