"""The bidding task as Gymnasium environments: a vector of campaigns played as one batch, and a single one.

Importing this module registers `bidtwin/Bidding-v0`, as importing `bidtwin` does. Gymnasium has had no plug-ins since
1.0, so one of the two has to be imported, or the module named: `gymnasium.make("agents.env:bidtwin/Bidding-v0")`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium.spaces import Box
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike, NDArray

from agents.drawing import Picture
from agents.features import NAMES, Course, Observer
from agents.lp import OnlineLP, corrected
from agents.registration import register
from agents.rewards import REWARDS, Reward, Stakes, Standing
from agents.rollout import BAND, Rollout
from agents.tuned import Known, plan
from engine.actions import Knob, Proposals, no_proposals, proposals
from engine.actions import Source as Proposer
from engine.errors import BadInput
from engine.events import BIDS, IMPRESSIONS, SPEND
from engine.judgement import Outcome
from engine.policy import View
from engine.units import Float64, Int64, floor_micros
from sim import binned
from sim.bidding import BiddingTask, Episodes, Source, episode_numbers

TARGET_RANGE = (-0.45, 0.25)
"""Where a task that has no target is given one: its logarithm, relative to the optimum's average cost."""

_MICROS = 1_000_000
Floats: TypeAlias = NDArray[np.float32]
Info: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Seen:
    """What n episodes show at the close of a step, and the linear programme's answer to it."""

    view: View
    course: Course
    plan: Float64  # float64[n], the linear programme's bid, micros
    lp: OnlineLP


Form: TypeAlias = Callable[[Float64, Seen], tuple[Int64, Proposals]]
"""From actions float64[n] in [−1, 1] to the bids they ask for, int64[n] in micros, and what the guard is to judge."""


def by_step(action: Float64, seen: Seen) -> tuple[Int64, Proposals]:
    """A bid of bid · (1 + a / 4), rounded towards the bid in force: all of the guard's step law.

    Where it leaves the mandate's band or the budget, the guard refuses it and the bid stays.
    """
    bid = seen.view.controls.bid
    asked = bid + np.trunc(action * (bid / 4)).astype(np.int64)
    rows = np.flatnonzero(asked != bid)
    if not rows.size:
        return asked, no_proposals()
    versions = seen.view.controls.version[rows, Knob.BID]
    return asked, proposals(rows, Knob.BID, asked[rows], versions, Proposer.POLICY, "step")


def by_residual(action: Float64, seen: Seen) -> tuple[Int64, Proposals]:
    """A bid of plan · exp(a), as near as one step, the band and the budget let the bid go; 0 is LP-KM itself.

    As where a policy serves, a is taken to a millionth.
    """
    wanted = corrected(seen.plan, action)
    rows = seen.lp.bids(seen.view, seen.course.knowledge, wanted, "residual")
    return floor_micros(wanted).astype(np.int64), rows


FORMS: dict[str, Form] = {"step": by_step, "residual": by_residual}
"""What an action means, by name."""


def plan_values(lp: OnlineLP, episodes: Episodes) -> Float64:
    """Value that the linear programme has won by the close of every step of some episodes; float64[steps, n]."""
    rollout = Rollout(episodes)
    memory = lp.start(rollout.campaigns, rollout.grid)
    value = np.empty((episodes.steps, len(episodes)))
    while True:
        view = rollout.advance()
        value[view.tick] = rollout.value_ppm / 1e6
        if rollout.done:
            return value
        rows, memory = lp.propose(view, memory)
        rollout.act(rows)


