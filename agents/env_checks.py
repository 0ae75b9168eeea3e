"""The batteries that environments and rewards pass: ours in the tests, users' own before they train on them."""

from __future__ import annotations

import pickle
import warnings
from typing import Any, NoReturn

import gymnasium
import numpy as np
from gymnasium.utils.env_checker import check_env

from agents.rewards import Reward, Stakes, Standing
from engine.errors import BadInput
from engine.units import Float64

_LONGEST = 100_000


def check_environment(env: gymnasium.Env[Any, Any]) -> None:
    """Hold a single bidding environment, unwrapped, to Gymnasium's rules and to what training relies on.

    Gymnasium's own checker must pass without a warning. Whole episodes under random actions must end, with observations
    within their space and finite rewards; one seed must give one trajectory, whatever NumPy's global generator does;
    and the info must tell `cost` and `spend`, which is the sum of all costs and never above `budget`, if that is told.

    Raises
    ------
    BadInput
        For the first rule that does not hold.

    Example
    -------
    >>> from agents.env import BiddingEnv
    >>> check_environment(BiddingEnv())
    """
    name = type(env).__name__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            check_env(env, skip_render_check=True, skip_close_check=True)
        except (AssertionError, TypeError, AttributeError, ValueError, gymnasium.error.Error, Warning) as error:
            raise BadInput(f"environment (={name}) breaks a rule of Gymnasium: {error}") from error
    first, second = (_lived(env, name, disturbance) for disturbance in (1, 2))
    for step, (one, other) in enumerate(zip(first, second, strict=False)):
        if not all(np.array_equal(mine, theirs) for mine, theirs in zip(one, other, strict=True)):
            _refuse("environment", name, f"lives step {step} otherwise under the same seed", "use no other generator")
    if len(first) != len(second):
        _refuse("environment", name, "ends at another step under the same seed", "use no other generator")


def _lived(env: gymnasium.Env[Any, Any], name: str, disturbance: int) -> list[tuple[Any, float]]:
    """Observations and rewards of two episodes of one seed, each step checked."""
    env.action_space.seed(5)
    lived: list[tuple[Any, float]] = []
    for seed in (11, None):
        observation, info = env.reset(seed=seed)
        before = _spend(info, name, 0)
        ended = False
        while not ended:
            np.random.seed(disturbance * 1000 + len(lived))  # noqa: NPY002 - to catch those who use it
            observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
            lived.append((observation, float(reward)))
            before = _checked(env, name, lived, info, before)
            ended = terminated or truncated
            if len(lived) > _LONGEST:
                _refuse("environment", name, f"has not ended after {_LONGEST} steps", "terminate at the horizon's end")
    return lived


def _checked(
    env: gymnasium.Env[Any, Any], name: str, lived: list[tuple[Any, float]], info: dict[str, Any], before: float
) -> float:
    """Hold the last step to the rules; the spend after it."""
    (observation, reward), step = lived[-1], len(lived) - 1
    if observation not in env.observation_space:
        _refuse("environment", name, f"shows at step {step} what is not in its space", "clip it, and mind the dtype")
    if not np.isfinite(reward):
        _refuse("environment", name, f"gives the reward {reward} at step {step}", "give finite rewards")
    spend = _spend(info, name, step)
    if info["cost"] < 0 or not np.isclose(before + info["cost"], spend, rtol=1e-9):
        _refuse("environment", name, f"spends {info['cost']} at step {step} and tells {spend}", "add every cost up")
    if spend > info.get("budget", np.inf):
        _refuse("environment", name, f"spends more than its budget by step {step}", "let no auction charge beyond it")
    return spend


def _spend(info: dict[str, Any], name: str, step: int) -> float:
    for key in ("cost", "spend"):
        if key not in info:
            _refuse("environment", name, f"does not tell {key} at step {step}", "put it into the info")
    return float(info["spend"])


def check_reward(reward: Reward) -> None:
    """Hold a reward to being a pure function that treats every episode by itself.

    It is asked about made-up steps, with and without a target; some episodes have won, spent or could win nothing. It
    must give a finite float64[n], the same when asked again, the same for an episode whatever stands beside it, must
    not write into what it is given, and must be picklable, so that training can be resumed.

    Raises
    ------
    BadInput
        For the first rule that does not hold.

    Example
    -------
    >>> from agents.rewards import value_share
    >>> check_reward(value_share)
    """
    name = getattr(reward, "__name__", type(reward).__name__)
    try:
        pickle.dumps(reward)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise BadInput(f"reward (={name}) must be picklable: define it at the top of a module ({error})") from error
    for targeted in (False, True):
        everyone = np.arange(6)
        given = _asked(reward, name, everyone, targeted=targeted)
        if not np.array_equal(given, _asked(reward, name, everyone, targeted=targeted)):
            _refuse("reward", name, "gives something else when asked again", "use no hidden state or generator")
        for one in everyone:
            if _asked(reward, name, everyone[one : one + 1], targeted=targeted)[0] != given[one]:
                _refuse("reward", name, "depends on what else is in the batch", "reward every episode by itself")


def _asked(reward: Reward, name: str, members: Any, *, targeted: bool) -> Float64:
    before, after = _step(members, targeted=targeted)
    try:
        given = reward(before, after)
    except ValueError as error:
        if "read-only" in str(error):
            _refuse("reward", name, "writes into what it is given", "copy what it changes")
        raise
    if not isinstance(given, np.ndarray) or given.shape != (len(members),) or given.dtype != np.float64:
        _refuse("reward", name, f"gives {type(given).__name__} for {len(members)} episodes", "give float64[n]")
    if not np.isfinite(given).all():
        _refuse("reward", name, f"gives {given.tolist()}", "give finite numbers, also where nothing was won or spent")
    return given


def _step(members: Any, *, targeted: bool) -> tuple[Standing, Standing]:
    """A made-up step of some of six episodes, in arrays that cannot be written to."""

    def of(*values: float, kind: type = np.float64) -> Any:
        column = np.array(values, dtype=kind)[members]
        column.flags.writeable = False
        return column

    plan = np.array([[0.5, 0, 3, 0, 9, 1], [1.0, 0, 4, 0, 20, 1.5]])[:, members]
    stakes = Stakes(
        optimum=of(10, 10, 10, 0, 50, 10),
        budget=of(100, 100, 100, 1, 10**9, 100, kind=np.int64),
        target=of(10, 10, 10, 10, 1e7, 1) if targeted else None,
        play_plan=lambda: plan,
    )
    return (
        Standing(0, of(1, 0, 2, 0, 10, 3), of(10, 0, 30, 0, 10**8, 50, kind=np.int64), stakes),
        Standing(1, of(2, 0, 2, 0, 30, 4), of(20, 0, 30, 0, 3 * 10**8, 100, kind=np.int64), stakes),
    )


def _refuse(what: str, name: str, fault: str, remedy: str) -> NoReturn:
    raise BadInput(f"{what} (={name}) {fault}: {remedy}")
