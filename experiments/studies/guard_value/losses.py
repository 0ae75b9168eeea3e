"""What a policy costs, or brings, with the guard and without it: bad proposers, and good policies.

All move inside default mandates, from the end of the first week on, which is the record that they are held against.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from engine.actions import Knob
from engine.campaigns import ACCOUNT
from engine.messages import Command, CommandKind, Role
from engine.policy import Policy
from engine.runtime.plan import Plan
from engine.verdicts import Event
from experiments import api, build
from experiments.config import SimulationConfig
from experiments.studies.guard_value.proposers import NO_BAND, AlwaysRaise, Band, RandomSteps, Silent
from experiments.studies.guard_value.worlds import DAY, Guarded, Lived, guarded, interval, share, unguarded, unmoved
from sim.unguarded import UNGUARDED

BAD = Path(__file__).with_name("bad.yaml")
GOOD = Path(__file__).with_name("good.yaml")
WEEK = 7 * DAY
MANDATED: Band = (1 / 3, 3.0)


class Compared(NamedTuple):
    """One policy in one world: profit and spend since it acts, untouched, without guard, with guard; micros.

    `profits` are int of (unmoved, unguarded, guarded) by the end of the first week in which it acts, the second, ….
    `kind` says what the arm without guard is.
    """

    kind: str
    profits: tuple[tuple[int, int, int], ...]
    spend: tuple[int, int, int]
    rollbacks: int
    episodes: int
    first: int | None
    whys: Counter[str]
    controls: Counter[str]
    breaker: int | None
    refused: Counter[str]


def bad(seed: int) -> dict[str, Compared]:
    """The two bad proposers in one world; under the guard they aim within the band, so that no wish is lost for it."""
    plan = _plan(BAD, seed)
    still = unmoved(plan)
    return {name: _compared(plan, still, *each, WEEK) for name, each in _proposers(seed).items()}


def strained(seed: int) -> dict[str, Compared]:
    """The same where somebody closes the breaker every morning, and where there is no record from before."""
    plan = _plan(BAD, seed)
    still = unmoved(plan)
    mornings = range(WEEK + 8, plan.grid.ticks - 1, DAY)
    closing = {
        tick: (Command(f"morning-{tick}", CommandKind.CLOSE_BREAKER, "dana", ACCOUNT, Knob.PAUSED),)
        for tick in mornings
    }
    hasty = replace(plan, commands=closing, people={"dana": frozenset(Role)})
    found = {}
    for name, each in _proposers(seed).items():
        found[f"{name}, closed"] = _compared(hasty, still, *each, WEEK)
        found[f"{name}, no record"] = _compared(plan, still, *each, 0)
    return found


def _proposers(seed: int) -> dict[str, tuple[Policy, Policy]]:
    """The bad proposers, each without a band and within the mandates'."""
    return {
        "random": (RandomSteps(seed, NO_BAND), RandomSteps(seed, MANDATED)),
        "raises": (AlwaysRaise(NO_BAND), AlwaysRaise(MANDATED)),
    }


def good(seed: int) -> dict[str, Compared]:
    """The policies of the configuration, each by itself in one world."""
    plan = _plan(GOOD, seed)
    still = unmoved(plan)
    return {each.name: _compared(plan, still, each.policy, each.policy, WEEK) for each in plan.assignments}


def _plan(path: Path, seed: int) -> Plan:
    config = api.load(path, seed)
    assert isinstance(config, SimulationConfig)
    return build.simulation(config)


def _compared(plan: Plan, still: Lived, free: Policy, held: Policy, since: int) -> Compared:
    alone = unguarded(plan, Silent(free, since - 1))
    run = guarded(plan, Silent(held, since - 1))
    arms = still, alone, run
    ends = range(since + WEEK, plan.grid.ticks + 1, WEEK)
    profits = tuple(_three([arm.profit(since, end) for arm in arms]) for end in ends)
    back = [each for each in run.ended if each.event is Event.ROLLED_BACK]
    return Compared(
        alone.kind,
        profits,
        _three([arm.spend(since) for arm in arms]),
        len(back),
        _episodes(run),
        min((each.begun + each.ticks - since + 1 for each in back), default=None),
        Counter(each.why for each in back),
        Counter(each.control for each in back),
        run.breaker[0] - since + 1 if run.breaker else None,
        run.refused,
    )


def _episodes(run: Guarded) -> int:
    """Those that ended by a verdict."""
    return sum(each.event in {Event.ROLLED_BACK, Event.KEPT, Event.NO_DATA} for each in run.ended)


def _three(values: list[int]) -> tuple[int, int, int]:
    first, second, third = values
    return first, second, third


def losses_told(found: Sequence[dict[str, Compared]]) -> dict[str, Any]:
    """Of bad proposers: what each loses of the untouched profit, with the guard and without, and what held it."""
    proposers = {}
    for name in found[0]:
        worlds = [each[name] for each in found]
        profits = np.array([each.profits for each in worlds], dtype=np.float64)  # [worlds, weeks, 3]
        proposers[name] = {
            "weeks": [_lost(profits[:, week]) for week in range(profits.shape[1])],
            **_held(worlds),
        }
    return {"unguarded": UNGUARDED, "proposers": proposers}