class _Play:
    """A batch of episodes while they are played."""

    def __init__(self, episodes: Episodes, lp: OnlineLP, *, remembers: bool) -> None:
        if episodes.target is not None:
            lp = lp.aiming_at(episodes.target)
        self.episodes = episodes
        self.rollout = Rollout(episodes)
        self._observer = Observer(lp)
        self._course = self._observer.start(self.rollout.campaigns, self.rollout.grid)
        self._stakes = Stakes(episodes.best.value, episodes.budget, episodes.target, partial(plan_values, lp, episodes))
        self.asked = episodes.bid
        self.refused = np.zeros(len(episodes), dtype=np.bool_)
        self._past: list[Seen] | None = [] if remembers else None
        self.advance()

    def act(self, action: Float64, form: Form) -> None:
        """Have the guard judge what actions ask for."""
        self.asked, rows = form(action, self.seen)
        judgement = self.rollout.act(rows)
        self.refused = np.zeros(len(self.episodes), dtype=np.bool_)
        self.refused[rows.campaign] = judgement.outcome != Outcome.APPROVED

    def advance(self) -> None:
        """Play a step under the bids in force, and observe it."""
        view = self.rollout.advance()
        observation, plan, self._course = self._observer.observe(view, self._course)
        self.observation = observation.astype(np.float32)
        self.seen = Seen(view, self._course, plan, self._observer.lp)
        if self._past is not None:
            self._past.append(self.seen)
        spend = self.rollout.charged.copy()
        self.cost = view.recent[:, SPEND].copy()
        self.standing = Standing(view.tick, self.rollout.value_ppm / 1e6, spend, self._stakes)

    def picture(self, place: int) -> Picture:
        """What is drawn of one of the episodes."""
        views = [seen.view for seen in self._past or ()]
        entered = np.array([[view.recent[place, column] for column in (IMPRESSIONS, BIDS)] for view in views])
        done = self._course.knowledge.horizon.done[self._course.knowledge.horizon.period[place]]
        budget, anchor = self.episodes.budget[place], int(self.episodes.bid[place])
        share = self.standing.value[place] / max(self.episodes.best.value[place], 1e-12)
        spent = np.array([view.lifetime[place, SPEND] for view in views]) / budget
        return Picture(
            bid=np.array([view.controls.bid[place] for view in views], dtype=np.float64),
            plan=np.array([seen.plan[place] for seen in self._past or ()]),
            spent=spent,
            win_rate=entered[:, 0] / np.where(entered[:, 1] > 0, entered[:, 1], np.nan),
            traffic=done,
            band=(float(BAND[0] * anchor), float(BAND[1] * anchor)),
            title=f"step {len(views)} of {len(done)}   ·   {spent[-1]:.0%} of the budget spent   ·   "
            f"{share:.1%} of what hindsight would have won",
        )


