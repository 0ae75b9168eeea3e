"""The gate: what it refuses and why, what it promotes, and how often it is wrong."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.features import NAMES
from agents.learned import shipped
from agents.oracle import GuardedOracle
from agents.promotion import (
    DEFAULT,
    GATE_SEEDS,
    NO_WORSE,
    Standing,
    Trial,
    Verdict,
    finding,
    findings,
    judge,
    judge_file,
    stress_sets,
    trials_of,
)
from agents.rollout import Rollout, play
from agents.tuned import Known, bidder
from engine.actions import Knob, Proposals, Source, no_proposals, proposals
from engine.campaigns import CampaignSet
from engine.policy import View
from engine.units import Float64, Int64, TickGrid
from sim.bidding import BiddingTask, Episodes

TASK = BiddingTask()
LP = bidder("lp_km", Known.of(TASK))
TRIALS = trials_of(TASK, episodes=100, seeds=(8_001,))


class Knowing(GuardedOracle):
    """Better than LP-KM everywhere: it is told the optimum."""


@dataclass(frozen=True)
class Remembering:
    """Wins on its training scenarios only: it learnt their best bids by heart, and knows each by its budget.

    To a budget it has not met it bids what was best for the nearest one that it has.
    """

    budgets: Int64
    thresholds: Float64

    @classmethod
    def of(cls, episodes: Episodes) -> Remembering:
        order = np.argsort(episodes.budget)
        return cls(episodes.budget[order], episodes.best.threshold[order])

    def start(self, campaigns: CampaignSet, grid: TickGrid) -> Any:
        return GuardedOracle().start(campaigns, grid)

    def propose(self, view: View, memory: Any) -> tuple[Proposals, Any]:
        nearest = np.abs(self.budgets - view.controls.budget[:, np.newaxis]).argmin(axis=1)
        return GuardedOracle().knowing(self.thresholds[nearest]).propose(view, memory)


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


WRONG_WORLD = replace(TASK, season=(1.5, 1.5), correlation=(-0.9, -0.6), amplitude=(-0.8, -0.4), value_sigma=(0.2, 0.3))
"""Prices swing threefold with the hour, the best is the cheapest, and traffic comes when others rest."""


@pytest.mark.slow
def test_one_that_was_trained_on_a_wrong_world_is_refused(tmp_path: Path) -> None:
    """There it beats LP-KM by points, here it loses points: what it learnt of prices does not hold."""
    pytest.importorskip("torch")
    from agents.imitation import Imitation, imitate  # noqa: PLC0415 - needs torch

    settings = Imitation(
        rounds=2, episodes=150, hidden=(16, 16), epochs=3, last_epochs=8, batch=256, learning_rate=5e-3
    )
    path = tmp_path / "policy.npz"
    imitate((WRONG_WORLD,), shipped().lp, settings, seed=7).save(path)
    there = trials_of(WRONG_WORLD, episodes=100, seeds=(8_001,))[:1]
    assert judge_file(path, LP, there).promoted
    verdict = judge_file(path, LP, TRIALS)
    assert verdict.standing is Standing.CANDIDATE
    (reason,) = verdict.reasons
    assert reason.startswith("default: the gain over LP-KM is -")
    assert reason.endswith("over 100 episodes, and its lower end must be above +0.00")
    assert verdict.findings[0].gain.high < 0


def without_checks(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> Path:
    """The shipped policy's file, changed behind the back of whoever wrote it."""
    shipped().save(path)
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    told = json.loads(str(arrays["model"][()]))
    change(told, arrays)
    arrays["model"] = np.array(json.dumps(told))
    with zipfile.ZipFile(path, "w") as file:
        for name, array in arrays.items():
            held = io.BytesIO()
            np.lib.format.write_array(held, array)
            file.writestr(f"{name}.npy", held.getvalue())
    return path


def _nan_weight(_: dict[str, Any], arrays: dict[str, Any]) -> None:
    arrays["weights_1"][3, 4] = np.nan