def _lost(profits: Any) -> dict[str, float]:
    still, alone, held = profits.T
    ratios = (still - held) / (still - alone)
    low, high = interval(still - held, still - alone)
    return {
        "lost_unguarded": round(float((still - alone).sum() / still.sum()), 4),
        "lost_guarded": round(float((still - held).sum() / still.sum()), 4),
        "ratio": round(float((still - held).sum() / (still - alone).sum()), 4),
        "ratio_low": round(low, 4),
        "ratio_high": round(high, 4),
        "median_ratio": round(float(np.median(ratios)), 4),
        "greatest_ratio": round(float(ratios.max()), 4),
    }


def _held(worlds: Sequence[Compared]) -> dict[str, Any]:
    n = len(worlds)
    firsts = [each.first for each in worlds if each.first is not None]
    opened = [each.breaker for each in worlds if each.breaker is not None]
    return {
        "rollbacks_per_world": round(sum(each.rollbacks for each in worlds) / n, 2),
        "rolled_back_for": dict(sum((each.whys for each in worlds), Counter())),
        "compared_with": dict(sum((each.controls for each in worlds), Counter())),
        "median_hours_to_first": float(np.median(firsts)) if firsts else None,
        "breaker_opened": share(len(opened), n),
        "median_hours_to_breaker": float(np.median(opened)) if opened else None,
        "refused_per_world": {
            reason: round(count / n, 2)
            for reason, count in sorted(sum((each.refused for each in worlds), Counter()).items())
        },
    }


def gains_told(found: Sequence[dict[str, Compared]]) -> dict[str, Any]:
    """Of good policies: what each brings with and without the guard, what that costs, and how often it is undone."""
    policies = {}
    for name in found[0]:
        worlds = [each[name] for each in found]
        still, alone, held = np.array([each.profits[-1] for each in worlds], dtype=np.float64).T
        spends = np.array([each.spend for each in worlds], dtype=np.float64).sum(axis=0)
        low, high = interval(alone - held, alone)
        episodes = sum(each.episodes for each in worlds)
        policies[name] = {
            "gain_unguarded": round(float(alone.sum() / still.sum() - 1), 4),
            "gain_guarded": round(float(held.sum() / still.sum() - 1), 4),
            "cost": round(float((alone - held).sum() / alone.sum()), 5),
            "cost_low": round(low, 5),
            "cost_high": round(high, 5),
            "spend_unguarded": round(float(spends[1] / spends[0] - 1), 4),
            "spend_guarded": round(float(spends[2] / spends[0] - 1), 4),
            "episodes": episodes,
            "episodes_rolled_back": share(sum(each.rollbacks for each in worlds), episodes),
            "worlds_with_rollbacks": share(sum(each.rollbacks > 0 for each in worlds), len(worlds)),
            **_held(worlds),
        }
    return {"unguarded": UNGUARDED, "policies": policies}


def losses_table(told: dict[str, Any]) -> str:
    """The same, to read."""
    lines = [f"profit lost, as a part of the untouched profit; without the guard: {told['unguarded']}"]
    head = (
        f"{'':17} {'weeks':>5} {'without':>8} {'with':>8} {'ratio':>7} {'95 % interval':>17} {'median':>7} {'most':>7}"
    )
    lines.append(head)
    for name, each in told["proposers"].items():
        for week, lost in enumerate(each["weeks"], 1):
            lines.append(
                f"{name:17} {week:5} {lost['lost_unguarded']:8.1%} {lost['lost_guarded']:8.1%} {lost['ratio']:7.3f}"
                f" {lost['ratio_low']:8.3f} {lost['ratio_high']:8.3f} {lost['median_ratio']:7.3f}"
                f" {lost['greatest_ratio']:7.3f}"
            )
    return "\n".join(lines + [_held_line(name, each) for name, each in told["proposers"].items()])


def gains_table(told: dict[str, Any]) -> str:
    """The same, to read."""
    lines = [f"against the untouched campaigns; without the guard: {told['unguarded']}"]
    for name, each in told["policies"].items():
        back, worlds = each["episodes_rolled_back"], each["worlds_with_rollbacks"]
        lines += [
            f"{name}: profit {each['gain_unguarded']:+.1%} without, {each['gain_guarded']:+.1%} with; the guard costs "
            f"{each['cost']:.2%} ({each['cost_low']:.2%} … {each['cost_high']:.2%}) of it; "
            f"spend {each['spend_unguarded']:+.1%} and {each['spend_guarded']:+.1%}",
            f"  rolled back: {back['share']:.1%} ({back['low']:.1%} … {back['high']:.1%}) of {each['episodes']} "
            f"episodes, in {worlds['share']:.1%} of worlds",
            _held_line(name, each),
        ]
    return "\n".join(lines)


def _held_line(name: str, each: dict[str, Any]) -> str:
    reasons = ", ".join(f"{reason} {count:g}" for reason, count in each["refused_per_world"].items()) or "none"
    whys = ", ".join(f"{why} {count}" for why, count in each["rolled_back_for"].items()) or "none"
    first, breaker = (
        "–" if hours is None else f"{hours:.0f} h"
        for hours in (each["median_hours_to_first"], each["median_hours_to_breaker"])
    )
    return (
        f"  {name}: {each['rollbacks_per_world']:g} campaigns rolled back a world ({whys}), the first after {first}; "
        f"breaker opened in {each['breaker_opened']['share']:.1%}, after {breaker}; refused a world: {reasons}"
    )
