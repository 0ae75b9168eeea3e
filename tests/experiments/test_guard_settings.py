"""What the configuration says to the guard, end to end: net limits, the breaker, and impact tried in the twin."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine.actions import Knob
from engine.errors import BadInput
from engine.impact import SPEND_PER_BID
from engine.ledger import RecordKind, decode_round
from engine.runtime.actors import RayRunner
from engine.runtime.store import LEDGER, read_ledger
from experiments import api, build
from experiments.build import simulation
from experiments.config import SimulationConfig, load_config
from experiments.runs import Run
from tests.scenarios import CONFIGS, config

DAYS = {"start": "2026-04-01", "days": 6, "tick_minutes": 60}


def headers(run: Run) -> list[tuple[int, dict[str, Any]]]:
    rounds = [record for record in read_ledger(run.folder / LEDGER) if record.kind is RecordKind.ROUND]
    return [(record.tick, decode_round(record).header) for record in rounds]


def alerts(run: Run) -> list[tuple[int, str, str]]:
    return [(tick, each["alert"], each["event"]) for tick, header in headers(run) for each in header["alerts"]]


def test_a_window_holds_in_a_run(tmp_path: Path) -> None:
    limited = [{"knob": "bid", "hours": 12, "max_rise": "10%"}]
    free, held = (
        api.simulate(config(windows=windows), out=tmp_path / name)
        for name, windows in (("free", []), ("held", limited))
    )
    assert _largest_rise(free) > 1.10
    assert _largest_rise(held) <= 1.10
    assert "window" in set(held.actions.reason)


def _largest_rise(run: Run) -> float:
    """The largest net rise, at a step upwards, over what was in force twelve boundaries before its decision."""
    bids = run.metrics.pivot(index="tick", columns="campaign", values="bid_micros")
    return float((bids / bids.shift(13)).where(bids > bids.shift(1)).max().max())


def by_dana(day: int, hour: int, **order: Any) -> dict[str, Any]:
    return {"day": day, "time": f"{hour:02}:00", "by": "dana", **order}


def test_three_rollbacks_open_the_breaker_and_a_scripted_person_closes_it(tmp_path: Path) -> None:
    knob = {"campaign": "search-a", "knob": "bid"}
    commands = [
        each
        for hour in (2, 4, 6)
        for each in (
            by_dana(3, hour, edit={**knob, "value_micros": 30_000 + hour}),
            by_dana(3, hour + 1, rollback=knob),
        )
    ]
    run = api.simulate(
        config(script={"commands": [*commands, by_dana(3, 20, close_breaker="account")]}), out=tmp_path / "run"
    )
    ((opened, *_), (closed, *_)) = alerts(run)
    assert alerts(run) == [(opened, "breaker_open", "opened"), (closed, "breaker_open", "closed")]
    applied = run.actions[(run.actions.source == "policy") & (run.actions.outcome == "applied")]
    assert len(applied)
    assert not applied.tick.between(opened, closed - 1).any()
    assert (applied.tick >= closed).any()
    refused = run.actions[run.actions.reason == "breaker"]
    assert len(refused)
    assert refused.tick.between(opened, closed - 1).all()
    assert api.audit(run.folder)["valid"]


def test_without_mandates_what_is_of_little_impact_is_tried_and_passes(tmp_path: Path) -> None:
    little = {"day": 5, "time": "05:00", "campaign": "display-a", "by": "sam", "knob": "bid"}
    wishes = [{**little, "change": "-1%"}, {**little, "time": "10:00", "campaign": "search-a", "change": "+25%"}]
    run = api.simulate(config(time=DAYS, policies=[], mandates=[], script={"proposals": wishes}), out=tmp_path / "run")
    small, large = run.actions.itertuples()
    assert (small.outcome, small.wanted) == ("applied", 25_740)
    assert (large.outcome, large.reason) == ("needs_approval", "large_campaign")
    impacts = [header["impacts"] for _, header in headers(run) if header["impacts"]]
    assert [[each["by"] for each in told] for told in impacts] == [["trial"], ["trial"]]
    assert impacts[0][0]["spend_per_day_micros"] < 0 < impacts[1][0]["spend_per_day_micros"]
    watched = [each["event"] for _, header in headers(run) for each in header["watches"]]
    assert watched[0] == "opened"


@pytest.mark.ray
def test_the_twin_is_tried_alike_on_ray(tmp_path: Path) -> None:
    wish = {"day": 5, "time": "05:00", "campaign": "display-a", "by": "sam", "knob": "bid", "change": "-1%"}
    document = config(time=DAYS, script={"proposals": [wish]}, mandates=[], record=[])
    local = api.simulate(document, out=tmp_path / "local")
    on_ray = api.simulate(document, out=tmp_path / "ray", runner=RayRunner(2))
    assert on_ray.digests == local.digests


def test_in_the_quickstarts_markets_spend_moves_with_less_than_the_third_power_of_the_bid() -> None:
    """What the record's prediction rests on where there is no twin; budgets out of the way."""
    plan = build.simulation(api.load(CONFIGS / "quickstart.yaml"))
    assert plan.trial is not None
    rich = plan.controls.scalar * [1, 10_000]
    for campaign in range(len(plan.campaigns)):
        spent = []
        for percent in (75, 100, 125):
            scalar = rich.copy()
            scalar[campaign, Knob.BID] = scalar[campaign, Knob.BID] * percent // 100
            spent.append(plan.trial.spend(campaign, 0, 48, replace(plan.controls, scalar=scalar)))
        low, now, high = spent
        assert now * 0.75**SPEND_PER_BID <= low < now < high <= now * 1.25**SPEND_PER_BID


def test_a_window_is_read_strictly() -> None:
    assert load_config(config(windows=[{"knob": "budget", "max_rise": "30%"}])).windows[0].hours == 24
    for wrong in (
        {"knob": "weights", "max_rise": "30%"},
        {"knob": "bid", "max_rise": 30},
        {"knob": "bid", "hours": 25},
    ):
        with pytest.raises(BadInput, match=r"windows\[0\]"):
            load_config(config(windows=[wrong]))


def test_the_delay_horizon_is_given_in_hours_and_rounded_up_to_ticks() -> None:
    for hours, ticks in ((None, 24), (6, 6), (0.5, 1), (1.2, 2)):
        given = {} if hours is None else {"delay_horizon_hours": hours}
        loaded = api.load(config(time=DAYS, **given))
        assert isinstance(loaded, SimulationConfig)
        assert simulation(loaded).limits.delay_horizon == ticks
    with pytest.raises(BadInput, match=r"delay_horizon_hours \(=0\)"):
        api.load(config(delay_horizon_hours=0))
