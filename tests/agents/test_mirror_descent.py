"""Mirror descent and its fellows: the published step, and the lower of two multipliers where there is a target."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from agents.classic import PacingPI
from agents.horizon import EVEN, Curve
from agents.mirror_descent import MirrorDescent
from agents.oracle import GuardedOracle
from agents.pid_rule import PidRule
from agents.rollout import Aiming, Rollout, play
from engine.events import OPPORTUNITIES, SPEND
from engine.policy import Policy
from sim.bidding import BiddingTask

TASK = BiddingTask()
WITH_TARGET = replace(TASK, target_range=(-0.45, 0.25))
BAND = (0.1, 10.0)
CURVE = Curve(levels=tuple(TASK.known_curve))
PACERS = [
    PidRule(curve=CURVE, band=BAND),
    PacingPI(curve=CURVE, band=BAND),
    MirrorDescent(curve=CURVE, band=BAND, expected_opportunities=95 * 48),
    MirrorDescent(curve=CURVE, band=BAND, expected_opportunities=95 * 48, resolving=True),
]
NAMES = ["rule", "pi", "fixed", "resolving"]


def test_a_step_of_the_dual_is_the_published_one() -> None:
    """Log bid + η (opportunities − spend / ρ), in whole micros; ρ = budget / 4,000, η = 4 / 4,000."""
    episodes = TASK.draw(3, np.arange(50))
    policy = MirrorDescent(rate=4.0, curve=EVEN, band=BAND, expected_opportunities=4_000, expected_weight=1e12)
    rollout = Rollout(episodes)
    memory = policy.start(rollout.campaigns, rollout.grid)
    view = rollout.advance()
    rows, _ = policy.propose(view, memory)
    step = 4.0 / 4_000 * (view.recent[:, OPPORTUNITIES] - view.recent[:, SPEND] / (episodes.budget / 4_000))
    wanted = np.floor(episodes.bid * np.exp(step))
    within = np.abs(np.exp(step) - 1) < 0.25
    proposed = episodes.bid.copy()
    proposed[rows.campaign] = rows.wanted
    assert within.sum() > 10
    np.testing.assert_allclose(proposed[within], wanted[within], atol=1)
    assert (4 * np.abs(proposed - episodes.bid) <= episodes.bid).all()


@pytest.mark.parametrize("policy", PACERS, ids=NAMES)
def test_it_paces_under_the_guard(policy: Policy) -> None:
    """Of 300 episodes each spends 90 % and more on average, earns 0.9 of hindsight and more, and is never refused."""
    episodes = TASK.draw(4, np.arange(300))
    played = play(policy, episodes)
    assert (played.spend / episodes.budget).mean() > 0.9
    assert (played.value / episodes.best.value).mean() > 0.9
    assert played.refused.sum() == 0
    assert (played.spend <= episodes.budget).all()


@pytest.mark.parametrize("policy", PACERS, ids=NAMES)
def test_a_target_lowers_what_a_unit_of_value_costs(policy: Policy) -> None:
    """In 300 episodes the share of those more than 5 % above the target falls to less than half."""
    episodes = WITH_TARGET.draw(5, np.arange(300))
    assert isinstance(policy, Aiming)
    assert episodes.target is not None
    without = play(policy, replace(episodes, target=None))
    within = play(policy, episodes)
    over = [(each.spend > 1.05 * episodes.target * each.value).mean() for each in (without, within)]
    assert over[1] < over[0] / 2
    assert within.refused.sum() == 0


@pytest.mark.parametrize("policy", PACERS, ids=NAMES)
def test_a_target_out_of_reach_of_the_budget_changes_nothing(policy: Policy) -> None:
    """The multiplier that does not bind is not the lower one: with a target of a thousand times any price."""
    episodes = TASK.draw(6, np.arange(40))
    assert isinstance(policy, Aiming)
    aimed = policy.aiming_at(np.full(40, 1e3 * episodes.streams.price.max()))
    np.testing.assert_array_equal(play(aimed, episodes).bids[:3], play(policy, episodes).bids[:3])
    assert aimed.looks_at_prices  # type: ignore[attr-defined]
    assert not policy.looks_at_prices  # type: ignore[attr-defined]


def test_the_rule_knows_three_moves() -> None:
    episodes = TASK.draw(7, np.arange(60))
    bids = play(PidRule(curve=CURVE, band=(1e-6, 1e6), slack=0.3), episodes).bids
    factor = bids[1:] / bids[:-1]
    moves = np.unique(np.round(factor, 3))
    assert set(moves) == {0.75, 1.0, 1.2}


def test_the_oracle_walks_to_its_threshold_and_stays() -> None:
    """From 8 times the threshold, at 3/4 a step, it is there after ⌈log 8 / log (4/3)⌉ = 8 steps."""
    episodes = TASK.draw(8, np.arange(20))
    threshold = episodes.best.threshold
    far = replace(episodes, bid=np.minimum(np.floor(8 * threshold), episodes.budget).astype(np.int64))
    bids = play(GuardedOracle().knowing(threshold), far).bids
    entered = far.bid < far.budget
    arrived = np.abs(bids[12] / threshold - 1) < 1e-3
    assert arrived[entered].mean() > 0.5  # others have spent all before they were there, and rest
    near = play(GuardedOracle().knowing(threshold), replace(episodes, bid=np.floor(1.2 * threshold).astype(np.int64)))
    assert (np.abs(near.bids[1:] / threshold - 1) < 1e-3).all()


def test_a_narrower_guard_is_never_left() -> None:
    episodes = TASK.draw(9, np.arange(30))
    narrow = play(PACERS[1], episodes, Fraction(1, 20)).bids
    assert (20 * np.abs(np.diff(narrow, axis=0)) <= narrow[:-1]).all()
