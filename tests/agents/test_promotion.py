"""The gate: what it refuses and why, what it promotes, and how often it is wrong."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from agents.evaluation import evaluate, held_out
from agents.oracle import GuardedOracle
from agents.promotion import DEFAULT, NO_WORSE, Standing, Trial, Verdict, finding, judge, stress_sets, trials_of
from agents.rollout import Rollout
from agents.tuned import Known, bidder
from engine.actions import Knob, Proposals, Source, no_proposals, proposals
from engine.campaigns import CampaignSet
from engine.errors import BadInput
from engine.policy import Policy, View
from engine.units import Float64, TickGrid
from sim.bidding import BiddingTask

TASK = BiddingTask()
LP = bidder("lp_km", Known.of(TASK))
TRIALS = trials_of(TASK, episodes=100, seeds=(8_001,))


class Knowing(GuardedOracle):
    """Better than LP-KM everywhere: it is told the optimum."""


@dataclass(frozen=True)
class Remembering:
    """Wins on its training scenarios only: it learnt their best bids by heart, and knows each by its first bid."""

    learnt: dict[int, float]
    inner: Policy

    def start(self, campaigns: CampaignSet, grid: TickGrid) -> Any:
        return self.inner.start(campaigns, grid), None

    def propose(self, view: View, memory: Any) -> tuple[Proposals, Any]:
        anchors = view.controls.anchor[:, Knob.BID].tolist()
        known = np.array([self.learnt.get(anchor, float(anchor)) for anchor in anchors])
        rows, _ = replace(GuardedOracle(), thresholds=tuple(known)).propose(view, _bounds(view))
        return rows, memory


def _bounds(view: View) -> Any:
    n = len(view.controls.bid)
    return np.ones(n, dtype=np.int64), np.full(n, 2**40), np.arange(n + 1)


class Grasping:
    """Asks for more than the guard ever lets pass."""

    def start(self, campaigns: CampaignSet, grid: TickGrid) -> None:  # noqa: ARG002 - the protocol's signature
        return None

    def propose(self, view: View, memory: None) -> tuple[Proposals, None]:
        rows = np.arange(len(view.controls.bid))
        version = view.controls.version[:, Knob.BID]
        return proposals(rows, Knob.BID, 2 * view.controls.bid, version, Source.POLICY, "grasping"), memory


@pytest.mark.slow
def test_a_policy_that_is_better_everywhere_is_promoted_and_says_by_how_much() -> None:
    trials = [trial for trial in TRIALS if trial.name != "guard 5 %"]  # in which its way is longer than LP-KM's
    verdict = judge(Knowing, LP, trials)
    assert verdict.standing is Standing.PROMOTED
    assert verdict.promoted
    assert verdict.reasons == ()
    assert [each.name for each in verdict.findings] == [each.name for each in trials]
    assert all(each.gain.low > each.above for each in verdict.findings)
    told = json.loads(json.dumps(verdict.as_json()))
    assert told["standing"] == "promoted"
    assert [row["above_points"] for row in told["trials"]] == [0.0] + [-0.2] * 7


def test_the_reference_itself_is_not_better() -> None:
    verdict = judge(lambda: LP, LP, TRIALS)
    assert verdict.standing is Standing.CANDIDATE
    assert verdict.reasons == (
        "default: the gain over LP-KM is +0.00 points [+0.00, +0.00] over 100 episodes, "
        "and its lower end must be above +0.00",
    )
    assert len(verdict.findings) == 1


def test_one_of_the_wrong_world_is_refused() -> None:
    """Pacing that knows another day's curve, half a day off, as one trained elsewhere would."""
    wrong = bidder("lp_km", Known.of(replace(TASK, known_amplitude=0.0, half_amplitude=0.0)))
    assert not judge(lambda: wrong, LP, TRIALS).promoted


def test_one_that_cannot_be_read_is_refused_in_its_own_words() -> None:
    def read() -> Policy:
        raise BadInput("weights_0 of a learned policy must be finite numbers and holds NaN or inf: train it anew")

    verdict = judge(read, LP, TRIALS)
    assert verdict == Verdict(
        Standing.CANDIDATE,
        ("weights_0 of a learned policy must be finite numbers and holds NaN or inf: train it anew",),
        (),
    )


