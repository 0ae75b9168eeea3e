"""A bidding task's file: what is shipped is the task as it is told, and what contradicts itself is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine.errors import BadInput
from experiments import api
from experiments.config.bidding import BiddingConfig, load_bidding
from experiments.tasks import bidding_task
from sim.bidding import BiddingTask
from tests.scenarios import CONFIGS

SHIPPED = CONFIGS / "bidding_default.yaml"


def document(**changes: Any) -> dict[str, Any]:
    """The shipped file, `a__b` standing for b within a."""
    told: dict[str, Any] = load_bidding(SHIPPED).model_dump(mode="json", exclude_none=True)
    for path, value in changes.items():
        *parts, last = path.split("__")
        within = told
        for part in parts:
            within = within[part]
        within[last] = value
    return told


def test_the_shipped_file_is_the_default_task() -> None:
    config = load_bidding(SHIPPED)
    assert bidding_task(config.task) == BiddingTask()
    assert bidding_task(config.task, targeted=True) == BiddingTask(target_range=(-0.45, 0.25))
    assert (config.held_out.episodes, len(config.held_out.seeds)) == (1_000, 5)


def test_it_survives_being_echoed() -> None:
    config = load_bidding(SHIPPED)
    assert load_bidding(config.model_dump(mode="json")) == config
    assert isinstance(config, BiddingConfig)


def test_a_first_price_task_charges_the_own_bid() -> None:
    task = bidding_task(load_bidding(document(task__auction="first_price")).task)
    assert task.draw(1, np.arange(2)).first_price


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"task__value_sigma": [1.0, 0.4]}, "task.value_sigma (=[1.0, 0.4]) must be a range: write [0.4, 1]"),
        (
            {"task__price__shift__steps": [8, 48]},
            "task.price.shift.steps (=[8, 48]) must lie within the 48 steps, counted from 0: end at 47 or before",
        ),
        ({"task__budget_share": [0, 0.5]}, "task.budget_share (=[0.0, 0.5]) must begin above 0: begin at 5%"),
        (
            {"held_out__seeds": [20261124]},
            "held_out.seeds (=[20261124]) must not hold the seed that policies are made from: choose others",
        ),
        ({"source": "simulation"}, "source (='simulation') must be bidding: start from configs/bidding_default.yaml"),
    ],
)
def test_what_contradicts_itself_is_refused_in_one_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput) as refused:
        load_bidding(document(**changes))
    assert str(refused.value) == f"configuration: {sentence}"


def test_a_task_is_no_run() -> None:
    with pytest.raises(BadInput, match="use bidtwin train or bidtwin evaluate"):
        api.load(SHIPPED)
