"""Tune the baselines on the bidding task: python -m experiments.tuning [CONFIG] [--only NAMES] [--workers N].

What it prints goes into `agents.tuned`.
"""

from __future__ import annotations

import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from agents.evaluation import Work
from agents.tuned import DEFAULTS, MAKERS, Known, Settings
from agents.tuning import Found, Span, search
from engine.policy import Policy
from engine.runtime.pool import pool
from experiments.config.bidding import load_bidding
from experiments.tasks import bidding_task
from sim.bidding import BiddingTask

CONFIG = Path("configs/bidding_default.yaml")
_GAINS = {"proportional": Span(0.02, 1.5), "integral": Span(0.02, 3.0)}
_TARGET_GAINS = {"target_proportional": Span(0.01, 1.5), "target_integral": Span(0.02, 3.0)}
_RATE = {"rate": Span(1.0, 60.0), "expected_weight": Span(0.02, 5.0)}
_LP = {
    "half_life_hours": Span(2.0, 72.0),
    "expected_weight": Span(0.01, 5.0),
    "prior_weight": Span(4.0, 300.0),
    "prior_offset": Span(-0.5, 1.5, log=False),
    "prior_sigma": Span(0.5, 2.0),
    "prior_value": Span(0.7, 1.6),
    "prior_slope": Span(0.0, 1.0, log=False),
}
BUDGET_SPANS: dict[str, dict[str, Span]] = {
    "pid_rule": {"slack": Span(0.005, 0.6)},
    "even_pi": _GAINS,
    "traffic_aware_pi": _GAINS,
    "mirror_descent": _RATE,
    "mirror_descent_resolving": _RATE,
    "lp_km": _LP,
}
TARGET_SPANS: dict[str, dict[str, Span]] = {
    "pid_rule": BUDGET_SPANS["pid_rule"],
    "even_pi": _GAINS | _TARGET_GAINS,
    "traffic_aware_pi": _GAINS | _TARGET_GAINS,
    "mirror_descent": _RATE | {"target_rate": Span(1.0, 100.0)},
    "mirror_descent_resolving": _RATE | {"target_rate": Span(1.0, 100.0)},
    "lp_km": _LP,
}


def tuned(name: str, task: BiddingTask, first: Settings, seed: int, work: Work = map) -> Found:
    """The best settings of a baseline for a task, from some settings on."""
    spans = BUDGET_SPANS if task.target_range is None else TARGET_SPANS
    return search(partial(_made, name, Known.of(task)), spans[name], first, task, seed=seed, work=work)


def _made(name: str, known: Known, settings: Settings) -> Policy:
    return MAKERS[name](settings, known)


def main(
    config: Annotated[Path, typer.Argument(help="The bidding task's file.")] = CONFIG,
    only: Annotated[str, typer.Option(help="Some of the baselines, with commas.")] = ",".join(BUDGET_SPANS),
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
) -> None:
    """Search the settings of every baseline, where the budget alone binds and then with a target; print one JSON."""
    loaded = load_bidding(config)
    plain, aiming = bidding_task(loaded.task), bidding_task(loaded.task, targeted=True)
    told: dict[str, Any] = {"seed": loaded.seed, "budget": {}, "target": {}}
    with pool(workers) as helpers:
        for name in only.split(","):
            began = time.perf_counter()
            found = tuned(name, plain, DEFAULTS[name], loaded.seed, helpers.map)
            told["budget"][name] = _row(found)
            told["target"][name] = _row(tuned(name, aiming, found.settings, loaded.seed, helpers.map))
            print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr)  # noqa: T201 - a person waits
    typer.echo(json.dumps(told, indent=1))


def _row(found: Found) -> dict[str, Any]:
    return {"settings": found.settings, "score": str(found.score), "gain": str(found.gain)}


if __name__ == "__main__":
    typer.run(main)
