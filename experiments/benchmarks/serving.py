"""`serving`: a learned policy's decisions, campaigns per second at 10,000 campaigns: features, network, rounding.

The views are those of a bidding task's episodes under the policy itself, half of them with a target. The guard is left
out. The baseline is LP-KM, the default policy, on the same views.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

from agents.learned import Learned, shipped
from agents.rollout import Rollout
from engine.policy import Policy, View
from engine.units import Float64
from experiments.benchmarks.measuring import Figure, by_turns
from sim.bidding import BiddingTask

CAMPAIGNS = 10_000
_TASK = BiddingTask(steps=8, shift_steps=(2, 6))
_SEED = 20261124


def measure(*, small: bool) -> Figure:
    """Campaigns per second of the shipped policy, and of LP-KM."""
    campaigns, repeats = (50, 1) if small else (CAMPAIGNS, 7)
    job = Job(campaigns)
    learned = Learned(shipped())
    served, baseline = (_aiming(policy, job.target) for policy in (learned, learned.programme))
    job.rate(served), job.rate(baseline)  # compiles
    rate, lp_rate = by_turns(lambda: job.rate(served), lambda: job.rate(baseline), repeats)
    return Figure(rate, "campaigns/s", "LP-KM", lp_rate)


def _aiming(policy: Any, target: Float64) -> Policy:
    aiming: Policy = policy.aiming_at(target)
    return aiming


class Job:
    """The views that n campaigns get when nothing is proposed to them, and the targets of half of them."""

    def __init__(self, campaigns: int) -> None:
        episodes = replace(_TASK, target_range=(-0.45, 0.25)).draw(_SEED, np.arange(campaigns))
        assert episodes.target is not None
        self.target = np.where(np.arange(campaigns) % 2, episodes.target, np.inf)
        self._rollout = Rollout(episodes)
        self._views: list[View] = [self._rollout.advance() for _ in range(_TASK.steps - 1)]

    def rate(self, policy: Policy) -> float:
        """Decisions per second of a policy over the views, of which the first, with nothing known yet, is not timed."""
        memory = policy.start(self._rollout.campaigns, self._rollout.grid)
        _, memory = policy.propose(self._views[0], memory)
        began = time.perf_counter()
        for view in self._views[1:]:
            _, memory = policy.propose(view, memory)
        return (len(self._views) - 1) * len(self.target) / (time.perf_counter() - began)
