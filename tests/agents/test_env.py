"""The bidding environments: Gymnasium's rules, the vector against single ones, and the physics under random actions."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import agents.env
from agents.env import BiddingVectorEnv
from agents.rewards import REWARDS
from agents.rollout import play
from agents.tuned import Known, plan
from engine.errors import BadInput
from sim.bidding import BiddingTask
from sim.logged import LoggedEpisodes

SHORT = BiddingTask(steps=12, volume=(20.0, 40.0), shift_steps=(2, 9))
LOG = LoggedEpisodes(
    np.random.default_rng(1).lognormal(0, 0.6, 5_000),
    np.random.default_rng(2).lognormal(13, 0.8, 5_000).astype(np.int64),
    rows_per_step=30,
    steps=12,
)
KINDS: dict[str, dict[str, Any]] = {
    "steps": {"task": SHORT},
    "residual, beside the plan": {"task": SHORT, "action": "residual", "reward": "value_over_plan"},
    "target": {"task": SHORT, "objective": "target", "reward": "penalised_share"},
    "target as ROAS": {"task": SHORT, "objective": "target", "target": "roas", "action": "residual"},
    "aggregate": {"task": SHORT, "fidelity": "aggregate", "action": "residual"},
    "log": {"log": LOG, "action": "residual"},
}


def vector(num_envs: int, **parameters: Any) -> BiddingVectorEnv:
    made = gymnasium.make_vec("bidtwin/Bidding-v0", num_envs=num_envs, **parameters)
    assert isinstance(made, BiddingVectorEnv)
    return made


def single(**parameters: Any) -> gymnasium.Env[Any, Any]:
    return gymnasium.make("bidtwin/Bidding-v0", **parameters).unwrapped


def assert_same(one: Any, other: Any) -> None:
    """Equal to the bit, types included."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert_same(value, other[name])
    elif isinstance(one, tuple) or one.dtype == object:
        for mine, theirs in zip(one, other, strict=True):
            assert_same(mine, theirs)
    else:
        assert one.dtype == other.dtype
        assert np.array_equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_gymnasiums_checker_passes_without_warnings(kind: str) -> None:
    check_env(single(**KINDS[kind]), skip_render_check=True)


@pytest.mark.parametrize("kind", KINDS)
def test_stable_baselines3s_checker_passes_without_warnings(kind: str) -> None:
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    checker.check_env(single(**KINDS[kind]))


@pytest.mark.parametrize("kind", KINDS)
def test_the_vector_is_the_single_ones_step_for_step(kind: str) -> None:
    n, parameters = 3, KINDS[kind]
    whole = vector(n, **parameters)
    alone = SyncVectorEnv([lambda: single(**parameters)] * n, autoreset_mode=AutoresetMode.SAME_STEP)
    assert_same(whole.reset(seed=5), alone.reset(seed=5))
    for action in np.random.default_rng(3).uniform(-1, 1, (25, n, 1)).astype(np.float32):  # into the third episode
        assert_same(whole.step(action), alone.step(action))


@pytest.mark.parametrize("kind", KINDS)
def test_one_seed_is_one_trajectory_whatever_the_batch(kind: str) -> None:
    seeds = [40, 3, 2**70, 8, 3]
    many, few = vector(5, **KINDS[kind]), vector(2, **KINDS[kind])
    many.reset(seed=seeds)
    few.reset(seed=[seeds[2], seeds[1]])
    for action in np.random.default_rng(4).uniform(-1, 1, (15, 5, 1)):
        action[4] = action[1]
        told, beside = many.step(action)[:2], few.step(action[[2, 1]])[:2]
        for mine, theirs in zip(told, beside, strict=True):
            assert np.array_equal(mine[[2, 1]], theirs)
            assert np.array_equal(mine[1], mine[4])


def test_seeds_follow_gymnasiums_rules() -> None:
    envs, beside = vector(3, task=SHORT), vector(1, task=SHORT)
    first, again = envs.reset(seed=7)[0], envs.reset()[0]
    assert not np.array_equal(first, again)
    assert np.array_equal(envs.reset(seed=7)[0], first)
    assert np.array_equal(envs.reset()[0], again)
    assert np.array_equal(beside.reset(seed=9)[0], first[2:])
    assert not np.array_equal(vector(1, task=SHORT).reset()[0], vector(1, task=SHORT).reset()[0])


