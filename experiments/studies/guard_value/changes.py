"""What a watch rolls back of single changes that somebody approved: harmless ones, and harmful ones of several sizes.

In `weights.yaml` a change moves weight between creatives, which are compared side by side; in `bids.yaml` it moves a
bid or a budget, which only untouched siblings can judge.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import t

from engine.events import OPPORTUNITIES, REVENUE, SPEND
from engine.units import Float64, Int64
from engine.verdicts import Event
from experiments import api, build
from experiments.config import SimulationConfig
from experiments.config.models import boundary_tick
from experiments.studies.guard_value.worlds import DAY, guarded, interval, share, unguarded, unmoved

WEIGHTS = Path(__file__).with_name("weights.yaml")
BIDS = Path(__file__).with_name("bids.yaml")


class World(NamedTuple):
    """One world, by changed campaign: how its watch ended (event, hours, control), and its profit with and without.

    The profits are those of the days after the first one, with every change in force to the end and with none.
    """

    ended: dict[str, tuple[Event, int, str]]
    changed: dict[str, int]
    unmoved: dict[str, int]
    spend: int
    revenue: int
    naive: bool


def world(path: Path, seed: int) -> World:
    """One world of a configuration."""
    config = api.load(path, seed)
    assert isinstance(config, SimulationConfig)
    plan = build.simulation(config)
    first = config.script.proposals[0]
    names, since = plan.campaigns.ids, boundary_tick(config, first.day, first.time) + 1
    without = unmoved(plan).counts
    (script,) = plan.assignments
    lasting = unguarded(plan, script.policy).counts
    run = guarded(plan)
    changed = [names.index(each.campaign) for each in config.script.proposals]
    ends = {names[each.campaign]: (each.event, each.ticks, each.control) for each in run.ended}
    before = without[:since].sum(axis=(0, 1))
    hourly = _profit(run.counts[:, changed[0]]) / run.counts[:, changed[0], OPPORTUNITIES]
    return World(
        ends,
        {names[place]: int(_profit(lasting[since + DAY :, place]).sum()) for place in changed},
        {names[place]: int(_profit(without[since + DAY :, place]).sum()) for place in changed},
        int(before[SPEND]),
        int(before[REVENUE]),
        drop_found(hourly[:since], hourly[since + 1 + DAY : since + 1 + 7 * DAY]),
    )


def _profit(counts: Int64) -> Int64:
    return counts[..., REVENUE] - counts[..., SPEND]


def drop_found(before: Float64, after: Float64) -> bool:
    """Whether a one-sided t-test of after against before, at 5 % and looked at every hour, ever finds a loss."""
    hours = np.arange(12, len(after) + 1)
    means = np.array([after[:n].mean() for n in hours])
    spread = np.array([after[:n].var(ddof=1) / n for n in hours]) + before.var(ddof=1) / len(before)
    statistic = (means - before.mean()) / np.sqrt(spread)
    return bool((statistic < t.ppf(0.05, hours - 1)).any())


def told(found: Sequence[World]) -> dict[str, Any]:
    """Per changed campaign the profit lost and the share rolled back, and what the naive judge does to the first."""
    return {
        "margin": round(1 - sum(each.spend for each in found) / sum(each.revenue for each in found), 4),
        "arms": [_arm(name, found) for name in sorted(found[0].changed)],
        "naive_harmless": share(sum(each.naive for each in found), len(found)),
    }


def _arm(name: str, found: Sequence[World]) -> dict[str, Any]:
    changed, before = (
        np.array([column[name] for column in columns], dtype=np.float64)
        for columns in ([each.changed for each in found], [each.unmoved for each in found])
    )
    ends = [each.ended[name] for each in found]
    hours = [after for event, after, _ in ends if event is Event.ROLLED_BACK]
    low, high = interval(before - changed, before)
    return {
        "arm": name,
        "profit_lost": round(float((before - changed).sum() / before.sum()), 4),
        "lost_low": round(low, 4),
        "lost_high": round(high, 4),
        **share(len(hours), len(ends)),
        "median_hours": float(np.median(hours)) if hours else None,
        "kept": sum(event is Event.KEPT for event, _, _ in ends) / len(ends),
        "controls": sorted({control for _, _, control in ends}),
    }


def table(told: dict[str, Any]) -> str:
    """The same, to read."""
    lines = [
        f"profit is {told['margin']:.1%} of revenue before the change",
        f"{'':10} {'profit lost':>11} {'95 % interval':>17} {'rolled back':>11} {'95 % interval':>17}"
        f" {'median hours':>12}  compared with",
    ]
    for arm in told["arms"]:
        hours = "–" if arm["median_hours"] is None else f"{arm['median_hours']:.0f}"
        lines.append(
            f"{arm['arm']:10} {arm['profit_lost']:11.1%} {arm['lost_low']:8.1%} {arm['lost_high']:8.1%}"
            f" {arm['share']:11.1%} {arm['low']:8.1%} {arm['high']:8.1%} {hours:>12}  {', '.join(arm['controls'])}"
        )
    naive = told["naive_harmless"]
    lines.append(
        f"a t-test of after against before, looked at every hour, rolls back {naive['share']:.1%} of the harmless"
    )
    return "\n".join(lines)
