"""Tables of traffic by the hour of the week, read while a configuration is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.errors import BadInput
from experiments.config.models import SimulationConfig
from experiments.config.problems import Problem
from sim.logs.traffic_share import read_week


def with_weeks(config: SimulationConfig, folder: Path) -> tuple[SimulationConfig, list[Problem]]:
    """The configuration with the levels of every table in its path's place, and the tables that cannot be used.

    Paths are relative to the folder. What a run used then stands in its own folder and in its ledger's header, whatever
    becomes of the table.
    """
    markets: dict[str, Any] = {}
    unusable: list[Problem] = []
    for name, market in config.markets.items():
        week, region = market.traffic.week, market.traffic.region
        if not isinstance(week, str):
            continue
        try:
            levels = read_week(folder / week, region)
        except BadInput as error:
            unusable.append(Problem(("markets", name, "traffic", "week"), f"cannot be used: {error}", week))
            continue
        traffic = market.traffic.model_copy(update={"week": levels, "region": None})
        markets[name] = market.model_copy(update={"traffic": traffic})
    return config.model_copy(update={"markets": {**config.markets, **markets}}) if markets else config, unusable
