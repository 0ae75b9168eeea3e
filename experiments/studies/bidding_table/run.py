"""Every policy on the bidding task, on its stress sets, and with a target: paired, with intervals.

python -m experiments.studies.bidding_table.run [POLICY.npz …] [--episodes N] [--stress-episodes N] [--workers P]
[--out FILE]
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from agents.evaluation import Evaluation, Work, evaluate, held_out
from agents.learned import Learned, Model, shipped
from agents.promotion import LEVEL, NO_WORSE, POINT, findings, stress_sets
from agents.rollout import LARGEST_STEP
from agents.tuned import MAKERS, REFERENCE, Known, bidder
from engine.policy import Policy
from engine.runtime.pool import pool
from engine.units import Float64
from experiments.config.bidding import BiddingConfig, load_bidding
from experiments.evaluation import LEARNED, Comparison, Ground
from experiments.report.comparison import lead, markdown, notes
from experiments.tasks import bidding_task
from sim.bidding import BiddingTask

CONFIG = Path(__file__).with_name("config.yaml")
STRESS_EPISODES = 400
TRIALS = 2_000
_GAINS = "traffic_aware_pi"
_SEED = 6


def study(
    learned: Sequence[Path] = (),
    *,
    episodes: int | None = None,
    stress_episodes: int = STRESS_EPISODES,
    seeds: tuple[int, ...] | None = None,
    trials: int = TRIALS,
    work: Work = map,
) -> str:
    """The tables as Markdown.

    Parameters
    ----------
    learned:
        Files of learned policies, beside those that the project ships.
    episodes, stress_episodes:
        Under each seed; of the task by default as `config.yaml` has them.
    seeds:
        Likewise.
    trials:
        In which the gate meets a policy that is worse by 0.2 points.
    """
    config = load_bidding(CONFIG)
    if seeds is not None:
        config = config.model_copy(update={"held_out": config.held_out.model_copy(update={"seeds": seeds})})
    plain, aiming = bidding_task(config.task), bidding_task(config.task, targeted=True)
    count = episodes or config.held_out.episodes
    files = {file.stem: file for file in learned}
    budget = _compared(config, plain, files, count, work)
    target = _compared(config, aiming, files, count, work)
    parts = [
        ("The default task", budget),
        ("The same with a target cost per unit of value", target),
    ]
    text = [f"## {title}\n\n{lead(each)}.\n\n{markdown(each)}\n\n{notes(each)}" for title, each in parts]
    text.append(_stressed(config, plain, files, stress_episodes, work))
    text.append(_mistakes(budget.evaluation.difference(_GAINS, REFERENCE), trials))
    return "\n\n".join(text) + "\n"


def _policies(task: BiddingTask, files: Mapping[str, Path]) -> dict[str, Policy]:
    targeted = task.target_range is not None
    built_in: dict[str, Policy] = {name: bidder(name, Known.of(task), targeted=targeted) for name in MAKERS}
    return built_in | {LEARNED: Learned(shipped())} | {name: Learned(Model.load(file)) for name, file in files.items()}


def _compared(
    config: BiddingConfig, task: BiddingTask, files: Mapping[str, Path], count: int, work: Work
) -> Comparison:
    batches = held_out(task, count, config.held_out.seeds)
    played = evaluate(_policies(task, files), batches, work=work, clock=time.perf_counter)
    told = {"episodes": count, "seeds": list(config.held_out.seeds)}
    ground = Ground(config.name, tuple(batches), Known.of(task), task.target_range is not None, told)
    return Comparison(ground, REFERENCE, tuple(played.summary(name, REFERENCE) for name in played.scores), played)


def _stressed(config: BiddingConfig, task: BiddingTask, files: Mapping[str, Path], count: int, work: Work) -> str:
    """Gains over LP-KM on every stress set, and LP-KM's own score."""
    sets = {"default": (task, LARGEST_STEP)} | stress_sets(task)
    columns: dict[str, dict[str, str]] = {}
    for name, (world, step) in sets.items():
        batches = held_out(world, count, config.held_out.seeds)
        played = evaluate(_policies(world, files), batches, largest_step=step, work=work)
        columns[name] = {policy: _cell(played, policy) for policy in played.scores}
    names = list(columns)
    rows = [f"| {policy} | {' | '.join(columns[name][policy] for name in names)} |" for policy in columns[names[0]]]
    head = f"| gain over lp_km, points | {' | '.join(names)} |", "|---" + "|---:" * len(names) + "|"
    table = "\n".join([*head, *rows])
    return (
        f"## Stress sets\n\n{count:,} episodes under each of the same seeds; gains in score over LP-KM, points with 95 "
        f"% intervals, of LP-KM itself its score in percent.\n\n{table}"
    )


def _cell(played: Evaluation, policy: str) -> str:
    if policy == REFERENCE:
        return f"**{100 * played.summary(policy).score.mean:.2f}**"
    gain = played.gain(policy, REFERENCE)
    return f"{gain.mean / POINT:+.2f} [{gain.low / POINT:+.2f}, {gain.high / POINT:+.2f}]"


def _mistakes(gains: Float64, trials: int) -> str:
    """How often a stress set passes a policy that is truly worse by 0.2 points, by resampling real paired gains."""
    generator = np.random.default_rng(_SEED)
    moved = gains - gains.mean() + NO_WORSE
    rows = []
    for size in (500, 1_000, 5_000):
        drawn = np.stack([generator.choice(moved, size) for _ in range(trials)], axis=1)
        found = findings("stress", drawn, NO_WORSE)
        passed = sum(not each.reasons for each in found)
        whole = sum(not replace(each, above=0.0).reasons for each in found)
        rows.append(f"| {size:,} | {passed} of {trials:,} | {passed / trials:.2%} | {whole} of {trials:,} |")
    skew = float(((gains - gains.mean()) ** 3).mean() / gains.std() ** 3)
    return (
        f"## How often one stress set of the gate is wrong\n\nPaired gains of {_GAINS} over LP-KM on the default task "
        f"(standard deviation {gains.std() / POINT:.2f} points, skewness {skew:.1f}), moved to −0.2 points and drawn "
        f"with replacement, seed {_SEED}; the gate asks that a {LEVEL:.0%} interval lie above −0.2 on a stress set and "
        "above 0 on the task itself. It judges 5,000 episodes.\n\n"
        "| episodes | passed a stress set | share | passed the task itself |\n|---:|---:|---:|---:|\n" + "\n".join(rows)
    )


def main(
    learned: Annotated[list[Path] | None, typer.Argument(help="Learned policies, .npz files.")] = None,
    episodes: Annotated[int | None, typer.Option(min=2, help="Under each seed.")] = None,
    stress_episodes: Annotated[int, typer.Option(min=2, help="Likewise, on stress sets.")] = STRESS_EPISODES,
    trials: Annotated[int, typer.Option(min=1, help="Of the gate.")] = TRIALS,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    out: Annotated[Path | None, typer.Option(help="Write the tables to this file instead.")] = None,
) -> None:
    """Print the tables."""
    began = time.perf_counter()
    with pool(workers) as helpers:
        text = study(learned or (), episodes=episodes, stress_episodes=stress_episodes, trials=trials, work=helpers.map)
    took = time.perf_counter() - began
    head = f"Measured on {dt.datetime.now(dt.UTC):%Y-%m-%d}, in {took:.0f} s with {workers} processes.\n\n"
    if out is None:
        typer.echo(head + text)
    else:
        out.write_text(head + text, encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
