"""One policy file bids the same in a simulation, in its replay, in evaluation and in the environment, to the micro."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pandas as pd
import pytest
import yaml

import agents.env  # noqa: F401 - registers the environment
from agents.classic import Band
from agents.horizon import Curve
from agents.learned import Learned, shipped
from agents.lp import OnlineLP
from agents.mirror_descent import MirrorDescent
from agents.pid_rule import PidRule
from agents.rollout import play
from engine.policy import Policy
from engine.units import Float64, Int64
from experiments import api
from experiments.api import Run
from sim.bidding import Episodes
from sim.oracle import optimum
from sim.streams import Streams

STEPS = 48
BID, BUDGETS = 8_000, {"a": 6_000_000, "b": 25_000_000}
CURVE = Curve(0.6, 20.0)
BAND: Band = (0.1, 10.0)
TEXT = """\
schema_version: 1
name: alone
seed: 11
source: simulation
account: {currency: EUR, zone: UTC}
time: {start: 2026-03-02, days: 1, tick_minutes: 30}
record: [opportunities]
markets:
  a: &market
    auction: second_price
    charging: per_impression
    opportunities_per_tick: 90
    traffic: {amplitude: 60%, peak_hour: 20}
    price: {level_micros: 6_000, sigma: 0.6}
  b: *market
campaigns: {}
policies:
  - {policy: learned, campaigns: all, expected_opportunities: 4_320}
mandates:
  - {campaigns: all, knobs: [bid], band: ["1/10", 10]}
limits: {min_bid_micros: 1, max_bid_micros: 1_000_000_000, min_budget_micros: 1, max_budget_micros: 1_000_000_000}
"""


def configuration(policy: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(TEXT)
    document["policies"][0]["policy"] = policy
    if policy == "pid_rule":  # which expects no number of opportunities
        del document["policies"][0]["expected_opportunities"]
    document["campaigns"] = {
        name: {
            "market": name,
            "bid_micros": BID,
            "budget_micros": budget,
            "budget_period": "flight",
            "reach": 1.0,
            "value_sigma": 0.7,
            "value_price_correlation": 0.3,
            "creatives": {"only": {"ctr": 0.05}},
            "conversions": {"rate": 0.05, "delay_hours": 2, "value_micros": 1_000_000, "value_sigma": 0.5},
        }
        for name, budget in BUDGETS.items()
    }
    return document


@dataclass(frozen=True)
class Recorded:
    """What a run recorded, as a source of episodes."""

    episodes: Episodes
    steps: int = STEPS
    expected_opportunities: float = 4_320.0

    @property
    def known_curve(self) -> Float64:
        return np.full(STEPS, 1 / STEPS)

    def draw(self, seed: int, numbers: Int64) -> Episodes:  # noqa: ARG002 - they are what they are
        return self.episodes


def recorded(run: Run) -> Episodes:
    """The opportunities of a run as episodes."""
    rows = pd.read_parquet(run.folder / "opportunities").sort_values(["campaign", "tick", "index"], kind="stable")
    place = (
        rows.campaign.map({name: number for number, name in enumerate(BUDGETS)}).to_numpy() * STEPS
        + rows.tick.to_numpy()
    )
    start = np.searchsorted(place, np.arange(2 * STEPS + 1))
    streams = Streams(start, rows.value.to_numpy(), rows.price_micros.to_numpy())
    budget = np.array(list(BUDGETS.values()))
    return Episodes(streams, STEPS, np.full(2, BID), budget, None, optimum(streams, budget))


def bids_of(run: Run) -> Int64:
    """In force in every step; int64[steps, campaigns]."""
    return run.metrics.pivot_table(index="tick", columns="campaign", values="bid_micros").to_numpy().astype(np.int64)


def programme() -> OnlineLP:
    return OnlineLP(CURVE, expected_opportunities=4_320.0, band=BAND)


LEARNED = Learned(shipped(), replace(shipped().lp, curve=CURVE, expected_opportunities=4_320.0, band=BAND))
BIDDERS: dict[str, Policy] = {
    "learned": LEARNED,
    "lp_km": programme(),
    "mirror_descent": MirrorDescent(resolving=True, curve=CURVE, expected_opportunities=4_320.0, band=BAND),
    "pid_rule": PidRule(curve=CURVE, band=BAND),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    folder = tmp_path_factory.mktemp("runs")
    return {name: api.simulate(configuration(name), out=folder / name) for name in BIDDERS}


@pytest.mark.parametrize(("name", "policy"), BIDDERS.items(), ids=list(BIDDERS))
def test_simulation_replay_and_evaluation_see_the_same_bids(
    runs: dict[str, Run], name: str, policy: Policy, tmp_path: Path
) -> None:
    simulated = bids_of(runs[name])
    assert len(np.unique(simulated)) > STEPS  # it moves
    replayed = api.replay(configuration(name), runs[name].folder / "opportunities", out=tmp_path / "replay")
    assert np.array_equal(bids_of(replayed), simulated)
    assert replayed.digests["metrics"] == runs[name].digests["metrics"]
    assert np.array_equal(play(policy, recorded(runs[name])).bids, simulated)


def test_the_environment_sees_them_too(runs: dict[str, Run]) -> None:
    simulated, model = bids_of(runs["learned"]), shipped()
    source = Recorded(recorded(runs["learned"]))
    envs = gymnasium.make_vec(
        "bidtwin/Bidding-v0",
        num_envs=2,
        vectorization_mode="vector_entry_point",
        log=source,
        lp=programme(),
        action="residual",
    )
    observation, info = envs.reset(seed=1)
    for step in range(1, STEPS):
        assert np.array_equal(info["bid"], simulated[step - 1])
        residual = model.residual(observation.astype(np.float64))
        observation, _, terminated, _, info = envs.step(residual.astype(np.float32)[:, np.newaxis])
    assert terminated.all()
    assert np.array_equal(info["final_info"]["bid"], simulated[-1])
