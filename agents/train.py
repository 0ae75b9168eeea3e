"""PPO on top: a policy improved by playing, as a residual on LP-KM. Training only; needs torch and stable-baselines3.

Proximal policy optimisation (Schulman et al., 2017) from the weights of imitation, or from nought, which is LP-KM
itself. The reward of an episode is what the policy won beyond LP-KM on the very same opportunities, as a share of the
hindsight optimum: what is luck of the market is luck of both and cancels. Nothing is discounted and nothing
bootstrapped (γ = 1, λ = 1), since an early bid is paid back only when the budget runs out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import Space
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.logger import configure
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from agents.env import BiddingVectorEnv
from agents.learned import Layer, Model
from agents.rewards import Standing
from agents.sb3 import BiddingVecEnv
from engine.units import Float64
from sim.bidding import BiddingTask

_LITTLE = 1e-12
_CHECKPOINT = "ppo.zip"
_BEST = "ppo_best.npz"


@dataclass(frozen=True)
class Improvement:
    """How PPO goes.

    Parameters
    ----------
    steps:
        Decisions played, over all campaigns.
    environments:
        Campaigns side by side; every update learns from one whole episode of each.
    epochs, batches:
        Passes over the decisions of an update, and the parts it is cut into; they divide the environments.
    learning_rate, clip:
        Adam's and PPO's own; the rate falls to nothing linearly.
    log_std:
        Logarithm of the standard deviation of actions at the start: how far it tries.
    evaluate_every:
        Decisions between two evaluations, each with a checkpoint.
    """

    steps: int = 1_000_000
    environments: int = 512
    epochs: int = 5
    batches: int = 4
    learning_rate: float = 3e-4
    clip: float = 0.2
    log_std: float = -2.0
    evaluate_every: int = 200_000


class Reached(NamedTuple):
    """What an evaluation found on the way."""

    steps: int
    score: float
    model: Model


def improve(
    start: Model,
    task: BiddingTask,
    settings: Improvement,
    seed: int,
    evaluate: Callable[[Model], float],
    folder: Path,
    after: Callable[[Reached], None] = lambda _: None,
    callbacks: Sequence[BaseCallback] = (),
) -> Model:
    """Improve a model by PPO; the best of all evaluations, the start's included.

    Parameters
    ----------
    start:
        From imitation, or one that plans as LP-KM does (`agents.imitation.untrained`).
    task:
        What episodes are drawn from.
    evaluate:
        A model's score on episodes that are neither played here nor held out.
    folder:
        For checkpoints and TensorBoard's curves; from a checkpoint that is there it goes on, with new episodes.
    after:
        Told of every evaluation.
    callbacks:
        stable-baselines3 callbacks to call as well.
    """
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    task = replace(task, target_share=0.5) if task.target_range else task
    env = BiddingVectorEnv(
        settings.environments,
        task=task,
        action="residual",
        reward=gain_over_plan,
        lp=start.lp,
        world_seed=seed,
    )
    checkpoint = folder / _CHECKPOINT
    learner = _resumed(checkpoint, env) if checkpoint.exists() else _learner(start, env, settings, seed)
    learner.set_logger(configure(str(folder.parent / "tensorboard" / "ppo"), ["tensorboard"]))
    watch = _Evaluations(start, evaluate, settings.evaluate_every, folder, after)
    left = settings.steps - learner.num_timesteps
    if left > 0:
        chain = CallbackList([watch, *callbacks])
        learner.learn(left, callback=chain, reset_num_timesteps=False, progress_bar=False)
    return watch.best.model


def gain_over_plan(before: Standing, after: Standing) -> Float64:
    """What the score rose by in a step, less the value that LP-KM won in it, as a share of the optimum.

    The score is value · min(1, (target / average cost)²); without a target, value. LP-KM's own value does not depend on
    what the policy does: it takes luck out of the reward and leaves what is best unchanged.
    """
    plan = after.stakes.plan_value
    rose = (_scored(after) - plan[after.step]) - (_scored(before) - plan[before.step])
    gain: Float64 = rose / np.maximum(after.stakes.optimum, _LITTLE)
    return gain


def _scored(standing: Standing) -> Float64:
    target = standing.stakes.target
    if target is None:
        return standing.value
    aims = np.isfinite(target)
    allowed = np.where(aims, target, 0.0) * standing.value
    weight = np.where(aims, np.minimum(1.0, allowed / np.maximum(standing.spend, 1)) ** 2, 1.0)
    scored: Float64 = standing.value * weight
    return scored


class Scaled(BaseFeaturesExtractor):  # type: ignore[misc]  # untyped where it is absent
    """Brings observations to the scale that a model's weights were learned in."""

    def __init__(self, observation_space: Space[Any], mean: Sequence[float], scale: Sequence[float]) -> None:
        super().__init__(observation_space, len(mean))
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("scale", torch.tensor(scale, dtype=torch.float32))

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """(observation − mean) / scale."""
        scaled: torch.Tensor = (observations - self.mean) / self.scale
        return scaled