class BiddingVectorEnv(VectorEnv[Floats, Floats, NDArray[Any]]):
    """n campaigns with budgets, alone in their markets, that are bid for side by side: one batch, no loop over them.

    An episode is a campaign's horizon. Its first step is played under the bid it begins with; then every action decides
    the bid of the next step, as a decision at the close of a tick acts from the next. So an episode of s steps has
    s − 1 actions. It terminates at the end of its horizon and is never truncated. All n episodes have one length and
    run in lockstep; in the step that ends them the next ones are reset (`AutoresetMode.SAME_STEP`): `final_obs` and
    `final_info` in the info are of what ended.

    **Observation**: float32[n, 23], each in [−5, 5], of what a campaign sees in a run, by the function that serves
    there (`agents.features`). Differences are of natural logarithms, `plan` is LP-KM's bid, `anchor` the first bid.

    ===  =======================  ===================================================================================
     i   name                     meaning
    ===  =======================  ===================================================================================
     0   traffic_left             share of the horizon's traffic still expected, in [0, 1]
     1   ticks_left               share of its steps to come, in [0, 1)
     2   pace                     share of the budget left against `traffic_left`; > 0: money is behind
     3   budget_on_traffic        budget left against buying all traffic to come at the bid in force
     4   plan_on_bid              plan against the bid in force
     5   bid_on_anchor            bid in force against the anchor; the mandate's band is ± 2.3
     6   plan_on_anchor           plan against the anchor
     7   plan_on_fast_mean        plan against its running mean, half of it new with every step
     8   plan_on_slow_mean        the same, 15 % of it new
     9   win_rate                 auctions won in the last step over those entered, in [0, 1]
    10   spend_surprise_fast      spend per auction against what was expected of it, running mean, half of it new
    11   spend_surprise_slow      the same, 15 % of it new
    12   traffic_surprise_fast    opportunities against what was expected, running mean, half of it new
    13   traffic_surprise_slow    the same, 15 % of it new
    14   expected_win_rate        probability that the plan wins an auction, in [0, 1]
    15   steepness                half the elasticity of expected cost in the bid, at the plan
    16   price_on_plan            expected cost per unit of value at the plan over the plan, in [0, 1] (a ratio)
    17   volume_on_expected       opportunities of the horizon, projected, against those expected beforehand
    18   seen                     log(1 + opportunities so far) / 5
    19   targeted                 1 where a unit of value has a target cost, else 0
    20   average_on_target        cost per unit of value so far against the target; 0 without one
    21   budget_plan_on_plan      what the budget alone would afford against the plan; 0 without a target
    22   plan_on_target           plan against the target; 0 without one
    ===  =======================  ===================================================================================

    **Action**: float32[n, 1] in [−1, 1]; what lies beyond is cut to it, what is not finite is refused with BadInput.
    With `action="step"` the next bid is bid · (1 + a / 4), the guard's step law in full; with `"residual"` it is
    plan · exp(a), as near as the guard lets one step go. Either is judged by the project's guard (step law, a tenth to
    ten times the first bid, no bid above the budget); what it refuses changes nothing.

    **Reward**: float64[n], see `agents.rewards`; by default the value won in the step as a share of the hindsight
    optimum.

    **Info**, a column each: `cost` of the step and `spend` so far (int64, micros), `value` won so far (float64,
    relative to the reference opportunity), `asked_bid` by the action and `bid` in force after the guard (int64,
    micros), whether it was `refused` (bool), the episode's `budget` (int64, micros) and `optimum` (float64, value); and
    the `target` with `objective="target"`: with `target="cpa"` the most a unit of value may cost (float64, micros),
    with `"roas"` the same limit as the least value that a million micros must bring.

    **Seeds**: environment i of a vector seeded with an integer s is seeded with s + i, as Gymnasium does it; a sequence
    gives every environment its own. An environment's k-th episode since it was seeded is a function of its seed and k
    alone, so environment i plays what a single environment with its seed plays, whatever else is in the batch.
    `reset(options={"episodes": numbers})` plays the episodes of these numbers (int64[n]) instead.

    Parameters
    ----------
    num_envs:
        n, how many campaigns.
    task:
        The distribution of episodes; None: the default task.
    log:
        Episodes cut from a log instead (`sim.logged.LoggedEpisodes`, or whatever else draws episodes).
    objective:
        `"budget"`: the budget alone binds. `"target"`: a target for the average cost of a unit of value as well; a task
        without one is given `TARGET_RANGE`. None: whichever of both the source has.
    target:
        In what the target is told: `"cpa"` or `"roas"`.
    fidelity:
        `"opportunities"`: one by one. `"aggregate"`: counted by price (`sim.binned`), the same in distribution.
    action:
        `"step"` or `"residual"`.
    reward:
        A name in `REWARDS`, or a function as they are.
    lp:
        The linear programme that plans; None: `agents.tuned.plan`, with what bidders know of the source.
    world_seed:
        Of the distribution of episodes: the same numbers under another seed are other episodes.
    render_mode:
        None or `"rgb_array"`.

    Raises
    ------
    BadInput
        For parameters that name nothing, and actions that are not finite.

    Example
    -------
    >>> envs = gymnasium.make_vec("bidtwin/Bidding-v0", num_envs=4)
    >>> observation, info = envs.reset(seed=7)
    >>> observation.shape
    (4, 23)
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - as Gymnasium declares it
        "autoreset_mode": AutoresetMode.SAME_STEP,
        "render_modes": ["rgb_array"],
        "render_fps": 4,
    }

    def __init__(
        self,
        num_envs: int = 1,
        *,
        task: BiddingTask | None = None,
        log: Source | None = None,
        objective: str | None = None,
        target: str = "cpa",
        fidelity: str = "opportunities",
        action: str = "step",
        reward: str | Reward = "value_share",
        lp: OnlineLP | None = None,
        world_seed: int = 0,
        render_mode: str | None = None,
    ) -> None:
        if num_envs < 1:
            raise BadInput(f"num_envs (={num_envs}) must be at least 1: give the number of campaigns")
        self.num_envs = num_envs
        self.render_mode = _one_of("render_mode", render_mode, (None, "rgb_array"))
        self.source = source_of(task, log, objective, fidelity)
        self._target_as = _one_of("target", target, ("cpa", "roas"))
        self._form = FORMS[_one_of("action", action, tuple(FORMS))]
        self._reward: Reward = reward if callable(reward) else REWARDS[_one_of("reward", reward, tuple(REWARDS))]
        self._lp = plan(Known.of(self.source)) if lp is None else lp
        self._world_seed = world_seed
        self.single_observation_space = Box(-5.0, 5.0, (len(NAMES),), np.float32)
        self.single_action_space = Box(-1.0, 1.0, (1,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._seeds: NDArray[np.uint64] | None = None
        self._played = np.zeros(num_envs, dtype=np.int64)
        self._play: _Play | None = None

    def reset(
        self, *, seed: int | Sequence[int] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Floats, Info]:
        """Begin new episodes and play their first step; see the class for what seeds and options do."""
        self._sow(seed)
        self._begin((options or {}).get("episodes"))
        return self._playing.observation, self._info()

    def step(self, actions: ArrayLike) -> tuple[Floats, NDArray[Any], NDArray[Any], NDArray[Any], Info]:
        """Put actions before the guard and play a step; where it ends the episodes, the next ones begin."""
        observation, reward, ended, info = self.play(actions)
        if ended:
            info = self._again(observation, info)
            observation = self._playing.observation
        terminated = np.full(self.num_envs, ended)
        return observation, reward, terminated, np.zeros(self.num_envs, dtype=np.bool_), info

    def play(self, actions: ArrayLike) -> tuple[Floats, Float64, bool, Info]:
        """The same without beginning anew: observation, reward, whether the episodes have ended, and info."""
        play, before = self._playing, self._playing.standing
        if play.rollout.done:
            raise BadInput("the episode has ended: call reset() before the next step")
        play.act(self._checked(actions), self._form)
        play.advance()
        return play.observation, self._reward(before, play.standing), play.rollout.done, self._info()

    def render(self) -> tuple[NDArray[np.uint8], ...] | None:
        """A picture of every episode so far, uint8[600, 800, 3] each; None without a render mode."""
        if self.render_mode is None:
            return None
        return tuple(self._playing.picture(place).rgb() for place in range(self.num_envs))

    @property
    def _playing(self) -> _Play:
        if self._play is None:
            raise BadInput("no episode has begun: call reset() before step() and render()")
        return self._play

    def _sow(self, seed: int | Sequence[int] | None) -> None:
        """Take seeds, if any are given or none were so far."""
        if isinstance(seed, int | np.integer) or seed is None:
            super().reset(seed=seed)
            if seed is None and self._seeds is not None:
                return
            first = int(self.np_random.integers(2**63)) if seed is None else int(seed)
            seeds = [first + place for place in range(self.num_envs)]
        else:
            seeds = [int(one) for one in seed]
            super().reset(seed=seeds[0] if seeds else None)
        if len(seeds) != self.num_envs or min(seeds) < 0:
            raise BadInput(f"seed (={seed}) must be {self.num_envs} whole numbers >= 0: one for every environment")
        self._seeds = np.array([one % 2**64 for one in seeds], dtype=np.uint64)
        self._played[:] = 0

    def _begin(self, numbers: ArrayLike | None) -> None:
        """Draw the next episodes, or those of given numbers, and play their first step."""
        assert self._seeds is not None
        if numbers is None:
            chosen = episode_numbers(self._seeds, self._played)
            self._played += 1
        else:
            chosen = np.asarray(numbers, dtype=np.int64).reshape(-1)
            if len(chosen) != self.num_envs:
                raise BadInput(f"episodes (={len(chosen)} numbers) must be {self.num_envs}: one for every environment")
        episodes = self.source.draw(self._world_seed, chosen)
        self._play = _Play(episodes, self._lp, remembers=self.render_mode is not None)

    def _checked(self, actions: ArrayLike) -> Float64:
        """Actions as float64[n] in [−1, 1]."""
        action = np.asarray(actions, dtype=np.float64)
        if action.shape not in {(self.num_envs, 1), (self.num_envs,)}:
            raise BadInput(f"actions (of shape {action.shape}) must be of shape ({self.num_envs}, 1): one a campaign")
        action = action.reshape(-1)
        if not np.isfinite(action).all():
            place = int(np.flatnonzero(~np.isfinite(action))[0])
            raise BadInput(f"action (={action[place]}) of environment {place} must be a finite number in [-1, 1]")
        return np.clip(action, -1.0, 1.0)

    def _info(self) -> Info:
        """A column for everything, each with the mask that Gymnasium wants beside it."""
        play = self._playing
        columns = {
            "cost": play.cost.copy(),
            "spend": play.standing.spend.copy(),
            "value": play.standing.value.copy(),
            "asked_bid": play.asked.copy(),
            "bid": play.rollout.controls.bid.copy(),
            "refused": play.refused.copy(),
            "budget": play.episodes.budget.copy(),
            "optimum": play.episodes.best.value.copy(),
        }
        target = play.episodes.target
        if target is not None:
            columns["target"] = target.copy() if self._target_as == "cpa" else _MICROS / target
        return self._masked(columns)

    def _again(self, observation: Floats, ended: Info) -> Info:
        """Begin the next episodes; their info, with what has ended in it."""
        self._begin(None)
        last = np.empty(self.num_envs, dtype=object)
        last[:] = list(observation)
        return self._masked({"final_obs": last, "final_info": ended}) | self._info()

    def _masked(self, columns: Info) -> Info:
        return columns | {f"_{name}": np.ones(self.num_envs, dtype=np.bool_) for name in columns}


class BiddingEnv(gymnasium.Env[Floats, Floats]):
    """One campaign: `BiddingVectorEnv` with n = 1, where every shape, meaning and parameter is told.

    Observation float32[23], action float32[1], reward and info of Python numbers.

    Example
    -------
    >>> env = gymnasium.make("bidtwin/Bidding-v0", action="residual")
    >>> observation, info = env.reset(seed=7)
    >>> observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012 - likewise

    def __init__(self, **parameters: Any) -> None:
        self._only = BiddingVectorEnv(1, **parameters)
        self.render_mode = self._only.render_mode
        self.observation_space = self._only.single_observation_space
        self.action_space = self._only.single_action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Floats, Info]:
        """Begin a new episode and play its first step."""
        super().reset(seed=seed)
        if seed is None and self._np_random is None:
            seed = int(self.np_random.integers(2**63))
        observation, info = self._only.reset(seed=None if seed is None else [seed], options=options)
        return observation[0], _alone(info)

    def step(self, action: Floats) -> tuple[Floats, float, bool, bool, Info]:
        """Put an action before the guard and play a step."""
        observation, reward, terminated, info = self._only.play(np.asarray(action).reshape(1, -1))
        return observation[0], float(reward[0]), terminated, False, _alone(info)

    def render(self) -> NDArray[np.uint8] | None:
        """A picture of the episode so far, uint8[600, 800, 3]; None without a render mode."""
        frames = self._only.render()
        return None if frames is None else frames[0]


