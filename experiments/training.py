"""`bidtwin train`: a bidding task's file to a policy, with its card, its curves and its checkpoints in one folder."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.evaluation import evaluate, held_out
from agents.features import NAMES
from agents.learned import Learned, Model
from agents.promotion import Verdict, judge_file, trials_of
from agents.statistics import Interval
from agents.tuned import REFERENCE, Known, bidder, plan
from engine.errors import BadInput
from engine.policy import Policy
from experiments.config.bidding import BiddingConfig, load_bidding
from experiments.config.training import Training
from experiments.tasks import bidding_task
from sim.bidding import BiddingTask

if TYPE_CHECKING:
    from agents.imitation import Round
    from agents.train import Reached

POLICY = "policy.npz"
_UNJUDGED = "unjudged.npz"
SETTINGS = "training.json"
IMITATION, PPO = "imitation", "PPO"
LEARNED = "policy"
_NEEDED = ("torch", "stable_baselines3", "tensorboard")
_SCALING_EPISODES = 400
_VERSIONS = ("bidtwin", "numpy", "numba", "torch", "stable-baselines3")


@dataclass(frozen=True)
class Stage:
    """How far a training is: what it does, the part of that which is done, and what was measured last.

    `score` is that of the model so far on the validation episodes, `told` the same in words.
    """

    name: str
    done: int
    of: int
    told: str = ""
    score: float | None = None


Watch = Callable[[Stage], None]


def train(
    source: Path | Mapping[str, Any],
    out: Path | None = None,
    seed: int | None = None,
    *,
    resume: bool = False,
    watch: Watch = lambda _: None,
    callbacks: Sequence[Any] = (),
) -> Path:
    """Train a policy for a bidding task, and score it on the held-out episodes.

    Parameters
    ----------
    source:
        The task's file with its part `training`, or a mapping of the same.
    out:
        Folder for the policy, its logs and checkpoints; by default `policies/` and the task's name.
    seed:
        In place of the file's.
    resume:
        Go on with a training that was interrupted in `out`: imitation comes to the weights it would have had, PPO goes
        on from its last checkpoint with new episodes.
    callbacks:
        stable-baselines3 callbacks that PPO is to call beside its own.

    Returns
    -------
    The policy's file, `policy.npz` in `out`.

    Raises
    ------
    BadInput
        For a file without `training`, a folder that is taken, a resumption of another training, and where torch,
        stable-baselines3 or TensorBoard is not installed.
    """
    config = load_bidding(source)
    if seed is not None:
        config = load_bidding({**config.model_dump(mode="json"), "seed": seed})
    if config.training is None:
        raise BadInput(f"{config.name}: training is missing: start from configs/bidding_default.yaml")
    check_installed()
    folder = out or Path("policies") / config.name
    _claim(folder, config, resume=resume)
    model, course = _trained(config, config.training, folder, watch, callbacks)
    watch(Stage("held-out episodes", 0, 1))
    found = scores(model, config)
    watch(Stage("the gate", 0, 1))
    card = _card(config, course, found)
    replace(model, card=card).save(folder / _UNJUDGED)
    verdict = gated(folder / _UNJUDGED, config).as_json()
    replace(model, card=card | {"verdict": verdict}).save(folder / POLICY)
    (folder / _UNJUDGED).unlink()
    watch(Stage("the gate", 1, 1, f"{verdict['standing']}"))
    return folder / POLICY


def check_installed() -> None:
    """Refuse to train where what training needs is missing; all else works without."""
    missing = [name.replace("_", "-") for name in _NEEDED if find_spec(name) is None]
    if missing:
        raise BadInput(f"training needs {', '.join(missing)}, not installed here: pip install 'bidtwin[train]'")


def _claim(folder: Path, config: BiddingConfig, *, resume: bool) -> None:
    """Make the folder, or find in it the very training that is to go on."""
    settings = json.dumps(config.model_dump(mode="json"), indent=1)
    kept = folder / SETTINGS
    if resume:
        if not kept.exists():
            raise BadInput(f"{folder} holds no training to go on with: leave --resume out")
        if kept.read_text(encoding="utf-8") != settings:
            raise BadInput(f"{folder} holds a training with other settings: give those, or another --out")
        return
    if folder.exists() and any(folder.iterdir()):
        raise BadInput(f"{folder} is not empty: give another --out, or --resume to go on with its training")
    folder.mkdir(parents=True, exist_ok=True)
    kept.write_text(settings, encoding="utf-8")


def _tasks(config: BiddingConfig) -> tuple[BiddingTask, BiddingTask]:
    """Without a target and with one: one policy learns both."""
    return bidding_task(config.task), bidding_task(config.task, targeted=True)


def _trained(
    config: BiddingConfig, training: Training, folder: Path, watch: Watch, callbacks: Sequence[Any]
) -> tuple[Model, dict[str, Any]]:
    """Imitation, PPO or both, whichever of the two does better on the validation episodes; and what they came to."""
    best: Model | None = None
    course: dict[str, Any] = {}
    if training.imitation is not None:
        best = imitated(config, training, folder, watch)
        course["imitation"] = validated(best, config, training)
    if training.ppo is not None:
        better = improved(best, config, training, folder, watch, callbacks)
        course["ppo"] = validated(better, config, training)
        if best is None or course["ppo"] > course["imitation"]:
            best = better
    assert best is not None
    return best, course | {"chosen": max(course, key=lambda name: course[name])}


def imitated(config: BiddingConfig, training: Training, folder: Path, watch: Watch) -> Model:
    """Imitation of hindsight, by the file's settings."""
    from agents.imitation import Imitation, curves, imitate  # noqa: PLC0415 - training alone needs torch

    spec = training.imitation
    assert spec is not None
    settings = Imitation(
        rounds=spec.rounds,
        episodes=spec.episodes_per_round,
        hidden=training.hidden,
        epochs=spec.epochs,
        last_epochs=spec.last_epochs,
        batch=spec.batch,
        learning_rate=spec.learning_rate,
        target_share=spec.target_share,
        target_quantile=spec.target_quantile,
    )
    tasks = _tasks(config)
    with curves(folder / "tensorboard" / "imitation") as writer:

        def after(done: Round) -> None:
            score = validated(done.model, config, training)
            writer.add_scalar("imitation/loss", done.loss, done.number)
            writer.add_scalar("validation/score", score, done.number)
            told = f"loss {done.loss:.5f}, validation {score:.4f} of hindsight"
            watch(Stage(IMITATION, done.number + 1, settings.rounds, told, score))

        watch(Stage(IMITATION, 0, settings.rounds))
        programme = plan(Known.of(tasks[0]))
        return imitate(tasks, programme, settings, config.seed, after, folder / "checkpoints")