def _other_features(told: dict[str, Any], _: dict[str, Any]) -> None:
    told["features"][2] = "hour_of_day"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda _, __: None, None),
        (_nan_weight, "weights_1 of a learned policy must be finite numbers and holds NaN or inf"),
        (
            _other_features,
            f"features (='hour_of_day' at place 2) of a learned policy must be {NAMES[2]!r} there",
        ),
        (lambda told, _: told["features"].pop(), "features (=22 of them) of a learned policy must be the 23 of this"),
    ],
    ids=["unchanged", "a weight is NaN", "another feature", "a feature less"],
)
def test_a_file_that_cannot_be_served_is_refused_in_one_sentence(
    tmp_path: Path, change: Callable[[dict[str, Any], dict[str, Any]], None], why: str | None
) -> None:
    path = without_checks(tmp_path / "policy.npz", change)
    verdict = judge_file(path, LP, TRIALS[:1])
    if why is None:  # the same file as it was written is read and passes
        assert verdict.promoted
        return
    (reason,) = verdict.reasons
    assert (verdict.standing, verdict.findings) == (Standing.CANDIDATE, ())
    assert reason.startswith(f"{path}: {why}")
    assert reason.endswith("train it anew with 'bidtwin train'")
    assert json.loads(json.dumps(verdict.as_json())) == {"standing": "candidate", "reasons": [reason], "trials": []}


def test_one_that_wins_on_its_training_scenarios_only_is_refused() -> None:
    """It knows the optimum of the training episodes and is promoted on these; on others it bids as these wanted."""
    policy = Remembering.of(TASK.draw(1, np.arange(100)))
    assert judge(lambda: policy, LP, trials_of(TASK, episodes=100, seeds=(1,))[:1]).promoted
    verdict = judge(lambda: policy, LP, TRIALS)
    assert verdict.standing is Standing.CANDIDATE
    assert verdict.reasons[0].startswith("default: the gain over LP-KM is -")
    assert verdict.findings[0].gain.high < 0


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


POOL, REPEATS, JUDGED = 1_000, 400, 1_000 * len(GATE_SEEDS)
MISTAKES = REPEATS * 25 // 1_000
"""2.5 %."""


def trials_of_a_worse_policy() -> list[Verdict]:
    """The gate's verdicts on a policy that is worse than LP-KM by 0.2 points in every world.

    Its paired gains are real ones of traffic-aware pacing, skewed, a few lose much: in each world over the same 1,000
    episode numbers, moved to a mean of −0.2 points. A verdict has as many episodes as the gate's own, drawn from these
    with replacement and the same in every world, so that worlds stay as alike as they are.
    """
    pacing, trials = bidder("traffic_aware_pi", Known.of(TASK)), trials_of(TASK)
    rows = np.random.default_rng(2).integers(POOL, size=(JUDGED, REPEATS))
    worlds = list(dict.fromkeys((trial.task, trial.largest_step) for trial in trials))
    drawn = []
    for task, largest_step in worlds:
        episodes = task.draw(GATE_SEEDS[0], np.arange(POOL))
        one, other = (play(policy, episodes, largest_step).value for policy in (pacing, LP))
        gains = (one - other) / episodes.best.value
        drawn.append((gains - gains.mean() + NO_WORSE)[rows])
    found = findings("", np.hstack(drawn), NO_WORSE)  # world by world, a finding a verdict
    places = [worlds.index((trial.task, trial.largest_step)) * REPEATS for trial in trials]
    return [
        Verdict.on(
            [
                replace(found[place + repeat], name=trial.name, above=trial.above)
                for trial, place in zip(trials, places, strict=True)
            ]
        )
        for repeat in range(REPEATS)
    ]


@pytest.mark.slow
def test_a_policy_that_is_worse_by_a_fifth_of_a_point_is_not_accepted() -> None:
    """Measured at the gate's own 5,000 episodes a test: accepted in 0 of 400 trials.

    The test on the task itself refuses all of them: the truth lies eight standard errors below what it asks for. By
    itself a stress set would pass 3 to 7 of them (0.75 to 1.75 %), of the 10 (2.5 %) that are allowed; one that is
    wrong in 1 % of the trials fails here with a probability of 0.3 %, and the generator's seed is fixed.
    """
    verdicts = trials_of_a_worse_policy()
    assert len(verdicts) == REPEATS
    assert sum(verdict.promoted for verdict in verdicts) == 0
    passed = {
        one.name: sum(not verdict.findings[place].reasons for verdict in verdicts)
        for place, one in enumerate(verdicts[0].findings)
    }
    assert passed.pop(DEFAULT) == 0
    assert len(passed) == len(stress_sets(TASK))
    assert max(passed.values()) <= MISTAKES


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
