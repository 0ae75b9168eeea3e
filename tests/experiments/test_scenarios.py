"""Every configuration that is shipped builds and runs; those on real logs do where the data are.

Simulations run their first days with a tenth of their traffic, whole days otherwise: troubles and scripts included.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from engine.runtime.local import LocalRunner
from experiments import api, build
from experiments.config import ReplayConfig, SimulationConfig, load_config
from tests.scenarios import CONFIGS, DATA

DAYS = 4
LOGS = {
    "ipinyou_1458": DATA / "ipinyou_1458" / "train.txt",
    "ipinyou_5min": DATA / "ipinyou_5min" / "rtb_5min_train.csv",
}
SCENARIOS = (
    "black_friday",
    "broken_tracking_week",
    "display_48_bidders",
    "search_100_keywords",
    "social_20_creatives",
    "ten_clicks_a_day",
)
BIDDING = "bidding_default"  # see test_tasks
SIMULATIONS = ("quickstart", *(f"scenarios/{name}" for name in SCENARIOS))


def shortened(name: str) -> dict[str, Any]:
    """A shipped simulation's first days, in a tenth of its traffic."""
    document: dict[str, Any] = load_config(CONFIGS / f"{name}.yaml").model_dump(mode="json", exclude_none=True)
    document["time"]["days"] = min(document["time"]["days"], DAYS)
    for market in document["markets"].values():
        market["opportunities_per_tick"] /= 10
        market["shocks"] = begun(market["shocks"])
    document["troubles"] = begun(document["troubles"])
    document["script"] = {part: begun(entries) for part, entries in document["script"].items()}
    return document


def begun(dated: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for each in dated if each["day"] <= DAYS]


def test_nothing_that_is_shipped_is_left_out() -> None:
    found = {path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.yaml")}
    assert found == {*SIMULATIONS, *LOGS, BIDDING}


@pytest.mark.slow
@pytest.mark.parametrize("name", SIMULATIONS)
def test_a_shipped_simulation_keeps_the_physics_and_its_digests_over_shards(name: str, tmp_path: Path) -> None:
    document = shortened(name)
    one = api.simulate(document, out=tmp_path / "one")
    two = api.simulate(document, out=tmp_path / "two", runner=LocalRunner(2))

    assert one.digests == two.digests
    assert one.totals == two.totals
    table = one.metrics
    assert (table.opportunities >= table.bids).all()
    assert (table.bids >= table.impressions).all()
    assert (table.impressions >= table.clicks).all()
    assert table.clicks.sum() > 0
    assert (table.spend_micros >= 0).all()
    zone = document["account"]["zone"]
    of_day = [table.campaign, table.tick_start.dt.tz_convert(zone).dt.date]
    days: pd.DataFrame = table.groupby(of_day, observed=True).agg({"spend_micros": "sum", "budget_micros": "max"})
    assert (days.spend_micros <= days.budget_micros).all()


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_scenario_is_a_page_that_bears_its_name_and_fills_its_calendar(name: str) -> None:
    path = CONFIGS / "scenarios" / f"{name}.yaml"
    config = load_config(path)
    assert isinstance(config, SimulationConfig)
    assert config.name == name
    text = path.read_text(encoding="utf-8").splitlines()
    assert len(text) <= 100
    assert max(map(len, text)) <= 120
    assert build.simulation(config).grid.day[-1] == config.time.days - 1


@pytest.mark.real_data
@pytest.mark.parametrize("name", LOGS)
def test_a_shipped_replay_builds(name: str) -> None:
    log = LOGS[name]
    if not log.is_file():
        pytest.skip(f"the real log is not at {log}: its run is that of test_real_logs.py")
    config = load_config(CONFIGS / f"{name}.yaml")
    assert isinstance(config, ReplayConfig)
    plan, rejects = build.replay(config, log)
    assert plan.grid.ticks > 0
    assert len(rejects) == 0


def test_a_hundred_keywords_are_a_hundred_campaigns_of_falling_volume() -> None:
    config = load_config(CONFIGS / "scenarios" / "search_100_keywords.yaml")
    assert isinstance(config, SimulationConfig)
    assert len(config.campaigns) == 100
    reach = sorted((spec.reach for spec in config.campaigns.values()), reverse=True)
    assert 0.3 < sum(reach[:10]) / sum(reach) < 0.7


def test_twenty_creatives_wear_out() -> None:
    config = load_config(CONFIGS / "scenarios" / "social_20_creatives.yaml")
    assert isinstance(config, SimulationConfig)
    creatives = [each for spec in config.campaigns.values() for each in spec.creatives.values()]
    assert len(creatives) == 20
    assert all(each.wear is not None and each.wear.exponent > 0 for each in creatives)


def test_four_campaigns_and_their_rivals_are_48_bidders() -> None:
    config = load_config(CONFIGS / "scenarios" / "display_48_bidders.yaml")
    assert isinstance(config, SimulationConfig)
    assert len(config.campaigns) + sum(market.price.competitors for market in config.markets.values()) == 48
