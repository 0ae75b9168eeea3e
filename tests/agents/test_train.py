import warnings
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("stable_baselines3")
pytest.importorskip("tensorboard")

import torch
from stable_baselines3.common.callbacks import BaseCallback

from agents.env import BiddingVectorEnv
from agents.imitation import Imitation, imitate, untrained
from agents.lp import OnlineLP
from agents.train import Improvement, _exported, _learner, gain_over_plan, improve
from sim.bidding import BiddingTask

TASK = BiddingTask(steps=9, shift_steps=(2, 7), volume=(40.0, 80.0), target_range=(-0.45, 0.25))
PROGRAMME = OnlineLP(band=(0.1, 10.0), expected_opportunities=9 * 60.0)
IMITATION = Imitation(rounds=1, episodes=60, hidden=(8, 8), last_epochs=2)
QUICK = Improvement(steps=640, environments=16, epochs=1, batches=2, evaluate_every=256)


def start():
    return imitate((TASK,), PROGRAMME, IMITATION, 3)


def test_the_reward_adds_up_to_the_score_gained_on_lp_km():
    env = BiddingVectorEnv(40, task=replace(TASK, target_share=0.5), action="residual", reward=gain_over_plan)
    env.reset(seed=1)
    generator = np.random.default_rng(0)
    total = np.zeros(40)
    before = env._play.standing
    first = before
    for _ in range(8):
        _, reward, _, info = env.play(generator.uniform(-1, 1, (40, 1)).astype(np.float32))
        total += reward
    target, plan = env._play.episodes.target, env._play.standing.stakes.plan_value

    def score(value, spend):
        average = np.maximum(spend, 1) / np.maximum(value, 1e-9)
        return value * np.minimum(1, target / average) ** 2

    rose = score(info["value"], info["spend"]) - score(first.value, first.spend)
    np.testing.assert_allclose(total, (rose - (plan[-1] - plan[0])) / info["optimum"], atol=1e-12)
    assert 5 < np.isfinite(target).sum() < 35


def test_as_lp_km_plans_the_reward_is_nothing_without_a_target():
    env = BiddingVectorEnv(10, task=replace(TASK, target_range=None), action="residual", reward=gain_over_plan)
    env.reset(seed=1)
    for _ in range(8):
        _, reward, _, _ = env.play(np.zeros((10, 1), dtype=np.float32))
        np.testing.assert_allclose(reward, 0.0, atol=1e-15)


def test_ppo_begins_with_the_weights_of_imitation():
    model = replace(start(), low=np.full(23, -5.0), high=np.full(23, 5.0))
    env = BiddingVectorEnv(16, task=TASK, action="residual")
    learner = _learner(model, env, QUICK, 1)
    observation, _ = env.reset(seed=1)
    action = learner.policy.predict(observation, deterministic=True)[0][:, 0]
    np.testing.assert_allclose(action, model.residual(observation.astype(np.float64)), atol=1e-5)
    exported = _exported(learner, model)
    for name, column in model.columns().items():
        np.testing.assert_allclose(exported.columns()[name], column, atol=1e-6)


class Counting(BaseCallback):
    steps = 0

    def _on_step(self):
        self.steps += 1
        return True


def scored(model):
    return -float(abs(model.layers[-1].bias[0]))


def improved(folder, settings=QUICK, callbacks=()):
    told = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = improve(start(), TASK, settings, 1, scored, folder, told.append, callbacks)
    return model, told


def test_it_evaluates_keeps_the_best_calls_the_users_callbacks_and_leaves_its_curves(tmp_path):
    counting = Counting()
    model, told = improved(tmp_path / "checkpoints", callbacks=[counting])
    assert [each.steps for each in told] == [0, 256, 512, 640]
    assert scored(model) == max(each.score for each in told)
    assert counting.steps == 640 // 16
    assert list((tmp_path / "tensorboard" / "ppo").glob("events*"))
    assert (tmp_path / "checkpoints" / "ppo.zip").exists()


def test_the_same_seed_gives_the_same_weights(tmp_path):
    runs = [improved(tmp_path / name / "checkpoints")[1][-1].model for name in ("one", "two")]
    for name, column in runs[0].columns().items():
        np.testing.assert_array_equal(runs[1].columns()[name], column)


def test_it_goes_on_from_its_checkpoint(tmp_path):
    folder = tmp_path / "checkpoints"
    improved(folder, replace(QUICK, steps=256))
    _, told = improved(folder)
    assert [each.steps for each in told] == [512, 640]


def test_alone_it_begins_as_lp_km():
    model = untrained((TASK,), PROGRAMME, IMITATION, 3)
    learner = _learner(model, BiddingVectorEnv(16, task=TASK, action="residual"), QUICK, 1)
    assert float(torch.abs(learner.policy.action_net.weight).sum().detach()) == 0.0
