"""The gate of learned policies: one bids only if it is shown to be better than tuned LP-KM, and nowhere much worse.

On held-out campaigns, under the same random numbers, the mean of its paired gain in score must have an interval above 0
on the task itself, and above −0.2 points on every stress set. Real gains are skewed, a few campaigns lose much, so that
the lower end of a two-sided 95 % interval over 1,000 of them lies above the truth in 3.5 % of the trials instead of
2.5 %; the gate therefore asks it of a 98 % interval. One that has to pass all the tests does so more rarely still.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from fractions import Fraction
from pathlib import Path

from agents.evaluation import Batch, Evaluation, Work, evaluate, held_out
from agents.learned import Learned, Model
from agents.rollout import LARGEST_STEP
from agents.statistics import Interval, interval, intervals
from engine.errors import BadInput
from engine.policy import Policy
from engine.units import Float64, Int64
from sim.bidding import BiddingTask

GATE_SEEDS = (8_001, 8_002, 8_003, 8_004, 8_005)
"""Held out for the gate: neither of training nor of tuning, nor of the evaluation that is published."""
POINT = 0.01
NO_WORSE = -0.2 * POINT
"""What a stress set may cost at most."""
LEVEL = 0.98
"""Of the intervals, two-sided."""
DEFAULT = "default"
_LEARNED, _REFERENCE = "candidate", "lp_km"


class Standing(StrEnum):
    """Whether a learned policy may bid."""

    PROMOTED = "promoted"
    CANDIDATE = "candidate"


@dataclass(frozen=True)
class Trial:
    """One of the gate's tests: on which episodes, under which guard, and above which the gain's interval must lie."""

    name: str
    task: BiddingTask
    above: float
    episodes: int
    seeds: tuple[int, ...]
    largest_step: Fraction = LARGEST_STEP

    def batches(self) -> list[Batch]:
        """The episodes."""
        return held_out(self.task, self.episodes, self.seeds)


def stress_sets(task: BiddingTask) -> dict[str, tuple[BiddingTask, Fraction]]:
    """The worlds and guards a policy has to stand beside its task's own, by name."""
    worlds = {
        "start error 0.2": replace(task, start_sigma=0.2),
        "start error 0.5": replace(task, start_sigma=0.5),
        "start error 1.0": replace(task, start_sigma=1.0),
        "no shift": replace(task, shift_share=0.0),
        "always a shift": replace(task, shift_share=1.0),
    }
    guards = {f"guard {percent} %": Fraction(percent, 100) for percent in (5, 10, 25)}
    return {name: (world, LARGEST_STEP) for name, world in worlds.items()} | {
        name: (task, step) for name, step in guards.items()
    }


def trials_of(
    task: BiddingTask,
    episodes: int = 1_000,
    seeds: tuple[int, ...] = GATE_SEEDS,
    stress_episodes: int | None = None,
) -> tuple[Trial, ...]:
    """The gate's tests for a policy of a task: the task itself first, then every stress set.

    Episodes are those of each seed; the stress sets have as many as the task unless told otherwise.
    """
    fewer = episodes if stress_episodes is None else stress_episodes
    stress = (Trial(name, world, NO_WORSE, fewer, seeds, step) for name, (world, step) in stress_sets(task).items())
    return Trial(DEFAULT, task, 0.0, episodes, seeds), *stress


@dataclass(frozen=True)
class Finding:
    """What a trial found: the paired gain in score, and what was asked of its interval."""

    name: str
    gain: Interval
    above: float
    episodes: int
    refused: int

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why this does not do, in words; nothing where it does."""
        found = []
        if not self.gain.low > self.above:
            mean, low, high, above = (x / POINT for x in (self.gain.mean, self.gain.low, self.gain.high, self.above))
            found.append(
                f"{self.name}: the gain over LP-KM is {mean:+.2f} points [{low:+.2f}, {high:+.2f}] over "
                f"{self.episodes} episodes, and its lower end must be above {above:+.2f}"
            )
        if self.refused:
            found.append(f"{self.name}: the guard refused {self.refused} of its bids, and must refuse none")
        return tuple(found)


@dataclass(frozen=True)
class Verdict:
    """Whether a learned policy may bid, why not where it may not, and what was measured."""

    standing: Standing
    reasons: tuple[str, ...]
    findings: tuple[Finding, ...]

    @classmethod
    def on(cls, findings: Sequence[Finding]) -> Verdict:
        """What the findings of all trials come to."""
        reasons = tuple(reason for finding in findings for reason in finding.reasons)
        return cls(Standing.CANDIDATE if reasons else Standing.PROMOTED, reasons, tuple(findings))

    @property
    def promoted(self) -> bool:
        """Whether it may bid."""
        return self.standing is Standing.PROMOTED

    def as_json(self) -> dict[str, object]:
        """As a model's card holds it; gains in points."""
        rows = [
            {
                "trial": each.name,
                "gain_points": round(each.gain.mean / POINT, 4),
                "low_points": round(each.gain.low / POINT, 4),
                "high_points": round(each.gain.high / POINT, 4),
                "above_points": round(each.above / POINT, 4),
                "episodes": each.episodes,
                "refused": each.refused,
            }
            for each in self.findings
        ]
        return {"standing": self.standing.value, "reasons": list(self.reasons), "trials": rows}


def judge(read: Callable[[], Policy], reference: Policy, trials: Sequence[Trial], *, work: Work = map) -> Verdict:
    """Hold a learned policy to the gate.

    Parameters
    ----------
    read:
        Gives the policy; one that cannot be read (other features, weights that are no numbers) is a candidate at once.
    reference:
        Tuned LP-KM.
    trials:
        As of `trials_of`. Where a policy fails the first, the others are left out: nothing they could find would help.
    """
    try:
        policy = read()
    except BadInput as error:
        return Verdict(Standing.CANDIDATE, (str(error),), ())
    known: dict[tuple[BiddingTask, Fraction], Evaluation] = {}  # some stress sets are a task's own world
    findings: list[Finding] = []
    for trial in trials:
        world = trial.task, trial.largest_step
        if world not in known or len(known[world].clusters) != trial.episodes * len(trial.seeds):
            policies = {_LEARNED: policy, _REFERENCE: reference}
            known[world] = evaluate(policies, trial.batches(), largest_step=trial.largest_step, work=work)
        findings.append(_found(trial, known[world]))
        if findings[0].reasons:
            break
    return Verdict.on(findings)


def judge_file(path: Path, reference: Policy, trials: Sequence[Trial], *, work: Work = map) -> Verdict:
    """Hold the policy of a `.npz` file to the gate, as `judge` does: what is judged is what would bid."""
    return judge(lambda: Learned(Model.load(path)), reference, trials, work=work)


def _found(trial: Trial, evaluation: Evaluation) -> Finding:
    refused = int(evaluation.scores[_LEARNED].refused.sum())
    return finding(trial.name, evaluation.difference(_LEARNED, _REFERENCE), trial.above, evaluation.clusters, refused)


def finding(name: str, gains: Float64, above: float, clusters: Int64 | None = None, refused: int = 0) -> Finding:
    """What paired gains (float64[n]) come to."""
    return Finding(name, interval(gains, clusters, level=LEVEL), above, len(gains), refused)


def findings(name: str, gains: Float64, above: float) -> list[Finding]:
    """What each of m columns of paired gains (float64[n, m]) comes to, as `finding` tells it of one."""
    return [Finding(name, each, above, len(gains), 0) for each in intervals(gains, level=LEVEL)]