def test_chosen_episodes_are_those_of_the_task() -> None:
    envs = vector(4, task=SHORT, action="residual", world_seed=6)
    numbers = np.array([4, 0, 9, 2])
    _, info = envs.reset(seed=1, options={"episodes": numbers})
    episodes = SHORT.draw(6, numbers)
    assert np.array_equal(info["budget"], episodes.budget)
    for _ in range(SHORT.steps - 1):
        _, _, terminated, _, info = envs.step(np.zeros((4, 1)))
    assert terminated.all()
    played = play(plan(Known.of(SHORT)), episodes)
    assert np.array_equal(info["final_info"]["value"], played.value)
    assert np.array_equal(info["final_info"]["spend"], played.spend)


@pytest.mark.slow
@pytest.mark.parametrize("fidelity", ["opportunities", "aggregate"])
@pytest.mark.parametrize("action", ["step", "residual"])
def test_random_actions_keep_the_physics_through_1000_episodes(action: str, fidelity: str) -> None:
    n = 250
    envs = vector(n, action=action, fidelity=fidelity)
    rng = np.random.default_rng(11)
    _, before = envs.reset(seed=100)
    first = before["bid"]
    slack = 1 + (5e-3 if fidelity == "aggregate" else 1e-6)  # lots are of one price; values are told in millionths
    for step in range(4 * 47):
        observation, reward, terminated, truncated, info = envs.step(rng.uniform(-1, 1, (n, 1)))
        now = info["final_info"] if terminated[0] else info
        assert (4 * np.abs(now["bid"] - before["bid"]) <= before["bid"]).all()
        assert (now["bid"] == before["bid"])[now["refused"]].all()
        assert ((now["bid"] * 10 >= first) & (now["bid"] <= 10 * first) & (now["bid"] <= now["budget"])).all()
        assert (now["spend"] - before["spend"] == now["cost"]).all()
        assert ((now["cost"] >= 0) & (now["spend"] <= now["budget"])).all()
        assert ((now["value"] >= before["value"]) & (now["value"] <= now["optimum"] * slack)).all()
        assert (np.isfinite(reward) & ~truncated).all()
        assert (np.abs(observation) <= 5).all()
        assert terminated[0] == (step % 47 == 46)
        before = info
        first = info["bid"] if terminated[0] else first


def test_rewards_add_up_to_what_the_end_is_worth() -> None:
    for name in REWARDS:
        envs = vector(6, task=SHORT, objective="target", action="residual", reward=name)
        _, first = envs.reset(seed=2)
        total = np.zeros(6)
        for action in np.random.default_rng(1).uniform(-1, 1, (SHORT.steps - 1, 6, 1)):
            _, reward, _, _, info = envs.step(action)
            total += reward
        last = info["final_info"]
        worth = {
            "value_share": [each["value"] for each in (first, last)],
            "penalised_share": [
                each["value"] * np.minimum(1, each["target"] * each["value"] / np.maximum(each["spend"], 1)) ** 2
                for each in (first, last)
            ],
        }
        if name in worth:
            assert np.allclose(total, (worth[name][1] - worth[name][0]) / last["optimum"], atol=1e-12)


def test_lp_km_is_worth_nothing_over_itself() -> None:
    envs = vector(6, task=SHORT, action="residual", reward="value_over_plan")
    envs.reset(seed=2)
    for _ in range(SHORT.steps - 1):
        assert (envs.step(np.zeros((6, 1)))[1] == 0).all()


