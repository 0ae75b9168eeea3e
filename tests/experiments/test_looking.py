"""Prices are told where a policy looks at them, nowhere else, and a source that cannot tell them is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engine.errors import BadInput
from engine.runtime.plan import Plan
from experiments import api, build
from experiments.config import ReplayConfig, SimulationConfig
from experiments.looking import told_prices
from sim.twin import Twin
from tests.greedy import Greedy
from tests.lookers import LOOKER
from tests.scenarios import AUCTIONS, BINS, config, write_auctions, write_bins

LOOKING = LOOKER | {"campaigns": "all"}
GREEDY = {"policy": "tests.greedy:Greedy", "campaigns": "all", "clip": True}
BLIND = GREEDY | {"fallback": {"policy": "even_pi"}}


def simulated(**changes: Any) -> Plan:
    loaded = api.load(config(**changes))
    assert isinstance(loaded, SimulationConfig)
    return build.simulation(loaded)


def replayed(text: str, log: Path, **changes: Any) -> Plan:
    loaded = api.load(config(text, **changes))
    assert isinstance(loaded, ReplayConfig)
    return build.replay(loaded, log)[0]


def test_a_world_tells_prices_only_where_a_policy_looks_and_its_twin_never() -> None:
    for policies, told in (([LOOKING], True), ([BLIND, LOOKING], True), ([BLIND], False), ([], False)):
        plan = simulated(policies=policies)
        assert plan.source.tell_prices is told  # type: ignore[attr-defined]
        assert isinstance(plan.trial, Twin)
        assert not plan.trial.factory.tell_prices
    assert not simulated().source.tell_prices  # type: ignore[attr-defined]


def test_a_twin_tells_no_prices_even_of_a_world_that_does(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = simulated(policies=[LOOKING])
    made = []
    original = type(plan.source).__call__
    monkeypatch.setattr(type(plan.source), "__call__", lambda self, of: (made.append(self), original(self, of))[1])
    Twin(plan.source).spend(0, 0, 2, plan.controls)  # type: ignore[arg-type]
    assert [each.tell_prices for each in made] == [False]


def test_a_fallback_that_looks_counts_too() -> None:
    assert simulated(policies=[GREEDY]).source.tell_prices  # type: ignore[attr-defined]


def test_an_auction_log_tells_prices_where_a_policy_looks(tmp_path: Path) -> None:
    log = write_auctions(tmp_path / "auctions.txt")
    assert replayed(AUCTIONS, log, policies=[LOOKING]).source.tell_prices  # type: ignore[attr-defined]
    assert not replayed(AUCTIONS, log).source.tell_prices  # type: ignore[attr-defined]


def test_what_cannot_tell_is_refused(tmp_path: Path) -> None:
    must = "policy (=tests.lookers:Looker) must see the prices of single wins, which"
    with pytest.raises(BadInput) as refused:
        simulated(policies=[LOOKING], fidelity="aggregate", record=[])
    assert str(refused.value) == f"{must} fidelity (=aggregate) does not tell: choose the fidelity opportunity"
    with pytest.raises(BadInput) as refused:
        replayed(BINS, write_bins(tmp_path / "bins.csv"), policies=[LOOKING])
    assert str(refused.value) == f"{must} a log of intervals does not tell: replay a log of single auctions"
    looking = simulated(policies=[LOOKING]).assignments
    with pytest.raises(BadInput) as refused:
        told_prices(Greedy(), looking)
    assert str(refused.value) == f"{must} Greedy does not tell: choose a source of single auctions"
