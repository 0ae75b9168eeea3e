"""Configuration of traffic and price over time, and of troubles: what loads, what is built of it, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from engine.errors import BadInput
from experiments import build
from experiments.config import SimulationConfig, load_config
from sim.auction import Drift, Market, PriceShock, Regimes
from sim.traffic import Traffic, TrafficChange
from tests.scenarios import config

WEEK = [hour % 24 + 1 for hour in range(168)]
TABLE = [
    "region_id,dow,hour,traffic_share",
    *(f"north,{1 + hour // 24},{hour % 24},{hour % 24 + 1}" for hour in range(168)),
    *(f"7,{1 + hour // 24},{hour % 24},1" for hour in range(168)),
]
EXTENDED = {
    "traffic": {"week": WEEK, "dispersion": 0.2},
    "price": {
        "level_micros": 24_000,
        "sigma": 0.6,
        "drift": {"persistence": 0.9, "sigma": 0.08},
        "regimes": {"every_days": 10, "sigma": 0.5},
        "follows_demand": 0.3,
    },
}
LOSS = {"traffic_loss": {"markets": ["search"], "factor": "40%"}, "day": 3, "time": "06:00", "hours": 12}
SHOCK = {"price_shock": {"markets": "all", "factor": 1.6}, "day": 1, "hours": 2}


def document(troubles: list[Any] | None = None, **search: Any) -> dict[str, Any]:
    """The small simulation (three days of hourly ticks, the second of 23 hours) with changes of its search market."""
    given = config()
    given["markets"]["search"].update(search)
    return given | ({} if troubles is None else {"troubles": troubles})


def loaded(*args: Any, **search: Any) -> SimulationConfig:
    made = load_config(document(*args, **search))
    assert isinstance(made, SimulationConfig)
    return made


def markets(made: SimulationConfig) -> dict[str, Market]:
    plan = build.simulation(made)
    return dict(zip(plan.campaigns.markets, plan.source.markets, strict=True))


def test_a_market_is_built_with_all_that_moves_it() -> None:
    assert markets(loaded([LOSS, SHOCK], **EXTENDED))["search"] == Market(
        traffic=Traffic(
            60, week=tuple(float(level) for level in WEEK), dispersion=0.2, changes=(TrafficChange(53, 65, 0.4),)
        ),
        level_micros=24_000,
        price_sigma=0.6,
        reserve_micros=2_000,
        shocks=(PriceShock(0, 2, 1.6),),
        follows_demand=0.3,
        drift=Drift(0.9, 0.08),
        regimes=Regimes(240, 0.5),
    )


def test_troubles_befall_the_markets_they_name_beside_their_own_shocks() -> None:
    made = markets(loaded([LOSS, SHOCK, {**SHOCK, "price_shock": {"markets": ["social", "display"], "factor": 0.5}}]))
    assert {name: (market.shocks, market.traffic.changes) for name, market in made.items()} == {
        "display": ((PriceShock(0, 2, 1.6), PriceShock(0, 2, 0.5)), ()),
        "search": ((PriceShock(0, 2, 1.6),), (TrafficChange(53, 65, 0.4),)),
        "social": ((PriceShock(24, 30, 1.6), PriceShock(0, 2, 1.6), PriceShock(0, 2, 0.5)), ()),
    }


def test_an_outage_leaves_no_auction() -> None:
    outage = {"traffic_loss": {"markets": "all", "factor": 0}, "day": 1, "time": "06:00", "hours": 3}
    plan = build.simulation(loaded([outage]))
    counts = plan.source(np.arange(len(plan.campaigns))).advance(0, 12, plan.controls)
    seen = counts.counts.values[:, :, 0].sum(axis=1)
    assert (seen[6:9].tolist(), (seen[:6] > 0).all(), (seen[9:] > 0).all()) == ([0, 0, 0], True, True)


def test_it_survives_being_echoed() -> None:
    made = loaded([LOSS, SHOCK], **EXTENDED)
    assert load_config(json.loads(made.model_dump_json())) == made
    assert load_config(made.model_dump()) == made


@pytest.mark.parametrize("region", ["north", 7])
def test_a_table_beside_the_file_comes_out_as_its_numbers(tmp_path: Path, region: str | int) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "week.csv").write_text("\n".join(TABLE), encoding="utf-8")
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(document(traffic={"week": "tables/week.csv", "region": region})), encoding="utf-8")
    made = load_config(file)
    assert isinstance(made, SimulationConfig)
    levels = tuple(float(level) for level in WEEK) if region == "north" else (1.0,) * 168
    assert made.markets["search"].traffic.levels == levels
    assert made == loaded(traffic={"week": list(levels)})  # so no digest depends on where the table was


SUMS = {"fidelity": "aggregate", "record": []}  # which tells no prices, so that pacing is what there is to fall back on


def test_a_market_with_a_week_gives_a_suspended_policy_no_curve_to_pace_along() -> None:
    policy = {"policy": "tests.greedy:Greedy", "campaigns": ["search-a"], "clip": True}
    for traffic, stand_in in (
        ({"amplitude": "60%", "peak_hour": 20, "dispersion": 0.5}, "traffic_aware_pi"),
        ({"week": WEEK}, "even_pi"),
    ):
        made = build.simulation(load_config(document(traffic=traffic) | {"policies": [policy], "script": {}} | SUMS))
        fallback = made.assignments[0].fallback
        assert fallback is not None
        assert fallback.name == f"{stand_in} for tests.greedy:Greedy"


DAILY = {"amplitude": "60%", "peak_hour": 20}
PRICE = {"level_micros": 24_000, "sigma": 0.6}


@pytest.mark.parametrize(
    ("search", "sentence"),
    [
        (
            {"traffic": {"week": WEEK, **DAILY}},
            "traffic.amplitude (=0.6) must be left out beside week, which has every hour's level: keep one of the two",
        ),
        (
            {"traffic": {"week": WEEK, "peak_hour": 20}},
            "traffic.peak_hour (=20.0) must be left out beside week, which has every hour's level: keep one of the two",
        ),
        ({"traffic": {}}, "traffic must have a curve: add amplitude and peak_hour, or week"),
        ({"traffic": {"amplitude": "60%"}}, "traffic.peak_hour is missing: add it"),
        (
            {"traffic": {"week": [0] * 168}},
            f"traffic.week (={str([0] * 168)[:58]} …) must have traffic in one hour at least: give it a number > 0",
        ),
        (
            {"traffic": {"week": [1, 2]}},
            "traffic.week (=[1, 2]) must hold 168 numbers, one an hour from Monday 00:00 on, not 2: correct it",
        ),
        (
            {"traffic": {"week": 5}},
            "traffic.week (=5) must be a list of 168 numbers or the path of a table: write one of the two",
        ),
        (
            {"traffic": {"week": [*WEEK[1:], -1]}},
            f"traffic.week (={str(WEEK[1:])[:58]} …) must hold numbers >= 0, not -1: correct it",
        ),
        (
            {"traffic": {"week": WEEK, "region": "north"}},
            "traffic.region (='north') must be left out where week is no table: remove it, or give week the path of "
            "one",
        ),
        ({"traffic": {**DAILY, "dispersion": -1}}, "traffic.dispersion (=-1) must be >= 0.0: raise it"),
        (
            {"price": PRICE | {"drift": {"persistence": 1.0, "sigma": 0.1}}},
            "price.drift.persistence (=1.0) must be < 1.0: lower it",
        ),
        (
            {"price": PRICE | {"regimes": {"every_days": 0.01, "sigma": 0.1}}},
            "price.regimes.every_days (=0.01) must be a tick of 60 minutes at least: write 0.04167 or more",
        ),
        (
            {"price": PRICE | {"follow_demand": 0.1}},
            "price.follow_demand (=0.1) is not a known key: did you mean 'follows_demand'?",
        ),
    ],
)
def test_a_market_that_contradicts_itself(search: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput) as refused:
        load_config(document(**search))
    assert str(refused.value) == f"configuration: markets.search.{sentence}"


@pytest.mark.parametrize(
    ("trouble", "sentence"),
    [
        (
            {**LOSS, "traffic_loss": {"markets": ["social", "serch"], "factor": 0}},
            "troubles[0].traffic_loss.markets[1] (='serch') is not a market of this file: did you mean 'search'?",
        ),
        (
            {**LOSS, "traffic_loss": {"markets": ["search", "search"], "factor": 0}},
            "troubles[0].traffic_loss.markets (=['search', 'search']) must name a market once: remove the repetition",
        ),
        (
            {**LOSS, "traffic_loss": {"markets": [], "factor": 0}},
            "troubles[0].traffic_loss.markets (=[]) must be all or a list of market ids: write all or [a, b]",
        ),
        (
            {**LOSS, "day": 4},
            "troubles[0].day (=4) must be before the run's end, 2026-03-31 00:00: choose an earlier day",
        ),
        (
            {**LOSS, "time": "06:30"},
            "troubles[0].time (=06:30) must be the time of a tick, every 60 minutes: write 06:00",
        ),
        (
            {**LOSS, "hours": 1.5},
            "troubles[0].hours (=1.5) must be a whole number of ticks of 60 minutes: write 2",
        ),
        (
            {**LOSS, "traffic_loss": {"markets": "all", "factor": 40}},
            "troubles[0].traffic_loss.factor (=40) must be a ratio from 0 to 1: write 40% or 0.4",
        ),
        (
            {**SHOCK, "price_shock": {"markets": "all", "factor": 0}},
            "troubles[0].price_shock.factor (=0) must be > 0.0: raise it",
        ),
        (
            LOSS | SHOCK,
            "troubles[0] must be of one kind, not of traffic_loss and price_shock: split it",
        ),
        (
            {"trafic_loss": {}, "day": 1, "hours": 1},
            "troubles[0].trafic_loss (={}) is not a known key: did you mean 'traffic_loss'?",
        ),
    ],
)
def test_a_trouble_that_cannot_be(trouble: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadInput) as refused:
        load_config(document([trouble]))
    assert str(refused.value) == f"configuration: {sentence}"


def test_a_table_that_cannot_be_used_is_named_at_its_place(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(yaml.safe_dump(document(traffic={"week": "week.csv"})), encoding="utf-8")
    place = f"{file}: markets.search.traffic.week (='week.csv') cannot be used:"
    for lines, said in (
        (
            None,
            f"{tmp_path}/week.csv is not a file: give the path of a table with the columns dow, hour, traffic_share",
        ),
        (TABLE, "week.csv holds 2 regions (north, 7, …): choose one as 'region'"),
        (
            [*TABLE[:20], "north,1,19,much"],
            "week.csv, line 21: traffic_share (='much') must be a number >= 0: correct it",
        ),
    ):
        if lines is not None:
            (tmp_path / "week.csv").write_text("\n".join(lines), encoding="utf-8")
        with pytest.raises(BadInput) as refused:
            load_config(file)
        assert str(refused.value) == f"{place} {said}"