def test_roas_is_the_same_limit_told_the_other_way_round() -> None:
    cpa, roas = (vector(3, task=SHORT, objective="target", target=told).reset(seed=1)[1] for told in ("cpa", "roas"))
    assert np.allclose(cpa["target"] * roas["target"], 1_000_000)
    assert "target" not in vector(3, task=SHORT).reset(seed=1)[1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_actions_that_are_no_numbers_are_refused(bad: float) -> None:
    envs = vector(2, task=SHORT)
    envs.reset(seed=1)
    with pytest.raises(BadInput, match=r"^action \(=.*\) of environment 1 must be a finite number in \[-1, 1\]$"):
        envs.step(np.array([[0.5], [bad]]))


def test_actions_beyond_the_space_are_cut_to_it() -> None:
    bids = []
    for action in (1.0, 40.0):
        env = single(task=SHORT)
        env.reset(seed=1)
        bids.append(env.step(np.array([action], dtype=np.float32))[4]["asked_bid"])
    assert bids[0] == bids[1]


def test_what_is_wrong_is_told_in_a_sentence() -> None:
    env = single(task=SHORT)
    with pytest.raises(BadInput, match=r"^no episode has begun: call reset\(\) before step\(\) and render\(\)$"):
        env.step(np.zeros(1))
    env.reset(seed=1)
    for _ in range(SHORT.steps - 1):
        env.step(np.zeros(1))
    with pytest.raises(BadInput, match=r"^the episode has ended: call reset\(\) before the next step$"):
        env.step(np.zeros(1))
    for parameters, sentence in (
        ({"action": "leap"}, r"^action \(='leap'\) must be one of 'step', 'residual'$"),
        ({"objective": "fame"}, r"^objective \(='fame'\) must be one of None, 'budget', 'target'$"),
        ({"task": SHORT, "log": LOG}, r"^task and log cannot both be given"),
        ({"log": LOG, "fidelity": "aggregate"}, r"^fidelity \(='aggregate'\) must be 'opportunities' with a log"),
    ):
        with pytest.raises(BadInput, match=sentence):
            BiddingVectorEnv(2, **parameters)
    envs = vector(2, task=SHORT)
    with pytest.raises(BadInput, match=r"^seed \(=\[1\]\) must be 2 whole numbers >= 0: one for every environment$"):
        envs.reset(seed=[1])


def test_the_module_can_be_named_instead_of_imported() -> None:
    assert agents.env.register
    assert gymnasium.make("agents.env:bidtwin/Bidding-v0").spec is not None


def test_the_adapter_steps_and_begins_anew_as_the_vector_does() -> None:
    pytest.importorskip("stable_baselines3")
    from agents.sb3 import BiddingVecEnv  # noqa: PLC0415 - where it is installed

    adapted, envs = BiddingVecEnv(vector(3, task=SHORT)), vector(3, task=SHORT)
    adapted.seed(4)
    assert np.array_equal(adapted.reset(), envs.reset(seed=4)[0])
    total = np.zeros(3)
    for action in np.random.default_rng(1).uniform(-1, 1, (SHORT.steps - 1, 3, 1)).astype(np.float32):
        mine, theirs = adapted.step(action), envs.step(action)
        assert np.array_equal(mine[0], theirs[0])
        assert np.allclose(mine[1], theirs[1])
        assert np.array_equal(mine[2], theirs[2])
        total += theirs[1]
    assert mine[2].all()
    for place, info in enumerate(mine[3]):
        assert np.array_equal(info["terminal_observation"], theirs[4]["final_obs"][place])
        assert info["episode"]["l"] == SHORT.steps - 1
        assert info["episode"]["r"] == pytest.approx(total[place])
        assert info["spend"] == theirs[4]["final_info"]["spend"][place]


def test_pictures_are_of_the_episode_so_far() -> None:
    pytest.importorskip("matplotlib")
    check_env(single(task=SHORT, render_mode="rgb_array"))
    envs = vector(2, task=SHORT, render_mode="rgb_array")
    envs.reset(seed=1)
    envs.step(np.ones((2, 1)))
    frames = envs.render()
    assert frames is not None
    for frame in frames:
        assert frame.shape == (600, 800, 3)
        assert frame.dtype == np.uint8
        assert 0.7 < (frame == 255).mean() < 0.99  # drawn on white
    assert not np.array_equal(*frames)
    assert vector(2, task=SHORT).render() is None
