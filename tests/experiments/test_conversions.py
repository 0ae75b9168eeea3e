"""What a file says of conversions: what is refused, and what becomes of the rest."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import yaml

from engine.errors import BadInput
from engine.events import CLICKS, CONVERSIONS, CONVERTING_CLICKS, fold
from engine.metrics import metrics
from engine.units import PPM
from experiments import build, worlds
from experiments.config import Conversions, SimulationConfig, load_config
from experiments.config.reading import table
from sim.delays import Law
from tests.experiments.test_config import TEXT
from tests.scenarios import config as small
from tests.scenarios import full_world

SPECS = """\
plain: {rate: 4%, delay_hours: 20, value_micros: 18_000_000, value_sigma: 0.6}
slow:
  rate: 2%
  delay: {lognormal: {median_hours: 6, sigma: 1.2}}
  per_click: 1.3
  value_micros: 0
  value_sigma: 0
shop:
  rate: 12%
  delay:
    mixture: [{share: 70%, exponential: {mean_hours: 2}}, {share: 30%, lognormal: {median_hours: 48, sigma: 0.8}}]
  prices: [{value_micros: 4_000_000, share: 75%}, {value_micros: 12_000_000, share: 25%}]
  refunds: {rate: 5%, delay_hours: 72}
"""
VALUE = "value_micros: 9, value_sigma: 0.5"
LATE = "must let half of the conversions come within the run's 71 hours: shorten it"


def configured(spec: str) -> dict[str, Any]:
    """The small configuration of three days, one of its campaigns with these conversions."""
    document: dict[str, Any] = yaml.safe_load(TEXT)
    document["campaigns"]["generic"]["conversions"] = yaml.safe_load(f"{{{spec}}}")
    return document


def read() -> dict[str, Conversions]:
    return {name: Conversions.model_validate(spec) for name, spec in table("conversions", SPECS).items()}


def test_conversions_arrive_as_columns() -> None:
    what = worlds._conversions(list(read().values()))
    assert {name: column.tolist() for name, column in vars(what).items() if name != "delays"} == {
        "rate": [0.04, 0.02, 0.12],
        "per_click": [1.0, 1.3, 1.0],
        "value_micros": [18_000_000.0, 0.0, 6_000_000.0],
        "value_sigma": [0.6, 0.0, 0.0],
        "price": [[1, 0], [1, 0], [4 / 6, 12 / 6]],
        "price_share": [[PPM, 0], [PPM, 0], [750_000, 250_000]],
        "refund_rate": [0.0, 0.0, 0.05],
        "refund_hours": [0.0, 0.0, 72.0],
    }
    assert {name: column.tolist() for name, column in vars(what.delays).items()} == {
        "share": [[PPM, 0], [PPM, 0], [700_000, 300_000]],
        "law": [[Law.EXPONENTIAL, 0], [Law.LOGNORMAL, 0], [Law.EXPONENTIAL, Law.LOGNORMAL]],
        "hours": [[20, 0], [6, 0], [2, 48]],
        "sigma": [[0, 0], [1.2, 0], [0, 0.8]],
    }


def test_what_a_file_said_before_is_what_it_says() -> None:
    what = worlds._conversions([read()["plain"]])
    assert np.array_equal(what.delays.mean_hours, [20.0])
    assert (what.price.tolist(), what.price_share.tolist()) == ([[1.0]], [[PPM]])


@pytest.mark.parametrize("name", ["plain", "slow", "shop"])
def test_conversions_load_and_survive_being_echoed(name: str) -> None:
    document: dict[str, Any] = yaml.safe_load(TEXT)
    document["campaigns"]["generic"]["conversions"] = yaml.safe_load(SPECS)[name]
    config = load_config(document)
    assert isinstance(config, SimulationConfig)
    assert config.campaigns["generic"].conversions == read()[name]
    assert load_config(json.loads(config.model_dump_json())) == config


def test_a_mixture_may_have_a_part_beyond_the_run() -> None:
    parts = "{share: 60%, exponential: {mean_hours: 2}}, {share: 40%, lognormal: {median_hours: 900, sigma: 1}}"
    load_config(configured(f"rate: 4%, delay: {{mixture: [{parts}]}}, {VALUE}"))


REFUSED = {
    "two delays": (
        f"rate: 4%, delay_hours: 6, delay: {{exponential: {{mean_hours: 6}}}}, {VALUE}",
        " must hold exactly one of delay_hours and delay: keep one",
    ),
    "no delay": (f"rate: 4%, {VALUE}", " must hold exactly one of delay_hours and delay: add one"),
    "a delay of two kinds": (
        f"rate: 4%, delay: {{exponential: {{mean_hours: 6}}, lognormal: {{median_hours: 6, sigma: 1}}}}, {VALUE}",
        ".delay must hold exactly one of exponential, lognormal and mixture: keep one",
    ),
    "a delay of no kind": (
        f"rate: 4%, delay: {{}}, {VALUE}",
        ".delay must hold exactly one of exponential, lognormal and mixture: add one",
    ),
    "an unknown kind": (
        f"rate: 4%, delay: {{log_normal: 6}}, {VALUE}",
        ".delay.log_normal (=6) is not a known key: did you mean 'lognormal'?",
    ),
    "the mean of a log-normal delay": (
        f"rate: 4%, delay: {{lognormal: {{mean_hours: 6, sigma: 1}}}}, {VALUE}",
        ".delay.lognormal.mean_hours (=6) is not a known key: did you mean 'median_hours'? (and 1 more)",
    ),
    "a mixture of nothing": (
        f"rate: 4%, delay: {{mixture: []}}, {VALUE}",
        ".delay.mixture (=[]) must hold at least 1: add one",
    ),
    "a part of no kind": (
        f"rate: 4%, delay: {{mixture: [{{share: 100%}}]}}, {VALUE}",
        ".delay.mixture[0] must hold exactly one of exponential and lognormal: add one",
    ),
    "a mixture of less than all": (
        f"rate: 4%, delay: {{mixture: [{{share: 90%, exponential: {{mean_hours: 2}}}}]}}, {VALUE}",
        ".delay.mixture must have shares that sum to 100%, not to 90%: change one of them",
    ),
    "a delay beyond its window": (f"rate: 4%, delay_hours: 110, {VALUE}", f".delay_hours (=110.0) {LATE}"),
    "a median beyond its window": (
        f"rate: 4%, delay: {{lognormal: {{median_hours: 71.5, sigma: 1}}}}, {VALUE}",
        f".delay {LATE}",
    ),
    "less than one conversion of a click that converts": (
        f"rate: 4%, delay_hours: 6, per_click: 0.5, {VALUE}",
        ".per_click (=0.5) must be >= 1.0: raise it",
    ),
    "two kinds of value": (
        f"rate: 4%, delay_hours: 6, {VALUE}, prices: [{{value_micros: 5, share: 100%}}]",
        " must hold exactly one of value_micros and prices: keep one (and 1 more)",
    ),
    "no value": (
        "rate: 4%, delay_hours: 6, value_sigma: 0.5",
        " must hold exactly one of value_micros and prices: add one",
    ),
    "a value without its spread": (
        "rate: 4%, delay_hours: 6, value_micros: 9",
        ".value_sigma is missing: add it, 0 for values that are all alike",
    ),
    "prices that vary": (
        "rate: 4%, delay_hours: 6, prices: [{value_micros: 5, share: 100%}], value_sigma: 0.5",
        ".value_sigma (=0.5) must be left out beside prices, which do not vary: remove it",
    ),
    "a price twice": (
        "rate: 4%, delay_hours: 6, prices: [{value_micros: 5, share: 50%}, {value_micros: 5, share: 50%}]",
        ".prices[1].value_micros (=5) must be a price of its own: remove it, and add its share to the other's",
    ),
    "prices of more than all": (
        "rate: 4%, delay_hours: 6, prices: [{value_micros: 5, share: 50%}, {value_micros: 6, share: 60%}]",
        ".prices must have shares that sum to 100%, not to 110%: change one of them",
    ),
    "refunds of more than all": (
        f"rate: 4%, delay_hours: 6, {VALUE}, refunds: {{rate: 500%, delay_hours: 72}}",
        ".refunds.rate (='500%') must be a ratio from 0 to 1: write 5% or 0.05",
    ),
}


@pytest.mark.parametrize(("spec", "sentence"), REFUSED.values(), ids=REFUSED.keys())
def test_conversions_that_contradict_themselves_are_refused_in_one_sentence(spec: str, sentence: str) -> None:
    with pytest.raises(BadInput) as refusal:
        load_config(configured(spec))
    assert str(refusal.value) == f"configuration: campaigns.generic.conversions{sentence}"


def test_a_click_that_converts_several_times_is_one_that_converts() -> None:
    document = small(record=["events"])
    for campaign in document["campaigns"].values():
        campaign["conversions"] |= {"rate": "80%", "per_click": 3, "delay_hours": 1}
    plan = build.simulation(load_config(document))
    batch = plan.source(np.arange(len(plan.campaigns))).advance(0, plan.grid.ticks, plan.controls)
    counts = batch.counts.values
    folded = fold(batch.events, plan.grid, 0, plan.grid.ticks, plan.campaigns.cells).values
    told = [CLICKS, CONVERSIONS, CONVERTING_CLICKS]
    assert np.array_equal(folded[:, :, told], counts[:, :, told])
    clicks, conversions, converting = counts[:, :, told].sum(axis=(0, 1))
    assert converting < clicks < conversions
    assert metrics(counts.sum(axis=(0, 1)))["cvr"].value == converting / clicks


@pytest.mark.parametrize("model", ["last_click", "linear", "position_based"])
def test_where_each_click_brings_one_conversion_at_most_those_booked_are_all_their_clicks_first(model: str) -> None:
    document = full_world(record=[], attribution={"model": model})
    document["troubles"] = []
    plan = build.simulation(load_config(document))
    counts = plan.source(np.arange(len(plan.campaigns))).advance(0, plan.grid.ticks, plan.controls).counts.values
    assert np.array_equal(counts[:, :, CONVERSIONS], counts[:, :, CONVERTING_CLICKS])
    assert counts[:, :, CONVERSIONS].sum() > 0
