"""A bidding task's file: what episodes are like, and on which of them policies are compared."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, ValidationError

from engine.errors import BadInput
from experiments.config.models import SCHEMA_VERSION
from experiments.config.problems import Problem, check_version, from_pydantic, refusal, show
from experiments.config.reading import document
from experiments.config.training import Training
from experiments.config.values import Id, Ratio
from experiments.config.world import Model

Spread: TypeAlias = Annotated[float, Field(ge=0, le=5)]
Spreads: TypeAlias = tuple[Spread, Spread]
Seed: TypeAlias = Annotated[int, Field(ge=0, lt=2**63)]


class TaskTraffic(Model):
    """Opportunities a step, and the curve they follow, as `sim.bidding.BiddingTask` explains them."""

    opportunities_per_step: tuple[Annotated[float, Field(gt=0, le=100_000)], Annotated[float, Field(gt=0, le=100_000)]]
    amplitude: tuple[Ratio, Ratio]
    phase_sigma: Annotated[float, Field(ge=0, le=1)]
    half_amplitude: Ratio
    known_amplitude: Ratio


class TaskDrift(Model):
    """The price level's autoregression."""

    persistence: Annotated[float, Field(ge=0, lt=1)]
    sigma: Spread


class TaskShift(Model):
    """A jump of the price level, at a step within `steps` (ends included), in a share of the episodes."""

    share: Ratio
    sigma: Spread
    steps: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]


class TaskPrice(Model):
    """Log-normal prices around a level that wanders."""

    sigma: Spreads
    correlation: tuple[Ratio, Ratio]
    level_sigma: Spread
    season: Spreads
    drift: TaskDrift
    shift: TaskShift


class Task(Model):
    """What episodes are like; pairs are ranges.

    target:
        By how much, in logs, the target cost per unit of value differs from the budget's optimum, where one is asked
        for.
    """

    steps: Annotated[int, Field(ge=2, le=1_440)]
    traffic: TaskTraffic
    value_sigma: Spreads
    price: TaskPrice
    budget_share: tuple[Ratio, Ratio]
    start_sigma: Spread
    target: tuple[Annotated[float, Field(ge=-5, le=5)], Annotated[float, Field(ge=-5, le=5)]]
    auction: Literal["second_price", "first_price"] = "second_price"


class HeldOut(Model):
    """Episodes on which policies are compared, and which no policy is made from: so many under each seed."""

    episodes: Annotated[int, Field(ge=2, le=100_000)]
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]


class BiddingConfig(Model):
    """The bidding task; `training` is how `bidtwin train` makes a policy for it."""

    schema_version: Literal[1]
    name: Id
    source: Literal["bidding"]
    seed: Seed
    task: Task
    held_out: HeldOut
    training: Training | None = None


def load_bidding(source: Path | Mapping[str, Any]) -> BiddingConfig:
    """Read a bidding task from a YAML file, or take it as a mapping.

    Raises
    ------
    BadInput
        For the first problem in the document's order, in one sentence that counts the others.
    """
    name, given = document(source)
    check_version(name, given, SCHEMA_VERSION)
    if given.get("source") != "bidding":
        raise BadInput(
            f"{name}: source (={show(given.get('source'))}) must be bidding: start from configs/bidding_default.yaml"
        )
    try:
        config = BiddingConfig.model_validate(given)
    except ValidationError as error:
        raise refusal(name, given, from_pydantic(error.errors(include_url=False), given, BiddingConfig)) from None
    found = list(_problems(config))
    if found:
        raise refusal(name, given, found)
    return config


def _problems(config: BiddingConfig) -> Iterator[Problem]:
    """What one part says against another."""
    task = config.task
    ranges = {
        ("traffic", "opportunities_per_step"): task.traffic.opportunities_per_step,
        ("traffic", "amplitude"): task.traffic.amplitude,
        ("value_sigma",): task.value_sigma,
        ("price", "sigma"): task.price.sigma,
        ("price", "correlation"): task.price.correlation,
        ("price", "season"): task.price.season,
        ("price", "shift", "steps"): task.price.shift.steps,
        ("budget_share",): task.budget_share,
        ("target",): task.target,
    }
    for path, (low, high) in ranges.items():
        if low > high:
            yield Problem(("task", *path), f"must be a range: write [{high:g}, {low:g}]", [low, high])
    if task.price.shift.steps[1] >= task.steps:
        rule = f"must lie within the {task.steps} steps, counted from 0: end at {task.steps - 1} or before"
        yield Problem(("task", "price", "shift", "steps"), rule, list(task.price.shift.steps))
    if task.budget_share[0] == 0:
        yield Problem(("task", "budget_share"), "must begin above 0: begin at 5%", list(task.budget_share))
    if config.seed in config.held_out.seeds:
        rule = "must not hold the seed that policies are made from: choose others"
        yield Problem(("held_out", "seeds"), rule, list(config.held_out.seeds))
    if config.training is not None:
        yield from _of_training(config, config.training)


def _of_training(config: BiddingConfig, training: Training) -> Iterator[Problem]:
    if training.imitation is None and training.ppo is None:
        yield Problem(("training",), "must hold imitation, ppo or both: add one")
    if training.imitation is not None:
        shares = {
            "target_share": training.imitation.target_share,
            "target_quantile": training.imitation.target_quantile,
        }
        for name, share in shares.items():
            if share == 0:
                yield Problem(("training", "imitation", name), "must be above 0: write 50%", share)
    if training.validation.seed in (config.seed, *config.held_out.seeds):
        rule = "must be neither the file's own seed nor held out: choose another"
        yield Problem(("training", "validation", "seed"), rule, training.validation.seed)
    if training.ppo is not None and training.ppo.environments % training.ppo.batches:
        rule = f"must be a multiple of batches (={training.ppo.batches}): choose another"
        yield Problem(("training", "ppo", "environments"), rule, training.ppo.environments)
