"""Campaigns picked for their bad week: the naive judge of before and after beside the watch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from engine.events import OPPORTUNITIES, REVENUE, SPEND
from engine.units import Float64, Int64
from engine.verdicts import Event
from experiments import api, build
from experiments.config import SimulationConfig
from experiments.config.reading import document
from experiments.studies.guard_value.changes import drop_found
from experiments.studies.guard_value.worlds import DAY, guarded, share, unguarded, unmoved

CONFIG = Path(__file__).with_name("picked.yaml")
CAMPAIGNS, TENTH = 40, 4
WEEK = 7 * DAY


class Picked(NamedTuple):
    """One picked campaign: profit per opportunity of its bad week, and of the next one untouched and changed, micros.

    `loses` tells whether the change was to the worse creative, `falls` whether a t-test that is looked at every hour
    finds the week after the change worse than the bad one, `ends` what the watch does.
    """

    before: float
    untouched: float
    changed: float
    loses: bool
    falls: bool
    ends: Event


def world(seed: int) -> list[Picked]:
    """The worst tenth of one world's campaigns by the profit of the first week, each with a change of one kind."""
    still = unmoved(build.simulation(_config(seed, {}))).counts
    weeks = _per_opportunity(still[:WEEK].sum(axis=0))
    worst = np.argsort(weeks, kind="stable")[:TENTH].tolist()
    creative = {place: ("same", "worse")[(rank + seed) % 2] for rank, place in enumerate(worst)}
    plan = build.simulation(_config(seed, creative))
    (script,) = plan.assignments
    lasting = unguarded(plan, script.policy).counts
    ends = {each.campaign: each.event for each in guarded(plan).ended}
    found = []
    for place, tried in creative.items():
        hourly = _per_opportunity(lasting[:, place])
        after = slice(WEEK + DAY, WEEK + 8 * DAY)
        found.append(
            Picked(
                float(weeks[place]),
                float(_per_opportunity(still[after, place].sum(axis=0))),
                float(_per_opportunity(lasting[after, place].sum(axis=0))),
                tried == "worse",
                drop_found(hourly[:WEEK], hourly[after]),
                ends[place],
            )
        )
    return found


def _config(seed: int, tried: Mapping[int, str]) -> SimulationConfig:
    """The configuration with all its campaigns, some of which try a creative after the first week."""
    _, raw = document(CONFIG)
    names = [f"campaign-{place:02}" for place in range(CAMPAIGNS)]
    changed = {names[place]: creative for place, creative in tried.items()}
    script = {
        "proposals": [
            {
                "day": 8,
                "time": "00:00",
                "campaign": name,
                "creatives": {"known": 0.75, "same": 0.0, "worse": 0.0} | {creative: 0.25},
            }
            for name, creative in changed.items()
        ],
        "commands": [
            {"day": 8, "time": "01:00", "by": "dana", "approve": {"campaign": name, "knob": "weights"}}
            for name in changed
        ],
    }
    given = {**raw, "campaigns": dict.fromkeys(names, raw["campaigns"]["any"]), "script": script}
    config = api.load(given, seed)
    assert isinstance(config, SimulationConfig)
    return config


def _per_opportunity(counts: Int64) -> Float64:
    profit: Float64 = (counts[..., REVENUE] - counts[..., SPEND]) / counts[..., OPPORTUNITIES]
    return profit


def told(found: Sequence[Sequence[Picked]]) -> dict[str, Any]:
    """What the naive judge and the watch say of picked campaigns, with nothing done to them and with changes."""
    everyone = [each for one in found for each in one]
    harmful = [each for each in everyone if each.loses]
    harmless = [each for each in everyone if not each.loses]
    before, untouched = (sum(getattr(each, name) for each in everyone) for name in ("before", "untouched"))
    truth = sum(each.untouched for each in harmful)
    kept = [each for each in harmful if each.changed > each.before]
    unfound = [each for each in harmful if not each.falls]
    return {
        "picked": len(everyone),
        "next_week": round(untouched / before - 1, 4),
        "improved_untouched": share(sum(each.untouched > each.before for each in everyone), len(everyone)),
        "profit_lost": round(1 - sum(each.changed for each in harmful) / truth, 4),
        "improved_harmful": share(len(kept), len(harmful)),
        "unfound_harmful": share(len(unfound), len(harmful)),
        "watch_harmful": _rolled_back(harmful),
        "watch_improved_harmful": _rolled_back(kept),
        "watch_unfound_harmful": _rolled_back(unfound),
        "watch_harmless": _rolled_back(harmless),
    }


def _rolled_back(picked: Sequence[Picked]) -> dict[str, float]:
    return share(sum(each.ends is Event.ROLLED_BACK for each in picked), len(picked))


def table(told: dict[str, Any]) -> str:
    """The same, to read."""

    def line(name: str, what: str) -> str:
        return f"{told[name]['share']:7.1%} ({told[name]['low']:.1%} … {told[name]['high']:.1%})  {what}"

    return "\n".join(
        [
            f"{told['picked']} picked; with nothing done, their next week's profit is {told['next_week']:+.1%}; "
            f"the harmful change costs {told['profit_lost']:.1%}",
            line("improved_untouched", "of picked campaigns are better in the next week, with nothing done"),
            line("improved_harmful", "of harmful changes look like an improvement, after against before"),
            line("watch_improved_harmful", "of these the watch rolls back"),
            line("unfound_harmful", "of harmful changes pass a t-test of after against before, looked at every hour"),
            line("watch_unfound_harmful", "of these the watch rolls back"),
            line("watch_harmful", "of all harmful changes the watch rolls back"),
            line("watch_harmless", "of harmless changes the watch rolls back"),
        ]
    )
