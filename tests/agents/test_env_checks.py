"""The batteries pass what is ours and tell what is wrong with others'."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from agents.env import BiddingEnv
from agents.env_checks import check_environment, check_reward
from agents.rewards import REWARDS, Standing
from engine.errors import BadInput
from engine.units import Float64
from sim.bidding import BiddingTask

SHORT = BiddingTask(steps=12, volume=(20.0, 40.0), shift_steps=(2, 9))


@pytest.mark.parametrize("name", REWARDS)
def test_our_rewards_pass(name: str) -> None:
    check_reward(REWARDS[name])


@pytest.mark.parametrize("parameters", [{}, {"action": "residual", "objective": "target"}, {"fidelity": "aggregate"}])
def test_our_environments_pass(parameters: dict[str, Any]) -> None:
    check_environment(BiddingEnv(task=SHORT, **parameters))


class Wild(BiddingEnv):
    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward + np.random.random(), terminated, truncated, info  # noqa: NPY002 - the fault


class Silent(BiddingEnv):
    def step(self, action: Any) -> Any:
        *rest, info = super().step(action)
        return *rest, {name: value for name, value in info.items() if name != "cost"}


class Forgetful(BiddingEnv):
    def step(self, action: Any) -> Any:
        *rest, info = super().step(action)
        return *rest, info | {"spend": info["cost"]}


class Broken(BiddingEnv):
    def step(self, action: Any) -> Any:
        observation, *rest = super().step(action)
        return observation + 9, *rest


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (Wild, r"^environment \(=Wild\) "),
        (Silent, r"^environment \(=Silent\) does not tell cost at step 0: put it into the info$"),
        (Forgetful, r"^environment \(=Forgetful\) spends \d+ at step \d+ and tells \d+"),
        (Broken, r"^environment \(=Broken\) breaks a rule of Gymnasium: "),
    ],
)
def test_what_is_wrong_with_an_environment_is_told(kind: type[BiddingEnv], sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        check_environment(kind(task=SHORT))


def per_spend(before: Standing, after: Standing) -> Float64:
    with np.errstate(invalid="ignore", divide="ignore"):
        return after.value / after.spend - before.value / before.spend


def against_the_mean(before: Standing, after: Standing) -> Float64:
    del before
    return after.value - after.value.mean()


def in_place(before: Standing, after: Standing) -> Float64:
    after.value[:] -= before.value
    return after.value


def in_all(before: Standing, after: Standing) -> Any:
    return float((after.value - before.value).sum())


@pytest.mark.parametrize(
    ("reward", "sentence"),
    [
        (per_spend, r"gives \[.*nan.*\]: give finite numbers, also where nothing was won or spent$"),
        (against_the_mean, r"depends on what else is in the batch: reward every episode by itself$"),
        (in_place, r"writes into what it is given: copy what it changes$"),
        (in_all, r"gives float for 6 episodes: give float64\[n\]$"),
        (lambda before, after: after.value - before.value, r"must be picklable: define it at the top of a module"),
    ],
)
def test_what_is_wrong_with_a_reward_is_told(reward: Any, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        check_reward(reward)
