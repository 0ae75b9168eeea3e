"""What a step of the bidding environment is worth: pure functions of how the episodes stood before it and after.

All rewards are shares of the hindsight optimum and telescope: over an episode they add up to what its end is worth less
what the first step, played before any decision, already was. So discounting is the trainer's choice; γ = 1 counts what
the score counts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np

from engine.units import Float64, Int64

_LITTLE = 1e-12


@dataclass(frozen=True)
class Stakes:
    """What stays the same through n episodes of s steps.

    optimum:
        float64[n], value of the hindsight optimum.
    budget:
        int64[n], micros.
    target:
        float64[n], the most a unit of value may cost on average, micros; None: only the budget binds.
    play_plan:
        Plays the very same opportunities under the linear programme's plan; float64[s, n], value won by each step.
    """

    optimum: Float64
    budget: Int64
    target: Float64 | None
    play_plan: Callable[[], Float64]

    @cached_property
    def plan_value(self) -> Float64:
        """Value the plan has won by the close of every step; float64[s, n], played when first looked at."""
        return self.play_plan()


@dataclass(frozen=True)
class Standing:
    """How n episodes stand at the close of a step.

    step:
        The step that was played last, from 0.
    value:
        float64[n], won so far, relative to the reference opportunity.
    spend:
        int64[n], so far, micros.
    stakes:
        What stays the same through the episodes.
    """

    step: int
    value: Float64
    spend: Int64
    stakes: Stakes


Reward: TypeAlias = Callable[[Standing, Standing], Float64]
"""From how n episodes stood before a step and after it to float64[n], finite."""


def value_share(before: Standing, after: Standing) -> Float64:
    """Value won in the step, as a share of the optimum."""
    return _share(after.value - before.value, after)


def value_over_plan(before: Standing, after: Standing) -> Float64:
    """Value won in the step less what LP-KM won in it on the same opportunities, as a share of the optimum.

    Market and traffic, which move both alike, cancel out: what is left is what the policy itself has done.
    """
    plan = after.stakes.plan_value
    ahead = (after.value - plan[after.step]) - (before.value - plan[before.step])
    return _share(ahead, after)


def penalised_share(before: Standing, after: Standing) -> Float64:
    """By how much value · min(1, (target / CPA)²) ÷ optimum rose; without a target, `value_share`.

    The score of the NeurIPS 2024 competition on auto-bidding, CPA being what a unit of value has cost on average.
    """
    return _share(_penalised(after) - _penalised(before), after)


REWARDS: dict[str, Reward] = {
    "value_share": value_share,
    "value_over_plan": value_over_plan,
    "penalised_share": penalised_share,
}
"""The rewards by name."""


def _share(value: Float64, standing: Standing) -> Float64:
    return value / np.maximum(standing.stakes.optimum, _LITTLE)


def _penalised(standing: Standing) -> Float64:
    target = standing.stakes.target
    if target is None:
        return standing.value
    kept = target * standing.value / np.maximum(standing.spend, 1)  # target / CPA
    penalised: Float64 = standing.value * np.minimum(1.0, kept) ** 2
    return penalised
