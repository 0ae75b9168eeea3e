"""The adapter that stable-baselines3 needs: its `VecEnv` over the natively vectorised environment.

The only module beside training that imports stable-baselines3; nothing else imports it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env.base_vec_env import VecEnv

from agents.env import BiddingVectorEnv
from engine.errors import BadInput

_ONLY = "every environment of a batch has the same: they cannot differ by index"


class BiddingVecEnv(VecEnv):  # type: ignore[misc]  # untyped where it is absent
    """A `BiddingVectorEnv` as stable-baselines3 steps it.

    All environments end together and begin anew in the same step, as they do underneath. stable-baselines3 wants a
    dictionary of every environment in every step; while an episode goes on they are empty, so that a thousand of them
    cost next to nothing, and `columns` has the info of the last step as columns. At the end they hold that info, the
    `terminal_observation`, and as `episode` what stable-baselines3 logs: `r` the sum of rewards and `l` the number of
    steps, so that no `VecMonitor` is needed.

    Parameters
    ----------
    env:
        The vector environment. It counts as begun when `reset` is called.

    Example
    -------
    >>> import gymnasium
    >>> from stable_baselines3 import PPO  # doctest: +SKIP
    >>> envs = BiddingVecEnv(gymnasium.make_vec("bidtwin/Bidding-v0", num_envs=64))  # doctest: +SKIP
    >>> PPO("MlpPolicy", envs, n_steps=47, gamma=1.0).learn(10_000)  # doctest: +SKIP
    """

    def __init__(self, env: BiddingVectorEnv) -> None:
        self.env = env
        self.columns: dict[str, Any] = {}
        """The info of the last step, a column each; see `BiddingVectorEnv`."""
        self._return = np.zeros(env.num_envs)
        self._steps = 0
        self._actions: NDArray[Any] | None = None
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> NDArray[np.float32]:
        """Begin new episodes, under the seeds and options set before."""
        numbers = [options["episodes"] for options in self._options if "episodes" in options]
        options = {"episodes": np.ravel(numbers)} if numbers else None
        given = [seed for seed in self._seeds if seed is not None]
        observation, self.columns = self.env.reset(seed=given or None, options=options)
        self._reset_seeds()
        self._reset_options()
        self._begin()
        self.reset_infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        return observation

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep the actions of the next step."""
        self._actions = actions

    def step_wait(self) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[Any], list[dict[str, Any]]]:
        """Play a step: observations, rewards, whether the episodes have ended, and infos."""
        assert self._actions is not None
        observation, reward, terminated, _, self.columns = self.env.step(self._actions)
        self._return += reward
        self._steps += 1
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if terminated[0]:
            infos = self._ended()
            self._begin()
        return observation, reward.astype(np.float32), terminated, infos

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """An attribute of the vector environment, once for every index."""
        return [getattr(self.env, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Set an attribute of the vector environment."""
        if indices is not None:
            raise BadInput(f"indices (={indices}) must be None: {_ONLY}")
        setattr(self.env, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Call a method of the vector environment, once; its result for every index."""
        result = getattr(self.env, method_name)(*method_args, **method_kwargs)
        return [result for _ in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:  # noqa: ARG002 - there are none
        """No environment of the batch is wrapped."""
        return [False for _ in self._get_indices(indices)]

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """A picture of every environment."""
        frames: Any = self.env.render()
        return [None] * self.num_envs if frames is None else list(frames)

    def _begin(self) -> None:
        self._return[:] = 0
        self._steps = 0

    def _ended(self) -> list[dict[str, Any]]:
        """What stable-baselines3 wants to know of every episode that has ended."""
        last = {name: column for name, column in self.columns["final_info"].items() if not name.startswith("_")}
        names, rows = tuple(last), zip(*(column.tolist() for column in last.values()), strict=True)
        episodes = ({"r": gained, "l": self._steps, "t": 0.0} for gained in self._return.tolist())
        return [
            dict(zip(names, row, strict=True))
            | {"terminal_observation": observation, "TimeLimit.truncated": False, "episode": episode}
            for row, observation, episode in zip(rows, self.columns["final_obs"], episodes, strict=True)
        ]
