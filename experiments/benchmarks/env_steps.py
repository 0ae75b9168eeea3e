"""`env_steps`: 1,024 campaigns in the vector environment, steps per second on one core, beside the single environment.

Two hundred opportunities a step; observations, the linear programme's plan, the guard and the resets are included, and
random actions are put before the guard in every step. Once at aggregate fidelity, once opportunity by opportunity.
"""

from __future__ import annotations

import time

import gymnasium
import numpy as np

from agents.env import BiddingEnv, BiddingVectorEnv
from agents.registration import ID, register
from experiments.benchmarks.measuring import Figure, by_turns
from sim.bidding import BiddingTask

CAMPAIGNS = 1_024
TASK = BiddingTask(volume=(200.0, 200.0))


def measure_aggregate(*, small: bool) -> Figure:
    """Environment steps per second, opportunities counted by price."""
    return _measure("aggregate", small=small)


def measure_opportunities(*, small: bool) -> Figure:
    """Environment steps per second, opportunity by opportunity."""
    return _measure("opportunities", small=small)


def _measure(fidelity: str, *, small: bool) -> Figure:
    register()
    campaigns, episodes, repeats = (8, 1, 2) if small else (CAMPAIGNS, 3, 5)
    together = gymnasium.make_vec(ID, num_envs=campaigns, task=TASK, fidelity=fidelity)
    alone = gymnasium.make(ID, task=TASK, fidelity=fidelity, disable_env_checker=True).unwrapped
    assert isinstance(together, BiddingVectorEnv)
    assert isinstance(alone, BiddingEnv)
    _together(together, 1)  # compiles the kernels, or loads them
    rate, baseline = by_turns(lambda: _together(together, episodes), lambda: _alone(alone), repeats)
    return Figure(rate, "steps/s", "the single environment", baseline)


def _together(envs: BiddingVectorEnv, episodes: int) -> float:
    """Whole episodes, each with the reset that begins the next."""
    envs.reset(seed=1)
    actions = np.random.default_rng(1).uniform(-1, 1, (TASK.steps - 1, envs.num_envs, 1)).astype(np.float32)
    began = time.perf_counter()
    for _ in range(episodes):
        for action in actions:
            envs.step(action)
    return episodes * len(actions) * envs.num_envs / (time.perf_counter() - began)


def _alone(env: BiddingEnv) -> float:
    actions = np.random.default_rng(1).uniform(-1, 1, (TASK.steps - 1, 1)).astype(np.float32)
    began = time.perf_counter()
    env.reset(seed=1)
    for action in actions:
        env.step(action)
    return len(actions) / (time.perf_counter() - began)
