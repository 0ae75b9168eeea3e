"""Policies compared over the same episodes: what each got of what hindsight would have, and how sure that is.

Every policy meets the same opportunities, so that two of them differ by what they do alone. Episodes come in batches
that are drawn where they are played, in this process or another's, and only a few numbers an episode are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np

from agents.oracle import GuardedOracle
from agents.rollout import LARGEST_STEP, Aiming, Played, play
from agents.statistics import Interval, interquartile_mean, interval
from engine.actions import Proposals
from engine.campaigns import CampaignSet
from engine.errors import BadInput
from engine.policy import Policy, View
from engine.units import Float64, Int64, TickGrid
from sim.bidding import Episodes

CHUNK = 500
"""Episodes of a batch: some 80 MB where each has 4,500 opportunities."""
OVER = 0.05
"""Share by which the average cost may exceed its target before an episode counts as over it."""
_LITTLE = 1e-9

_In = TypeVar("_In")
_Out = TypeVar("_Out")


class Work(Protocol):
    """Applies a function to each of some items and gives the results in order: `map`, or a pool's."""

    def __call__(self, function: Callable[[_In], _Out], items: Iterable[_In], /) -> Iterable[_Out]:
        """Apply it."""
        ...


class Batch(NamedTuple):
    """Episodes that are drawn when they are played."""

    draw: Callable[[], Episodes]  # picklable
    clusters: Int64  # int64[n], episodes with the same number share their luck


class Task(Protocol):
    """A distribution of episodes: `sim.bidding.BiddingTask`, or one over a log."""

    def draw(self, seed: int, numbers: Int64) -> Episodes:
        """The episodes of these numbers under a seed."""
        ...


def held_out(task: Task, episodes: int, seeds: Sequence[int], chunk: int = CHUNK) -> list[Batch]:
    """So many episodes of a task under each of the seeds, in batches."""
    if episodes < 1 or not seeds:
        raise BadInput(f"episodes (={episodes}) and seeds (={len(seeds)}) must be 1 or more: ask for some")
    batches = []
    for place, seed in enumerate(seeds):
        for first in range(0, episodes, chunk):
            numbers = np.arange(first, min(first + chunk, episodes))
            batches.append(Batch(partial(task.draw, seed, numbers), place * episodes + numbers))
    return batches


@dataclass(frozen=True)
class Scores:
    """What a policy did in n episodes, a column each.

    hindsight, guarded:
        float64[n], value over that of the hindsight optimum, and of the guarded oracle.
    score:
        float64[n], value · min(1, (target / average cost)²) over the optimum's value, as the NeurIPS 2024 auto-bidding
        competition weighs it (Su et al., AuctionNet, section 5); without a target that is `hindsight`.
    spend:
        float64[n], share of the budget.
    excess:
        float64[n], average cost over its target, less 1; NaN without a target, −1 where nothing was bought.
    proposed, refused:
        int64[n], bids proposed, and refused by the guard.
    """

    hindsight: Float64
    guarded: Float64
    score: Float64
    spend: Float64
    excess: Float64
    proposed: Int64
    refused: Int64

    @classmethod
    def of(cls, played: Played, episodes: Episodes, guarded: Played) -> Scores:
        """From what was played, and what the guarded oracle got."""
        best = np.maximum(episodes.best.value, _LITTLE)
        hindsight = played.value / best
        if episodes.target is None:
            excess, weight = np.full(len(episodes), np.nan), np.ones(len(episodes))
        else:
            allowed = episodes.target * np.maximum(played.value, _LITTLE)
            excess = played.spend / allowed - 1
            weight = np.minimum(1.0, (allowed / np.maximum(played.spend, 1)) ** 2)
        return cls(
            hindsight=hindsight,
            guarded=played.value / np.maximum(guarded.value, _LITTLE),
            score=hindsight * weight,
            spend=played.spend / episodes.budget,
            excess=excess,
            proposed=played.proposed,
            refused=played.refused,
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Scores]) -> Scores:
        """One of several, in order."""
        return cls(*(np.concatenate([getattr(part, each.name) for part in parts]) for each in fields(cls)))


@dataclass(frozen=True)
class Summary:
    """What a policy is worth, in numbers that a table holds.

    `over_target` is None without targets, `gain` (of the score, over the reference's) None for the reference itself;
    `microseconds` is the time of a decision for one campaign among a batch's.
    """

    policy: str
    episodes: int
    hindsight: Interval
    guarded: Interval
    score: Interval
    interquartile_mean: float
    fifth_percentile: float
    spend: float
    over_target: float | None
    refused: float
    microseconds: float
    gain: Interval | None


