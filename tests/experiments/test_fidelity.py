"""The choice of a simulation's fidelity: what is built of it, what is refused, and that a run of it is a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from engine.errors import BadInput
from engine.events import IMPRESSIONS, OPPORTUNITIES
from engine.runtime.local import LocalRunner
from engine.runtime.plan import Plan
from experiments import build
from experiments.benchmarks import aggregate, run_benchmarks
from experiments.config import SimulationConfig, load_config
from sim.aggregate import AggregateWorldFactory
from sim.twin import Twin
from sim.world import WorldFactory
from tests.scenarios import config


def planned(**changes: object) -> Plan:
    loaded = load_config(config() | {"record": []} | changes)
    assert isinstance(loaded, SimulationConfig)
    return build.simulation(loaded)


def test_single_opportunities_are_the_default_and_the_choice_is_written_down() -> None:
    kinds = {}
    for name, plan in (("none", planned()), ("aggregate", planned(fidelity="aggregate"))):
        assert isinstance(plan.trial, Twin)
        assert plan.trial.factory is plan.source
        kinds[name] = type(plan.source), plan.header["config"]["fidelity"]
    assert kinds == {
        "none": (WorldFactory, "opportunity"),
        "aggregate": (AggregateWorldFactory, "aggregate"),
    }


def test_a_run_of_counts_gives_the_same_for_any_number_of_shards(tmp_path: Path) -> None:
    told = []
    for shards in (1, 2):
        folder = tmp_path / str(shards)
        folder.mkdir()
        outcome = LocalRunner(shards=shards).run(planned(fidelity="aggregate"), folder)
        told.append((outcome.metrics_digest, outcome.ledger_digest, outcome.totals.as_dict()))
    assert told[0] == told[1]
    assert told[0][2]["impressions"] > 0


def test_both_fidelities_bring_about_the_same() -> None:
    """Opportunities of 40 hours within 6 standard errors, taken as Poisson."""
    plans = [planned(fidelity=fidelity) for fidelity in ("aggregate", "opportunity")]
    drawn, held = (
        plan.source(np.arange(len(plan.campaigns))).advance(0, 40, plan.controls).counts.values.sum(axis=(0, 1))
        for plan in plans
    )
    assert drawn[0] == pytest.approx(held[0], abs=6 * (2 * held[0]) ** 0.5)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"fidelity": "aggregate", "record": ["events"]},
            "record (=['events']) must be empty beside 'fidelity: aggregate', which draws counts alone: "
            "remove one of the two",
        ),
        (
            {"fidelity": "agregate"},
            "fidelity (='agregate') must be 'opportunity' or 'aggregate': did you mean 'aggregate'?",
        ),
    ],
)
def test_what_cannot_be_is_told_in_a_sentence(changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(BadInput) as caught:
        load_config(config() | changes)
    assert sentence in str(caught.value)


def test_the_benchmark_runs_small() -> None:
    (row,) = run_benchmarks("aggregate", small=True)
    assert (row["name"], row["unit"], row["baseline"]) == ("aggregate", "campaign-ticks/s", "single auctions")
    assert row["ratio"] == row["rate"] / row["baseline_rate"] > 0


def test_both_sides_of_the_benchmark_live_the_same_account() -> None:
    drawn, held = (
        factory(np.arange(len(factory.campaigns))).advance(0, 2, controls).counts.values.sum(axis=(0, 1))
        for factory, controls in (aggregate.world(2, aggregate=each) for each in (True, False))
    )
    assert held[OPPORTUNITIES] > 90_000
    for column, surplus in ((OPPORTUNITIES, 0.0), (IMPRESSIONS, 0.2)):  # others reach at most a fifth of the auctions
        noise = 5 * (2 * held[column]) ** 0.5
        assert held[column] - noise < drawn[column] < held[column] * (1 + surplus) + noise


@pytest.mark.parametrize(
    ("attribution", "search", "said"),
    [
        ({"model": "linear"}, {}, "attribution must be left out"),
        (None, {"auction": "gsp", "slots": [1.0, 0.5]}, "markets.search.slots (=[1.0, 0.5]) must be one"),
    ],
)
def test_what_needs_single_events_is_refused_where_counts_are_drawn(
    attribution: object, search: dict[str, object], said: str
) -> None:
    given = config() | {"fidelity": "aggregate", "record": [], "attribution": attribution}
    given["markets"] = {name: market | {"people": 5_000} for name, market in given["markets"].items()}
    given["markets"]["search"] |= search
    with pytest.raises(BadInput) as caught:
        load_config(given)
    remedy = "beside 'fidelity: aggregate', which draws counts alone: remove one of the two"
    assert str(caught.value) == f"configuration: {said} {remedy}"