def test_one_that_wins_on_its_training_scenarios_only_is_refused() -> None:
    """It knows the optimum of the training episodes and would be promoted on these; on others its bid is constant."""
    training = trials_of(TASK, episodes=100, seeds=(1,))[:1]
    episodes = TASK.draw(1, np.arange(100))
    learnt = dict(zip(episodes.bid.tolist(), episodes.best.threshold.tolist(), strict=True))
    policy = Remembering(learnt, LP)
    assert judge(lambda: policy, LP, training).promoted
    assert not judge(lambda: policy, LP, TRIALS[:1]).promoted


def test_one_whose_bids_the_guard_refuses_is_refused() -> None:
    reasons = judge(Grasping, LP, TRIALS[:1]).reasons
    assert reasons[-1] == "default: the guard refused 4700 of its bids, and must refuse none"


def test_one_that_fails_a_stress_set_alone_is_refused_for_it() -> None:
    gains = np.random.default_rng(1).normal(0.01, 0.02, 500)
    fine = finding(DEFAULT, gains, 0.0)
    bad = finding("guard 5 %", gains - 0.02, NO_WORSE)
    verdict = Verdict.on([fine, bad])
    assert not verdict.promoted
    (reason,) = verdict.reasons
    assert reason.startswith("guard 5 %: the gain over LP-KM is -1.0")
    assert reason.endswith("its lower end must be above -0.20")


@pytest.fixture(scope="module")
def real_gains() -> Float64:
    """Paired gains of traffic-aware pacing over LP-KM, an episode each: mean −0.2 points, skewed, a few lose much."""
    policies = {"one": bidder("traffic_aware_pi", Known.of(TASK)), "lp": LP}
    return evaluate(policies, held_out(TASK, 1_000, (8_001,))).difference("one", "lp")


@pytest.mark.slow
def test_a_policy_that_is_worse_by_a_fifth_of_a_point_seldom_passes_a_stress_set(real_gains: Float64) -> None:
    """In at most 2.5 % of 400 trials, each of 500 gains drawn from real ones that are moved to −0.2 points.

    Measured with 2,000 trials: see the study bidding_table. A gate wrong in 1.5 % of the trials fails here with
    probability 0.04; the generator's seed is fixed.
    """
    generator = np.random.default_rng(2)
    moved = real_gains - real_gains.mean() + NO_WORSE
    passed = sum(not finding("stress", generator.choice(moved, 500), NO_WORSE).reasons for _ in range(400))
    assert passed <= 10


def test_and_never_the_whole_gate(real_gains: Float64) -> None:
    """It would have to lie above 0 on the task as well: in none of 400 trials of 500 gains."""
    generator = np.random.default_rng(3)
    moved = real_gains - real_gains.mean() + NO_WORSE
    assert all(finding(DEFAULT, generator.choice(moved, 500), 0.0).reasons for _ in range(400))


def test_stress_sets_are_what_they_say() -> None:
    sets = stress_sets(TASK)
    assert [sets[f"start error {error}"][0].start_sigma for error in ("0.2", "0.5", "1.0")] == [0.2, 0.5, 1.0]
    assert (sets["no shift"][0].shift_share, sets["always a shift"][0].shift_share) == (0.0, 1.0)
    assert [sets[f"guard {percent} %"][1] for percent in (5, 10, 25)] == [
        Fraction(1, 20),
        Fraction(1, 10),
        Fraction(1, 4),
    ]


def test_trials_may_be_smaller_on_stress_sets() -> None:
    default, *stress = trials_of(TASK, 1_000, (1, 2), 300)
    assert (default.episodes, {each.episodes for each in stress}) == (1_000, {300})
    assert isinstance(default, Trial)
    assert sum(len(batch.clusters) for batch in stress[0].batches()) == 600


def test_a_narrower_guard_clips_and_leaves_what_is_within_it() -> None:
    episodes = TASK.draw(1, np.arange(20))
    rollout = Rollout(episodes, Fraction(1, 10))
    view = rollout.advance()
    rows, _ = Grasping().propose(view, None)
    judgement = rollout.act(rows)
    assert len(judgement.approved) == 20
    np.testing.assert_array_equal(rollout.controls.bid, episodes.bid + episodes.bid // 10)
    assert len(rollout.act(no_proposals()).approved) == 0
