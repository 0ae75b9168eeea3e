"""Every benchmark runs at a small size and tells what it documents; no time is asserted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine.errors import BadInput
from engine.events import CLICKS, CONVERSIONS, IMPRESSIONS, SPEND
from engine.judgement import Outcome
from engine.ledger import decode_round
from engine.runtime.local import LocalRunner
from engine.runtime.plan import partition
from engine.runtime.store import LEDGER, read_ledger
from experiments.benchmarks import (
    BENCHMARKS,
    auction_multi,
    auction_single,
    episode_48x500k,
    guard,
    run_benchmarks,
    scaling,
    tick_overhead,
)

KEYS = ["name", "rate", "unit", "baseline", "baseline_rate", "ratio", "peak_rss_mb"]


def rows_are_documented(rows: list[dict[str, object]], names: list[str]) -> None:
    assert [row["name"] for row in rows] == names
    for row in rows:
        assert list(row) == KEYS
        assert isinstance(row["unit"], str)
        assert isinstance(row["baseline"], str)
        figures = {key: row[key] for key in KEYS if key not in {"name", "unit", "baseline"}}
        assert all(isinstance(figure, float) and 0 < figure < float("inf") for figure in figures.values()), figures


def test_auction_single_runs_small() -> None:
    rows_are_documented(run_benchmarks("auction_single", small=True), ["auction_single"])


def test_guard_runs_small() -> None:
    rows_are_documented(run_benchmarks("guard", small=True), ["guard"])


def test_env_steps_runs_small() -> None:
    rows_are_documented(run_benchmarks("env_steps", small=True), ["env_steps"])


def test_guard_judges_what_it_claims() -> None:
    job = guard.busy(500)
    for sequence in (1, 2):
        judged = job.judge(sequence)
        guard.check_round(judged)
        counts = {outcome: judged.count(outcome) for outcome in Outcome}
        assert counts == {Outcome.APPROVED: 460, Outcome.NEEDS_APPROVAL: 0, Outcome.REFUSED: 40}
        assert (judged.offer[judged.outcome == Outcome.REFUSED] > 0).all()
    with pytest.raises(RuntimeError, match=r"^0 of 500 rows are refused where one bid in ten is due"):
        guard.check_round(replace(judged, outcome=np.zeros_like(judged.outcome)))


@pytest.mark.ray
@pytest.mark.slow
def test_all_run_small() -> None:
    rows_are_documented(run_benchmarks(small=True), list(BENCHMARKS))


def test_an_unknown_name_is_told_the_nearest() -> None:
    with pytest.raises(BadInput) as caught:
        run_benchmarks("auction_singel")
    names = ", ".join(BENCHMARKS)
    assert str(caught.value) == (f"benchmark (='auction_singel') must be one of {names}: did you mean auction_single?")


def test_an_unknown_name_that_is_like_none_is_told_what_to_do() -> None:
    with pytest.raises(BadInput, match=r": leave it out to run them all$"):
        run_benchmarks("zzz")


def test_world_and_numpy_hold_the_same_auction() -> None:
    n = 400_000
    factory, controls = auction_single.world(n)
    batch = factory(np.zeros(1, dtype=np.int64)).advance(0, 1, controls)
    counts = batch.counts.values[0, 0]
    impressions, clicks, spend = auction_single.numpy_auctions(n, np.random.default_rng(5))
    won = counts[IMPRESSIONS] / batch.auctions
    assert 0.29 < won < 0.31
    assert won == pytest.approx(impressions / n, abs=5 * (2 * 0.21 / n) ** 0.5)
    assert counts[CLICKS] == pytest.approx(clicks, abs=5 * (2 * clicks) ** 0.5)
    assert counts[SPEND] / counts[IMPRESSIONS] == pytest.approx(spend / impressions, rel=0.01)


def test_steering_moves_every_bid_at_every_tick_for_days(tmp_path: Path) -> None:
    plan = tick_overhead.steering(50, 144)
    LocalRunner().run(plan, tmp_path)
    rounds = list(read_ledger(tmp_path / LEDGER))[1:-1]
    assert len(rounds) == 143
    tick_overhead.check(plan, tmp_path)


def test_auction_multi_and_its_baseline_hold_the_same_auctions() -> None:
    """Impressions, clicks and spend of 40,000 auctions agree within five standard errors, bounded above by theirs."""
    factory, controls = auction_multi.world(40_000)
    batch = factory(np.arange(auction_multi.BIDDERS)).advance(0, 1, controls)
    told = (IMPRESSIONS, CLICKS, CONVERSIONS, SPEND)
    mine = np.array([batch.auctions, *batch.counts.values[:, :, told].sum(axis=(0, 1))])
    theirs = auction_multi.numpy_totals(int(mine[0]), np.random.default_rng(7))
    assert theirs[0] == mine[0]
    impressions, clicks, spend = (np.array([mine[at], theirs[at]], dtype=float) for at in (1, 2, 4))
    assert abs(np.subtract(*impressions)) < 5 * np.sqrt(
        2 * 0.5 * mine[0]
    )  # up to three of an auction, exclusive in parts
    assert abs(np.subtract(*clicks)) < 5 * np.sqrt(clicks.sum())
    assert abs(np.subtract(*spend / impressions)) < 5 * 10_000 * np.sqrt(2 / impressions.min())
    assert mine[3] > 0


def test_an_episode_steers_every_campaign(tmp_path: Path) -> None:
    plan = episode_48x500k.episode(20_000)
    outcome = LocalRunner().run(plan, tmp_path)
    assert abs(outcome.totals.auctions - 20_000) < 5 * np.sqrt(20_000)
    moved = {
        int(campaign)
        for record in list(read_ledger(tmp_path / LEDGER))[1:-1]
        for campaign in decode_round(record).judged["campaign"]
    }
    assert moved == set(range(48))


def test_scaling_gives_every_shard_half_of_the_markets() -> None:
    assert [part.tolist() for part in partition(scaling.busy(1_000).campaigns, 2)] == [[0, 2], [1, 3]]
