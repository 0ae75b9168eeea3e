"""What a watch rolls back: harmless changes and harmful ones, over seeded small worlds, looked at every hour.

python -m experiments.studies.guard_value.run [--worlds N] [--json]
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer
from scipy.stats import beta, t

from engine.errors import BadInput
from engine.ledger import RecordKind, decode_round
from engine.runtime.store import LEDGER, read_ledger
from engine.units import Float64
from engine.verdicts import Event
from experiments import api
from experiments.config import SimulationConfig

CONFIG = Path(__file__).with_name("config.yaml")
WORLDS = 200
ARMS = {"harmless": 0, "loses-05": 5, "loses-10": 10, "loses-20": 20, "loses-30": 30, "loses-40": 40}
"""The changed campaigns, and how much of their profit they are made to lose, in percent of the margin assumed."""
_HORIZON = 24


class _World(NamedTuple):
    """One world: how each watch ended, after how many hours, and the first week's money of a campaign."""

    ended: dict[str, tuple[str, int]]
    spend: int
    revenue: int
    conversions: int
    naive: bool


def study(worlds: int = WORLDS) -> dict[str, Any]:
    """Run so many worlds, their seeds 1, 2, …; per arm the share rolled back, and what the worlds were like."""
    config = api.load(CONFIG)
    assert isinstance(config, SimulationConfig)
    found = [_world(config, seed) for seed in range(1, worlds + 1)]
    margin = 1 - sum(each.spend for each in found) / sum(each.revenue for each in found)
    return {
        "worlds": worlds,
        "margin": round(margin, 4),
        "conversions_per_hour": round(
            sum(each.conversions for each in found) / worlds / 168 / len(config.campaigns), 2
        ),
        "arms": [_arm(name, config, margin, found) for name in ARMS],
        "naive_harmless_rolled_back": sum(each.naive for each in found) / worlds,
    }


def _world(config: SimulationConfig, seed: int) -> _World:
    with TemporaryDirectory() as folder:
        run = api.simulate(config.model_copy(update={"seed": seed}), out=Path(folder) / "run")
        ids, opened, ended = sorted(config.campaigns), 0, {}
        for record in read_ledger(run.folder / LEDGER):
            told = decode_round(record).header["watches"] if record.kind is RecordKind.ROUND else ()
            for each in told:
                if each["event"] == Event.OPENED:
                    opened = record.tick - 1
                else:
                    ended[ids[each["campaign"]]] = each["event"], record.tick - opened
        metrics = run.metrics
    week = metrics[metrics.tick < opened]
    harmless = metrics[metrics.campaign == "harmless"]
    profit = ((harmless.revenue_micros - harmless.spend_micros) / harmless.opportunities).to_numpy()
    return _World(
        ended,
        int(week.spend_micros.sum()),
        int(week.revenue_micros.sum()),
        int(week.conversions.sum()),
        _naive(profit[:opened], profit[opened + 1 + _HORIZON : opened + 1 + 168]),
    )


def _naive(before: Float64, after: Float64) -> bool:
    """Whether a one-sided t-test of after against before, at 5 % and looked at every hour, ever finds a loss."""
    hours = np.arange(12, len(after) + 1)
    means = np.array([after[:n].mean() for n in hours])
    spread = np.array([after[:n].var(ddof=1) / n for n in hours]) + before.var(ddof=1) / len(before)
    statistic = (means - before.mean()) / np.sqrt(spread)
    return bool((statistic < t.ppf(0.05, hours - 1)).any())


def _arm(name: str, config: SimulationConfig, margin: float, found: list[_World]) -> dict[str, Any]:
    """How the watches of one campaign ended over all worlds, with a 95 % interval (Clopper & Pearson) of the share."""
    creatives = config.campaigns[name].creatives
    clicks = 0.25 * (1 - creatives["tried"].ctr / creatives["known"].ctr)
    ends = [each.ended[name] for each in found]
    hours = [after for event, after in ends if event == Event.ROLLED_BACK]
    n, k = len(ends), len(hours)
    return {
        "arm": name,
        "profit_lost": round(clicks / margin, 4),
        "rolled_back": k / n,
        "low": round(float(beta.ppf(0.025, k, n - k + 1)), 4) if k else 0.0,
        "high": round(float(beta.ppf(0.975, k + 1, n - k)), 4) if k < n else 1.0,
        "median_hours": float(np.median(hours)) if hours else None,
        "kept": sum(event == Event.KEPT for event, _ in ends) / n,
    }


def _table(found: Mapping[str, Any]) -> str:
    head = (
        f"{found['worlds']} worlds; profit is {found['margin']:.1%} of revenue; "
        f"{found['conversions_per_hour']} conversions an hour and campaign\n\n"
        f"{'':10} {'profit lost':>11} {'rolled back':>11} {'95 % interval':>17} {'median hours':>12} {'kept':>7}"
    )
    lines = [
        f"{arm['arm']:10} {arm['profit_lost']:11.1%} {arm['rolled_back']:11.1%} "
        f"{arm['low']:8.1%} {arm['high']:8.1%} {_hours(arm['median_hours']):>12} {arm['kept']:7.1%}"
        for arm in found["arms"]
    ]
    naive = f"a t-test of after against before, harmless: {found['naive_harmless_rolled_back']:.1%} rolled back"
    return "\n".join([head, *lines, "", naive])


def _hours(value: float | None) -> str:
    return "–" if value is None else f"{value:.0f}"


def main(
    worlds: Annotated[int, typer.Option(help="How many worlds, with seeds from 1 on.")] = WORLDS,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON value and nothing else.")] = False,  # noqa: FBT002
) -> None:
    """Count what watches roll back in worlds where the truth is known."""
    try:
        found = study(worlds)
    except BadInput as error:
        typer.echo(f"guard_value: {error}", err=True)
        raise typer.Exit(2) from None
    typer.echo(json.dumps(found, indent=1, allow_nan=False) if as_json else _table(found))


if __name__ == "__main__":
    typer.run(main)
