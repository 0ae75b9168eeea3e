"""Evaluations: closed forms of the scores, the same episodes for every policy, whatever the batch."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np
import pytest

from agents.classic import Constant
from agents.evaluation import Scores, evaluate, held_out
from agents.oracle import GuardedOracle
from agents.rollout import Played, play
from agents.tuned import MAKERS, Known, bidder
from engine.errors import BadInput
from sim.bidding import BiddingTask

TASK = BiddingTask()
WITH_TARGET = replace(TASK, target_range=(-0.45, 0.25))
KNOWN = Known.of(TASK)


def played(value: list[float], spend: list[int]) -> Played:
    nothing = np.zeros(len(value), dtype=np.int64)
    return Played(np.array(value), np.array(spend), np.empty((1, len(value)), dtype=np.int64), nothing, nothing)


def test_scores_by_hand() -> None:
    """Costs of 2 a unit against targets of 2 and 1: the first is kept, the second missed by half, weight 1/4."""
    episodes = WITH_TARGET.draw(1, np.arange(3))
    best = episodes.best._replace(value=np.array([10.0, 10.0, 10.0]))
    episodes = replace(episodes, best=best, budget=np.array([20, 40, 40]), target=np.array([2.0, 1.0, 1.0]))
    scores = Scores.of(played([5.0, 5.0, 0.0], [10, 10, 0]), episodes, played([8.0, 10.0, 1.0], [1, 1, 1]))
    np.testing.assert_allclose(scores.hindsight, [0.5, 0.5, 0.0])
    np.testing.assert_allclose(scores.score, [0.5, 0.125, 0.0])
    np.testing.assert_allclose(scores.guarded, [0.625, 0.5, 0.0])
    np.testing.assert_allclose(scores.spend, [0.5, 0.25, 0.0])
    np.testing.assert_allclose(scores.excess, [0.0, 1.0, -1.0])


def test_without_a_target_the_score_is_the_value_over_hindsight() -> None:
    episodes = TASK.draw(1, np.arange(30))
    (name, policy) = "traffic_aware_pi", bidder("traffic_aware_pi", KNOWN)
    result = evaluate({name: policy}, held_out(TASK, 30, (1,)), clock=time.perf_counter)
    alone = play(policy, episodes)
    np.testing.assert_array_equal(result.scores[name].score, alone.value / episodes.best.value)
    summary = result.summary(name)
    assert (summary.over_target, summary.gain, summary.episodes) == (None, None, 30)
    assert summary.score.mean == pytest.approx(float((alone.value / episodes.best.value).mean()))
    assert summary.spend == pytest.approx(float((alone.spend / episodes.budget).mean()))
    assert summary.refused == 0
    assert summary.microseconds > 0


def test_every_baseline_meets_the_same_episodes_whatever_the_batch() -> None:
    policies = {name: bidder(name, KNOWN, targeted=True) for name in MAKERS}
    one, other = (evaluate(policies, held_out(WITH_TARGET, 23, (5, 6), chunk)) for chunk in (23, 7))
    assert len(one.clusters) == 46
    np.testing.assert_array_equal(one.clusters, other.clusters)
    for name in MAKERS:
        for column in ("hindsight", "guarded", "score", "spend", "excess", "proposed", "refused"):
            mine, theirs = (getattr(each.scores[name], column) for each in (one, other))
            np.testing.assert_array_equal(mine, theirs, err_msg=f"{name} {column}")
    np.testing.assert_array_equal(one.scores["guarded_oracle"].guarded, 1.0)


def test_gains_are_paired() -> None:
    policies = {"still": Constant(), "again": Constant(), "oracle": GuardedOracle()}
    result = evaluate(policies, held_out(TASK, 40, (2,)))
    gain = result.summary("again", "still").gain
    assert gain is not None
    assert (gain.mean, gain.low, gain.high) == (0.0, 0.0, 0.0)
    assert result.gain("oracle", "still").low > 0.05
    assert result.summary("oracle", "oracle").gain is None


def test_no_episodes_are_refused() -> None:
    with pytest.raises(BadInput, match=r"episodes \(=0\) and seeds \(=1\) must be 1 or more: ask for some"):
        held_out(TASK, 0, (1,))