def _learner(start: Model, env: BiddingVectorEnv, settings: Improvement, seed: int) -> PPO:
    """A PPO whose actor is the model's network, and whose critic has its shape."""
    hidden = [len(layer.bias) for layer in start.layers[:-1]]
    learner = PPO(
        "MlpPolicy",
        BiddingVecEnv(env),
        n_steps=env.source.steps - 1,
        batch_size=(env.source.steps - 1) * settings.environments // settings.batches,
        n_epochs=settings.epochs,
        learning_rate=_falling(settings.learning_rate),
        clip_range=settings.clip,
        gamma=1.0,
        gae_lambda=1.0,
        seed=seed,
        device="cpu",
        policy_kwargs={
            "net_arch": {"pi": hidden, "vf": hidden},
            "activation_fn": nn.Softsign,
            "log_std_init": settings.log_std,
            "features_extractor_class": Scaled,
            "features_extractor_kwargs": {"mean": start.mean.tolist(), "scale": start.scale.tolist()},
        },
    )
    with torch.no_grad():
        for part, layer in zip(_actor(learner), start.layers, strict=True):
            part.weight.copy_(torch.as_tensor(layer.weights.T))
            part.bias.copy_(torch.as_tensor(layer.bias))
    return learner


def _falling(rate: float) -> Callable[[float], float]:
    """A learning rate that falls to nothing with the share of the training that is left."""
    return lambda left: rate * left


def _resumed(checkpoint: Path, env: BiddingVectorEnv) -> PPO:
    """A PPO as it was kept; its episodes are new ones, under a seed that its progress tells."""
    learner = PPO.load(checkpoint, env=BiddingVecEnv(env), device="cpu")
    learner.set_random_seed(learner.seed + learner.num_timesteps)
    return learner


def _actor(learner: PPO) -> list[nn.Linear]:
    """The linear layers from observation to action, in order."""
    parts = [*learner.policy.mlp_extractor.policy_net, learner.policy.action_net]
    return [part for part in parts if isinstance(part, nn.Linear)]


def _exported(learner: PPO, start: Model) -> Model:
    layers = tuple(
        Layer(part.weight.detach().numpy().T.astype(np.float64), part.bias.detach().numpy().astype(np.float64))
        for part in _actor(learner)
    )
    return replace(start, layers=layers)


class _Evaluations(BaseCallback):  # type: ignore[misc]  # likewise
    """Every so many decisions: a score, a curve's point, a checkpoint, and whether it is the best so far."""

    def __init__(
        self,
        start: Model,
        evaluate: Callable[[Model], float],
        every: int,
        folder: Path,
        after: Callable[[Reached], None],
    ) -> None:
        super().__init__()
        self._start, self._evaluate, self._every, self._folder, self._after = start, evaluate, every, folder, after
        kept = folder / _BEST
        model = Model.load(kept) if kept.exists() else start
        self.best = Reached(0, evaluate(model), model)
        self._next = every

    def _on_training_start(self) -> None:
        self._next = self.num_timesteps + self._every
        if not self.num_timesteps:
            self._after(self.best)

    def _on_rollout_start(self) -> None:
        if self.num_timesteps >= self._next:
            self._look()

    def _on_training_end(self) -> None:
        self._look()

    def _on_step(self) -> bool:
        return True

    def _look(self) -> None:
        """Between two updates, where the weights are those of the last."""
        self._next = self.num_timesteps + self._every
        model = _exported(self.model, self._start)
        reached = Reached(self.num_timesteps, self._evaluate(model), model)
        self.logger.record("validation/score", reached.score)
        self.logger.dump(self.num_timesteps)
        if reached.score > self.best.score:
            self.best = reached
            model.save(self._folder / _BEST)
        part = self._folder / "ppo.part.zip"
        self.model.save(part)
        part.replace(self._folder / _CHECKPOINT)
        self._after(reached)
