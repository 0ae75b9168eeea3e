"""`bidtwin evaluate`: policies side by side over the same episodes of a bidding task, or of a log."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from agents.evaluation import OVER, Batch, Evaluation, Summary, evaluate, held_out
from agents.learned import Learned, Model, shipped
from agents.tuned import MAKERS, REFERENCE, Known, bidder
from engine.errors import BadInput
from engine.policy import Policy
from engine.runtime.pool import pool
from experiments.config.bidding import load_bidding
from experiments.config.values import nearest
from experiments.tasks import bidding_task
from experiments.users import users_policy
from sim.logged import LoggedTask
from sim.logs.ipinyou_auctions import read_auctions

LEARNED = "learned"
"""The policy that comes with the package."""
_LOG_EPISODES, _LOG_SEEDS = 200, (101,)
_CAP = 0.99
_TARGETS = (-0.45, 0.25)


@dataclass(frozen=True)
class Ground:
    """What policies are compared on: episodes in batches, what bidders know of them, and how they are told of."""

    name: str
    batches: tuple[Batch, ...]
    known: Known
    targeted: bool
    told: Mapping[str, Any]


@dataclass(frozen=True)
class Comparison:
    """Policies compared: a summary of each, gains over `reference`, and every episode's scores."""

    ground: Ground
    reference: str
    summaries: tuple[Summary, ...]
    evaluation: Evaluation

    def as_json(self) -> dict[str, Any]:
        """As `--json` prints it; fractions, not percent."""
        return {
            "on": self.ground.name,
            **self.ground.told,
            "targeted": self.ground.targeted,
            "reference": self.reference,
            "over_target_means": f"average cost more than {OVER:.0%} above the target",
            "policies": [_finite(asdict(each)) for each in self.summaries],
        }


def _finite(row: Any) -> Any:
    """Infinite ends, of an interval over one campaign, as unknown: JSON has no infinity."""
    if isinstance(row, dict):
        return {name: _finite(value) for name, value in row.items()}
    return None if isinstance(row, float) and not np.isfinite(row) else row


def compare(
    policies: Sequence[str],
    on: Path,
    *,
    episodes: int | None = None,
    seeds: Sequence[int] | None = None,
    targeted: bool = False,
    workers: int = 1,
) -> Comparison:
    """Play policies, and tuned LP-KM with them, over the same episodes.

    Parameters
    ----------
    policies:
        Built-in names, `module:Class`, or a learned policy's `.npz` file.
    on:
        A bidding task's YAML file, or a log of auctions as `sim.logs.ipinyou_auctions` reads it.
    episodes, seeds:
        So many episodes under each of the seeds; by default the task's `held_out`.
    targeted:
        With a target cost per unit of value in every episode; scores are then weighed by how it was kept.
    workers:
        Processes that share the work; the scores are the same.

    Raises
    ------
    BadInput
        For a policy or a file that there is not, or that cannot be read.
    """
    ground = ground_of(on, episodes, seeds, targeted=targeted)
    named = {name: named_policy(name, ground) for name in dict.fromkeys([*policies, REFERENCE])}
    with pool(workers) as helpers:
        played = evaluate(named, ground.batches, work=helpers.map, clock=time.perf_counter)
    summaries = tuple(played.summary(name, REFERENCE) for name in named)
    return Comparison(ground, REFERENCE, summaries, played)


def numbers(text: str) -> tuple[int, ...]:
    """Seeds from their list with commas."""
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = (-1,)
    if min(found) < 0:
        raise BadInput(f"seeds (={text!r}) must be whole numbers, 0 or more: write 101,102")
    return found


def named_policy(name: str, ground: Ground) -> Policy:
    """A policy by its built-in name, by the file it was exported to, or by `module:Class`."""
    if name in MAKERS:
        return bidder(name, ground.known, targeted=ground.targeted)
    if name == LEARNED:
        return _told(shipped(), ground.known)
    if name.endswith(".npz"):
        return _told(Model.load(Path(name)), ground.known)
    if ":" in name:
        return users_policy(name, {}, clipped=False)
    remedy = f"a built-in one ({nearest(name, [*MAKERS, LEARNED])}), module:Class, or a .npz file"
    raise BadInput(f"policy (={name!r}) must be named: {remedy}")


def _told(model: Model, known: Known) -> Learned:
    """A learned policy whose linear programme is told what bidders know here, instead of what its training knew."""
    hoped = known.opportunities
    return Learned(model, replace(model.lp, curve=known.curve, expected_opportunities=hoped, band=known.band))


def ground_of(
    on: Path, episodes: int | None = None, seeds: Sequence[int] | None = None, *, targeted: bool = False
) -> Ground:
    """What a file gives to compare policies on."""
    if on.suffix in {".yaml", ".yml"}:
        return _task_ground(on, episodes, seeds, targeted=targeted)
    return _log_ground(on, episodes or _LOG_EPISODES, tuple(seeds or _LOG_SEEDS), targeted=targeted)


def _task_ground(on: Path, episodes: int | None, seeds: Sequence[int] | None, *, targeted: bool) -> Ground:
    config = load_bidding(on)
    task = bidding_task(config.task, targeted=targeted)
    count, chosen = episodes or config.held_out.episodes, tuple(seeds or config.held_out.seeds)
    if config.seed in chosen:
        raise BadInput(f"seeds must not hold the seed that policies are made from (={config.seed}): choose others")
    told = {"episodes": count, "seeds": list(chosen)}
    return Ground(config.name, tuple(held_out(task, count, chosen)), Known.of(task), targeted, told)


def _log_ground(on: Path, episodes: int, seeds: tuple[int, ...], *, targeted: bool) -> Ground:
    """Windows of a log's later half as episodes; those of one window share their luck.

    An opportunity is worth its predicted CTR over the mean of the earlier half, capped at that half's 99th percentile:
    iPinYou's predictions are a thousand times the mean for one auction in a thousand, more than a window's whole budget
    could bid for.
    """
    log, _ = read_auctions(on)
    cap = float(np.quantile(log.predicted_ctr[: len(log) // 2], _CAP))
    worth = np.minimum(log.predicted_ctr, cap)
    task = LoggedTask(
        value=worth / max(float(worth[: len(log) // 2].mean()), 1e-12),
        price=log.price_micros,
        target_range=_TARGETS if targeted else None,
    )
    windows = task.window_of(np.arange(episodes))
    batches = [batch._replace(clusters=windows[batch.clusters % episodes]) for batch in held_out(task, episodes, seeds)]
    told = {"episodes": episodes, "seeds": list(seeds), "windows": task.windows, "auctions_per_window": task.rows}
    return Ground(on.stem, tuple(batches), Known.of(task), targeted, told)