def improved(
    start: Model | None,
    config: BiddingConfig,
    training: Training,
    folder: Path,
    watch: Watch,
    callbacks: Sequence[Any] = (),
) -> Model:
    """PPO from imitation's weights, or from LP-KM where there are none."""
    from agents.imitation import Imitation, untrained  # noqa: PLC0415 - training alone needs torch
    from agents.train import Improvement, improve  # noqa: PLC0415 - and stable-baselines3

    spec = training.ppo
    assert spec is not None
    plain, targeted = _tasks(config)
    if start is None:
        settings = Imitation(hidden=training.hidden, episodes=_SCALING_EPISODES)
        start = untrained((plain, targeted), plan(Known.of(plain)), settings, config.seed)

    def after(reached: Reached) -> None:
        told = f"validation {reached.score:.4f} of hindsight"
        watch(Stage(PPO, reached.steps, spec.steps, told, reached.score))

    def evaluated(model: Model) -> float:
        return validated(model, config, training)

    settings_of_ppo = Improvement(**spec.model_dump())
    return improve(start, targeted, settings_of_ppo, config.seed, evaluated, folder / "checkpoints", after, callbacks)


def validated(model: Model, config: BiddingConfig, training: Training) -> float:
    """Mean score over the validation episodes, without a target and with one."""
    spec = training.validation
    found = [evaluate({LEARNED: Learned(model)}, held_out(task, spec.episodes, [spec.seed])) for task in _tasks(config)]
    return float(sum(each.scores[LEARNED].score.mean() for each in found) / len(found))


def scores(model: Model, config: BiddingConfig) -> dict[str, Any]:
    """What a model is worth on the held-out episodes, without a target and with one, and tuned LP-KM beside it."""
    told = {}
    for name, task in zip(("default", "target"), _tasks(config), strict=True):
        reference = bidder(REFERENCE, Known.of(task), targeted=name == "target")
        policies: dict[str, Policy] = {LEARNED: Learned(model), REFERENCE: reference}
        found = evaluate(policies, held_out(task, config.held_out.episodes, config.held_out.seeds))
        told[name] = {policy: _row(found.summary(policy, REFERENCE)) for policy in policies}
    return told


def gated(policy: Path, config: BiddingConfig) -> Verdict:
    """Whether the promotion gate lets a policy's file bid, on episodes of its own: as many as are held out."""
    task = bidding_task(config.task)
    trials = trials_of(task, config.held_out.episodes)
    return judge_file(policy, bidder(REFERENCE, Known.of(task)), trials)


def _row(summary: Any) -> dict[str, Any]:
    return {
        "score": _interval(summary.score),
        "hindsight": _interval(summary.hindsight),
        "guarded": _interval(summary.guarded),
        "gain": None if summary.gain is None else _interval(summary.gain),
        "interquartile_mean": round(summary.interquartile_mean, 5),
        "fifth_percentile": round(summary.fifth_percentile, 5),
        "spend": round(summary.spend, 5),
        "over_target": None if summary.over_target is None else round(summary.over_target, 5),
        "episodes": summary.episodes,
    }


def _interval(of: Interval) -> list[float]:
    """Mean, and the ends of the 95 % interval."""
    return [round(number, 5) for number in (of.mean, of.low, of.high)]


def _card(config: BiddingConfig, course: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """What is told of a policy, JSON values alone."""
    told = config.model_dump(mode="json")
    return {
        "name": config.name,
        "seed": config.seed,
        "task": told["task"],
        "features": list(NAMES),
        "training": told["training"],
        "held_out": told["held_out"],
        "validation": dict(course),
        "scores": dict(found),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in _VERSIONS},
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