def source_of(task: BiddingTask | None, log: Source | None, objective: str | None, fidelity: str) -> Source:
    """Where an environment's episodes come from; see `BiddingVectorEnv`."""
    _one_of("objective", objective, (None, "budget", "target"))
    _one_of("fidelity", fidelity, ("opportunities", "aggregate"))
    if task is not None and log is not None:
        raise BadInput("task and log cannot both be given: episodes come from one of them")
    source: Any = log if log is not None else task if task is not None else BiddingTask()
    if objective == "budget":
        source = replace(source, target_range=None)
    elif objective == "target" and source.target_range is None:
        source = replace(source, target_range=TARGET_RANGE)
    if fidelity == "aggregate":
        if log is not None:
            raise BadInput("fidelity (='aggregate') must be 'opportunities' with a log: it holds single opportunities")
        source = replace(source, market=binned.draw)
    chosen: Source = source
    return chosen


def _one_of(name: str, given: Any, choices: tuple[Any, ...]) -> Any:
    if given not in choices:
        raise BadInput(f"{name} (={given!r}) must be one of {', '.join(map(repr, choices))}")
    return given


def _alone(info: Info) -> Info:
    """The info of the only environment."""
    return {name: column[0].item() for name, column in info.items() if not name.startswith("_")}


register()
