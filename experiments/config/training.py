"""How a bidding policy is trained, a part of a bidding task's file."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import Field

from experiments.config.values import Ratio
from experiments.config.world import Model

Count: TypeAlias = Annotated[int, Field(ge=1, le=1_000_000_000)]
Rate: TypeAlias = Annotated[float, Field(gt=0, le=1)]


class ImitationSettings(Model):
    """Imitation of hindsight, as `agents.imitation.Imitation` explains it; half of the episodes have a target.

    target_share:
        Hindsight and LP-KM aim at this share of a target.
    target_quantile:
        Below ½: with a target, bids err rather downwards.
    """

    rounds: Annotated[int, Field(ge=1, le=100)]
    episodes_per_round: Annotated[int, Field(ge=2, le=1_000_000)]
    epochs: Count
    last_epochs: Count
    batch: Count
    learning_rate: Rate
    target_share: Ratio
    target_quantile: Ratio


class PpoSettings(Model):
    """PPO as a residual on LP-KM, as `agents.train.Improvement` explains it."""

    steps: Count
    environments: Annotated[int, Field(ge=2, le=100_000)]
    epochs: Count
    batches: Annotated[int, Field(ge=1, le=1_000)]
    learning_rate: Rate
    log_std: Annotated[float, Field(ge=-10, le=2)]
    evaluate_every: Count


class Validation(Model):
    """Episodes, under a seed of their own, on which one of imitation and PPO is chosen."""

    episodes: Annotated[int, Field(ge=2, le=100_000)]
    seed: Annotated[int, Field(ge=0, lt=2**63)]


class Training(Model):
    """Imitation, then PPO from its weights; either may be left out."""

    hidden: Annotated[tuple[Annotated[int, Field(ge=1, le=4_096)], ...], Field(min_length=1, max_length=8)]
    imitation: ImitationSettings | None = None
    ppo: PpoSettings | None = None
    validation: Validation
