"""Settings of a policy searched for over episodes: random search in rounds, each of fewer policies and more episodes.

Successive halving (Jamieson and Talwalkar, AISTATS 2016, section 2) under common random numbers: all candidates of a
round play the same episodes. After the first round the best are joined by as many neighbours of theirs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from agents.evaluation import Evaluation, Work, evaluate, held_out
from agents.statistics import Interval
from engine.policy import Policy
from sim.bidding import BiddingTask

TUNING_SEEDS = (7_001, 7_002)
"""Of the episodes that settings are searched on; those of the gate and of evaluations are others."""
ROUNDS = ((32, 300), (16, 1_000), (4, 2_000))
"""Candidates, and episodes under each seed."""
_NEIGHBOURHOOD = 0.15  # of a setting's range


class Span(NamedTuple):
    """Where a setting is searched; `log`: evenly in its logarithm."""

    low: float
    high: float
    log: bool = True

    def at(self, share: float) -> float:
        """The value at a share of the way from low to high, to three digits: more are chance."""
        share = min(max(share, 0.0), 1.0)
        ends = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        value = ends[0] + share * (ends[1] - ends[0])
        return float(f"{math.exp(value) if self.log else value:.3g}")

    def share(self, value: float) -> float:
        """How far along a value lies."""
        low, high, here = (
            (math.log(each) for each in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        return (here - low) / (high - low)


class Found(NamedTuple):
    """The best settings, their score, and what they gain over those that the search started from."""

    settings: dict[str, float]
    score: Interval
    gain: Interval


def search(
    make: Callable[[Mapping[str, float]], Policy],
    spans: Mapping[str, Span],
    first: Mapping[str, float],
    task: BiddingTask,
    *,
    seed: int,
    seeds: Sequence[int] = TUNING_SEEDS,
    rounds: Sequence[tuple[int, int]] = ROUNDS,
    work: Work = map,
) -> Found:
    """The best settings found within spans, by mean score over a task's episodes.

    Parameters
    ----------
    make:
        A policy from all its settings.
    first:
        Settings to start from; those without a span stay as they are. They take part in every round, and win where
        nothing is better.
    seed:
        Of the candidates drawn.
    """
    generator = np.random.default_rng(seed)
    drawn = generator.random((rounds[0][0] - 1, len(spans)))
    candidates = [dict(first), *(_settings(spans, first, shares) for shares in drawn)]
    for place, (keep, episodes) in enumerate(rounds):
        if place:
            candidates = candidates[:keep]
        played = evaluate(
            {str(k): make(settings) for k, settings in enumerate(candidates)},
            held_out(task, episodes, seeds),
            work=work,
        )
        order = _ranked(played, len(candidates))
        if place == len(rounds) - 1:
            best = str(order[0])
            return Found(candidates[order[0]], played.summary(best).score, played.gain(best, "0"))
        leaders = [candidates[k] for k in order if k][: max(rounds[place + 1][0] // (2 if not place else 1) - 1, 1)]
        candidates = [dict(first), *leaders]
        if not place:
            candidates += [_near(spans, first, leader, generator) for leader in leaders]
    raise ValueError("rounds must be one or more")


def _ranked(played: Evaluation, candidates: int) -> list[int]:
    """Candidates by mean score, the best first."""
    means = np.array([played.scores[str(k)].score.mean() for k in range(candidates)])
    return [int(k) for k in np.argsort(-means, kind="stable")]


def _settings(spans: Mapping[str, Span], first: Mapping[str, float], shares: Sequence[float]) -> dict[str, float]:
    return dict(first) | {name: span.at(share) for (name, span), share in zip(spans.items(), shares, strict=True)}


def _near(
    spans: Mapping[str, Span], first: Mapping[str, float], leader: Mapping[str, float], generator: np.random.Generator
) -> dict[str, float]:
    moves = generator.normal(0.0, _NEIGHBOURHOOD, len(spans))
    shares = [span.share(leader[name]) + move for (name, span), move in zip(spans.items(), moves, strict=True)]
    return _settings(spans, first, shares)