@dataclass(frozen=True)
class Evaluation:
    """Policies by name with their scores over the same episodes, and the seconds that each took to decide."""

    scores: Mapping[str, Scores]
    clusters: Int64
    seconds: Mapping[str, float]
    steps: int

    def summary(self, name: str, reference: str | None = None) -> Summary:
        """What one policy is worth, and what it gains over a reference."""
        mine = self.scores[name]
        n = len(mine.score)
        has_target = not np.isnan(mine.excess).all()
        return Summary(
            policy=name,
            episodes=n,
            hindsight=interval(mine.hindsight, self.clusters),
            guarded=interval(mine.guarded, self.clusters),
            score=interval(mine.score, self.clusters),
            interquartile_mean=interquartile_mean(mine.score),
            fifth_percentile=float(np.quantile(mine.score, 0.05)),
            spend=float(mine.spend.mean()),
            over_target=float((mine.excess > OVER).mean()) if has_target else None,
            refused=float(mine.refused.sum() / max(mine.proposed.sum(), 1)),
            microseconds=self.seconds[name] / (n * (self.steps - 1)) * 1e6,
            gain=None if reference in (None, name) else self.gain(name, str(reference)),
        )

    def gain(self, name: str, reference: str) -> Interval:
        """By how much a policy's score exceeds another's, paired by episode."""
        return interval(self.difference(name, reference), self.clusters)

    def difference(self, name: str, reference: str) -> Float64:
        """The same in every episode; float64[n]."""
        difference: Float64 = self.scores[name].score - self.scores[reference].score
        return difference


Clock = Callable[[], float]


def _stopped() -> float:
    return 0.0


def evaluate(
    policies: Mapping[str, Policy],
    batches: Sequence[Batch],
    *,
    largest_step: Fraction = LARGEST_STEP,
    work: Work = map,
    clock: Clock = _stopped,
) -> Evaluation:
    """Play every policy in every episode of the batches; `GuardedOracle` is told the hindsight optimum.

    Parameters
    ----------
    largest_step:
        As of `agents.rollout.Rollout`.
    work:
        Where the batches are played: `map` plays them here, a pool's `map` in several processes. The scores are the
        same.
    clock:
        Seconds, to time decisions (picklable, as `time.perf_counter`); by default it stands still and they take 0.
    """
    played = list(work(partial(_played, dict(policies), largest_step, clock), [batch.draw for batch in batches]))
    return Evaluation(
        scores={name: Scores.concatenate([part.scores[name] for part in played]) for name in policies},
        clusters=np.concatenate([batch.clusters for batch in batches]),
        seconds={name: sum(part.seconds[name] for part in played) for name in policies},
        steps=played[0].steps,
    )


class _Part(NamedTuple):
    """A batch as played."""

    scores: dict[str, Scores]
    seconds: dict[str, float]
    steps: int


def _played(policies: dict[str, Policy], largest_step: Fraction, clock: Clock, draw: Callable[[], Episodes]) -> _Part:
    episodes = draw()
    guarded = play(GuardedOracle().knowing(episodes.best.threshold), episodes, largest_step)
    scores, seconds = {}, {}
    for name, policy in policies.items():
        timed = _Timed(_told(policy, episodes), clock)
        scores[name] = Scores.of(play(timed, episodes, largest_step), episodes, guarded)
        seconds[name] = timed.seconds
    return _Part(scores, seconds, episodes.steps)


def _told(policy: Policy, episodes: Episodes) -> Policy:
    """The policy for these episodes: told their targets where it can aim, and the oracle their optimum."""
    if isinstance(policy, GuardedOracle):
        return policy.knowing(episodes.best.threshold)
    if episodes.target is not None and isinstance(policy, Aiming):
        return policy.aiming_at(episodes.target)
    return policy


class _Timed:
    """A policy, and the seconds it took to decide."""

    def __init__(self, policy: Policy, clock: Clock) -> None:
        self.seconds = 0.0
        self._clock = clock
        self._policy = policy

    def start(self, campaigns: CampaignSet, grid: TickGrid) -> Any:
        """The policy's own memory."""
        return self._policy.start(campaigns, grid)

    def propose(self, view: View, memory: Any) -> tuple[Proposals, Any]:
        """The policy's own proposals."""
        began = self._clock()
        answer = self._policy.propose(view, memory)
        self.seconds += self._clock() - began
        return answer
